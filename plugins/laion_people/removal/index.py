"""In which shards of a partition something that a removal names may be: an index, so that no others are read.

It is made with the first removal, and from then on has those shards read that have changed. It is a few sorted files
of fixed-width records: what is looked up, as 64 bits of its digest, and a shard. Nothing can be read out of it that a
removal's record does not hold, too. Beside them a catalogue says which shards each was made from, and where to look.
What has left a shard may still be found in the index: the shard is read once for nothing.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, replace

import numpy as np

from laion_people.engine.concurrency import overlapped
from laion_people.errors import LaionPeopleError, MissingError
from laion_people.removal.images import ShardFiles
from laion_people.storage.removals import FOLDER
from laion_people.storage.store import Store

log = logging.getLogger(__name__)

RECORD = np.dtype([("name", "<u8"), ("shard", "<i4")])
BLOCK = 4096  # records between the names that the catalogue has
SHARDS = 256  # of a file, at most: of 10,000 rows each some 90 MB
SMALL, MOST_SMALL = 1 << 20, 16  # records of a small file, and how many of these there may be
READERS = 16
PROGRESS_SECONDS = 30.0

Entries = Callable[[ShardFiles], np.ndarray]  # the names that a shard is to be found by, uint64


@dataclass(frozen=True, slots=True)
class File:
    """A file of the index: how many ``records``, each BLOCK'th name, and the shards that it was made from, by tag."""

    path: str
    records: int
    firsts: tuple[int, ...]
    shards: dict[str, str]


class Index:
    """The index of a partition by one kind of names (``names``, ``phashes``), up to date when it is made."""

    def __init__(self, store: Store, partition: str, kind: str, shards: Iterable[ShardFiles], entries: Entries):
        self.store, self._folder, self._kind = store, f"{FOLDER}/index/{partition}", kind
        self._catalogue = f"{self._folder}/{kind}.json"
        self.files = self._read()
        known = {name: tag for file in self.files for name, tag in file.shards.items()}
        self._add(partition, [shard for shard in shards if known.get(str(shard.index)) != shard.tag], entries)

    def shards(self, names: np.ndarray) -> set[int]:
        """The shards in which any of these names (uint64) may be. Reads the blocks that could have one."""
        names = np.unique(names)
        wanted = [(file, *span) for file in self.files for span in _spans(file, names)] if len(names) else []
        found: set[int] = set()
        with ThreadPoolExecutor(READERS) as pool:
            for records in pool.map(lambda place: self._records(*place), wanted):
                found |= set(records["shard"][np.isin(records["name"], names)].tolist())
        return found

    def all(self) -> Iterator[np.ndarray]:
        """All records, file by file."""
        for file in self.files:
            yield self._records(file, 0, file.records)

    def _records(self, file: File, start: int, stop: int) -> np.ndarray:
        data = self.store.part(file.path, start * RECORD.itemsize, stop * RECORD.itemsize)
        if len(data) != (stop - start) * RECORD.itemsize:
            raise LaionPeopleError("damaged-file", f"{file.path} is damaged: delete the folder {self._folder}")
        return np.frombuffer(data, RECORD)

    def _read(self) -> list[File]:
        try:
            data = self.store.read(self._catalogue)
        except MissingError:
            return []
        return self._parsed(data)

    def _parsed(self, data: bytes) -> list[File]:
        try:
            return [File(**fields | {"firsts": tuple(fields["firsts"])}) for fields in json.loads(data)]
        except (ValueError, TypeError, KeyError) as error:
            raise LaionPeopleError(
                "damaged-file", f"{self._catalogue} is damaged ({error!r}): delete the folder {self._folder}"
            ) from error

    def _add(self, partition: str, shards: Sequence[ShardFiles], entries: Entries) -> None:
        """Adds shards to the index, SHARDS at a time; a process that is killed goes on there."""
        beat = time.monotonic()
        for start in range(0, len(shards), SHARDS):
            group, blocks = shards[start : start + SHARDS], []
            with closing(overlapped(entries, group, READERS)) as results:
                for done, (shard, result) in enumerate(zip(group, results, strict=True), start):
                    blocks.append(_records(np.unique(result.result()), shard.index))
                    if time.monotonic() - beat > PROGRESS_SECONDS:
                        log.info("index of %s by %s: %d of %d shards", partition, self._kind, done, len(shards))
                        beat = time.monotonic()
            self._put(self._write(np.concatenate(blocks), group))
        small = [file for file in self.files if file.records < SMALL]
        if len(small) > MOST_SMALL:
            self._merge(small)

    def _write(self, records: np.ndarray, shards: Iterable[ShardFiles]) -> File:
        records = records[np.argsort(records["name"], kind="stable")]
        path = f"{self._folder}/{self._kind}-{uuid.uuid4().hex[:12]}.bin"
        self.store.write(path, records.tobytes())
        firsts = tuple(records["name"][::BLOCK].tolist())
        return File(path, len(records), firsts, {str(shard.index): shard.tag for shard in shards})

    def _merge(self, small: Sequence[File]) -> None:
        """Puts one file in the place of several small ones, which are deleted once nobody is led to them."""
        records = np.concatenate([self._records(file, 0, file.records) for file in small])
        shards = {name: tag for file in small for name, tag in file.shards.items()}
        gone = {file.path for file in small}
        self._put(replace(self._write(np.unique(records), []), shards=shards), gone)
        for path in gone:
            self.store.delete(path)

    def _put(self, new: File, gone: Collection[str] = ()) -> None:
        """Puts a file into the catalogue. Of a shard that several files were made from, the last has its tag."""

        def change(data: bytes | None) -> bytes:
            kept = [file for file in (self._parsed(data) if data else []) if file.path not in gone]
            return json.dumps([asdict(file) for file in (*kept, new)]).encode()

        self.files = self._parsed(self.store.update(self._catalogue, change))


def _records(names: np.ndarray, shard: int) -> np.ndarray:
    records = np.empty(len(names), RECORD)
    records["name"], records["shard"] = names, shard
    return records


def _spans(file: File, names: np.ndarray) -> Iterator[tuple[int, int]]:
    """The records (start, stop) of a file among which any of these names, in their order, may be."""
    firsts = np.array(file.firsts, np.uint64)
    if not len(firsts):
        return
    first = np.maximum(np.searchsorted(firsts, names, "left") - 1, 0)  # the same name may begin in the block before
    last = np.maximum(np.searchsorted(firsts, names, "right") - 1, 0)
    blocks = np.unique(np.concatenate([np.arange(a, b + 1) for a, b in zip(first, last, strict=True)]))
    for run in np.split(blocks, np.flatnonzero(np.diff(blocks) > 1) + 1):
        yield int(run[0]) * BLOCK, min((int(run[-1]) + 1) * BLOCK, file.records)
