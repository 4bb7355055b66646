"""The accuracy of the packaged models on the built-in sample, at the stored size."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest

from include.models import Detections, Mesh, Poses
from include.models.profiles import load_profile
from laion_people.steps.facts.facefacts import face_facts
from laion_people.storage.schemas import SCHEMAS
from tests.models import sample

PROFILE = load_profile("packaged")


@dataclass(frozen=True, slots=True)
class Results:
    """The sample, the models' results, and true person -> detected person for each image."""

    truth: list[sample.Truth]
    detections: list[Detections]
    poses: list[Poses]
    meshes: list[list[Mesh | None]]
    pairs: list[dict[int, int]]

    def matched(self) -> list[tuple[dict, Mesh | None]]:
        """The facts and the mesh of each detected person."""
        return [
            (truth.people[person], meshes[index])
            for truth, meshes, pairs in zip(self.truth, self.meshes, self.pairs, strict=True)
            for person, index in pairs.items()
        ]


@pytest.fixture(scope="module")
def results() -> Results:
    truth = sample.load()
    images = [t.image for t in truth]
    detections = PROFILE.load("detector").detect(images)
    boxes = [f.boxes for f in detections]
    poses = PROFILE.load("pose").estimate(images, boxes)
    meshes = PROFILE.load("mesh").estimate(images, boxes, [p.keypoints for p in poses])
    return Results(
        truth, detections, poses, meshes, [sample.match(t, f) for t, f in zip(truth, detections, strict=True)]
    )


def test_nearly_everyone_is_found_and_nearly_nothing_else(results: Results):
    hits = sum(len(pairs) for pairs in results.pairs)
    assert hits / sum(len(t.boxes) for t in results.truth) >= 0.95
    assert hits / sum(len(f.boxes) for f in results.detections) >= 0.95


def test_boxes_lie_in_the_image_best_first(results: Results):
    for truth, detections in zip(results.truth, results.detections, strict=True):
        height, width = truth.image.shape[:2]
        assert (detections.boxes >= 0).all() and (detections.boxes <= [width, height, width, height]).all()
        assert (detections.boxes[:, 2:] > detections.boxes[:, :2]).all()
        assert (np.diff(detections.scores) <= 0).all()


def test_joints_are_close(results: Results):
    """Median error over all joints that can be seen: at most 2 % of the box's long side."""
    errors = []
    for truth, poses, pairs in zip(results.truth, results.poses, results.pairs, strict=True):
        for person, index in pairs.items():
            seen = truth.joints[person, :, 2] > 0
            distances = np.linalg.norm(poses.keypoints[index, seen, :2] - truth.joints[person, seen, :2], axis=1)
            errors.extend(distances / (truth.boxes[person, 2:] - truth.boxes[person, :2]).max())
    assert np.median(errors) <= 0.02


def test_visible_faces_get_a_mesh_and_backs_of_heads_none(results: Results):
    visible = [mesh is not None for person, mesh in results.matched() if person["face_visible"]]
    assert np.mean(visible) >= 0.9
    assert not [person for person, mesh in results.matched() if person["head_direction"] == "back" and mesh]


def test_meshes_lie_on_their_own_person(results: Results):
    for truth, meshes, pairs in zip(results.truth, results.meshes, results.pairs, strict=True):
        for person, index in pairs.items():
            if meshes[index] is not None and truth.people[person]["face_visible"]:
                eyes = truth.joints[person, [1, 2], :2].mean(0)
                offset = np.linalg.norm(meshes[index].landmarks[:, :2].mean(0) - eyes)
                assert offset < np.ptp(meshes[index].landmarks[:, 1])


def test_head_angles_follow_the_true_ones(results: Results):
    pairs = [(person["head"], mesh) for person, mesh in results.matched() if mesh and person["face_visible"]]
    for angle, tolerance in (("yaw", 10), ("pitch", 10), ("roll", 5)):
        truth, measured = np.array([(head[angle], getattr(mesh, angle)) for head, mesh in pairs]).T
        assert np.median(np.abs(truth - measured)) <= tolerance
    yaws = np.array([(head["yaw"], mesh.yaw) for head, mesh in pairs])
    assert np.corrcoef(yaws.T)[0, 1] > 0.9


