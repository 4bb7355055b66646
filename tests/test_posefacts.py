"""Facts of bodies: each value on a body that shows it, and values that no picture may change."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from laion_people.language.facts import VALUES, closure
from laion_people.steps.facts.posefacts import pose_facts
from laion_people.vision import geometry
from tests import skeletons
from tests.skeletons import HANGING, POSES, STRAIGHT, Limbs, Vector

BENT = ((0.15, -1, 0), (0.1, 0.1, 1))
BEFORE = ((0.2, -1, 0.1), (-0.8, 0.2, 0.8))
AKIMBO = ((0.8, -1, -0.1), (-0.5, -0.85, 0.25))
AT_HEAD = ((0.8, 0.3, 0.2), (-1, 0.65, 0.1))
AWAY = ((0.85, -0.85, 0), (0.75, -0.9, 0.05))
IN_LAP = ((0.1, -1, 0.1), (-0.05, -0.75, 0.6))
SEATED = ((0.12, -0.05, 1), (0, -1, 0))
KNEELING = ((0.05, -1, 0), (0, -0.1, -1))
STRIDE = ((0.12, -0.12, 1), (0.05, -1, 0))
REACHING_DOWN = ((0.05, -0.15, 1), (0, -0.1, 1))  # for a trunk turned forward by 90 degrees: to the ground
BODIES: dict[str, Limbs] = {
    **POSES,
    "bent": (BENT, BENT, STRAIGHT, STRAIGHT),
    "in front": (BEFORE, BEFORE, STRAIGHT, STRAIGHT),
    "at head": (AT_HEAD, HANGING, STRAIGHT, STRAIGHT),
    "away": (AWAY, AWAY, STRAIGHT, STRAIGHT),
    "seat": (IN_LAP, IN_LAP, SEATED, SEATED),
    "akimbo": (AKIMBO, AKIMBO, STRAIGHT, STRAIGHT),
    "sprint": (HANGING, HANGING, ((0.05, -0.7, 0.7), (0, -1, 0)), ((0.05, -1, -0.3), (0, -0.05, -1))),
    "lunge": (HANGING, HANGING, ((1, -0.7, 0), (0.1, -1, 0)), ((0.9, -1, 0), (0.9, -1, 0))),
    "kneel": (HANGING, HANGING, KNEELING, KNEELING),
    "one knee": (HANGING, HANGING, STRIDE, KNEELING),
    "kick": (HANGING, HANGING, STRAIGHT, ((0.5, 0.1, 1), (0.5, 0.1, 1))),
    "feet together": (HANGING, HANGING, ((0, -1, 0), (0, -1, 0)), ((0, -1, 0), (0, -1, 0))),
    "astride": (HANGING, HANGING, ((0.4, -1, 0), (0.4, -1, 0)), ((0.4, -1, 0), (0.4, -1, 0))),
    "on all fours": (REACHING_DOWN, REACHING_DOWN, ((0, 0, 1), (0, -1, 0)), ((0, 0, 1), (0, -1, 0))),
}
SIDES = np.array([0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15])


def turned(points: np.ndarray, axis: Vector, degrees: float) -> np.ndarray:
    """Points, turned about an axis (Rodrigues)."""
    x, y, z = np.array(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turn = np.eye(3) + np.sin(np.radians(degrees)) * cross + (1 - np.cos(np.radians(degrees))) * cross @ cross
    return points @ turn.T


class Person:
    """A body before the camera: keypoints [17, 3] of a picture of 1000 pixels, landmarks [17, 3] in metres."""

    def __init__(self, name: str, *, yaw: float = 0, bow: float = 0, roll: float = 0, seed: int | None = None) -> None:
        rng = np.random.default_rng(seed)
        body = skeletons.joints(BODIES[name], rng, 0 if seed is None else 0.03)
        body = turned(body - body[skeletons.HIPS].mean(axis=0), (1, 0, 0), bow)
        camera = turned(turned(body, (0, 1, 0), yaw), (0, 0, 1), roll) * [1, -1, -1]
        self.world = camera
        self.keypoints = np.concatenate([camera[:, :2] * 300 + 450, np.full((17, 1), 0.8)], axis=1)
        if seed is not None:
            self.keypoints[:, :2] += rng.normal(0, 2, (17, 2))
            self.world = camera + rng.normal(0, 0.015, (17, 3))

    def facts(self, *, depth: bool = True) -> dict[str, str]:
        world = np.zeros((33, 3))
        world[geometry.COCO_IN_BLAZEPOSE] = self.world
        people = pa.table({"image_width": [1000], "image_height": [1000]})
        pose = pa.table(
            {
                "keypoints": [self.keypoints.ravel().tolist()],
                "world_landmarks": pa.array([world.ravel().tolist() if depth else None], pa.list_(pa.float32())),
            }
        )
        (facts,) = pose_facts(people, pose)
        assert len({fact.name for fact in facts}) == len(facts)
        for fact in facts:
            assert fact.value in VALUES["pose"][fact.name]
            assert 0.5 <= fact.confidence <= 1
        self.least = min((fact.confidence for fact in facts), default=1.0)
        return {fact.name: fact.value for fact in facts}

    def stays(self, before: dict[str, str], *, depth: bool) -> bool:
        """Whether the facts are the same as ``before``, none at the edge of a rule, where rounding decides."""
        least = self.least
        after = self.facts(depth=depth)
        assume(min(least, self.least) > 0.51)
        return after == before


@pytest.mark.parametrize("depth", [True, False], ids=["landmarks", "lifted"])
@pytest.mark.parametrize(
    ("name", "yaw", "expected"),
    [
        ("stand", 0, {"base": "standing", "left_arm": "down", "lean": "upright", "view": "front"}),
        ("feet together", 0, {"base": "standing", "legs_apart": "no"}),
        ("stand", 180, {"base": "standing", "right_arm": "down", "view": "back"}),
        ("stand", 45, {"view": "three_quarter", "lean": "upright"}),
        ("stand", 90, {"view": "side", "lean": "upright"}),
        ("astride", 0, {"base": "on_feet", "legs_apart": "yes"}),
        ("arms out", 0, {"left_arm": "out", "right_arm": "out"}),
        ("arms up", 0, {"left_arm": "overhead", "right_arm": "overhead"}),
        ("wave", 0, {"left_arm": "down", "right_arm": "raised"}),
        ("at head", 0, {"left_arm": "at_head", "right_arm": "down"}),
        ("akimbo", 0, {"left_arm": "on_hip", "right_arm": "on_hip"}),
        ("away", 0, {"left_arm": "away", "right_arm": "away"}),
        ("in front", 0, {"left_arm": "in_front", "right_arm": "in_front"}),
        ("bent", 75, {"left_arm": "bent", "right_arm": "bent"}),
        ("reach", 90, {"left_arm": "forward", "right_arm": "forward"}),
        ("seat", 40, {"base": "sitting", "left_arm": "in_lap"}),
        ("squat", 0, {"base": "knees_bent"}),
        ("sprint", 30, {"base": "running"}),
        ("tree", 0, {"base": "one_leg"}),
        ("lunge", 0, {"base": "lunging"}),
        ("kneel", 90, {"base": "kneeling"}),
        ("one knee", 90, {"base": "one_knee"}),
    ],
)
def test_a_body_is_told_as_what_it_does(name: str, yaw: float, expected: dict[str, str], depth: bool) -> None:
    facts = Person(name, yaw=yaw).facts(depth=depth)
    assert {key: facts.get(key) for key in expected} == expected


@pytest.mark.parametrize("depth", [True, False], ids=["landmarks", "lifted"])
@pytest.mark.parametrize(
    ("person", "expected"),
    [
        (Person("stand", yaw=90, bow=35), {"lean": "forward", "view": "side"}),
        (Person("stand", yaw=90, bow=90), {"base": "lying", "lean": "horizontal"}),
        (Person("arms up", roll=180), {"lean": "upside_down"}),
        (Person("on all fours", yaw=90, bow=90), {"base": "all_fours", "left_arm": "on_ground"}),
    ],
    ids=["forward", "lying", "upside down", "all fours"],
)
def test_a_trunk_is_told_by_its_tilt(person: Person, expected: dict[str, str], depth: bool) -> None:
    facts = person.facts(depth=depth)
    assert {key: facts.get(key) for key in expected} == expected


def test_some_values_take_landmarks() -> None:
    assert Person("kick", yaw=45).facts()["base"] == "kicking"
    assert Person("kick", yaw=45).facts(depth=False)["base"] == "one_leg"
    assert Person("stand", roll=35).facts()["lean"] == "sideways"
    assert "lean" not in Person("stand", roll=35).facts(depth=False)
    assert Person("stand", yaw=90, bow=-35).facts()["lean"] == "backward"
    assert "lean" not in Person("stand", yaw=90, bow=-35).facts(depth=False)


@pytest.mark.parametrize("depth", [True, False], ids=["landmarks", "lifted"])
def test_knees_that_the_picture_cuts_off_do_not_kneel(depth: bool) -> None:
    person = Person("stand")
    person.keypoints[:, 1] += 1000 - person.keypoints[13:15, 1].max() - 10
    person.keypoints[15:17, 1] = 995  # MoveNet puts feet here that are outside
    assert person.facts(depth=depth).get("base") in (None, "on_feet")


def test_a_chest_turned_against_the_shoulders_of_the_picture_tells_no_view() -> None:
    person = Person("stand")
    person.world = person.world * [-1, 1, -1]  # landmarks of a person seen from behind
    assert "view" not in person.facts()


seeds = st.integers(0, 10**6)
anyone = st.builds(Person, st.sampled_from(sorted(BODIES)), yaw=st.floats(-180, 180), seed=seeds)


@given(anyone, st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_mirrored_person_has_the_arms_exchanged_and_nothing_else(person: Person, depth: bool) -> None:
    before = person.facts(depth=depth)
    person.keypoints = person.keypoints[SIDES] * [-1, 1, 1] + [1000, 0, 0]
    person.world = person.world[SIDES] * [-1, 1, 1]
    opposite = {"left_arm": "right_arm", "right_arm": "left_arm"}
    assert person.stays({opposite.get(name, name): value for name, value in before.items()}, depth=depth)


@given(anyone, st.booleans(), st.floats(0.3, 0.9), st.floats(-40, 40))
@settings(max_examples=60, deadline=None)
def test_size_and_place_change_nothing(person: Person, depth: bool, size: float, shift: float) -> None:
    before = person.facts(depth=depth)
    person.keypoints[:, :2] = person.keypoints[:, :2] * size + [shift, min(shift, 0)]
    person.world = person.world * size
    assert person.stays(before, depth=depth)


HIDDEN = {  # hidden joints -> facts that are then missing
    (5, 6): ("left_arm", "right_arm", "lean", "view"),
    (7,): ("left_arm",),
    (8,): ("right_arm",),
    (9,): ("left_arm",),
    (10,): ("right_arm",),
    (11, 12): ("base", "lean"),
    (13, 14): ("base",),
    (15,): ("legs_apart",),
}


@given(anyone, st.booleans(), st.sampled_from(sorted(HIDDEN)))
@settings(max_examples=60, deadline=None)
def test_nothing_is_told_of_a_limb_that_is_not_seen(person: Person, depth: bool, joints: tuple[int, ...]) -> None:
    person.keypoints[joints, 2] = 0.04
    assert not set(HIDDEN[joints]) & set(person.facts(depth=depth))


OPPOSITE = [
    {"legs_apart=yes", "legs_apart=no"},
    {"view=front", "view=back"},
    {"lean=forward", "lean=backward"},
    {"lean=upright", "lean=horizontal"},
    {"lean=upright", "lean=upside_down"},
    {"base=on_feet", "base=sitting"},
    {"base=on_feet", "base=kneeling"},
    {"base=on_feet", "base=lying"},
    *({f"{arm}=down", f"{arm}=raised"} for arm in ("left_arm", "right_arm")),
    *({f"{arm}=down", f"{arm}=out"} for arm in ("left_arm", "right_arm")),
]


@given(anyone, st.booleans(), seeds)
@settings(max_examples=60, deadline=None)
def test_what_is_told_never_becomes_its_opposite_by_noise(person: Person, depth: bool, seed: int) -> None:
    def claims() -> set[str]:
        return {f"{n}={wide}" for n, value in person.facts(depth=depth).items() for wide in closure(n, value)}

    before = claims()
    rng = np.random.default_rng(seed)
    person.keypoints[:, :2] += rng.normal(0, 4, (17, 2))
    person.world = person.world + rng.normal(0, 0.02, (17, 3))
    after = claims()
    for one, other in map(sorted, OPPOSITE):
        assert not {one, other} <= before | after


def test_confidence_falls_towards_the_threshold_and_with_the_joints_scores() -> None:
    def confidence(change: Callable[[Person], None]) -> float:
        person = Person("stand")
        change(person)
        world = np.zeros((33, 3))
        world[geometry.COCO_IN_BLAZEPOSE] = person.world
        pose = pa.table({"keypoints": [person.keypoints.ravel().tolist()], "world_landmarks": [world.ravel().tolist()]})
        (facts,) = pose_facts(pa.table({"image_width": [1000], "image_height": [1000]}), pose)
        return next(fact.confidence for fact in facts if fact.name == "lean")

    def tilt(person: Person) -> None:
        person.keypoints[[5, 6], 0] += 22

    def dim(person: Person) -> None:
        person.keypoints[:, 2] = 0.25

    sure = confidence(lambda person: None)
    assert sure == 1
    assert 0.5 <= confidence(tilt) < sure
    assert 0.5 <= confidence(dim) < sure
