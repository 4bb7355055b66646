"""Finds clusters: how many, where their centres are, how good they are, and ids that stay the same.

The methods and their sources are in docs/clustering.md.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from laion_people.language.facts import VALUES
from laion_people.language.factsets import fact_sets
from laion_people.steps.cluster.clusters import BLOCK, Cluster, ClusterSet, FeatureSpace, Fit

MAX_CLUSTERS = 256
AVERAGE = 10  # people a cluster: at least this on average, half of it in each; less if there are few people
ENOUGH = 0.95  # no more clusters are needed when this share of people is near to their cluster's centre
AIM = 0.75  # how near that is, in tolerances: at 1, a cluster could hold two poses at its rims
LEAST_FACT_SETS = 2  # of a cluster: with one, its captions would differ in words only
SUBSAMPLE = 5000  # people used to find the number of clusters and to measure quality
SETTLE = MINI_BATCH = 20_000  # people on whom centres settle; with this many, k-means works in batches
_FAR = 1e6  # larger than any distance
ROUNDS = 10  # of settling centres, at most; few people move after five


def fit_cluster_set(
    name: str,
    space: FeatureSpace,
    features: np.ndarray,
    ids: Sequence[str],
    k: int,
    seed: int,
    previous: Fit | None,
    facts: Sequence[Mapping[str, str]] | None = None,
) -> tuple[ClusterSet, np.ndarray]:
    """The clusters of one feature space, and each person's index among them, int [people], -1 for none.

    features: float32 [people, d] of the fit's sample; ids: their person ids. Parts of the body are clustered one by
    one, the fullest first, each on the people who show all of it and are near to no cluster of a fuller part. ``k``:
    clusters in all; 0: the fewest that bring 19 of 20 people within the space's tolerance of their cluster's centre, as
    long as clusters have enough people (``AVERAGE``). Clusters that ``previous`` has keep its ids. ``facts``: those of
    each person. With them, clusters get fact sets, and a cluster with fewer than ``LEAST_FACT_SETS`` is dropped;
    without, no cluster has any.
    """
    of_kind = facts and [{fact: value for fact, value in person.items() if fact in VALUES[name]} for person in facts]
    shown = space.part(features)
    average = min(AVERAGE, (shown != "").sum() ** 0.5 / 2) if not k else 0
    remaining = np.ones(len(features), bool)
    centres: list[Cluster] = []
    parts: dict[str, Any] = {}
    for part, compared in space.parts.items():
        people = _complete_people(space, features[remaining & space.shows(features, part)], compared)
        share = round(k * (shown == part).sum() / max((shown != "").sum(), 1))
        if not len(people) or (k and not (shown == part).any()):
            continue
        part_centres, parts[part] = _fit_part(space, people, max(1, share) if k else 0, average, seed)
        part_clusters = tuple(Cluster("", part, 0, "", centre) for centre in part_centres)
        remaining &= ClusterSet(space, part_clusters, 0, 0).nearest(features)[0] < 0
        centres += part_clusters
    centres, sizes = _with_enough_people(space, centres, features, max(1, math.ceil(average / 2)), of_kind)
    clusters, lineage = _assign_ids(name, space, centres, sizes, previous)
    labels, distances = ClusterSet(space, clusters, 0, 0).nearest(features)
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
    histogram = Counter(1 << len(f"{c.size:b}") - 1 for c in described)
    summary = {
        "people": {part: int((shown == part).sum()) for part in space.parts},
        "clustered": float((labels >= 0).sum() / max((shown != "").sum(), 1)),
        "parts": parts,
        "clusters_by_size": {f"{n} to {2 * n - 1}": histogram[n] for n in sorted(histogram)},
        **lineage,
    }
    return ClusterSet(space, tuple(described), space.near, space.far, summary), labels


def _with_enough_people(
    space: FeatureSpace,
    clusters: list[Cluster],
    features: np.ndarray,
    least: int,
    facts: Sequence[Mapping[str, str]] | None,
) -> tuple[list[Cluster], np.ndarray]:
    """The clusters with at least ``least`` people, and how many each has: a person who shows both arms counts in one
    cluster only. With ``facts``, clusters get what their people have in common."""
    while True:
        labels, _ = ClusterSet(space, tuple(clusters), 0, 0).nearest(features)
        sizes = np.bincount(labels[labels >= 0], minlength=len(clusters))
        gone = _smallest_half(sizes, least)
        if not gone and facts is not None:
            members = ([facts[i] for i in np.flatnonzero(labels == index)] for index in range(len(clusters)))
            clusters = [
                dataclasses.replace(cluster, fact_sets=fact_sets(people))
                for cluster, people in zip(clusters, members, strict=True)
            ]
            gone = {index for index, cluster in enumerate(clusters) if len(cluster.fact_sets) < LEAST_FACT_SETS}
        if not gone:
            return clusters, sizes
        clusters = [cluster for index, cluster in enumerate(clusters) if index not in gone]


def _smallest_half(sizes: np.ndarray, least: int) -> set[int]:
    """The smaller half of the clusters with fewer than ``least`` people: without them, the others may have enough."""
    small = np.flatnonzero(sizes < least)
    return set(small[np.argsort(sizes[small], kind="stable")][: -(-len(small) // 2)].tolist())


def _complete_people(space: FeatureSpace, features: np.ndarray, compared: np.ndarray) -> np.ndarray:
    """The features of people who show all of ``compared``, other features NaN; right arms become left ones."""
    images = [features] if (compared == compared[space.order]).all() else [features, space.mirrored(features)]
    people = np.concatenate([image[np.isfinite(image[:, compared]).all(axis=1)] for image in images])
    return np.where(compared, people, np.nan)


def embed(space: FeatureSpace, features: np.ndarray) -> np.ndarray:
    """Points [people, e] that are the same for a person and the mirror image; used columns must have no NaN.

    A mirror keeps one part of the features, s, and changes the sign of the other, a. The map (s, a) -> (s, a aT / |a|)
    forgets the sign and keeps distances to within a factor of the square root of two (Balan and Zou 2016,
    arXiv:1506.02092), so that plain k-means can be used.
    """
    used = np.flatnonzero(~np.isnan(features[0]))
    points = features[:, used].astype(np.float64) * space.scale / len(used) ** 0.5
    if set(space.order[used]) != set(used):  # one arm: all show the same side
        return points
    mirror = np.zeros((features.shape[1],) * 2)
    mirror[np.arange(len(mirror)), space.order] = space.sign
    values, vectors = np.linalg.eigh(mirror[np.ix_(used, used)])
    kept, turned = points @ vectors[:, values > 0], points @ vectors[:, values < 0]
    rows, columns = np.triu_indices(turned.shape[1])
    weights = np.where(rows == columns, 1, 2**0.5)
    size = np.maximum(np.linalg.norm(turned, axis=1, keepdims=True), 1e-9)
    return np.concatenate([kept, turned[:, rows] * turned[:, columns] * weights / size], axis=1)


def _fit_part(
    space: FeatureSpace, features: np.ndarray, k: int, average: float, seed: int
) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Centres, and a report on how they were found and how good they are."""
    from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score, silhouette_score

    points = embed(space, features)
    order = np.random.default_rng(seed).permutation(len(points))
    settle, subsample = order[:SETTLE], order[:SUBSAMPLE]
    curve = [] if k else _curve(points[subsample], AIM * space.tolerance, average, seed)
    k = min(k, len(points)) or curve[-1]["k"]
    least = math.ceil(average / 2)
    centres, labels = _settle_centres(space, features[settle], _k_means(points, k, seed)[0][settle], least)
    _, other_labels = _settle_centres(space, features[subsample], _k_means(points, k, seed + 1)[0][subsample], least)
    within = float((labels >= 0).mean())
    labels = labels[: len(subsample)]
    members = labels >= 0
    sortable = 1 < len(set(labels[members])) < members.sum()
    report = {
        "people": len(features),
        "k": len(centres),
        "within_tolerance": within,
        "curve": curve,
        "silhouette": float(silhouette_score(points[subsample[members]], labels[members])) if sortable else None,
        "two_seeds": {
            "adjusted_rand": float(adjusted_rand_score(labels, other_labels)),
            "adjusted_mutual_information": float(adjusted_mutual_info_score(labels, other_labels)),
        },
    }
    return centres, report


