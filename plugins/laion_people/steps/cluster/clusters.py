"""A cluster version: the features of people, the distances between them, and the nearest cluster.

``load_fit(store.read("clusters/v0001/fit.json"))`` gives a `Fit`. Its cluster sets work on a shard's tables::

    poses = fit.cluster_sets["pose"]               # or "face", "head"
    features = poses.features(pose, mesh)          # float32 [people, d]; NaN where a person does not show a part
    poses.distances(features[3], features)         # float32 [people]; NaN where the two show nothing in common
    clusters, distances = poses.nearest(features)  # indices of poses.clusters; -1: none is near, or too little is seen
    poses.near, poses.far                          # closer than near: alike; farther than far: clearly different
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from laion_people.errors import LaionPeopleError
from laion_people.language.factsets import FactSet
from laion_people.storage.layout import RELEASE_FILES, cluster_path
from laion_people.storage.store import Store
from laion_people.vision import geometry
from laion_people.vision.people import matrix

BLOCK = 4096  # people at a time: their distances to all clusters are in memory
SHOWN = 0.75  # a person is compared by a part of the body if this share of its limbs is seen


@dataclass(frozen=True, slots=True)
class FeatureSpace:
    """What the clusters of one set compare: columns, names of features, and what a mirror does to the features.

    ``extract`` turns the pose and mesh tables of one shard into float32 [people, d], NaN where a part is not seen. A
    mirrored person has feature ``order[i]`` times ``sign[i]`` at place i. ``scale`` turns a root mean square of
    feature differences into a distance. People nearer to a cluster's centre than ``tolerance`` are like it. Two people
    nearer than ``near`` are surely alike; farther apart than ``far``, they are surely different. ``parts``: the parts
    of the body that clusters can compare, the fullest first, with their features as bool [d].
    """

    names: tuple[str, ...]
    order: np.ndarray
    sign: np.ndarray
    scale: float
    tolerance: float
    near: float
    far: float
    pose_columns: tuple[str, ...]
    mesh_columns: tuple[str, ...]
    extract: Callable[[pa.Table, pa.Table], np.ndarray]
    parts: Mapping[str, np.ndarray]

    def mirrored(self, features: np.ndarray) -> np.ndarray:
        """The features of the mirror images."""
        return features[..., self.order] * self.sign

    def shows(self, features: np.ndarray, part: str) -> np.ndarray:
        """Whether each person, or their mirror image, shows enough of a part: bool [people]."""
        seen, compared = np.isfinite(features), self.parts[part]
        share = np.maximum(seen[:, compared].mean(1), seen[:, self.order][:, compared].mean(1))
        return share >= SHOWN

    def part(self, features: np.ndarray) -> np.ndarray:
        """The fullest part that each person shows, "" for none: str [people]."""
        return np.select([self.shows(features, part) for part in self.parts], list(self.parts), "")

    def to_centres(self, features: np.ndarray, centres: np.ndarray) -> np.ndarray:
        """Distances of people [people, d] to all centres [k, d], by the features of the centres: float64 [people, k].

        As `distances`, but infinite where less than ``SHOWN`` of these is seen: one limb makes nobody near.
        """
        known = ~np.isnan(centres)
        centres = np.where(known, centres, 0).astype(np.float64)
        squares = np.full((len(features), len(centres)), np.inf)
        for people in (features, self.mirrored(features)):
            seen = np.isfinite(people)
            people = np.where(seen, people, 0).astype(np.float64)
            count = seen.astype(np.float64) @ known.T
            square = people**2 @ known.T - 2 * people @ centres.T + seen @ (centres**2).T
            square = np.maximum(square, 0) / np.maximum(count, 1)
            squares = np.minimum(squares, np.where(count >= SHOWN * known.sum(1), square, np.inf))
        return self.scale * np.sqrt(squares)

    def distances(self, features: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Distances between features [..., d] that broadcast, float32; the smaller one of the two mirror images.

        Only what both show of the fullest part counts (partial distances; Dixon 1979, doi:10.1109/TSMC.1979.4310090).
        NaN if that is nothing.
        """
        fullest = next(iter(self.parts.values()))
        direct = _mean_square((features - others)[..., fullest])
        mirrored = _mean_square((self.mirrored(features) - others)[..., fullest])
        return (self.scale * np.sqrt(np.minimum(direct, mirrored))).astype(np.float32)


def _mean_square(differences: np.ndarray) -> np.ndarray:
    seen = ~np.isnan(differences)
    total = np.where(seen, differences, 0.0)
    count = seen.sum(-1)
    return np.where(count > 0, np.einsum("...d,...d->...", total, total) / np.maximum(count, 1), np.nan)


def _pose_features(pose: pa.Table, mesh: pa.Table) -> np.ndarray:
    keypoints = matrix(pose["keypoints"], 51).reshape(-1, 17, 3)
    world = matrix(pose["world_landmarks"], 99).reshape(-1, 33, 3)
    limbs = geometry.limb_directions(keypoints, world)
    limbs[~_both_seen(limbs, geometry.LEG_LIMBS), geometry.LEG_LIMBS] = np.nan  # half a leg does not make a pose
    features = np.concatenate([limbs, geometry.facing(keypoints, world)[:, None]], axis=1)
    return features.reshape(len(features), len(_POSE_NAMES))


