"""People whose postures, faces and heads vary continuously and independently: the cast of include/truth.

Each part of a body is drawn on its own (left arm, right arm, what the body rests on, lean, head, mouth, brows, eyes):
no part predicts another. Directions are as in `poses.py`: x to the person's left, y up, z forwards.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
from people import Figure, Reach
from poses import Direction

SIDES = (("L", 1), ("R", -1))
Limbs = dict[str, Direction]

BASES = {  # what the body rests on or does: share
    "standing": 30,
    "walking": 8,
    "running": 7,
    "jumping": 6,
    "one_leg": 5,
    "kicking": 4,
    "lunging": 5,
    "sitting": 13,
    "sitting_on_floor": 5,
    "squatting": 5,
    "kneeling": 5,
    "one_knee": 4,
    "lying_on_back": 3,
    "lying_on_front": 2,
    "lying_on_side": 2,
    "all_fours": 3,
}
ARMS = {
    "down": 20,
    "away": 8,
    "out": 9,
    "forward": 9,
    "up": 9,
    "back": 4,
    "bent": 13,
    "hand_up": 6,
    "hip": 8,
    "in_front": 7,
    "behind_back": 5,
    "at_head": 8,
}
TWO_ARMS = {"crossed": 5, "lap": 0, "knees": 0, "floor": 0}
MOUTHS = {"neutral": 26, "smile": 16, "smile_open": 16, "open": 12, "pucker": 8, "down": 10, "hint": 6}
BROWS = {"neutral": 56, "raised": 22, "lowered": 22}
EYES = {"open": 58, "closed": 16, "one_closed": 7, "wide": 10, "narrowed": 9}


@dataclass(frozen=True)
class Cast:
    """One person of the set. `arms`: kinds of the arms; `turn`: yaw, pitch, roll of the head in degrees."""

    figure: Figure
    arms: tuple[str, str]
    face: dict[str, float]
    turn: tuple[float, float, float]


def pick(rng: random.Random, shares: dict[str, int]) -> str:
    return rng.choices(list(shares), list(shares.values()))[0]


def _direction(sign: int, lift: float, azimuth: float) -> np.ndarray:
    """`lift`: degrees from hanging; `azimuth`: 0 to the own side, 90 forwards."""
    lift, azimuth = math.radians(lift), math.radians(azimuth)
    outwards = math.sin(lift) * math.cos(azimuth)
    return np.array([sign * outwards, -math.cos(lift), math.sin(lift) * math.sin(azimuth)])


def _bent(upper: np.ndarray, bend: float, towards: Direction) -> np.ndarray:
    """The lower limb, `bend` degrees from the upper one's direction."""
    aside = np.asarray(towards, float)
    aside = aside - (aside @ upper) * upper
    aside = aside / max(float(np.linalg.norm(aside)), 1e-9)
    return math.cos(math.radians(bend)) * upper + math.sin(math.radians(bend)) * aside


def _arm(
    rng: random.Random, side: str, sign: int, lift: tuple, azimuth: tuple, bend: tuple, towards: Direction
) -> Limbs:
    upper = _direction(sign, rng.uniform(*lift), rng.uniform(*azimuth))
    lower = _bent(upper, rng.uniform(*bend), (sign * towards[0], *towards[1:]))
    hand = _bent(lower, rng.uniform(0, 25), (-sign * 0.5, rng.uniform(-1, 0.3), 1))
    named = zip(("upper_arm", "lower_arm", "hand"), (upper, lower, hand), strict=True)
    return {f"{part}.{side}": tuple(d.tolist()) for part, d in named}


