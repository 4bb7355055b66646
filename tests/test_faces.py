"""Where faces come to lie in a composed picture, and that nothing of them is left there."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from laion_people.steps.compose.step import _pasted
from laion_people.vision.faces import are_seen, blurred, head_boxes, placed
from tests.fakes import UPRIGHT

BOX = np.array([[100, 50, 200, 350]], np.float32)
NO_MESH = np.full((1, 4), np.nan, np.float32)


def keypoints(score: float = 0.9) -> np.ndarray:
    """Of somebody who stands in BOX."""
    return np.c_[UPRIGHT * [100, 300] + [100, 50], np.full(17, score)].astype(np.float32)[None]


def contains(outer: np.ndarray, points: np.ndarray) -> bool:
    return bool(((points >= outer[:2]) & (points <= outer[2:])).all())


def test_the_face_is_where_the_mesh_is_with_a_margin() -> None:
    (head,) = head_boxes(BOX, keypoints(), np.array([[130, 60, 170, 110]], np.float32))
    assert head == pytest.approx([118, 45, 182, 125])


def test_without_a_mesh_it_is_the_head_by_the_keypoints() -> None:
    (head,) = head_boxes(BOX, keypoints(), NO_MESH)
    assert contains(head, keypoints()[0, :5, :2]) and head[3] < 50 + 300 / 3
    one = keypoints()
    one[:, 1:5, 2] = 0
    assert contains(head_boxes(BOX, one, NO_MESH)[0], keypoints()[0, :5, :2])


@pytest.mark.parametrize(
    ("box", "lower"),
    [([100, 50, 200, 350], 150), ([100, 50, 140, 350], 150), ([0, 0, 300, 310], 300), ([0, 0, 9, 4], 4)],
)
def test_without_either_it_is_the_upper_part_of_the_box(box: list[float], lower: float) -> None:
    (head,) = head_boxes(np.array([box], np.float32), keypoints(0.1), NO_MESH)
    assert head.tolist() == [*box[:3], lower]


def test_a_part_keeps_its_place_in_the_person() -> None:
    head = np.array([[125, 50, 175, 100]], np.float32)
    places = np.array([[300, 200, 350, 500]], np.float32)  # half as wide, as high
    assert placed(head, BOX, places).tolist() == [[312.5, 200, 337.5, 250]]
    assert np.isfinite(placed(head, np.zeros((1, 4), np.float32), places)).all()
    nobody = np.empty((0, 4), np.float32)
    assert head_boxes(nobody, np.empty((0, 17, 3)), nobody).shape == placed(nobody, nobody, nobody).shape == (0, 4)


def test_a_part_lies_where_compose_pastes_it() -> None:
    cutout, place = np.array([96, 38, 204, 362]), np.array([30, 100, 90, 320])
    face = np.array([[130, 60, 170, 110]], np.float32)
    box = np.array([_pasted(BOX[0], cutout, place)])
    assert placed(face, BOX, box)[0] == pytest.approx(_pasted(face[0], cutout, place), abs=1e-3)


def test_a_face_may_be_seen_with_a_mesh_or_nose_and_eye() -> None:
    behind = keypoints()
    behind[:, :3, 2] = 0
    assert are_seen(keypoints(), NO_MESH).all() and are_seen(behind, BOX).all()
    assert not are_seen(behind, NO_MESH).any() and not are_seen(keypoints(0.1), NO_MESH).any()


SIDES = st.integers(1, 60)
BOXES = arrays(np.float32, (3, 4), elements=st.floats(-100, 100, width=32))


@given(SIDES, SIDES, BOXES, st.integers(0, 2**32 - 1))
def test_pixels_outside_stay_whatever_the_boxes(height: int, width: int, boxes: np.ndarray, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    before = pixels.copy()
    after = blurred(pixels, boxes)
    y, x = np.mgrid[:height, :width]
    for x1, y1, x2, y2 in boxes:
        after[(x + 1 > x1) & (x < x2) & (y + 1 > y1) & (y < y2)] = 0
        before[(x + 1 > x1) & (x < x2) & (y + 1 > y1) & (y < y2)] = 0
    assert (after == before).all()


def test_what_a_box_shows_depends_on_few_means_of_it() -> None:
    """Two different faces of the same light give nearly the same: there is nothing to be brought back."""
    rng = np.random.default_rng(0)
    faces = rng.integers(0, 256, (2, 120, 90, 3), np.uint8)
    whole = np.array([[0, 0, 90, 120]], np.float32)
    one, other = (blurred(face, whole).astype(int) for face in faces)
    assert abs(faces[0].astype(int) - faces[1]).mean() > 80 and abs(one - other).max() < 12


def test_the_picture_that_is_given_stays() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    before = pixels.copy()
    blurred(pixels, np.array([[0, 0, 20, 20]], np.float32))
    assert (pixels == before).all()
