"""What a person's keypoints and 3D landmarks say of the body: rules of geometry, one function a fact.

Each rule is a list of conditions that must all hold, in the picture (2D) and in depth (3D landmarks, or `geometry.lift`
where a profile has none). A condition is a *margin*: 0 at its threshold, 1 a dead band beyond it, negative where it
fails, NaN where a joint that it needs is not seen. The smallest margin is the rule's, so 2D and 3D must agree. Of a
name's values the first whose margin is not negative is told, else nothing; its confidence grows from 0.5 at the
threshold to 1 a band beyond it, less where the joints' scores are low. Posecodes with ignored bands are the model
(PoseScript, arXiv:2210.11795). Angles are in degrees, lengths in torso lengths (middle of the shoulders to middle of
the hips: 0.288 body heights; head top 0.63 above the shoulders, upper arm 0.65, hanging wrist 1.15 below them, thigh
and shin 0.85: Drillis and Contini in Winter, Biomechanics and Motor Control of Human Movement, 2009, figure 4.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from laion_people import geometry
from laion_people.facts import Fact
from laion_people.people import boxes, matrix

Rules = Sequence[tuple[str, np.ndarray]]  # values with the margins of all people, the more telling first

SURE = 0.6  # keypoint score from which a joint's place takes nothing from a fact's confidence
HAND_SEEN = 0.35  # hands behind the body or another's score up to 0.3: MoveNet guesses them from the elbow
NOSE, EARS = 0, (3, 4)
SHOULDERS, ELBOWS, WRISTS, HIPS, KNEES, ANKLES = ((i, i + 1) for i in (5, 7, 9, 11, 13, 15))


def pose_facts(people: pa.Table, pose: pa.Table) -> list[list[Fact]]:
    """The facts of each person of a shard, by its people and pose tables: names of ``facts.VALUES["pose"]``."""
    keypoints = matrix(pose["keypoints"], 51).reshape(-1, 17, 3)
    world = matrix(pose["world_landmarks"], 99).reshape(-1, 33, 3)
    size = np.stack([np.asarray(people[name], np.float64) for name in ("image_width", "image_height")], axis=1)
    body = Body.of(keypoints, world, boxes(people), size)
    base = _base(body)
    sitting = next(margin for value, margin in base if value == "sitting")
    rules: list[tuple[str, Rules, tuple[int, ...]]] = [
        ("base", base, HIPS + KNEES),
        ("left_arm", _arm(body, 0, sitting), (SHOULDERS[0], ELBOWS[0])),
        ("right_arm", _arm(body, 1, sitting), (SHOULDERS[1], ELBOWS[1])),
        ("legs_apart", _legs_apart(body), HIPS + ANKLES),
        ("lean", _lean(body), SHOULDERS + HIPS),
        ("view", _view(body), SHOULDERS),
    ]
    told: list[list[Fact]] = [[] for _ in range(len(keypoints))]
    for name, values, joints in rules:
        margins = np.stack([margin for _, margin in values], axis=1)
        holds = margins >= 0
        for person in np.flatnonzero(holds.any(axis=1)):
            first = holds[person].argmax()
            seen = min(1.0, keypoints[person, joints, 2].min() / SURE)
            confidence = 0.5 + 0.5 * min(1.0, margins[person, first]) * seen
            told[person].append(Fact(name, values[first][0], float(confidence)))
    return told


@dataclass(frozen=True, slots=True)
class Body:
    """Points in the picture and in the body's own axes, of all people; NaN where a joint is not seen.

    ``points``: [people, 17, 2] in torso lengths, x to the picture's right, y down, from the middle of the shoulders.
    ``depth``: [people, 17, 3] in torso lengths, the person's left, up (against gravity), forward, from the same middle.
    ``scores``: [people, 17]. ``across``: from the right to the left shoulder in the picture, > 0 from the front.
    ``yaw``: degrees between the chest's direction and the camera. ``floor``: the picture's lower edge, as ``points``.
    """

    points: np.ndarray
    depth: np.ndarray
    scores: np.ndarray
    across: np.ndarray
    yaw: np.ndarray
    floor: np.ndarray
    lifted: np.ndarray

    @staticmethod
    def of(keypoints: np.ndarray, world: np.ndarray, bbox: np.ndarray, size: np.ndarray) -> Body:
        seen = keypoints[..., 2] >= geometry.SEEN
        points = np.where(seen[..., None], keypoints[..., :2].astype(np.float64), np.nan)
        unit = _torso(points)
        middle = points[:, SHOULDERS].mean(axis=1)
        missing = np.isnan(world).any(axis=(1, 2))
        joints = world[:, geometry.COCO_IN_BLAZEPOSE].astype(np.float64)
        joints[missing] = geometry.lift(keypoints[missing])
        axes = geometry._frame(
            joints[:, SHOULDERS[0]] - joints[:, SHOULDERS[1]] + joints[:, HIPS[0]] - joints[:, HIPS[1]]
        )
        spine = np.linalg.norm(joints[:, SHOULDERS].mean(1) - joints[:, HIPS].mean(1), axis=1)
        depth = np.einsum("nij,nkj->nki", axes, joints - joints[:, SHOULDERS].mean(1, keepdims=True))
        depth /= spine[:, None, None]
        depth[~seen] = np.nan
        return Body(
            points=(points - middle[:, None]) / unit[:, None, None],
            depth=depth,
            scores=keypoints[..., 2],
            across=(points[:, SHOULDERS[0], 0] - points[:, SHOULDERS[1], 0]) / unit,
            yaw=np.degrees(np.arctan2(axes[:, 2, 0], -axes[:, 2, 2])),
            floor=(size[:, 1] - middle[:, 1]) / unit,
            lifted=missing,
        )


def _torso(points: np.ndarray) -> np.ndarray:
    """The torso's length in pixels [people]: the longest of what is seen of its kind, as depth only shortens.

    Shoulders are 0.7 torso lengths apart, an upper arm 0.65 and a thigh 0.85 long (module docstring); a tenth less is
    taken, so that these decide only where the torso itself is hidden or foreshortened.
    """
    spine = points[:, SHOULDERS].mean(axis=1) - points[:, HIPS].mean(axis=1)
    lengths = [np.linalg.norm(spine, axis=1)]
    for ends, life in (((5, 6), 0.8), ((5, 7), 0.75), ((6, 8), 0.75), ((11, 13), 0.95), ((12, 14), 0.95)):
        lengths.append(np.linalg.norm(points[:, ends[0]] - points[:, ends[1]], axis=1) / life)
    longest = np.nanmax(np.stack([*lengths, np.full(len(points), 1e-6)]), axis=0)
    return np.where(longest > 1e-3, longest, np.nan)


def _above(value: np.ndarray, threshold: float, band: float) -> np.ndarray:
    return (value - threshold) / band


def _below(value: np.ndarray, threshold: float, band: float) -> np.ndarray:
    return (threshold - value) / band


def _all(*margins: np.ndarray) -> np.ndarray:
    return np.minimum.reduce(np.broadcast_arrays(*margins))  # NaN stays NaN: what is not seen proves nothing


def _any(*margins: np.ndarray) -> np.ndarray:
    return np.fmax.reduce(np.broadcast_arrays(*margins))


def _angle(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Degrees between vectors [people, axes]."""
    lengths = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    return np.degrees(np.arccos(np.clip((first * second).sum(axis=-1) / np.maximum(lengths, 1e-9), -1, 1)))


