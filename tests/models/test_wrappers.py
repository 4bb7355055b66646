"""The packaged models themselves, on empty images and (in test_accuracy.py) on the built-in sample."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from mediapipe.tasks.python import vision

from include.models import facemesh
from include.models.mediapipe_tasks import as_mediapipe
from include.models.profiles import load_profile
from include.models.runtime import Pool
from tests.models.sample import load

PROFILE = load_profile("packaged")


@pytest.fixture(scope="module")
def detector():
    return PROFILE.load("detector")


@pytest.fixture(scope="module")
def pose():
    return PROFILE.load("pose")


@pytest.fixture(scope="module")
def mesh():
    return PROFILE.load("mesh")


def peopleless() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    slope = np.linspace(0, 255, 300)[None, :, None] * np.ones((200, 1, 3))
    noise = rng.integers(0, 255, (150, 220, 3), dtype=np.uint8)
    return [
        noise,
        slope.astype(np.uint8),
        *(np.full((*size, 3), 90, np.uint8) for size in ((1, 1), (2, 900), (900, 3))),
    ]


def test_no_people_are_found_where_there_are_none(detector):
    for detections in detector.detect(peopleless()):
        assert detections.boxes.shape == (0, 4) and detections.boxes.dtype == np.float32
        assert detections.scores.shape == (0,) and detections.scores.dtype == np.float32


def test_empty_batches(detector, pose, mesh):
    assert detector.detect([]) == [] and pose.estimate([], []) == [] and mesh.estimate([], [], []) == []


def test_images_without_boxes(pose, mesh):
    none = [np.empty((0, 4), np.float32)] * len(peopleless())
    poses = pose.estimate(peopleless(), none)
    assert all(
        p.keypoints.shape == (0, 17, 3) and p.scores.shape == (0,) and p.world.shape == (0, 33, 3) for p in poses
    )
    assert mesh.estimate(peopleless(), none, [p.keypoints for p in poses]) == [[]] * len(none)


def test_wrong_boxes_do_no_harm(pose, mesh):
    """Boxes without a person, empty ones and ones outside get finite keypoints with low scores, and no mesh."""
    images = peopleless()
    boxes = [np.array([[0, 0, 1, 1], [5, 5, 5, 5], [1000, 1000, 1100, 1200]], np.float32)] * len(images)
    poses = pose.estimate(images, boxes)
    for estimate in poses:
        assert estimate.keypoints.dtype == np.float32 and estimate.keypoints.shape == (3, 17, 3)
        assert np.isfinite(estimate.keypoints).all() and (estimate.keypoints[:, :, 2] < 0.5).all()
    assert mesh.estimate(images, boxes, [p.keypoints for p in poses]) == [[None] * 3] * len(images)


def test_the_mesh_is_that_of_a_landmarker_of_two_faces(mesh, monkeypatch: pytest.MonkeyPatch):
    """One that looks for one face only is faster, and is asked first. Of these photos, some need the other one."""
    truths = load()
    some = [truths[i] for i in (*range(6), 18, 20, 23, 32, 49, 51)]
    people = [[part(t).astype(np.float32) for t in some] for part in (lambda t: t.boxes, lambda t: t.joints)]
    found = mesh.estimate([t.image for t in some], *people)
    monkeypatch.setattr(facemesh, "FACES", (2,))
    expected = PROFILE.load("mesh").estimate([t.image for t in some], *people)
    assert sum(one is not None for meshes in found for one in meshes) > 10
    for one, other in zip(flat(found), flat(expected), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("most", facemesh.FACES)
def test_faces_as_arrays_are_those_that_mediapipe_makes_objects_of(most: int):
    bundle = PROFILE.load("mesh")._options[0]
    landmarker = facemesh.face_landmarker(bundle, 0.5, most)
    theirs = vision.FaceLandmarker.create_from_options(facemesh.landmarker_options(bundle, 0.5, most))
    seen = []
    for truth in load()[:12]:
        image = as_mediapipe(truth.image)
        result, faces = theirs.detect(image), landmarker.faces(image)
        seen.append(len(faces))
        assert len(faces) == len(result.face_landmarks)
        for index, face in enumerate(faces):
            points = [(point.x, point.y, point.z) for point in result.face_landmarks[index]]
            np.testing.assert_array_equal(face.points, points)
            shapes = np.array([shape.score for shape in result.face_blendshapes[index]], np.float32)
            np.testing.assert_array_equal(face.blendshapes, shapes)
            np.testing.assert_array_equal(face.transformation, result.facial_transformation_matrixes[index])
    assert {0, most} <= set(seen)


def turn(axis: int, degrees: float) -> np.ndarray:
    """Rotation about x (right), y (up) or z (towards the camera), counter-clockwise seen from the axis' tip."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    a, b = [(1, 2), (2, 0), (0, 1)][axis]
    matrix = np.eye(3)
    matrix[a, a] = matrix[b, b] = cos
    matrix[a, b], matrix[b, a] = -sin, sin
    return matrix


@pytest.mark.parametrize("yaw", [-80, 0, 35])
@pytest.mark.parametrize("pitch", [-40, 0, 25])
@pytest.mark.parametrize("roll", [-100, 0, 15])
def test_head_angles_of_known_rotations(yaw: float, pitch: float, roll: float):
    rotation = turn(1, yaw) @ turn(0, -pitch) @ turn(2, -roll)
    np.testing.assert_allclose(facemesh.head_angles(2.5 * rotation), (yaw, pitch, roll), atol=1e-6)
    # In a crop turned clockwise by 30 degrees, the same head looks turned back by 30 degrees.
    facing = facemesh.head_angles(turn(2, 30) @ rotation, math.radians(30))
    np.testing.assert_allclose(facing, (yaw, pitch, roll), atol=1e-6)


def flat(value: Any) -> list[np.ndarray]:
    """All arrays and numbers of a result, in order."""
    if isinstance(value, list | tuple):
        return [array for part in value for array in flat(part)]
    if hasattr(value, "__dataclass_fields__"):
        return [array for name in value.__dataclass_fields__ for array in flat(getattr(value, name))]
    return [np.asarray(np.nan if value is None else value, np.float64)]


def test_two_callers_at_once_get_what_each_would_alone(detector, pose, mesh):
    truths = load()
    halves = [truths[:3], truths[20:23]]

    def people(truths: list) -> tuple[list, list]:
        return [t.image for t in truths], [t.boxes.astype(np.float32) for t in truths]

    calls: list[Callable[[int], Any]] = [
        lambda half: detector.detect(people(halves[half])[0]),
        lambda half: pose.estimate(*people(halves[half])),
        lambda half: mesh.estimate(*people(halves[half]), [t.joints.astype(np.float32) for t in halves[half]]),
    ]
    together = threading.Barrier(2)

    def with_the_other(call: Callable[[int], Any], half: int) -> Any:
        together.wait()
        return call(half)

    with ThreadPoolExecutor(2) as callers:
        for call in calls:
            alone = [flat(call(half)) for half in (0, 1)]
            both = list(callers.map(with_the_other, [call, call], [0, 1]))
            for one, other in zip(alone, map(flat, both), strict=True):
                assert len(one) == len(other) > 0
                assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one, other, strict=True))


def test_callers_share_the_threads_of_a_pool():
    pool = Pool(1)
    with ThreadPoolExecutor(2) as callers:
        used = list(callers.map(lambda _: pool.map(lambda _: threading.get_ident(), range(3)), range(2)))
    assert len({thread for threads in used for thread in threads}) == 1
