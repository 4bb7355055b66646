"""The word gate: captions don't say who people are or what they look like."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laion_people.language import similartext
from laion_people.language.wordgate import WORDS, blocked

MUST_BE_BLOCKED = [
    "man", "men", "woman", "women", "boy", "girl", "male", "female", "old", "young", "child", "kid", "baby", "shirt",
    "dress", "hat", "suit", "jeans", "skirt", "trousers", "jacket", "red", "blue", "green", "black", "white", "yellow",
    "skin", "blonde", "bald", "beard", "fat", "thin", "tall", "asian", "african",
]  # fmt: skip
ALL_WORDS = sorted({word for words in WORDS.values() for word in words.split()})
INNOCENT = "A person leans forward, hand on the hip, weight backward on one straight leg: a human pose, belly down."


@pytest.mark.parametrize("word", MUST_BE_BLOCKED)
def test_words_about_looks_and_identity_are_blocked(word: str) -> None:
    assert blocked(f"A {word} stands with both arms raised.")


@pytest.mark.parametrize(
    ("caption", "word", "reason"),
    [
        ("A WOMAN sits.", "woman", "gender"),
        ("The boys' arms are raised.", "boys", "gender"),
        ("Two ladies sit.", "ladies", "gender"),
        ("A person in dresses.", "dresses", "clothes"),
        ("A dark-haired person.", "haired", "hair"),
        ("A person, red-faced.", "red", "colour"),
        ("A \uff4d\uff41\uff4e sits.", "man", "gender"),  # full-width letters
        ("A \U0001d40c\U0001d41a\U0001d427 sits.", "man", "gender"),  # mathematical bold letters
        ("A m\u00e1n sits.", "man", "gender"),
        ("A m\u00adan sits.", "man", "gender"),  # soft hyphen
        ("A man2 sits.", "man", "gender"),
        ("An older person.", "older", "age"),
    ],
)
def test_the_word_and_the_reason_are_named(caption: str, word: str, reason: str) -> None:
    assert blocked(caption) == (word, reason)


def test_pose_words_pass() -> None:
    assert blocked(INNOCENT) is None
    assert blocked("") is None


@given(st.sampled_from(ALL_WORDS), st.integers(0, 18), st.booleans())
def test_a_blocked_word_is_found_wherever_it_stands(word: str, place: int, capital: bool) -> None:
    words = INNOCENT.split()
    words.insert(place, word.upper() if capital else word)
    refused = blocked(" ".join(words))
    assert refused is not None and refused[0] == word


@given(st.sampled_from(ALL_WORDS), st.text("bcdfg", min_size=3, max_size=5))
def test_letters_inside_other_words_are_not_words(word: str, letters: str) -> None:
    assert blocked(f"{letters}{word}{letters}") is None


@given(st.text())
def test_any_text_is_judged_without_error(text: str) -> None:
    refused = blocked(text)
    assert refused is None or (refused[0] and refused[1] in WORDS)


def test_everything_that_the_project_writes_itself_passes() -> None:  # for single persons: tests/test_phrases.py
    captions = [t for kinds in similartext.TEMPLATES.values() for templates in kinds.values() for t in templates]
    assert {caption: blocked(caption) for caption in captions if blocked(caption)} == {}
