"""Facts of the face and the head, from a person's own face mesh and keypoints.

Each value has a rule: some measures, each with an edge from which it counts and a point where it is sure. All must be
beyond their edges, and the weakest gives the confidence. Between the edges of two values lies a dead band; there the
fact is missing, or has a wider value. The measures of a face come from two sources, which must agree: blendshapes,
learned from looks (https://arxiv.org/abs/2309.05782), and distances in the canonical mesh. Those of a head are the
mesh's angles and the keypoints of nose, eyes and ears. docs/facts.md lists all rules, the sources of their numbers, and
what they miss: the mesh draws eyes on sunglasses and a mouth on a mask, and cannot tell these from a face.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from laion_people.language.facts import Fact
from laion_people.vision import geometry
from laion_people.vision.people import matrix

Margins = Mapping[str, np.ndarray]  # value -> how far each person is beyond its edges: 0 at an edge, 1 where it is sure

MIN_SCORE, SURE_SCORE = 0.7, 0.9  # of the face detector: 6 of 60 meshes below were off the face, none above
MIN_HEAD, MIN_SMILE, MIN_OPEN, MIN_DETAIL, MIN_BROWS = 16, 24, geometry.MIN_FACE, 40, 48  # pixels, forehead to chin
SURE_SIZE = 64
SEEN, SURELY_SEEN = 0.25, 0.5  # score of the keypoints of nose, eyes, ears and arms
NOSE_SEEN = 0.45, 0.6  # score of the nose: below, most lips are drawn on a mask, and closed
MIN_EARS = 6  # pixels from the nose to the farther ear: with fewer, an error of one pixel turns the head
NOSE_DEPTH = 0.87  # the nose's tip lies this far before the ears, in distances between the ears (Farkas 1994)
HAND = 0.35  # from the wrist to the middle of the hand, in forearms (Drillis and Contini, as in geometry.py)
AT_REST = {"mouthSmile": 0.1, "mouthPucker": 0.3, "mouthPress": 0.15, "mouthShrugLower": 0.2, "browDown": 0.3}
PARTED = ("jawOpen", "mouthFunnel", "mouthUpperUp", "mouthLowerDown")  # each open mouth shows one of them


@dataclass(frozen=True, slots=True)
class _People:
    """Arrays [people, ...] as in the tables, NaN where no face is seen; size: pixels from forehead to chin."""

    keypoints: np.ndarray
    landmarks: np.ndarray
    blendshapes: np.ndarray
    score: np.ndarray
    yaw: np.ndarray
    pitch: np.ndarray
    roll: np.ndarray
    size: np.ndarray


def face_facts(pose: pa.Table, mesh: pa.Table) -> list[list[Fact]]:
    """The facts of face and head of each person of a shard, from its pose and mesh tables."""
    landmarks = matrix(mesh["face_landmarks"], 3 * 478).reshape(-1, 478, 3).astype(np.float64)
    score, yaw, pitch, roll = (
        np.asarray(mesh[name], np.float64) for name in ("face_score", "head_yaw", "head_pitch", "head_roll")
    )
    people = _People(
        keypoints=matrix(pose["keypoints"], 51).reshape(-1, 17, 3).astype(np.float64),
        landmarks=landmarks,
        blendshapes=matrix(mesh["blendshapes"], 52).astype(np.float64),
        score=score,
        yaw=yaw,
        pitch=pitch,
        roll=roll,
        size=np.ptp(landmarks[..., 1], axis=1),
    )
    names = {**_face(people), **_head(people)}
    return [
        [fact for name, margins in names.items() if (fact := _first(name, margins, person))]
        for person in range(len(landmarks))
    ]


def _first(name: str, margins: Margins, person: int) -> Fact | None:
    """The first value whose rule holds. Narrow values come before wide ones."""
    for value, margin in margins.items():
        if margin[person] >= 0:
            return Fact(name, value, 0.5 + 0.5 * min(float(margin[person]), 1.0))
    return None


def _face(people: _People) -> dict[str, Margins]:
    """Only for faces turned so little that no half is guessed, and for eyes and mouths that no hand hides."""
    shapes = dict(zip(geometry.BLENDSHAPES, people.blendshapes.T, strict=True))
    shapes |= geometry.face_measures(people.landmarks)
    for name in [n.removesuffix("Left") for n in geometry.BLENDSHAPES if n.endswith("Left")]:
        shapes[name] = (shapes[f"{name}Left"] + shapes[f"{name}Right"]) / 2
    readable = _least(
        _beyond(people.score, MIN_SCORE, SURE_SCORE),
        _beyond(np.abs(people.yaw), geometry.MAX_YAW, 25),
        _beyond(np.abs(people.pitch - geometry.LEVEL), geometry.MAX_NOD, 16),
    )
    eyes_hidden, mouth_hidden = _behind_hands(people)
    upper, lower = np.where(eyes_hidden, -1, readable), np.where(mouth_hidden, -1, readable)
    return {
        "mouth": _within(lower, _mouth(shapes, people)),
        "brows": _within(upper, _brows(shapes, people)),
        "eyes": _within(upper, _eyes(shapes, people)),
    }


def _mouth(shapes: Mapping[str, np.ndarray], people: _People) -> Margins:
    smile, lift, opening = shapes["mouthSmile"], shapes["mouthCornerLift"], shapes["mouthOpening"]
    smiling = _least(
        _large(people, MIN_SMILE),
        _beyond(smile, 0.4, 0.8),
        _beyond(lift, 1.2, 3),
        _beyond(smile + lift / 5, 1, 1.5),
    )
    closed = _least(
        _large(people, MIN_DETAIL),
        _beyond(opening, 0.15, 0.05),
        _beyond(shapes["jawOpen"], 0.2, 0.05),
        _beyond(people.keypoints[:, 0, 2], *NOSE_SEEN),
    )
    return {
        "smiling_open": _least(smiling, _beyond(opening, 0.5, 0.9)),
        "smiling": smiling,
        "open": _least(
            _large(people, MIN_OPEN),
            _beyond(opening, 0.65, 1.2),
            _beyond(np.sum([shapes[n] for n in PARTED], axis=0), 0.15, 0.3),
        ),
        "puckered": _least(
            closed,
            _beyond(shapes["mouthPucker"], 0.93, 0.98),
            _beyond(shapes["mouthWidth"], 4.6, 4.2),
        ),
        "turned_down": _least(closed, _beyond(shapes["mouthFrown"], 0.15, 0.35), _beyond(lift, -1, -1.6)),
        "relaxed": _least(
            closed,
            _beyond(np.abs(lift - 0.2), 0.7, 0.3),
            *(_beyond(shapes[n], most, most / 4) for n, most in AT_REST.items()),
        ),
        "closed": closed,
    }


def _brows(shapes: Mapping[str, np.ndarray], people: _People) -> Margins:
    """Raised brows bare the eyes, lowered ones are near them: a blendshape alone often shows a face's shape."""
    down, inner, outer = shapes["browDown"], shapes["browInnerUp"], shapes["browOuterUp"]
    face = geometry.canonical_faces(people.landmarks)
    inner_height = (face[:, (107, 336), 1] - face[:, (133, 362), 1]).mean(1)
    large = _large(people, MIN_BROWS)
    return {
        "raised": _least(
            large,
            _beyond(inner, 0.4, 0.6),
            _beyond(outer, 0.4, 0.6),
            _beyond(_lid_openings(people).min(1), 0.42, 0.5),
        ),
        "lowered": _least(
            large,
            _beyond(people.pitch, 6, 0),  # seen from below, all brows lie near the eyes
            _beyond(down, 0.4, 0.8),
            _beyond(shapes["browHeight"], 1.4, 1.2),
            _beyond(inner_height, 0.2, 0.16),
            _beyond(shapes["mouthSmile"], 0.25, 0),  # a smile's cheeks push the brows' blendshape up
        ),
        "level": _least(
            large,
            _beyond(down, 0.2, 0.05),
            _beyond(np.maximum(inner, outer), 0.35, 0.1),
            _beyond(shapes["eyeSquint"], 0.4, 0.2),
        ),
    }


