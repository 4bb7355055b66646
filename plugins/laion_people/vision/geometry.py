"""Turns bodies and faces into numbers that can be compared for different people, camera positions and sizes.

Poses become directions of limbs in the body's own frame, without position, size, body height or camera side. Faces
become expressions, without the head's direction and the face's shape. docs/clustering.md says why, with sources.
"""

from __future__ import annotations

import numpy as np

SEEN = 0.2  # keypoint score of a joint in view: on renders, MoveNet gives 99 % of these more, 90 % of hidden ones less
MIN_FACE = 32  # pixels; on renders, the nearest face has the same expression for 9 of 10 faces above, 2 of 3 of all
MIN_FACE_SCORE = 0.7  # of a face mesh; below, its expression and direction are wrong as often as right
LEVEL = -4  # the pitch of a level head by MediaPipe's canonical face, on renders as on photographs
MAX_YAW, MAX_NOD = 40, 26  # degrees from the camera, and from a level head; beyond, half of the mesh is guessed

LIMBS = (
    "torso",
    "left_upper_arm", "right_upper_arm", "left_forearm", "right_forearm",
    "left_thigh", "right_thigh", "left_shin", "right_shin",
)  # fmt: skip
ARM_LIMBS, LEG_LIMBS = slice(1, 5), slice(5, 9)
MIRRORED_LIMBS = (0, 2, 1, 4, 3, 6, 5, 8, 7)

_SHOULDERS, _HIPS = (5, 6), (11, 12)
_ENDS = np.array([(5, 7), (6, 8), (7, 9), (8, 10), (11, 13), (12, 14), (13, 15), (14, 16)])  # COCO-17, after the torso
COCO_IN_BLAZEPOSE = np.array([0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28])  # of the 33 landmarks
# Lengths in body heights: Drillis and Contini's segments as in Winter, Biomechanics and Motor Control of Human
# Movement, 2009, figure 4.1; shoulder width between the joints.
_LENGTHS = np.array([0.288, 0.186, 0.186, 0.146, 0.146, 0.245, 0.245, 0.246, 0.246])
_SHOULDER_WIDTH = 0.2
_IN_PLANE = 0.9  # a limb with this share of its length lies in the image plane: else noise could tilt it by 25 degrees
_BENDS = np.array([0, 1, 1, 1, 1, 1, 1, -1, -1])  # arms and thighs reach forward, shins backward, the torso neither
_UP = np.array([0.0, -1.0, 0.0])  # in the camera's frame: x to the image's right, y down, z away


def limb_directions(keypoints: np.ndarray, world: np.ndarray) -> np.ndarray:
    """Unit vectors along the nine ``LIMBS`` in the body's frame: float32 [people, 9, 3].

    The axes are the person's left, up, and forward; a limb with an unseen end is NaN. The frame only turns about
    the vertical: lying and standing stay different poses.

    keypoints: [people, 17, 3], COCO-17 x, y, score; world: [people, 33, 3], BlazePose landmarks in metres. People
    without landmarks have NaN there; `lift` finds their depth from their keypoints.
    """
    joints = _joints(keypoints, world)
    shoulders, hips = joints[:, _SHOULDERS].mean(1), joints[:, _HIPS].mean(1)
    limbs = np.concatenate([(shoulders - hips)[:, None], joints[:, _ENDS[:, 1]] - joints[:, _ENDS[:, 0]]], axis=1)
    frame = body_axes(joints)
    directions = _unit(np.einsum("nij,nlj->nli", frame, limbs))
    directions[~seen_limbs(keypoints)] = np.nan
    return directions.astype(np.float32)


def facing(keypoints: np.ndarray, world: np.ndarray) -> np.ndarray:
    """Where the shoulders face: unit vectors (the image's right, up, to the camera), float32 [people, 3].

    They are level, and NaN unless both shoulders are seen. Arguments as in `limb_directions`.
    """
    joints = _joints(keypoints, world)
    forward = _frame(joints[:, _SHOULDERS[0]] - joints[:, _SHOULDERS[1]])[:, 2] * [1, -1, -1]
    forward[~seen_limbs(keypoints)[:, 0]] = np.nan
    return forward.astype(np.float32)


