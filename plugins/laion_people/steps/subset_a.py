"""subset_a: the people whose crop fits the caption. Follows clip_filter; a new threshold needs this step only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from laion_people.engine.catalog import STEPS
from laion_people.engine.step import Row, Step
from laion_people.engine.work import Shard
from laion_people.settings import Settings


class SubsetA(Step):
    """One row for each person whose similarity is greater than the threshold."""

    entry = STEPS["subset_a"]
    revision = 2  # 1 lacked the sizes of images
    reasons: ClassVar[Mapping[str, str]] = {
        "below_threshold": "the crop does not fit the image's caption: the similarity is not above the threshold"
    }

    def params(self, settings: Settings) -> dict[str, Any]:
        return {"threshold": settings.threshold}

    def apply(self, shard: Shard) -> Iterator[Row]:
        people = shard.table("people")
        threshold = np.float32(shard.settings.threshold)  # as stored beside the float32 similarity
        for person, clip in zip(people.to_pylist(), shard.table("clip").to_pylist(), strict=True):
            shard.rows_in += 1
            if clip["similarity"] > threshold:
                yield person | {k: clip[k] for k in ("similarity", "clip_model")} | {"threshold": threshold}
            else:
                shard.reject("below_threshold")
