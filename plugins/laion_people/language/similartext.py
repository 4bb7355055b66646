"""Captions of Subset B: sentences that say how many people a composed image shows and which of them are alike.

``{n}`` and ``{k}`` stand for the number of people and of similar people in words (``{N}`` and ``{K}`` at the start of a
sentence, ``{digit}`` is ``k`` in figures), ``{all}`` for "both", "all three" or "all four", ``{rest}`` for a clause
about the others. If two people differ, a second sentence may say how: what each does is a claim of their own facts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from laion_people.language.facts import supports

ASPECTS = ("pose", "face", "head")
SITUATIONS = ("all", "some", "different")

TEMPLATES: dict[str, dict[str, tuple[str, ...]]] = {
    "pose": {
        "all": (
            "There are {n} people in the picture with similar body poses.",
            "Here you see {n} people. Their body parts are in similar positions.",
            "{N} people hold their bodies in much the same way.",
            "The picture shows {n} people in similar poses.",
            "{All} people in this image have a similar pose.",
            "{N} people are shown, and {all} are in similar poses.",
            "The poses of the {n} people are alike.",
            "You can see {n} people whose bodies are in similar positions.",
            "In this image, {n} people take up similar body positions.",
            "The body poses of {all} people look alike.",
            "This is a picture of {n} people who share much the same pose.",
        ),
        "some": (
            "Here you see {n} people. The body parts of {digit} of them are in similar positions.",
            "There are {n} people in the picture. {K} of them have similar body poses.",
            "{K} of the {n} people in the picture have similar poses, while {rest}.",
            "The picture shows {n} people, {k} of whom have similar body poses.",
            "Of the {n} people in this image, {k} hold their bodies in much the same way.",
            "{N} people are shown. The poses of {k} of them are alike.",
            "Among the {n} people, {k} share much the same pose.",
            "You can see {n} people. {K} of them take up similar body positions; {rest}.",
            "In this image, {k} of the {n} people are in similar poses.",
            "The poses of {k} of the {n} people are similar, but {rest}.",
            "This is a picture of {n} people. {K} of them are in similar poses, and {rest}.",
        ),
        "different": (
            "There are {n} people in the picture with different body poses.",
            "Here you see {n} people. Their body parts are in different positions.",
            "Each of the {n} people in the picture has a different pose.",
            "The {n} people in this image hold their bodies in different ways.",
            "{N} people are shown, each in a different pose.",
            "The picture shows {n} people in different poses.",
            "The poses of the {n} people are not alike.",
            "You can see {n} people whose bodies are in different positions.",
            "In this image, {n} people take up different body positions.",
            "The body poses of the {n} people differ from one another.",
            "This is a picture of {n} people whose poses differ.",
        ),
    },
    "face": {
        "all": (
            "There are {n} people in the picture with similar face meshes.",
            "Here you see {n} people. Their face meshes are similar.",
            "{N} people have much the same facial expression.",
            "The picture shows {n} people with similar facial expressions.",
            "{All} people in this image have a similar expression on their faces.",
            "{N} people are shown, and {all} have similar facial expressions.",
            "The facial expressions of the {n} people are alike.",
            "You can see {n} people whose expressions are similar.",
            "In this image, {n} people are making similar faces.",
            "The expressions on the faces of {all} people look alike.",
            "This is a picture of {n} people who share much the same expression.",
        ),
        "some": (
            "Here you see {n} people. The face meshes of {digit} of them are similar.",
            "There are {n} people in the picture. {K} of them have similar face meshes.",
            "{K} of the {n} people in the picture have similar expressions, while {rest}.",
            "The picture shows {n} people, {k} of whom have similar facial expressions.",
            "Of the {n} people in this image, {k} have much the same look on their faces.",
            "{N} people are shown. The facial expressions of {k} of them are alike.",
            "Among the {n} people, {k} share much the same expression.",
            "You can see {n} people. {K} of them are making similar faces; {rest}.",
            "In this image, {k} of the {n} people have similar expressions on their faces.",
            "The facial expressions of {k} of the {n} people are similar, but {rest}.",
            "This is a picture of {n} people. {K} of them have similar expressions, and {rest}.",
        ),
        "different": (
            "There are {n} people in the picture with different face meshes.",
            "Here you see {n} people. Their face meshes are different.",
            "Each of the {n} people in the picture has a different facial expression.",
            "The {n} people in this image have different expressions on their faces.",
            "{N} people are shown, each with a different expression.",
            "The picture shows {n} people with different facial expressions.",
            "The facial expressions of the {n} people are not alike.",
            "You can see {n} people whose expressions are different.",
            "In this image, {n} people are making different faces.",
            "The expressions of the {n} people differ from one another.",
            "This is a picture of {n} people whose expressions differ.",
        ),
    },
    "head": {
        "all": (
            "There are {n} people in the picture with similar head positions.",
            "Here you see {n} people. Their heads are in similar positions.",
            "{N} people hold their heads in much the same way.",
            "The picture shows {n} people whose heads point in a similar direction.",
            "{All} people in this image have a similar head position.",
            "{N} people are shown, and {all} have their heads turned in a similar way.",
            "The head positions of the {n} people are alike.",
            "You can see {n} people facing in similar directions.",
            "In this image, {n} people hold their heads at similar angles.",
            "The heads of {all} people are in similar positions.",
            "This is a picture of {n} people who share much the same head position.",
        ),
        "some": (
            "Here you see {n} people. The head positions of {digit} of them are similar.",
            "There are {n} people in the picture. {K} of them have similar head positions.",
            "{K} of the {n} people in the picture have similar head positions, while {rest}.",
            "The picture shows {n} people, {k} of whom hold their heads in a similar way.",
            "Of the {n} people in this image, {k} have their heads turned in much the same way.",
            "{N} people are shown. The head positions of {k} of them are alike.",
            "Among the {n} people, {k} share much the same head position.",
            "You can see {n} people. {K} of them are facing in similar directions; {rest}.",
            "In this image, {k} of the {n} people hold their heads at similar angles.",
            "The head positions of {k} of the {n} people are similar, but {rest}.",
            "This is a picture of {n} people. {K} of them hold their heads at similar angles, and {rest}.",
        ),
        "different": (
            "There are {n} people in the picture with different head positions.",
            "Here you see {n} people. Their heads are in different positions.",
            "Each of the {n} people in the picture has a different head position.",
            "The {n} people in this image hold their heads in different ways.",
            "{N} people are shown, each with a different head position.",
            "The picture shows {n} people whose heads point in different directions.",
            "The head positions of the {n} people are not alike.",
            "You can see {n} people facing in different directions.",
            "In this image, {n} people hold their heads at different angles.",
            "The head positions of the {n} people differ from one another.",
            "This is a picture of {n} people whose head positions differ.",
        ),
    },
}

# By aspect, the topics in which two people can differ. Each topic has groups of claims, with their words. Claims of
# different groups are never both true of one person; in a group the narrowest comes first.
CONTRASTS: dict[str, tuple[tuple[dict[str, str], ...], ...]] = {
    "pose": (
        (
            {"base=sitting": "is sitting"},
            {"base=standing": "is standing", "base=on_feet": "is on their feet"},
            {"base=squatting": "is squatting"},
            {"base=kneeling": "is kneeling"},
            {"base=lying": "is lying down"},
        ),
        (
            {"both_arms=raised": "has both hands up", "one_arm=raised": "has a hand up"},
            {"both_arms=down": "has both arms down"},
        ),
        ({"view=front": "is seen from the front"}, {"view=back": "is seen from behind"}),
    ),
    "face": (
        (
            {"mouth=smiling": "is smiling"},
            {"mouth=relaxed": "has a relaxed mouth"},
            {"mouth=puckered": "is puckering their lips"},
            {"mouth=turned_down": "has the corners of their mouth turned down"},
        ),
        ({"eyes=closed": "has their eyes closed"}, {"eyes=open": "has their eyes open"}),
        ({"brows=raised": "is raising their eyebrows"}, {"brows=lowered": "is lowering their eyebrows"}),
    ),
    "head": (
        (
            {"turn=left": "has their head turned to the left of the picture"},
            {"turn=right": "has their head turned to the right of the picture"},
            {"turn=camera": "is facing the camera"},
        ),
        (
            {"nod=up": "has their head raised"},
            {"nod=level": "is holding their head level"},
            {"nod=down": "has their head lowered"},
        ),
        (
            {"tilt=left": "has their head tilted to the left of the picture"},
            {"tilt=right": "has their head tilted to the right of the picture"},
        ),
    ),
}
_CONTRAST_SENTENCES = (  # a and b: from left to right; one and other: in any order
    "The person on the left {a}, and the person on the right {b}.",
    "The one on the left {a}, and the one on the right {b}.",
    "One person {one}, while the other {other}.",
    "One of them {one}, while the other {other}.",
    "One {one}, and the other {other}.",
)

_WORDS = {2: "two", 3: "three", 4: "four"}
_NOUNS = {"pose": "pose", "face": "expression", "head": "head position"}


def situation(n_people: int, n_similar: int) -> str:
    """Which templates fit: ``different`` (nobody is alike), ``all`` or ``some``."""
    if n_similar == 0:
        return "different"
    return "all" if n_similar == n_people else "some"


def fill(template: str, aspect: str, n_people: int, n_similar: int) -> str:
    """A template with its numbers: 2 to 4 people, of whom none or at least two are similar."""
    n, k = _WORDS[n_people], _WORDS.get(n_similar, "")
    every = "both" if n_people == 2 else f"all {n}"
    others = n_people - n_similar
    noun = _NOUNS[aspect]
    return template.format(
        n=n,
        N=n.capitalize(),
        k=k,
        K=k.capitalize(),
        digit=n_similar,
        all=every,
        All=every.capitalize(),
        rest=f"the other person has a different {noun}"
        if others == 1
        else f"the other {_WORDS.get(others)} have different {noun}s",
    )


def stances(aspect: str, facts: Mapping[str, str]) -> tuple[int, ...]:
    """For each topic of ``CONTRASTS`` the group of a person's facts, counted from 1; 0 if they say nothing.

    Two people differ in a topic if neither has 0 and their groups are different.
    """
    return tuple(
        next((i for i, group in enumerate(topic, 1) if _narrowest(group, facts)), 0) for topic in CONTRASTS[aspect]
    )


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption, and its claims about each person, from left to right."""

    text: str
    claims: tuple[tuple[str, ...], ...]


