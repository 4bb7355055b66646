"""Guesses from the words of a caption which facts it claims. The person who writes it checks the guess.

A text is cut into pieces about one part of the body; in each piece, the first matching pattern of each name counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from laion_people.language.facts import known

_LONGEST = 300  # letters that are read: the longest caption
_PIECES = re.compile(r"[,;:.]|\b(?:and|with(?! an open mouth)|while|but|both(?= (?:eyes|arms|hands|elbows)))\b")
_ARM = re.compile(r"\b(?:arm|hand|elbow|forearm|fist|wrist)s?\b")
_HEAD = re.compile(r"\b(?:head|face[sd]?|chin)\b|(?<!chest )\bfacing\b(?<!body facing)")
_MOUTH, _BROWS = re.compile(r"mouth|\blips?\b|smil|laugh|jaw"), re.compile(r"brow")
_EYES = re.compile(r"\beye|wink|squint")
_WHOSE = {  # the arm that a piece is about
    r"\bleft\b": "left_arm",
    r"\bright\b": "right_arm",
    r"\b(?:arm|hand|elbow|forearm|fist|wrist)\b": "one_arm",
    r"": "both_arms",
}
_ARMS = {
    r"behind (?:the|their) back": "behind_back",
    r"\baway from": "away",
    r"\bhips?\b": "on_hip",
    r"\b(?:lap|thighs?)\b": "in_lap",
    r"\b(?:ground|floor)\b": "on_ground",
    r"\b(?:cross|fold)": "crossed",
    r"overhead|(?:above|over) (?:the|their) head": "overhead",
    r"\b(?:head|face|chin|ears?|cheeks?)\b": "at_head",
    r"(?<!out )\bin front\s*$|\bin front of|before (?:the|their) (?:chest|belly|body)": "in_front",
    r"\bforward|out in front": "forward",
    r"sideways|\bout\b|(?:stretch|extend|spread)\w* (?:\w+ )*to the sides?|\bspread\b": "out",
    r"\bdown\b|\bhang|\blower|at (?:the|their) sides?": "down",
    r"\bback(?:ward)?\b": "back",
    r"(?:hold|carr)\w* (?:something|an? \w+)": "holding",
    r"\brais|\blift|\bup\b": "raised",
    r"\bbent\b|\bbend": "bent",
}
_BODY = {
    "base": {
        r"\bone knee\b": "one_knee",
        r"\ball fours\b": "all_fours",
        r"\bkick": "kicking",
        r"\bone (?:leg|foot)\b": "one_leg",
        r"\blung": "lunging",
        r"\brid(?:es|ing)\b": "riding",
        r"\bclimb": "climbing",
        r"\b(?:jump|leap)|mid-air": "jumping",
        r"\brun(?:s|ning)?\b": "running",
        r"\bwalk|\btak\w+ a step": "walking",
        r"\b(?:squat|crouch)": "squatting",
        r"\bkneel": "kneeling",
        r"\bsit(?:s|ting)?\b|\bseated\b": "sitting",
        r"\b(?:lies|lying)\b": "lying",
        r"\bstand": "standing",
        r"\bfeet\b(?! (?:\w+ )*(?:apart|together))": "on_feet",
        r"\bknees\b": "knees_bent",
        r"\bmov(?:es|ing)\b|in motion|on the move": "moving",
    },
    "legs_apart": {
        r"\b(?:legs?|feet)\b.*(?:close|together|\bnot\b)": "no",
        r"\b(?:legs?|feet)\b.*(?:apart|spread|wide)|wide stance": "yes",
    },
    "lean": {
        r"upside down": "upside_down",
        r"horizontal|parallel to the ground": "horizontal",
        r"(?:lean|bent|bend|tip)\w* forward": "forward",
        r"(?:lean|bend|tip)\w* back": "backward",
        r"(?:lean|bend)\w* (?:sideways|to (?:one|the) side)": "sideways",
        r"\bupright\b|\bstraight\b": "upright",
    },
    "view": {
        r"from (?:behind|the back|the rear)|\bback (?:turned )?to the camera": "back",
        r"three-quarter|at an angle to|partly away": "three_quarter",
        r"from the front|frontal|(?:chest|body) (?:to|toward|facing) the camera": "front",
        r"from the side|side view|side-on|sideways to the camera": "side",
    },
}
_OF_HEAD = {
    "turn": {
        r"(?:turn|fac|look)\w* (?:\w+ ){0,2}away\b(?! from the side)": "away",
        r"(?:turn|fac|look)\w* (?:\w+ ){0,4}camera": "camera",
        **{
            rf"(?:turn|fac|look)\w* (?:\w+ )*{degree}(?:\w+ )*{side}\b": f"{name}{side}"
            for degree, name in ((r"far ", "far_"), (r"(?:slightly|a little) ", "slight_"), ("", ""))
            for side in ("left", "right")
        },
    },
    "nod": {
        r"neither|without (?:raising|lifting)": "level",
        r"tip\w* (?:\w+ )*back|\brais|\blift|\blooks? up|\bchin (?:\w+ )*up": "up",
        r"\bbow|\blower|\blooks? down|\bchin (?:\w+ )*down": "down",
        r"\blevel\b": "level",
    },
    "tilt": {
        r"(?:not|without)(?: a)? tilt|\bupright\b": "none",
        r"tilt\w* (?:\w+ )*left": "left",
        r"tilt\w* (?:\w+ )*right": "right",
    },
}
_OF_MOUTH = {
    "mouth": {
        r"open.*smil|smil.*open|laugh": "smiling_open",
        r"smil": "smiling",
        r"pucker|purs|\bpush\w* .*forward": "puckered",
        r"down": "turned_down",
        r"closed|shut": "closed",
        r"open|apart|drop": "open",
        r"relax|rest\b|neutral": "relaxed",
    }
}
_OF_BROWS = {
    "brows": {r"rais|lift|\bup\b": "raised", r"lower|down|drawn|frown": "lowered", r"level|relax|rest\b": "level"}
}
_OF_EYES = {
    "eyes": {
        r"\bone\b|wink": "one_closed",
        r"clos|shut": "closed",
        r"wide": "wide",
        r"narrow|squint|half": "narrowed",
        r"open": "open",
    }
}
_NEUTRAL = re.compile(r"\bneutral\b|face is at rest|expression is relaxed")
_SAME_WAY = re.compile(r"tilt\w* (?:it )?the (same|other) way")  # as the head turns


def suggested_claims(text: str) -> tuple[str, ...]:
    """The claims of a caption as far as its words show them, each name once; () if they show none."""
    guessed: dict[str, str] = {}
    for name, value in _guesses(text[:_LONGEST].casefold()):
        guessed.setdefault(name, value)
    turned, way = guessed.get("turn", "").rpartition("_")[2], _SAME_WAY.search(text)
    if way and turned in ("left", "right"):
        guessed["tilt"] = turned if way[1] == "same" else {"left": "right", "right": "left"}[turned]
    return tuple(claim for claim in map("=".join, guessed.items()) if known(claim))


def _guesses(text: str) -> Iterator[tuple[str, str]]:
    about = ""  # the part of the last piece; a piece without a word for a part belongs to it
    for piece in _PIECES.split(text):
        parts = {"arm": _ARM, "mouth": _MOUTH, "brows": _BROWS, "eyes": _EYES, "head": _HEAD}
        about = next((part for part, words in parts.items() if words.search(piece)), about)
        if _NEUTRAL.search(piece):
            yield from (("mouth", "relaxed"), ("brows", "level"))
        elif about == "arm":
            yield from _arm_matches(piece)
        elif about in ("mouth", "brows", "eyes"):
            yield from _matches(piece, {"mouth": _OF_MOUTH, "brows": _OF_BROWS, "eyes": _OF_EYES}[about])
        elif about == "head" and (guesses := tuple(_matches(piece, _OF_HEAD))):
            yield from guesses
            continue
        if not any(words.search(piece) for words in (_MOUTH, _BROWS, _EYES, _HEAD)) or _ARM.search(piece):
            yield from _matches(_ARM.split(piece)[0] if _ARM.search(piece) else piece, _BODY)


def _arm_matches(piece: str) -> Iterator[tuple[str, str]]:
    arm = next(name for words, name in _WHOSE.items() if re.search(words, piece))
    yield from _matches(piece, {arm: _ARMS})


def _matches(piece: str, patterns: dict[str, dict[str, str]]) -> Iterator[tuple[str, str]]:
    for name, values in patterns.items():
        if value := next((value for words, value in values.items() if re.search(words, piece)), ""):
            yield name, value
