"""Boxes and image regions: pure geometry."""

from __future__ import annotations

import numpy as np
import pytest

from include.models.regions import clip_boxes, iou, letterbox, square, suppress


def test_iou_of_known_boxes():
    boxes = np.array([[0, 0, 10, 10], [20, 20, 30, 30]], np.float32)
    others = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [0, 0, 0, 0]], np.float32)
    np.testing.assert_allclose(iou(boxes, others), [[1, 1 / 3, 0], [0, 0, 0]], atol=1e-6)


def test_suppress_keeps_the_best_of_each_group_best_first():
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [50, 0, 60, 10]], np.float32)
    assert suppress(iou(boxes, boxes) > 0.5, np.array([0.5, 0.6, 0.9])).tolist() == [2, 1]
    assert suppress(np.empty((0, 0), bool), np.empty(0)).tolist() == []


def test_boxes_are_clipped_to_the_image():
    clipped = clip_boxes(np.array([[-5, -5, 500, 20]]), np.zeros((30, 40, 3), np.uint8))
    assert clipped.tolist() == [[0, 0, 40, 20]] and clipped.dtype == np.float32


@pytest.mark.parametrize("size", [(1, 1), (48, 97), (3000, 1), (7, 2000)])
def test_letterbox_maps_back(size: tuple[int, int]):
    region = letterbox(np.full((*size, 3), 9, np.uint8), 256, 32)
    assert all(n % 32 == 0 for n in region.pixels.shape[:2]) and max(region.pixels.shape) == 256
    content = np.argwhere(region.pixels[:, :, 0] == 9).max(0)[::-1] + 1
    np.testing.assert_allclose(region.points_to_image(content), size[::-1], rtol=1e-5)


@pytest.mark.parametrize("angle", [0.0, 0.5, -2.0])
def test_square_maps_back(angle: float):
    image = np.zeros((200, 300, 3), np.uint8)
    image[90:93, 150:153] = 255
    region = square(image, np.array([140, 80]), 100, 256, angle)
    spot = np.argwhere(region.pixels[:, :, 0] > 128).mean(0)[::-1]
    np.testing.assert_allclose(region.points_to_image(spot), (151, 91), atol=0.6)
    assert region.scale == pytest.approx(100 / 256, rel=1e-5)


def test_a_square_turned_clockwise_shows_what_was_turned_clockwise_upright():
    image = np.zeros((100, 100, 3), np.uint8)
    image[40:60, 85:95] = 255  # right of the centre: where "up" points after a quarter turn clockwise
    upright = square(image, np.array([50, 50]), 100, 100, np.pi / 2).pixels[:, :, 0]
    assert upright[5:15, 45:55].mean() > 200 and upright[20:].max() == 0


@pytest.mark.parametrize("shape", [(300, 40_000), (40_000, 300)])
@pytest.mark.parametrize("angle", [0.0, 0.5])
def test_a_square_of_an_image_that_opencv_finds_too_large_is_the_same(shape: tuple[int, int], angle: float):
    image = np.zeros((*shape, 3), np.uint8)
    part = np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8)
    y, x = np.array(shape) - 300
    image[y:, x:] = part
    region, near = (
        square(image, np.array([x + 140, y + 290]), 100, 64, angle),
        square(part, np.array([140, 290]), 100, 64, angle),
    )
    assert np.abs(region.pixels.astype(int) - near.pixels).max() <= 10 and near.pixels.any()
    np.testing.assert_allclose(
        region.points_to_image(np.zeros(2)) - [x, y], near.points_to_image(np.zeros(2)), atol=0.01
    )
    assert square(image, np.array([x, y]), 90_000, 64, angle).pixels.any()