def _eyes(shapes: Mapping[str, np.ndarray], people: _People) -> Margins:
    blinks = np.stack([shapes["eyeBlinkLeft"], shapes["eyeBlinkRight"]], axis=1)
    lids = _lid_openings(people)
    large = _large(people, MIN_DETAIL)
    return {
        "closed": _least(large, _beyond(blinks.min(1), 0.55, 0.7), _beyond(lids.max(1), 0.12, 0.08)),
        "one_closed": _least(
            large,
            _beyond(np.abs(people.yaw), 14, 7),  # the far eye of a turned head is drawn half closed
            _beyond(blinks.max(1), 0.45, 0.7),
            _beyond(blinks.min(1), 0.3, 0.1),
            _beyond(lids.min(1), 0.17, 0.1),
            _beyond(lids.max(1), 0.24, 0.3),
        ),
        "wide": _least(large, _beyond(shapes["eyeWide"], 0.15, 0.3), _beyond(lids.min(1), 0.42, 0.5)),
        "open": _least(
            _large(people, MIN_OPEN),
            _beyond(blinks.max(1), 0.35, 0.1),
            _beyond(lids.min(1), 0.2, 0.3),
            _beyond(shapes["eyeLookDown"], 0.4, 0.15),  # also high for eyes that the mesh draws on sunglasses
        ),
    }


