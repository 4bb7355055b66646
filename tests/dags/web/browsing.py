"""A small store that all browsers have something to show of, and what tests read in their pages."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from laion_people.language import captions
from laion_people.storage.layout import manifest_path
from laion_people.storage.manifest import Manifest
from laion_people.storage.store import Store
from laion_people.storage.totals import write_totals
from tests.synthetic_store import VERSION, make_store

Rows = list[dict[str, Any]]
Passes = Callable[[dict[str, Any]], bool]
Order = Callable[[dict[str, Any]], float]
PARTITION = "demo/00000"
HOSTILE = '<script>alert(1)</script> "quoted" & \u202efdp.exe'
CAPTIONS = (HOSTILE, "two people at the seaside", "A Person in the PARK " + "and on " * 60)


def make_browsed(store: Store, images: int = 30) -> None:
    """A finished partition, captions that nobody has reviewed, and the totals of its steps."""
    make_store(store, PARTITION, images, CAPTIONS)
    rows = table(store, f"clusters/{VERSION}/clusters.parquet").to_pylist()
    entries = {
        row["cluster_id"]: captions.Entry(tuple(row["captions"]), claims=tuple(map(tuple, row["claims"])))
        for row in rows
    }
    captions.put(store, VERSION, entries)
    for step in ("detect", "assign"):
        write_totals(store, Manifest.from_json(store.read(manifest_path(step, PARTITION))), 1)


def table(store: Store, path: str) -> pa.Table:
    with store.open(path) as file:
        return pq.read_table(file)


def replace(store: Store, path: str, **columns: list[Any] | None) -> None:
    """Writes a table anew with other values in some columns, or without those that are None."""
    rows = table(store, path)
    for name, values in columns.items():
        field, at = rows.schema.field(name), rows.column_names.index(name)
        rows = rows.remove_column(at)
        if values is not None:
            rows = rows.add_column(at, field, pa.array(values, field.type))
    with store.writer(path) as local:
        pq.write_table(rows, local)


def words(page: str, start: str, stop: str) -> str:
    """What a part of a page says, without its tags."""
    part = page.split(start, 1)[1].split(stop, 1)[0]
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", part)).split())


def people_of(page: str) -> list[str]:
    """The ids of the people whose figures a page shows, in its order."""
    return [unescape(person_id) for person_id in re.findall(r'aria-label="Person ([^"]*)"', page)]


def field(page: str, name: str) -> str:
    """The value of a form's hidden field."""
    match = re.search(rf'name="{name}" value="([^"]*)"', page)
    assert match, f"the page has no field {name}"
    return unescape(match[1])
