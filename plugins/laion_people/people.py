"""The people of a shard together with their images, in batches: what pose, mesh, clip_filter and caption work on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa

from laion_people.errors import LaionPeopleError
from laion_people.images import ImageError, decode_ahead, samples
from laion_people.step import Shard

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ImagePeople:
    """One image, uint8 RGB [height, width, 3], and the rows ``first`` to ``last`` (exclusive) of its people."""

    image: np.ndarray
    first: int
    last: int


def people_batches(shard: Shard, keys: list[str], size: int = 16) -> Iterator[list[ImagePeople]]:
    """Batches of up to ``size`` images that have people; ``keys`` is the key column of the shard's people table.

    Raises LaionPeopleError when the images are not those that the people were found in.
    """
    rows = rows_by_image(keys)
    wanted = (sample for sample in samples(shard.path("images")) if sample.key in rows)
    batch: list[ImagePeople] = []
    found = 0
    for sample, image in timed(shard, "decode", decode_ahead(wanted, lambda s: s.image, 2 * size)):
        if isinstance(image, ImageError):
            raise LaionPeopleError(f"{shard.id}/{sample.key} can no longer be decoded ({image}): run `detect` again")
        found += 1
        batch.append(ImagePeople(image, rows[sample.key].start, rows[sample.key].stop))
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
    if found != len(rows):
        raise LaionPeopleError(
            f"{shard.id}: {len(rows) - found} images of the people table are gone: run `detect` again"
        )


def timed(shard: Shard, part: str, items: Iterator[T]) -> Iterator[T]:
    """Passes items on, adding the seconds waited for each to a part of the shard's time."""
    while True:
        with shard.clock(part):
            item = next(items, None)
        if item is None:
            return
        yield item


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
