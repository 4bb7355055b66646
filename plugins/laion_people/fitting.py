"""Finding clusters: how many, where their centres are, how good they are, and ids that stay the same.

The methods and their sources are in docs/clustering.md.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from laion_people.clusters import Cluster, Fit, Kind, Space

MAX_CLUSTERS = 256
MIN_SIZE = 2  # people a cluster, on average and at least
ENOUGH = 0.95  # share of people within the tolerance of their cluster's centre: no more clusters are needed
LOOK = 5000  # people whom the search for the number of clusters and the measures of quality look at
MINI_BATCH = 20_000  # people from which k-means works in batches
NEAR, FAR = 0.5, 0.95  # quantiles of the distances within clusters
NEAREST, FARTHEST = 0.75, 2.5  # in tolerances: near is never more, far is never less


def fit_kind(
    name: str, space: Space, features: np.ndarray, ids: Sequence[str], k: int, seed: int, previous: Fit | None
) -> tuple[Kind, np.ndarray]:
    """The clusters of one kind, and each person's index among them, int [people], -1 for none.

    features: float32 [people, d] of the fit's sample, ids: their person ids. Whole and upper bodies are clustered
    apart, on the people who show all of it. ``k``: clusters in all; 0: the fewest that bring 19 of 20 people within
    the space's tolerance of their cluster's centre. Clusters that ``previous`` has keep its ids.
    """
    shown = space.part(features)
    centres: list[Cluster] = []
    parts: dict[str, Any] = {}
    for part in sorted(set(shown) - {""}, reverse=True):
        people = features[shown == part]
        used = ~np.isnan(people).all(axis=0)
        complete = people[~np.isnan(people[:, used]).any(axis=1)]
        if len(complete):
            share = max(1, round(k * len(people) / (shown != "").sum())) if k else 0
            found, parts[part] = _fit_part(space, complete, share, seed)
            centres += [Cluster("", part, 0, "", centre) for centre in found]
    labels, distances = Kind(space, tuple(centres), 0, 0).nearest(features)
    sizes = np.bincount(labels[labels >= 0], minlength=len(centres))
    clusters, lineage = _named(name, space, centres, sizes, previous)
    labels, distances = Kind(space, clusters, 0, 0).nearest(features)
    described = []
    for index, cluster in enumerate(clusters):
        members = np.flatnonzero(labels == index)
        described.append(
            dataclasses.replace(
                cluster,
                size=len(members),
                medoid_person_id=ids[members[distances[members].argmin()]],
            )
        )
    near, far = _bounds(space, features, labels, seed)
    histogram = Counter(1 << len(f"{c.size:b}") - 1 for c in described)
    summary = {
        "tolerance": space.tolerance,
        "parts": parts,
        "clusters_by_size": {f"{n} to {2 * n - 1}": histogram[n] for n in sorted(histogram)},
        **lineage,
    }
    return Kind(space, tuple(described), near, far, summary), labels


def embed(space: Space, features: np.ndarray) -> np.ndarray:
    """Points [people, e] in which a person and her mirror image coincide, for features without NaN in used columns.

    Features split into a part s that a mirror keeps and a part a whose sign it turns. The map (s, a) -> (s, a aT / |a|)
    forgets the sign and keeps distances to within a factor of the square root of two (Balan and Zou 2016,
    arXiv:1506.02092), so that plain k-means can be used.
    """
    used = np.flatnonzero(~np.isnan(features[0]))
    mirror = np.zeros((features.shape[1],) * 2)
    mirror[np.arange(len(mirror)), space.order] = space.sign
    values, vectors = np.linalg.eigh(mirror[np.ix_(used, used)])
    points = features[:, used].astype(np.float64) * space.scale / len(used) ** 0.5
    kept, turned = points @ vectors[:, values > 0], points @ vectors[:, values < 0]
    rows, columns = np.triu_indices(turned.shape[1])
    weights = np.where(rows == columns, 1, 2**0.5)
    size = np.maximum(np.linalg.norm(turned, axis=1, keepdims=True), 1e-9)
    return np.concatenate([kept, turned[:, rows] * turned[:, columns] * weights / size], axis=1)


def _fit_part(space: Space, features: np.ndarray, k: int, seed: int) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Centres, and how they were found and how good they are."""
    from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score, silhouette_score

    points = embed(space, features)
    look = np.random.default_rng(seed).permutation(len(points))[:LOOK]
    curve = [] if k else _curve(points[look], space.tolerance, seed)
    k = min(k, len(points)) or curve[-1]["k"]
    labels, other = _k_means(points, k, seed)[0], _k_means(points, k, seed + 1)[0]
    sortable = 1 < len(set(labels[look])) < len(look)
    report = {
        "people": len(features),
        "k": k,
        "curve": curve,
        "silhouette": float(silhouette_score(points[look], labels[look])) if sortable else None,
        "two_seeds": {
            "adjusted_rand": float(adjusted_rand_score(labels, other)),
            "adjusted_mutual_information": float(adjusted_mutual_info_score(labels, other)),
        },
    }
    return [_centre(space, features[labels == label]) for label in sorted(set(labels))], report