def _lid_openings(people: _People) -> np.ndarray:
    """Distances between the lids of the left and the right eye, in widths of the eye [people, 2]."""
    face = geometry.canonical_faces(people.landmarks)
    upper, lower, outer, inner = (face[:, points] for points in ((386, 159), (374, 145), (263, 33), (362, 133)))
    return np.linalg.norm(upper - lower, axis=2) / np.maximum(np.linalg.norm(outer - inner, axis=2), 1e-9)


def _behind_hands(people: _People) -> tuple[np.ndarray, np.ndarray]:
    """Whether the middle of a hand lies on the face near the eyes, and whether one lies near the mouth."""
    points = people.landmarks[..., :2]
    elbows, wrists = people.keypoints[:, (7, 8)], people.keypoints[:, (9, 10)]
    hands = wrists[..., :2] + HAND * (wrists[..., :2] - elbows[..., :2])
    seen = np.minimum(elbows[..., 2], wrists[..., 2]) >= SEEN
    on_face = seen & ((hands > points.min(1)[:, None]) & (hands < points.max(1)[:, None])).all(2)
    to_eyes, to_mouth = (
        np.linalg.norm(hands - points[:, ends].mean(1)[:, None], axis=2) for ends in ((33, 263), (61, 291))
    )
    return (on_face & (to_eyes < to_mouth)).any(1), (on_face & (to_eyes >= to_mouth)).any(1)


def _head(people: _People) -> dict[str, Margins]:
    seen = _least(_beyond(people.score, MIN_SCORE, SURE_SCORE), _large(people, MIN_HEAD))
    frontal = _least(seen, _beyond(np.abs(people.yaw), geometry.MAX_YAW, 25))
    return {"turn": _turn(people, seen), "nod": _nod(people, frontal), "tilt": _tilt(people, frontal)}


def _turn(people: _People, seen: np.ndarray) -> Margins:
    """By the mesh if the keypoints agree with it; else by the keypoints, which show profiles and backs of heads."""
    yaw, by_ears = people.yaw, _yaw_by_ears(people)
    agreeing = np.where(np.isnan(by_ears), 0.5, _beyond(np.abs(by_ears - yaw), 15, 5))
    known, unseen = _least(seen, agreeing), ~(seen >= 0)
    above, same_way, behind = _bearing(people.keypoints)
    margins: dict[str, np.ndarray] = {"camera": _least(known, _beyond(np.abs(yaw), 7, 3))}
    for side, sign in (("left", -1), ("right", 1)):
        turned, beside = yaw * sign, by_ears * sign
        profile = _least(above, same_way, _beyond(beside, 105, 90), np.where(unseen, 1, _beyond(turned, 15, 30)))
        margins[f"slight_{side}"] = _least(
            known,
            _beyond(turned, 12, 14),
            _beyond(turned, 18, 16),
            _beyond(np.fmin(turned, beside), 8, 12),  # only the mesh if the ears are not seen
        )
        margins[f"far_{side}"] = np.fmax(
            _least(known, _beyond(turned, 48, 55)), _least(profile, _beyond(beside, 60, 75))
        )
        margins[side] = np.fmax(_least(known, _beyond(turned, 18, 25)), _least(profile, _beyond(beside, 45, 60)))
    margins["away"] = _least(np.where(unseen, 1, -1), above, behind, _beyond(np.abs(by_ears), 140, 165))
    return margins


