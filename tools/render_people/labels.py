"""What a careful person would say of a rendered body: labels by geometry, from the rig's exact joints and parameters.

The fields and words are those that people use for photographs: docs/truth.md lists them. Near a border both values are
right and joined by "|"; what lies outside the picture or behind something is "?". The rules were written independently
of those of `laion_people`: the two can disagree.

shown       the lowest of ankles, knees, hips, shoulders inside the picture; `waist` is from the hips up.
view        angle between the chest's normal and the direction to the camera: front < 25, three_quarter < 60, side <
            115, else back; borders of 8 degrees. "?" where the chest points more than 50 degrees up or down.
base        the drawn posture; "?" where the knees are not seen; a step shorter than a tenth of the height or so may be
            standing, feet out of the picture leave standing, walking and running open; a leap is also a run, a kick
            also one leg, a shallow lunge also a step or a stand, sitting on the heels also kneeling.
legs_apart  ankles further apart than 0.27 of the height (yes), nearer than 0.2 (no), between both; "?" without both
            ankles. A step is measured aside, too, and both readings hold.
lean        angle of hips-to-shoulders to the vertical: upright < 15, horizontal > 65, upside_down > 120, else the
            direction in the pelvis's axes in which it leans most, two where they are nearly equal; borders of 5
            degrees, of 12 where it leans to or from the camera, which foreshortens it.
upper       angle of the upper arm to the trunk's downward axis, and to gravity where the trunk leans by 15 to 60
            degrees (an arm that hangs from a bent trunk hangs): down < 30, low < 60, level < 120, raised; borders of 6
            degrees.
dir         azimuth of the upper arm about the trunk: side within 45 degrees of outwards, front, back, across; borders
            of 12.
elbow       inner angle: straight > 150, slight > 110, bent > 60, folded; borders of 7 degrees.
hand        where the middle between wrist and knuckles lies: see `_hand`. Lengths are in shares of the person's height.
face        mouth, brows, eyes are the blendshape weights: brows and closed smiles of less than 0.8 may be neutral, too;
            "?" where the head is turned by more than 60 degrees, nods by more than 40, is smaller than 24 px (brows:
            60), or out of the picture.
head        turn, nod, tilt are angles against the line of sight, with borders at 8, 20 and 45, at 15, and at 12
            degrees, of 3 to 4 degrees; away from 103 on, far to a side until 127. A nod is also measured against the
            horizon, and both readings hold: people judge either. Turn and tilt of a head that nods by more than 45
            degrees are "?".
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

LEFT_RIGHT = (("l", "left", 1), ("r", "right", -1))
FEET = ("walking", "running")
STRONG = 0.8  # weight of a blendshape that anybody can see


@dataclass(frozen=True)
class Body:
    """A person in the room, in metres; the camera looks along +y, z is up.

    `joints`: COCO-17 and `left_hand`, `right_hand` (knuckles); `seen`: which of them are in the picture and not hidden;
    `inside`: in the picture, hidden or not; `chest`, `pelvis`: 3 x 3, columns to the own left, backwards, up;
    `to_camera`: from the chest; `head`: vertices; `angles`: head against the line of sight (`render.head_angles`);
    `head_pitch`: its face against the horizon, up positive.
    """

    base: str
    height: float
    joints: Mapping[str, np.ndarray]
    seen: Mapping[str, bool]
    inside: Mapping[str, bool]
    chest: np.ndarray
    pelvis: np.ndarray
    to_camera: np.ndarray
    head: np.ndarray
    head_up: np.ndarray
    angles: Mapping[str, float]
    head_pitch: float
    head_px: float
    face: Mapping[str, float]


def label(body: Body) -> dict[str, str]:
    """All fields of one person."""
    out = {
        "shown": _shown(body),
        "view": _view(body),
        "base": _base(body),
        "legs_apart": _legs_apart(body),
        "lean": _lean(body),
    }
    for short, side, sign in LEFT_RIGHT:
        for name, value in _arm(body, side, sign).items():
            out[f"{short}_{name}"] = value
    return out | _face(body) | _head(body)


def _bands(value: float, borders: Iterable[float], names: Iterable[str], margin: float) -> set[str]:
    """The names of all bands within the margin of a value."""
    edges = [-np.inf, *borders, np.inf]
    pairs = zip(itertools.pairwise(edges), names, strict=True)
    return {name for (low, high), name in pairs if low - margin <= value <= high + margin}


def _join(values: Iterable[str]) -> str:
    return "|".join(sorted(set(values))) or "?"


def _angle(a: np.ndarray, b: np.ndarray) -> float:
    cosine = a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-9)
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def _trunk(body: Body) -> np.ndarray:
    """From the middle of the hips to that of the shoulders."""
    j = body.joints
    return (j["left_shoulder"] + j["right_shoulder"] - j["left_hip"] - j["right_hip"]) / 2


def _shown(body: Body) -> str:
    for joint, name in (("ankle", "whole"), ("knee", "knees"), ("hip", "waist"), ("shoulder", "bust")):
        if body.inside[f"left_{joint}"] and body.inside[f"right_{joint}"]:
            return name
    return "head"


def _view(body: Body) -> str:
    front = -body.chest[:, 1]
    if abs(front[2]) > np.sin(np.radians(50)):
        return "?"
    away = _angle(np.append(front[:2], 0), np.append(body.to_camera[:2], 0))
    return _join(_bands(away, (25, 60, 115), ("front", "three_quarter", "side", "back"), 8))


def _base(body: Body) -> str:
    base, j = body.base, body.joints
    if base.startswith("lying"):
        return "lying"
    if not (body.inside["left_knee"] or body.inside["right_knee"]):
        return "?"
    if base == "sitting_on_floor":
        return "sitting"
    feet = body.inside["left_ankle"] and body.inside["right_ankle"]
    if base in (*FEET, "standing", "one_leg", "lunging", "kicking") and not feet:
        return _join({base, *FEET, "standing"} if base in (*FEET, "standing") else {base, "standing", "?"})
    if base == "walking" and np.linalg.norm((j["left_ankle"] - j["right_ankle"])[:2]) < 0.17 * body.height:
        return "standing|walking"
    if base == "running" and np.linalg.norm((j["left_ankle"] - j["right_ankle"])[:2]) < 0.3 * body.height:
        return "running|walking"
    if base == "kneeling" and min(_knee(body, s) for _, s, _ in LEFT_RIGHT) < 50:
        return "kneeling|sitting"
    if base == "lunging" and min(_knee(body, s) for _, s, _ in LEFT_RIGHT) > 105:  # a shallow one
        aside = abs((j["left_ankle"] - j["right_ankle"]) @ body.pelvis[:, 0])
        return "lunging|standing" if aside > 0.2 * body.height else "lunging|walking"
    if base == "kicking":
        return "kicking|one_leg"
    if (
        base == "jumping"
        and np.linalg.norm((j["left_ankle"] - j["right_ankle"]) @ body.pelvis[:, 1]) > 0.3 * body.height
    ):
        return "jumping|running"  # a leap
    return base


def _knee(body: Body, side: str) -> float:
    knee = body.joints[f"{side}_knee"]
    return _angle(body.joints[f"{side}_hip"] - knee, body.joints[f"{side}_ankle"] - knee)


def _legs_apart(body: Body) -> str:
    if not (body.inside["left_ankle"] and body.inside["right_ankle"]):
        return "?"
    apart = np.linalg.norm(body.joints["left_ankle"] - body.joints["right_ankle"]) / body.height
    aside = abs((body.joints["left_ankle"] - body.joints["right_ankle"]) @ body.pelvis[:, 0]) / body.height
    # Not everyone calls a step forwards "apart": if only the step is wide, both are right.
    return _join(_bands(apart, (0.235,), ("no", "yes"), 0.035) | _bands(aside, (0.235,), ("no", "yes"), 0.035))


def _lean(body: Body) -> str:
    if not all(body.inside[f"{s}_shoulder"] for _, s, _ in LEFT_RIGHT):
        return "?"
    if not all(body.inside[f"{s}_hip"] for _, s, _ in LEFT_RIGHT):
        return "?"
    trunk = _trunk(body) / np.linalg.norm(_trunk(body))
    lean = _angle(trunk, np.array([0, 0, 1.0]))
    along = abs(trunk[:2] @ body.to_camera[:2]) / np.linalg.norm(trunk[:2]) / np.linalg.norm(body.to_camera[:2])
    margin = 12 if along > np.cos(np.radians(35)) else 5
    bands = _bands(lean, (15, 65, 120), ("upright", "leaning", "horizontal", "upside_down"), margin)
    if "leaning" in bands:
        bands.remove("leaning")
        ahead = -body.pelvis[:, 1] * (1, 1, 0)
        ahead = ahead / max(float(np.linalg.norm(ahead)), 1e-9)
        forward, aside = trunk @ ahead, abs(trunk @ np.cross(ahead, (0, 0, 1)))
        if abs(forward) > 0.6 * aside:
            bands.add("forward" if forward > 0 else "backward")
        if aside > 0.6 * abs(forward):
            bands.add("sideways")
    return _join(bands)


def _arm(body: Body, side: str, sign: int) -> dict[str, str]:
    """upper, dir, elbow, hand of one arm."""
    j, seen = body.joints, body.seen
    shoulder, elbow, wrist = (j[f"{side}_{name}"] for name in ("shoulder", "elbow", "wrist"))
    upper_seen = body.inside[f"{side}_shoulder"] and seen[f"{side}_elbow"]
    lower_seen = seen[f"{side}_elbow"] and seen[f"{side}_wrist"] and body.inside[f"{side}_shoulder"]
    trunk = _trunk(body) / np.linalg.norm(_trunk(body))
    arm = elbow - shoulder
    names = ("down", "low", "level", "raised")
    upper = _bands(_angle(arm, -trunk), (30, 60, 120), names, 6)
    if 15 < _angle(trunk, np.array([0, 0, 1.0])) < 60:
        upper |= _bands(_angle(arm, np.array([0, 0, -1.0])), (30, 60, 120), names, 6)
    inner = _angle(shoulder - elbow, wrist - elbow)
    bend = _bands(inner, (60, 110, 150), ("folded", "bent", "slight", "straight"), 7)
    return {
        "upper": _join(upper) if upper_seen else "?",
        "dir": _join(_direction(body, arm, sign, upper)) if upper_seen else "?",
        "elbow": _join(bend) if lower_seen else "?",
        "hand": _join(_hand(body, side, sign, upper, inner)),
    }


def _direction(body: Body, arm: np.ndarray, sign: int, upper: set[str]) -> set[str]:
    if upper == {"down"}:
        return {"none"}
    out, ahead = sign * (arm @ body.chest[:, 0]), -(arm @ body.chest[:, 1])
    azimuth = float(np.degrees(np.arctan2(ahead, out)))  # 0 outwards, 90 forwards
    near = _bands(azimuth, (-45, 45, 135), ("back", "side", "front", "across"), 12)
    if "down" in upper:
        near.add("none")
    if np.hypot(out, ahead) < 0.35 * np.linalg.norm(arm):  # nearly straight up: its direction is random
        near |= {"side", "front"}
    return near


def _hand(body: Body, side: str, sign: int, upper: set[str], inner: float) -> set[str]:
    """Places of a hand. A hidden hand has a place only behind the back, where the elbow shows it.

    head_face < 0.05 of the height from the head's skin (to 0.08 also the air's words); above_head higher than the
    head's top; ground < 0.125 above it (< 0.05 it alone); crossed where both wrists are over the midline in front;
    behind_back behind the trunk's middle plane by 0.04 and less than 0.12 from the midline; hip < 0.075 from a point of
    the hip's crest with a bent elbow that points outwards; thigh_lap < 0.085 from a thigh that is bent; belly_chest
    before the trunk, < 0.13 from the midline and < 0.16 before the spine; at_side of a hanging arm, < 0.17 beside the
    hip; else in the air, by the height of the shoulder less 0.1.
    """
    j, tall = body.joints, body.height
    hand = (j[f"{side}_wrist"] + j[f"{side}_hand"]) / 2
    middle = (j["left_shoulder"] + j["right_shoulder"]) / 2
    hips = (j["left_hip"] + j["right_hip"]) / 2
    up = _trunk(body) / np.linalg.norm(_trunk(body))
    length = float(np.linalg.norm(_trunk(body)))
    share = float((hand - hips) @ up / length)  # 0 at the hips, 1 at the shoulders
    axes = body.chest if share > 0.5 else body.pelvis
    spine = hips + share * (middle - hips)
    across = float((hand - spine) @ axes[:, 0]) / tall
    ahead = -float((hand - spine) @ axes[:, 1]) / tall
    behind = ahead < -0.04 and abs(across) < 0.12 and -0.25 < share < 0.9
    if not body.seen[f"{side}_hand"] or not body.inside[f"{side}_wrist"]:
        elbow_tells = behind and body.seen[f"{side}_elbow"] and body.inside[f"{side}_wrist"] and inner < 150
        return {"behind_back"} if elbow_tells else {"?"}
    if behind and inner < 150:
        return {"behind_back"}
    air = _air(body, hand, middle, up)
    to_head = float(np.linalg.norm(body.head - hand, axis=1).min()) / tall
    if to_head < 0.05:
        return {"head_face"} | (air & {"above_head"})
    out = air | {"head_face"} if to_head < 0.08 else set()
    if body.base != "jumping" and hand[2] < 0.125 * tall:
        resting = hand[2] < 0.05 * tall and not body.base.startswith("lying")
        out |= {"ground"} if resting else {"ground", *air}
    if _crossed(body, middle, up):
        out |= {"crossed", "belly_chest"}
    crest = j[f"{side}_hip"] + tall * (0.07 * body.pelvis[:, 2] + sign * 0.035 * body.pelvis[:, 0])
    if np.linalg.norm(hand - crest) < 0.075 * tall and inner < 140:
        out.add("hip")
    for thigh in ("left", "right"):
        hip, knee = j[f"{thigh}_hip"], j[f"{thigh}_knee"]
        bent = _angle(knee - hip, -up) > 40
        if bent and _to_segment(hand, hip, knee) < 0.085 * tall:
            out.add("thigh_lap")
    if not out & {"crossed", "thigh_lap", "hip"} and 0.02 < ahead < 0.16 and abs(across) < 0.13 and -0.1 < share < 1.05:
        out |= {"belly_chest"} if ahead < 0.13 and share > 0.05 else {"belly_chest", *air}
    beside = np.linalg.norm(hand - j[f"{side}_hip"]) < 0.19 * tall
    if not out and upper & {"down", "low"} and beside and inner > 103 and share < 0.35:
        out.add("at_side")
        if upper == {"low"} or np.linalg.norm(hand - j[f"{side}_hip"]) > 0.14 * tall:
            out.add("low_air")
    return out or air


def _air(body: Body, hand: np.ndarray, shoulders: np.ndarray, up: np.ndarray) -> set[str]:
    """In the air: heights along the trunk (people who lie or bend reach above their own head)."""
    tall = body.height
    over_head = float((hand @ body.head_up) - (body.head @ body.head_up).max()) / tall
    over_shoulder = float((hand - shoulders) @ up) / tall
    words = _bands(over_head, (0.0,), ("below", "above_head"), 0.03)
    out = words & {"above_head"}
    if "below" in words:
        out |= _bands(over_shoulder, (-0.1,), ("low_air", "shoulder_height"), 0.035)
    return out


def _crossed(body: Body, middle: np.ndarray, up: np.ndarray) -> bool:
    """Both wrists on the other side of the midline, before the chest, and seen."""
    for _, side, sign in LEFT_RIGHT:
        wrist = body.joints[f"{side}_wrist"] - middle
        over = -sign * (wrist @ body.chest[:, 0]) / body.height
        ahead = -(wrist @ body.chest[:, 1]) / body.height
        height = (wrist @ up) / body.height
        if not (over > 0.005 and 0.02 < ahead < 0.2 and -0.25 < height < 0.02 and body.seen[f"{side}_elbow"]):
            return False
    return True


def _to_segment(point: np.ndarray, start: np.ndarray, end: np.ndarray) -> float:
    line = end - start
    share = np.clip((point - start) @ line / (line @ line), 0, 1)
    return float(np.linalg.norm(point - start - share * line))


def _weight(body: Body, name: str) -> float:
    return max(body.face.get(f"{name}{side}", 0.0) for side in ("", "Left", "Right"))


def _face(body: Body) -> dict[str, str]:
    turned = abs(body.angles["yaw"]) > 60 or abs(body.angles["pitch"]) > 40
    if turned or body.head_px < 24 or not body.seen["nose"]:
        return {"mouth": "?", "brows": "?", "eyes": "?"}
    jaw, smile = _weight(body, "jawOpen"), _weight(body, "mouthSmile")
    if smile >= 0.5:
        mouth = {"smile_open"} if jaw else {"smile"}
        if jaw and jaw < 0.18:
            mouth.add("smile")
        if not jaw and smile < STRONG:
            mouth.add("neutral")
    elif smile:
        mouth = {"neutral", "smile"}
    elif jaw:
        mouth = {"open"}
    elif _weight(body, "mouthPucker"):
        mouth = {"pucker"}
    elif _weight(body, "mouthFrown"):
        mouth = {"down"}
    else:
        mouth = {"neutral"}
    brows = _brows(body)
    blinks = [body.face.get(f"eyeBlink{side}", 0.0) for side in ("Left", "Right")]
    if all(blinks):
        eyes = "closed"
    elif any(blinks):
        eyes = "one_closed"
    else:
        eyes = "wide|open" if _weight(body, "eyeWide") else "narrowed|open" if _weight(body, "eyeSquint") else "open"
    return {"mouth": _join(mouth), "brows": brows, "eyes": eyes}


def _brows(body: Body) -> str:
    if body.head_px < 60:
        return "?"
    for name, word in (("browInnerUp", "raised"), ("browDown", "lowered")):
        if weight := _weight(body, name):
            return word if weight >= STRONG else f"neutral|{word}"
    return "neutral"


def _head(body: Body) -> dict[str, str]:
    if not body.inside["nose"]:
        return {"turn": "?", "nod": "?", "tilt": "?"}
    yaw, pitch, roll = (body.angles[name] for name in ("yaw", "pitch", "roll"))
    side = "right" if yaw > 0 else "left"
    names = ("camera", f"slight_{side}", side, f"far_{side}", "away")
    turn = _bands(abs(yaw), (8, 20, 45), names[:-1], 3) - ({names[-2]} if abs(yaw) > 127 else set())
    if abs(yaw) > 103:
        turn.add("away")
    nod = _bands(pitch, (-15, 15), ("down", "level", "up"), 4)
    nod |= _bands(body.head_pitch, (-15, 15), ("down", "level", "up"), 4)
    tilt = _bands(roll, (-12, 12), ("left", "none", "right"), 4)
    if abs(pitch) > 45:  # a bowed head turns and tilts only a little in the picture, whatever its angles
        return {"turn": "?", "nod": _join(nod), "tilt": "?"}
    if abs(yaw) > 60:
        tilt = {"?"}
    if abs(yaw) > 105:
        nod |= {"?"}
    return {"turn": _join(turn), "nod": _join(nod), "tilt": _join(tilt)}