def _reach(rng: random.Random, kind: str, side: str, sign: int) -> Reach:
    """The place where a hand rests, in decimetres; the wrist stops a hand's length before."""

    def near(x: float, y: float, z: float, spread: float = 0.15) -> Direction:
        return (sign * (x + rng.uniform(-spread, spread)), y + rng.uniform(-spread, spread), z + rng.uniform(-0.1, 0.1))

    if kind == "hip":
        pole = (sign, rng.uniform(-0.2, 0.2), rng.uniform(-0.9, 0.2))
        return Reach("root", near(1.85, 1.35, 0.55), pole, (-sign * 0.75, -0.35, rng.uniform(-0.5, 0.5)))
    if kind == "in_front":
        place = near(rng.uniform(0.3, 1.1), rng.uniform(-1.2, 2.2), 2.0)
        return Reach("spine03", place, (sign, -0.8, -0.3), (-sign, rng.uniform(-0.2, 0.4), 0.1))
    if kind == "behind_back":
        return Reach(
            "root", near(0.75, rng.uniform(0.9, 2.0), -1.35), (sign, 0, -1), (-sign, rng.uniform(-0.4, 0.3), 0)
        )
    if kind == "crossed":
        place = near(-0.55, 0.2 + 0.35 * (side == "L"), 2.0 + 0.35 * (side == "L"), 0.08)
        return Reach("spine01", place, (sign, -0.8, 0.2), (-sign, 0.25, -0.45))
    if kind == "lap":
        place = (sign * 0.2, -rng.uniform(1.2, 3.2), rng.uniform(1.1, 1.3))
        return Reach(f"upperleg01.{side}", place, (sign, -0.3, -0.5), (-sign * 0.35, -0.25, 1))
    if kind == "knees":
        return Reach(f"lowerleg01.{side}", (sign * 0.15, 0.5, 0.95), (sign, -0.2, -0.2), (-sign * 0.2, -1, 0.3))
    if kind == "floor":
        return Reach("floor", (sign * rng.uniform(0, 0.8), 0, rng.uniform(-0.5, 0.8)), (sign, 0, -0.6), (0, 1, 0.2))
    spot = rng.choice(("cheek", "temple", "chin", "crown", "nape"))
    wrist, hand = {
        "cheek": ((1.35, -0.75, 1.15), (-0.75, 0.6, -0.3)),
        "temple": ((1.75, 0.1, 0.5), (-0.85, 0.5, -0.1)),
        "chin": ((0.5, -1.35, 1.5), (-0.3, 0.75, -0.6)),
        "crown": ((1.25, 1.35, 0.3), (-0.9, 0.3, 0)),
        "nape": ((1.5, 0.2, -0.75), (-0.95, 0.1, -0.2)),
    }[spot]
    pole = (sign, rng.uniform(-0.5, 0.5), rng.uniform(-0.3, 0.6)) if spot != "chin" else (sign * 0.4, -1, 0.3)
    return Reach("head", near(*wrist, spread=0.1), pole, (sign * hand[0], *hand[1:]))


def _one_arm(rng: random.Random, kind: str, side: str, sign: int) -> tuple[Limbs, dict[str, Reach]]:
    if kind in ("hip", "in_front", "behind_back", "crossed", "lap", "knees", "floor", "at_head"):
        return {}, {side: _reach(rng, kind, side, sign)}
    bend = (3, 28)
    drawn = {
        "down": ((3, 22), (-30, 60), (3, 35), (0, 0, 1)),
        "away": ((32, 56), (-20, 40), bend, (0, 0, 1)),
        "out": ((68, 112), (-20, 38), (2, 24), (0, rng.choice((-0.3, 1)), 1)),
        "forward": ((62, 112), (68, 98), bend, (-0.3, 1, 0)),
        "up": ((132, 174), (0, 90), (3, 40), (-0.5, 1, 0)),
        "back": ((30, 52), (-100, -72), (3, 25), (0, 0, 1)),
        "bent": ((5, 95), (-20, 95), (55, 125), (rng.uniform(-0.8, 0.6), rng.uniform(-0.3, 1), 1)),
        "hand_up": ((20, 105), (-10, 70), (80, 135), (rng.uniform(-0.3, 0.4), 1, 0.5)),
    }[kind]
    return _arm(rng, side, sign, *drawn), {}


def _arms(rng: random.Random, base: str, front: float) -> tuple[tuple[str, str], Limbs, dict[str, Reach]]:
    """Kinds of the left and the right arm, their directions and places. `front`: how far the trunk leans forwards."""
    shares = dict(TWO_ARMS)
    if base.startswith("sitting"):
        shares["lap"] = 22
    if base in ("sitting", "squatting") or front > 25:
        shares["knees"] = 7
    if base == "all_fours":
        return _both(rng, "floor")
    if base in ("squatting", "one_knee", "kneeling") and front > 20:
        shares["floor"] = 10
    if base == "lying_on_side":
        return _both(rng, rng.choice(("forward", "in_front")))
    arms = dict(ARMS)
    if base.startswith("lying"):
        shares, arms = {}, {"down": 2, "away": 2, "out": 2, "up": 2, "at_head": 2 * (base == "lying_on_back")}
    kind = pick(rng, shares | {"": 70}) if shares else ""
    if kind:
        return _both(rng, kind)
    if rng.random() < 0.35:
        return _both(rng, pick(rng, arms))
    left, right = pick(rng, arms), pick(rng, arms)
    (limbs, reach), (right_limbs, right_reach) = _one_arm(rng, left, "L", 1), _one_arm(rng, right, "R", -1)
    return (left, right), limbs | right_limbs, reach | right_reach


