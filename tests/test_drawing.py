from __future__ import annotations

import numpy as np

from laion_people.vision.drawing import BOX, LEFT, MESH, RIGHT, annotate
from tests.fakes import UPRIGHT

GREY = np.full((200, 100, 3), 128, np.uint8)
BOXES = np.array([[10, 10, 90, 190]], np.float32)


def colours(image: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(pixel) for pixel in image.reshape(-1, 3).tolist()}


def standing(score: float) -> np.ndarray:
    points = UPRIGHT * [80, 180] + [10, 10]
    return np.concatenate([points, np.full((17, 1), score)], axis=1)[None].astype(np.float32)


def test_the_longer_side_becomes_the_size_asked_for_and_the_image_itself_stays() -> None:
    image = GREY.copy()
    drawn = annotate(image, BOXES, size=400)
    assert drawn.size == (200, 400)
    assert (image == GREY).all()


def test_a_box_is_drawn_where_the_person_is() -> None:
    drawn = np.asarray(annotate(GREY, BOXES, size=200))
    assert tuple(drawn[100, 10]) == BOX
    assert tuple(drawn[10, 50]) == BOX
    assert tuple(drawn[100, 50]) == (128, 128, 128)


def test_left_and_right_limbs_have_their_colours() -> None:
    drawn = colours(np.asarray(annotate(GREY, BOXES, standing(0.9), size=600)))
    assert {LEFT, RIGHT} <= drawn


def test_joints_that_the_model_guesses_are_not_drawn() -> None:
    plain = annotate(GREY, BOXES, size=200)
    assert annotate(GREY, BOXES, standing(0.05), size=200).tobytes() == plain.tobytes()


def test_a_mesh_is_drawn_for_those_who_have_one() -> None:
    angle = np.linspace(0, 2 * np.pi, 478)
    face = np.stack([50 + 20 * np.cos(angle), 40 + 20 * np.sin(angle), 0 * angle], axis=1)
    drawn = np.asarray(annotate(GREY, BOXES, meshes=[face], size=600)).astype(int)
    near = np.abs(drawn - MESH).sum(axis=2) < 120
    rows, columns = np.nonzero(near)
    assert near.any() and rows.min() >= 55 and rows.max() <= 185 and columns.min() >= 85 and columns.max() <= 215


def test_boxes_of_groups_have_the_colours_given() -> None:
    boxes = np.array([[5, 5, 45, 195], [55, 5, 95, 195]], np.float32)
    drawn = np.asarray(annotate(GREY, boxes, colours=[(255, 0, 0), (0, 0, 255)], size=200))
    assert tuple(drawn[100, 5]) == (255, 0, 0) and tuple(drawn[100, 55]) == (0, 0, 255)


def test_people_outside_of_the_image_and_images_without_people_can_be_drawn() -> None:
    outside = np.array([[-50, -50, 400, 400], [20, 20, 20, 20]], np.float32)
    assert annotate(GREY, outside, size=100).size == (50, 100)
    assert annotate(GREY, np.empty((0, 4), np.float32), np.empty((0, 17, 3), np.float32), size=100).size == (50, 100)
