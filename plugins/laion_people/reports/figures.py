"""Figures: images with what was found in them drawn over, as the parts of an inline SVG.

The report and the page People show the same drawings, by shared/templates/figure.html.j2 and shared/static/figures.css.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from laion_people.errors import LaionPeopleError
from laion_people.reports.views import Composite

KEYPOINTS, FACE_POINTS = 17, 478  # of a skeleton (COCO-17) and of a face mesh, each x, y and a third number
BODY_PADDING, HEAD_PADDING = 0.15, 0.9  # share of a box that is shown around it
HEAD_POINTS = 5  # of COCO-17: nose, eyes, ears
KEYPOINT_SCORE = 0.2  # keypoints below it are guesses of hidden joints: not drawn

# Colours as #rrggbb. GROUP: Okabe and Ito's palette, which colour-blind people can tell apart.
BOX, MESH = "#ff4d6d", "#7debff"
LEFT, RIGHT, MIDDLE = "#ff9f1c", "#2e86ff", "#2ec460"
GROUP = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7")

# COCO's person skeleton (https://cocodataset.org/#keypoints-eval), keypoints counted from 0, each edge with its colour:
# the person's left orange, right blue, head and trunk green.
SKELETON = (
    *((a, b, LEFT) for a, b in ((5, 7), (7, 9), (11, 13), (13, 15), (1, 3))),
    *((a, b, RIGHT) for a, b in ((6, 8), (8, 10), (12, 14), (14, 16), (2, 4))),
    *((a, b, MIDDLE) for a, b in ((5, 6), (11, 12), (5, 11), (6, 12), (0, 1), (0, 2), (3, 5), (4, 6))),
)
# Outlines of the 478-point face mesh: oval, outer and inner lips, eyes, brows, irises, bridge of the nose
# (mediapipe.python.solutions.face_mesh_connections, Apache-2.0).
FACE_OUTLINES = (
    (10, 109, 67, 103, 54, 21, 162, 127, 234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152),
    (152, 377, 400, 378, 379, 365, 397, 288, 361, 323, 454, 356, 389, 251, 284, 332, 297, 338, 10),
    (0, 37, 39, 40, 185, 61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0),
    (13, 82, 81, 80, 191, 78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13),
    (249, 263, 466, 388, 387, 386, 385, 384, 398, 362, 382, 381, 380, 374, 373, 390, 249),
    (7, 33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7),
    (276, 283, 282, 295, 285),
    (300, 293, 334, 296, 336),
    (46, 53, 52, 65, 55),
    (70, 63, 105, 66, 107),
    (474, 477, 476, 475, 474),
    (469, 470, 471, 472, 469),
    (168, 6, 197, 195, 5, 4),
)


@dataclass(frozen=True, slots=True)
class Mark:
    """A path over a figure: its CSS classes, its data, its colour ("": the style sheet's), and its tooltip."""

    kind: str
    path: str
    colour: str = ""
    title: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """An image (address, size in pixels), what it shows in words, the part to show as a viewBox, and marks on it.

    The address is below the app on the page People, and a data URI in the report. Marks and viewBox are in pixels.
    """

    source: str
    width: int
    height: int
    label: str
    crop: str = ""
    marks: list[Mark] = field(default_factory=list)

    @property
    def whole(self) -> str:
        return f"0 0 {self.width} {self.height}"


def person_figure(person: Mapping[str, Any], source: str) -> Figure:
    """A person over the stored image, from columns of the people, pose and mesh tables; see `person_marks`."""
    width, height = person["image_width"], person["image_height"]
    crop = crop_box(person["bbox"], BODY_PADDING, width, height)
    return Figure(source, width, height, f"Person {person['person_id']}", crop, person_marks(person))


def choice_figure(kind: str, person: Mapping[str, Any], source: str) -> Figure:
    """What CLIP looked at, about: the body for a pose, the head (where the pose shows it) for the other kinds."""
    head = head_box(_points(person, "keypoints", KEYPOINTS)) if kind != "pose" and person["keypoints"] else None
    box, padding = (head, HEAD_PADDING) if head else (person["bbox"], BODY_PADDING)
    width, height = person["image_width"], person["image_height"]
    label = f"{kind.capitalize()} of person {person['person_id']}"
    return Figure(source, width, height, label, crop_box(box, padding, width, height))


def composite_figure(composite: Composite, source: str) -> Figure:
    """A composed image; people of one cluster have boxes of one colour."""
    marks = [
        box_mark(member.bbox, group_colour(member.group), f"{member.name}: {member.cluster_id}")
        for member in composite.members
    ]
    label = f"Composed image {composite.composite_id} of {len(composite.members)} people"
    return Figure(source, composite.width, composite.height, label, marks=marks)


def person_marks(person: Mapping[str, Any]) -> list[Mark]:
    """Box of a person, and face mesh and skeleton where there are ``face_landmarks`` and ``keypoints``.

    Raises LaionPeopleError when those are not as many as a face mesh or a skeleton has.
    """
    marks = [box_mark(person["bbox"])]
    if person.get("face_landmarks"):
        marks += face_mesh(_points(person, "face_landmarks", FACE_POINTS))
    if person.get("keypoints"):
        marks += skeleton(_points(person, "keypoints", KEYPOINTS))
    return marks


def _points(person: Mapping[str, Any], column: str, count: int) -> np.ndarray:
    """A column of triples as float32 [count, 3]."""
    values = person[column]
    if len(values) != 3 * count:
        table = "pose" if column == "keypoints" else "mesh"
        what = f"{len(values)} numbers in {column} of {person['person_id']}"
        raise LaionPeopleError(
            "damaged-file", f"the {table} table is damaged ({what}): run again the step that writes it"
        )
    return np.array(values, np.float32).reshape(count, 3)


def group_colour(group: int) -> str:
    """The colour of people of one cluster; there are few, so that those of the fifth have the first again."""
    return GROUP[group % len(GROUP)]


def crop_box(box: Iterable[float], padding: float, width: int, height: int) -> str:
    """The viewBox of a box x1, y1, x2, y2 (pixels) with ``padding`` of its size around it, within the image."""
    x1, y1, x2, y2 = box
    dx, dy = (x2 - x1) * padding, (y2 - y1) * padding
    left, top, right, bottom = max(0.0, x1 - dx), max(0.0, y1 - dy), min(width, x2 + dx), min(height, y2 + dy)
    return f"{_n(left)} {_n(top)} {_n(max(right - left, 1))} {_n(max(bottom - top, 1))}"


def box_mark(box: Iterable[float], colour: str = BOX, title: str = "") -> Mark:
    """The outline of a box x1, y1, x2, y2 (pixels)."""
    x1, y1, x2, y2 = box
    return Mark("box", f"M{_n(x1)} {_n(y1)}H{_n(x2)}V{_n(y2)}H{_n(x1)}Z", colour, title)


def skeleton(keypoints: np.ndarray) -> list[Mark]:
    """The skeleton of keypoints float32 [17, 3] (COCO-17 x, y, score); guesses of hidden joints are left out."""
    seen = (keypoints[:, 2] >= KEYPOINT_SCORE) & np.isfinite(keypoints).all(axis=1)
    lines = dict.fromkeys((LEFT, RIGHT, MIDDLE), "")
    for a, b, colour in SKELETON:
        if seen[a] and seen[b]:
            lines[colour] += _line(keypoints[[a, b], :2])
    halo = Mark("pose halo", "".join(lines.values()))
    joints = Mark("pose joints", _dots(keypoints[seen, :2]))
    marks = [halo, *(Mark("pose", path, colour) for colour, path in lines.items()), joints]
    return [mark for mark in marks if mark.path]


def face_mesh(landmarks: np.ndarray) -> list[Mark]:
    """Outlines and points of a face mesh, float32 [478, 3]."""
    points = landmarks[:, :2]
    if not np.isfinite(points).all():
        return []
    outlines = "".join(_line(points[list(outline)]) for outline in FACE_OUTLINES)
    return [Mark("mesh points", _dots(points), MESH), Mark("mesh outlines", outlines, MESH)]


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
