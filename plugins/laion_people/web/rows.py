"""The shards of a partition, and the tables of one of them: the columns and rows that a page shows."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from fastapi import HTTPException

from laion_people.engine.catalog import CLUSTERS, SCOPES
from laion_people.errors import LaionPeopleError, coded
from laion_people.reports.tables import columns, take
from laion_people.storage.layout import shard_file, shards_in
from laion_people.storage.store import Store
from laion_people.storage.versions import versions

LISTINGS, LISTING_SECONDS = 64, 20.0  # folders whose shards are remembered, and for how long

_listings: OrderedDict[tuple[str, str], tuple[float, list[int]]] = OrderedDict()
_listings_lock = Lock()


def shards(store: Store, folder: str) -> list[int]:
    """The shards of a table's folder (``people/laion2B-en/00042``), in order; there may be gaps."""
    key, now = (store.uri, folder), time.monotonic()
    with _listings_lock:
        if key in _listings and now - _listings[key][0] < LISTING_SECONDS:
            return _listings[key][1]
    listed = sorted(shards_in(store.list(folder), folder, ".parquet"))
    with _listings_lock:
        _listings[key] = now, listed
        _listings.move_to_end(key)
        while len(_listings) > LISTINGS:
            _listings.popitem(last=False)
    return listed


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
        return next((other.version for other in others if self.store.exists(other.path(table))), "")

    def subsets(self) -> dict[str, str]:
        """Page -> the `newest` cluster version of what it shows."""
        newest = at_once(lambda: self.newest("subset_b"), lambda: self.newest("subset_c"))
        return dict(zip(("composites", "captioned"), newest, strict=True))

    def read(self, table: str, names: Sequence[str], rows: Sequence[int] | None = None) -> pa.Table | None:
        """Columns of a table's rows, or of all; None when the step that writes it has not been run on the shard."""
        path = self.path(table)
        if not self.store.exists(path):
            return None
        return columns(self.store, path, names) if rows is None else take(self.store, path, rows, names)

    def read_all(self, wanted: Mapping[str, Sequence[str]]) -> dict[str, pa.Table]:
        """Columns of several tables. Raises HTTPException 404 for one that is not there yet."""
        tables = at_once(*(lambda table=table: self.read(table, wanted[table]) for table in wanted))
        if missing := [self.path(name) for name, table in zip(wanted, tables, strict=True) if table is None]:
            raise HTTPException(404, coded("not-made-yet", f"{missing[0]} is not there yet, and the filter needs it."))
        return dict(zip(wanted, tables, strict=True))

    def beside(self, rows: Sequence[int], wanted: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
        """People with columns of several tables that have a row for each person; None where a table is not there.

        Raises LaionPeopleError when one of them is of other people.
        """
        tables = at_once(
            *(lambda table=table: self.read(table, ["person_id", *wanted[table]], rows) for table in wanted)
        )
        people: list[dict[str, Any]] = [{} for _ in rows]
        for (name, shown), table in zip(wanted.items(), tables, strict=True):
            values = [dict.fromkeys(shown)] * len(rows) if table is None else table.to_pylist()
            for person, row in zip(people, values, strict=True):
                if person.setdefault("person_id", row.get("person_id")) != row.get("person_id", person["person_id"]):
                    raise LaionPeopleError(
                        "mismatched-tables", f"{self.path(name)} is of other people: run again the step that writes it"
                    )
                person |= row
        return people

    def of_person(self, table: str, person_id: str, names: Sequence[str]) -> list[dict[str, Any]]:
        """The rows of a person in a table that has none or several of each; none when it is not there."""
        ids = self.read(table, ["person_id"])
        rows = np.flatnonzero(equal(ids["person_id"], person_id)).tolist() if ids else []
        table_of_person = self.read(table, names, rows) if rows else None
        return table_of_person.to_pylist() if table_of_person else []