def _joints(keypoints: np.ndarray, world: np.ndarray) -> np.ndarray:
    """COCO-17 joints in the camera's frame, [people, 17, 3]; lifted if there are no landmarks."""
    missing = np.isnan(world).any(axis=(1, 2))
    joints = world[:, COCO_IN_BLAZEPOSE].astype(np.float64)
    joints[missing] = lift(keypoints[missing])
    return joints


def seen_limbs(keypoints: np.ndarray) -> np.ndarray:
    """Which limbs are seen with both ends: bool [people, 9]. The torso only needs shoulders: hips are often hidden."""
    seen = keypoints[..., 2] >= SEEN
    limbs = seen[:, _ENDS].all(axis=2)
    return np.concatenate([seen[:, _SHOULDERS].all(axis=1, keepdims=True), limbs], axis=1)


def lift(keypoints: np.ndarray) -> np.ndarray:
    """Joints in depth, [people, 17, 3] in pixels (camera's frame), from keypoints [people, 17, 3] only.

    A limb that looks too short points towards or away from the camera (scaled orthography; Taylor 2000,
    doi:10.1006/cviu.2000.0878). Of these two directions, it takes the one that joints allow and people prefer: arms and
    thighs in front of the body, shins behind. The shoulders and the nose show where the body faces.
    """
    points = keypoints[..., :2].astype(np.float64)
    spine = points[:, _SHOULDERS].mean(1) - points[:, _HIPS].mean(1)
    limbs = np.concatenate([spine[:, None], points[:, _ENDS[:, 1]] - points[:, _ENDS[:, 0]]], axis=1)
    lengths = np.linalg.norm(limbs, axis=2)
    # Limbs never look too long. The second longest for its kind gives the person's size: the longest may be an outlier.
    ratios = np.where(seen_limbs(keypoints), lengths / _LENGTHS, 0)
    height = np.maximum(np.sort(ratios, axis=1)[:, -2:].min(1), 1e-6)
    across = points[:, _SHOULDERS[0], 0] - points[:, _SHOULDERS[1], 0]
    cos = np.clip(across / (_SHOULDER_WIDTH * height), -1, 1)
    nose = points[:, 0, 0] - points[:, _SHOULDERS, 0].mean(1)
    sin = np.sqrt(1 - cos**2) * np.where(nose < 0, -1, 1)  # the body faces sin to the image's right, cos to the camera
    depth = np.sqrt(np.maximum((_IN_PLANE * _LENGTHS * height[:, None]) ** 2 - lengths**2, 0))
    limbs = np.concatenate([limbs, (-_BENDS * depth * np.where(cos < 0, -1, 1)[:, None])[..., None]], axis=2)
    joints = np.zeros((*points.shape[:2], 3))
    half = 0.5 * height[:, None] * _SHOULDER_WIDTH * np.stack([cos, np.zeros_like(cos), sin], axis=1)
    joints[:, _SHOULDERS[0]], joints[:, _SHOULDERS[1]] = limbs[:, 0] + half, limbs[:, 0] - half
    joints[:, _HIPS[0]], joints[:, _HIPS[1]] = half / 2, -half / 2
    for limb, (start, end) in enumerate(_ENDS, 1):
        joints[:, end] = joints[:, start] + limbs[:, limb]
    return joints


