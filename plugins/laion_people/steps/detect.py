"""detect: finds every person in the images of a shard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from include.models import Detections
from laion_people.engine.catalog import STEPS
from laion_people.engine.step import Row, Step
from laion_people.engine.work import Shard
from laion_people.settings import Settings
from laion_people.steps.download.step import REASONS
from laion_people.steps.imagefields import of_image
from laion_people.storage.metadata import flagged, sample_id, text
from laion_people.storage.removals import REMOVED
from laion_people.storage.tars import SAMPLE_REASONS
from laion_people.vision import phash
from laion_people.vision.batches import in_batches
from laion_people.vision.images import ImageError, Sample, samples


class Detect(Step):
    """One row a person. A sample is rejected if there are no people, or its image cannot be read or decoded.

    It is also rejected if its collection calls it unsafe, unless the filter is off: shards made elsewhere are
    unfiltered.
    """

    entry = STEPS["detect"]
    revision = 2  # 2: detectors of people: no animals, whole portraits, nobody twice
    reasons: ClassVar[Mapping[str, str]] = {
        **{reason: REASONS[reason] for reason in ("nsfw", "not_an_image", "truncated", "decompression_bomb")},
        **SAMPLE_REASONS,
        "no_people": "nobody was found in the image",
    }

    def params(self, settings: Settings) -> dict[str, Any]:
        return {"nsfw_filter": settings.nsfw_filter}

    def apply(self, shard: Shard) -> Iterator[Row]:
        detector = shard.model("detector")

        def find(sources: list[Row], images: list[np.ndarray]) -> Iterator[tuple[Detections, Row]]:
            for source, people, image in zip(sources, detector.detect(images), images, strict=True):
                height, width, _ = image.shape
                looks = source["phash"] or phash.text(image)
                yield people, {"image_width": width, "image_height": height, "phash": looks}

        for source, result in in_batches(shard, _usable(shard), find):
            shard.rows_in += 1
            if isinstance(result, ImageError):
                shard.reject(str(result))
                continue
            people, image = result
            if shard.removed.has_picture(None, image["phash"]):
                shard.reject(REMOVED)
                continue
            if not len(people.boxes):
                shard.reject("no_people")
            for index, (box, score) in enumerate(zip(people.boxes, people.scores, strict=True)):
                yield {
                    "person_id": f"{shard.id}/{source['key']}/{index}",
                    **source,
                    **image,
                    "bbox": box,
                    "bbox_score": score,
                }


def _usable(shard: Shard) -> Iterator[tuple[Row, bytes]]:
    """The columns that all people of an image share, and the image; unusable samples are rejected."""
    for sample in samples(shard.path("images")):
        if sample.unusable:
            shard.reject(sample.unusable)
        elif shard.settings.nsfw_filter and flagged(sample.fields):
            shard.reject("nsfw")
        elif shard.removed.has_image(source := _source(sample), f"{shard.id}/{sample.key}"):
            shard.reject(REMOVED)
        else:
            yield source, sample.image
            continue
        shard.rows_in += 1


def _source(sample: Sample) -> Row:
    return {
        "key": sample.key,
        "sample_id": sample_id(sample.fields, otherwise=sample.key),
        "url": text(sample.fields.get("url")),
        "caption": text(sample.fields.get("caption")),
        **of_image(sample.fields),
    }
