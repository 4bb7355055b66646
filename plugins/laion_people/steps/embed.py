"""embed: CLIP vectors of every person and head. With them, captions are chosen again without images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from laion_people.engine.catalog import STEPS
from laion_people.engine.step import Row, Step
from laion_people.engine.work import Shard
from laion_people.settings import Settings
from laion_people.vision.images import crop
from laion_people.vision.people import boxes, by_people, face_boxes

HEAD_PADDING = 0.6  # on each side, share of the face mesh's width and height: the whole head and a little around it


class Embed(Step):
    """One row a person, in the order of people: the vector of the person and, if there is a face mesh, of the head."""

    entry = STEPS["embed"]

    def params(self, settings: Settings) -> dict[str, Any]:
        return {"crop_padding": settings.crop_padding}

    def apply(self, shard: Shard) -> Iterator[Row]:
        people = shard.table("people")
        ids, bodies = people["person_id"].to_pylist(), boxes(people)
        heads = face_boxes(shard.table("mesh"))
        faced = ~np.isnan(heads).any(axis=1)
        shard.rows_in = len(ids)
        clip = shard.model("clip")

        def look(images: list[np.ndarray], rows: list[slice]) -> list[np.ndarray]:
            padding = shard.settings.crop_padding
            crops = [
                view
                for image, r in zip(images, rows, strict=True)
                for view in (
                    *(crop(image, box, padding) for box in bodies[r]),
                    *(crop(image, box, HEAD_PADDING) for box in heads[r][faced[r]]),
                )
            ]
            views = [r.stop - r.start + int(faced[r].sum()) for r in rows]
            return np.split(clip.encode_images(crops), np.cumsum(views)[:-1])

        for rows, vectors in by_people(shard, people["key"].to_pylist(), look):
            of_heads = iter(vectors[rows.stop - rows.start :])
            for row, body in zip(range(rows.start, rows.stop), vectors, strict=False):  # the bodies come first
                yield {
                    "person_id": ids[row],
                    "body": body.astype(np.float16),
                    "head": next(of_heads).astype(np.float16) if faced[row] else None,
                    "clip_model": clip.name,
                }