def _from_down(vectors: np.ndarray) -> np.ndarray:
    """Degrees between vectors and straight down: of the picture (2 axes, y down) or of the body (3 axes, y up)."""
    down = np.array([0.0, 1.0] if vectors.shape[-1] == 2 else [0.0, -1.0, 0.0])
    return _angle(vectors, np.broadcast_to(down, vectors.shape))


def _view(body: Body) -> Rules:
    """Where the chest points: by the order and distance of the shoulders, and the chest's direction in 3D.

    Shoulders seen from the front are 0.7 torso lengths apart, turned by an angle that times its cosine: 0.5 at 45
    degrees, 0.25 at 70. Who shows the back has the left shoulder on the left. Heads turn by themselves, so the face is
    asked only that it is not plainly seen on a back.
    """
    turned = np.abs(body.yaw)
    face, ears = body.scores[:, NOSE:3].mean(axis=1), body.scores[:, EARS].mean(axis=1)
    return [
        ("front", _all(_above(body.across, 0.48, 0.15), _below(turned, 50, 25), _above(face, 0.3, 0.2))),
        ("back", _all(_below(body.across, -0.45, 0.15), _above(turned, 115, 30), _above(ears - face, -0.1, 0.1))),
        ("side", _all(_below(np.abs(body.across), 0.25, 0.15), _above(turned, 55, 15), _below(turned, 125, 15))),
        (
            "three_quarter",
            _all(
                _above(body.across, 0.2, 0.1),
                _below(body.across, 0.5, 0.1),
                _above(turned, 30, 10),
                _below(turned, 70, 10),
            ),
        ),
    ]


