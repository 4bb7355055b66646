"""The facts that a caption claims, as the page suggests them."""

from __future__ import annotations

import random

import pytest

from laion_people.language import phrases
from laion_people.language.facts import VALUES
from laion_people.language.suggestions import suggested_claims

FACTS = [{name: value} for names in VALUES.values() for name, values in names.items() for value in values]


def claims(facts: dict[str, str]) -> set[str]:
    return {f"{name}={value}" for name, value in facts.items()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Someone sits with both arms raised overhead.", "base=sitting both_arms=overhead"),
        ("A person has one hand on the hip and the other arm down.", "one_arm=on_hip"),
        ("Seen from the side, a person walks, the left arm swung back.", "view=side base=walking left_arm=back"),
        ("A face with raised eyebrows and the mouth open.", "brows=raised mouth=open"),
        ("The head is bowed and turned slightly to the left of the picture.", "nod=down turn=slight_left"),
        ("A person stands on one leg, leaning forward.", "base=one_leg lean=forward"),
        ("Here is somebody.", ""),
        ("", ""),
        ("\x00\u202e, , and with", ""),
    ],
)
def test_words_suggest_claims(text: str, expected: str) -> None:
    assert suggested_claims(text) == tuple(expected.split())


@pytest.mark.parametrize("facts", FACTS, ids=lambda facts: "".join(claims(facts)))
def test_what_we_say_of_a_fact_is_understood(facts: dict[str, str]) -> None:
    said = phrases.captions(facts, 20, "seed")
    assert sum(set(suggested_claims(text)) == claims(facts) for text in said) >= 0.8 * len(said)


def test_what_we_say_of_several_facts_is_mostly_understood() -> None:
    rng = random.Random(0)
    right = said = 0
    for seed in range(200):
        names = rng.choice(list(VALUES.values()))
        facts = {name: rng.choice(values) for name, values in names.items() if rng.random() < 0.7} or {"nod": "up"}
        for text in phrases.captions(facts, 3, str(seed)):
            said += 1
            right += set(suggested_claims(text)) == claims(facts)
    assert right >= 0.75 * said


def test_a_long_text_takes_no_time() -> None:
    assert suggested_claims("turned " * 100_000 + "left") == ()
