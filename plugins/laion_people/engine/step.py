"""How a step is declared, and what it is given to work on.

A step says what it reads and writes and turns the rows of one shard into others; the runner does the rest (reading,
checking, writing, resuming, counting). A new step is one file under ``steps/``, one entry of `catalog` and
one line in ``steps/registry.py``.
"""

from __future__ import annotations

import logging
import re
import time
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from laion_people.engine.catalog import StepEntry
from laion_people.errors import LaionPeopleError
from laion_people.settings import Settings
from laion_people.storage.layout import cluster_path, parse_shard, shard_name, shards_in, table_folder
from laion_people.storage.manifest import FileEntry, ShardManifest
from laion_people.storage.schemas import SCHEMAS
from laion_people.storage.store import Store

log = logging.getLogger(__name__)

Row = dict[str, Any]


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
    is read from ``store``. ``earlier`` is the manifest of the shard as it is, if that can be read; with ``force``
    nothing of that shard is to be kept.
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
        earlier: ShardManifest | None = None,
        force: bool = False,
    ):
        super().__init__()
        self.partition, self.index = partition, index
        self.settings, self.store = settings, store
        self.files, self.inputs, self._model = files, inputs or {}, model
        self.earlier, self.force = earlier, force
        self.started = time.time()

    @property
    def id(self) -> str:
        """``<partition>/<shard>``, the start of every person_id."""
        return f"{self.partition}/{shard_name(self.index)}"

    def path(self, name: str) -> Path:
        """A local file with an input (a name of the step's ``reads``)."""
        return self.files[name]

    def model(self, role: str) -> Any:
        """A model of the profile (``detector``, ``pose``, ``mesh``, ``clip``), loaded once a process."""
        with self.timed("load"):
            return self._model(role)

    def table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """An input table."""
        return pq.read_table(self.files[name], columns=columns)


class Step(ABC):
    """A step that works shard by shard; ``entry`` declares it.

    The rows of a step that writes a tar may carry ``files`` (suffix -> bytes), which go into the shard's tar under the
    entry's ``tar_key``.
    """

    entry: ClassVar[StepEntry]
    revision: ClassVar[int] = 1  # raised with a change of the code that changes the output, so that shards are redone
    irreplaceable: ClassVar[bool] = False  # what it wrote may not be had again: no shard is deleted without ``force``
    reasons: ClassVar[Mapping[str, str]] = {}  # why rows are rejected, each with what that means in a few words

    def params(self, settings: Settings) -> dict[str, Any]:
        """The settings that decide the output: a shard made with others is redone."""
        return {}

    def schema(self) -> pa.Schema:
        return SCHEMAS[self.entry.writes]

    def plan(self, store: Store, partition: str, settings: Settings, scope: str) -> list[int]:
        """The shards of a partition: those of the first input, whose scope is ``scope``."""
        table = self.entry.reads[0]
        suffix = ".tar" if table == "images" else ".parquet"
        folder = table_folder(table, partition, scope)
        paths = store.list(folder)
        shards = shards_in(paths, folder, suffix)
        if suffix == ".tar":
            _check_names(sorted(set(paths) - set(shards.values())), alone=not shards)
        return sorted(shards)

    def check(self, store: Store, partition: str, settings: Settings, force: bool) -> None:
        """Raises LaionPeopleError when the step must not write to the partition; called before it does anything."""
        return

    def needs_rework(self, manifest: ShardManifest) -> str | None:
        """Why a finished and valid shard is worked on once more; None leaves it."""
        return None

    @abstractmethod
    def apply(self, shard: Shard) -> Iterator[Row]:
        """Turns a shard's input into rows of the schema, counting ``shard.rows_in`` and every rejected row."""

    def sidecars(self, shard: Shard, rows: int) -> dict[str, bytes]:
        """Further files of the shard, by the end of their name (``_stats.json``), once all rows are written."""
        return {}


def _check_names(paths: Sequence[str], alone: bool) -> None:
    """Tells of tars that are no shards by their places; hidden files, such as macOS's ._00000.tar, are passed over.

    Raises LaionPeopleError for a number of other than five digits, and when there are no shards beside.
    """
    for path in paths:
        name = path.rsplit("/", 1)[-1]
        if name.startswith(".") or not re.search(r"\.tar|\.tgz$", name, re.IGNORECASE):
            continue
        if alone or (re.fullmatch(r"(?i)\d+\.tar", name) and parse_shard(name.removesuffix(".tar")) is None):
            raise LaionPeopleError(
                f"{path}: shards are images/COLLECTION/PART/00000.tar, .../00001.tar, ... of five digits: rename it"
            )
        log.warning("%s is not read: it is not called as shards are, or lies in a folder of its own", path)


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
    ):
        super().__init__()
        self.version, self.partitions, self.shards = version, tuple(partitions), shards
        self.settings, self.store = settings, store
        self.local = local  # local(name, partition, index): a verified input of a shard as a local file

    def table(self, name: str, partition: str, index: int, columns: list[str] | None = None) -> pa.Table:
        """A table of one of the release's ``shards``."""
        with self.local(name, partition, index) as path:
            return pq.read_table(path, columns=columns)

    def path(self, name: str) -> str:
        """Store path of a file of this cluster version."""
        return cluster_path(self.version, name)


class ReleaseStep(ABC):
    """A step that works on a whole release (cluster, label). It writes files below ``clusters/<version>``.

    ``apply`` returns the number of rows (clusters) and the names of the files written, the main file first. The step
    that writes the fit starts a new cluster version, unless one was made from the same input and parameters.
    """

    entry: ClassVar[StepEntry]
    reasons: ClassVar[Mapping[str, str]] = {}  # as of a `Step`

    @property
    def opens_version(self) -> bool:
        return self.entry.writes == "fit"

    def params(self, settings: Settings) -> dict[str, Any]:
        return {}

    @abstractmethod
    def apply(self, release: Release) -> tuple[int, list[str]]: ...
