"""pose: the body pose of every person."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from laion_people.people import boxes, people_batches
from laion_people.step import Row, Shard, Step


class Pose(Step):
    """One row a person, in the order of people."""

    name = "pose"
    summary = "estimates every person's 2D body pose, and 3D landmarks where the model gives them"
    reads = ("images", "people")
    writes = "pose"
    roles = ("pose",)
    gpu = True

    def apply(self, shard: Shard) -> Iterator[Row]:
        people = shard.table("people", ["person_id", "key", "bbox"])
        ids, all_boxes = people["person_id"].to_pylist(), boxes(people)
        shard.rows_in = len(ids)
        estimator = shard.model("pose")
        for batch in people_batches(shard, people["key"].to_pylist()):
            with shard.clock("model"):
                poses = estimator.estimate([b.image for b in batch], [all_boxes[b.first : b.last] for b in batch])
            for item, pose in zip(batch, poses, strict=True):
                for i, person_id in enumerate(ids[item.first : item.last]):
                    yield {
                        "person_id": person_id,
                        "keypoints": pose.keypoints[i].ravel(),
                        "pose_score": pose.scores[i],
                        "world_landmarks": _seen(pose.world, i),
                    }


def _seen(world: np.ndarray | None, person: int) -> np.ndarray | None:
    return None if world is None or np.isnan(world[person]).any() else world[person].ravel()
