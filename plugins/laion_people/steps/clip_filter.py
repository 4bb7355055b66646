"""clip_filter: how well each person's crop fits the caption of its image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from laion_people.engine.catalog import STEPS
from laion_people.engine.step import Row, Step
from laion_people.engine.work import Shard
from laion_people.settings import Settings
from laion_people.vision.images import crop
from laion_people.vision.people import boxes, by_people


class ClipFilter(Step):
    """One row a person, with the cosine similarity of crop and caption. Subset A is made from these rows."""

    entry = STEPS["clip_filter"]
    revision = 2  # 2: crops are resized by torch

    def params(self, settings: Settings) -> dict[str, Any]:
        return {"crop_padding": settings.crop_padding}

    def apply(self, shard: Shard) -> Iterator[Row]:
        people = shard.table("people")
        ids, captions, all_boxes = people["person_id"].to_pylist(), people["caption"].to_pylist(), boxes(people)
        shard.rows_in = len(ids)
        clip = shard.model("clip")

        def compare(images: list[np.ndarray], rows: list[slice]) -> list[np.ndarray]:
            padding = shard.settings.crop_padding
            crops = [crop(image, box, padding) for image, r in zip(images, rows, strict=True) for box in all_boxes[r]]
            texts = [captions[r.start] for r in rows]  # the people of an image share its caption
            people_in = [r.stop - r.start for r in rows]
            of_image, of_text = clip.encode_images(crops), np.repeat(clip.encode_texts(texts), people_in, axis=0)
            return np.split(np.einsum("ij,ij->i", of_image, of_text), np.cumsum(people_in)[:-1])

        for rows, similarities in by_people(shard, people["key"].to_pylist(), compare):
            for person_id, similarity in zip(ids[rows], similarities, strict=True):
                yield {"person_id": person_id, "similarity": similarity, "clip_model": clip.name}
