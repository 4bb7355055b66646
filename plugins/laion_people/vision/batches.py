"""Runs images through a model: decoded ahead, in batches, two batches in the model at a time, results in order."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from functools import partial
from typing import TypeVar

import numpy as np

from laion_people.engine.concurrency import overlapped
from laion_people.engine.work import Shard
from laion_people.vision.images import Decoded, ImageError, decode_ahead

Item = TypeVar("Item")
Result = TypeVar("Result")
Work = Callable[[list[Item], list[np.ndarray]], Iterable[Result]]

BATCH, BATCH_PIXELS = 64, 32_000_000  # of a batch, at most: images, and pixels (a single image may have more)
IN_MODEL = 2  # batches: the work before and after one forward pass overlaps with the next pass


def in_batches(
    shard: Shard, items: Iterable[tuple[Item, bytes]], work: Work[Item, Result], limited: bool = True
) -> Iterator[tuple[Item, Result | ImageError]]:
    """Each item with the result of ``work`` on its image, or the reason why it cannot be decoded, in order.

    ``work(items, images)`` gets a batch with uint8 RGB arrays [height, width, 3] and gives one result each; it runs in
    threads. Batches depend on the images only. Results wait for those of earlier, large images: they should be small,
    and items should hold no images. ``limited``: see `images.open_image`.
    """
    done: dict[int, tuple[Item, Result | ImageError]] = {}
    place = 0
    batches = timed(shard, "decode", _batches(decode_ahead(items, shard.settings.threads, limited)))
    with closing(batches), closing(overlapped(partial(_run_batch, work), batches, IN_MODEL)) as futures:
        for future in futures:
            with shard.timed("model"):
                done.update(future.result())
            while place in done:
                yield done.pop(place)
                place += 1


def timed(shard: Shard, part: str, items: Iterator[Item]) -> Generator[Item]:
    """Passes items on, and adds the seconds of waiting for them to a part of the shard's time."""
    while True:
        with shard.timed(part):
            item = next(items, None)
        if item is None:
            return
        yield item


def _batches(images: Iterable[Decoded[Item]]) -> Iterator[list[Decoded[Item]]]:
    batch: list[Decoded[Item]] = []
    pixels = 0
    for image in images:
        if batch and (len(batch) == BATCH or pixels + image.pixels > BATCH_PIXELS):
            yield batch
            batch, pixels = [], 0
        batch.append(image)
        pixels += image.pixels
    if batch:
        yield batch


def _run_batch(work: Work[Item, Result], batch: list[Decoded[Item]]) -> dict[int, tuple[Item, Result | ImageError]]:
    """The items of a batch and their results, by place."""
    good = [(d, d.image) for d in batch if not isinstance(d.image, ImageError)]
    results = work([d.item for d, _ in good], [image for _, image in good]) if good else []
    bad = {d.place: (d.item, d.image) for d in batch if isinstance(d.image, ImageError)}
    return bad | {d.place: (d.item, result) for (d, _), result in zip(good, results, strict=True)}
