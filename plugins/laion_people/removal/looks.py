"""The looks of pictures, as perceptual hashes: of those in a shard, and of one that somebody gives as an example."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from laion_people.errors import UsageError
from laion_people.removal.images import ShardFiles, columns
from laion_people.storage.removals import PHASH
from laion_people.storage.store import Store
from laion_people.vision import phash
from laion_people.vision.images import ImageError, TarImages, decode

MOST_BYTES = 64 << 20  # of an example
CHUNK = 1 << 20
ONES = np.array([value.bit_count() for value in range(1 << 16)], np.uint8)


def of_picture(path: Path) -> int:
    """The hash of a picture's file, which may be anything. Raises UsageError for what is no picture, or looks like
    nothing."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UsageError("bad-argument", f"{path}: {error.strerror or error}") from error
    if len(data) > MOST_BYTES:
        raise UsageError("bad-argument", f"{path} has more than {MOST_BYTES >> 20} MiB")
    try:
        looks = int(phash.text(np.asarray(decode(data))), 16)
    except ImageError as error:
        raise UsageError("bad-argument", f"{path} is no picture that can be read ({error})") from error
    if not looks:
        raise UsageError("bad-argument", f"{path} is of one colour, and looks like nothing in particular")
    return looks


def looks_in(store: Store, shard: ShardFiles, keys: Collection[str] | None = None) -> dict[str, int]:
    """The hashes of a shard's pictures (of these keys, or all) by key, but for those of one colour.

    They are those of the tables; where these have none, the pictures are looked at.
    """
    found: dict[str, int] = {}
    for path in filter(None, (shard.table, shard.people)):
        table = columns(store, path, ["key", "phash"])
        if {"key", "phash"} <= set(table.column_names):
            for key, looks in zip(table["key"].to_pylist(), table["phash"].to_pylist(), strict=True):
                if looks and PHASH.fullmatch(looks):
                    found[str(key)] = int(looks, 16)
    complete = _tells_all(store, shard, found) if keys is None else set(keys) <= found.keys()
    if shard.tar and not complete:
        with store.local(shard.tar) as local:
            tar = TarImages(local)
            wanted = set(tar.keys()) - found.keys()
            for key in sorted(wanted if keys is None else wanted & set(keys)):
                try:
                    found[key] = int(phash.text(np.asarray(decode(tar.read(key), limited=False))), 16)
                except ImageError:
                    continue
    return {key: looks for key, looks in found.items() if looks and (keys is None or key in keys)}


def near(hashes: np.ndarray, looks: Collection[int], bits: int) -> np.ndarray:
    """Which of the hashes (uint64) differ in ``bits`` bits at most from one of ``looks``: bool, one for each."""
    alike = np.zeros(len(hashes), bool)
    for start in range(0, len(hashes), CHUNK):
        chunk = hashes[start : start + CHUNK]
        for each in looks:
            different = np.ascontiguousarray(chunk ^ np.uint64(each)).view(np.uint16).reshape(-1, 4)
            alike[start : start + CHUNK] |= ONES[different].sum(axis=1) <= bits
    return alike


def _tells_all(store: Store, shard: ShardFiles, found: Collection[str]) -> bool:
    """Whether the table of images has a hash of every picture."""
    if not shard.table:
        return False
    table = columns(store, shard.table, ["key", "status", "phash"])
    if table.num_columns < 3:
        return False
    pairs = zip(table["key"].to_pylist(), table["status"].to_pylist(), strict=True)
    return all(str(key) in found for key, status in pairs if status == "success")
