"""What the captions of Subset B promise: the right numbers, and correct English."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laion_people.similartext import ASPECTS, SITUATIONS, TEMPLATES, caption, fill, situation
from laion_people.wordgate import blocked

WORDS = {2: "two", 3: "three", 4: "four"}
VALUES = {"two": 2, "three": 3, "four": 4, "both": 2, "2": 2, "3": 3}
NUMBER = re.compile(r"\b(two|three|four|both|[0-9]+)\b")


@st.composite
def filled(draw: Any) -> tuple[str, str, int, int]:
    """A caption with its aspect and its numbers of people and of similar people."""
    aspect, n = draw(st.sampled_from(ASPECTS)), draw(st.integers(2, 4))
    k = draw(st.sampled_from([0, *range(2, n + 1)]))
    template = draw(st.sampled_from(TEMPLATES[aspect][situation(n, k)]))
    return fill(template, aspect, n, k), aspect, n, k


@pytest.mark.parametrize("aspect", ASPECTS)
def test_every_situation_of_every_aspect_has_at_least_ten_templates(aspect: str) -> None:
    for name in SITUATIONS:
        assert len(set(TEMPLATES[aspect][name])) == len(TEMPLATES[aspect][name]) >= 10


@given(filled())
def test_a_caption_is_whole_sentences(case: tuple[str, str, int, int]) -> None:
    text = case[0]
    assert text.endswith(".") and not re.search(r"[{}]|\s\s|\s[.,;]|\.\.", text)
    for sentence in re.findall(r"[^.]+\.", text):
        assert sentence.strip()[0].isupper()
    assert blocked(text) is None


@given(filled())
def test_a_caption_says_how_many_people_there_are_and_how_many_are_alike(case: tuple[str, str, int, int]) -> None:
    text, _, n, k = case
    numbers = {VALUES[word] for word in NUMBER.findall(text.lower())}
    assert n in numbers
    assert numbers <= ({n, k, n - k} if 0 < k < n else {n})
    if 0 < k < n:
        assert k in numbers
    assert bool(re.search(r"\bsimilar|\balike|\bsame\b", text)) == (k > 0 or "not alike" in text)
    if k in (0, n) or " but " in text or "; " in text or "while" in text:
        assert bool(re.search(r"\bdiffer|not alike", text)) == (k < n)


@given(filled())
def test_nouns_and_verbs_agree_in_number(case: tuple[str, str, int, int]) -> None:
    text, _, n, _ = case
    assert not re.search(r"\b(a|an|one|each|other) people\b|\bperson (have|are)\b|\bpeople (has|is)\b", text)
    assert not re.search(r"\b(two|three|four|both|2|3|4) (person|body|face|head|pose|expression)\b", text, re.I)
    assert not re.search(r"\ba (?=[aeiou])|\ban (?![aeiou])", text)
    assert ("both" in text.lower()) <= (n == 2)
    assert all(int(n == number) >= (f"all {word}" in text.lower()) for number, word in WORDS.items())


def test_the_brief_s_own_captions_can_be_drawn() -> None:
    drawn = {
        caption(aspect, n, k, np.random.default_rng(seed))
        for aspect in ASPECTS
        for n, k in ((2, 0), (3, 2))
        for seed in range(100)
    }
    assert {
        "There are two people in the picture with different body poses.",
        "Here you see three people. The body parts of 2 of them are in similar positions.",
        "Here you see three people. The face meshes of 2 of them are similar.",
        "Here you see three people. The head positions of 2 of them are similar.",
    } <= drawn


def test_the_same_seed_draws_the_same_caption() -> None:
    def draw() -> list[str]:
        rng = np.random.default_rng(5)
        return [caption("pose", 3, 2, rng) for _ in range(20)]

    assert draw() == draw()
    assert len(set(draw())) > 5