def _both_seen(limbs: np.ndarray, pair: slice) -> np.ndarray:
    """Whether both arms or legs are seen; one forearm or shin may be missing. ``pair``: two upper limbs, two lower."""
    seen = ~np.isnan(limbs[:, pair, 0])
    return seen[:, :2].all(axis=1) & seen[:, 2:].any(axis=1)


def _face_features(pose: pa.Table, mesh: pa.Table) -> np.ndarray:
    landmarks = matrix(mesh["face_landmarks"], 3 * 478).reshape(-1, 478, 3)
    features = geometry.expressions(matrix(mesh["blendshapes"], 52), landmarks)
    yaw, pitch = (np.asarray(mesh[f"head_{name}"], np.float64) for name in ("yaw", "pitch"))
    features[~((abs(yaw) <= geometry.MAX_YAW) & (abs(pitch - geometry.LEVEL) <= geometry.MAX_NOD))] = np.nan
    return _drop_uncertain(mesh, features)


def _head_features(pose: pa.Table, mesh: pa.Table) -> np.ndarray:
    angles = [np.asarray(mesh[f"head_{name}"], np.float64) for name in ("yaw", "pitch", "roll")]
    return _drop_uncertain(mesh, np.radians(np.stack(angles, axis=1)).astype(np.float32))


def _drop_uncertain(mesh: pa.Table, features: np.ndarray) -> np.ndarray:
    """Sets features to NaN where the mesh is not reliable."""
    features[~(np.asarray(mesh["face_score"], np.float32) >= geometry.MIN_FACE_SCORE)] = np.nan
    return features


def _mirrored_order(names: tuple[str, ...]) -> np.ndarray:
    """For each feature, the index of the same feature of the other side."""
    swapped = [n.replace("Left", "*").replace("Right", "Left").replace("*", "Right") for n in names]
    return np.array([names.index(name) for name in swapped])


def _limb_features(*wanted: int) -> np.ndarray:
    """The features of some of the ``LIMBS``; 9 is where the shoulders face: bool [30]."""
    return np.repeat(np.isin(np.arange(len(geometry.LIMBS) + 1), wanted), 3)


_POSE_NAMES = tuple(f"{limb}_{axis}" for limb in (*geometry.LIMBS, "facing") for axis in ("left", "up", "forward"))
FEATURE_SPACES: dict[str, FeatureSpace] = {
    "pose": FeatureSpace(
        names=_POSE_NAMES,
        order=np.array([3 * limb + axis for limb in (*geometry.MIRRORED_LIMBS, 9) for axis in range(3)]),
        sign=np.tile(np.array([-1.0, 1, 1], np.float32), len(geometry.LIMBS) + 1),
        tolerance=0.4,  # limbs differ by 23 degrees: half of the 45 between two of the eight compass directions
        near=0.225,
        far=0.75,
        scale=3**0.5,  # root mean square over limbs, each of which has three features
        pose_columns=("keypoints", "world_landmarks"),
        mesh_columns=(),
        extract=_pose_features,
        parts={
            "whole body": _limb_features(*range(9)),
            "upper body": _limb_features(*range(5)),
            "one arm": _limb_features(0, 1, 3),
            "legs": _limb_features(0, 5, 6, 7, 8),
            "shoulders": _limb_features(9),
        },
    ),
    "face": FeatureSpace(
        names=geometry.EXPRESSIONS,
        order=_mirrored_order(geometry.EXPRESSIONS),
        sign=np.ones(len(geometry.EXPRESSIONS), np.float32),
        tolerance=1.0,  # half of a broad smile or a wide open mouth
        near=0.7,
        far=2.5,
        scale=len(geometry.EXPRESSIONS) ** 0.5,
        pose_columns=(),
        mesh_columns=("blendshapes", "face_landmarks", "head_yaw", "head_pitch", "face_score"),
        extract=_face_features,
        parts={"face": np.ones(len(geometry.EXPRESSIONS), bool)},
    ),
    "head": FeatureSpace(
        names=("yaw", "pitch", "roll"),
        order=np.arange(3),  # where a head points in the picture is not the same in the mirror
        sign=np.ones(3, np.float32),
        tolerance=0.25,  # 14 degrees
        near=0.15,
        far=0.625,
        scale=3**0.5,
        pose_columns=(),
        mesh_columns=("head_yaw", "head_pitch", "head_roll", "face_score"),
        extract=_head_features,
        parts={"face": np.ones(3, bool)},
    ),
}


@dataclass(frozen=True, slots=True)
class Cluster:
    """One cluster of a fit.

    size: its people in the fit's sample; part: what its people show ("whole body", "upper body", "face"); centroid:
    float32 [d], NaN in features that are not shown; fact_sets: what members have in common (`language.factsets`).
    """

    cluster_id: str
    part: str
    size: int
    medoid_person_id: str
    centroid: np.ndarray
    fact_sets: tuple[FactSet, ...] = ()


