"""The people of a shard together with their images: what pose, mesh, clip_filter and caption work on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import pyarrow as pa

from laion_people.engine.work import Shard
from laion_people.errors import LaionPeopleError
from laion_people.vision.batches import in_batches
from laion_people.vision.images import ImageError, samples

Result = TypeVar("Result")


def by_people(
    shard: Shard, keys: Sequence[str], work: Callable[[list[np.ndarray], list[slice]], Iterable[Result]]
) -> Iterator[tuple[slice, Result]]:
    """The rows of each image's people with what ``work`` makes of them; ``keys`` is the people table's key column.

    ``work(images, rows)`` is given a batch of images that have people and, for each, the rows of its people: see
    `in_batches`. Raises LaionPeopleError when the images are not those that the people were found in.
    """
    rows = rows_by_image(keys)
    found = 0
    encoded = ((sample.key, sample.image) for sample in samples(shard.path("images")) if sample.key in rows)

    def by_rows(batch: list[str], images: list[np.ndarray]) -> Iterable[Result]:
        return work(images, [rows[key] for key in batch])

    # Detect took these images within their time; a moment of less speed must not refuse them now.
    for key, result in in_batches(shard, encoded, by_rows, limited=False):
        if isinstance(result, ImageError):
            raise LaionPeopleError(
                "images-changed", f"{shard.id}/{key} can no longer be decoded ({result}): run `detect` again"
            )
        found += 1
        yield rows[key], result
    if found != len(rows):
        raise LaionPeopleError(
            "images-changed", f"{shard.id}: {len(rows) - found} images of the people table are gone: run `detect` again"
        )


def boxes(table: pa.Table) -> np.ndarray:
    """The bbox column as float32 [people, 4]."""
    return matrix(table["bbox"], 4)


def face_boxes(table: pa.Table) -> np.ndarray:
    """The bounds of the face mesh, float32 [people, 4], from the face_landmarks column; NaN where no face is seen."""
    points = matrix(table["face_landmarks"], 3 * 478).reshape(-1, 478, 3)[..., :2]
    return np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)


def matrix(column: pa.ChunkedArray, width: int) -> np.ndarray:
    """A list column of one length as float32 [rows, width]; null rows become NaN."""
    out = np.full((len(column), width), np.nan, np.float32)
    valid = np.asarray(column.is_valid())
    values = column.combine_chunks().drop_null().flatten()
    out[valid] = np.asarray(values, np.float32).reshape(-1, width)
    return out


def rows_by_image(keys: Sequence[str]) -> dict[str, slice]:
    """The rows of each image's people, which lie together; ``keys`` is the key column of a people table."""
    rows: dict[str, slice] = {}
    for row, key in enumerate(keys):
        rows[key] = slice(rows[key].start if key in rows else row, row + 1)
    return rows
