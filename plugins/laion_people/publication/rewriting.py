"""A publication made anew from an earlier one, without the rows that are no longer to be in it."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from laion_people.engine.files import LocalFiles
from laion_people.publication.build import hand_out
from laion_people.publication.content import Content
from laion_people.publication.release import Publication, PublishedFile, folder
from laion_people.publication.writing import LIMITS, Limits, Picture, Staging
from laion_people.storage.manifest import FileEntry
from laion_people.storage.store import Store

Stays = Callable[[str, pa.Table], Sequence[bool]]  # of a config's table, whether each row stays


def rewritten(
    store: Store,
    old: Publication,
    version: str,
    stays: Stays,
    reason: str,
    text: str,
    tombstones: pa.Table | None = None,
    change: Callable[[str, pa.Table], pa.Table] | None = None,
    limits: Limits = LIMITS,
) -> Publication:
    """Publishes ``version`` with the rows of ``old`` that stay, and the pictures of compositions that do.

    Args:
        stays: see `Stays`; called with each table of each config
        reason: what the others are counted under in ``left_out``
        text: the line of the changelog
        tombstones: digests of all that has left so far
        change: what else is changed in a config's rows, such as a medoid who has left

    Raises UsageError when the version exists, LaionPeopleError when a file of ``old`` is not what its record says.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    draft = replace(
        old,
        version=version,
        at=now,
        replaces=old.version,
        changes=(*old.changes, {"version": version, "at": now, "text": text}),
    )
    with Staging(store, old.name, version, limits) as staging:
        return hand_out(staging, draft, _Rest(store, old, stays, reason, tombstones, change))


class _Rest(Content):
    """What stays of a publication."""

    def __init__(
        self,
        store: Store,
        old: Publication,
        stays: Stays,
        reason: str,
        tombstones: pa.Table | None,
        change: Callable[[str, pa.Table], pa.Table] | None,
    ):
        super().__init__()
        self._store, self._old, self._stays, self._reason, self._change = store, old, stays, reason, change
        self.tombstones = tombstones
        for config, reasons in old.left_out.items():
            self.left_out[config].update(reasons)
        self._composites: set[str] = set()  # that stay

    def schemas(self) -> dict[str, pa.Schema]:
        first = {file.config: file for file in reversed(self._old.files) if file.config}
        schemas = {}
        for config in self._old.configs():
            with self._file(first[config]) as path:
                schemas[config] = pq.read_schema(path)
        return schemas

    def tables(self, config: str) -> Iterator[pa.Table]:
        for file in self._old.files:
            if file.config != config:
                continue
            with self._file(file) as path, pq.ParquetFile(path) as parquet:
                for group in range(parquet.num_row_groups):
                    yield self._rest(config, parquet.read_row_group(group))

    def pictures(self) -> Iterator[Picture]:
        for file in self._old.files:
            if not file.path.endswith(".tar"):
                continue
            with self._file(file) as path, tarfile.open(path) as tar:
                for key, sample in _samples(tar):
                    if key in self._composites:
                        yield key, sample

    def _rest(self, config: str, table: pa.Table) -> pa.Table:
        stays = list(self._stays(config, table))
        if gone := stays.count(False):
            self.left_out[config][self._reason] += gone
            table = table.filter(pa.array(stays, pa.bool_()))
        if "composite_id" in table.schema.names:
            self._composites.update(table["composite_id"].to_pylist())
        return self._change(config, table) if self._change else table

    @contextmanager
    def _file(self, file: PublishedFile) -> Iterator[Path]:
        """A file of the publication, as its record says that it is."""
        uri = f"{folder(self._old.name, self._old.version)}/{file.path}"
        with LocalFiles(self._store) as files:
            yield files.verified(FileEntry(uri, file.bytes, file.sha256))


def _samples(tar: tarfile.TarFile) -> Iterator[Picture]:
    """The samples of a tar of ours: their files lie side by side."""
    key, sample = "", dict[str, bytes]()
    for member in tar:
        stem, _, suffix = member.name.rpartition(".")
        if stem != key:
            if sample:
                yield key, sample
            key, sample = stem, {}
        data = tar.extractfile(member)
        assert data, "ours have regular files alone"
        sample[suffix] = data.read()
    if sample:
        yield key, sample
