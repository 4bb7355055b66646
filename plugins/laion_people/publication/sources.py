"""What a publication is made from: the tables of some partitions and of a cluster version, as they were audited."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from laion_people.engine.catalog import RELEASE_STEPS, STEPS
from laion_people.engine.files import LocalFiles
from laion_people.errors import LaionPeopleError, UsageError, check_shortage
from laion_people.storage import metadata
from laion_people.storage.layout import PartitionKey, manifests_folder
from laion_people.storage.manifest import FileEntry, PartitionManifest, ReleaseManifest
from laion_people.storage.manifestindex import ManifestIndex
from laion_people.storage.schemas import SCHEMAS, read_table
from laion_people.storage.store import Store
from laion_people.storage.totals import Totals, totals_of
from laion_people.storage.versions import manifest_of, newest, versions

# By table; what describe makes is published where it is there.
WRITERS = {STEPS[name].writes: name for name in ("detect", "pose", "mesh", "facts", "subset_a", "compose", "caption")}
OPTIONAL = {"subset_d": "describe"}
BEHIND = ("download", "clip_filter", "assign", "embed")  # steps whose tables are not published
PARTITIONS_AT_ONCE = 4
MANIFESTS_IN_MIND = 8  # of some megabytes each: those of one partition
Shard = tuple[str, int]  # partition and index


class Partition(NamedTuple):
    """What is kept in mind of an audited partition, whose manifests can have megabytes: for each step the sums and a
    digest of what it made, and the shards."""

    totals: dict[str, Totals]
    digests: dict[str, str]
    shards: tuple[int, ...]


class Sources:
    """The audited tables of partitions, with one cluster version.

    ``partitions`` is what they were when they were looked at; ``release`` are the manifests of cluster and label.
    """

    def __init__(self, store: Store, version: str, partitions: Sequence[str]):
        """Raises LaionPeopleError when a table is not finished, not audited or outdated."""
        self.store, self.version = store, version
        self.release = _release(store, version)
        with ThreadPoolExecutor(PARTITIONS_AT_ONCE) as pool:
            self.partitions = dict(zip(partitions, pool.map(self._audited, partitions), strict=True))
        self._entries = lru_cache(MANIFESTS_IN_MIND)(self._read_entries)

    @property
    def shards(self) -> list[Shard]:
        """All shards, in their order."""
        return [(key, index) for key, partition in self.partitions.items() for index in partition.shards]

    def models(self) -> dict[str, str]:
        """The sha256 of the weights that all of it was made with."""
        made = [totals.models for partition in self.partitions.values() for totals in partition.totals.values()]
        made += [manifest.models for manifest in self.release.values()]
        return dict(sorted(model for models in made for model in models.items()))

    def has(self, table: str) -> bool:
        """Whether some partition has the table; only optional ones can be missing."""
        return table in WRITERS or any(OPTIONAL[table] in partition.digests for partition in self.partitions.values())

    def table(self, table: str, shard: Shard, columns: Sequence[str] = ()) -> pa.Table:
        """A shard's table as its schema has it, or some columns; empty where an optional one was not made.

        Columns that the schema allows to be null are so where an earlier version of the step wrote none.
        """
        step, (partition, index) = (WRITERS | OPTIONAL)[table], shard
        if step not in self.partitions[partition].digests:
            empty = SCHEMAS[table].empty_table()
            return empty.select(columns) if columns else empty
        file = self._entries(step, partition)[index]["parquet"]
        with LocalFiles(self.store) as files:
            return _read(files.verified(file), file.uri, table, columns)

    def images(self, shard: Shard, keys: Iterable[str], columns: Sequence[str]) -> dict[str, dict[str, Any]]:
        """What is known of some images of a shard, by key; a column that their table lacks is null. Of images that were
        made elsewhere it is nothing."""
        partition, index = shard
        if "download" not in self.partitions[partition].digests:
            return {}
        file, wanted = self._entries("download", partition)[index].get("parquet"), set(keys)
        if file is None or not wanted:
            return {}
        with LocalFiles(self.store) as files, _damaged(file.uri):
            parquet = pq.ParquetFile(files.verified(file))
            there = [name for name in columns if name in parquet.schema_arrow.names]
            rows = (
                row
                for batch in parquet.iter_batches(columns=["key", *there])
                for row in batch.filter(pa.array([key in wanted for key in batch["key"].to_pylist()])).to_pylist()
            )
            return {row["key"]: dict.fromkeys(columns) | row for row in rows}

    def clusters(self) -> pa.Table:
        """The clusters of the version, with their captions."""
        (entry,) = self.release["label"].shards
        with LocalFiles(self.store) as files:
            return _read(files.verified(entry.files()[0]), entry.uri, "clusters")

    @contextmanager
    def pictures(self, shard: Shard) -> Iterator[Path]:
        """The tar of a shard's composed pictures, as a local file."""
        with LocalFiles(self.store) as files:
            yield files.verified(self._entries("compose", shard[0])[shard[1]]["tar"])

    def _read_entries(self, step: str, partition: str) -> dict[int, dict[str, FileEntry]]:
        """The files of a partition's table, by shard and the ends of their names, if it still is what it was."""
        manifest = ManifestIndex(self.store).partition(step, partition)
        if manifest is None or manifest.contents_digest() != self.partitions[partition].digests[step]:
            raise LaionPeopleError(
                "outdated", f"{step} {partition} has been made again meanwhile: run the audit and `publish` again"
            )
        return {s.index: {file.uri.rpartition(".")[2]: file for file in s.files()} for s in manifest.shards}

    def _audited(self, partition: str) -> Partition:
        """A partition, if its manifests fit what is there now and each other."""
        index = ManifestIndex(self.store)
        made = {step: self._manifest(index, step, partition) for step in WRITERS.values()}
        optional = [step for step in OPTIONAL.values() if index.partition(step, partition)]
        made |= {step: self._manifest(index, step, partition) for step in optional}
        shards = sorted(shard.index for shard in made["detect"].shards)
        recorded: dict[str, FileEntry] = {
            file.uri: file
            for manifest in (*made.values(), *self.release.values())
            for shard in manifest.shards
            for file in shard.files()
        }
        for step, manifest in made.items():
            if sorted(shard.index for shard in manifest.shards) != shards:
                raise _unaudited(step, partition, self.version)
            for file in manifest.inputs:
                if recorded.get(file.uri, file) != file:
                    raise LaionPeopleError(
                        "outdated",
                        f"{step} {partition} was made from an earlier {file.uri}: run `{step}` and the audit again",
                    )
        behind = {step: index.partition(step, partition) for step in BEHIND}
        every = made | {step: manifest for step, manifest in behind.items() if manifest}
        totals = {step: totals_of(manifest) for step, manifest in every.items()}
        return Partition(totals, {s: manifest.contents_digest() for s, manifest in every.items()}, tuple(shards))

    def _manifest(self, index: ManifestIndex, step: str, partition: str) -> PartitionManifest:
        """A partition manifest, if it is that of this cluster version and of the shards as they are now."""
        entry, whole = STEPS[step], index.partition(step, partition)
        if whole is None or not whole.shards:
            raise _unaudited(step, partition, self.version)
        folder = whole.shards[0].uri.rpartition("/")[0]
        scope = folder.removeprefix(f"{entry.writes}/").removesuffix(partition).rstrip("/")
        if (entry.versioned and scope != self.version) or index.sum(step, partition, scope) != whole:
            raise _unaudited(step, partition, self.version)
        return whole