def expressions(blendshapes: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Expressions, float32 [people, len(EXPRESSIONS)]: some blendshapes, and measures of the canonical mesh.

    blendshapes: [people, 52], landmarks: [people, 478, 3] in pixels. NaN for faces that are not seen, or have fewer
    than ``MIN_FACE`` pixels from forehead to chin: their mesh shows the direction, but not the expression.
    """
    measures = face_measures(landmarks)
    columns = [measures[n] if n in measures else blendshapes[:, BLENDSHAPES.index(n)] for n in EXPRESSIONS]
    faces = np.stack(columns, axis=1).astype(np.float32)
    faces[~(np.ptp(landmarks[..., 1], axis=1) >= MIN_FACE)] = np.nan  # also if the height is NaN
    return faces


def face_measures(landmarks: np.ndarray) -> dict[str, np.ndarray]:
    """Distances in canonical faces, each [people], in units of half their range; NaN where no face is seen."""
    face = canonical_faces(landmarks)
    return {
        "mouthOpening": np.linalg.norm(face[:, 13] - face[:, 14], axis=1) / 0.16,
        "mouthWidth": np.linalg.norm(face[:, 61] - face[:, 291], axis=1) / 0.1,
        "mouthCornerLift": (face[:, (61, 291), 1].mean(1) - face[:, (13, 14), 1].mean(1)) / 0.024,
        "eyeOpening": np.linalg.norm(face[:, (159, 386)] - face[:, (145, 374)], axis=2).mean(1) / 0.06,
        "browHeight": (face[:, (105, 334), 1] - face[:, (159, 386), 1]).mean(1) / 0.12,
    }


def canonical_faces(landmarks: np.ndarray) -> np.ndarray:
    """Face meshes [people, 478, 3] in their own frame: float32, turned upright and to the front.

    The origin lies between the outer eye corners (33 and 263), and their distance is 1. x points to the person's left
    eye, y up (from under the nose, 2, to its bridge, 168: expressions don't move these points), z out of the face.
    """
    points = landmarks.astype(np.float64) * [1, -1, -1]
    right, left = points[:, 33], points[:, 263]
    across = left - right
    x = _unit(across)
    up = points[:, 168] - points[:, 2]
    y = _unit(up - (up * x).sum(-1, keepdims=True) * x)
    frame = np.stack([x, y, np.cross(x, y)], axis=1)
    centred = points - (left + right)[:, None] / 2
    size = np.linalg.norm(across, axis=-1)[:, None, None]
    return (np.einsum("nij,npj->npi", frame, centred) / size).astype(np.float32)


def body_axes(joints: np.ndarray) -> np.ndarray:
    """Axes left, up, forward [people, 3, 3] of bodies, from COCO-17 joints [people, 17, 3] in the camera's frame."""
    return _frame(joints[:, _SHOULDERS[0]] - joints[:, _SHOULDERS[1]] + joints[:, _HIPS[0]] - joints[:, _HIPS[1]])


def _frame(left: np.ndarray) -> np.ndarray:
    """Axes left, up, forward [people, 3, 3] of bodies; ``left`` [people, 3] points to their left side."""
    level = left * [1, 0, 1]
    weak = np.linalg.norm(level, axis=1) < 0.2 * np.linalg.norm(left, axis=1)  # lying on the side: no such direction
    level[weak | ~level.any(axis=1)] = [1, 0, 0]
    level = _unit(level)
    up = np.broadcast_to(_UP, level.shape)
    return np.stack([level, up, np.cross(level, up)], axis=1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


BLENDSHAPES = (  # MediaPipe's order
    "_neutral", "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight",
    "cheekPuff", "cheekSquintLeft", "cheekSquintRight", "eyeBlinkLeft", "eyeBlinkRight", "eyeLookDownLeft",
    "eyeLookDownRight", "eyeLookInLeft", "eyeLookInRight", "eyeLookOutLeft", "eyeLookOutRight", "eyeLookUpLeft",
    "eyeLookUpRight", "eyeSquintLeft", "eyeSquintRight", "eyeWideLeft", "eyeWideRight", "jawForward", "jawLeft",
    "jawOpen", "jawRight", "mouthClose", "mouthDimpleLeft", "mouthDimpleRight", "mouthFrownLeft",
    "mouthFrownRight", "mouthFunnel", "mouthLeft", "mouthLowerDownLeft", "mouthLowerDownRight",
    "mouthPressLeft", "mouthPressRight", "mouthPucker", "mouthRight", "mouthRollLower", "mouthRollUpper",
    "mouthShrugLower", "mouthShrugUpper", "mouthSmileLeft", "mouthSmileRight", "mouthStretchLeft",
    "mouthStretchRight", "mouthUpperUpLeft", "mouthUpperUpRight", "noseSneerLeft", "noseSneerRight",
)  # fmt: skip
# Blendshapes that differ more between expressions than between faces; and measures, in units of half their range.
EXPRESSIONS = (
    "mouthSmileLeft", "mouthSmileRight", "mouthFrownLeft", "mouthFrownRight", "mouthPucker", "mouthFunnel", "jawOpen",
    "eyeBlinkLeft", "eyeBlinkRight", "eyeWideLeft", "eyeWideRight", "browDownLeft", "browDownRight", "browInnerUp",
    "browOuterUpLeft", "browOuterUpRight", "mouthOpening", "mouthWidth", "mouthCornerLift", "eyeOpening", "browHeight",
)  # fmt: skip
