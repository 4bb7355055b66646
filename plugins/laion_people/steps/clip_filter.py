"""clip_filter: how well each person's crop fits the caption of its image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from laion_people.images import crop
from laion_people.people import boxes, people_batches
from laion_people.settings import Settings
from laion_people.step import Row, Shard, Step


class ClipFilter(Step):
    """One row a person, kept or not, with the cosine similarity of crop and caption; Subset A follows from it."""

    name = "clip_filter"
    summary = "CLIP similarity of each person's crop with the image's caption"
    reads = ("images", "people")
    writes = "clip"
    roles = ("clip",)
    gpu = True
    then = ("subset_a",)

    def params(self, settings: Settings) -> dict[str, Any]:
        return {"crop_padding": settings.crop_padding}

    def apply(self, shard: Shard) -> Iterator[Row]:
        people = shard.table("people", ["person_id", "key", "bbox", "caption"])
        ids, captions, all_boxes = people["person_id"].to_pylist(), people["caption"].to_pylist(), boxes(people)
        shard.rows_in = len(ids)
        clip = shard.model("clip")
        for batch in people_batches(shard, people["key"].to_pylist()):
            rows = [(b, row) for b in batch for row in range(b.first, b.last)]
            crops = [crop(b.image, all_boxes[row], shard.settings.crop_padding) for b, row in rows]
            texts = [captions[b.first] for b in batch]  # the people of an image share its caption
            with shard.clock("model"):
                of_image, of_text = clip.encode_images(crops), clip.encode_texts(texts)
            of_text = np.repeat(of_text, [b.last - b.first for b in batch], axis=0)
            similarity = np.einsum("ij,ij->i", of_image, of_text)
            for (_, row), value in zip(rows, similarity, strict=True):
                yield {"person_id": ids[row], "similarity": value, "clip_model": clip.name}
