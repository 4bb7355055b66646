"""detect: finds every person in the images of a shard."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from laion_people.images import ImageError, Sample, decode_ahead, samples
from laion_people.metadata import sample_id, text
from laion_people.people import timed
from laion_people.step import Row, Shard, Step

BATCH = 16


class Detect(Step):
    """One row a person. An image without people, or that cannot be decoded, is rejected."""

    name = "detect"
    summary = "finds every person's bounding box"
    reads = ("images",)
    writes = "people"
    roles = ("detector",)
    gpu = True

    def apply(self, shard: Shard) -> Iterator[Row]:
        detector = shard.model("detector")
        batch: list[tuple[Sample, np.ndarray]] = []
        images = decode_ahead(samples(shard.path("images")), lambda s: s.image, 2 * BATCH)
        for sample, image in timed(shard, "decode", images):
            shard.rows_in += 1
            if isinstance(image, ImageError):
                shard.reject(str(image))
                continue
            batch.append((sample, image))
            if len(batch) == BATCH:
                yield from _people(shard, detector, batch)
                batch = []
        yield from _people(shard, detector, batch)


def _people(shard: Shard, detector: Any, batch: list[tuple[Sample, np.ndarray]]) -> Iterator[Row]:
    with shard.clock("model"):
        found = detector.detect([image for _, image in batch])
    for (sample, image), people in zip(batch, found, strict=True):
        if not len(people.boxes):
            shard.reject("no_people")
        height, width = image.shape[:2]
        for index, (box, score) in enumerate(zip(people.boxes, people.scores, strict=True)):
            yield {
                "person_id": f"{shard.id}/{sample.key}/{index}",
                "sample_id": sample_id(sample.fields, otherwise=sample.key),
                "key": sample.key,
                "url": text(sample.fields.get("url")),
                "caption": text(sample.fields.get("caption")),
                "image_width": width,
                "image_height": height,
                "bbox": box,
                "bbox_score": score,
            }
