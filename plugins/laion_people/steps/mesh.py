"""mesh: the 3D face mesh of every person with a visible face."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from include.models import Mesh as FaceMesh
from laion_people.engine.catalog import STEPS
from laion_people.engine.step import Row, Step
from laion_people.engine.work import Shard
from laion_people.vision.people import boxes, by_people, matrix


class Mesh(Step):
    """One row a person, in the order of people. Without a visible face the values are null; nobody is rejected."""

    entry = STEPS["mesh"]

    def apply(self, shard: Shard) -> Iterator[Row]:
        people = shard.table("people")
        ids, all_boxes = people["person_id"].to_pylist(), boxes(people)
        keypoints = matrix(shard.table("pose")["keypoints"], 51).reshape(-1, 17, 3)
        shard.rows_in = len(ids)
        estimator = shard.model("mesh")

        def estimate(images: list[np.ndarray], rows: list[slice]) -> list[list[FaceMesh | None]]:
            return estimator.estimate(images, [all_boxes[r] for r in rows], [keypoints[r] for r in rows])

        for rows, meshes in by_people(shard, people["key"].to_pylist(), estimate):
            for person_id, mesh in zip(ids[rows], meshes, strict=True):
                yield {
                    "person_id": person_id,
                    "face_landmarks": mesh and mesh.landmarks.ravel(),
                    "blendshapes": mesh and mesh.blendshapes,
                    "head_yaw": mesh and mesh.yaw,
                    "head_pitch": mesh and mesh.pitch,
                    "head_roll": mesh and mesh.roll,
                    "face_score": mesh and mesh.score,
                }
