"""Rows of a shard's tables: of the columns that a page needs, and heavy ones only of the row groups that it shows."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fastapi import HTTPException

from laion_people.engine.catalog import CLUSTERS, SCOPES
from laion_people.errors import LaionPeopleError
from laion_people.storage.layout import shard_file, shards_in
from laion_people.storage.schemas import SCHEMAS
from laion_people.storage.store import Store
from laion_people.storage.versions import versions

AHEAD = 1 << 19  # bytes of a bucket's file in one request: some columns of a row group
MOST_BYTES = 200_000_000  # of columns that are read at once: of a shard's captions, 1 MB is usual
LONGEST = 2000  # characters of a text
LATER = {
    "subset_c": ("claims", "foil_margin"),
    "clusters": ("claims",),
}  # null in tables of release 0.1, which lack them
LISTINGS, LISTING_SECONDS = 64, 20.0  # folders whose shards are remembered, and for how long

_listings: OrderedDict[tuple[str, str], tuple[float, list[int]]] = OrderedDict()
_listings_lock = Lock()


def shards(store: Store, folder: str) -> list[int]:
    """The shards of a table's folder (``people/laion2B-en/00042``), in order; there may be gaps."""
    key, now = (store.uri, folder), time.monotonic()
    with _listings_lock:
        if key in _listings and now - _listings[key][0] < LISTING_SECONDS:
            return _listings[key][1]
    found = sorted(shards_in(store.list(folder), folder, ".parquet"))
    with _listings_lock:
        _listings[key] = now, found
        _listings.move_to_end(key)
        while len(_listings) > LISTINGS:
            _listings.popitem(last=False)
    return found


def columns(store: Store, path: str, names: Sequence[str]) -> pa.Table:
    """Light columns of all rows. Raises LaionPeopleError when the file is missing, damaged or lacks one."""
    with _parquet(store, path, names) as file:
        _check_size(path, file, range(file.num_row_groups), names)
        return _sound(path, file.read(columns=list(names), use_threads=False), names)


def take(store: Store, path: str, rows: Sequence[int], names: Sequence[str]) -> pa.Table:
    """Columns of some rows, in their order; row groups without one are not read. Raises as `columns` does.

    One row group is in memory at a time: of face landmarks, that is 6 MB.
    """
    with _parquet(store, path, names) as file:
        pieces, places, start = [_sound(path, file.schema_arrow.empty_table(), names)], dict[int, int](), 0
        for group in range(file.num_row_groups):
            stop = start + file.metadata.row_group(group).num_rows
            if wanted := [row for row in dict.fromkeys(rows) if start <= row < stop]:
                _check_size(path, file, [group], names)
                table = file.read_row_group(group, columns=list(names), use_threads=False)
                pieces.append(_sound(path, table.take([row - start for row in wanted]), names))
                places |= {row: len(places) + i for i, row in enumerate(wanted)}
            start = stop
    if lost := [row for row in rows if row not in places]:
        raise LaionPeopleError(f"{path} has {start} rows and no row {lost[0]}: run again the step that writes it")
    return pa.concat_tables(pieces).take(pa.array([places[row] for row in rows], pa.int64()))


def equal(column: pa.ChunkedArray, value: str) -> np.ndarray:
    """Which rows of a column have a value, bool [rows]; nulls have none."""
    return pc.call_function("equal", [column, pa.scalar(value)]).fill_null(False).to_numpy()


def contains(column: pa.ChunkedArray, text: str) -> np.ndarray:
    """Which texts of a column have a text in them, in small or capital letters, bool [rows]."""
    return pc.call_function("match_substring", [column], pc.MatchSubstringOptions(text, ignore_case=True)).to_numpy()