def _both(rng: random.Random, kind: str) -> tuple[tuple[str, str], Limbs, dict[str, Reach]]:
    limbs, reach = {}, {}
    for side, sign in SIDES:
        side_limbs, side_reach = _one_arm(rng, kind, side, sign)
        limbs, reach = limbs | side_limbs, reach | side_reach
    return (kind, kind), limbs, reach


def _leg(side: str, thigh: Direction, shin: Direction, foot: Direction) -> Limbs:
    return {f"thigh.{side}": thigh, f"shin.{side}": shin, f"foot.{side}": foot}


def _legs(rng: random.Random, base: str) -> Limbs:
    u = rng.uniform
    (near, near_sign), (far, far_sign) = rng.sample(SIDES, 2)  # which leg is in front
    flat = {sign: (sign * u(0, 0.5), -0.25, 1) for _, sign in SIDES}
    straight = (0.03, -1.0, -0.05)
    if base == "standing":
        wide = u(0.22, 0.5) if rng.random() < 0.3 else u(0, 0.1)
        legs: Limbs = {}
        for side, sign in SIDES:
            shin = (sign * wide * 0.95, -1, -u(0, 0.12))
            legs |= _leg(side, (sign * wide, -1, u(-0.05, 0.1)), shin, flat[sign])
        return legs
    if base in ("walking", "running"):
        if base == "walking":
            step, behind = u(0.25, 0.55), u(0.12, 0.4)
            front_shin, back_shin, back_foot = (0, -1, u(-0.1, 0.25)), (0, -1, -u(0.35, 0.9)), (0, -0.7, 1)
        else:
            step, behind = u(0.6, 1.3), u(0.2, 0.6)
            front_shin, back_shin, back_foot = (0, -1, -u(0.1, 0.7)), (0, -u(0.1, 0.7), -1), (0, -1, -0.2)
        front = _leg(near, (near_sign * 0.05, -1, step), front_shin, (near_sign * 0.1, -0.1, 1))
        return front | _leg(far, (far_sign * 0.05, -1, -behind), back_shin, back_foot)
    if base == "jumping":
        kind = rng.choice(("star", "tuck", "split", "straight"))
        if kind == "split":
            front = _leg(near, (near_sign * 0.1, -u(0, 0.6), 1), (0, -1, u(-0.2, 0.8)), (0, -0.7, 1))
            return front | _leg(far, (far_sign * 0.1, -1, -u(0.4, 1)), (0, -0.6, -1), (0, -1, -0.5))
        legs = {}
        for side, sign in SIDES:
            thigh, shin = {
                "star": ((sign * u(0.4, 0.9), -1, u(0, 0.2)), (sign * u(0.3, 0.7), -1, -u(0, 0.3))),
                "tuck": ((sign * u(0, 0.4), -1, u(0.4, 1.5)), (0, -1, -u(0.5, 1.5))),
                "straight": ((sign * u(0, 0.15), -1, u(-0.1, 0.15)), (sign * 0.05, -1, -u(0.05, 0.5))),
            }[kind]
            legs |= _leg(side, thigh, shin, (sign * 0.1, -1, 0.6))
        return legs
    if base == "one_leg":
        thigh, shin = rng.choice(
            (
                ((near_sign * u(0, 0.3), -u(0, 1), 1), (0, -1, -u(0, 0.5))),
                ((near_sign * 0.1, -1, u(-0.3, 0.2)), (0, -u(-0.1, 0.4), -1)),
                ((near_sign * 1, -u(0.3, 0.7), 0.35), (-near_sign * 0.95, -0.75, -0.1)),
                ((near_sign * 1, -u(0.5, 1.2), 0.1), (near_sign * 1, -u(0.5, 1.2), 0)),
            )
        )
        lifted = _leg(near, thigh, shin, (0, -0.8, 0.6))
        return lifted | _leg(far, (0, -1, 0), straight, flat[far_sign])
    if base == "kicking":
        up = u(-0.4, 0.4)
        kick = _leg(
            near, (near_sign * u(-0.2, 0.8), up, 1), (near_sign * u(-0.2, 0.8), up + u(-0.1, 0.1), 1), (0, 0.8, 0.6)
        )
        return kick | _leg(far, (0, -1, 0), straight, flat[far_sign])
    if base == "lunging":
        if rng.random() < 0.35:
            bent = _leg(
                near, (near_sign * 0.9, -u(0.5, 0.8), 0.35), (near_sign * 0.1, -1, -0.1), (near_sign * 0.6, -0.2, 1)
            )
            return bent | _leg(far, (far_sign * 0.9, -1, 0), (far_sign * 0.9, -1, 0), (far_sign * 0.5, -0.3, 1))
        bent = _leg(near, (near_sign * 0.1, -u(0.15, 0.6), 1), (0, -1, u(-0.15, 0.1)), (0, -0.2, 1))
        return bent | _leg(far, (far_sign * 0.1, -1, -u(0.4, 1)), (far_sign * 0.1, -1, -u(0.7, 1.3)), (0, -0.9, 0.5))
    if base == "sitting":
        wide, rise = u(0.03, 0.5), u(-0.25, 0.12)
        legs = {}
        for side, sign in SIDES:
            shin = (sign * u(-0.15, 0.12), -1, u(-0.3, 0.5))
            legs |= _leg(side, (sign * wide, rise, 1), shin, (sign * 0.1, -0.2, 1))
        if rng.random() < 0.3:  # one thigh over the other
            legs |= _leg(near, (-near_sign * 0.3, 0.22, 1), (near_sign * u(-0.2, 0.2), -1, u(0.1, 0.5)), (0, -0.6, 1))
        return legs
    if base == "sitting_on_floor":
        kind = rng.choice(("long", "knees", "tailor"))
        legs = {}
        for side, sign in SIDES:
            thigh, shin = {
                "long": ((sign * u(0.05, 0.4), 0.03, 1), (sign * u(0, 0.3), -0.06, 1)),
                "knees": ((sign * u(0.05, 0.3), u(0.6, 1), 1), (0, -1, u(0.3, 0.6))),
                "tailor": ((sign * 1, u(0, 0.12), 0.85), (-sign * 1, -0.1, 0.05 + 0.25 * (side == near))),
            }[kind]
            legs |= _leg(side, thigh, shin, (sign * 0.3, 0.4 if kind == "long" else -0.2, 0.8))
        return legs
    if base == "squatting":
        wide, deep = u(0.1, 0.6), u(-0.2, 0.25)
        legs = {}
        for side, sign in SIDES:
            legs |= _leg(
                side, (sign * wide, deep, 1), (sign * u(-0.1, 0.05), -1, -u(0.3, 0.55)), (sign * 0.25, -0.28, 1)
            )
        return legs
    if base == "kneeling":
        on_heels = rng.random() < 0.35
        legs = {}
        for side, sign in SIDES:
            thigh = (sign * u(0.05, 0.35), -0.22, 1) if on_heels else (sign * u(0.02, 0.2), -1, u(-0.15, 0.2))
            legs |= _leg(side, thigh, (0, -0.08, -1), (0, -0.25, -1))
        return legs
    if base == "one_knee":
        front = _leg(near, (near_sign * u(0, 0.3), u(-0.12, 0.12), 1), (0, -1, u(-0.15, 0.1)), (0, -0.25, 1))
        return front | _leg(far, (far_sign * 0.06, -1, -u(0, 0.3)), (0, -0.12, -1), (0, -1, -0.3))
    if base == "all_fours":
        legs = {}
        for side, sign in SIDES:
            legs |= _leg(side, (sign * u(0.02, 0.2), -1, u(-0.2, 0.2)), (0, -0.05, -1), (0, -0.3, -1))
        return legs
    legs = {}  # lying, in the pelvis's axes
    for side, sign in SIDES:
        bent = rng.random() < (0.65 if base == "lying_on_side" else 0.35 if base == "lying_on_back" else 0)
        rise = u(0.5, 1.4)
        thigh = (sign * u(0.02, 0.3), -1, rise) if bent else (sign * u(0.02, 0.3), -1, 0)
        shin = (0, -1, -rise * 0.9) if bent else (sign * u(0, 0.2), -1, 0)
        foot = (sign * 0.2, -1, -0.1) if base == "lying_on_front" else (sign * 0.3, -0.7, 0.8)
        legs |= _leg(side, thigh, shin, foot)
    return legs