def _curve(points: np.ndarray, tolerance: float, seed: int) -> list[dict[str, Any]]:
    """Numbers of clusters, growing by a fifth, up to the first with ``ENOUGH`` people near their centre."""
    most = max(1, min(MAX_CLUSTERS, len(points) // MIN_SIZE))
    curve: list[dict[str, Any]] = []
    k = 1
    while not curve or (curve[-1]["near_centre"] < ENOUGH and curve[-1]["k"] < most):
        _, distances = _k_means(points, k, seed)
        near, inertia = float((distances <= tolerance).mean()), float((distances**2).mean())
        curve.append({"k": k, "near_centre": near, "inertia": inertia})
        k = min(max(k + 1, round(1.2 * k)), most)
    return curve


def _k_means(points: np.ndarray, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and distances to the centres."""
    from sklearn.cluster import KMeans, MiniBatchKMeans

    method = KMeans if len(points) < MINI_BATCH else MiniBatchKMeans
    model = method(k, n_init=4, random_state=seed).fit(points)
    return model.labels_, np.linalg.norm(points - model.cluster_centers_[model.labels_], axis=1)


def _centre(space: Space, members: np.ndarray) -> np.ndarray:
    """The mean of people [n, d], mirrored where that brings them closer to it (Procrustes over the two images)."""
    centre = members[0]
    for _ in range(3):
        turned = space.mirrored(members)
        direct, mirrored = (np.nansum((people - centre) ** 2, axis=1) for people in (members, turned))
        centre = np.where((direct <= mirrored)[:, None], members, turned).mean(axis=0)
    return centre.astype(np.float32)


def _named(
    kind: str, space: Space, centres: list[Cluster], sizes: np.ndarray, previous: Fit | None
) -> tuple[tuple[Cluster, ...], dict[str, Any]]:
    """The clusters that have people, with ids and in their order; and which ids of ``previous`` they go on from.

    Old and new centres are paired so that the sum of distances is smallest (Hungarian method); a pair further apart
    than the tolerance is no pair. Ids are never used twice.
    """
    from scipy.optimize import linear_sum_assignment

    old = previous.kinds[kind] if previous else Kind(space, (), 0, 0)
    order = [int(i) for i in np.argsort(-sizes, kind="stable") if sizes[i]]
    ids: dict[int, str] = {}
    if old.clusters:
        cost = np.array([_apart(space, centres[i], c) for i in order for c in old.clusters])
        cost = cost.reshape(len(order), len(old.clusters))  # a matrix without rows, too
        for row, column in zip(*linear_sum_assignment(cost), strict=True):
            if cost[row, column] <= space.tolerance:
                ids[order[row]] = old.clusters[column].cluster_id
    next_number = old.summary.get("next_number", 1)
    for i in order:
        if i not in ids:
            ids[i] = f"{kind}-{next_number:04d}"
            next_number += 1
    lineage = {"next_number": next_number, "previous": None}
    if previous:
        kept = set(ids.values())
        ids_map = {c.cluster_id: c.cluster_id if c.cluster_id in kept else None for c in old.clusters}
        lineage["previous"] = {"version": previous.version, "map": ids_map}
    clusters = sorted((dataclasses.replace(centres[i], cluster_id=ids[i]) for i in order), key=lambda c: c.cluster_id)
    return tuple(clusters), lineage


def _apart(space: Space, cluster: Cluster, other: Cluster) -> float:
    """Distance between two centres; of different parts of the body, out of reach."""
    if cluster.part != other.part:
        return 1e6
    return float(space.distances(cluster.centroid, other.centroid))


def _bounds(space: Space, features: np.ndarray, labels: np.ndarray, seed: int) -> tuple[float, float]:
    """near: the median distance of two people of one cluster; far: what few of them reach."""
    order = np.random.default_rng(seed).permutation(len(features))[:LOOK]
    within = []
    for label in sorted(set(labels[order]) - {-1}):
        members = features[order[labels[order] == label][:100]]
        first, second = np.triu_indices(len(members), 1)
        within.append(space.distances(members[first], members[second]))
    distances = np.concatenate([*within, [space.tolerance]])  # one, so that there is something to go by
    near = np.clip(np.quantile(distances, NEAR), space.tolerance / 2, NEAREST * space.tolerance)
    return float(near), max(float(np.quantile(distances, FAR)), FARTHEST * space.tolerance)
