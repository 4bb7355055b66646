"""The quality of the built-in sample's clusters, by the truth about its people."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import v_measure_score

from laion_people.steps.cluster.clusters import FEATURE_SPACES, ClusterSet
from laion_people.steps.cluster.fitting import fit_cluster_set
from laion_people.storage.schemas import SCHEMAS
from tests.models import test_accuracy

results = test_accuracy.results
FACTS = {"pose": "pose", "face": "expression", "head": "head"}


@dataclass(frozen=True, slots=True)
class Fitted:
    """One cluster set: the truth about each person, the clusters, each person's cluster (-1: none), all pairs of people
    with clusters of the same part, and the distances of these pairs."""

    true: list
    cluster_set: ClusterSet
    labels: np.ndarray
    pairs: tuple[np.ndarray, np.ndarray]
    distances: np.ndarray

    def similar(self) -> np.ndarray:
        """Whether each pair may be called similar."""
        first, second = self.pairs
        return (self.labels[first] == self.labels[second]) & (self.distances < self.cluster_set.near)

    def different(self) -> np.ndarray:
        """Whether each pair may be called different."""
        first, second = self.pairs
        return (self.labels[first] != self.labels[second]) & (self.distances > self.cluster_set.far)

    def same_name(self) -> np.ndarray:
        names = np.array(self.true)
        return names[self.pairs[0]] == names[self.pairs[1]]

    def angles(self) -> np.ndarray:
        """Degrees between the true head directions of each pair."""
        yaw, pitch = np.radians([[head["yaw"], head["pitch"]] for head in self.true]).T
        ahead = np.stack([np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)], axis=1)
        return np.degrees(np.arccos(np.clip((ahead[self.pairs[0]] * ahead[self.pairs[1]]).sum(1), -1, 1)))


@pytest.fixture(scope="module")
def fitted(results: test_accuracy.Results) -> dict[str, Fitted]:
    people, poses, meshes = [], [], []
    for truth, estimated, mesh, pairs in zip(results.truth, results.poses, results.meshes, results.pairs, strict=True):
        for person, index in pairs.items():
            people.append(truth.people[person])
            world = estimated.world[index]
            poses.append(
                {
                    "person_id": f"{truth.name}/{index}",
                    "keypoints": estimated.keypoints[index].ravel(),
                    "pose_score": estimated.scores[index],
                    "world_landmarks": None if np.isnan(world).any() else world.ravel(),
                }
            )
            seen = mesh[index]
            meshes.append(
                {
                    "person_id": f"{truth.name}/{index}",
                    "face_landmarks": seen and seen.landmarks.ravel(),
                    "blendshapes": seen and seen.blendshapes,
                    "head_yaw": seen and seen.yaw,
                    "head_pitch": seen and seen.pitch,
                    "head_roll": seen and seen.roll,
                    "face_score": seen and seen.score,
                }
            )
    pose, mesh = pa.Table.from_pylist(poses, SCHEMAS["pose"]), pa.Table.from_pylist(meshes, SCHEMAS["mesh"])
    return {name: _fit(name, pose, mesh, [person[fact] for person in people]) for name, fact in FACTS.items()}


def _fit(name: str, pose: pa.Table, mesh: pa.Table, true: list) -> Fitted:
    space = FEATURE_SPACES[name]
    features = space.extract(pose, mesh)
    cluster_set, labels = fit_cluster_set(name, space, features, pose["person_id"].to_pylist(), 0, 0, None)
    parts = space.part(features)
    first, second = np.triu_indices(len(labels), 1)
    comparable = (parts[first] == parts[second]) & (labels[first] >= 0) & (labels[second] >= 0)
    pairs = first[comparable], second[comparable]
    return Fitted(true, cluster_set, labels, pairs, space.distances(features[pairs[0]], features[pairs[1]]))


def test_pose_clusters_are_the_true_poses(fitted: dict[str, Fitted]) -> None:
    pose = fitted["pose"]
    assert (pose.labels >= 0).mean() > 0.95
    whole = np.array([label >= 0 and pose.cluster_set.clusters[label].part == "whole body" for label in pose.labels])
    assert whole.mean() > 0.6
    assert v_measure_score(np.array(pose.true)[whole], pose.labels[whole]) >= 0.85


@pytest.mark.parametrize(("kind", "least"), [("pose", 30), ("face", 8)])
def test_what_may_be_called_similar_or_different_is(fitted: dict[str, Fitted], kind: str, least: int) -> None:
    similar, different, same = fitted[kind].similar(), fitted[kind].different(), fitted[kind].same_name()
    assert similar.sum() >= least and same[similar].mean() >= 0.9
    assert different.sum() >= 10 * least and (~same[different]).mean() >= 0.95


def test_heads_that_may_be_called_similar_or_different_point_so(fitted: dict[str, Fitted]) -> None:
    similar, different, angles = fitted["head"].similar(), fitted["head"].different(), fitted["head"].angles()
    assert similar.sum() >= 30 and (angles[similar] < 25).mean() >= 0.9
    assert different.sum() >= 300 and (angles[different] > 20).mean() >= 0.95
