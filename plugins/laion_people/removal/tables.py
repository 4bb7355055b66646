"""The tables of a shard, in all their scopes, and which of their rows leave with an image."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from laion_people.engine.catalog import CLUSTERS, PARTITION_STEPS, STEPS, StepEntry
from laion_people.engine.writing import ROW_GROUP
from laion_people.steps.download.earlier import row_sha256
from laion_people.storage import layout
from laion_people.storage.layout import ClusterVersion
from laion_people.storage.removals import removed_row
from laion_people.storage.store import Store

Scopes = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class ShardTable:
    """A table of a shard: the step that makes it, and what it belongs to beside its partition."""

    entry: StepEntry = field(hash=False)
    partition: str
    index: int
    scope: str

    @property
    def parquet(self) -> str:
        return f"{self._stem}.parquet"

    @property
    def tar(self) -> str:
        """ "" of a table without one."""
        return f"{self._stem}.tar" if self.entry.tar_key else ""

    @property
    def stats(self) -> str:
        """The summary that lies beside images; "" of other tables."""
        return f"{self._stem}_stats.json" if self.entry.writes == "images" else ""

    @property
    def manifest(self) -> str:
        return layout.shard_manifest_path(self.entry.name, self.partition, self.index, self.scope)

    @property
    def _stem(self) -> str:
        return layout.shard_stem(self.entry.writes, self.partition, self.index, self.scope)


def scopes(store: Store) -> Scopes:
    """All scopes of each step of partitions that the store has something of: cluster versions, or captioners."""
    return {name: _scopes(store, STEPS[name]) for name in PARTITION_STEPS}


def _scopes(store: Store, entry: StepEntry) -> list[str]:
    if not entry.scope:
        return [""]
    names = {*store.folders(entry.writes), *store.folders(layout.manifests_folder(entry.name))}
    return sorted(name for name in names if entry.scope != CLUSTERS or ClusterVersion.parse(name))


def tables_of(partition: str, index: int, scopes: Scopes) -> Iterator[ShardTable]:
    """All tables that a shard may have, each after those that it is made from."""
    for name in PARTITION_STEPS:
        for scope in scopes[name]:
            yield ShardTable(STEPS[name], partition, index, scope)


def id_columns(entry: StepEntry) -> list[str]:
    """The columns that tell whose a row is."""
    match entry.tar_key:
        case "key":
            return ["key"]
        case "composite_id":
            return ["composite_id", "people", "background_key"]
    return ["person_id"]


def leaving(entry: StepEntry, table: pa.Table, keys: Collection[str]) -> list[bool]:
    """Which rows of a table leave with the images of these keys. A composed picture leaves with any of its people, and
    with its background."""
    if not set(id_columns(entry)) <= set(table.column_names):  # of images made elsewhere
        return [False] * len(table)
    match entry.tar_key:
        case "key":
            return [str(key) in keys for key in table["key"].to_pylist()]
        case "composite_id":
            people = [{key_of(p["person_id"]) for p in people} for people in table["people"].to_pylist()]
            grounds = table["background_key"].to_pylist()
            return [bool({ground, *of_row} & set(keys)) for ground, of_row in zip(grounds, people, strict=True)]
    return [key_of(person_id) in keys for person_id in table["person_id"].to_pylist()]


def key_of(person_id: str) -> str:
    """``<key>`` of ``<collection>/<part>/<shard>/<key>/<index>``."""
    return person_id.rsplit("/", 2)[-2]


def write_without(entry: StepEntry, source: Path, leaves: Sequence[bool], target: Path) -> None:
    """Writes a Parquet file anew, with its own schema and compression: without the rows that leave, or, of images, with
    nothing in them but their keys. Rows of images whose schema does not allow that leave, too."""
    with pq.ParquetFile(source) as file:
        groups = file.metadata.num_row_groups and file.metadata.num_columns
        codec = file.metadata.row_group(0).column(0).compression if groups else "ZSTD"
        table = file.read()
    if entry.writes == "images" and _may_be_null(table.schema):
        table = _nulled(table, leaves)
    else:
        table = table.filter(pa.array([not each for each in leaves], pa.bool_()))
    compression = "none" if codec == "UNCOMPRESSED" else codec.lower()
    with pq.ParquetWriter(target, table.schema, compression=compression) as writer:
        for start in range(0, max(1, len(table)), ROW_GROUP):
            writer.write_table(table.slice(start, ROW_GROUP).combine_chunks())


def _may_be_null(schema: pa.Schema) -> bool:
    kept = {"key", "status", "reason" if "reason" in schema.names else "error_message"}
    texts = kept <= set(schema.names) and all(pa.types.is_string(schema.field(name).type) for name in kept)
    return texts and all(field.nullable for field in schema if field.name not in kept)


def _nulled(table: pa.Table, leaves: Sequence[bool]) -> pa.Table:
    columns: dict[str, list[Any]] = {name: [] for name in table.column_names}
    for key, leaves_ in zip(table["key"].to_pylist(), leaves, strict=True):
        row = removed_row(table.column_names, key) if leaves_ else dict.fromkeys(table.column_names)
        if leaves_ and "row_sha256" in row:
            row["row_sha256"] = row_sha256(row, b"")
        for name, value in row.items():
            columns[name].append(value)
    mask = pa.array(list(leaves), pa.bool_())
    arrays = []
    for column in table.schema:
        new = pa.array(columns[column.name], column.type)
        arrays.append(pc.if_else(mask, new, table[column.name].combine_chunks()))  # type: ignore[attr-defined]
    return pa.Table.from_arrays(arrays, schema=table.schema)
