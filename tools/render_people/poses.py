"""Poses, expressions and head turns of the rendered people: data only.

A pose gives the direction of each limb segment in the person's own axes: x to the person's left, y up, z forwards.
Expressions are ARKit blendshape weights in 0..1, the names that both anny and MediaPipe FaceLandmarker use.
"""

from __future__ import annotations

Direction = tuple[float, float, float]


def _both(segment: str, x: float, y: float, z: float) -> dict[str, Direction]:
    """The same direction on both sides of the body, mirrored."""
    return {f"{segment}.L": (x, y, z), f"{segment}.R": (-x, y, z)}


def _arm(side: str, upper: Direction, lower: Direction, hand: Direction) -> dict[str, Direction]:
    return {f"upper_arm.{side}": upper, f"lower_arm.{side}": lower, f"hand.{side}": hand}


def _leg(side: str, thigh: Direction, shin: Direction, foot: Direction) -> dict[str, Direction]:
    return {f"thigh.{side}": thigh, f"shin.{side}": shin, f"foot.{side}": foot}


_ARMS_DOWN = {**_both("upper_arm", 0.2, -1, 0), **_both("lower_arm", 0.1, -1, 0.18), **_both("hand", 0.05, -1, 0.15)}
_ON_HIPS = {
    **_both("upper_arm", 0.85, -0.85, -0.15),
    **_both("lower_arm", -0.55, -0.75, 0.45),
    **_both("hand", -0.8, -0.5, 0.2),
}
_ARMS_FORWARD = {**_both("upper_arm", 0.2, 0, 1), **_both("lower_arm", 0.05, 0.05, 1), **_both("hand", 0, 0, 1)}
_LEFT_DOWN = _arm("L", (0.2, -1, 0), (0.1, -1, 0.18), (0.05, -1, 0.15))
_RIGHT_DOWN = _arm("R", (-0.2, -1, 0), (-0.1, -1, 0.18), (-0.05, -1, 0.15))

# Clavicles rise with raised arms, in degrees (left, right).
CLAVICLES: dict[str, tuple[float, float]] = {
    "tpose": (6, 6),
    "arms_up": (22, 22),
    "wave": (0, 8),
    "point": (5, 0),
    "tree": (22, 22),
    "lunge": (4, 4),
}
# Forward lean of the whole spine, in degrees.
LEAN: dict[str, float] = {"run": 14, "squat": 10, "kick": -6}

