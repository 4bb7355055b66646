"""What a person's keypoints and 3D landmarks say of the body."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from laion_people import geometry, posetext
from laion_people.facts import Fact
from laion_people.people import matrix

_BASE = {
    "wide stance": "on_feet", "side lunge": "lunging", "one knee": "one_knee", "one leg raised": "one_leg",
    "knees bent": "knees_bent", "standing": "on_feet",
}  # fmt: skip
_ARMS = {
    "out to the side": "out", "hand up": "raised", "at the head": "at_head", "on the hip": "on_hip",
}  # fmt: skip


def pose_facts(people: pa.Table, pose: pa.Table) -> list[list[Fact]]:
    """The facts of each person of a shard, by its people and pose tables: names of ``facts.VALUES["pose"]``."""
    keypoints = matrix(pose["keypoints"], 51).reshape(-1, 17, 3)
    world = matrix(pose["world_landmarks"], 99).reshape(-1, 33, 3)
    limbs = geometry.limb_directions(keypoints, world)
    outward = limbs * np.where(np.char.startswith(geometry.LIMBS, "right"), -1, 1)[:, None] ** np.array([1, 0, 0])
    arms = [posetext._arm(outward[:, 1 + s], outward[:, 3 + s]) for s in (0, 1)]
    legs, lean = posetext._legs(outward), posetext._lean(outward[:, 0])
    told = []
    for left, right, base, leans in zip(*arms, legs, lean, strict=True):
        values = {
            "base": _BASE.get(base, base),
            "left_arm": _ARMS.get(left, left),
            "right_arm": _ARMS.get(right, right),
            "lean": leans,
        }
        told.append([Fact(name, str(value), 0.5) for name, value in values.items() if value])
    return told
