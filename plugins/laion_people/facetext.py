"""Candidate captions of facial expressions and head directions, from facts.

Facts of a face: ``mouth``, ``brows``, ``eyes``; of a head: ``turn``, ``nod``, ``tilt``: names of the banks below. Left
and right are those of the picture, and said to be. A fact that is not certain is left out and not spoken of.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from laion_people.geometry import EXPRESSIONS

MOUTHS: dict[str, tuple[str, ...]] = {  # what the person has
    "smiling": ("a smile", "the corners of the mouth drawn up", "a smiling mouth"),
    "smiling open": ("a broad, open smile", "a laughing mouth", "the mouth open in a smile"),
    "open": ("the mouth open", "a wide open mouth", "the jaw dropped"),
    "puckered": ("puckered lips", "the lips pursed", "the lips pushed forward"),
    "turned down": ("the corners of the mouth turned down", "a mouth bent downward", "a downturned mouth"),
    "relaxed": ("a relaxed mouth", "the lips at rest", "the mouth calm and closed"),
}
BROWS: dict[str, tuple[str, ...]] = {
    "raised": ("raised eyebrows", "the eyebrows lifted", "both eyebrows up"),
    "lowered": ("lowered eyebrows", "the eyebrows drawn together", "a frown between the eyebrows"),
    "level": ("", "", ""),
}
EYES: dict[str, tuple[str, ...]] = {
    "closed": ("closed eyes", "both eyes shut", "the eyelids down"),
    "one closed": ("one eye closed in a wink", "one eye shut", "a wink"),
    "wide": ("wide open eyes", "the eyes opened wide", "big, wide eyes"),
    "narrowed": ("narrowed eyes", "the eyes squinting", "half-closed eyes"),
    "open": ("", "", ""),
}
TURNS: dict[str, tuple[str, ...]] = {  # what the head does
    "camera": ("faces the camera", "looks straight at the camera", "points the face at the viewer"),
    "slightly left": (
        "turns the head slightly to the left side of the picture",
        "looks a little toward the left side of the picture",
        "has the face turned a little to the left of the picture",
    ),
    "slightly right": (
        "turns the head slightly to the right side of the picture",
        "looks a little toward the right side of the picture",
        "has the face turned a little to the right of the picture",
    ),
    "left": (
        "turns the head to the left side of the picture",
        "looks toward the left side of the picture",
        "has the face turned to the left of the picture",
    ),
    "right": (
        "turns the head to the right side of the picture",
        "looks toward the right side of the picture",
        "has the face turned to the right of the picture",
    ),
    "far left": (
        "turns the head far to the left side of the picture",
        "is seen nearly in profile, facing the left side of the picture",
        "looks far to the left of the picture",
    ),
    "far right": (
        "turns the head far to the right side of the picture",
        "is seen nearly in profile, facing the right side of the picture",
        "looks far to the right of the picture",
    ),
}
NODS: dict[str, tuple[str, ...]] = {
    "up": ("lifts the chin", "tips the head back to look up", "looks upward"),
    "down": ("lowers the chin", "bows the head to look down", "looks downward"),
    "level": ("", "", ""),
}
TILTS: dict[str, tuple[str, ...]] = {
    "left": (
        "tilts the head toward the left side of the picture",
        "leans the head to the left of the picture",
        "lets the head tip to the left side of the picture",
    ),
    "right": (
        "tilts the head toward the right side of the picture",
        "leans the head to the right of the picture",
        "lets the head tip to the right side of the picture",
    ),
    "upright": ("", "", ""),
}

# What is still true of people who differ in a fact: the wider name and the names that it covers.
WIDER = {
    "mouth": {"smiling": {"smiling", "smiling open"}},
    "turn": {
        "camera": {"camera", "slightly left", "slightly right"},
        "left": {"slightly left", "left", "far left"},
        "right": {"slightly right", "right", "far right"},
    },
}

FACE_SENTENCES = (
    "A person with {face}.",
    "The person's face shows {face}.",
    "Someone has {face}.",
    "A face with {face}.",
    "The picture shows a person with {face}.",
    "A person is seen with {face}.",
)
NEUTRAL_FACE = (
    "A person with a neutral expression.",
    "The person's face is relaxed and calm.",
    "Someone looks on with a neutral face.",
    "A face at rest, without a strong expression.",
    "The picture shows a person with a calm face.",
    "A person is seen with a still, neutral expression.",
)
UNCERTAIN_FACE = (
    "A person's face can be seen.",
    "The picture shows a face.",
    "Someone's face is in view.",
    "A face is visible.",
    "The face of a person is shown.",
    "Here is the face of a person.",
)
HEAD_SENTENCES = (
    "A person {head}.",
    "Someone {head}.",
    "The picture shows a person who {head}.",
    "The person {head}.",
    "Here a person {head}.",
    "In this picture someone {head}.",
)
UNCERTAIN_HEAD = (
    "A person's head can be seen.",
    "The picture shows a person's head.",
    "Someone's head is in view.",
    "The head of a person is visible.",
    "Here is a person with the head in view.",
    "The head of someone is shown.",
)


def face_captions(facts: Mapping[str, str]) -> list[str]:
    """Six distinct sentences about an expression. Raises KeyError for a fact that has no words."""
    if not facts:
        return list(UNCERTAIN_FACE)
    quiet = {"mouth": "relaxed", "brows": "level", "eyes": "open"}
    if all(facts.get(part, value) == value for part, value in quiet.items()):
        return list(NEUTRAL_FACE) if facts.get("mouth") else list(UNCERTAIN_FACE)
    captions = []
    for i, sentence in enumerate(FACE_SENTENCES):
        variant = (i + i // 3) % 3
        phrases = [bank[facts[part]][variant] for part, bank in _FACE_BANKS if facts.get(part, "relaxed") != "relaxed"]
        captions.append(sentence.format(face=_listed(phrases)))
    return captions


def head_captions(facts: Mapping[str, str]) -> list[str]:
    """Six distinct sentences about where a head points. Raises KeyError for a fact that has no words."""
    captions = []
    for i, sentence in enumerate(HEAD_SENTENCES):
        variant = (i + i // 3) % 3
        nodding = facts.get("nod", "level") != "level"
        phrases = [
            bank[facts[part]][variant]
            for part, bank in _HEAD_BANKS
            if part in facts and not (nodding and facts[part] == "camera")
        ]
        if not any(phrases):
            return list(UNCERTAIN_HEAD)
        captions.append(sentence.format(head=_listed(phrases)))
    return captions


_FACE_BANKS = (("mouth", MOUTHS), ("brows", BROWS), ("eyes", EYES))
_HEAD_BANKS = (("turn", TURNS), ("nod", NODS), ("tilt", TILTS))


def _listed(phrases: list[str]) -> str:
    """ "a", "a and b", "a, b and c"; empty phrases are left out."""
    *first, last = [p for p in phrases if p]
    return f"{', '.join(first)} and {last}" if first else last


def face_facts(expressions: np.ndarray) -> dict[str, np.ndarray]:
    """The facts of each face, as arrays of names, from `laion_people.geometry.expressions` [people, d]; "" if unseen.

    Brows come down with a smile; that is not called lowered.
    """
    named = dict(zip(EXPRESSIONS, expressions.T, strict=True))

    def both(name: str) -> np.ndarray:
        return (named[f"{name}Left"] + named[f"{name}Right"]) / 2

    width, opening, lift = named["mouthWidth"], named["mouthOpening"], named["mouthCornerLift"]
    smile = (both("mouthSmile") > 0.25) | ((width > 5.8) & (lift > 1))
    blink, other = named["eyeBlinkLeft"], named["eyeBlinkRight"]
    brows_up = np.maximum(named["browInnerUp"], both("browOuterUp"))
    names = {
        "mouth": np.select(
            [
                smile & (opening > 0.6),
                smile,
                (opening > 0.8) | (named["jawOpen"] > 0.3),
                (named["mouthPucker"] > 0.6) & (width < 4.9),
                (lift < -0.7) | (both("mouthFrown") > 0.2),
            ],
            ["smiling open", "smiling", "open", "puckered", "turned down"],
            "relaxed",
        ),
        "brows": np.select([(both("browDown") > 0.3) & ~smile, brows_up > 0.5], ["lowered", "raised"], "level"),
        "eyes": np.select(
            [np.minimum(blink, other) > 0.5, np.abs(blink - other) > 0.45, both("eyeWide") > 0.3],
            ["closed", "one closed", "wide"],
            "open",
        ),
    }
    return {fact: np.where(np.isnan(width), "", values) for fact, values in names.items()}


def head_facts(angles: np.ndarray) -> dict[str, np.ndarray]:
    """The facts of each head, as arrays of names, from yaw, pitch and roll [people, 3] in radians; "" if unseen.

    Pitch is judged from -4 degrees: where Face Landmarker sees a level head, on renders and photographs alike.
    """
    yaw, pitch, roll = np.degrees(angles).T
    turns = ["far left", "left", "slightly left", "camera", "slightly right", "right"]
    names = {
        "turn": np.select([yaw < limit for limit in (-45, -20, -8, 8, 20, 45)], turns, "far right"),
        "nod": np.select([pitch > 8, pitch < -16], ["up", "down"], "level"),
        "tilt": np.select([roll < -12, roll > 12], ["left", "right"], "upright"),
    }
    return {fact: np.where(np.isnan(yaw), "", values) for fact, values in names.items()}
