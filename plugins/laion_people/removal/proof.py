"""Looks for what was removed in every file of a store: the proof that nothing of it is left.

Tables are read column by column of texts, tars file by file, JSON value by value, everything else word by word: none of
these may be the address, body, id or person of a removal, and no picture may look like a removed one. What has no such
name cannot be seen: pixels inside composed pictures and contact sheets whose record is lost, captions that describe
somebody without naming an image, and LAION's own numbers of rows, of which no digest is kept. ``metadata/`` is the
collection as it came, and ``removals/`` the records themselves.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, islice
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from laion_people.engine.catalog import STEPS
from laion_people.engine.concurrency import overlapped
from laion_people.errors import LaionPeopleError, MissingError, OutsideError, check_shortage, coded, one_line
from laion_people.publication.build import TOMBSTONES
from laion_people.publication.release import FOLDER as PUBLICATIONS
from laion_people.removal.wanted import Wanted
from laion_people.storage import removals, tars
from laion_people.storage.layout import parse_shard
from laion_people.storage.origin import json_object
from laion_people.storage.removals import REMOVED, read_removals
from laion_people.storage.store import Store
from laion_people.vision import phash
from laion_people.vision.images import ImageError, decode

log = logging.getLogger(__name__)

PASSED_OVER = ("metadata", removals.FOLDER)
MOST_LINES = 20  # of a file
MOST_FILES = 1000  # of a sample that are in mind at a time
ROWS = 4096  # of a table that are in memory at a time
MOST_TEXT = 1 << 27  # bytes of a file, or of a file in a tar, that is looked at as a whole
MOST_COLUMNS = 1 << 30  # bytes of texts of a row group
AHEAD = 1 << 22  # bytes of a bucket's file in one request
PROGRESS_SECONDS = 30.0
IMAGES, COMPOSED = "images", "subset_b"
PUBLICATION = re.compile(rf"{PUBLICATIONS}/[^/]+/[^/]+/")
PUBLICATIONS_IN_MIND = 8
UNFINISHED = ".writing/"  # of a store that is a folder
OTHER_IDS = {"composite_id"}  # columns of texts that look like ids of images and are none
TABLES = {entry.writes for entry in STEPS.values() if not entry.is_release} | {"manifests", "totals"}


@dataclass(frozen=True, slots=True)
class Proof:
    """``faults``: a line for each thing that was found. ``removals``, ``files``: how many were looked for, and in."""

    faults: list[str]
    removals: int
    files: int


def prove(store: Store, partitions: Collection[str] = (), threads: int = 1) -> Proof:
    """Looks for everything that was removed, in the files of some partitions and those that belong to none, or in all;
    ``threads`` files at a time. Raises LaionPeopleError for a damaged record of a removal.
    """
    recorded = read_removals(store)
    hunt = _Hunt(store, Wanted(recorded))
    paths = [path for path in store.list("") if _is_looked_at(path, partitions)] if recorded else []
    faults: list[str] = []
    beat = time.monotonic()
    for done, result in enumerate(overlapped(hunt.faults, paths, threads), 1):
        faults += result.result()
        if time.monotonic() - beat > PROGRESS_SECONDS:
            log.info("removals: %d of %d files, found in them: %d", done, len(paths), len(faults))
            beat = time.monotonic()
    return Proof(faults, len(recorded), len(paths))


def _is_looked_at(path: str, partitions: Collection[str]) -> bool:
    first = path.partition("/")[0]
    if first in PASSED_OVER:
        return False
    return not partitions or first not in TABLES or any(f"/{key}{end}" in path for key in partitions for end in "/.")


class _Hunt:
    """Looks into the files of a store."""

    def __init__(self, store: Store, wanted: Wanted):
        self.store, self.wanted = store, wanted
        self._of_publication = lru_cache(PUBLICATIONS_IN_MIND)(self._with_tombstones)

    def faults(self, path: str) -> list[str]:
        """A line for each thing that is in a file and should not be, MOST_LINES at most."""
        if publication := PUBLICATION.match(path):
            return _Hunt(self.store, self._of_publication(publication[0]))._faults(path)
        return self._faults(path)

    def _with_tombstones(self, folder: str) -> Wanted:
        """What is looked for in a publication: its ids may lead nobody back, and its tombstones tell of them."""
        try:
            table = pq.read_table(io.BytesIO(self.store.read(f"{folder}{TOMBSTONES}")), columns=["digest"])
        except (MissingError, pa.ArrowException, KeyError, ValueError):  # which its own turn tells of
            return self.wanted
        return self.wanted.with_ids(filter(None, table["digest"].to_pylist()))

    def _faults(self, path: str) -> list[str]:
        look: Callable[[str, BinaryIO], Iterator[str]]
        match path.rpartition(".")[2]:
            case "parquet":
                look = self._in_table
            case "tar":
                look = self._in_tar
            case _:
                look = self._in_file
        lines: list[str] = []
        more = 0
        try:
            with self.store.open(path, AHEAD) as file:
                for found in look(path, file):
                    more += len(lines) == MOST_LINES
                    lines += [coded("found-removed", f"{path}: {found}")] * (len(lines) < MOST_LINES)
        except MissingError:  # it has been deleted meanwhile
            return []
        except OutsideError:
            raise
        except Exception as error:  # whatever a parser raises about what anybody may have written
            check_shortage(error)
            reason = error.message if isinstance(error, LaionPeopleError) else repr(error)
            if path.startswith(UNFINISHED):  # somebody is writing it just now, or was killed
                log.info("%s is not whole: %s", path, one_line(reason, 300))
                return lines
            lines.append(coded("unread-file", f"{path}: cannot be read to its end: {one_line(reason, 300)}"))
        return lines + [coded("found-removed", f"{path}: and {more} more")] * (more > 0)

    def _in_file(self, path: str, file: BinaryIO) -> Iterator[str]:
        data = file.read(MOST_TEXT + 1)
        if len(data) > MOST_TEXT:
            raise ValueError(f"it has more than {MOST_TEXT >> 20} MiB")
        if path.endswith(".json"):
            json.loads(data)  # what is none is cut off
        yield from self._in_data(path, "", path.rpartition(".")[2].lower(), data)

    def _in_data(self, path: str, where: str, suffix: str, data: bytes, of_its_own: bool = False) -> Iterator[str]:
        """What is found in the content of a file, or of one in a tar."""
        if what := self.wanted.text(hashlib.sha256(data).hexdigest()):
            yield f"{where}its bytes have {what}"
        kind = tars.KINDS.get(suffix, ("",))[0]
        if kind == "image":
            yield from self._in_picture(path, where, data, of_its_own)
            return
        try:
            value = json.loads(data) if kind == "json" else data.decode("utf-8", errors="replace")
        except (ValueError, RecursionError):
            value = data.decode("utf-8", errors="replace")
        yield from (f"{where}{what}" for what in self.wanted.strings(value))
        looks = value.get("phash") if isinstance(value, dict) else None
        if isinstance(looks, str) and (what := self.wanted.looks(looks, self.wanted.is_of_its_own(value))):
            yield f"{where}{what}"

    def _in_picture(self, path: str, where: str, data: bytes, of_its_own: bool = False) -> Iterator[str]:
        if not self.wanted.has_looks:
            return
        try:
            looks = phash.text(np.asarray(decode(data)))
        except ImageError as error:
            log.debug("%s: %scannot be decoded: %s", path, where, error)
            return
        if what := self.wanted.looks(looks, of_its_own):
            yield f"{where}{what}"
        elif self.wanted.nearly_looks(looks):
            log.info(
                "%s: %slooks like a removed picture, and is of another file: nobody asked for near ones", path, where
            )

    def _in_tar(self, path: str, file: BinaryIO) -> Iterator[str]:
        folder = path.removesuffix(".tar").partition("/")[2]
        members = tars.members(file, path, 0, self.store.size(path))
        for stem, group in groupby(members, lambda member: member.name.rpartition("/")[2].partition(".")[0]):
            key = tars.printable(stem)
            if path.startswith(f"{IMAGES}/") and (what := self.wanted.sample(f"{folder}/{key}")):
                yield f"sample {key}: {what}"
            while some := list(islice(group, MOST_FILES)):
                yield from self._in_sample(path, file, some)

    def _in_sample(self, path: str, file: BinaryIO, members: Sequence[tars.Member]) -> Iterator[str]:
        """What is found in the files of a sample: its json, which says whose the picture is, first."""
        of_its_own = False
        for member in sorted(members, key=lambda member: not member.name.lower().endswith(".json")):
            if what := self.wanted.text(member.name):
                yield f"the name of {member.name}: {what}"
            if member.place:
                start, size = member.place
                if size > MOST_TEXT:
                    raise ValueError(f"{member.name} has more than {MOST_TEXT >> 20} MiB")
                file.seek(start)
                data = file.read(size)
                suffix = member.name.rpartition(".")[2].lower()
                yield from self._in_data(path, f"{member.name}: ", suffix, data, of_its_own)
                of_its_own = of_its_own or (suffix == "json" and self.wanted.is_of_its_own(json_object(data)))

    def _looks_near(self, looks: str) -> str:
        """Of a row of a table, which has an address: only what near ones were asked for."""
        return self.wanted.looks(looks, of_its_own=True)

    def _in_table(self, path: str, file: BinaryIO) -> Iterator[str]:
        with pq.ParquetFile(file) as table:
            schema = table.schema_arrow
            for value in (schema.metadata or {}).values():
                yield from (f"metadata: {what}" for what in self.wanted.strings(value.decode(errors="replace")))
            names = [field.name for field in schema if _has_text(field.type)]
            row = 0
            for group in range(table.num_row_groups if names else 0):
                _check_size(table, group, names)
                for batch in table.iter_batches(ROWS, row_groups=[group], columns=names, use_threads=False):
                    yield from self._in_batch(path, batch, row)
                    row += len(batch)

    def _in_batch(self, path: str, batch: pa.RecordBatch, first: int) -> Iterator[str]:
        rows = np.arange(first, first + len(batch))
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            for leaf, texts, of_rows in _leaves(name, column, rows):
                if leaf in OTHER_IDS:
                    continue
                check = self._looks_near if leaf == "phash" else self.wanted.text
                found = {text: what for text in set(texts.to_pylist()) if text and (what := check(text))}
                if found:
                    for row, text in zip(of_rows.tolist(), texts.to_pylist(), strict=True):
                        if text in found:
                            yield f"row {row}, column {leaf}: {found[text]}"
        for row, name, sample in _samples(path, batch):
            if what := self.wanted.sample(sample):
                yield f"row {first + row}, column {name}: {what}"


def _has_text(kind: pa.DataType) -> bool:
    return _is_text(kind) or any(_has_text(kind.field(i).type) for i in range(kind.num_fields))


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return any(test(kind) for test in tests)


def _leaves(name: str, column: pa.Array, rows: np.ndarray) -> Iterator[tuple[str, pa.Array, np.ndarray]]:
    """The texts of a column that may be nested: name, texts, and the row of each."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        yield from _leaves(name, column.dictionary_decode(), rows)
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        texts = [None if each is None else each.decode(errors="replace") for each in column.to_pylist()]
        yield name, pa.array(texts, pa.string()), rows
    elif _is_text(kind):
        yield name, column, rows
    elif pa.types.is_struct(kind):
        for i, child in enumerate(column.flatten()):
            yield from _leaves(f"{name}.{kind.field(i).name}", child, rows)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        if _has_text(kind):
            yield from _leaves(name, column.flatten(), rows[_parents(column)])
    elif _has_text(kind):
        raise ValueError(f"column {name} is of a type that is not looked into: {kind}")


