"""Poses and faces in their own frames: place and view of people must not matter, only what they do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laion_people.vision import geometry
from tests import skeletons

ANGLES = st.floats(-180, 180)


def rotation(yaw: float, pitch: float = 0, roll: float = 0) -> np.ndarray:
    (a, b, c), (d, e, f) = np.cos(np.radians([yaw, pitch, roll])), np.sin(np.radians([yaw, pitch, roll]))
    around_y = np.array([[a, 0, d], [0, 1, 0], [-d, 0, a]])
    around_x = np.array([[1, 0, 0], [0, b, -e], [0, e, b]])
    return around_y @ around_x @ np.array([[c, -f, 0], [f, c, 0], [0, 0, 1]])


def limbs(people: skeletons.People) -> np.ndarray:
    return geometry.limb_directions(people.keypoints, people.world)


@given(st.sampled_from(sorted(skeletons.POSES)), ANGLES, st.floats(0.2, 5), st.integers(0, 99))
def test_the_direction_and_size_of_a_body_change_nothing(pose: str, yaw: float, size: float, seed: int) -> None:
    person = skeletons.people([pose], seed)
    turned = (person.world * size) @ rotation(yaw).T
    again = geometry.limb_directions(person.keypoints, turned)
    assert np.allclose(again, limbs(person), atol=1e-4)


@given(st.sampled_from(sorted(skeletons.POSES)), st.floats(-500, 500), st.floats(0.1, 8), st.integers(0, 99))
def test_place_and_size_in_the_picture_change_nothing_without_depth(
    pose: str, offset: float, scale: float, seed: int
) -> None:
    person = skeletons.people([pose], seed, depth=False)
    moved = person.keypoints.copy()
    moved[..., :2] = moved[..., :2] * scale + offset
    assert np.allclose(geometry.limb_directions(moved, person.world), limbs(person), atol=1e-2)


def test_a_limb_with_an_unseen_end_has_no_direction_and_the_others_keep_theirs() -> None:
    person = skeletons.people(["sit"], 0)
    before = limbs(person)
    person.keypoints[0, 10, 2] = 0.1  # the right wrist
    after = limbs(person)
    forearm = geometry.LIMBS.index("right_forearm")
    assert np.isnan(after[0, forearm]).all()
    assert np.array_equal(np.delete(after, forearm, 1), np.delete(before, forearm, 1))


def test_a_body_from_behind_is_the_same_pose() -> None:
    front = skeletons.people(["arms out"], 3, yaw=0)
    back = geometry.limb_directions(front.keypoints, front.world @ rotation(180).T)
    assert np.allclose(back, limbs(front), atol=1e-4)


@pytest.mark.parametrize("pose", ["stand", "arms out", "arms up", "wave", "sit", "reach"])
def test_poses_lifted_from_a_picture_are_close_to_the_true_ones(pose: str) -> None:
    flat = skeletons.people([pose] * 40, 1, yaw=40, depth=False)
    true = skeletons.people([pose] * 40, 1, yaw=40)
    cosines = (limbs(flat) * limbs(true)).sum(-1)
    assert np.degrees(np.arccos(np.clip(np.median(cosines), -1, 1))) < 20


def test_unseen_and_degenerate_people_give_no_warnings() -> None:
    with np.errstate(all="raise"):
        directions = geometry.limb_directions(np.zeros((2, 17, 3), np.float32), np.full((2, 33, 3), np.nan, np.float32))
    assert np.isnan(directions).all()
    assert geometry.limb_directions(np.zeros((0, 17, 3)), np.zeros((0, 33, 3))).shape == (0, 9, 3)


@settings(deadline=None)
@given(ANGLES, st.floats(-60, 60), st.floats(-180, 180), st.floats(0.1, 20), st.floats(-900, 900))
def test_a_turned_moved_and_scaled_face_is_the_same_face(
    yaw: float, pitch: float, roll: float, size: float, offset: float
) -> None:
    face = np.random.default_rng(5).normal(0, 10, (1, 478, 3))
    seen = (face @ rotation(yaw, pitch, roll).T) * size + offset
    assert np.allclose(geometry.canonical_faces(seen), geometry.canonical_faces(face), atol=1e-3)


def expression(face: np.ndarray, shapes: np.ndarray | None = None) -> dict[str, float]:
    measures = geometry.expressions(np.zeros((1, 52)) if shapes is None else shapes, face)
    return dict(zip(geometry.EXPRESSIONS, measures[0].tolist(), strict=True))


def test_expressions_are_blendshapes_and_measures_of_the_face_whichever_way_it_looks() -> None:
    face = np.random.default_rng(5).normal(0, 30, (1, 478, 3))
    named = expression(face, np.arange(52.0)[None])
    assert named["mouthSmileLeft"] == 44 and named["jawOpen"] == 25
    turned = expression(face @ rotation(30, 10, -20).T * 2 + 200, np.arange(52.0)[None])
    assert turned == pytest.approx(named, rel=1e-3)


def test_an_opened_mouth_is_measured() -> None:
    face = np.random.default_rng(5).normal(0, 30, (1, 478, 3))
    face[0, [33, 263, 2, 168]] = [[-40, 0, 0], [40, 0, 0], [0, 40, 0], [0, -5, 0]]
    face[0, 13] = face[0, 14] = [0, 55, 0]
    closed = expression(face)["mouthOpening"]
    face[0, 14] = [0, 75, 0]
    assert closed == pytest.approx(0) and expression(face)["mouthOpening"] == pytest.approx(0.25 / 0.16)


def test_faces_too_small_to_read_and_unseen_ones_have_no_expression() -> None:
    face = np.random.default_rng(5).normal(0, 30, (1, 478, 3))
    small = face * (geometry.MIN_FACE - 1) / np.ptp(face[..., 1])
    assert all(np.isnan(v) for v in expression(small).values())
    assert all(np.isnan(v) for v in expression(face * np.nan).values())
