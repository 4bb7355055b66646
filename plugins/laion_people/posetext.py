"""Candidate captions of body poses, from facts.

Facts are a few words about a pose: ``arms`` (two names of ``ARMS`` joined by ``+``, the more telling one first, or one
name when only that arm is certain), ``legs`` (a name of ``LEGS``) and ``lean`` (a name of ``LEANS``). `pose_facts`
reads them off a body's limb directions; a fact that is not certain is left out, and captions keep silent about it.

Captions name no side ("one arm"), because a pose and its mirror image are one pose, and they speak of the body alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from laion_people.geometry import LIMBS

# A body's proportions in lengths of its torso, outward, up, forward from the middle of the hips.
SHOULDER, HEAD, HIP = np.array([0.35, 1, 0]), np.array([0, 1.35, 0.1]), np.array([0.3, 0, 0])
UPPER_ARM, FOREARM = 0.6, 0.5

LEGS: dict[str, tuple[tuple[str, str], ...]] = {  # what the person does: finite verb, participle
    "standing": (
        ("stands", "standing"),
        ("stands upright", "standing upright"),
        ("stands on straight legs", "standing on straight legs"),
    ),
    "wide stance": (
        ("stands with the legs apart", "standing with the legs apart"),
        ("stands in a wide stance", "standing in a wide stance"),
        ("stands with the feet wide apart", "standing with the feet wide apart"),
    ),
    "sitting": (
        ("sits", "sitting"),
        ("is seated", "seated"),
        ("sits with bent knees", "sitting with bent knees"),
    ),
    "squatting": (
        ("squats", "squatting"),
        ("crouches low", "crouching low"),
        ("squats with bent knees", "squatting with bent knees"),
    ),
    "kneeling": (
        ("kneels", "kneeling"),
        ("is on both knees", "on both knees"),
        ("kneels down", "kneeling down"),
    ),
    "one knee": (
        ("kneels on one knee", "kneeling on one knee"),
        ("is down on one knee", "down on one knee"),
        ("rests on one knee", "resting on one knee"),
    ),
    "lunging": (
        ("lunges forward", "lunging forward"),
        ("takes a deep step forward", "taking a deep step forward"),
        ("lunges with one knee bent", "lunging with one knee bent"),
    ),
    "side lunge": (
        ("lunges to one side", "lunging to one side"),
        ("leans into a side lunge", "leaning into a side lunge"),
        ("lunges sideways with one knee bent", "lunging sideways with one knee bent"),
    ),
    "running": (
        ("runs", "running"),
        ("takes a running stride", "taking a running stride"),
        ("runs with one leg swinging back", "running with one leg swinging back"),
    ),
    "walking": (
        ("walks", "walking"),
        ("takes a step", "taking a step"),
        ("walks with one foot in front of the other", "walking with one foot in front of the other"),
    ),
    "kicking": (
        ("kicks one leg out", "kicking one leg out"),
        ("lifts one straight leg", "lifting one straight leg"),
        ("stands on one leg with the other stretched out", "standing on one leg with the other stretched out"),
    ),
    "one leg raised": (
        ("stands on one leg", "standing on one leg"),
        ("balances on one leg", "balancing on one leg"),
        ("stands on one leg with the other knee bent", "standing on one leg with the other knee bent"),
    ),
    "knees bent": (
        ("is low down on bent knees", "low down on bent knees"),
        ("bends both knees", "bending both knees"),
        ("lowers the body on bent knees", "lowering the body on bent knees"),
    ),
    "lying": (
        ("lies down", "lying down"),
        ("lies stretched out", "lying stretched out"),
        ("is lying flat", "lying flat"),
    ),
}

ARMS: dict[str, tuple[tuple[str, str], ...]] = {  # both arms, one arm; the more telling first
    "overhead": (
        ("both arms raised overhead", "one arm raised overhead"),
        ("both arms stretched up above the head", "one arm stretched up above the head"),
        ("both hands high above the head", "one hand high above the head"),
    ),
    "out to the side": (
        ("both arms stretched out to the sides", "one arm stretched out to the side"),
        ("both arms spread out at shoulder height", "one arm held out sideways at shoulder height"),
        ("both arms spread wide", "one arm reaching out sideways"),
    ),
    "forward": (
        ("both arms stretched forward", "one arm stretched forward"),
        ("both arms held out in front of the body", "one arm held out in front of the body"),
        ("both arms reaching forward", "one arm reaching forward"),
    ),
    "hand up": (
        ("both hands raised beside the head", "one hand raised beside the head"),
        ("both elbows bent and both hands up", "one elbow bent and that hand up"),
        ("both forearms raised", "one forearm raised"),
    ),
    "at the head": (
        ("both hands at the head", "one hand at the head"),
        ("both hands close to the face", "one hand close to the face"),
        ("both hands lifted to the head", "one hand lifted to the head"),
    ),
    "crossed": (
        ("both arms crossed in front of the chest", "one arm across the chest"),
        ("both arms folded across the chest", "one arm folded across the chest"),
        ("both forearms crossed in front of the body", "one forearm across the body"),
    ),
    "on the hip": (
        ("both hands on the hips", "one hand on the hip"),
        ("both hands resting on the hips", "one hand resting on the hip"),
        ("both elbows out and both hands on the hips", "one elbow out and that hand on the hip"),
    ),
    "bent": (
        ("both arms bent at the elbows", "one arm bent at the elbow"),
        ("both elbows bent", "one elbow bent"),
        ("both forearms held in front of the body", "one forearm held in front of the body"),
    ),
    "away": (
        ("both arms held away from the body", "one arm held away from the body"),
        ("both arms angled down and out", "one arm angled down and out"),
        ("both arms lowered and slightly spread", "one arm lowered and slightly spread"),
    ),
    "down": (
        ("both arms hanging by the sides", "one arm hanging by the side"),
        ("both arms relaxed at the sides", "one arm relaxed at the side"),
        ("both arms down", "one arm down"),
    ),
}

LEANS: dict[str, tuple[str, ...]] = {
    "upright": ("", "", ""),
    "forward": ("leaning forward", "bending forward", "the upper body tipped forward"),
    "backward": ("leaning back", "bending backward", "the upper body tipped back"),
    "sideways": ("leaning to one side", "bending sideways", "the upper body tipped to one side"),
}

# What is still true of people who differ in a fact: the wider name and the names that it covers.
WIDER = {"legs": {"knees bent": {"sitting", "squatting"}, "one leg raised": {"one leg raised", "kicking"}}}

# {does}: finite verb, {doing}: participle, {arms}: noun phrase, {joint}: "with", or "and" where a "with" came before.
WHOLE_BODY = (
    "A person {does} {joint} {arms}{lean}.",
    "Someone {does} {joint} {arms}{lean}.",
    "With {arms}, a person {does}{lean}.",
    "The picture shows a person {doing} {joint} {arms}{lean}.",
    "A person is shown {doing}, {arms}{lean}.",
    "A person {doing} {joint} {arms}{lean}.",
)
UPPER_BODY = (
    "A person has {arms}{lean}.",
    "A person is seen with {arms}{lean}.",
    "Someone poses with {arms}{lean}.",
    "The picture shows a person with {arms}{lean}.",
    "A person holds a pose with {arms}{lean}.",
    "Here is a person with {arms}{lean}.",
)
LEGS_ONLY = (
    "A person {does}{lean}.",
    "Someone {does}{lean}.",
    "The picture shows a person {doing}{lean}.",
    "A person is shown {doing}{lean}.",
    "Here someone {does}{lean}.",
    "A person who {does}{lean}.",
)
NOTHING_CERTAIN = (
    "A person is in the picture.",
    "The picture shows a person.",
    "Someone is in view.",
    "A person can be seen.",
    "Here is a person in a free pose.",
    "Someone is in a free pose.",
)
CAPTIONS = 6  # a pose; one for each sentence shape, so that all differ


def pose_captions(facts: Mapping[str, str]) -> list[str]:
    """Six distinct sentences that say the same facts in other words (see the module for what facts are).

    Raises KeyError for a fact that has no words.
    """
    legs, arms = facts.get("legs"), facts.get("arms")
    shapes = {(True, True): WHOLE_BODY, (False, True): UPPER_BODY, (True, False): LEGS_ONLY}
    sentences = shapes.get((legs is not None, arms is not None), NOTHING_CERTAIN)
    captions = []
    for i, sentence in enumerate(sentences):
        does, doing = LEGS[legs][i % 3] if legs else ("", "")
        lean = LEANS[facts.get("lean", "upright")][i % 3]
        captions.append(
            sentence.format(
                does=does,
                doing=doing,
                joint="and" if " with " in does else "with",
                arms=_arms_phrase(arms, (i + i // 3) % 3) if arms else "",
                lean=f", {lean}" if lean else "",
            )
        )
    return captions


def _arms_phrase(arms: str, variant: int) -> str:
    first, _, second = arms.partition("+")
    both, one = ARMS[first][variant]
    if first == second:
        return both
    if not second:
        return one
    other = ARMS[second][variant][1].replace("one ", "the other ", 1)
    return f"{one} and {other}"


def pose_facts(limbs: np.ndarray) -> dict[str, np.ndarray]:
    """The facts of each pose, as arrays of names with "" where nothing certain can be said.

    limbs: float [people, 9, 3], directions as of `laion_people.geometry.limb_directions`, NaN where not seen.
    """
    outward = limbs * np.where(np.char.startswith(LIMBS, "right"), -1, 1)[:, None] ** np.array([1, 0, 0])
    left, right = (_arm(outward[:, 1 + s], outward[:, 3 + s]) for s in (0, 1))
    return {"arms": _pairs(left, right, outward), "legs": _legs(outward), "lean": _lean(outward[:, 0])}


def _arm(upper: np.ndarray, fore: np.ndarray) -> np.ndarray:
    """A name of ``ARMS`` for each arm, from its limbs' directions [people, 3]: outward, up, forward."""
    hand = SHOULDER + UPPER_ARM * upper + FOREARM * fore
    whole = _unit(UPPER_ARM * upper + FOREARM * fore)
    out, up, forward = whole.T
    straight = _angle(upper, fore) < 50
    return np.select(
        [
            np.isnan(hand).any(axis=1),
            hand[:, 1] > HEAD[1] + 0.25,
            np.linalg.norm(hand - HEAD, axis=1) < 0.4,
            (fore[:, 1] > 0.6) & (hand[:, 1] > 0.95),
            straight & (np.abs(up) < 0.5) & (out > 0.7),
            straight & (np.abs(up) < 0.5) & (forward > 0.7),
            straight & (up < -0.85),
            (np.linalg.norm(hand[:, :2] - HIP[:2], axis=1) < 0.5) & (upper[:, 0] > 0.3) & (fore[:, 0] < -0.1),
            straight & (up < -0.4) & (out > 0.4),
            ~straight & (fore[:, 2] > 0.3),
        ],
        ["", "overhead", "at the head", "hand up", "out to the side", "forward", "down", "on the hip", "away", "bent"],
        "",
    )


