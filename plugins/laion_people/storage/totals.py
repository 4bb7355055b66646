"""Totals: what a step did to a partition, in a few hundred bytes.

A manifest names every shard and input, which for thousands of shards is megabytes. Beside it lies ``totals/<step>/
<partition>.json`` with the sums alone, so that a page about all steps of all partitions reads next to nothing.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from laion_people.errors import LaionPeopleError, MissingError, OutsideError
from laion_people.storage.layout import ClusterVersion, PartitionKey, totals_path
from laion_people.storage.manifest import Manifest, added, check_values
from laion_people.storage.manifestindex import READERS
from laion_people.storage.store import Store

FOLDER = "totals"
PATH = re.compile(rf"{FOLDER}/\w+/({PartitionKey.pattern.pattern}|{ClusterVersion.pattern.pattern})\.json")


@dataclass(frozen=True, slots=True)
class Totals:
    """The sums of a manifest; ``partition`` is the cluster version for a release step.

    ``shards`` are finished, ``planned`` is how many there should be; ``bytes`` counts what was written, sidecars
    included; ``seconds`` is work time; ``ended`` an ISO 8601 time in UTC; ``models`` and ``removed_in`` are the
    manifest's.
    """

    step: str
    partition: str
    run_id: str
    params: dict[str, Any]
    shards: int
    planned: int
    rows_in: int
    rows: int
    rejected: dict[str, int]
    bytes: int
    seconds: float
    ended: str
    models: dict[str, str] = field(default_factory=dict)
    removed_in: int = 0

    @property
    def done(self) -> bool:
        return self.shards == self.planned


def write_totals(store: Store, manifest: Manifest, planned: int) -> None:
    """Writes the totals of a partition's (or a cluster version's) manifest, unless they are there."""
    totals = totals_of(manifest, planned)
    if not has_totals(store, manifest, planned):
        store.write(totals_path(totals.step, totals.partition), json.dumps(asdict(totals), indent=1).encode())


def has_totals(store: Store, manifest: Manifest, planned: int) -> bool:
    """Whether the totals of a manifest are there, and are its sums."""
    try:
        totals = _read(store, totals_path(manifest.step, manifest.partition))
    except MissingError:
        return False
    except OutsideError:
        raise
    except LaionPeopleError:  # damaged
        return False
    return replace(totals, ended="") == replace(totals_of(manifest, planned), ended="")


def planned_shards(store: Store, step: str, partition: str) -> int | None:
    """How many shards there should be, by the totals; None where there are none, or damaged ones."""
    try:
        return _read(store, totals_path(step, partition)).planned
    except MissingError:
        return None
    except OutsideError:
        raise
    except LaionPeopleError:
        return None


def added_up(several: Sequence[Totals]) -> Totals:
    """The totals of a step over several partitions (at least one)."""
    last = several[-1]
    return replace(
        last,
        shards=sum(t.shards for t in several),
        planned=sum(t.planned for t in several),
        rows_in=sum(t.rows_in for t in several),
        rows=sum(t.rows for t in several),
        rejected=added(t.rejected for t in several),
        bytes=sum(t.bytes for t in several),
        seconds=sum(t.seconds for t in several),
        removed_in=sum(t.removed_in for t in several),
    )


def totals_of(manifest: Manifest, planned: int | None = None) -> Totals:
    """The totals of a manifest, of which ``planned`` shards (by default those that there are) are to be finished."""
    planned = len(manifest.shards) if planned is None else planned
    return Totals(
        step=manifest.step,
        partition=manifest.partition,
        run_id=manifest.run_id,
        params=manifest.params,
        shards=len(manifest.shards),
        planned=planned,
        rows_in=manifest.rows_in,
        rows=manifest.rows,
        rejected=manifest.rejected,
        bytes=sum(file.bytes for shard in manifest.shards for file in shard.files()),
        seconds=manifest.seconds,
        ended=datetime.now(UTC).isoformat(timespec="seconds"),
        models=manifest.models,
        removed_in=manifest.removed_in,
    )


def _read(store: Store, path: str) -> Totals:
    data = store.read(path)
    try:
        totals = Totals(**json.loads(data))
        sums = (totals.shards, totals.planned, totals.rows_in, totals.rows, totals.bytes, totals.removed_in)
        check_values(
            [totals.step, totals.partition, totals.run_id], [*sums, *totals.rejected.values()], [totals.seconds]
        )
        datetime.fromisoformat(totals.ended)
        if not isinstance(totals.params, dict):
            raise ValueError("its parameters have no names")
        if totals_path(totals.step, totals.partition) != path:
            raise ValueError(f"it is of {totals.step} {totals.partition}")
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise LaionPeopleError(
            "damaged-sums", f"{path} is damaged ({error!r}): run `bin/laion-people audit` again"
        ) from error
    return totals


class TotalsReader:
    """The totals of a store; files that have not changed since the last reading are not read again."""

    def __init__(self, store: Store):
        self.store = store
        self._read: dict[str, tuple[str, Totals]] = {}  # path -> tag, totals

    def read(self) -> dict[str, dict[str, Totals]]:
        """The totals by partition (or cluster version) and step; other files among them are passed over.

        Raises LaionPeopleError for a damaged file.
        """
        tags = {path: tag for path, tag in self.store.tags(FOLDER).items() if PATH.fullmatch(path)}
        stale = [path for path, tag in tags.items() if path not in self._read or self._read[path][0] != tag]
        with ThreadPoolExecutor(READERS) as pool:
            fresh = dict(zip(stale, pool.map(partial(_read, self.store), stale), strict=True))
        self._read = {p: (tag, fresh[p]) if p in fresh else self._read[p] for p, tag in tags.items()}
        totals: dict[str, dict[str, Totals]] = defaultdict(dict)
        for _, sums in self._read.values():
            totals[sums.partition][sums.step] = sums
        return dict(totals)
