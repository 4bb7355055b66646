"""What a person's face mesh says of the face and the head."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from laion_people import facetext, geometry
from laion_people.facts import Fact
from laion_people.people import matrix

_NAMES = {
    "smiling open": "smiling_open", "turned down": "turned_down", "one closed": "one_closed",
    "slightly left": "slight_left", "slightly right": "slight_right", "far left": "far_left", "far right": "far_right",
    "upright": "none",
}  # fmt: skip


def face_facts(pose: pa.Table, mesh: pa.Table) -> list[list[Fact]]:
    """The facts of each person of a shard, by its pose and mesh tables: names of the face and the head."""
    landmarks = matrix(mesh["face_landmarks"], 3 * 478).reshape(-1, 478, 3)
    expressions = geometry.expressions(matrix(mesh["blendshapes"], 52), landmarks)
    angles = [np.asarray(mesh[f"head_{name}"], np.float64) for name in ("yaw", "pitch", "roll")]
    found = facetext.face_facts(expressions) | facetext.head_facts(np.radians(np.stack(angles, axis=1)))
    return [
        [Fact(name, _NAMES.get(v, v), 0.5) for name, v in zip(found, map(str, values), strict=True) if v]
        for values in zip(*found.values(), strict=True)
    ]