def _settle_centres(
    space: FeatureSpace, features: np.ndarray, labels: np.ndarray, least: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """Centres, and the members of each: k-means that outliers don't pull (trimmed k-means).

    Starts from the ``labels`` of k-means. People farther than the tolerance from all centres belong to none (-1).
    Centres with fewer than ``least`` people are dropped.
    """
    members = labels
    for _ in range(ROUNDS):
        centres = [_centre(space, features[members == label]) for label in np.unique(members[members >= 0])]
        sizes, members = _assign_members(space, features, centres)
        if gone := _smallest_half(sizes, least):
            centres = [centre for index, centre in enumerate(centres) if index not in gone]
            _, members = _assign_members(space, features, centres)
        elif (members == labels).all():
            break
        labels = members
    return centres, members


def _assign_members(
    space: FeatureSpace, features: np.ndarray, centres: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """How many people each centre has, and the centre of each person: -1 if none is within the tolerance."""
    members = np.full(len(features), -1)
    if centres:
        for block in np.split(np.arange(len(features)), range(BLOCK, len(features), BLOCK)):
            distances = space.to_centres(features[block], np.stack(centres))
            members[block] = np.where(distances.min(axis=1) <= space.tolerance, distances.argmin(axis=1), -1)
    return np.bincount(members[members >= 0], minlength=len(centres)), members


def _curve(points: np.ndarray, near: float, average: float, seed: int) -> list[dict[str, Any]]:
    """Tries numbers of clusters, growing by a fifth, until ``ENOUGH`` people are near their centre."""
    most = max(1, min(MAX_CLUSTERS, int(len(points) / max(average, 1))))
    curve: list[dict[str, Any]] = []
    k = 1
    while not curve or (curve[-1]["near_centre"] < ENOUGH and curve[-1]["k"] < most):
        _, distances = _k_means(points, k, seed, tries=1)
        curve.append(
            {"k": k, "near_centre": float((distances <= near).mean()), "inertia": float((distances**2).mean())}
        )
        k = min(max(k + 1, round(1.2 * k)), most)
    return curve


def _k_means(points: np.ndarray, k: int, seed: int, tries: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and the distance of each person to their centre."""
    from sklearn.cluster import KMeans, MiniBatchKMeans

    method = KMeans if len(points) < MINI_BATCH else MiniBatchKMeans
    model = method(k, n_init=tries, random_state=seed).fit(points)
    return model.labels_, np.linalg.norm(points - model.cluster_centers_[model.labels_], axis=1)


def _centre(space: FeatureSpace, members: np.ndarray) -> np.ndarray:
    """The mean of people [n, d]; each is mirrored if that is closer to it (Procrustes over the two images)."""
    centre = members[0]
    turned = space.mirrored(members)
    if (np.isnan(turned) != np.isnan(members)).any():  # one arm: all show the same side
        turned = members
    for _ in range(3):
        direct, mirrored = (np.nansum((people - centre) ** 2, axis=1) for people in (members, turned))
        centre = np.where((direct <= mirrored)[:, None], members, turned).mean(axis=0)
    return centre.astype(np.float32)


def _assign_ids(
    name: str, space: FeatureSpace, centres: list[Cluster], sizes: np.ndarray, previous: Fit | None
) -> tuple[tuple[Cluster, ...], dict[str, Any]]:
    """The clusters that have people, with ids and sorted by them; and which ids of ``previous`` live on.

    Old and new centres are paired so that the sum of distances is smallest (Hungarian method). Pairs farther apart
    than the tolerance don't count. Ids are never used twice.
    """
    from scipy.optimize import linear_sum_assignment

    old = previous.cluster_sets[name] if previous else ClusterSet(space, (), 0, 0)
    order = [int(i) for i in np.argsort(-sizes, kind="stable") if sizes[i]]
    ids: dict[int, str] = {}
    if old.clusters and order:
        cost = _centre_distances(space, [centres[i] for i in order], old.clusters)
        for row, column in zip(*linear_sum_assignment(cost), strict=True):
            if cost[row, column] <= space.tolerance:
                ids[order[row]] = old.clusters[column].cluster_id
    next_number = old.summary.get("next_number", 1)
    for i in order:
        if i not in ids:
            ids[i] = f"{name}-{next_number:04d}"
            next_number += 1
    lineage = {"next_number": next_number, "previous": None}
    if previous:
        kept = set(ids.values())
        ids_map = {c.cluster_id: c.cluster_id if c.cluster_id in kept else None for c in old.clusters}
        lineage["previous"] = {"version": previous.version, "map": ids_map}
    clusters = sorted((dataclasses.replace(centres[i], cluster_id=ids[i]) for i in order), key=lambda c: c.cluster_id)
    return tuple(clusters), lineage


def _centre_distances(space: FeatureSpace, clusters: Sequence[Cluster], others: Sequence[Cluster]) -> np.ndarray:
    """Distances between centres [clusters, others]; ``_FAR`` between different parts of the body."""
    distances = space.to_centres(*(np.stack([c.centroid for c in side]) for side in (clusters, others)))
    same = np.equal.outer([c.part for c in clusters], [c.part for c in others])
    return np.where(same, np.minimum(distances, _FAR), _FAR)
