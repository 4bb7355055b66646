"""Captions of poses, faces and heads: true, several, all different, and silent about what is not known."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laion_people import facetext, geometry, posetext
from laion_people.facetext import face_captions, face_facts, head_captions, head_facts
from laion_people.posetext import pose_captions, pose_facts
from tests import skeletons

ARM = st.sampled_from(sorted(posetext.ARMS))
POSE_FACTS = st.fixed_dictionaries(
    {},
    optional={
        "arms": st.one_of(ARM, st.tuples(ARM, ARM).map("+".join)),
        "legs": st.sampled_from(sorted(posetext.LEGS)),
        "lean": st.sampled_from(sorted(posetext.LEANS)),
    },
)
FACE_FACTS = st.fixed_dictionaries(
    {},
    optional={
        "mouth": st.sampled_from(sorted(facetext.MOUTHS)),
        "brows": st.sampled_from(sorted(facetext.BROWS)),
        "eyes": st.sampled_from(sorted(facetext.EYES)),
    },
)
HEAD_FACTS = st.fixed_dictionaries(
    {},
    optional={
        "turn": st.sampled_from(sorted(facetext.TURNS)),
        "nod": st.sampled_from(sorted(facetext.NODS)),
        "tilt": st.sampled_from(sorted(facetext.TILTS)),
    },
)


def assert_sentences(captions: list[str]) -> None:
    assert len(set(captions)) == len(captions) >= 5
    for caption in captions:
        assert caption[0].isupper() and caption.endswith(".") and caption.count(".") == 1
        assert "  " not in caption and " ," not in caption and "{" not in caption and ",." not in caption


@given(POSE_FACTS)
def test_any_facts_of_a_pose_give_five_or_more_different_sentences(facts: dict[str, str]) -> None:
    captions = pose_captions(facts)
    assert_sentences(captions)
    words = {word for caption in captions for word in caption.split()}
    assert not words & {"left", "right"}  # a pose and its mirror image are one


@given(FACE_FACTS)
def test_any_facts_of_a_face_give_five_or_more_different_sentences(facts: dict[str, str]) -> None:
    assert_sentences(face_captions(facts))


@given(HEAD_FACTS)
def test_any_facts_of_a_head_give_five_or_more_different_sentences(facts: dict[str, str]) -> None:
    captions = head_captions(facts)
    assert_sentences(captions)
    assert all("of the picture" in c for c in captions if " left" in c or " right" in c)


def test_the_words_of_the_readme_are_said() -> None:
    captions = pose_captions({"legs": "standing", "arms": "out to the side+out to the side", "lean": "upright"})
    assert captions[0] == "A person stands with both arms stretched out to the sides."


def test_captions_say_nothing_of_legs_or_arms_that_are_not_certain() -> None:
    about_legs = ("stand", "sit", "leg", "knee", "foot", "walk", "run")
    assert not any(word in caption for caption in pose_captions({"arms": "overhead+down"}) for word in about_legs)
    assert not any("arm" in caption or "hand" in caption for caption in pose_captions({"legs": "sitting"}))


@pytest.mark.parametrize(
    ("pose", "arms", "legs"),
    [
        ("stand", "down+down", "standing"),
        ("arms out", "out to the side+out to the side", "standing"),
        ("arms up", "overhead+overhead", "standing"),
        ("wave", "hand up+down", "standing"),
        ("hips", "on the hip+on the hip", "standing"),
        ("point", "out to the side+down", "standing"),
        ("reach", "forward+forward", "standing"),
        ("sit", "down+down", "sitting"),
        ("squat", "forward+forward", "squatting"),
        ("side lunge", "out to the side+out to the side", "side lunge"),
        ("run", "bent+bent", "running"),
        ("tree", "overhead+overhead", "one leg raised"),
    ],
)
def test_most_people_in_a_pose_are_described_as_it_is(pose: str, arms: str, legs: str) -> None:
    people = skeletons.people([pose] * 60, 2)
    facts = pose_facts(geometry.limb_directions(people.keypoints, people.world))
    for fact, true in (("arms", arms), ("legs", legs), ("lean", "upright")):
        name, count = Counter(facts[fact].tolist()).most_common(1)[0]
        assert (name, count > 30) == (true, True), (fact, name, count)


def test_unseen_limbs_have_no_facts() -> None:
    facts = pose_facts(np.full((1, 9, 3), np.nan, np.float32))
    assert {name: values.tolist() for name, values in facts.items()} == {"arms": [""], "legs": [""], "lean": [""]}


@pytest.mark.parametrize(
    ("shapes", "fact", "name"),
    [
        ({"mouthSmileLeft": 0.8, "mouthSmileRight": 0.7}, "mouth", "smiling"),
        ({"mouthSmileLeft": 0.8, "mouthSmileRight": 0.7, "mouthOpening": 0.9}, "mouth", "smiling open"),
        ({"mouthCornerLift": -0.9}, "mouth", "turned down"),
        ({"jawOpen": 0.7}, "mouth", "open"),
        ({"mouthOpening": 1.5}, "mouth", "open"),
        ({"mouthWidth": 6.3, "mouthCornerLift": 1.6}, "mouth", "smiling"),
        ({"mouthPucker": 0.95, "mouthWidth": 4.4}, "mouth", "puckered"),
        ({"browDownLeft": 0.9, "browDownRight": 0.9}, "brows", "lowered"),
        ({"browInnerUp": 0.8, "browOuterUpLeft": 0.8, "browOuterUpRight": 0.8}, "brows", "raised"),
        ({"eyeBlinkLeft": 0.8, "eyeBlinkRight": 0.8}, "eyes", "closed"),
        ({"eyeBlinkLeft": 0.9, "eyeBlinkRight": 0.1}, "eyes", "one closed"),
        ({}, "mouth", "relaxed"),
    ],
)
def test_expressions_are_named(shapes: dict[str, float], fact: str, name: str) -> None:
    at_rest = {"mouthWidth": 5.2, "eyeOpening": 1.5, "browHeight": 1.7}
    values = np.array([[(at_rest | shapes).get(n, 0.0) for n in geometry.EXPRESSIONS]], np.float32)
    assert face_facts(values)[fact].tolist() == [name]


def test_unseen_faces_and_heads_have_no_facts() -> None:
    faces, heads = np.full((1, len(geometry.EXPRESSIONS)), np.nan), np.full((1, 3), np.nan)
    for facts in (face_facts(faces), head_facts(heads)):
        assert {str(value) for values in facts.values() for value in values} == {""}


def test_a_quiet_face_is_called_neutral() -> None:
    captions = face_captions({"mouth": "relaxed", "brows": "level", "eyes": "open"})
    assert captions[0] == "A person with a neutral expression."


@pytest.mark.parametrize(
    ("yaw", "pitch", "roll", "facts"),
    [
        (0, -4, 0, ("camera", "level", "upright")),
        (30, -4, 0, ("right", "level", "upright")),
        (-60, -4, 0, ("far left", "level", "upright")),
        (0, 25, 0, ("camera", "up", "upright")),
        (0, -30, -20, ("camera", "down", "left")),
    ],
)
def test_head_directions_are_named_as_seen_in_the_picture(
    yaw: float, pitch: float, roll: float, facts: tuple[str, str, str]
) -> None:
    found = head_facts(np.radians([[yaw, pitch, roll]]))
    assert tuple(found[name][0] for name in ("turn", "nod", "tilt")) == facts
