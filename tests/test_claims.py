"""Claims that a person's facts support or contradict, and the facts that a sentence claims."""

from __future__ import annotations

import pytest

from laion_people.language.facts import KIND, VALUES, Fact, closure, contradicts, explained, known, supports

EVERY = [f"{name}={value}" for name in KIND for value in VALUES[KIND[name]][name]]
WAVING = {"left_arm": "overhead", "right_arm": "down", "base": "kicking"}


@pytest.mark.parametrize(
    ("claim", "true"),
    [
        ("left_arm=overhead", True),
        ("left_arm=raised", True),  # wider
        ("left_arm=down", False),
        ("one_arm=raised", True),
        ("one_arm=down", True),
        ("one_arm=on_hip", False),
        ("both_arms=raised", False),
        ("arms=down+raised", True),
        ("arms=raised+down", True),
        ("arms=raised+raised", False),
        ("base=on_feet", True),
        ("base=walking", False),
        ("mouth=smiling", None),  # nothing is known
        ("both_arms=holding", None),
        ("one_arm=bent", None),  # the raised arm may be bent
    ],
)
def test_a_claim_is_true_or_false_of_a_person_or_neither_is_known(claim: str, true: bool | None) -> None:
    assert supports(WAVING, claim) is (true is True)
    assert contradicts(WAVING, claim) is (true is False)


@pytest.mark.parametrize(
    ("claim", "behind"),
    [
        ("base=kicking", ["base=kicking"]),
        ("base=on_feet", ["base=kicking"]),  # wider
        ("one_arm=raised", ["left_arm=overhead"]),
        ("both_arms=bent", ["left_arm=bent", "right_arm=bent"]),
        ("one_arm=bent", ["left_arm=bent", "right_arm=bent"]),  # true of both
        ("arms=down+raised", ["left_arm=overhead", "right_arm=down"]),
        ("base=walking", []),
        ("mouth=smiling", []),
    ],
)
def test_the_facts_behind_a_claim_are_those_that_it_is_true_by(claim: str, behind: list[str]) -> None:
    arms = dict.fromkeys(("left_arm", "right_arm"), "bent") if "bent" in claim else {}
    facts = [Fact(name, value, 0.8) for name, value in (WAVING | arms).items()]
    assert explained([claim], facts) == [(claim, [fact for fact in facts if fact.claim in behind])]
    assert explained([claim], None) == [(claim, None)]


def test_of_one_arm_that_is_known_a_claim_about_both_may_be_false_and_about_one_may_not() -> None:
    assert contradicts({"left_arm": "down"}, "both_arms=overhead")
    assert contradicts({"left_arm": "down"}, "arms=overhead+out")
    assert not contradicts({"left_arm": "down"}, "one_arm=overhead")
    assert not contradicts({"left_arm": "down"}, "arms=overhead+down")


@pytest.mark.parametrize(
    ("fact", "other"),
    [
        ("left_arm=bent", "left_arm=on_hip"),
        ("left_arm=holding", "left_arm=down"),
        ("base=sitting", "base=moving"),  # riding is both
        ("turn=camera", "turn=slight_left"),
        ("view=three_quarter", "view=side"),
    ],
)
def test_values_that_can_be_true_together_do_not_contradict_each_other(fact: str, other: str) -> None:
    for one, two in ((fact, other), (other, fact)):
        name, _, value = one.partition("=")
        assert not contradicts({name: value}, two)


@pytest.mark.parametrize("claim", EVERY)
def test_no_fact_contradicts_itself_or_what_is_wider(claim: str) -> None:
    name, _, value = claim.partition("=")
    assert known(claim)
    for wider in closure(name, value):
        assert supports({name: value}, f"{name}={wider}")
        assert not contradicts({name: value}, f"{name}={wider}")


def test_every_value_of_a_name_with_three_or_more_has_a_foil() -> None:
    """Else CLIP's choice could never be compared with a false one."""
    lonely = [
        claim
        for claim in EVERY
        if not any(
            contradicts({claim.partition("=")[0]: claim.partition("=")[2]}, foil)
            for foil in EVERY
            if foil.partition("=")[0] == claim.partition("=")[0]
        )
    ]
    assert lonely == ["left_arm=holding", "right_arm=holding"]


@pytest.mark.parametrize(
    "claim",
    ["", "=", "base", "base=", "base=flying", "left_arm=standing", "arms=down", "arms=down+", "one_arm=down+down",
     "arms=down+down+down", "base=sitting ", "Base=sitting", "kind=pose"],
)  # fmt: skip
def test_what_is_no_claim_is_told(claim: str) -> None:
    assert not known(claim)
