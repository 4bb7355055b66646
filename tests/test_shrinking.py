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


@pytest.mark.parametrize("size", [(1600, 1067), (1280, 853), (1024, 683), (899, 1201)])
def test_a_photo_differs_in_less_than_one_of_10_000_values(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    photo = cv2.resize(noise, size, interpolation=cv2.INTER_CUBIC)
    scale = 384 / min(size)
    small = round(size[0] * scale), round(size[1] * scale)
    difference = cv2.absdiff(shrunk(photo, small), cv2.resize(photo, small, interpolation=cv2.INTER_AREA))
    assert difference.max() <= 1 and difference.mean() < 1e-4


@pytest.mark.parametrize("size", [(512, 640), (640, 512), (1024, 768), (1152, 768), (600, 800)])
def test_halves_are_rounded_as_opencv_rounds_them(size: tuple[int, int]) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    for small in ((size[0] * 3 // 4, size[1] * 3 // 4), (size[0] // 2, size[1] // 2), (size[0] * 3 // 8, size[1] // 2)):
        assert (shrunk(photo, small) == cv2.resize(photo, small, interpolation=cv2.INTER_AREA)).all()


@pytest.mark.parametrize("value", [0, 1, 128, 254, 255])
def test_a_colour_stays_what_it_is(value: int) -> None:
    assert (shrunk(np.full((997, 1009, 3), value, np.uint8), (389, 384)) == value).all()


def test_an_image_that_is_turned_or_may_not_be_written_to_can_be_shrunk() -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    image.flags.writeable = False
    turned = image.swapaxes(0, 1)
    assert (shrunk(turned, (20, 30)) == shrunk(turned.copy(), (20, 30))).all()
    assert shrunk(image, (30, 20)).flags.writeable
