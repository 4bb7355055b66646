"""Pastes people into a picture: where each cut-out goes, and the drawing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

HEIGHT = 512  # pixels of a composed picture
WIDTHS = (512, 768)  # pixels, narrowest and widest; the people decide
MAX_ENLARGED = 2.0  # people are not enlarged more
MAX_BACKGROUND_ENLARGED = 3.0  # img2dataset's default of 256 px is enough for the widest picture
TALLEST, SHORTEST = 0.86, 0.4  # heights of people, as shares of the picture's height
GAP = 0.02  # free space beside each person, at least: share of the picture's width
GROUND = 0.95  # share of the picture's height at which feet stand


def arrange(sizes: np.ndarray, cut: bool, rng: np.random.Generator) -> tuple[int, np.ndarray] | None:
    """Places cut-outs side by side: the picture's width in pixels, and int [people, 4] rectangles x1, y1, x2, y2.

    ``sizes`` are the widths and heights of the cut-outs, in pixels, [people, 2]. With ``cut``, the people are cut off
    above their feet and end at the picture's lower edge; others stand on one line. Heights differ by a tenth at most;
    rectangles never touch. None if people would be too small or thin, or enlarged too much.
    """
    jitter = rng.uniform(0.9, 1.0, len(sizes))
    ratios = jitter * sizes[:, 0] / sizes[:, 1]  # widths for a height of 1
    used = 1 - GAP * (len(sizes) + 1)
    tallest = min(TALLEST * HEIGHT, MAX_ENLARGED * (sizes[:, 1] / jitter).min(), WIDTHS[1] * used / ratios.sum())
    if tallest < SHORTEST * HEIGHT:
        return None
    tallest = max(tallest * rng.uniform(0.85, 1.0), SHORTEST * HEIGHT)
    width = int(np.clip(tallest * ratios.sum() / used * rng.uniform(1.1, 1.4), *WIDTHS))
    heights, widths = np.floor(tallest * jitter), np.floor(tallest * ratios)
    if widths.min() < 1:  # boxes as thin as a line
        return None
    spare = width * used - widths.sum()
    gaps = GAP * width + spare * rng.dirichlet(np.full(len(sizes) + 1, 8.0))
    left = np.floor(np.cumsum(gaps[:-1] + np.concatenate([[0], widths[:-1]])))
    bottom = np.full(len(sizes), HEIGHT if cut else round(GROUND * HEIGHT))
    return width, np.stack([left, bottom - heights, left + widths, bottom], axis=1).astype(int)


def enlarged(size: tuple[int, int]) -> tuple[int, int]:
    """The largest size at which a cut-out of this size is pasted; width and height in pixels."""
    scale = min(TALLEST * HEIGHT / size[1], MAX_ENLARGED)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def fits(background: Image.Image) -> bool:
    """Whether a background is large enough for the widest picture, and not higher than wide: most would be cut off."""
    large = max(WIDTHS[1] / background.width, HEIGHT / background.height) <= MAX_BACKGROUND_ENLARGED
    return large and background.width >= background.height


def canvas(background: Image.Image, width: int) -> Image.Image:
    """The middle of a background, filling a picture of ``width`` x ``HEIGHT`` pixels."""
    return ImageOps.fit(background, (width, HEIGHT), Image.Resampling.LANCZOS)


def paste(picture: Image.Image, cutouts: Sequence[Image.Image], places: np.ndarray) -> None:
    """Pastes cut-outs into the rectangles ``places`` of a picture. They are RGB, or RGBA with a matte."""
    for cutout, (x1, y1, x2, y2) in zip(cutouts, places.tolist(), strict=True):
        resized = cutout.resize((x2 - x1, y2 - y1), Image.Resampling.LANCZOS)
        picture.paste(resized, (x1, y1), resized if resized.mode == "RGBA" else None)
