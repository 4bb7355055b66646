"""Manifests: what a step did to a partition, shard by shard.

Each finished shard leaves a receipt (a manifest of that one shard, written last); a partition's manifest is their sum.
The file begins with a ``checksum``: the sha256 of its own bytes without the 64 digits of the checksum itself. Those of
version 0.1 have none.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from laion_people.errors import LaionPeopleError
from laion_people.storage.store import Store


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
        fields = {"checksum": ""} | asdict(self)  # first in the order of names, too
        data = (json.dumps(fields, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
        return data.replace(b'"checksum": ""', f'"checksum": "{hashlib.sha256(data).hexdigest()}"'.encode(), 1)

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Raises LaionPeopleError when ``data`` is no manifest, or not what was written."""
        try:
            fields = json.loads(data)
            if "checksum" in fields:  # version 0.1 wrote none
                checksum = fields.pop("checksum")
                if hashlib.sha256(data.replace(checksum.encode(), b"", 1)).hexdigest() != checksum:
                    raise ValueError("its checksum is that of other content")
            fields["inputs"] = tuple(FileEntry(**f) for f in fields["inputs"])
            fields["shards"] = tuple(
                ShardEntry(**s | {"sidecars": tuple(FileEntry(**f) for f in s["sidecars"])}) for s in fields["shards"]
            )
            manifest = cls(**fields)
            manifest._check()
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise LaionPeopleError(f"not a manifest: {error!r}") from error
        return manifest

    def _check(self) -> None:
        """Raises ValueError for values that cannot be, which one without a checksum may have."""
        files = (*self.inputs, *(f for s in self.shards for f in s.files()))
        check_values(
            texts=[self.step, self.partition, self.run_id, *(text for f in files for text in (f.uri, f.sha256))],
            counts=[
                *(self.rows_in, self.rows, *self.rejected.values(), *(f.bytes for f in files)),
                *(n for s in self.shards for n in (s.index, s.rows)),
            ],
            times=[self.seconds, *self.timings.values()],
        )

    def made_from(self) -> str:
        """A digest of what the output is made from: step with its revision, parameters, models and input files."""
        origin = [self.step, self.params, self.models, sorted((f.uri, f.sha256) for f in self.inputs)]
        return hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()


def check_values(texts: Iterable[Any], counts: Iterable[Any], times: Iterable[Any]) -> None:
    """Raises ValueError, TypeError or OverflowError for a text, a count or a number of seconds that is none."""
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a name is no text")
    if not all(type(count) is int and 0 <= count < 1 << 63 for count in counts):
        raise ValueError("a count is no whole number")
    if not all(math.isfinite(time) and time >= 0 for time in times):
        raise ValueError("a time is no number of seconds")


def manifest_path(step: str, partition: str) -> str:
    """Where a partition's manifest lies; of a release step, ``partition`` is the cluster version."""
    return f"manifests/{step}/{partition}.json"


def read_manifest(store: Store, step: str, partition: str) -> Manifest:
    """A partition's manifest. Raises LaionPeopleError, naming the file, when it is missing or as `parse_manifest`."""
    return parse_manifest(store.read(manifest_path(step, partition)), step, partition)


def parse_manifest(data: bytes, step: str, partition: str) -> Manifest:
    """The content of `manifest_path`. Raises LaionPeopleError, naming the file, when it is damaged or of another."""
    path = manifest_path(step, partition)
    manifest = _parsed(path, data)
    if (manifest.step, manifest.partition) != (step, partition):
        raise LaionPeopleError(f"{path} is the manifest of {manifest.step} {manifest.partition}: run `{step}` again")
    return manifest


def parse_receipt(path: str, data: bytes) -> Manifest:
    """The receipt that ``path`` (``manifests/<step>/.../<partition>/<shard>.json``) holds.

    Raises LaionPeopleError, naming the file, when it is damaged, or is that of another shard.
    """
    manifest = _parsed(path, data)
    ends = [f"/{manifest.partition}/{shard.index:05d}.json" for shard in manifest.shards]
    if len(ends) != 1 or not path.endswith(ends[0]) or not path.startswith(f"manifests/{manifest.step}/"):
        raise LaionPeopleError(f"{path} is the receipt of another shard: run again the step that writes it")
    return manifest


def _parsed(path: str, data: bytes) -> Manifest:
    try:
        return Manifest.from_json(data)
    except LaionPeopleError as error:
        raise LaionPeopleError(f"{path} is damaged ({error}): run again the step that writes it") from error


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