def caption(
    aspect: str, n_people: int, n_similar: int, rng: np.random.Generator, facts: Sequence[Mapping[str, str]] = ()
) -> Caption:
    """A caption for ``n_people`` people, ``n_similar`` of them alike in ``aspect`` (0, or 2 and more).

    If two people differ and their ``facts``, from left to right, contrast, it also says what each does.
    """
    templates = TEMPLATES[aspect][situation(n_people, n_similar)]
    text = fill(templates[int(rng.integers(len(templates)))], aspect, n_people, n_similar)
    differing = []
    if n_people == 2 and n_similar == 0 and facts:
        of_both = zip(CONTRASTS[aspect], *(stances(aspect, person) for person in facts), strict=True)
        differing = [topic for topic, first, second in of_both if first and second and first != second]
    if not differing:
        return Caption(text, ((),) * n_people)
    topic = differing[int(rng.integers(len(differing)))]
    claims = [next(filter(None, (_narrowest(group, person) for group in topic))) for person in facts]
    phrases = [next(group[claim] for group in topic if claim in group) for claim in claims]
    one, other = rng.permutation(phrases).tolist()
    sentence = _CONTRAST_SENTENCES[int(rng.integers(len(_CONTRAST_SENTENCES)))]
    contrast = sentence.format(a=phrases[0], b=phrases[1], one=one, other=other)
    return Caption(f"{text} {contrast}", tuple((claim,) for claim in claims))


def _narrowest(group: Mapping[str, str], facts: Mapping[str, str]) -> str:
    """The first claim of a group that a person's facts support, or ""."""
    return next((claim for claim in group if _holds(facts, claim)), "")


def _holds(facts: Mapping[str, str], claim: str) -> bool:
    name, _, value = claim.partition("=")
    if name not in ("one_arm", "both_arms"):
        return supports(facts, claim)
    arms = [supports(facts, f"{arm}={value}") for arm in ("left_arm", "right_arm")]
    return any(arms) if name == "one_arm" else all(arms)