def _lean(body: Body) -> Rules:
    """The trunk against the vertical.

    GUIDE: upright is straight to the eye. 12 degrees of tilt are seen; from 25 on nobody calls it upright. From the
    front a trunk that leans towards the camera looks short: then the shoulders look wide for it.
    """
    up = -body.points[:, HIPS].mean(axis=1)
    tilt = _from_down(-up)
    tilt3 = _from_down(body.depth[:, HIPS].mean(axis=1))
    spine = -body.depth[:, HIPS].mean(axis=1)
    forward = np.degrees(np.arctan2(spine[:, 2], spine[:, 1]))
    sideways = np.degrees(np.arctan2(np.abs(spine[:, 0]), spine[:, 1]))
    length = np.linalg.norm(up, axis=1)
    profile = _below(np.abs(body.across), 0.5, 0.1)
    frontal = _above(np.abs(body.across), 0.5, 0.1)
    # The side to which the chest points in the picture; shoulders lean to it when the person leans forward.
    facing = np.sign(np.sin(np.radians(body.yaw)))
    ahead = np.degrees(np.arctan2(up[:, 0] * facing, -up[:, 1]))
    return [
        ("upside_down", _all(_above(tilt, 135, 20), _above(tilt3, 120, 20))),
        ("horizontal", _all(_above(tilt, 65, 15), _below(tilt, 115, 15), _above(tilt3, 55, 15), _below(tilt3, 125, 15))),
        (
            "upright",
            _all(_below(tilt, 11, 8), _below(tilt3, 28, 15), _above(length, 0.8, 0.1)),
        ),
        ("forward", _all(profile, _above(ahead, 22, 15), _below(ahead, 70, 10), _above(forward, 22, 15))),
        ("backward", _all(profile, _below(ahead, -22, 15), _above(ahead, -70, 10), _below(forward, -15, 15))),
        (
            "sideways",
            _all(frontal, _above(tilt, 22, 10), _below(tilt, 70, 10), _above(sideways, 18, 10), _below(np.abs(forward), 30, 10)),
        ),
    ]  # fmt: skip


def _legs_apart(body: Body) -> Rules:
    """Feet clearly wider than the hips, which are 0.35 torso lengths apart (joints) and 0.65 wide: or about under them."""
    feet = np.abs(body.points[:, ANKLES[0], 0] - body.points[:, ANKLES[1], 0])
    feet3 = np.linalg.norm(body.depth[:, ANKLES[0]] - body.depth[:, ANKLES[1]], axis=1)
    return [
        ("yes", _all(_above(feet, 0.65, 0.2), _above(feet3, 0.65, 0.3))),
        ("no", _all(_below(feet, 0.4, 0.2), _below(feet3, 0.55, 0.2))),
    ]


def _base(body: Body) -> Rules:
    """What the body rests on, from thighs and shins."""
    thighs = [body.points[:, k] - body.points[:, h] for h, k in zip(HIPS, KNEES, strict=True)]
    shins = [body.points[:, a] - body.points[:, k] for k, a in zip(KNEES, ANKLES, strict=True)]
    thighs3 = [body.depth[:, k] - body.depth[:, h] for h, k in zip(HIPS, KNEES, strict=True)]
    shins3 = [body.depth[:, a] - body.depth[:, k] for k, a in zip(KNEES, ANKLES, strict=True)]
    knee = [180 - _angle(t, s) for t, s in zip(thighs, shins, strict=True)]
    knee3 = [180 - _angle(t, s) for t, s in zip(thighs3, shins3, strict=True)]
    trunk = _from_down(body.points[:, HIPS].mean(axis=1))
    trunk3 = _from_down(body.depth[:, HIPS].mean(axis=1))

    hanging = [  # a thigh straight down at its full length: nobody sits on it
        _all(_below(_from_down(t), 28, 15), _above(t[:, 1], 0.6, 0.15), _below(_from_down(t3), 42, 15))
        for t, t3 in zip(thighs, thighs3, strict=True)
    ]
    below = [  # the shin goes on downwards, or the picture ends before it can be seen
        np.where(
            np.isnan(s[:, 1]),
            _below(body.floor - body.points[:, k, 1], 0.45, 0.2),
            _all(_below(_from_down(s), 35, 15), _above(s[:, 1], 0.3, 0.2), _above(n, 140, 15), _below(_from_down(s3), 50, 15)),
        )
        for s, s3, n, k in zip(shins, shins3, knee, KNEES, strict=True)
    ]  # fmt: skip
    steady = [_all(h, b) for h, b in zip(hanging, below, strict=True)]
    raised = [
        _all(_above(_any(_from_down(t), _from_down(t3)), 55, 15), _above(_from_down(t3), 45, 15))
        for t, t3 in zip(thighs, thighs3, strict=True)
    ]
    lifted = [
        _all(_below(t[:, 1], 0.5, 0.15), _above(_from_down(t3), 50, 15), _below(k3, 135, 20))
        for t, t3, k3 in zip(thighs, thighs3, knee3, strict=True)
    ]
    seated_shin = [
        np.where(np.isnan(s[:, 1]), 0.2, _all(_above(s[:, 1], 0.35, 0.2), _below(_from_down(s3), 45, 15)))
        for s, s3 in zip(shins, shins3, strict=True)
    ]
    upright = _all(_below(trunk, 40, 15), _below(trunk3, 45, 15))
    sitting = _all(*lifted, *seated_shin, upright)
    bent = _all(*[_below(k, 110, 20) for k in knee], *[_below(k3, 115, 20) for k3 in knee3], *lifted)
    one_leg = _any(*[_all(steady[i], raised[1 - i]) for i in (0, 1)])
    on_feet = _all(_any(_all(hanging[0], steady[1]), _all(hanging[1], steady[0])), _below(trunk, 70, 20))
    return [
        ("one_leg", one_leg),
        ("on_feet", on_feet),
        ("sitting", sitting),
        ("knees_bent", bent),
    ]