@dataclass(frozen=True, slots=True)
class ClusterSet:
    """The clusters of one feature space (pose, face, head), and the bounds of alike (near) and different (far)."""

    space: FeatureSpace
    clusters: tuple[Cluster, ...]
    near: float
    far: float
    summary: dict[str, Any] = field(default_factory=dict)  # of the fit: rule, curve, quality, map of old ids

    def features(self, pose: pa.Table, mesh: pa.Table) -> np.ndarray:
        """Features float32 [people, d] of a shard's pose and mesh tables (the columns of ``space`` are enough)."""
        return self.space.extract(pose, mesh)

    def distances(self, features: np.ndarray, others: np.ndarray) -> np.ndarray:
        """See `FeatureSpace.distances`."""
        return self.space.distances(features, others)

    def nearest(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The cluster of each person, -1 for none, and the distance.

        Clusters of the fullest part that a person shows come first. If the nearest of them is farther than the
        tolerance, the whole pose is rare, and the clusters of smaller parts (upper body, ...) follow. A person near to
        none keeps the distance to the nearest of the first part. NaN: too little is seen.
        """
        best = np.full(len(features), -1)
        distance = np.full(len(features), np.nan, np.float32)
        for part in self.space.parts:
            indices = np.array([i for i, c in enumerate(self.clusters) if c.part == part])
            rows = np.flatnonzero((best < 0) & self.space.shows(features, part)) if len(indices) else indices
            for block in np.split(rows, range(BLOCK, len(rows), BLOCK)):
                if not len(block):
                    continue
                centroids = np.stack([self.clusters[i].centroid for i in indices])
                to_centroids = self.space.to_centres(features[block], centroids)
                nearest, least = indices[to_centroids.argmin(axis=1)], to_centroids.min(axis=1)
                near = least <= self.space.tolerance
                best[block[near]] = nearest[near]
                first = near | np.isnan(distance[block])
                distance[block[first]] = least[first]
        return best, distance


@dataclass(frozen=True, slots=True)
class Fit:
    """A frozen fit: what ``fit.json`` holds. ``cluster_sets`` has pose, face and head."""

    version: str
    cluster_sets: dict[str, ClusterSet]

    def to_json(self) -> bytes:
        """Plain JSON; floats have five digits, unseen features are null."""
        cluster_sets = {
            name: {
                "features": list(cluster_set.space.names),
                "tolerance": cluster_set.space.tolerance,
                "near": _rounded(cluster_set.near),
                "far": _rounded(cluster_set.far),
                "k": len(cluster_set.clusters),
                **_rounded(cluster_set.summary),
                "clusters": [
                    {
                        "cluster_id": c.cluster_id,
                        "part": c.part,
                        "size": c.size,
                        "medoid_person_id": c.medoid_person_id,
                        "centroid": _rounded(c.centroid.tolist()),
                        "fact_sets": [{"claims": list(s.claims), "share": _rounded(s.share)} for s in c.fact_sets],
                    }
                    for c in cluster_set.clusters
                ],
            }
            for name, cluster_set in self.cluster_sets.items()
        }
        return (json.dumps({"version": self.version, "kinds": cluster_sets}, indent=1, allow_nan=False) + "\n").encode()


def read_fit(store: Store, version: str) -> Fit:
    """The fit of a version. Raises LaionPeopleError, naming the file, when it is missing or cannot be read."""
    path = cluster_path(version, RELEASE_FILES["fit"])
    data = store.read(path)
    try:
        return load_fit(data)
    except LaionPeopleError as error:
        raise error.at(path) from error


def load_fit(data: bytes) -> Fit:
    """Reads a fit. Raises LaionPeopleError if ``data`` is no fit, or has other features than this release."""
    try:
        document = json.loads(data)
        cluster_sets = {}
        for name, space in FEATURE_SPACES.items():
            fields = document["kinds"][name]
            if tuple(fields.pop("features")) != space.names:
                raise LaionPeopleError(
                    "old-version", f"fit {document['version']} was made with other {name} features: fit a new one"
                )
            clusters = tuple(_read_cluster(document["version"], c) for c in fields.pop("clusters"))
            near, far = fields.pop("near"), fields.pop("far")
            frozen = replace(space, tolerance=fields.pop("tolerance"))
            cluster_sets[name] = ClusterSet(frozen, clusters, near, far, fields)
        return Fit(document["version"], cluster_sets)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise LaionPeopleError("damaged-version", f"not a fit.json: {error!r}") from error


def _read_cluster(version: str, fields: dict[str, Any]) -> Cluster:
    if "fact_sets" not in fields:
        raise LaionPeopleError("old-version", f"fit {version} was made by a release that knew no facts: fit a new one")
    sets = tuple(FactSet(tuple(fact_set["claims"]), fact_set["share"]) for fact_set in fields["fact_sets"])
    return Cluster(**fields | {"centroid": np.array(fields["centroid"], np.float32), "fact_sets": sets})


def _rounded(value: Any) -> Any:
    """Five digits: more than the features need, and few enough to hide tiny differences between machines."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    if isinstance(value, float | np.floating):
        return round(float(value), 5) if np.isfinite(value) else None
    return value
