"""What the captions of Subset B promise: the right numbers, and correct English."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laion_people.language import facts
from laion_people.language.similartext import ASPECTS, CONTRASTS, SITUATIONS, TEMPLATES, caption, fill, situation
from laion_people.language.wordgate import blocked

WORDS = {2: "two", 3: "three", 4: "four"}
VALUES = {"two": 2, "three": 3, "four": 4, "both": 2, "2": 2, "3": 3}
NUMBER = re.compile(r"\b(two|three|four|both|[0-9]+)\b")


@st.composite
def filled(draw: Any) -> tuple[str, str, int, int]:
    """A caption, its aspect, and its numbers of people and of similar people."""
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
        caption(aspect, n, k, np.random.default_rng(seed)).text
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
        return [caption("pose", 3, 2, rng).text for _ in range(20)]

    assert draw() == draw()
    assert len(set(draw())) > 5


CASES = [  # aspect, and two claims of one topic that are never both true
    (aspect, one, other)
    for aspect, topics in CONTRASTS.items()
    for topic in topics
    for first, second in itertools.permutations(topic, 2)
    for one in first
    for other in second
]


def facts_of(claim: str) -> dict[str, str]:
    name, _, value = claim.partition("=")
    return dict.fromkeys({"both_arms": ("left_arm", "right_arm"), "one_arm": ("left_arm",)}.get(name, (name,)), value)


@pytest.mark.parametrize(("aspect", "one", "other"), CASES)
def test_of_two_who_differ_a_second_sentence_says_what_each_does(aspect: str, one: str, other: str) -> None:
    people = [facts_of(one), facts_of(other)]
    phrases = {claim: phrase for topic in CONTRASTS[aspect] for group in topic for claim, phrase in group.items()}
    tellings = set()
    for seed in range(40):
        made = caption(aspect, 2, 0, np.random.default_rng(seed), people)
        assert made.claims == ((one,), (other,))
        sentence = re.findall(r"[^.]+\.", made.text)[-1].strip()
        assert sentence[0].isupper() and sentence.count(phrases[one]) == sentence.count(phrases[other]) == 1
        assert blocked(made.text) is None
        assert len(made.text.split()) < 45  # words; CLIP reads 77 tokens
        if "left" in sentence.split(phrases[one])[0].split(phrases[other])[0]:  # "The person on the left ..."
            assert sentence.index(phrases[one]) < sentence.index(phrases[other])
        tellings.add(sentence)
    assert len(tellings) >= 5


@pytest.mark.parametrize("topic", [topic for topics in CONTRASTS.values() for topic in topics])
def test_claims_of_one_topic_exclude_each_other(topic: tuple[dict[str, str], ...]) -> None:
    """The facts of any person support claims of one group at most."""
    names = {name for group in topic for claim in group for name in facts_of(claim)}
    if "left_arm" in names:
        names |= {"right_arm"}
    for values in itertools.product(*(facts.VALUES[facts.KIND[name]][name] for name in names)):
        person = dict(zip(names, values, strict=True))
        assert sum(any(holds(person, claim) for claim in group) for group in topic) <= 1, person


def holds(person: dict[str, str], claim: str) -> bool:
    if claim.startswith("one_arm"):
        return any(facts.supports(person, claim.replace("one", side)) for side in ("left", "right"))
    return all(facts.supports(person, f"{name}={value}") for name, value in facts_of(claim).items())


@pytest.mark.parametrize(
    ("n", "k", "people"),
    [
        (2, 2, [{"base": "sitting"}, {"base": "standing"}]),
        (3, 0, [{"base": "sitting"}, {"base": "standing"}, {"base": "lying"}]),
        (2, 0, [{"base": "standing"}, {"base": "walking"}]),  # both are on their feet
        (2, 0, [{"base": "sitting"}, {"base": "knees_bent"}]),  # they may sit
        (2, 0, [{"base": "sitting"}, {}]),
        (2, 0, [{"mouth": "smiling"}, {"mouth": "relaxed"}]),  # the caption is about another aspect
    ],
)
def test_nothing_is_claimed_of_others(n: int, k: int, people: list[dict[str, str]]) -> None:
    made = caption("pose", n, k, np.random.default_rng(1), people)
    assert made.claims == ((),) * n
    assert made.text in {fill(t, "pose", n, k) for t in TEMPLATES["pose"][situation(n, k)]}


def test_a_hand_up_is_in_contrast_to_both_arms_down_alone() -> None:
    up, down, one_down = (
        {"left_arm": a, "right_arm": b} for a, b in (("raised", "bent"), ("down",) * 2, ("down", "bent"))
    )
    assert caption("pose", 2, 0, np.random.default_rng(1), [up, down]).claims == (
        ("one_arm=raised",),
        ("both_arms=down",),
    )
    assert caption("pose", 2, 0, np.random.default_rng(1), [up, one_down]).claims == ((), ())
