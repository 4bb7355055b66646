"""Stores whose tables were audited, made in a moment: what `publish` reads."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from laion_people.engine.catalog import STEPS
from laion_people.storage.layout import manifest_path, shard_file, shard_manifest_path
from laion_people.storage.manifest import FileEntry, Manifest, ShardEntry, ShardManifest
from laion_people.storage.manifestindex import ManifestIndex
from laion_people.storage.schemas import SCHEMAS
from laion_people.storage.store import Store
from tests.synthetic_store import VERSION, make_store

PARTITION = "demo/00000"
TABLES = {
    "detect": "people", "pose": "pose", "mesh": "mesh", "facts": "facts", "clip_filter": "clip",
    "subset_a": "subset_a", "assign": "assignments", "compose": "subset_b", "embed": "vectors", "caption": "subset_c",
}  # fmt: skip


def make_audited(store: Store, partition: str = PARTITION, images: int = 30) -> None:
    """A finished partition of one shard, with the manifests that an audit leaves."""
    make_store(store, partition, images)
    for step in TABLES:
        index = ManifestIndex(store)
        made = Manifest.from_json(store.read(manifest_path(step, partition)))
        scope = VERSION if STEPS[step].versioned else ""
        fields = {f.name: getattr(made, f.name) for f in dataclasses.fields(Manifest)}
        index.write(shard_manifest_path(step, partition, 0, scope), ShardManifest(**fields))
        _sum(store, step, partition, scope)


def change_table(
    store: Store, step: str, change: Callable[[dict[str, Any]], dict[str, Any]], partition: str = PARTITION
) -> None:
    """Changes the rows of a table, as if the step had made them so and the audit had seen it."""
    table, scope = TABLES[step], VERSION if STEPS[step].versioned else ""
    path = shard_file(table, partition, 0, scope)
    rows = [change(row) for row in pq.read_table(io.BytesIO(store.read(path))).to_pylist()]
    with store.writer(path) as local:
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMAS[table]), local)
    index, at = ManifestIndex(store), shard_manifest_path(step, partition, 0, scope)
    made = index.read(at)
    assert made
    old = made.shard
    entry = ShardEntry(0, path, len(rows), store.size(path), store.sha256(path), old.sidecars)
    index.write(at, dataclasses.replace(made, shards=(entry,), rows=len(rows)))
    _sum(store, step, partition, scope)


def tell_of_images(store: Store, rows: Sequence[dict[str, Any]], partition: str = PARTITION) -> None:
    """Puts a table of images beside the tar, as `download` does."""
    path, at = f"images/{partition}/00000.parquet", manifest_path("download", partition)
    with store.writer(path) as local:
        pq.write_table(pa.Table.from_pylist(list(rows)), local)
    made = Manifest.from_json(store.read(at))
    beside = FileEntry(path, store.size(path), store.sha256(path))
    shard = dataclasses.replace(made.shards[0], sidecars=(beside,))
    store.write(at, dataclasses.replace(made, shards=(shard,)).to_json())


def rows_of(store: Store, table: str, partition: str = PARTITION) -> list[dict[str, Any]]:
    """The rows of a store's table."""
    path = shard_file(table, partition, 0, VERSION if table in ("subset_b", "subset_c") else "")
    return pq.read_table(io.BytesIO(store.read(path))).to_pylist()


def _sum(store: Store, step: str, partition: str, scope: str) -> FileEntry:
    index = ManifestIndex(store)
    store.delete(manifest_path(step, partition))
    total = index.sum(step, partition, scope)
    assert total
    return index.write_sum(total)
