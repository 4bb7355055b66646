"""Contact sheets: rows of pictures that fill the width."""

from __future__ import annotations

import io
from itertools import groupby, pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from laion_people.steps.cluster.contactsheets import (
    GAP,
    GROUND,
    HIGHEST,
    LOWEST,
    PICTURES,
    SLIMMEST,
    WIDTH,
    _sheet,
    arrange,
)

SHAPES = st.lists(st.floats(SLIMMEST, 1 / SLIMMEST), min_size=1, max_size=PICTURES)
PEOPLE = [0.41, 0.38, 0.55, 0.36, 0.47, 1.3, 0.4, 0.43, 0.62, 0.39, 0.44, 0.5]  # width to height


@given(SHAPES)
@example([20.0, 24.0, 24.0, 24.0, 0.046875])  # all in one row would be 10 pixels high, the last one of no width
def test_rows_fill_the_width_in_order_and_nothing_overlaps(shapes: list[float]) -> None:
    slots = arrange(shapes)
    rows = [list(row) for _, row in groupby(slots, key=lambda slot: slot.top)]
    assert len(slots) == len(shapes) and slots[0].top == 0
    for row in rows:
        assert row[0].height >= (LOWEST if len(row) > 1 else WIDTH * SLIMMEST)
        assert len({slot.height for slot in row}) == 1 and min(slot.width for slot in row) > 0
        assert all(b.left == a.left + a.width + GAP for a, b in pairwise(row))
        left, right = row[0].left, WIDTH - row[-1].left - row[-1].width
        assert left == right == 0 or (row[0].height == HIGHEST and abs(left - right) <= 1 and left >= 0)
    assert all(below[0].top == row[0].top + row[0].height + GAP for row, below in pairwise(rows))


@given(SHAPES)
def test_pictures_keep_their_shape_but_for_a_pixel(shapes: list[float]) -> None:
    for shape, slot in zip(shapes, arrange(shapes), strict=True):
        narrowest, widest = shape * (slot.height - 0.5), shape * (slot.height + 0.5)
        assert narrowest - 1.01 <= slot.width <= widest + 1.01


@pytest.mark.parametrize("count", range(1, PICTURES + 1))
def test_sheets_of_people_are_of_a_sensible_size(count: int) -> None:
    slots = arrange(PEOPLE[:count])
    assert 120 <= slots[0].height <= HIGHEST and slots[-1].top + slots[-1].height <= 2 * HIGHEST


@pytest.mark.parametrize("shape", [1e-6, 1e6])
def test_of_a_sliver_the_middle_is_shown(shape: float) -> None:
    [slot] = arrange([shape])
    assert slot.width >= HIGHEST * SLIMMEST and slot.height >= WIDTH * SLIMMEST


def test_the_pictures_are_in_their_places_undistorted_and_on_neutral_ground() -> None:
    pictures = []
    for i, shape in enumerate(PEOPLE[:5]):
        picture = Image.new("RGB", (round(300 * shape), 300), (40 * i, 0, 255 - 40 * i))
        x, y = picture.width / 2, picture.height / 2
        ImageDraw.Draw(picture).ellipse((x - 40, y - 40, x + 40, y + 40), fill=(0, 255, 0))
        pictures.append(picture)
    slots = arrange([picture.width / picture.height for picture in pictures])
    sheet = np.asarray(Image.open(io.BytesIO(_sheet(pictures, slots)))).astype(int)
    assert sheet.shape == (slots[-1].top + slots[-1].height, WIDTH, 3)
    assert np.abs(sheet[:, 2] - GROUND).max() < 12  # five slim people are too few for the width
    for i, slot in enumerate(slots):
        pixels = sheet[slot.top : slot.top + slot.height, slot.left : slot.left + slot.width]
        assert np.abs(pixels[8, 8] - [40 * i, 0, 255 - 40 * i]).max() < 12
        disc = (pixels[..., 1] > 128) & (pixels[..., 0] < 100 + 20 * i)
        height, width = np.ptp(np.flatnonzero(disc.any(axis=1))), np.ptp(np.flatnonzero(disc.any(axis=0)))
        assert abs(height - width) <= 3