POSES: dict[str, dict[str, Direction]] = {
    "stand": _ARMS_DOWN,
    "tpose": {**_both("upper_arm", 1, 0, 0), **_both("lower_arm", 1, 0, 0), **_both("hand", 1, 0, 0)},
    "arms_up": {
        **_both("upper_arm", 0.5, 1, 0.05),
        **_both("lower_arm", 0.25, 1, 0.1),
        **_both("hand", 0.1, 1, 0.1),
    },
    "wave": {**_LEFT_DOWN, **_arm("R", (-1, -0.1, 0.25), (-0.25, 1, 0.3), (-0.05, 1, 0.2))},
    "hands_on_hips": _ON_HIPS,
    "point": {**_RIGHT_DOWN, **_arm("L", (1, 0.12, 0.25), (1, 0.15, 0.25), (1, 0.15, 0.25))},
    "sit": {
        **_both("thigh", 0.18, -0.12, 1),
        **_both("shin", 0.03, -1, 0.05),
        **_both("foot", 0.1, -0.2, 1),
        **_both("upper_arm", 0.2, -1, 0.3),
        **_both("lower_arm", -0.05, -0.35, 1),
        **_both("hand", -0.05, -0.2, 1),
    },
    "squat": {
        **_both("thigh", 0.5, -0.3, 1),
        **_both("shin", 0, -1, -0.35),
        **_both("foot", 0.2, -0.25, 1),
        **_ARMS_FORWARD,
    },
    "lunge": {
        **_leg("L", (0.9, -0.75, 0.3), (0.1, -1, -0.05), (0.6, -0.2, 1)),
        **_leg("R", (-0.8, -1, 0), (-0.8, -1, 0), (-0.5, -0.3, 1)),
        **_both("upper_arm", 1, -0.05, 0),
        **_both("lower_arm", 1, 0, 0.1),
        **_both("hand", 1, 0, 0.1),
    },
    "run": {
        **_leg("L", (0.05, -0.6, 0.8), (0.03, -1, -0.25), (0.05, -0.2, 1)),
        **_leg("R", (-0.05, -1, -0.35), (-0.05, -0.45, -1), (0, -1, -0.3)),
        **_arm("R", (-0.3, -0.9, 0.5), (0.1, 0.25, 1), (0.1, 0.4, 1)),
        **_arm("L", (0.35, -0.9, -0.6), (0.1, -0.5, 0.8), (0, -0.4, 1)),
    },
    "kick": {
        **_leg("R", (-0.3, 0.05, 1), (-0.3, 0.1, 1), (-0.1, 0.8, 0.6)),
        **_both("upper_arm", 0.8, -0.6, 0.2),
        **_both("lower_arm", 0.5, -0.2, 0.8),
        **_both("hand", 0.2, 0.2, 1),
    },
    "tree": {
        **_leg("R", (-1, -0.5, 0.35), (0.95, -0.75, -0.1), (0.1, -1, 0.1)),
        **_both("upper_arm", 0.5, 1, 0.05),
        **_both("lower_arm", -0.42, 1, 0.1),
        **_both("hand", -0.3, 1, 0.1),
    },
}

# Poses of the upper body that can still be told apart when a picture ends at the waist.
UPPER_BODY_POSES = ("stand", "tpose", "arms_up", "wave", "hands_on_hips", "point")
# Half of the width that a pose needs, in metres, to place people side by side.
HALF_WIDTH = {"tpose": 0.85, "lunge": 0.95, "point": 0.65, "arms_up": 0.5, "kick": 0.55, "run": 0.55, "squat": 0.5}

EXPRESSIONS: dict[str, dict[str, float]] = {
    "neutral": {},
    "smile": {
        **{f"mouthSmile{s}": 0.85 for s in ("Left", "Right")},
        **{f"cheekSquint{s}": 0.5 for s in ("Left", "Right")},
        **{f"mouthUpperUp{s}": 0.15 for s in ("Left", "Right")},
    },
    "open_mouth": {
        "jawOpen": 0.8,
        "browInnerUp": 0.6,
        **{f"eyeWide{s}": 0.6 for s in ("Left", "Right")},
        **{f"browOuterUp{s}": 0.5 for s in ("Left", "Right")},
    },
    "frown": {
        **{f"mouthFrown{s}": 0.85 for s in ("Left", "Right")},
        **{f"browDown{s}": 0.85 for s in ("Left", "Right")},
        **{f"noseSneer{s}": 0.3 for s in ("Left", "Right")},
    },
    "eyes_closed": {f"eyeBlink{s}": 1.0 for s in ("Left", "Right")},
    "pucker": {"mouthPucker": 0.95, **{f"browDown{s}": 0.15 for s in ("Left", "Right")}},
}

# Turns of the head against the body in degrees: yaw (positive: to the person's own left), pitch (positive: down), roll.
HEAD_TURNS: dict[str, tuple[float, float, float]] = {
    "ahead": (0, 0, 0),
    "own_left": (40, 0, 0),
    "own_right": (-40, 0, 0),
    "down": (0, 28, 0),
    "up": (0, -26, 0),
    "tilted": (0, 0, 18),
}

BASES = dict.fromkeys(POSES, "standing") | {  # what the body rests on, as labels name it
    "sit": "sitting",
    "squat": "squatting",
    "lunge": "lunging",
    "run": "running",
    "kick": "kicking",
    "tree": "one_leg",
}
