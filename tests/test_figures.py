"""Drawings over images, as the report and the page People show them."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from laion_people.errors import LaionPeopleError
from laion_people.reports.figures import (
    BOX,
    LEFT,
    MESH,
    RIGHT,
    Mark,
    choice_figure,
    composite_figure,
    person_figure,
    person_marks,
    skeleton,
)
from laion_people.reports.views import composite_of
from tests.fakes import UPRIGHT


def somebody(score: float = 0.9, **columns: Any) -> dict[str, Any]:
    """A person of 80 x 180 pixels who stands in an image of 100 x 200, with a face mesh around (50, 40)."""
    angle = np.linspace(0, 2 * np.pi, 478)
    face = np.stack([50 + 20 * np.cos(angle), 40 + 20 * np.sin(angle), 0 * angle], axis=1)
    keypoints = np.concatenate([UPRIGHT * [80, 180] + [10, 10], np.full((17, 1), score)], axis=1)
    person = {
        "person_id": "c/00000/00000/000000001/0",
        "image_width": 100,
        "image_height": 200,
        "bbox": [10.0, 10.0, 90.0, 190.0],
        "keypoints": keypoints.ravel().tolist(),
        "face_landmarks": face.ravel().tolist(),
    }
    return person | columns


def points(marks: list[Mark]) -> np.ndarray:
    """All points that absolute commands of some paths name, [points, 2]."""
    named = re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", " ".join(mark.path for mark in marks))
    return np.array(named, float)


def test_a_box_is_drawn_where_the_person_is() -> None:
    assert person_marks(somebody())[0] == Mark("box", "M10 10H90V190H10Z", BOX)


def test_left_and_right_limbs_have_their_colours() -> None:
    assert {LEFT, RIGHT} <= {mark.colour for mark in person_marks(somebody()) if mark.kind == "pose"}


def test_joints_that_the_model_guesses_are_not_drawn() -> None:
    assert not [mark for mark in person_marks(somebody(score=0.05)) if mark.kind.startswith("pose")]


def test_a_mesh_is_drawn_for_those_who_have_one() -> None:
    mesh = [mark for mark in person_marks(somebody()) if mark.kind.startswith("mesh")]
    assert {mark.colour for mark in mesh} == {MESH}
    assert points(mesh).min(axis=0).tolist() == [30, 20] and points(mesh).max(axis=0).tolist() == [70, 60]
    assert len(person_marks(somebody(face_landmarks=None, keypoints=None))) == 1


@pytest.mark.parametrize("column", ["keypoints", "face_landmarks"])
def test_too_few_numbers_are_a_damaged_table(column: str) -> None:
    with pytest.raises(LaionPeopleError, match=r"\[damaged-file\]$"):
        person_marks(somebody(**{column: [1.0, 2.0, 3.0]}))


def test_points_that_are_no_numbers_are_not_drawn() -> None:
    assert skeleton(np.full((17, 3), np.nan, np.float32)) == []
    assert len(person_marks(somebody(face_landmarks=[float("nan")] * 1434, keypoints=None))) == 1


def test_people_outside_of_the_image_can_be_shown() -> None:
    left, top, width, height = map(float, person_figure(somebody(bbox=[-50, -50, 400, 400]), "x").crop.split())
    assert (left, top, width, height) == (0, 0, 100, 200)
    assert person_figure(somebody(bbox=[20, 20, 20, 20]), "x").crop == "20 20 1 1"


def test_a_caption_of_a_pose_stands_below_the_body_and_others_below_the_head() -> None:
    sizes = {kind: float(choice_figure(kind, somebody(), "x").crop.split()[3]) for kind in ("pose", "face", "head")}
    assert sizes["face"] == sizes["head"] < sizes["pose"] / 2
    unseen = choice_figure("face", somebody(keypoints=None), "x")
    assert unseen.crop == choice_figure("pose", somebody(), "x").crop


def test_people_of_one_cluster_have_boxes_of_one_colour() -> None:
    people = [
        {"person_id": f"c/00000/00000/00000000{i}/0", "bbox": [10 * i, 0, 10 * i + 5, 9], "cluster_id": cluster_id}
        for i, cluster_id in enumerate(["pose-0004", "pose-0007", "pose-0004"])
    ]
    row = {"composite_id": "c/00000/00000/0", "caption": "", "aspect": "pose", "n_people": 3, "n_similar": 2}
    row |= {"people": people, "background_key": "1", "width": 64, "height": 32}
    figure = composite_figure(composite_of(row), "x")
    first, second, third = (mark.colour for mark in figure.marks)
    assert first == third != second
    assert figure.whole == "0 0 64 32" and figure.marks[1].title == "000000001/0: pose-0007"