def _nod(people: _People, frontal: np.ndarray) -> Margins:
    """A lifted face has its nose close under the eyes. For a bowed one, nothing in 2D is as sure as the pitch."""
    nod = people.pitch - geometry.LEVEL
    eyes = people.keypoints[:, (1, 2), :2].mean(1)
    drop = _along(people.keypoints[:, 0, :2] - eyes, people.roll + 90) / np.maximum(people.size, 1e-9)
    return {
        "up": _least(frontal, _beyond(nod, 22, 30), _beyond(drop, 0.155, 0.12)),
        "down": _least(frontal, _beyond(nod, -20, -28)),
        "level": _least(frontal, _beyond(np.abs(nod), 10, 5), _beyond(np.abs(people.roll), 25, 15)),
    }


def _tilt(people: _People, frontal: np.ndarray) -> Margins:
    """By the mesh and the line through the eyes. Only for heads that turn little: else that line leans as well."""
    left, right = people.keypoints[:, 1], people.keypoints[:, 2]
    across = left[:, :2] - right[:, :2]
    eye_line = np.degrees(np.arctan2(across[:, 1], across[:, 0]))
    known = _least(
        frontal,
        _beyond(np.abs(people.yaw), 25, 15),
        _large(people, MIN_SMILE),
        _beyond(np.minimum(left[:, 2], right[:, 2]), SEEN, SURELY_SEEN),
    )
    return {
        "left": _least(known, _beyond(people.roll, -16, -22), _beyond(eye_line, -12, -18)),
        "right": _least(known, _beyond(people.roll, 16, 22), _beyond(eye_line, 12, 18)),
        "none": _least(
            known,
            _beyond(np.abs(people.roll), 9, 4),
            _beyond(np.abs(eye_line), 10, 5),
            _beyond(np.abs(people.roll - eye_line), 8, 4),  # else one of them is wrong
        ),
    }


def _yaw_by_ears(people: _People) -> np.ndarray:
    """As the mesh's yaw, but all around: from the place of the nose between the ears. NaN if they aren't seen."""
    nose, ears = people.keypoints[:, 0], people.keypoints[:, (3, 4)]
    upright = np.nan_to_num(people.roll)
    forward = _along(nose[:, :2] - ears[..., :2].mean(1), upright)
    across = _along(ears[:, 0, :2] - ears[:, 1, :2], upright)
    small = np.abs(forward) + np.abs(across) / 2 < MIN_EARS
    unseen = np.minimum(nose[:, 2], ears[..., 2].min(1)) < SEEN
    return np.where(small | unseen, np.nan, np.degrees(np.arctan2(forward / NOSE_DEPTH, across)))


def _bearing(keypoints: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three margins by keypoints alone: the head is above the shoulders; the eyes have not changed sides; everything
    has changed sides.

    From behind, the left eye, ear and shoulder lie left of the right ones. The eyes are then guessed in the hair, at a
    good part of the distance between the ears.
    """
    left, right = keypoints[:, (1, 3, 5), :2], keypoints[:, (2, 4, 6), :2]
    (eyes, ears, shoulders), (_, head, chest) = (left - right)[..., 0].T, ((left + right) / 2).swapaxes(0, 1)
    above = np.where(chest[:, 1] - head[:, 1] > np.abs(chest[:, 0] - head[:, 0]), 1, -1)
    behind = _least(_beyond(eyes / np.minimum(ears, -1e-9), 0.3, 0.4), np.where(shoulders < 0, 1, -1))
    return above, np.where(eyes >= 0, 1, -1), behind


def _along(vectors: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Lengths of vectors [people, 2] along a direction, in degrees clockwise from the picture's right."""
    radians = np.radians(angle)
    return vectors[:, 0] * np.cos(radians) + vectors[:, 1] * np.sin(radians)


def _large(people: _People, pixels: float) -> np.ndarray:
    return _beyond(people.size, pixels, SURE_SIZE)


def _within(readable: np.ndarray, margins: Margins) -> Margins:
    return {value: _least(readable, margin) for value, margin in margins.items()}


def _least(*margins: np.ndarray) -> np.ndarray:
    return np.minimum.reduce(margins)


def _beyond(measure: np.ndarray, edge: float, sure: float) -> np.ndarray:
    """0 at the edge, 1 where it is sure, negative on the other side of the edge. ``sure`` may be above or below."""
    return (measure - edge) / (sure - edge)
