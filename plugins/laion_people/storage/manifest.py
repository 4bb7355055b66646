"""Manifests: what a step did, to a shard, to a partition or to a release.

A shard manifest is written last of a shard's files. A partition manifest is the sum of the shard manifests, each of
which it names; a release manifest names the partition manifests that it was made from. The file begins with a
``checksum``: the sha256 of its own bytes without the 64 digits of the checksum itself. Those of version 0.1 have none.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from laion_people.errors import LaionPeopleError
from laion_people.storage import layout


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file: path relative to the store, size and hex sha256.

    ``tag`` is the store's own mark of the file when it was written ("" where that was not recorded): while the store
    gives the same, the file is the same, and need not be read to be sure of it.
    """

    uri: str
    bytes: int
    sha256: str
    tag: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """A shard's main file and its rows; ``sidecars`` are the files that belong to it (a tar's Parquet, ...).

    ``made_sha256`` is what the main file's was when the step made it, where a removal has changed the file since. In a
    partition manifest, ``manifest`` is the shard's own, ``made_from`` its digest of that name, and ``inputs`` are
    places in the list of the partition's.
    """

    index: int
    uri: str
    rows: int
    bytes: int
    sha256: str
    sidecars: tuple[FileEntry, ...] = ()
    tag: str = field(default="", compare=False)
    manifest: FileEntry | None = field(default=None, compare=False)
    made_from: str = field(default="", compare=False)
    inputs: tuple[int, ...] = field(default=(), compare=False)
    made_sha256: str = field(default="", compare=False)

    def files(self) -> tuple[FileEntry, ...]:
        return (FileEntry(self.uri, self.bytes, self.sha256, self.tag), *self.sidecars)


