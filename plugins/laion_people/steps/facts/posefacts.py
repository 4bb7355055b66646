"""Facts of the body, from a person's keypoints and 3D landmarks: rules of geometry, one function a fact.

Each rule is a list of conditions that must all hold, in the picture (2D) and in depth (3D landmarks, or `geometry.lift`
if a profile has none). A condition is a *margin*: 0 at its threshold, 1 a dead band beyond it, negative where it fails,
NaN where a joint that it needs is not seen. The smallest margin is the rule's, so 2D and 3D must agree. A fact has the
first value whose margin is not negative; without one, there is no fact. Its confidence grows from 0.5 at the threshold
to 1 a band beyond it, and is smaller if the joints' scores are low. The model are posecodes with ignored bands
(PoseScript, arXiv:2210.11795). Angles are in degrees, lengths in torso lengths (middle of the shoulders to middle of
the hips: 0.288 body heights; head top 0.63 above the shoulders, upper arm 0.65, hanging wrist 1.15 below them, thigh
and shin 0.85: Drillis and Contini in Winter, Biomechanics and Motor Control of Human Movement, 2009, figure 4.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from laion_people.language.facts import Fact
from laion_people.vision import geometry
from laion_people.vision.people import matrix

Rules = Sequence[tuple[str, np.ndarray]]  # values with the margins of all people, narrow values first

SURE = 0.6  # keypoint score from which a joint no longer lowers a fact's confidence
HAND_SEEN = 0.3  # hands behind a body, also another's, score less: MoveNet guesses them from the elbow
GUESSED = 0.05  # score of a shoulder just outside the picture: MoveNet knows roughly where it is
SHOULDER_WIDTH = 0.8  # a tenth more than life, as all lengths that replace the torso's
NOSE, EARS = 0, (3, 4)
SHOULDERS, ELBOWS, WRISTS, HIPS, KNEES, ANKLES = ((i, i + 1) for i in (5, 7, 9, 11, 13, 15))  # left, right
LIKELY = 0.2  # margin of a condition whose joint is not seen, if the others nearly imply it


def pose_facts(people: pa.Table, pose: pa.Table) -> list[list[Fact]]:
    """The facts of each person of a shard, from its people and pose tables: names of ``facts.VALUES["pose"]``."""
    keypoints = matrix(pose["keypoints"], 51).reshape(-1, 17, 3)
    world = matrix(pose["world_landmarks"], 99).reshape(-1, 33, 3)
    size = np.stack([np.asarray(people[name], np.float64) for name in ("image_width", "image_height")], axis=1)
    body = Body.of(keypoints, world, size)
    rules: list[tuple[str, Rules, tuple[int, ...]]] = [
        ("base", _base(body), HIPS),
        ("left_arm", _arm(body, 0), (SHOULDERS[0], ELBOWS[0])),
        ("right_arm", _arm(body, 1), (SHOULDERS[1], ELBOWS[1])),
        ("legs_apart", _legs_apart(body), HIPS + ANKLES),
        ("lean", _lean(body), SHOULDERS + HIPS),
        ("view", _view(body), SHOULDERS),
    ]
    facts: list[list[Fact]] = [[] for _ in range(len(keypoints))]
    for name, values, joints in rules:
        margins = np.stack([margin for _, margin in values], axis=1)
        holds = margins >= 0
        for person in np.flatnonzero(holds.any(axis=1)):
            first = holds[person].argmax()
            seen = min(1.0, keypoints[person, joints, 2].min() / SURE)
            confidence = 0.5 + 0.5 * min(1.0, margins[person, first]) * seen
            facts[person].append(Fact(name, values[first][0], float(confidence)))
    return facts


@dataclass(frozen=True, slots=True)
class Body:
    """Points in the picture and in the body's own axes, of all people; NaN where a joint is not seen.

    ``points``: [people, 17, 2] in torso lengths, x to the picture's right, y down, from the middle of the shoulders.
    ``depth``: [people, 17, 3] in torso lengths, the person's left, up (against gravity), forward, from the same middle.
    ``scores``: [people, 17]. ``across``: from the right to the left shoulder in the picture, > 0 from the front.
    ``yaw``: degrees between the chest's direction and the camera. ``floor``: the picture's lower edge, as ``points``.
    ``measured``: 1 for people with 3D landmarks, -1 for people lifted from 2D.
    """

    points: np.ndarray
    depth: np.ndarray
    scores: np.ndarray
    across: np.ndarray
    yaw: np.ndarray
    floor: np.ndarray
    measured: np.ndarray

    @staticmethod
    def of(keypoints: np.ndarray, world: np.ndarray, size: np.ndarray) -> Body:
        seen = keypoints[..., 2] >= geometry.SEEN
        points = np.where(seen[..., None], keypoints[..., :2].astype(np.float64), np.nan)
        unit = _torso(points)
        middle = points[:, SHOULDERS].mean(axis=1)
        missing = np.isnan(world).any(axis=(1, 2))
        joints = world[:, geometry.COCO_IN_BLAZEPOSE].astype(np.float64)
        joints[missing] = geometry.lift(keypoints[missing])
        axes = geometry.body_axes(joints)
        shoulders = joints[:, SHOULDERS].mean(axis=1, keepdims=True)
        spine = np.linalg.norm(shoulders[:, 0] - joints[:, HIPS].mean(axis=1), axis=1)
        spine = np.where(missing, unit, spine)  # lifted joints are in pixels, and unseen hips may lie anywhere
        depth = np.einsum("nij,nkj->nki", axes, joints - shoulders) / spine[:, None, None]
        depth[~seen] = np.nan
        depth[missing, : SHOULDERS[0]] = np.nan  # heads are not lifted
        return Body(
            points=(points - middle[:, None]) / unit[:, None, None],
            depth=depth,
            scores=keypoints[..., 2],
            across=_across(keypoints, unit),
            yaw=np.degrees(np.arctan2(axes[:, 2, 0], -axes[:, 2, 2])),
            floor=(size[:, 1] - middle[:, 1]) / unit,
            measured=np.where(missing, -1.0, 1.0),
        )


def _across(keypoints: np.ndarray, torso: np.ndarray) -> np.ndarray:
    """From the right to the left shoulder in the picture [people], in torso lengths.

    If the picture cuts off one shoulder, MoveNet's guess is good enough: only its side counts.
    """
    shoulders, scores = keypoints[:, SHOULDERS, :2].astype(np.float64), keypoints[:, SHOULDERS, 2]
    width = np.linalg.norm(shoulders[:, 0] - shoulders[:, 1], axis=1)
    across = (shoulders[:, 0, 0] - shoulders[:, 1, 0]) / np.fmax(np.fmax(torso, width / SHOULDER_WIDTH), 1e-6)
    guessed = (scores.max(axis=1) < geometry.SEEN) | (scores.min(axis=1) < GUESSED)
    return np.where(guessed, np.nan, across)


def _torso(points: np.ndarray) -> np.ndarray:
    """The torso's length in pixels [people]: the longest estimate from visible parts, as depth only shortens.

    Shoulders are 0.7 torso lengths apart, an upper arm is 0.65 and a thigh 0.85 long, the nose 0.42 from the shoulders'
    middle. The code takes a tenth more: these parts decide only if the torso itself is hidden or foreshortened.
    """
    middle = points[:, SHOULDERS].mean(axis=1)
    lengths = [
        np.linalg.norm(middle - points[:, HIPS].mean(axis=1), axis=1),
        np.linalg.norm(middle - points[:, NOSE], axis=1) / 0.46,
    ]
    for ends, life in (((5, 6), SHOULDER_WIDTH), ((5, 7), 0.75), ((6, 8), 0.75), ((11, 13), 0.95), ((12, 14), 0.95)):
        lengths.append(np.linalg.norm(points[:, ends[0]] - points[:, ends[1]], axis=1) / life)
    longest = np.nanmax(np.stack([*lengths, np.full(len(points), 1e-6)]), axis=0)
    return np.where(longest > 1e-3, longest, np.nan)


def _above(value: np.ndarray, threshold: float | np.ndarray, band: float) -> np.ndarray:
    return (value - threshold) / band


def _below(value: np.ndarray, threshold: float, band: float) -> np.ndarray:
    return (threshold - value) / band


def _between(value: np.ndarray, low: float, high: float, band: float) -> np.ndarray:
    return np.minimum(value - low, high - value) / band


def _all(*margins: np.ndarray) -> np.ndarray:
    return np.minimum.reduce(margins)  # NaN stays NaN: an unseen joint proves nothing


def _any(*margins: np.ndarray) -> np.ndarray:
    return np.fmax.reduce(margins)


def _one_and_other(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> np.ndarray:
    """The first condition holds on one side, the second on the other side."""
    return _any(_all(first[0], second[1]), _all(first[1], second[0]))


def _unless_hidden(margin: np.ndarray) -> np.ndarray:
    return _or(margin, LIKELY)


def _or(values: np.ndarray, otherwise: float | list[float]) -> np.ndarray:
    """The values, with ``otherwise`` in place of those that are not seen."""
    return np.where(np.isnan(values), otherwise, values)


def _angle(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Degrees between vectors [people, axes]."""
    lengths = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    return np.degrees(np.arccos(np.clip((first * second).sum(axis=-1) / np.maximum(lengths, 1e-9), -1, 1)))