def _parents(column: pa.Array) -> np.ndarray:
    """Of each value in a column of lists, which of these it is in."""
    return np.repeat(np.arange(len(column)), pc.fill_null(pc.list_value_length(column), 0).to_numpy())  # type: ignore[attr-defined]


def _check_size(table: pq.ParquetFile, group: int, names: Sequence[str]) -> None:
    """Raises ValueError for texts that would fill the memory."""
    part = table.metadata.row_group(group)
    places = [at for at in range(part.num_columns) if table.schema.column(at).path.split(".")[0] in names]
    if sum(part.column(at).total_uncompressed_size for at in places) > MOST_COLUMNS:
        raise ValueError(f"row group {group} has more than {MOST_COLUMNS >> 20} MiB of texts")


def _samples(path: str, batch: pa.RecordBatch) -> Iterator[tuple[int, str, str]]:
    """The images that rows name by a key beside the path or another id: row, column, and the image's id."""
    names, folder = set(batch.schema.names), path.removesuffix(".parquet").rsplit("/", 3)
    shard = "/".join(folder[-3:]) if parse_shard(folder[-1]) is not None else ""
    if "key" in names and shard and not path.startswith(f"{COMPOSED}/"):
        said = [batch[name].to_pylist() for name in ("reason", "error_message") if name in names]
        for row, key in enumerate(batch["key"].to_pylist()):
            if not any(reasons[row] == REMOVED for reasons in said):  # which keeps its key, and nothing else
                yield row, "key", f"{shard}/{key}"
    if {"background_key", "composite_id"} <= names:
        for row, (composite, key) in enumerate(
            zip(batch["composite_id"].to_pylist(), batch["background_key"].to_pylist(), strict=True)
        ):
            yield row, "background_key", f"{str(composite).rpartition('/')[0]}/{key}"