def at_once(*reads: Callable[[], Any]) -> list[Any]:
    """The results of some reads, which wait for a bucket at the same time."""
    with ThreadPoolExecutor(len(reads)) as pool:
        return [future.result() for future in [pool.submit(read) for read in reads]]


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables of one shard by name, of cluster version ``version`` those that belong to one; "" if there is none."""

    store: Store
    partition: str
    shard: int
    version: str

    def path(self, table: str) -> str:
        scope = self.version if SCOPES.get(table) == CLUSTERS else ""
        return shard_file(table, self.partition, self.shard, scope)

    def newest(self, table: str) -> str:
        """The cluster version, or else the newest one, of which the shard has a table; "" if it has none."""
        if self.version and self.store.exists(self.path(table)):
            return self.version
        others = (replace(self, version=version) for version in reversed(versions(self.store)))
        return next((of.version for of in others if self.store.exists(of.path(table))), "")

    def subsets(self) -> dict[str, str]:
        """Page -> the `newest` cluster version of what it shows."""
        found = at_once(lambda: self.newest("subset_b"), lambda: self.newest("subset_c"))
        return dict(zip(("composites", "captioned"), found, strict=True))

    def read(self, table: str, names: Sequence[str], rows: Sequence[int] | None = None) -> pa.Table | None:
        """Columns of a table's rows, or of all; None when the step that writes it has not been run on the shard."""
        path = self.path(table)
        if not self.store.exists(path):
            return None
        return columns(self.store, path, names) if rows is None else take(self.store, path, rows, names)

    def read_all(self, wanted: Mapping[str, Sequence[str]]) -> dict[str, pa.Table]:
        """Columns of several tables. Raises HTTPException 404 for one that is not there yet."""
        found = at_once(*(lambda table=table: self.read(table, wanted[table]) for table in wanted))
        if missing := [self.path(table) for table, rows in zip(wanted, found, strict=True) if rows is None]:
            raise HTTPException(404, f"{missing[0]} is not there yet, and the filter needs it.")
        return dict(zip(wanted, found, strict=True))

    def beside(self, rows: Sequence[int], wanted: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
        """People with columns of several tables that have a row for each person; None where a table is not there.

        Raises LaionPeopleError when one of them is of other people.
        """
        tables = at_once(
            *(lambda table=table: self.read(table, ["person_id", *wanted[table]], rows) for table in wanted)
        )
        people: list[dict[str, Any]] = [{} for _ in rows]
        for (name, columns), table in zip(wanted.items(), tables, strict=True):
            of_rows = [dict.fromkeys(columns)] * len(rows) if table is None else table.to_pylist()
            for person, of in zip(people, of_rows, strict=True):
                if person.setdefault("person_id", of.get("person_id")) != of.get("person_id", person["person_id"]):
                    raise LaionPeopleError(f"{self.path(name)} is of other people: run again the step that writes it")
                person |= of
        return people

    def of_person(self, table: str, person_id: str, names: Sequence[str]) -> list[dict[str, Any]]:
        """The rows of a person in a table that has none or several of each; none when it is not there."""
        ids = self.read(table, ["person_id"])
        rows = np.flatnonzero(equal(ids["person_id"], person_id)).tolist() if ids else []
        found = self.read(table, names, rows) if rows else None
        return found.to_pylist() if found else []


def _sound(path: str, table: pa.Table, names: Sequence[str]) -> pa.Table:
    """Columns as the schema of the table has them, texts cut to LONGEST. Raises ArrowException, KeyError or ValueError
    for what is no such table, lacks values, or has texts that are not UTF-8."""
    kind = path.partition("/")[0]
    schema, later = SCHEMAS[kind], LATER.get(kind, ())
    for name in {*later} & {*names} - {*table.column_names}:
        table = table.append_column(name, pa.nulls(len(table), schema.field(name).type))
    table = table.select(list(names))
    table.validate(full=True)
    for at, name in enumerate(names):
        if pa.types.is_dictionary(table.schema.field(name).type):
            table = table.set_column(at, name, pa.chunked_array([_cut(of) for of in table[name].chunks], pa.string()))
    fields = [schema.field(name) for name in names]
    return table.cast(pa.schema([field.with_nullable(field.nullable or field.name in later) for field in fields]))


def _cut(texts: pa.DictionaryArray) -> pa.StringArray:
    """The first LONGEST characters of texts, of which each that is told apart is kept once until then."""
    beginnings = pc.call_function("utf8_slice_codeunits", [texts.dictionary], pc.SliceOptions(0, LONGEST))
    return pa.DictionaryArray.from_arrays(texts.indices, beginnings).dictionary_decode()


def _check_size(path: str, file: pq.ParquetFile, groups: Iterable[int], names: Sequence[str]) -> None:
    """Raises LaionPeopleError for columns that would fill the API server's memory."""
    parts = [file.metadata.row_group(group) for group in groups]
    places = [at for at in range(file.metadata.num_columns) if file.schema.column(at).path.split(".")[0] in names]
    size = sum(part.column(at).total_uncompressed_size for part in parts for at in places)
    if size > MOST_BYTES:
        raise LaionPeopleError(f"{path} is too large to be shown: {size / 1e6:.0f} MB of {', '.join(names)}")


@contextmanager
def _parquet(store: Store, path: str, names: Sequence[str]) -> Iterator[pq.ParquetFile]:
    schema = SCHEMAS[path.partition("/")[0]]
    texts = [name for name in names if schema.field(name).type == pa.string()]
    with store.open(path, AHEAD) as source:
        try:
            yield pq.ParquetFile(source, read_dictionary=texts)
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:  # OSError: a page of it cannot be unpacked
            raise LaionPeopleError(f"{path} is damaged ({error}): run again the step that writes it") from error