def _arm(body: Body, side: int, sitting: np.ndarray) -> Rules:
    """What an arm does. side: 0 left, 1 right."""
    shoulder, elbow, wrist = SHOULDERS[side], ELBOWS[side], WRISTS[side]
    points, depth = body.points, body.depth
    upper, fore = points[:, elbow] - points[:, shoulder], points[:, wrist] - points[:, elbow]
    upper3, fore3 = depth[:, elbow] - depth[:, shoulder], depth[:, wrist] - depth[:, elbow]
    hip = points[:, HIPS].mean(axis=1)
    trunk = np.where(np.isnan(hip), [0.0, 1.0], hip)
    hip3 = depth[:, HIPS].mean(axis=1)
    trunk3 = np.where(np.isnan(hip3), [0.0, -1.0, 0.0], hip3)
    lifted, lifted3 = _angle(upper, trunk), _angle(upper3, trunk3)
    elbow2, elbow3 = 180 - _angle(upper, fore), 180 - _angle(upper3, fore3)
    outward = (-1 if side else 1) * np.sign(body.across)
    hand, hand3 = points[:, wrist], depth[:, wrist]
    out, low = hand[:, 0] * outward, hand[:, 1]
    out3 = hand3[:, 0] * (-1 if side else 1)
    seen = _above(body.scores[:, wrist], HAND_SEEN, 0.2)
    frontal = _above(body.across, 0.45, 0.15)
    straight = _all(_above(elbow2, 150, 15), _above(elbow3, 125, 20))
    head = np.nanmin([np.linalg.norm(hand - points[:, i], axis=1) for i in (NOSE, *EARS)], axis=0)
    head3 = np.nanmin([np.linalg.norm(hand3 - depth[:, i], axis=1) for i in (NOSE, *EARS)], axis=0)
    upright = _below(_from_down(trunk), 30, 15)

    overhead = _any(
        _all(_below(low, -0.6, 0.2), _above(hand3[:, 1], 0.3, 0.2), upright),
        _all(_above(lifted, 130, 15), _above(elbow2, 130, 20), _above(lifted3, 110, 20), _above(elbow3, 115, 20)),
    )
    at_head = _all(_below(head, 0.3, 0.15), _below(low, -0.1, 0.1), _below(head3, 0.6, 0.2), upright)
    raised = _all(_below(low, 0.13, 0.15), _above(hand3[:, 1], -0.25, 0.25), upright)
    out_ = _all(straight, _above(lifted, 62, 15), _below(lifted, 118, 15), _above(lifted3, 58, 15), _below(lifted3, 125, 15), _above(out3, 0.85, 0.2), _above(out, 0.7, 0.2))
    in_front = _all(seen, frontal, _below(out, 0.15, 0.15), _above(low, 0.25, 0.1), _below(low, 0.85, 0.15), _above(hand3[:, 2], 0.2, 0.2), _below(out3, 0.4, 0.2))
    on_hip = _all(
        seen, np.abs(body.across) / 0.45 - 1, _above(lifted, 35, 10), _above(lifted3, 30, 10), _above(elbow2, 75, 15), _below(elbow2, 130, 15),
        _above(out, 0.3, 0.1), _below(out, 0.7, 0.1), _above(low, 0.7, 0.1), _below(low, 1.05, 0.1), _below(np.abs(hand3[:, 2] - hip3[:, 2]), 0.3, 0.15),
    )  # fmt: skip
    bent = _all(_below(elbow2, 100, 20), _below(elbow3, 118, 15), seen)
    down = _all(seen, straight, _below(lifted, 25, 10), _below(lifted3, 38, 15), _above(low, 0.82, 0.1))
    away = _all(straight, _above(lifted, 33, 8), _below(lifted, 58, 8), _above(lifted3, 28, 8), _below(lifted3, 65, 10))
    return [
        ("overhead", overhead), ("at_head", at_head), ("raised", raised), ("out", out_), ("in_front", in_front),
        ("on_hip", on_hip), ("bent", bent), ("down", down), ("away", away),
    ]  # fmt: skip
