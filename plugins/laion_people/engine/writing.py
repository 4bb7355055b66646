"""Writes a shard: streams a step's rows into its files, puts them into the store, and records what they are."""

from __future__ import annotations

import hashlib
import logging
import tarfile
import time
from collections.abc import Generator
from contextlib import ExitStack, closing
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from laion_people.engine.concurrency import overlapped
from laion_people.engine.contents import contents_of
from laion_people.engine.files import LocalFiles, describe
from laion_people.engine.step import Row, Step
from laion_people.engine.work import Shard
from laion_people.storage.manifest import Contents, FileEntry, ShardEntry

log = logging.getLogger(__name__)

ROW_GROUP = 1024  # rows that are held in memory before they are written
PROGRESS_SECONDS = 30.0


def write_shard(step: Step, shard: Shard, stem: str, files: LocalFiles, label: str) -> tuple[ShardEntry, Contents]:
    """Writes the files of a shard, whose paths begin with ``stem``; returns their record and what is in them.

    Each file is whole or not there at all. Sidecars go first: they name the program that made the shard, and a process
    may be killed in between.
    """
    suffixes = (".parquet", ".tar") if step.entry.tar_key else (".parquet",)
    local = {suffix: files.temporary(stem + suffix) for suffix in suffixes}
    _write_rows(step, shard, local[".parquet"], local.get(".tar"), label)
    contents = contents_of(step.entry, local)
    records = {suffix: describe(stem + suffix, path) for suffix, path in local.items()}
    for suffix, data in step.sidecars(shard, shard.rows).items():
        tag = shard.store.write(stem + suffix, data)
        records[suffix] = FileEntry(stem + suffix, len(data), hashlib.sha256(data).hexdigest(), tag)
    for suffix, path in reversed(local.items()):
        records[suffix] = files.put(path, records[suffix])
    main = records.pop(".tar" if step.entry.writes == "images" else ".parquet")
    entry = ShardEntry(
        shard.index, main.uri, shard.rows, main.bytes, main.sha256, tuple(records.values()), tag=main.tag
    )
    return entry, contents


def _write_rows(step: Step, shard: Shard, parquet: Path, tar_path: Path | None, label: str) -> None:
    """Streams a step's rows into its files; ``shard.rows`` counts them (of a tar step: those that have files).

    A thread writes a group of rows to the Parquet file while the step works on the next.
    """
    schema = step.schema()
    beat = time.monotonic()

    def groups() -> Generator[list[Row]]:
        nonlocal beat
        group: list[Row] = []
        for row in step.apply(shard):
            files = row.pop("files", None)
            shard.rows += 1 if files or not tar else 0
            group.append(row)
            if tar and files:
                with shard.timed("write"):
                    _add_files(tar, row[step.entry.tar_key].rsplit("/", 1)[-1], files)
            if len(group) == ROW_GROUP:
                yield group
                group = []
            if time.monotonic() - beat > PROGRESS_SECONDS:
                log.info("%s: %d rows so far", label, shard.rows)
                beat = time.monotonic()
        yield group

    def write(group: list[Row]) -> None:
        writer.write_batch(pa.RecordBatch.from_pylist(group, schema=schema))

    with ExitStack() as stack:
        writer = stack.enter_context(pq.ParquetWriter(parquet, schema, compression="zstd"))
        tar = stack.enter_context(tarfile.open(tar_path, "w")) if tar_path else None
        grouped = stack.enter_context(closing(groups()))
        for written in stack.enter_context(closing(overlapped(write, grouped, threads=1))):
            with shard.timed("write"):
                written.result()


def _add_files(tar: tarfile.TarFile, key: str, files: dict[str, bytes]) -> None:
    for suffix, data in files.items():
        member = tarfile.TarInfo(f"{key}.{suffix}")  # time and owner stay zero: the same rows give the same bytes
        member.size = len(data)
        tar.addfile(member, BytesIO(data))
