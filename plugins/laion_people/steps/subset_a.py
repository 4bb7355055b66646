"""subset_a: the people whose crop fits the caption. Follows clip_filter; a new threshold needs this step only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, ClassVar

import numpy as np

from include.models.profiles import Threshold
from laion_people.engine.catalog import STEPS
from laion_people.engine.step import Row, Step
from laion_people.engine.work import Shard
from laion_people.settings import Settings

THRESHOLD = 0.3  # for OpenAI's ViT-B/32, by looking at pairs (LAION-400M, https://arxiv.org/abs/2111.02114)


class SubsetA(Step):
    """One row for each person whose similarity is greater than the threshold: the setting's, else that which was
    ``calibrated`` for the profile's CLIP, else THRESHOLD."""

    entry = STEPS["subset_a"]
    revision = 2  # 1 lacked the sizes of images
    reasons: ClassVar[Mapping[str, str]] = {
        "below_threshold": "the crop does not fit the image's caption: the similarity is not above the threshold"
    }

    def __init__(self, calibrated: Threshold | None = None):
        self.calibrated = calibrated

    def threshold(self, settings: Settings) -> float:
        if settings.threshold is not None:
            return settings.threshold
        return self.calibrated.value if self.calibrated else THRESHOLD

    def params(self, settings: Settings) -> dict[str, Any]:
        params: dict[str, Any] = {"threshold": self.threshold(settings)}
        if self.calibrated and settings.threshold is None:
            params["calibrated"] = asdict(self.calibrated)
        return params

    def apply(self, shard: Shard) -> Iterator[Row]:
        people = shard.table("people")
        threshold = np.float32(self.threshold(shard.settings))  # as stored beside the float32 similarity
        for person, clip in zip(people.to_pylist(), shard.table("clip").to_pylist(), strict=True):
            shard.rows_in += 1
            if clip["similarity"] > threshold:
                yield person | {k: clip[k] for k in ("similarity", "clip_model")} | {"threshold": threshold}
            else:
                shard.reject("below_threshold")
