"""Area averaging: the pixels of OpenCV's INTER_AREA."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laion_people.vision.shrinking import shrunk

SIDES = st.integers(1, 90)


@given(SIDES, SIDES, st.floats(0, 1), st.floats(0, 1), st.integers(0, 9))
def test_pixels_are_those_of_opencv_but_for_rounding(
    height: int, width: int, shorter: float, narrower: float, seed: int
) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    size = max(1, round(width * narrower)), max(1, round(height * shorter))
    opencv = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    assert cv2.absdiff(shrunk(image, size), opencv).max(initial=0) <= 1


def test_a_photo_differs_by_rounding_in_few_pixels_if_at_all() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    photo = cv2.resize(noise, (1201, 899), interpolation=cv2.INTER_CUBIC)
    difference = cv2.absdiff(shrunk(photo, (513, 384)), cv2.resize(photo, (513, 384), interpolation=cv2.INTER_AREA))
    assert difference.max() <= 1 and difference.mean() < 1e-3


@pytest.mark.parametrize("value", [0, 1, 128, 254, 255])
def test_a_colour_stays_what_it_is(value: int) -> None:
    assert (shrunk(np.full((997, 1009, 3), value, np.uint8), (389, 384)) == value).all()


def test_an_image_that_is_turned_or_may_not_be_written_to_can_be_shrunk() -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    image.flags.writeable = False
    turned = image.swapaxes(0, 1)
    assert (shrunk(turned, (20, 30)) == shrunk(turned.copy(), (20, 30))).all()
    assert shrunk(image, (30, 20)).flags.writeable
