"""Figures: stored images with what was found in them drawn over, as the parts of an inline SVG."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from laion_people.vision.drawing import FACE_OUTLINES, KEYPOINT_SCORE, LEFT, MIDDLE, RIGHT, SKELETON

SIDES = {"left": LEFT, "right": RIGHT, "middle": MIDDLE}  # classes of browse.css
BODY_PADDING, HEAD_PADDING = 0.15, 0.9  # share of a box that is shown around it
HEAD_POINTS = 5  # of COCO-17: nose, eyes, ears


@dataclass(frozen=True, slots=True)
class Mark:
    """A path over a figure: its CSS class, its data, and what it says when it is pointed at."""

    kind: str
    path: str
    title: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """An image (address below the app, size in pixels), the part of it to show as a viewBox, and marks on it."""

    source: str
    width: int
    height: int
    crop: str
    label: str
    marks: list[Mark] = field(default_factory=list)

    @property
    def whole(self) -> str:
        return f"0 0 {self.width} {self.height}"


def crop_box(box: Iterable[float], padding: float, width: int, height: int) -> str:
    """The viewBox of a box x1, y1, x2, y2 (pixels) with ``padding`` of its size around it, within the image."""
    x1, y1, x2, y2 = box
    dx, dy = (x2 - x1) * padding, (y2 - y1) * padding
    left, top, right, bottom = max(0.0, x1 - dx), max(0.0, y1 - dy), min(width, x2 + dx), min(height, y2 + dy)
    return f"{_n(left)} {_n(top)} {_n(max(right - left, 1))} {_n(max(bottom - top, 1))}"


def box_mark(box: Iterable[float], kind: str = "box", title: str = "") -> Mark:
    x1, y1, x2, y2 = box
    return Mark(kind, f"M{_n(x1)} {_n(y1)}H{_n(x2)}V{_n(y2)}H{_n(x1)}Z", title)


def skeleton(keypoints: np.ndarray) -> list[Mark]:
    """The skeleton of keypoints float32 [17, 3] (COCO-17 x, y, score); guesses of hidden joints are left out."""
    seen = (keypoints[:, 2] >= KEYPOINT_SCORE) & np.isfinite(keypoints).all(axis=1)
    lines = {
        side: "".join(_line(keypoints[[a, b], :2]) for a, b, of in SKELETON if of == colour and seen[a] and seen[b])
        for side, colour in SIDES.items()
    }
    parts = {"pose halo": "".join(lines.values()), **{f"pose {side}": path for side, path in lines.items()}}
    parts["pose joints"] = _dots(keypoints[seen, :2])
    return [Mark(kind, path) for kind, path in parts.items() if path]


def face_mesh(landmarks: np.ndarray) -> list[Mark]:
    """Outlines and points of a face mesh, float32 [478, 3]."""
    points = landmarks[:, :2]
    if not np.isfinite(points).all():
        return []
    outlines = "".join(_line(points[list(outline)]) for outline in FACE_OUTLINES)
    return [Mark("mesh points", _dots(points)), Mark("mesh outlines", outlines)]


def head_box(keypoints: np.ndarray) -> tuple[float, float, float, float] | None:
    """A square around the head's keypoints of float32 [17, 3]; None where fewer than two of them are seen."""
    head = keypoints[:HEAD_POINTS]
    head = head[(head[:, 2] >= KEYPOINT_SCORE) & np.isfinite(head).all(axis=1), :2]
    if len(head) < 2:
        return None
    (x, y), half = (head.min(axis=0) + head.max(axis=0)) / 2, max(float(np.ptp(head, axis=0).max()) / 2, 4.0)
    return float(x) - half, float(y) - half, float(x) + half, float(y) + half


def _line(points: np.ndarray) -> str:
    return "M" + "L".join(f"{_n(x)} {_n(y)}" for x, y in points.tolist())


def _dots(points: np.ndarray) -> str:
    """Lines of no length, which round caps make dots."""
    return "".join(f"M{_n(x)} {_n(y)}h0" for x, y in points.tolist())


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
