"""The people of a shard with their images: the input of pose, mesh, clip_filter, embed and describe."""

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
    """For each image, the rows of its people and the result of ``work``; ``keys`` is the people table's key column.

    ``work(images, rows)`` gets a batch of images with people and, for each, the rows of its people: see `in_batches`.
    Raises LaionPeopleError if the images are not those in which the people were found.
    """
    rows = rows_by_image(keys)
    decoded = 0
    encoded = ((sample.key, sample.image) for sample in samples(shard.path("images")) if sample.key in rows)

    def by_rows(batch: list[str], images: list[np.ndarray]) -> Iterable[Result]:
        return work(images, [rows[key] for key in batch])

    # Detect decoded these images in time. They must not be refused now because the machine is slower for a moment.
    for key, result in in_batches(shard, encoded, by_rows, limited=False):
        if isinstance(result, ImageError):
            raise LaionPeopleError(
                "images-changed", f"{shard.id}/{key} can no longer be decoded ({result}): run `detect` again"
            )
        decoded += 1
        yield rows[key], result
    if decoded != len(rows):
        raise LaionPeopleError(
            "images-changed",
            f"{shard.id}: {len(rows) - decoded} images of the people table are gone: run `detect` again",
        )


def boxes(table: pa.Table) -> np.ndarray:
    """The bbox column as float32 [people, 4]."""
    return matrix(table["bbox"], 4)


def face_boxes(table: pa.Table) -> np.ndarray:
    """The bounds of the face mesh, float32 [people, 4], from the face_landmarks column; NaN if no face is seen."""
    points = matrix(table["face_landmarks"], 3 * 478).reshape(-1, 478, 3)[..., :2]
    return np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)


def matrix(column: pa.ChunkedArray, width: int) -> np.ndarray:
    """A column of lists of equal length as float32 [rows, width]; null rows become NaN."""
    out = np.full((len(column), width), np.nan, np.float32)
    valid = np.asarray(column.is_valid())
    values = column.combine_chunks().drop_null().flatten()
    out[valid] = np.asarray(values, np.float32).reshape(-1, width)
    return out


def rows_by_image(keys: Sequence[str]) -> dict[str, slice]:
    """The rows of each image's people; they are neighbours. ``keys`` is the key column of a people table."""
    rows: dict[str, slice] = {}
    for row, key in enumerate(keys):
        rows[key] = slice(rows[key].start if key in rows else row, row + 1)
    return rows
