"""What a publication leaves out as speaking of children, and what only sounds like it."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laion_people.language.minors import UNINFLECTED, WORDS, speaks_of_minors

OF_MINORS = [
    "A child on a swing", "CHILDREN play", "the child's hands", "Kids' fashion", "a kid in a hat", "Baby boy, asleep",
    "two babies", "toddlers at play", "an infant", "newborn photography", "new-born", "A teen on a skateboard",
    "teenagers dancing", "Teenage actress", "pre-teen", "tweens", "adolescents", "Schoolgirl in uniform",
    "school children", "schoolchildren waving", "A little girl", "boys running", "pupils in a classroom",
    "kindergarten class", "kindergartners", "preschoolers painting", "Grade school", "elementary-school teacher",
    "high school prom", "middle schoolers", "first graders", "4th grade science", "day care", "Boy Scouts",
    "Girl, 12 years old", "a 5-year-old", "5 yr old", "12yo", "12 y/o", "a seven-year-old", "aged 7", "Age 9",
    "ages 3 to 5", "at the age of eleven", "6 months old", "3-week-old", "under-12s", "U15 national team",
    "first birthday", "her 10th birthday party", "Sweet 16", "mother and daughter", "father and son", "son and mother",
    "stepsons", "minors at play", "Beckham's son",
    "grandchildren", "a childhood photo", "Quinceañera", "an underage model", "youth soccer", "17 years of age",
]  # fmt: skip
NOT_OF_MINORS = [
    "", "A man with one hand in the park", "a boy band on stage", "Boyband", "boyfriend", "his girlfriend", "baby blue",
    "a baby-blue dress", "babysitter", "kidney beans", "childish", "childlike drawing", "kid leather", "kid gloves",
    "just kidding", "cowboy", "playboy", "tomboyish", "Beach Boys", "cover girl", "Baby grand piano", "baby bump",
    "child's pose", "a woman in child pose", "happy baby pose", "Julia Child", "Destiny's Child", "infantry", "canteen",
    "A 25-year-old", "twenty-five year old", "18 years old", "aged 70", "500-year-old", "1,500-year-old ruin",
    "15.000 year old", "12 year old single malt whisky", "a 10-year-old dog", "age 45", "under 10 minutes", "U2 live",
    "40th birthday", "twenty-first birthday", "wine aged 12 months in oak", "dilated pupils", "page 12", "stage 3",
    "Smith and Sons", "Wilson", "a young woman", "youthful skin", "minor league", "school of fish", "12 years a slave",
    "nineteen-year-old", "at 7 pm", "old school", "middle aged", "Girl power", "girls' night out", "Fountain of Youth",
]  # fmt: skip


@pytest.mark.parametrize("caption", OF_MINORS)
def test_a_caption_that_speaks_of_minors_is_found(caption: str) -> None:
    assert speaks_of_minors(caption)


@pytest.mark.parametrize("caption", NOT_OF_MINORS)
def test_what_only_sounds_like_it_is_not(caption: str) -> None:
    assert speaks_of_minors(caption) == ""


def test_the_words_are_named() -> None:
    assert speaks_of_minors("A BOY BAND, and a Boy.") == "boy"
    assert speaks_of_minors("She is a 5-Year-Old!") == "5 year old"
    assert speaks_of_minors(None) == ""


def is_separator(character: str) -> bool:
    """Compatibility forms of some symbols are letters or digits, as of a circled a."""
    return not any(c.isalnum() for c in unicodedata.normalize("NFKD", character)) or character == "\u2122"


SEPARATORS = st.text(st.characters(categories=["P", "S", "Z"]).filter(is_separator), min_size=1)
BOLD = {letter: chr(0x1D41A + i) for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}
ALL_WORDS = [*WORDS.split(), *UNINFLECTED.split()]


@given(
    st.sampled_from(ALL_WORDS),
    st.sampled_from([str, str.upper, str.title, lambda w: "\u00ad".join(w), lambda w: "".join(BOLD[c] for c in w)]),
    SEPARATORS,
    SEPARATORS,
)
def test_case_punctuation_and_forms_of_letters_make_no_difference(
    word: str, form: Callable[[str], str], before: str, after: str
) -> None:
    assert speaks_of_minors(f"someone{before}{form(word)}{after}here")


@given(st.sampled_from(ALL_WORDS), st.text("bcdfg", min_size=3, max_size=5))
def test_letters_inside_other_words_are_not_words(word: str, letters: str) -> None:
    assert speaks_of_minors(f"{letters}{word}{letters}") == ""


@given(st.integers(1, 120), st.sampled_from(["{}-year-old", "aged {}", "{} yrs old", "{}yo", "age {}", "{} YEARS OLD"]))
def test_ages_count_below_eighteen(age: int, wording: str) -> None:
    assert bool(speaks_of_minors(f"a person, {wording.format(age)}, waits")) == (age < 18)


@given(st.text())
def test_any_text_is_read_without_error(text: str) -> None:
    found = speaks_of_minors(text)
    assert found == unicodedata.normalize("NFKD", found).casefold()
    assert speaks_of_minors(f"{text} - a child") != ""


def test_a_long_caption_takes_no_longer_than_its_length() -> None:
    """Patterns that go back and forth would take hours here."""
    for piece in ("twenty and ", "five year old ", "baby ", "1 st ", "his and "):
        assert isinstance(speaks_of_minors(piece * 100_000), str)
