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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from laion_people.engine.catalog import VERSIONED_TABLES, StepEntry
from laion_people.errors import LaionPeopleError
from laion_people.settings import Settings
from laion_people.storage.manifest import FileEntry, Manifest
from laion_people.storage.schemas import SCHEMAS
from laion_people.storage.store import Store

log = logging.getLogger(__name__)

Row = dict[str, Any]
SHARD = re.compile(r"\d{5}|[1-9]\d{5,8}", re.ASCII)  # as ``f"{index:05d}"`` writes it


class Shard:
    """One shard of a partition, as a step sees it: its input files, the models, and the counts that it keeps.

    ``store`` is for what is no shard (metadata); ``inputs`` says where that is.
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
    ):
        self.partition, self.index = partition, index
        self.settings, self.store = settings, store
        self.started = time.time()
        self.receipt: Manifest | None = None  # of the shard as it is, unless there is none or it cannot be read
        self.force = False  # nothing of the shard as it is is to be kept
        self.rows_in = self.rows = 0  # rows that the step has read and given so far
        self.rejected: Counter[str] = Counter()
        self.timings: dict[str, float] = defaultdict(float)
        self.files, self._model = files, model
        self.inputs: Mapping[str, FileEntry] = {}  # by the names of the step's ``reads``

    @property
    def id(self) -> str:
        """``<partition>/<shard>``, the start of every person_id."""
        return f"{self.partition}/{self.index:05d}"

    def path(self, name: str) -> Path:
        """A local file with an input (a name of the step's ``reads``)."""
        return self.files[name]

    def model(self, role: str) -> Any:
        """A model of the profile (``detector``, ``pose``, ``mesh``, ``clip``), loaded once a process."""
        with self.clock("load"):
            return self._model(role)

    def table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """An input table."""
        return pq.read_table(self.files[name], columns=columns)

    def reject(self, reason: str, rows: int = 1) -> None:
        """Counts rows that were read and not used."""
        if rows:
            self.rejected[reason] += rows

    @contextmanager
    def clock(self, part: str) -> Iterator[None]:
        """Adds the block's seconds to a part of the step's time (``model``, ``decode``, ...)."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.timings[part] += time.perf_counter() - start


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

    def plan(self, store: Store, partition: str, settings: Settings) -> list[int]:
        """The shards of a partition: those of the first input."""
        suffix = ".tar" if self.entry.reads[0] == "images" else ".parquet"
        folder = self.entry.reads[0]
        if folder in VERSIONED_TABLES:
            folder += f"/{settings.clusters}"
        folder += f"/{partition}"
        paths = store.list(folder)
        found = shard_files(paths, folder, suffix)
        if suffix == ".tar":
            _check_names(sorted(set(paths) - set(found.values())), alone=not found)
        return sorted(found)

    def check(self, store: Store, partition: str, settings: Settings, force: bool) -> None:
        """Raises LaionPeopleError when the step must not write to the partition; called before it does anything."""
        return

    def again(self, receipt: Manifest) -> str | None:
        """Why a finished and valid shard is worked on once more; None leaves it."""
        return None

    @abstractmethod
    def apply(self, shard: Shard) -> Iterator[Row]:
        """Turns a shard's input into rows of the schema, counting ``shard.rows_in`` and every rejected row."""

    def sidecars(self, shard: Shard, rows: int) -> dict[str, bytes]:
        """Further files of the shard, by the end of their name (``_stats.json``), once all rows are written."""
        return {}


def shard_files(paths: Iterable[str], folder: str, suffix: str) -> dict[int, str]:
    """The files of a folder that are called as shards are (``00007.tar``), by shard; not those of folders in it."""
    stems = {path: path.removeprefix(f"{folder}/").removesuffix(suffix) for path in paths if path.endswith(suffix)}
    return {int(stem): path for path, stem in stems.items() if SHARD.fullmatch(stem)}


def _check_names(paths: Sequence[str], alone: bool) -> None:
    """Tells of tars that are no shards by their places; hidden files, such as macOS's ._00000.tar, are passed over.

    Raises LaionPeopleError for a number of other than five digits, and when there are no shards beside.
    """
    for path in paths:
        name = path.rsplit("/", 1)[-1]
        if name.startswith(".") or not re.search(r"\.tar|\.tgz$", name, re.IGNORECASE):
            continue
        if alone or (re.fullmatch(r"(?i)\d+\.tar", name) and not SHARD.fullmatch(name.removesuffix(".tar"))):
            raise LaionPeopleError(
                f"{path}: shards are images/COLLECTION/PART/00000.tar, .../00001.tar, ... of five digits: rename it"
            )
        log.warning("%s is not read: it is not called as shards are, or lies in a folder of its own", path)


class Release:
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
        self.version, self.partitions, self.shards = version, tuple(partitions), tuple(shards)
        self.settings, self.store = settings, store
        self.local = local  # local(name, partition, index): a verified input of a shard as a local file
        self.rows_in = self.rows = 0
        self.rejected: Counter[str] = Counter()
        self.timings: dict[str, float] = defaultdict(float)

    def table(self, name: str, partition: str, index: int, columns: list[str] | None = None) -> pa.Table:
        """A table of one of the release's ``shards``."""
        with self.local(name, partition, index) as path:
            return pq.read_table(path, columns=columns)

    def path(self, name: str) -> str:
        """Store path of a file of this cluster version."""
        return f"clusters/{self.version}/{name}"


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
