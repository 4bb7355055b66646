"""What the files of a shard hold, to be compared: recorded when they are written, and read again in doubt."""

from __future__ import annotations

import hashlib
import tarfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from laion_people.engine.catalog import StepEntry
from laion_people.storage.manifest import Contents


def contents_of(entry: StepEntry, files: Mapping[str, Path]) -> Contents:
    """The contents of a shard's local files, given by the ends of their names (``.parquet``, ``.tar``).

    Raises what Arrow and tarfile raise for files that are damaged.
    """
    parquet = files[".parquet"]
    columns = {entry.tar_key, entry.uses.partition(".")[0], "person_id" if entry.aligned else ""} - {""}
    if entry.outcomes:
        columns |= {"status", "reason"}
    table = pq.read_table(parquet, columns=sorted(columns))
    rows = pq.read_metadata(parquet).num_rows
    keys = [name.rsplit("/", 1)[-1] for name in table[entry.tar_key].to_pylist()] if entry.tar_key else []
    rejected = None
    if entry.outcomes:
        keys = [key for key, status in zip(keys, table["status"].to_pylist(), strict=True) if status == "success"]
        rejected = dict(sorted(Counter(filter(None, table["reason"].to_pylist())).items()))
    samples = _samples(files[".tar"]) if entry.tar_key else None
    return Contents(
        rows=rows,
        used=_used(entry, table, len(keys) if entry.outcomes else rows),
        samples=None if samples is None else len(samples),
        rejected=rejected,
        person_ids=_digest(table["person_id"].to_pylist()) if entry.aligned else "",
        table_keys=_digest(keys) if entry.tar_key else "",
        tar_keys="" if samples is None else _digest(samples),
    )


def _used(entry: StepEntry, table: pa.Table, rows: int) -> int:
    """How many rows of its input are in what the step wrote: one for each row, unless the entry names a column."""
    if not entry.uses:
        return rows
    column, _, field = entry.uses.partition(".")
    values = pc.list_flatten(table[column]) if field else table[column]  # type: ignore[attr-defined]
    if field:
        values = pc.struct_field(values, field)  # type: ignore[attr-defined]
    return int(pc.count_distinct(values).as_py())  # type: ignore[attr-defined]


def _samples(tar: Path) -> list[str]:
    with tarfile.open(tar) as file:
        return list(dict.fromkeys(name.partition(".")[0] for name in file.getnames()))


def _digest(names: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()