def test_facts_of_heads_and_faces_are_true(results: Results):
    """95 of 100 claims about rendered people, whose angles and expressions are known; and most people have facts."""
    pose = [{"keypoints": keypoints.ravel()} for poses in results.poses for keypoints in poses.keypoints]
    mesh = [_mesh_row(mesh) for meshes in results.meshes for mesh in meshes]
    facts = iter(face_facts(pa.Table.from_pylist(pose, SCHEMAS["pose"]), pa.Table.from_pylist(mesh, SCHEMAS["mesh"])))
    true, stated = [], Counter()
    for truth, meshes, pairs in zip(results.truth, results.meshes, results.pairs, strict=True):
        of_image = [{fact.name: fact.value for fact in next(facts)} for _ in meshes]
        for person, index in pairs.items():
            true += [_holds(truth.people[person], name, value) for name, value in of_image[index].items()]
            stated.update(of_image[index].keys())
    assert np.mean([holds for holds in true if holds is not None]) >= 0.95
    assert stated["turn"] / len(results.matched()) >= 0.8
    assert stated["mouth"] / len(results.matched()) >= 0.2  # most of these faces are small


def _mesh_row(mesh: Mesh | None) -> dict:
    if mesh is None:
        return {}
    row = {"face_landmarks": mesh.landmarks.ravel(), "blendshapes": mesh.blendshapes, "face_score": mesh.score}
    return row | {f"head_{angle}": getattr(mesh, angle) for angle in ("yaw", "pitch", "roll")}


def _holds(person: dict, name: str, value: str) -> bool | None:
    """Whether a fact is true of a rendered person, within a few degrees; None if the rendering doesn't say."""
    yaw, pitch, roll = (person["head"][angle] for angle in ("yaw", "pitch", "roll"))
    side = -1 if value.endswith("left") else 1
    expressions = {
        "smiling": {"smile"}, "smiling_open": {"smile"}, "open": {"open_mouth", "smile"}, "puckered": {"pucker"},
        "turned_down": {"frown"}, "relaxed": {"neutral", "eyes_closed"},
        "closed": {"neutral", "eyes_closed", "smile", "frown", "pucker"},
    }  # fmt: skip
    match name, value:
        case "turn", "away":
            return abs(yaw) > 110
        case "turn", "camera":
            return abs(yaw) < 20
        case "turn", _:
            low, high = {"slight": (5, 28), "far": (42, 110)}.get(value.split("_")[0], (12, 90))
            return low < yaw * side < high
        case "nod", _:
            return {"up": pitch > 6, "down": pitch < -6, "level": abs(pitch) < 15}[value]
        case "tilt", _:
            return abs(roll) < 15 if value == "none" else roll * side > 10
        case "mouth", _:
            return person["expression"] in expressions[value]
        case "eyes", _:
            return (person["expression"] == "eyes_closed") == (value == "closed")
    return person["expression"] == "frown" if value == "lowered" else None


def test_one_by_one_gives_the_same_as_a_batch(results: Results):
    detector, pose, mesh = (PROFILE.load(role, threads=1) for role in ("detector", "pose", "mesh"))
    for i in range(6):
        truth, detections, poses, meshes = results.truth[i], results.detections[i], results.poses[i], results.meshes[i]
        (alone,) = detector.detect([truth.image])
        np.testing.assert_array_equal(alone.boxes, detections.boxes)
        (its_poses,) = pose.estimate([truth.image], [detections.boxes])
        np.testing.assert_array_equal(its_poses.keypoints, poses.keypoints)
        np.testing.assert_array_equal(its_poses.world, poses.world)
        (its_meshes,) = mesh.estimate([truth.image], [detections.boxes], [poses.keypoints])
        assert [m is None for m in its_meshes] == [m is None for m in meshes]
        for one, other in zip(its_meshes, meshes, strict=True):
            if one and other:
                np.testing.assert_allclose(one.landmarks, other.landmarks, atol=1e-3)
                np.testing.assert_allclose(one.blendshapes, other.blendshapes, atol=1e-3)
