"""How a step is declared.

A step says what it reads and writes and turns the rows of one shard into others; the runner does the rest (reading,
checking, writing, resuming, counting). A new step is one file under ``steps/``, one entry of `catalog` and
one line in ``steps/registry.py``.
"""

from __future__ import annotations

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import pyarrow as pa

from laion_people.engine.catalog import StepEntry
from laion_people.engine.work import Release, Shard
from laion_people.errors import LaionPeopleError, coded
from laion_people.settings import Settings
from laion_people.storage.layout import parse_shard, shards_in, table_folder
from laion_people.storage.manifest import ShardManifest
from laion_people.storage.removals import REMOVED
from laion_people.storage.schemas import SCHEMAS
from laion_people.storage.store import Store

log = logging.getLogger(__name__)

Row = dict[str, Any]
REMOVED_REASON = {REMOVED: "the image was removed, with everybody in it"}  # of every step: see `storage.removals`


class Step(ABC):
    """A step that works shard by shard; ``entry`` declares it.

    The rows of a step that writes a tar may carry ``files`` (suffix -> bytes), which go into the shard's tar under the
    entry's ``tar_key``.
    """

    entry: ClassVar[StepEntry]
    revision: ClassVar[int] = 1  # raised with a change of the code that changes the output, so that shards are redone
    irreplaceable: ClassVar[bool] = False  # what it wrote may not be had again: no shard is deleted without ``force``
    reasons: ClassVar[Mapping[str, str]] = {}  # why rows are rejected, each with what that means in a few words
    reworks: bool = False  # whether `needs_rework` may find something

    def __init_subclass__(cls) -> None:
        cls.reasons = {**cls.reasons, **REMOVED_REASON}

    def params(self, settings: Settings) -> dict[str, Any]:
        """The settings that decide the output: a shard made with others is redone."""
        return {}

    def schema(self) -> pa.Schema:
        return SCHEMAS[self.entry.writes]

    def plan(self, store: Store, partition: str, settings: Settings, scope: str) -> list[int]:
        """The shards of a partition: those of the first input, whose scope is ``scope``."""
        table = self.entry.first_input
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
                "shard-name",
                f"{path}: shards are images/COLLECTION/PART/00000.tar, .../00001.tar, ... of five digits: rename it",
            )
        log.warning(
            coded("shard-name", "%s is not read: it is not called as shards are, or lies in a folder of its own"), path
        )


class ReleaseStep(ABC):
    """A step that works on a whole release (cluster, label). It writes files below ``clusters/<version>``.

    ``apply`` returns the number of rows (clusters) and the names of the files written, the main file first. The step
    that writes the fit starts a new cluster version, unless one was made from the same input and parameters.
    """

    entry: ClassVar[StepEntry]
    reasons: ClassVar[Mapping[str, str]] = {}  # as of a `Step`

    def __init_subclass__(cls) -> None:
        cls.reasons = {**cls.reasons, **REMOVED_REASON}

    @property
    def opens_version(self) -> bool:
        return self.entry.writes == "fit"

    def params(self, settings: Settings) -> dict[str, Any]:
        return {}

    @abstractmethod
    def apply(self, release: Release) -> tuple[int, list[str]]: ...