def _trunk(rng: random.Random, base: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Angles of the pelvis and of the spine."""
    u = rng.uniform
    twist = rng.gauss(0, 8)
    if base.startswith("lying"):
        side = rng.choice((-1, 1))
        root = {"lying_on_back": (-90, 0, 0), "lying_on_front": (90, 0, 0), "lying_on_side": (0, 90 * side, 0)}[base]
        return root, (u(0, 12) if base == "lying_on_back" else 0, 0, 0)
    if base == "all_fours":
        return (u(62, 78), 0, 0), (u(-5, 12), 0, 0)
    if base == "squatting":
        return (u(5, 25), 0, 0), (u(5, 25), rng.gauss(0, 4), twist)
    if base == "running":
        return (u(0, 12), rng.gauss(0, 2), 0), (u(0, 14), rng.gauss(0, 4), twist)
    if base in ("jumping", "kicking"):
        return (u(-12, 8), rng.gauss(0, 4), 0), (u(-12, 10), rng.gauss(0, 6), twist)
    kind = pick(rng, {"upright": 60, "forward": 20, "backward": 8, "sideways": 12})
    if base == "sitting_on_floor":
        kind = rng.choice(("upright", "backward", "upright"))
    if kind == "forward":
        return (u(5, 45), rng.gauss(0, 2), 0), (u(5, 25), rng.gauss(0, 3), twist)
    if kind == "backward":
        return (-u(3, 14), 0, 0), (-u(8, 20), rng.gauss(0, 3), twist)
    if kind == "sideways":
        side = rng.choice((-1, 1))
        return (0, side * u(0, 12), 0), (rng.gauss(0, 3), side * u(12, 32), twist)
    return (rng.gauss(0, 2), rng.gauss(0, 2), 0), (rng.gauss(0, 4), rng.gauss(0, 3), twist)


def face(rng: random.Random) -> dict[str, float]:
    """ARKit weights of a mouth, brows and eyes, drawn independently."""
    u = rng.uniform
    weights: dict[str, float] = {}

    def both(name: str, value: float) -> None:
        weights.update({f"{name}{side}": round(value, 3) for side in ("Left", "Right")})

    mouth, brows, eyes = pick(rng, MOUTHS), pick(rng, BROWS), pick(rng, EYES)
    if mouth in ("smile", "smile_open", "hint"):
        smile = u(0.6, 1.0) if mouth != "hint" else u(0.12, 0.4)
        both("mouthSmile", smile)
        both("cheekSquint", 0.5 * smile)
    if mouth == "smile_open":
        weights["jawOpen"] = round(u(0.12, 0.4), 3)
        both("mouthUpperUp", u(0.4, 0.8))
        both("mouthLowerDown", u(0.2, 0.6))
    elif mouth == "open":
        weights["jawOpen"] = round(u(0.3, 1.0), 3)
    elif mouth == "pucker":
        weights["mouthPucker"] = round(u(0.6, 1.0), 3)
    elif mouth == "down":
        both("mouthFrown", u(0.6, 1.0))
    if brows == "raised":
        weights["browInnerUp"] = round(u(0.5, 1.0), 3)
        both("browOuterUp", u(0.5, 1.0))
    elif brows == "lowered":
        both("browDown", u(0.6, 1.0))
    if eyes == "closed":
        both("eyeBlink", 1.0)
    elif eyes == "one_closed":
        weights[f"eyeBlink{rng.choice(('Left', 'Right'))}"] = 1.0
    elif eyes == "wide":
        both("eyeWide", u(0.7, 1.0))
    elif eyes == "narrowed":
        both("eyeSquint", u(0.7, 1.0))
    return weights


def head(rng: random.Random, base: str) -> tuple[float, float, float]:
    yaw, pitch, roll = (rng.triangular(-75, 75, 0), rng.triangular(-38, 40, 0), rng.triangular(-32, 32, 0))
    if base == "all_fours":
        pitch = rng.uniform(-50, -10)
    if rng.random() < 0.3:
        yaw, pitch, roll = rng.gauss(0, 4), rng.gauss(0, 4), rng.gauss(0, 3)
    return yaw, pitch, roll


def draw(rng: random.Random, base: str) -> Cast:
    """A person with a base of BASES; everything else is random."""
    root, spine = _trunk(rng, base)
    kinds, limbs, reach = _arms(rng, base, root[0] + spine[0])
    figure = Figure(
        base=base,
        limbs=limbs | _legs(rng, base),
        reach=reach,
        root=root,
        spine=spine,
        legs_hang_on_pelvis=base.startswith("lying"),
        lift=rng.uniform(0.15, 0.5) if base == "jumping" else rng.uniform(0, 0.08) if base == "running" else 0.0,
    )
    return Cast(figure, kinds, face(rng), head(rng, base))