def _pairs(left: np.ndarray, right: np.ndarray, limbs: np.ndarray) -> np.ndarray:
    """Both arms' names joined by ``+`` in the order of ``ARMS``; crossed where both forearms lie across the chest."""
    forearms = limbs[:, 3:5]
    crossed = ((forearms[..., 0] < -0.6) & (np.abs(forearms[..., 1]) < 0.6)).all(axis=1)
    order = list(ARMS)
    pairs = zip(left.tolist(), right.tolist(), strict=True)
    names = ["+".join(sorted(filter(None, pair), key=order.index)) for pair in pairs]
    return np.where(crossed, "crossed+crossed", np.array(names, dtype=object)).astype(str)


def _legs(limbs: np.ndarray) -> np.ndarray:
    """A name of ``LEGS`` for each person, from limbs [people, 9, 3]: outward, up, forward."""
    thighs, shins = limbs[:, 5:7], limbs[:, 7:9]
    bend = _angle(thighs, shins)
    flat = thighs[..., 1] > -0.6  # lifted to the front or the side, as in sitting
    upright = thighs[..., 1] < -0.75
    front, back = thighs[..., 2] > 0.4, shins[..., 2] < -0.6
    steady = upright & (bend < 45)  # a leg to stand on
    shin_down = shins[..., 1] < -0.8
    wide = (thighs[..., 0] > 0.4).all(1)
    lying = np.abs(limbs[:, 0, 1]) < 0.45

    def one_and_other(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return (one & other[:, ::-1]).any(axis=1)

    return np.select(
        [
            np.isnan(thighs).any(axis=(1, 2)) | np.isnan(shins).any(axis=(1, 2)),
            lying & (np.abs(thighs[..., 1]) < 0.6).all(1),
            (flat & (bend > 50)).all(1) & (shins[..., 2] < -0.2).all(1),
            (flat & (bend > 45)).all(1),
            (upright & (bend > 65) & back).all(1),
            one_and_other(upright & (bend > 65) & back, front & shin_down),
            one_and_other(flat & (bend < 40), steady),
            one_and_other(back & (shins[..., 1] > -0.55) & (bend > 25), front),
            wide & one_and_other(bend > 35, bend < 30),
            one_and_other(front & (bend > 35), (thighs[..., 2] < -0.15)),
            one_and_other((thighs[..., 1] > -0.75) & (bend > 60), steady),
            wide & (bend < 35).all(1),
            steady.all(1) & (np.abs(np.diff(thighs[..., 2], axis=1)[:, 0]) > 0.5),
            steady.all(1),
        ],
        [
            "", "lying", "squatting", "sitting", "kneeling", "one knee", "kicking", "running", "side lunge", "lunging",
            "one leg raised", "wide stance", "walking", "standing",
        ],
        "",
    )  # fmt: skip


def _lean(torso: np.ndarray) -> np.ndarray:
    """A name of ``LEANS`` for each torso direction [people, 3]; "" for those who lie."""
    side, up, forward = np.abs(torso[:, 0]), torso[:, 1], torso[:, 2]
    return np.select(
        [np.isnan(up) | (up < 0.45), forward > 0.5, forward < -0.5, side > 0.5],
        ["", "forward", "backward", "sideways"],
        "upright",
    )


def _angle(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Degrees between unit vectors."""
    return np.degrees(np.arccos(np.clip((first * second).sum(axis=-1), -1, 1)))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)