def chosen_version(store: Store, version: str) -> str:
    """The cluster version of this name, or the newest. Raises UsageError when there is none."""
    if not version:
        if found := newest(store):
            return found
        raise UsageError("unknown-version", "there is no cluster version to publish: run `cluster` first")
    if version not in versions(store):
        raise UsageError("unknown-version", f"there is no finished cluster version {version}")
    return version


def chosen_partitions(store: Store, version: str, partitions: Sequence[str]) -> list[str]:
    """These partitions in their order, or all that have captions of the cluster version.

    Raises UsageError for one that the store does not have, or when there is none.
    """
    if partitions:
        return sorted(set(metadata.known(store, partitions)))
    inside = f"{manifests_folder('caption')}/{version}"
    keys = [
        f"{collection}/{part}"
        for collection in store.folders(inside)
        for part in store.folders(f"{inside}/{collection}")
    ]
    keys = sorted(key for key in keys if PartitionKey.pattern.fullmatch(key))
    if not keys:
        raise UsageError(
            "nothing-to-publish", f"no partition has captions of cluster version {version}: run `caption` first"
        )
    return keys


def _release(store: Store, version: str) -> dict[str, ReleaseManifest]:
    made = {step: manifest_of(store, step, version) for step in RELEASE_STEPS}
    if missing := [step for step, manifest in made.items() if manifest is None or not manifest.shards]:
        raise LaionPeopleError(
            "unfinished",
            f"{missing[0]} {version} is not finished: run `{missing[0]}`, then the audit with --stage cluster",
        )
    return {step: manifest for step, manifest in made.items() if manifest}


def _unaudited(step: str, partition: str, version: str) -> LaionPeopleError:
    entry = STEPS[step]
    clusters = f" --clusters {version}" if entry.stage == "caption" else ""
    described = " --set describe=1" if entry.optional else ""
    return LaionPeopleError(
        "unaudited",
        f"{step} {partition} is not audited as it is now: `bin/laion-people audit {partition} --stage "
        f"{entry.stage}{clusters}{described}` says what it lacks",
    )


def _read(path: Path, uri: str, name: str, columns: Sequence[str] = ()) -> pa.Table:
    """Columns of a table, or all, as its schema has them; see `schemas.read_table`."""
    wanted = [field for field in SCHEMAS[name] if not columns or field.name in columns]
    with _damaged(uri):
        there = pq.read_schema(path).names
        if lacking := next((field.name for field in wanted if not field.nullable and field.name not in there), None):
            raise LaionPeopleError(
                "outdated", f"{uri} is of an earlier version, without {lacking}: run again the step that writes it"
            )
        return read_table(path, name, [field.name for field in wanted]).cast(pa.schema(wanted))


@contextmanager
def _damaged(uri: str) -> Iterator[None]:
    """Says of a file, which is what its manifest says, that it is no such table."""
    try:
        yield
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:  # OSError: a page of it cannot be unpacked
        check_shortage(error)
        raise LaionPeopleError(
            "damaged-file", f"{uri} is damaged ({error}): run again the step that writes it"
        ) from error
