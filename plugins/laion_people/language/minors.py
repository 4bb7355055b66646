"""Whether a text speaks of children or adolescents, so that a publication can leave their images out.

Who is meant is looked for in words alone: a list of English words, and ages below 18. A word too many counts less than
a child too few: ``boy`` and ``girl`` count, though many captions call grown people so. Names and things that only
sound like it (``baby blue``, ``boy band``, ``child's pose``) don't.

What this cannot do: no age is estimated from a picture, and most captions don't say how old somebody is. Words of other
languages, words run together (``kidsfashion``), misspelt ones, letters of other alphabets that look alike, and what
only implies it (a family, siblings, a playground) are not found. Even the best program in a comparison of such as
see picture and caption found three of four images with children (https://arxiv.org/abs/2506.10117).
"""

from __future__ import annotations

import re
from functools import cache

from laion_people.language.wordgate import plain, plural

WORDS = """
    child kid kiddo kiddie baby babygirl babyboy infant newborn neonate toddler tot tween preteen teen teenager
    adolescent juvenile youngster youth boy girl schoolboy schoolgirl schoolchild schoolkid pupil preschool preschooler
    kindergarten kindergartener kindergartner daycare highschool highschooler daughter granddaughter
    grandson grandchild grandkid stepchild stepdaughter stepson godchild goddaughter godson orphan quinceanera
"""
UNINFLECTED = """
    children schoolchildren grandchildren stepchildren godchildren teenage teenaged underage underaged childhood boyhood
    girlhood babyhood adolescence infancy childcare minors
"""
NUMBERS = """
    one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
"""
ORDINALS = """
    first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth
    sixteenth seventeenth
"""
TENS = "twenty thirty forty fifty sixty seventy eighty ninety hundred"


def _any(words: str) -> str:
    return f"(?:{'|'.join(words.split())})"


AGE = rf"(?:0?[1-9]|1[0-7]|{_any(NUMBERS)})"
NTH = rf"(?:(?:[1-9]|1[0-7]) (?:st|nd|rd|th)|{_any(ORDINALS)})"
PHRASES = (
    rf"{AGE} (?:(?:year|yr)s? old|(?:year|yr)s? of age|y ?o)",
    r"(?:month|week|day)s? old",
    rf"ages? (?:of )?{AGE}",
    rf"aged {AGE}",
    rf"under {AGE} s",
    r"u (?:[6-9]|1[0-7])",  # of a team
    rf"{NTH} (?:birthday|grade|grader)s?",
    r"sweet (?:16|sixteen)",
    r"(?:new born|pre teen|under age|day care|pre school|pre k|k 12)s?",
    r"(?:nursery|grade|elementary|primary|middle|high|secondary|sunday) school(?:s|er|ers)?",
    r"junior high",
    r"(?:cub|eagle) scouts?",
    r"(?:little league|(?:bar|bat) mitzvah|first communion)s?",
    r"(?:mother|father|mom|mum|dad|parents?|with|his|her|their|our|my|s)(?: and)? sons?",
    r"sons? (?:and|with) (?:(?:his|her|their) )?(?:mother|father|mom|mum|dad|parent)s?",
)
# Tokens that are passed over before anything is looked for.
INNOCENT = (
    rf"{_any(TENS)}(?: and)? {_any(NUMBERS + ORDINALS)}",  # twenty-five is no five
    rf"{AGE} (?:year|yr)s? old (?:\w+ )?(?:whisk(?:e?y|ies)|scotch|bourbon|malt|rum|wine|house|tree|car|dog|cat|horse)",
    rf"aged {AGE} (?:year|month)s in",
    r"baby (?:blue|pink|bump|shower|grand|doll|boomer|oil|tee|carrot|corn|spinach|back)s?",
    r"happy baby pose|child(?: ?s)? pose",  # of yoga
    r"(?:julia|lee|wild|inner|destiny s) child",
    r"(?:boy|girl) ?(?:s )?(?:band|group|friend|boss|crush|power|next door)s?",
    r"(?:beach|beastie|backstreet|pet shop|bad|old|fall out|oh) boys?|boy george",
    r"(?:boy|girl)s? (?:s )?night",
    r"(?:cover|calendar|pin up|pinup|show|call|bond|it|spice|golden|gilmore|gossip) girls?",
    r"kid (?:leather|skin|suede|glove|mohair|goat)s?|goat kids?|kid (?:rock|cudi)|billy the kid|new kids on the block",
    r"dilated pupils?|sonic youth|fountain of youth|youth hostels?|teen (?:wolf|choice|titans)",
)


def speaks_of_minors(text: str | None) -> str:
    """The words of a text (a caption, or what the collection says of an image) that speak of somebody under 18.

    In small plain letters; "" if none do. Capitals, accents, punctuation and compatibility forms make no difference.
    """
    words = " ".join(_TOKENS.findall(_THOUSANDS.sub("", plain(_MARKS.sub(" ", text or "")))))
    found = _minors().search(_innocent().sub("-", words))
    return found[0] if found else ""


_TOKENS = re.compile(r"[^\W\d_]+|\d+")
_MARKS = re.compile("[\u2120\u2122]")  # whose compatibility forms are letters: SM, TM
_THOUSANDS = re.compile(r"(?<=\d)[,.'](?=\d{3})")  # 1,500 is no 500


@cache
def _minors() -> re.Pattern[str]:
    inflected = [form for word in WORDS.split() for form in (word, plural(word))]
    return re.compile(rf"\b(?:{'|'.join([*inflected, *UNINFLECTED.split(), *PHRASES])})\b")


@cache
def _innocent() -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(INNOCENT)})\b")
