"""Facts and claims in the words of the pages."""

from __future__ import annotations

import pytest

from laion_people.language.facts import KIND, VALUES
from laion_people.language.factwords import claim_words


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        ("base=knees_bent", "body: with bent knees"),
        ("left_arm=on_hip", "left arm: hand on the hip"),
        ("both_arms=raised", "both arms: raised"),
        ("arms=raised+in_lap", "arms: one raised, the other hand in the lap"),
        ("view=back", "seen from: behind"),
        ("turn=slight_left", "head turned: slightly to the left"),
        ("eyes=one_closed", "eyes: one closed"),
    ],
)
def test_claims_have_plain_words(claim: str, words: str) -> None:
    assert claim_words(claim) == words


def test_different_facts_have_different_words_without_signs() -> None:
    facts = [f"{name}={value}" for name in KIND for value in VALUES[KIND[name]][name]]
    words = [claim_words(fact) for fact in facts]
    assert len(set(words)) == len(facts)
    assert not any(sign in text for text in words for sign in "_=+")


@pytest.mark.parametrize("claim", ["", "=", "base", "+", "arms=+", "arms=a+b+c", "x_y=<b>"])
def test_what_is_no_claim_has_words_too(claim: str) -> None:
    assert ":" in claim_words(claim)
