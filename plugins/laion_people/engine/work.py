"""What a step is given to work on: a shard of a partition, or a release; it counts what becomes of their rows."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from laion_people.settings import Settings
from laion_people.storage.layout import cluster_path, shard_name
from laion_people.storage.manifest import FileEntry, ShardManifest
from laion_people.storage.removals import Removed, read_removed
from laion_people.storage.schemas import read_table
from laion_people.storage.store import Store


class Work:
    """What a step counts while it works: rows that it has read and given, rows that it has rejected, and its time."""

    def __init__(self) -> None:
        self.rows_in = self.rows = 0
        self.rejected: Counter[str] = Counter()
        self.timings: dict[str, float] = defaultdict(float)

    def reject(self, reason: str, rows: int = 1) -> None:
        """Counts rows that were read and not used."""
        if rows:
            self.rejected[reason] += rows

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Adds the block's seconds to a part of the step's time (``model``, ``decode``, ...)."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.timings[part] += time.perf_counter() - start

    def rounded_timings(self) -> dict[str, float]:
        """Seconds by part of the work, as manifests have them."""
        return {part: round(seconds, 3) for part, seconds in sorted(self.timings.items())}


class Shard(Work):
    """One shard of a partition, as a step sees it: its input files, the models, and the counts that it keeps.

    ``files`` and ``inputs`` have the local file and the record of each of the step's ``reads``, but for metadata, which
    is read from ``store``. ``columns`` has those that the step declares for each table. ``earlier`` is the manifest of
    the shard as it is, if that can be read; with ``force`` nothing of that shard is to be kept. ``removed`` is what
    must not come in.
    """

    def __init__(
        self,
        partition: str,
        index: int,
        *,
        settings: Settings,
        store: Store,
        model: Callable[[str], Any],
        files: Mapping[str, Path],
        inputs: Mapping[str, FileEntry] | None = None,
        columns: Mapping[str, tuple[str, ...]],
        earlier: ShardManifest | None = None,
        force: bool = False,
        removed: Callable[[], Removed] | None = None,
    ):
        super().__init__()
        self._removed = removed or partial(read_removed, store)
        self.partition, self.index, self.columns = partition, index, columns
        self.settings, self.store = settings, store
        self.files, self.inputs, self._model = files, inputs or {}, model
        self.earlier, self.force = earlier, force
        self.started = time.time()

    @property
    def id(self) -> str:
        """``<partition>/<shard>``, the start of every person_id."""
        return f"{self.partition}/{shard_name(self.index)}"

    @cached_property
    def removed(self) -> Removed:
        """What all removals name by now: what was removed is left out."""
        return self._removed()

    def path(self, name: str) -> Path:
        """A local file with an input (a name of the step's ``reads``)."""
        return self.files[name]

    def model(self, role: str) -> Any:
        """A model of the profile (``detector``, ``pose``, ``mesh``, ``clip``), loaded once a process."""
        with self.timed("load"):
            return self._model(role)

    def table(self, name: str, columns: Sequence[str] = ()) -> pa.Table:
        """An input table: these columns, or those that the step declares; see `schemas.read_table`."""
        return read_table(self.files[name], name, columns or self.columns[name])


class Release(Work):
    """A set of partitions that are clustered together, and the folder ``clusters/<version>`` of their fit."""

    def __init__(
        self,
        version: str,
        partitions: Sequence[str],
        *,
        settings: Settings,
        store: Store,
        local: Callable[[str, str, int], AbstractContextManager[Path]],
        shards: Sequence[tuple[str, int]],
        columns: Mapping[str, tuple[str, ...]],
    ):
        super().__init__()
        self.version, self.partitions, self.shards = version, tuple(partitions), shards
        self.settings, self.store, self.columns = settings, store, columns
        self.local = local  # local(name, partition, index): a verified input of a shard as a local file

    def table(self, name: str, partition: str, index: int, columns: Sequence[str] = ()) -> pa.Table:
        """A table of one of the release's ``shards``: these columns, or those that the step declares."""
        with self.local(name, partition, index) as path:
            return read_table(path, name, columns or self.columns[name])

    def path(self, name: str) -> str:
        """Store path of a file of this cluster version."""
        return cluster_path(self.version, name)