@dataclass(frozen=True, slots=True)
class Contents:
    """What the files of a shard hold, as far as an audit compares it.

    ``rows`` of the table; ``samples`` of the tar (None: there is none); ``used``: how many rows of the input are in the
    output; ``rejected``: rows by reason, where the table has one for each rejected row. The digests (hex sha256) are of
    the person_ids in their order, and of the samples' keys as the table and as the tar have them.
    """

    rows: int
    used: int
    samples: int | None = None
    rejected: dict[str, int] | None = None
    person_ids: str = ""
    table_keys: str = ""
    tar_keys: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What all manifests record.

    ``rows_in`` counts rows read, ``rows`` rows written, ``rejected`` rows lost by reason; ``seconds`` is work time;
    ``timings`` splits it (model, decode, write, ...). ``models`` maps weights to their sha256. ``removed_in`` counts
    rows of ``rows_in`` that a removal has taken out of the input since.
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
    removed_in: int = 0

    def to_json(self) -> bytes:
        fields = {"checksum": ""} | _without_defaults(asdict(self))  # first in the order of names, too
        data = (json.dumps(fields, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
        return data.replace(b'"checksum": ""', f'"checksum": "{hashlib.sha256(data).hexdigest()}"'.encode(), 1)

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Raises LaionPeopleError when ``data`` is no such manifest, or not what was written."""
        try:
            fields = json.loads(data)
            if "checksum" in fields:  # version 0.1 wrote none
                checksum = fields.pop("checksum")
                if hashlib.sha256(data.replace(checksum.encode(), b"", 1)).hexdigest() != checksum:
                    raise ValueError("its checksum is that of other content")
            fields["inputs"] = tuple(FileEntry(**f) for f in fields["inputs"])
            fields["shards"] = tuple(map(_shard_entry, fields["shards"]))
            manifest = cls(**fields)
            manifest._check()
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise LaionPeopleError("damaged-file", f"not a manifest: {error!r}") from error
        return manifest

    @classmethod
    def parse(cls, path: str, data: bytes) -> Self:
        """The manifest that ``path`` holds. Raises LaionPeopleError, naming the file, when it is damaged or another."""
        try:
            manifest = cls.from_json(data)
        except LaionPeopleError as error:
            raise LaionPeopleError(
                "damaged-file", f"{path} is damaged ({error.message}): run again the step that writes it"
            ) from error
        if not manifest._is_at(path):
            step = f"{manifest.step} {manifest.partition}"
            raise LaionPeopleError(
                "damaged-file", f"{path} is the manifest of another, {step}: run again the step that writes it"
            )
        return manifest

    def _is_at(self, path: str) -> bool:
        return path == layout.manifest_path(self.step, self.partition)

    def _check(self) -> None:
        """Raises ValueError for a wrong type or range: manifests of version 0.1 have no checksum."""
        files = (*self.inputs, *(f for s in self.shards for f in s.files()))
        check_values(
            texts=[
                *(self.step, self.partition, self.run_id, *(s.made_sha256 for s in self.shards)),
                *(t for f in files for t in (f.uri, f.sha256, f.tag)),
            ],
            counts=[
                *(self.rows_in, self.rows, self.removed_in, *self.rejected.values(), *(f.bytes for f in files)),
                *(n for s in self.shards for n in (s.index, s.rows)),
            ],
            times=[self.seconds, *self.timings.values()],
        )

    def made_from(self) -> str:
        """A digest of what the output is made from: step with its revision, parameters, models and input files."""
        return _digest([self.step, self.params, self.models, sorted((f.uri, f.sha256) for f in self.inputs)])


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardManifest(Manifest):
    """What a step made of one shard. ``contents`` is None where version 0.1 wrote it."""

    contents: Contents | None = None

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        manifest = super(ShardManifest, cls).from_json(data)
        if isinstance(manifest.contents, dict):
            try:
                object.__setattr__(manifest, "contents", Contents(**manifest.contents))
            except TypeError as error:
                raise LaionPeopleError("damaged-file", f"not a manifest: {error!r}") from error
        return manifest

    @property
    def shard(self) -> ShardEntry:
        return self.shards[0]

    def _check(self) -> None:
        super(ShardManifest, self)._check()
        if len(self.shards) != 1:
            raise ValueError(f"it has {len(self.shards)} shards")

    def _is_at(self, path: str) -> bool:
        """Whether it is in ``manifests/<step>/.../<partition>/<shard>.json``; the scope it does not say itself."""
        end = f"/{self.partition}/{layout.shard_name(self.shard.index)}.json"
        return path.endswith(end) and path.startswith(f"{layout.manifests_folder(self.step)}/")


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionManifest(Manifest):
    """The sum of the shard manifests of a step and a partition."""

    @classmethod
    def of_shards(cls, manifests: Sequence[tuple[FileEntry, ShardManifest]]) -> Self:
        """The sum of shard manifests (at least one), each with its own file."""
        manifests = sorted(manifests, key=lambda pair: pair[1].shard.index)
        last = manifests[-1][1]
        places = {f: n for n, f in enumerate(dict.fromkeys(f for _, m in manifests for f in m.inputs))}
        every = [manifest for _, manifest in manifests]
        return cls(
            step=last.step,
            partition=last.partition,
            run_id=last.run_id,
            params=last.params,
            models=last.models,
            inputs=tuple(places),
            shards=tuple(
                replace(m.shard, manifest=file, made_from=m.made_from(), inputs=tuple(places[f] for f in m.inputs))
                for file, m in manifests
            ),
            rows_in=sum(m.rows_in for m in every),
            rows=sum(m.rows for m in every),
            rejected=added([m.rejected for m in every]),
            seconds=round(sum(m.seconds for m in every), 3),
            timings={k: round(v, 3) for k, v in added([m.timings for m in every]).items()},
            removed_in=sum(m.removed_in for m in every),
        )

    def inputs_of(self, shard: ShardEntry) -> tuple[FileEntry, ...]:
        return tuple(self.inputs[place] for place in shard.inputs)

    def contents_digest(self) -> str:
        """A digest of what was made: the same for the same files, whenever and by whichever run they were made, and
        whatever was removed from them since."""
        files = [(s.uri, s.made_sha256 or s.sha256) for s in self.shards]
        return _digest([self.step, self.params, self.models, files])


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseManifest(Manifest):
    """What a release step made; ``partition`` is the cluster version.

    ``contents`` has the `PartitionManifest.contents_digest` of each partition manifest among the inputs, by path.
    """

    contents: dict[str, str] = field(default_factory=dict)

    def made_from(self) -> str:
        """A digest of what the output is made from, which another audit of the same shards does not change."""
        origin = sorted((f.uri, self.contents.get(f.uri, f.sha256)) for f in self.inputs)
        return _digest([self.step, self.params, self.models, origin])


def check_values(texts: Iterable[Any], counts: Iterable[Any], times: Iterable[Any]) -> None:
    """Raises ValueError, TypeError or OverflowError for a text, a count or a number of seconds that is none."""
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a name is no text")
    if not all(type(count) is int and 0 <= count < 1 << 63 for count in counts):
        raise ValueError("a count is no whole number")
    if not all(math.isfinite(time) and time >= 0 for time in times):
        raise ValueError("a time is no number of seconds")


def added(counts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The sum of counts by name."""
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(sorted(total.items()))


def _shard_entry(fields: dict[str, Any]) -> ShardEntry:
    given = fields.pop("manifest", None)
    sidecars = tuple(FileEntry(**f) for f in fields.pop("sidecars", ()))
    inputs = tuple(fields.pop("inputs", ()))
    manifest = FileEntry(**given) if given else None
    return ShardEntry(**fields, sidecars=sidecars, manifest=manifest, inputs=inputs)


def _without_defaults(fields: dict[str, Any]) -> dict[str, Any]:
    """Without the optional parts of files and shards that are empty: a partition has thousands of them."""
    optional = ("tag", "manifest", "made_from", "inputs", "sidecars", "made_sha256")

    def short(entry: dict[str, Any]) -> dict[str, Any]:
        kept = {name: value for name, value in entry.items() if value or name not in optional}
        return kept | {name: [short(f) for f in kept[name]] for name in ("sidecars",) if name in kept}

    if not fields["removed_in"]:  # of nearly all, and unknown to earlier programs
        del fields["removed_in"]
    return fields | {name: [short(entry) for entry in fields[name]] for name in ("inputs", "shards")}


def _digest(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
