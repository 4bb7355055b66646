"""Manifests: what a step did to a partition, shard by shard.

Each finished shard leaves a receipt (a manifest of that one shard, written last); a partition's manifest is their sum.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from laion_people.errors import LaionPeopleError


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file: path relative to the store, size and hex sha256."""

    uri: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """A shard's main file and its rows; ``sidecars`` are the files that belong to it (a tar's Parquet, ...)."""

    index: int
    uri: str
    rows: int
    bytes: int
    sha256: str
    sidecars: tuple[FileEntry, ...] = ()

    def files(self) -> tuple[FileEntry, ...]:
        return (FileEntry(self.uri, self.bytes, self.sha256), *self.sidecars)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The record of a step on a partition.

    ``rows_in`` counts rows read, ``rows`` rows written, ``rejected`` rows lost by reason; ``seconds`` is work time;
    ``timings`` splits it (model, decode, write, ...). ``models`` maps weights to their sha256.
    """

    step: str
    partition: str
    run_id: str
    params: dict[str, Any]
    inputs: tuple[FileEntry, ...]
    models: dict[str, str] = field(default_factory=dict)
    shards: tuple[ShardEntry, ...] = ()
    rows_in: int = 0
    rows: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    timings: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> bytes:
        return (json.dumps(asdict(self), indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Raises LaionPeopleError when ``data`` is no manifest."""
        try:
            fields = json.loads(data)
            fields["inputs"] = tuple(FileEntry(**f) for f in fields["inputs"])
            fields["shards"] = tuple(
                ShardEntry(**s | {"sidecars": tuple(FileEntry(**f) for f in s["sidecars"])}) for s in fields["shards"]
            )
            return cls(**fields)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise LaionPeopleError(f"not a manifest: {error!r}") from error

    def made_from(self) -> str:
        """A digest of what the output is made from: step with its revision, parameters, models and input files."""
        origin = [self.step, self.params, self.models, sorted((f.uri, f.sha256) for f in self.inputs)]
        return hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()


def merge(receipts: Sequence[Manifest]) -> Manifest:
    """The manifest of a partition from the receipts of its shards (at least one), in shard order."""
    receipts = sorted(receipts, key=lambda r: r.shards[0].index)
    last = receipts[-1]
    return Manifest(
        step=last.step,
        partition=last.partition,
        run_id=last.run_id,
        params=last.params,
        models=last.models,
        inputs=tuple(dict.fromkeys(f for r in receipts for f in r.inputs)),
        shards=tuple(s for r in receipts for s in r.shards),
        rows_in=sum(r.rows_in for r in receipts),
        rows=sum(r.rows for r in receipts),
        rejected=_total([r.rejected for r in receipts]),
        seconds=round(sum(r.seconds for r in receipts), 3),
        timings={k: round(v, 3) for k, v in _total([r.timings for r in receipts]).items()},
    )


def _total(counts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(sorted(total.items()))
