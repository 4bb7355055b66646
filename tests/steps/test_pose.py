from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq

from include.models import Poses
from laion_people.engine.runner import Runner
from laion_people.settings import Settings
from laion_people.steps.registry import STEPS
from laion_people.storage.store import LocalStore
from tests.fakes import FakeModels, FakePose, image_shard

PARTITION = "laion2B-en/00042"


class WholeBody(FakePose):
    """Gives further keypoints; their x is the person's number in the image."""

    def estimate(self, images: Sequence[np.ndarray], boxes: Sequence[np.ndarray]) -> list[Poses]:
        return [replace(p, extra=self._extra(len(p.scores))) for p in super().estimate(images, boxes)]

    def _extra(self, people: int) -> np.ndarray:
        extra = np.full((people, 116, 3), 0.5, np.float32)
        extra[..., 0] = np.arange(people)[:, None]
        return extra


class WholeBodyModels(FakeModels):
    KINDS = FakeModels.KINDS | {"pose": WholeBody}


def test_the_further_keypoints_of_a_whole_body_model_are_kept(store: LocalStore) -> None:
    image_shard(store, PARTITION, 0)
    tables = []
    for models in (FakeModels(), WholeBodyModels()):
        for step in ("detect", "pose"):
            Runner(store, Settings(), models, STEPS).run(step, PARTITION, force=True)
        tables.append(pq.read_table(store.root / "pose" / PARTITION / "00000.parquet"))
    body, whole = tables
    assert body["extra_keypoints"].null_count == len(body) > 0
    numbers = [int(person_id.rsplit("/", 1)[-1]) for person_id in whole["person_id"].to_pylist()]
    assert max(numbers) == 2
    assert whole["extra_keypoints"].to_pylist() == [[number, 0.5, 0.5] * 116 for number in numbers]
    assert whole.drop(["extra_keypoints"]) == body.drop(["extra_keypoints"])
