"""The boxes of the packaged detector: its rules on numbers, and portraits cut out of the sample."""

from __future__ import annotations

import numpy as np
import pytest

from include.models.movenet import is_person
from include.models.nanodet import Objects
from include.models.profiles import load_profile
from include.models.regions import square
from include.models.skeletons import one_person, with_heads
from tests.models import sample

PROFILE = load_profile("packaged")
SIDE = 384


@pytest.mark.parametrize(
    ("score", "person", "animal", "is_one"),
    [
        (0.3, 0.7, 0.2, True),
        (0.3, 0.0, 0.0, True),  # MultiPose alone is sure
        (0.13, 0.3, 0.0, True),  # neither is sure, but both see somebody
        (0.13, 0.1, 0.0, False),
        (0.33, 0.07, 0.53, False),  # a lion
        (0.24, 0.57, 0.4, True),  # a rider
    ],
)
def test_an_animal_and_what_nobody_is_sure_of_are_no_people(score: float, person: float, animal: float, is_one: bool):
    assert is_person(*np.array([[score], [person], [animal]])).tolist() == [is_one]


def test_a_box_is_named_by_what_fills_it_and_not_by_what_it_holds():
    scores = np.zeros((3, 80), np.float32)
    scores[0, 0], scores[1, 16], scores[2, 16] = 0.6, 0.3, 0.9
    small_dog, dog, person = [40, 40, 60, 60], [0, 0, 50, 100], [0, 0, 60, 100]
    person_score, animal = Objects(np.array([person, dog, small_dog], np.float32), scores).names(np.array([person]))
    assert np.allclose([person_score, animal], [[0.6], [0.3]])


def skeleton(x: float, y: float, size: float = 100.0) -> np.ndarray:
    """A standing person: 17 keypoints, all sure, from the head at x, y to the feet ``size`` below."""
    across = [0, 2, -2, 5, -5, 11, -11, 14, -14, 15, -15, 8, -8, 8, -8, 8, -8]
    down = [2, 0, 0, 1, 1, 15, 15, 32, 32, 48, 48, 50, 50, 75, 75, 100, 100]
    return np.stack([x + np.array(across) * size / 100, y + np.array(down) * size / 100, np.ones(17)], axis=1)


def test_two_skeletons_with_one_face_or_one_body_are_one_person():
    alone, shaken, beside = skeleton(100, 50), skeleton(102, 49), skeleton(125, 50)
    strip, turned = skeleton(101, 51), skeleton(100, 50)
    strip[5:, 2] = 0.05  # MultiPose's strip has only the head
    turned[:5, 2] = 0.05  # from behind, no face is seen
    same = one_person(np.array([alone, shaken, beside, strip, turned]))
    assert same.tolist() == [
        [True, True, False, True, True],
        [True, True, False, True, True],
        [False, False, True, False, False],
        [True, True, False, True, False],
        [True, True, False, False, True],
    ]


def test_a_small_face_beside_a_large_one_is_somebody_elses():
    assert not one_person(np.array([skeleton(200, 100, 400), skeleton(230, 90, 100)]))[0, 1]


def test_a_box_grows_to_hold_the_head_and_else_stays():
    person = skeleton(100, 50)
    unsure = np.where(np.arange(3) == 2, 0.1, person)
    boxes = np.array([[85, 48, 115, 150], [80, 35, 120, 155], [85, 48, 115, 150]], np.float32)
    grown = with_heads(boxes, np.array([person, person, unsure]))
    assert grown[0, 1] < 45 and grown[0].tolist()[::2] == [85, 115] and grown[0, 3] == 150
    assert np.array_equal(grown[1:], boxes[1:])


def portraits(head_widths: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Faces of the sample, cut out with this width, and the places of nose and eyes in them."""
    cut = []
    for truth in sample.load():
        if len(truth.people) != 1:
            continue
        head = truth.joints[0, :5, :2]
        width = np.linalg.norm(head[:, None] - head[None], axis=-1).max()
        if truth.people[0]["face_visible"] and width > 25:
            region = square(truth.image, head.mean(0), width * head_widths, SIDE)
            cut.append((region.pixels, (head[:3] - region.to_image[:, 2]) / region.scale))
    return cut


@pytest.mark.parametrize("head_widths", [2.0, 2.6])
def test_a_portrait_is_one_person_whose_box_holds_the_head(head_widths: float):
    """Without NanoDet, nearly all were a strip from ear to ear, and some a strip and a person."""
    faces = portraits(head_widths)
    detections = PROFILE.load("detector").detect([pixels for pixels, _ in faces])
    assert len(faces) > 15 and max(len(people.boxes) for people in detections) == 1
    whole = [
        len(people.boxes) == 1 and people.boxes[0, 1] < eyes[:, 1].min() - SIDE / head_widths / 3
        and np.ptp(people.boxes[0].reshape(2, 2), axis=0).min() > SIDE / 2
        for people, (_, eyes) in zip(detections, faces, strict=True)
    ]  # fmt: skip
    assert np.mean(whole) >= 0.9


def test_keypoints_of_a_portrait_are_on_its_face():
    """The box is the whole picture; MultiPose's own box is only a strip of it."""
    faces = portraits(2.0)
    whole = [np.array([[0, 0, SIDE, SIDE]], np.float32)] * len(faces)
    poses = PROFILE.load("pose").estimate([pixels for pixels, _ in faces], whole)
    apart = [np.abs(p.keypoints[0, :3, :2] - eyes).max() for p, (_, eyes) in zip(poses, faces, strict=True)]
    assert np.max(apart) < SIDE / 2.0 / 3


def test_people_close_together_get_their_own_skeletons():
    together = [truth for truth in sample.load() if len(truth.people) > 1]
    poses = PROFILE.load("pose").estimate([t.image for t in together], [t.boxes for t in together])
    assert len(together) > 5
    own = []
    for truth, pose in zip(together, poses, strict=True):
        apart = np.linalg.norm(pose.keypoints[:, None, :, :2] - truth.joints[None, ..., :2], axis=-1).mean(-1)
        own.extend(apart.argmin(1) == np.arange(len(apart)))
    assert np.mean(own) >= 0.97
