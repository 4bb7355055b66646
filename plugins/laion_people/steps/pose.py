"""pose: the body pose of every person."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from include.models import Poses
from laion_people.engine.catalog import STEPS
from laion_people.engine.step import Row, Step
from laion_people.engine.work import Shard
from laion_people.vision.people import boxes, by_people


class Pose(Step):
    """One row a person, in the order of people."""

    entry = STEPS["pose"]
    revision = 3  # 3: people who are close together have a pose of their own each

    def apply(self, shard: Shard) -> Iterator[Row]:
        people = shard.table("people")
        ids, all_boxes = people["person_id"].to_pylist(), boxes(people)
        shard.rows_in = len(ids)
        estimator = shard.model("pose")

        def estimate(images: list[np.ndarray], rows: list[slice]) -> list[Poses]:
            return estimator.estimate(images, [all_boxes[r] for r in rows])

        for rows, pose in by_people(shard, people["key"].to_pylist(), estimate):
            for i, person_id in enumerate(ids[rows]):
                yield {
                    "person_id": person_id,
                    "keypoints": pose.keypoints[i].ravel(),
                    "pose_score": pose.scores[i],
                    "world_landmarks": _seen(pose.world, i),
                    "extra_keypoints": None if pose.extra is None else pose.extra[i].ravel(),
                }


def _seen(world: np.ndarray | None, person: int) -> np.ndarray | None:
    return None if world is None or np.isnan(world[person]).any() else world[person].ravel()