def _from_down(vectors: np.ndarray) -> np.ndarray:
    """Degrees between vectors and straight down: of the picture (2 axes, y down) or of the body (3 axes, y up)."""
    down = np.array([0.0, 1.0] if vectors.shape[-1] == 2 else [0.0, -1.0, 0.0])
    return _angle(vectors, np.broadcast_to(down, vectors.shape))


def _to_line(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Distance of points [people, 2] to the line from start to end."""
    along = end - start
    share = ((points - start) * along).sum(axis=1) / np.maximum((along**2).sum(axis=1), 1e-9)
    return np.linalg.norm(points - start - np.clip(share, 0, 1)[:, None] * along, axis=1)


def _view(body: Body) -> Rules:
    """Where the chest points: by the order and distance of the shoulders in the picture, and the chest's direction.

    Shoulders are 0.7 torso lengths apart, times the cosine of the angle by which they turn: 0.5 at 45 degrees, 0.25 at
    70. From behind, the left one is on the left. A chest turned by 45 degrees is seen at an angle, and BlazePose errs
    by more than ten: the front ends at 30. Heads turn on their own, and MoveNet scores faces on the backs of heads,
    too. Therefore a front view only asks for some face, with more than the 0.25 that a forearm once had; a back view
    asks for ears that score no less than the face.
    """
    turned = np.abs(body.yaw)
    hips = _or(np.abs(body.points[:, HIPS[0], 0] - body.points[:, HIPS[1], 0]), 0)
    face, ears = body.scores[:, NOSE:3].mean(axis=1), body.scores[:, EARS].mean(axis=1)
    whole = body.scores[:, SHOULDERS].min(axis=1) >= geometry.SEEN
    seen = np.where(whole, 0.3, 0.4)  # a higher score of the face if one shoulder is cut off
    return [
        ("front", _all(_above(body.across, 0.55, 0.15), _below(turned, 30, 15), _above(face, seen, 0.2))),
        ("back", _all(_below(body.across, -0.45, 0.15), _above(turned, 115, 30), _above(ears - face, -0.1, 0.1))),
        ("side", _all(_below(np.abs(body.across), 0.25, 0.15), _between(turned, 55, 125, 15), _below(hips, 0.2, 0.1))),
        ("three_quarter", _all(_between(body.across, 0.2, 0.65, 0.1), _between(turned, 30, 70, 10))),
    ]


def _lean(body: Body) -> Rules:
    """The trunk against the vertical.

    A tilt of 10 degrees passes for upright, one of 25 does not. Forward and backward are judged only from the side:
    seen from the front, every second sitter leans forward by BlazePose. There a trunk that leans towards the camera
    looks short; therefore upright asks for its full length.
    """
    trunk, trunk3 = body.points[:, HIPS].mean(axis=1), body.depth[:, HIPS].mean(axis=1)
    tilt, tilt3 = _from_down(trunk), _from_down(trunk3)
    forward = np.degrees(np.arctan2(-trunk3[:, 2], -trunk3[:, 1]))
    sideways = np.degrees(np.arctan2(np.abs(trunk3[:, 0]), -trunk3[:, 1]))
    facing = np.sign(np.sin(np.radians(body.yaw)))  # the side of the picture to which the chest points
    ahead = np.degrees(np.arctan2(-trunk[:, 0] * facing, trunk[:, 1]))
    nose = body.points[:, NOSE, 0] - body.points[:, EARS, 0].mean(axis=1)
    profile = _all(_below(np.abs(body.across), 0.5, 0.1), _unless_hidden(_above(nose * facing, -0.03, 0.05)))
    # If it is turned a little, a trunk that leans forward goes to the side in the picture; lifting misses the turn.
    width = np.linalg.norm(body.points[:, SHOULDERS[0]] - body.points[:, SHOULDERS[1]], axis=1)
    frontal = _all(_above(width, 0.6, 0.1), _above(np.abs(np.abs(body.yaw) - 90), 68, 10))
    long = _above(np.linalg.norm(trunk, axis=1), 0.8, 0.1)
    plain = _below(np.abs(forward), 25, 10)
    return [
        ("upside_down", _all(_above(tilt, 135, 20), _above(tilt3, 120, 20))),
        ("horizontal", _all(_between(tilt, 65, 115, 15), _between(tilt3, 55, 125, 15))),
        ("upright", _all(long, _below(tilt, 11, 8), _below(tilt3, 30, 15))),
        ("forward", _all(profile, _between(ahead, 22, 70, 12), _above(forward, 22, 15))),
        ("backward", _all(profile, _between(ahead, -70, -22, 12), _below(forward, -15, 15))),
        ("sideways", _all(body.measured, frontal, long, _between(tilt, 22, 70, 10), _above(sideways, 20, 10), plain)),
    ]  # fmt: skip


def _legs_apart(body: Body) -> Rules:
    """Whether the feet of an upright body are clearly wider than the hips (0.65 torso lengths with flesh)."""
    left, right = ANKLES
    upright = _unless_hidden(_below(_from_down(body.points[:, HIPS].mean(axis=1)), 50, 15))
    between = body.points[:, left] - body.points[:, right]
    feet3 = np.linalg.norm(body.depth[:, left] - body.depth[:, right], axis=1)
    return [
        ("yes", _all(upright, _above(np.abs(between[:, 0]), 0.65, 0.2), _above(feet3, 0.65, 0.3))),
        ("no", _all(upright, _below(np.linalg.norm(between, axis=1), 0.45, 0.2), _below(feet3, 0.55, 0.2))),
    ]


@dataclass(frozen=True, slots=True)
class Leg:
    """A leg's limbs in the picture and in depth, the knee's angles, and what the leg does (margins)."""

    thigh: np.ndarray
    shin: np.ndarray
    thigh3: np.ndarray
    shin3: np.ndarray

    @staticmethod
    def of(body: Body, side: int) -> Leg:
        hip, knee, ankle = HIPS[side], KNEES[side], ANKLES[side]
        points, depth = body.points, body.depth
        return Leg(
            points[:, knee] - points[:, hip],
            points[:, ankle] - points[:, knee],
            depth[:, knee] - depth[:, hip],
            depth[:, ankle] - depth[:, knee],
        )

    @property
    def knee(self) -> np.ndarray:
        return 180 - _angle(self.thigh, self.shin)

    @property
    def knee3(self) -> np.ndarray:
        return 180 - _angle(self.thigh3, self.shin3)

    def hangs(self) -> np.ndarray:
        """The thigh goes straight down at its full length (0.85): nobody sits on it."""
        return _all(
            _below(_from_down(self.thigh), 28, 15),
            _above(self.thigh[:, 1], 0.6, 0.15),
            _below(_from_down(self.thigh3), 42, 15),
        )

    def lifted(self) -> np.ndarray:
        """The thigh is about level, at the side or towards the camera, and the knee is bent."""
        bent = _unless_hidden(_below(self.knee3, 135, 20))
        return _all(_below(self.thigh[:, 1], 0.55, 0.15), _above(_from_down(self.thigh3), 50, 15), bent)

    def raised(self) -> np.ndarray:
        """The thigh is level or higher, clearly visible in the picture."""
        return _all(_below(self.thigh[:, 1], 0.35, 0.15), _above(_from_down(self.thigh3), 50, 15))

    def stands(self, room: np.ndarray) -> np.ndarray:
        """The shin goes down, too, or the picture ends before it can be seen (``room`` below the knee)."""
        down = _all(
            _below(_from_down(self.shin), 35, 15),
            _above(self.shin[:, 1], 0.3, 0.2),
            _above(self.knee, 140, 15),
            _below(_from_down(self.shin3), 50, 15),
        )
        return np.where(np.isnan(self.shin[:, 1]), _below(room, 0.45, 0.2), down)

    def kneels(self, room: np.ndarray) -> np.ndarray:
        """The thigh goes down and the shin lies back. Only the side shows this: from the front it may be thrown up.

        If the picture cuts off legs at the knees, MoveNet puts the feet on its edge: ``room`` is below the foot.
        """
        thigh = _all(_below(_from_down(self.thigh), 40, 15), _above(self.thigh[:, 1], 0.5, 0.15))
        shin = _all(_between(_from_down(self.shin), 60, 130, 15), _above(_from_down(self.shin3), 50, 15))
        shown = _above(np.linalg.norm(self.shin, axis=1), 0.5, 0.15)
        return _all(thigh, shin, shown, _below(self.knee, 130, 15), _below(self.knee3, 130, 15), _above(room, 0.2, 0.2))

    def swings(self) -> np.ndarray:
        """The shin of a hanging thigh is thrown back, the foot well off the ground."""
        back = _all(_above(_from_down(self.shin3), 52, 15), _below(self.shin3[:, 2], -0.4, 0.2))
        return _all(self.hangs(), back, _below(self.shin[:, 1], 0.5, 0.1), _below(self.knee3, 145, 10))

    def strides(self) -> np.ndarray:
        """The thigh is well in front of the body, over a shin that goes down."""
        ahead = _all(_above(_from_down(self.thigh3), 33, 10), _above(self.thigh3[:, 2], 0.3, 0.2))
        return _all(ahead, _below(_from_down(self.shin3), 40, 10))


def _base(body: Body) -> Rules:
    """What the body rests on, from thighs and shins.

    From the front, every model takes walking for standing. Therefore standing asks for two straight legs with the feet
    at one height: a step of 0.4 body heights moves one foot up or down in the picture, or lifts it. Other people with
    hanging thighs are on their feet. The rules see no chair: people who sit or squat have the thighs lifted and the
    shins down, but squatting feet are under the body and apart. Between the two, the fact is only that knees are bent.
    """
    legs = [Leg.of(body, side) for side in (0, 1)]
    room = [body.floor - body.points[:, knee, 1] for knee in KNEES]
    trunk, trunk3 = (_from_down(p[:, HIPS].mean(axis=1)) for p in (body.points, body.depth))
    upright = _all(_below(trunk, 40, 15), _below(trunk3, 45, 15))
    level = _all(_between(trunk, 62, 118, 15), _between(trunk3, 50, 130, 15))
    ankles = body.points[:, ANKLES]
    apart, uneven = (np.abs(ankles[:, 0, axis] - ankles[:, 1, axis]) for axis in (0, 1))

    hangs = [leg.hangs() for leg in legs]
    stands = [_all(h, leg.stands(r)) for leg, h, r in zip(legs, hangs, room, strict=True)]
    lifted = _all(*(leg.lifted() for leg in legs))
    kneels = [leg.kneels(body.floor - body.points[:, ankle, 1]) for leg, ankle in zip(legs, ANKLES, strict=True)]
    shins_down = [
        _unless_hidden(_all(_above(leg.shin[:, 1], 0.35, 0.2), _below(_from_down(leg.shin3), 45, 15))) for leg in legs
    ]
    steps = [_all(leg.lifted(), down) for leg, down in zip(legs, shins_down, strict=True)]
    swings = [leg.swings() for leg in legs]
    kicks = [_all(leg.raised(), _above(leg.knee, 150, 10), _above(leg.knee3, 135, 15)) for leg in legs]
    deep = [_all(_below(leg.knee, 135, 15), _above(_from_down(leg.thigh), 30, 10)) for leg in legs]
    long = [_all(_above(leg.knee, 152, 10), _above(_from_down(leg.thigh), 22, 10)) for leg in legs]
    plumb = [_below(np.fmax(_from_down(leg.thigh), _from_down(leg.shin)), 16, 8) for leg in legs]
    straight = _all(*(_above(leg.knee, 160, 10) for leg in legs))
    tucked = [_all(_above(_from_down(leg.shin3), 55, 10), _below(leg.knee3, 65, 15)) for leg in legs]
    height = ankles[..., 1].mean(axis=1) - body.points[:, HIPS, 1].mean(axis=1)  # of the hips above the feet
    shown = [_above(np.linalg.norm(leg.thigh, axis=1), 0.4, 0.15) for leg in legs]
    flat = [_all(_between(_from_down(leg.thigh), 60, 120, 15), _above(_from_down(leg.thigh3), 50, 15)) for leg in legs]
    hands_down = [_above(body.points[:, wrist, 1], 0.6, 0.2) for wrist in WRISTS]
    together = _all(_below(uneven, 0.07, 0.05), _below(apart, 0.9, 0.1))
    side_on = _below(np.abs(body.across), 0.4, 0.1)
    # Squatting people are carried by their feet: these are apart, lower than a seat's height (a shin, 0.85) under the
    # hips and, seen from the side, right under them.
    under = np.abs(ankles[..., 0].mean(axis=1) - body.points[:, HIPS, 0].mean(axis=1))
    seat = _unless_hidden(
        _all(_below(apart, 0.9, 0.15), _above(height, 0.75, 0.1), _any(-side_on, _above(under, 0.5, 0.15)))
    )
    feet_seen = _above(body.scores[:, ANKLES].min(axis=1), 0.3, 0.2)
    other_hangs = [np.where(np.isnan(body.points[:, knee, 1]), LIKELY, h) for h, knee in zip(hangs, KNEES, strict=True)]
    return [
        ("lying", _all(level, *flat, *shown)),
        ("all_fours", _all(level, *kneels, *hands_down)),
        ("kneeling", _all(upright, *kneels)),
        ("one_knee", _all(upright, _one_and_other(kneels, steps))),
        ("running", _all(_above(uneven, 0.3, 0.1), _one_and_other(swings, [leg.strides() for leg in legs]))),
        ("lunging", _all(_above(apart, 1.2, 0.3), _one_and_other(deep, long))),
        ("kicking", _one_and_other(stands, kicks)),
        ("one_leg", _one_and_other(stands, [leg.raised() for leg in legs])),
        ("standing", _all(*stands, *plumb, straight, feet_seen, together, upright)),
        ("on_feet", _all(_one_and_other(stands, other_hangs), _below(trunk, 70, 20))),
        ("squatting", _all(lifted, *tucked, _below(height, 0.9, 0.1))),
        ("sitting", _all(lifted, *shins_down, upright, _below(trunk, 30, 10), seat)),
        ("knees_bent", _all(lifted, _below(trunk, 50, 10))),
    ]  # fmt: skip


def _arm(body: Body, side: int) -> Rules:
    """What an arm does. side: 0 left, 1 right.

    An arm hangs within 30 degrees of the trunk, is level from 60 to 120, and raised above. An elbow is straight over
    150 degrees, bent under 110. BlazePose bends straight arms by 10 to 30 degrees, and opens folded ones as much.
    """
    shoulder, elbow, wrist = SHOULDERS[side], ELBOWS[side], WRISTS[side]
    points, depth, outward = body.points, body.depth, 1 - 2 * side
    upper, fore = points[:, elbow] - points[:, shoulder], points[:, wrist] - points[:, elbow]
    upper3, fore3 = depth[:, elbow] - depth[:, shoulder], depth[:, wrist] - depth[:, elbow]
    trunk = _or(points[:, HIPS].mean(axis=1), [0, 1])
    trunk3 = _or(depth[:, HIPS].mean(axis=1), [0, -1, 0])
    swing, swing3 = _angle(upper, trunk), _angle(upper3, trunk3)
    bend, bend3 = 180 - _angle(upper, fore), 180 - _angle(upper3, fore3)
    hand, hand3 = points[:, elbow] + fore, depth[:, wrist]  # NaN if the elbow is not seen
    out, low = hand[:, 0] * outward * np.sign(body.across), hand[:, 1]
    out3, high3, ahead3 = hand3[:, 0] * outward, hand3[:, 1], hand3[:, 2]
    reach = hand[:, 0] * np.sign(np.sin(np.radians(body.yaw)))  # in the picture, in the direction of the chest
    seen = _above(body.scores[:, wrist], HAND_SEEN, 0.2)
    upright = _below(_from_down(trunk), 30, 15)
    frontal, profile = _above(body.across, 0.45, 0.15), _below(np.abs(body.across), 0.4, 0.1)
    straight = _all(_above(bend, 148, 15), _above(bend3, 125, 20))
    head = np.fmin.reduce([np.linalg.norm(hand - points[:, i], axis=1) for i in (NOSE, *EARS)])
    head3 = np.fmin.reduce([np.linalg.norm(hand3 - depth[:, i], axis=1) for i in (NOSE, *EARS)])
    near = _all(_below(head, 0.3, 0.15), _unless_hidden(_below(head3, 0.6, 0.2)))
    thigh = np.fmin.reduce([_to_line(hand, points[:, h], points[:, k]) for h, k in zip(HIPS, KNEES, strict=True)])
    thighs = _all(*(Leg.of(body, s).lifted() for s in (0, 1)))
    lap = _all(thighs, _below(_from_down(trunk), 40, 15), _below(thigh, 0.2, 0.1), _above(ahead3, 0.15, 0.15))
    lowest = points[:, (*HIPS, *KNEES, *ANKLES), 1].max(axis=1)
    hangs = _all(_below(swing, 25, 10), _below(swing3, 38, 15), _above(bend, 140, 15), _above(bend3, 118, 20))
    level = _all(_between(swing, 62, 118, 15), _between(swing3, 58, 122, 15))
    # An arm at its full length cannot hide a hand behind the back.
    plumb = _all(_above(bend, 150, 10), _above(low, 0.95, 0.1))
    before = _all(_between(low, 0.25, 0.85, 0.1), _between(ahead3, 0.2, 0.75, 0.2), _below(np.abs(body.yaw), 22, 10))
    high = _all(_below(low, -0.6, 0.2), _above(high3, 0.3, 0.2), upright)
    along = _all(_above(swing, 130, 15), _above(bend, 140, 15), _above(swing3, 110, 20), _above(bend3, 120, 20))
    reaching = _all(along, _below(low, -0.3, 0.2))  # up, and not along a trunk that is level or upside down
    stretched = _above(np.linalg.norm(hand - points[:, shoulder], axis=1), 0.8, 0.15)  # across the line of sight
    aside = _below(np.abs(ahead3), 0.5, 0.2)
    beside = _below(np.abs(ahead3 - trunk3[:, 2]), 0.3, 0.15)
    hip = _all(_between(out, 0.25, 0.75, 0.1), _between(low, 0.7, 1.05, 0.1), beside)
    akimbo = _all(_above(swing, 35, 10), _above(swing3, 27, 10), _between(bend, 75, 122, 15))
    return [
        ("on_ground", _all(straight, _below(lowest - low, 0.15, 0.1))),
        ("overhead", _any(high, reaching)),
        ("out", _all(straight, level, aside, stretched, _above(out3, 0.85, 0.2), _above(out, 0.7, 0.2))),
        ("forward", _all(straight, level, stretched, profile, _above(ahead3, 0.7, 0.2), _above(reach, 0.6, 0.2))),
        ("at_head", _all(upright, near, _below(low, -0.1, 0.1))),
        ("raised", _all(_below(low, 0.13, 0.15), _above(high3, -0.25, 0.25), upright)),
        ("in_lap", _all(seen, lap, _between(low, 0.82, 1.25, 0.1))),
        ("in_front", _all(seen, frontal, before, _below(out, 0.15, 0.15), _below(out3, 0.4, 0.2))),
        ("on_hip", _all(seen, hip, akimbo, _above(np.abs(body.across), 0.45, 0.15))),
        ("bent", _all(seen, _below(bend, 105, 20), _below(bend3, 118, 15))),
        ("down", _all(upright, hangs, _any(seen, plumb), _above(low, 0.83, 0.1))),
        ("away", _all(straight, upright, aside, _between(swing, 33, 58, 8), _between(swing3, 28, 65, 10))),
    ]  # fmt: skip
