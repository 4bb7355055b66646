"""A store as large runs leave it: every step of many partitions of many shards, without the data itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from laion_people.engine.catalog import PARTITION_STEPS
from laion_people.storage.layout import manifest_path
from laion_people.storage.manifest import FileEntry, Manifest, ShardEntry
from laion_people.storage.store import LocalStore, Store
from laion_people.storage.totals import write_totals

SHARD_ROWS = 10_000
KEPT = {"download": 0.62, "detect": 0.9, "subset_a": 0.31, "compose": 0.2, "caption": 0.71}  # rows written per row read
LOST = {
    "download": {"not_found": 0.2, "dns": 0.08, "timeout": 0.05, "http_error": 0.03, "too_small": 0.02},
    "detect": {"no_people": 0.66, "truncated": 0.001},
    "subset_a": {"below_threshold": 0.69},
    "compose": {"unclear": 0.4, "crowded": 0.2, "no_partner": 0.1},
    "caption": {"no_face_cluster": 0.2, "no_head_cluster": 0.09},
}
FOLDERS = {"download": "images", "detect": "people", "clip_filter": "clip", "assign": "assignments", "embed": "vectors"}


def manifest(step: str, partition: str, shards: Sequence[int], rows_in: int, run_id: str = "manual__1") -> Manifest:
    """A partition manifest of these shards; ``rows_in`` is of each shard."""
    folder = FOLDERS.get(step, step)
    entries = tuple(
        ShardEntry(
            i,
            f"{folder}/{partition}/{i:05d}.parquet",
            int(rows_in * KEPT.get(step, 1)),
            3_456_789,
            f"{i:064x}",
            (FileEntry(f"{folder}/{partition}/{i:05d}.tar", 234_567_890, f"{i + 1:064x}"),),
        )
        for i in shards
    )
    inputs = tuple(FileEntry(f"{kind}/{partition}/{i:05d}.parquet", 1234, f"{i:064x}") for i in shards for kind in "ab")
    return Manifest(
        step=step,
        partition=partition,
        run_id=run_id,
        params={"revision": 1, "shard_rows": SHARD_ROWS, "detector": {"size": 640, "score": 0.35}},
        inputs=inputs,
        shards=entries,
        rows_in=rows_in * len(entries),
        rows=sum(e.rows for e in entries),
        rejected={reason: int(part * rows_in * len(entries)) for reason, part in LOST.get(step, {}).items()},
        seconds=rows_in * len(entries) / 173,
    )


def add_partition(store: Store, partition: str, shards: int, finished: dict[str, int] | None = None) -> None:
    """Totals and manifests of each step; ``finished`` has the shards of steps that have not finished all."""
    rows_in = SHARD_ROWS
    for step in (step for step in PARTITION_STEPS if step != "describe"):
        made = manifest(step, partition, range((finished or {}).get(step, shards)), rows_in)
        if made.shards:
            store.write(manifest_path(step, partition), made.to_json())
            write_totals(store, made, shards)
            rows_in = made.shards[0].rows if step in KEPT else rows_in


def add_partitions(store: LocalStore, collection: str, count: int, shards: int, whole: int = 2) -> None:
    """As `add_partition` for many: manifests of the first ``whole`` only, and those of their shards: most files."""
    for part in range(count):
        key = f"{collection}/{part:05d}"
        store.write(f"metadata/{collection}/part-{part:05d}-made-up.snappy.parquet", b"")
        if part < whole:
            add_partition(store, key, shards, {"caption": shards - 7} if part else None)
            _add_shard_manifests(store, key, shards)
        else:
            _add_totals(store, key, shards)


def add_version(store: Store, version: str, partitions: Sequence[str]) -> None:
    """A cluster version of these partitions."""
    made = manifest("cluster", version, [0], 100_000)
    made = dataclasses.replace(made, params={"partitions": list(partitions)}, rows=61, inputs=())
    write_totals(store, made, 1)
    write_totals(store, dataclasses.replace(made, step="label"), 1)


def _add_totals(store: Store, partition: str, shards: int) -> None:
    rows_in = SHARD_ROWS
    for step in (step for step in PARTITION_STEPS if step != "describe"):
        one = manifest(step, partition, [0], rows_in)
        many = dataclasses.replace(
            one,
            shards=tuple(dataclasses.replace(one.shards[0], index=i) for i in range(shards)),
            rows_in=one.rows_in * shards,
            rows=one.rows * shards,
            rejected={reason: rows * shards for reason, rows in one.rejected.items()},
            seconds=one.seconds * shards,
        )
        write_totals(store, many, shards)
        rows_in = one.rows if step in KEPT else rows_in


def _add_shard_manifests(store: LocalStore, partition: str, shards: int) -> None:
    """A file for each shard and step, as small as a manifest."""
    for step in ("download", "detect", "pose", "mesh", "facts", "clip_filter", "subset_a"):
        folder = store.root / "manifests" / step / partition
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(shards):
            (folder / f"{i:05d}.json").write_bytes(b"{}")
