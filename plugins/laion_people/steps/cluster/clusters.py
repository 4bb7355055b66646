"""A cluster version: what people are compared by, how far apart two of them are, and which cluster is nearest.

``load_fit(store.read("clusters/v0001/fit.json"))`` gives a `Fit`. Of a shard's tables, its kinds tell::

    kind = fit.kinds["pose"]                      # or "face", "head"
    features = kind.features(pose, mesh)          # float32 [people, d]; NaN where a person does not show a part
    kind.distances(features[3], features)         # float32 [people]; NaN where the two show nothing in common
    clusters, distances = kind.nearest(features)  # indices of kind.clusters; -1 where none is near, or too little seen
    kind.near, kind.far                           # closer than near: alike; farther than far: clearly different
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

BLOCK = 4096  # people whose distances to all clusters are in memory at a time
SHOWN = 0.75  # share of a part's limbs that must be seen for a person to be compared by it


@dataclass(frozen=True, slots=True)
class Space:
    """What one kind of cluster compares: the columns that it reads, names of features, and what a mirror does to them.

    ``extract`` turns the pose and mesh tables of one shard into float32 [people, d], NaN where a part is not seen. A
    mirrored person has feature ``order[i]`` times ``sign[i]`` at place i. ``scale`` turns a root mean square of
    feature differences into a distance; people nearer to a cluster's centre than ``tolerance`` are like it. Two people
    nearer than ``near`` are alike beyond doubt, farther apart than ``far`` different. ``parts`` are the parts of a
    person that clusters can compare, the fullest first, with their features as bool [d].
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
        """Whether enough of a part is seen of each person, or of her mirror image: bool [people]."""
        seen, compared = np.isfinite(features), self.parts[part]
        share = np.maximum(seen[:, compared].mean(1), seen[:, self.order][:, compared].mean(1))
        return share >= SHOWN

    def part(self, features: np.ndarray) -> np.ndarray:
        """The fullest part that each person shows, "" for none: str [people]."""
        return np.select([self.shows(features, part) for part in self.parts], list(self.parts), "")

    def to_centres(self, features: np.ndarray, centres: np.ndarray) -> np.ndarray:
        """Distances of people [people, d] to all centres [k, d] by what centres have: float64 [people, k].

        As `distances`, but infinite where less than ``SHOWN`` of it is seen, so that nobody is near by one limb.
        """
        known = ~np.isnan(centres)
        centres = np.where(known, centres, 0).astype(np.float64)
        found = np.full((len(features), len(centres)), np.inf)
        for people in (features, self.mirrored(features)):
            seen = np.isfinite(people)
            people = np.where(seen, people, 0).astype(np.float64)
            count = seen.astype(np.float64) @ known.T
            square = people**2 @ known.T - 2 * people @ centres.T + seen @ (centres**2).T
            square = np.maximum(square, 0) / np.maximum(count, 1)
            found = np.minimum(found, np.where(count >= SHOWN * known.sum(1), square, np.inf))
        return self.scale * np.sqrt(found)

    def distances(self, features: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Distances between features [..., d] that broadcast, float32; of a person and her mirror image the smaller.

        Only what both show of the fullest part counts (partial distances; Dixon 1979, doi:10.1109/TSMC.1979.4310090);
        NaN where that is nothing.
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
    limbs[~_seen_both(limbs, geometry.LEG_LIMBS), geometry.LEG_LIMBS] = np.nan  # half a leg tells no pose
    found = np.concatenate([limbs, geometry.facing(keypoints, world)[:, None]], axis=1)
    return found.reshape(len(found), len(_POSE_NAMES))


def _seen_both(limbs: np.ndarray, pair: slice) -> np.ndarray:
    """Whether both arms or legs are seen, but for one forearm or shin at most; ``pair``: two upper limbs, two lower."""
    seen = ~np.isnan(limbs[:, pair, 0])
    return seen[:, :2].all(axis=1) & seen[:, 2:].any(axis=1)


def _face_features(pose: pa.Table, mesh: pa.Table) -> np.ndarray:
    landmarks = matrix(mesh["face_landmarks"], 3 * 478).reshape(-1, 478, 3)
    features = geometry.expressions(matrix(mesh["blendshapes"], 52), landmarks)
    yaw, pitch = (np.asarray(mesh[f"head_{name}"], np.float64) for name in ("yaw", "pitch"))
    features[~((abs(yaw) <= geometry.MAX_YAW) & (abs(pitch - geometry.LEVEL) <= geometry.MAX_NOD))] = np.nan
    return _certain(mesh, features)


def _head_features(pose: pa.Table, mesh: pa.Table) -> np.ndarray:
    angles = [np.asarray(mesh[f"head_{name}"], np.float64) for name in ("yaw", "pitch", "roll")]
    return _certain(mesh, np.radians(np.stack(angles, axis=1)).astype(np.float32))


def _certain(mesh: pa.Table, features: np.ndarray) -> np.ndarray:
    """NaN where the mesh is none to go by."""
    features[~(np.asarray(mesh["face_score"], np.float32) >= geometry.MIN_FACE_SCORE)] = np.nan
    return features


def _swapped(names: tuple[str, ...]) -> np.ndarray:
    """Where each feature's counterpart of the other side is."""
    other = [n.replace("Left", "*").replace("Right", "Left").replace("*", "Right") for n in names]
    return np.array([names.index(name) for name in other])


def _limbs(*wanted: int) -> np.ndarray:
    """The features of some of the ``LIMBS``, and 9, where the shoulders face: bool [30]."""
    return np.repeat(np.isin(np.arange(len(geometry.LIMBS) + 1), wanted), 3)


_POSE_NAMES = tuple(f"{limb}_{axis}" for limb in (*geometry.LIMBS, "facing") for axis in ("left", "up", "forward"))
SPACES: dict[str, Space] = {
    "pose": Space(
        names=_POSE_NAMES,
        order=np.array([3 * limb + axis for limb in (*geometry.MIRRORED_LIMBS, 9) for axis in range(3)]),
        sign=np.tile(np.array([-1.0, 1, 1], np.float32), len(geometry.LIMBS) + 1),
        tolerance=0.4,  # limbs differ by 23 degrees: half of the 45 between two of the eight directions of a compass
        near=0.225,
        far=0.75,
        scale=3**0.5,  # root mean square over limbs, each of which has three features
        pose_columns=("keypoints", "world_landmarks"),
        mesh_columns=(),
        extract=_pose_features,
        parts={
            "whole body": _limbs(*range(9)),
            "upper body": _limbs(*range(5)),
            "one arm": _limbs(0, 1, 3),
            "legs": _limbs(0, 5, 6, 7, 8),
            "shoulders": _limbs(9),
        },
    ),
    "face": Space(
        names=geometry.EXPRESSIONS,
        order=_swapped(geometry.EXPRESSIONS),
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
    "head": Space(
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

    size: people of the fit's sample in it; part: what its people show ("whole body", "upper body", "face"); centroid:
    float32 [d], NaN in features of what is not shown; fact_sets: what members have in common
    (`language.factsets`).
    """

    cluster_id: str
    part: str
    size: int
    medoid_person_id: str
    centroid: np.ndarray
    fact_sets: tuple[FactSet, ...] = ()


@dataclass(frozen=True, slots=True)
class Kind:
    """The clusters of one kind (pose, face, head), and the bounds of what is alike (near) and different (far)."""

    space: Space
    clusters: tuple[Cluster, ...]
    near: float
    far: float
    summary: dict[str, Any] = field(default_factory=dict)  # how they were found: rule, curve, quality, map of old ids

    def features(self, pose: pa.Table, mesh: pa.Table) -> np.ndarray:
        """Features float32 [people, d] of a shard's pose and mesh tables (the columns of ``space`` are enough)."""
        return self.space.extract(pose, mesh)

    def distances(self, features: np.ndarray, others: np.ndarray) -> np.ndarray:
        """See `Space.distances`."""
        return self.space.distances(features, others)

    def nearest(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The cluster of each person, -1 for none, and the distance.

        Clusters of the fullest part that she shows are looked at first. Where their nearest is farther than the
        tolerance, her pose as a whole is a rare one, and those of her upper body (and so on) follow. Who is near to
        none has the distance to the nearest of the first that were looked at; NaN: too little is seen.
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
                found = self.space.to_centres(features[block], centroids)
                nearest, least = indices[found.argmin(axis=1)], found.min(axis=1)
                near = least <= self.space.tolerance
                best[block[near]] = nearest[near]
                first = near | np.isnan(distance[block])
                distance[block[first]] = least[first]
        return best, distance


@dataclass(frozen=True, slots=True)
class Fit:
    """A frozen fit: what ``fit.json`` holds. ``kinds`` has pose, face and head."""

    version: str
    kinds: dict[str, Kind]

    def to_json(self) -> bytes:
        """Plain JSON; floats have five digits, unseen features are null."""
        kinds = {
            name: {
                "features": list(kind.space.names),
                "tolerance": kind.space.tolerance,
                "near": _rounded(kind.near),
                "far": _rounded(kind.far),
                "k": len(kind.clusters),
                **_rounded(kind.summary),
                "clusters": [
                    {
                        "cluster_id": c.cluster_id,
                        "part": c.part,
                        "size": c.size,
                        "medoid_person_id": c.medoid_person_id,
                        "centroid": _rounded(c.centroid.tolist()),
                        "fact_sets": [{"claims": list(s.claims), "share": _rounded(s.share)} for s in c.fact_sets],
                    }
                    for c in kind.clusters
                ],
            }
            for name, kind in self.kinds.items()
        }
        return (json.dumps({"version": self.version, "kinds": kinds}, indent=1, allow_nan=False) + "\n").encode()


def read_fit(store: Store, version: str) -> Fit:
    """The fit of a version. Raises LaionPeopleError, naming the file, when it is missing or cannot be read."""
    path = cluster_path(version, RELEASE_FILES["fit"])
    data = store.read(path)
    try:
        return load_fit(data)
    except LaionPeopleError as error:
        raise error.at(path) from error


def load_fit(data: bytes) -> Fit:
    """Raises LaionPeopleError when ``data`` is no fit, or one of other features than this release computes."""
    try:
        document = json.loads(data)
        kinds = {}
        for name, space in SPACES.items():
            fields = document["kinds"][name]
            if tuple(fields.pop("features")) != space.names:
                raise LaionPeopleError(
                    "old-version", f"fit {document['version']} was made with other {name} features: fit a new one"
                )
            clusters = tuple(_read_cluster(document["version"], c) for c in fields.pop("clusters"))
            near, far = fields.pop("near"), fields.pop("far")
            frozen = replace(space, tolerance=fields.pop("tolerance"))
            kinds[name] = Kind(frozen, clusters, near, far, fields)
        return Fit(document["version"], kinds)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise LaionPeopleError("damaged-version", f"not a fit.json: {error!r}") from error


def _read_cluster(version: str, fields: dict[str, Any]) -> Cluster:
    if "fact_sets" not in fields:
        raise LaionPeopleError("old-version", f"fit {version} was made by a release that knew no facts: fit a new one")
    sets = tuple(FactSet(tuple(of["claims"]), of["share"]) for of in fields["fact_sets"])
    return Cluster(**fields | {"centroid": np.array(fields["centroid"], np.float32), "fact_sets": sets})


def _rounded(value: Any) -> Any:
    """Five digits are more than the features are good for, and spare tiny differences between machines."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    if isinstance(value, float | np.floating):
        return round(float(value), 5) if np.isfinite(value) else None
    return value
