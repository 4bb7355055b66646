"""Synthetic people for tests: twelve poses from all sides, with noise, mirrored, cut at the waist; and faces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from laion_people.storage.schemas import SCHEMAS
from laion_people.vision import geometry

Vector = tuple[float, float, float]
Limbs = tuple[tuple[Vector, Vector], ...]  # arm and leg of each side: upper and lower limb, each outward, up, forward
HANGING: tuple[Vector, Vector] = ((0.2, -1, 0), (0.1, -1, 0.15))
ON_HIP: tuple[Vector, Vector] = ((0.8, -0.8, -0.15), (-0.55, -0.75, 0.45))
SIDEWAYS: tuple[Vector, Vector] = ((1, 0, 0), (1, 0, 0.1))
OVERHEAD: tuple[Vector, Vector] = ((0.4, 1, 0.05), (0.1, 1, 0.1))
FORWARD: tuple[Vector, Vector] = ((0.2, 0, 1), (0.05, 0.05, 1))
HAND_UP: tuple[Vector, Vector] = ((1, -0.1, 0.25), (0.25, 1, 0.3))
STRAIGHT: tuple[Vector, Vector] = ((0.08, -1, 0.02), (0.02, -1, 0))
POSES: dict[str, Limbs] = {
    "stand": (HANGING, HANGING, STRAIGHT, STRAIGHT),
    "arms out": (SIDEWAYS, SIDEWAYS, STRAIGHT, STRAIGHT),
    "arms up": (OVERHEAD, OVERHEAD, STRAIGHT, STRAIGHT),
    "wave": (HANGING, HAND_UP, STRAIGHT, STRAIGHT),
    "hips": (ON_HIP, ON_HIP, STRAIGHT, STRAIGHT),
    "point": (SIDEWAYS, HANGING, STRAIGHT, STRAIGHT),
    "reach": (FORWARD, FORWARD, STRAIGHT, STRAIGHT),
    "sit": (HANGING, HANGING, ((0.18, -0.12, 1), (0.03, -1, 0.05)), ((0.18, -0.12, 1), (0.03, -1, 0.05))),
    "squat": (FORWARD, FORWARD, ((0.45, -0.3, 1), (0, -1, -0.4)), ((0.45, -0.3, 1), (0, -1, -0.4))),
    "side lunge": (SIDEWAYS, SIDEWAYS, ((0.9, -0.75, 0.3), (0.1, -1, 0)), ((0.8, -1, 0), (0.8, -1, 0))),
    "run": (
        ((0.3, -0.9, -0.6), (-0.1, -0.5, 0.8)), ((0.3, -0.9, 0.5), (-0.1, 0.25, 1)),
        ((0.05, -0.6, 0.8), (0.03, -1, -0.25)), ((0.05, -1, -0.35), (0.05, -0.45, -1)),
    ),
    "tree": (OVERHEAD, OVERHEAD, STRAIGHT, ((1, -0.5, 0.35), (-0.95, -0.75, -0.1))),
}  # fmt: skip
ARM_POSES = ("stand", "arms out", "arms up", "wave", "hips", "point", "reach")  # of standing people
SHOULDERS, HIPS, LEGS = [5, 6], [11, 12], [13, 14, 15, 16]


@dataclass(frozen=True, slots=True)
class People:
    """names: true poses; keypoints float32 [n, 17, 3]; world float32 [n, 33, 3] (NaN: none)."""

    names: list[str]
    keypoints: np.ndarray
    world: np.ndarray

    def table(self, ids: list[str]) -> pa.Table:
        rows = [
            {
                "person_id": person_id,
                "keypoints": self.keypoints[i].ravel(),
                "pose_score": 0.9,
                "world_landmarks": None if np.isnan(self.world[i]).any() else self.world[i].ravel(),
            }
            for i, person_id in enumerate(ids)
        ]
        return pa.Table.from_pylist(rows, schema=SCHEMAS["pose"])


def joints(pose: str | Limbs, rng: np.random.Generator, jitter: float = 0.06) -> np.ndarray:
    """COCO-17 in metres, [17, 3]: x to the person's left, y up, z forward; limb directions differ by ``jitter``."""
    limbs = POSES[pose] if isinstance(pose, str) else pose
    body = np.zeros((17, 3))
    body[:5] = [[0, 1.7, 0.12], [0.03, 1.74, 0.1], [-0.03, 1.74, 0.1], [0.07, 1.72, 0], [-0.07, 1.72, 0]]
    body[5:7] = [[0.18, 1.45, 0], [-0.18, 1.45, 0]]
    body[11:13] = [[0.1, 0.95, 0], [-0.1, 0.95, 0]]
    for limb, (start, middle, end) in enumerate(((5, 7, 9), (6, 8, 10), (11, 13, 15), (12, 14, 16))):
        for joint, before, direction, length in (
            (middle, start, limbs[limb][0], (0.28, 0.42)[limb // 2]),
            (end, middle, limbs[limb][1], (0.25, 0.42)[limb // 2]),
        ):
            step = np.array(direction) / np.linalg.norm(direction) + rng.normal(0, jitter, 3)
            step[0] *= -1 if limb % 2 else 1
            body[joint] = body[before] + length * step / np.linalg.norm(step)
    return body


def people(
    names: list[str], seed: int, *, yaw: float = 60, cut: float = 0.0, depth: bool = True, jitter: float = 0.06
) -> People:
    """People in these poses, some mirrored, turned by up to ``yaw`` degrees, a share of them cut at the waist.

    ``depth`` False leaves out the world landmarks.
    """
    rng = np.random.default_rng(seed)
    keypoints = np.zeros((len(names), 17, 3), np.float32)
    world = np.full((len(names), 33, 3), np.nan, np.float32)
    for i, name in enumerate(names):
        body = joints(name, rng, jitter)
        if rng.random() < 0.5:
            body = body[[0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]] * [-1, 1, 1]
        angle = np.radians(rng.uniform(-yaw, yaw))
        turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
        camera = body @ turn.T * [1, -1, -1]  # a facing person's left is to the image's right
        camera -= camera[HIPS].mean(0)
        size, place = rng.uniform(60, 400), rng.uniform(0, 300, 2)
        keypoints[i, :, :2] = camera[:, :2] * size + place + rng.normal(0, 0.01 * size, (17, 2))
        keypoints[i, :, 2] = rng.uniform(0.5, 0.95, 17)
        if rng.random() < cut:
            keypoints[i, LEGS, 2] = rng.uniform(0, 0.15, 4)
            keypoints[i, LEGS, :2] = place + rng.normal(0, 0.1 * size, (4, 2))
        if depth:
            world[i] = 0
            world[i, geometry.COCO_IN_BLAZEPOSE] = camera + rng.normal(0, [0.012, 0.012, 0.04], (17, 3))
    return People(names, keypoints, world)
