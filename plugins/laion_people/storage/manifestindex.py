"""What a process knows of the manifests of a store: folders are listed once a run, each manifest is read once."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import NamedTuple

from laion_people.errors import LaionPeopleError, MissingError, OutsideError, coded
from laion_people.storage import layout
from laion_people.storage.manifest import FileEntry, PartitionManifest, ShardEntry, ShardManifest
from laion_people.storage.store import Store

log = logging.getLogger(__name__)

READERS = 16  # files that are read at a time: of a bucket, each takes some 20 ms


class ShardRecord(NamedTuple):
    """What others must know of a shard: its files, the inputs, and the digest of all that it was made from."""

    files: tuple[FileEntry, ...]
    inputs: tuple[FileEntry, ...]
    made_from: str


class Listings:
    """The files of a store as they are listed: each folder once, until `forget`. May be used by several threads."""

    def __init__(self, store: Store):
        self._store, self._lock = store, Lock()
        self._tags: dict[str, dict[str, str]] = {}  # folder -> path -> tag

    def forget(self) -> None:
        self._tags.clear()

    def tag(self, path: str) -> str | None:
        """The tag that a file had when its folder was listed; None when it was not there."""
        return self.of(path.rpartition("/")[0]).get(path)

    def of(self, folder: str) -> dict[str, str]:
        """The paths below a folder, with their tags; who writes or deletes a file there changes it."""
        with self._lock:
            if folder not in self._tags:
                self._tags[folder] = self._store.tags(folder)
            return self._tags[folder]


class ManifestIndex:
    """The manifests of a store. Call ``forget`` before each run: folders are listed again, and manifests that have
    changed are read again."""

    def __init__(self, store: Store):
        self.store, self.listings = store, Listings(store)
        self._read: dict[str, tuple[FileEntry, ShardManifest]] = {}  # by path
        self._partitions: dict[str, PartitionManifest | None] = {}  # by path
        self._files: dict[str, FileEntry] = {}  # of partition manifests
        self._shards: dict[str, dict[int, ShardEntry]] = {}  # those of partition manifests, by path and index

    def forget(self) -> None:
        """Has folders listed anew."""
        self.listings.forget()
        for known in (self._partitions, self._files, self._shards):
            known.clear()

    def tag(self, path: str) -> str | None:
        """The tag that any file of the store had when its folder was listed; None when it was not there."""
        return self.listings.tag(path)

    def paths(self, step: str, partition: str, scope: str = "") -> dict[int, str]:
        """Where the shard manifests of a step and a partition lie, by shard; other files are passed over."""
        folder = layout.shard_manifests_folder(step, partition, scope)
        return layout.shards_in(self.listings.of(folder), folder, ".json")

    def read(self, path: str) -> ShardManifest | None:
        """A shard manifest, or None when there is none.

        Raises LaionPeopleError, naming the file, for a damaged one.
        """
        tag = self.tag(path)
        if tag is None:
            return None
        if path not in self._read or self._read[path][0].tag != tag:
            data = self.store.read(path)
            entry = FileEntry(path, len(data), hashlib.sha256(data).hexdigest(), tag)
            self._read[path] = entry, ShardManifest.parse(path, data)
        return self._read[path][1]

    def read_all(self, paths: Iterable[str]) -> dict[str, ShardManifest | LaionPeopleError]:
        """Shard manifests that are there, or why they cannot be read, by path; several are read at a time."""

        def try_to_read(path: str) -> ShardManifest | LaionPeopleError | None:
            try:
                return self.read(path)
            except MissingError:  # deleted since it was listed
                return None
            except OutsideError:
                raise
            except LaionPeopleError as error:
                return error

        paths = list(paths)
        with ThreadPoolExecutor(READERS) as pool:
            return {
                path: read for path, read in zip(paths, pool.map(try_to_read, paths), strict=True) if read is not None
            }

    def write(self, path: str, manifest: ShardManifest) -> None:
        data = manifest.to_json()
        entry = FileEntry(path, len(data), hashlib.sha256(data).hexdigest(), self.store.write(path, data))
        self.listings.of(path.rpartition("/")[0])[path] = entry.tag
        self._read[path] = entry, manifest

    def delete(self, path: str) -> None:
        self.store.delete(path)
        self.listings.of(path.rpartition("/")[0]).pop(path, None)

    def record(self, step: str, partition: str, index: int, scope: str = "") -> ShardRecord | None:
        """What is recorded of a finished shard, or None: from the partition manifest, as far as that is up to date."""
        path = layout.shard_manifest_path(step, partition, index, scope)
        if self.tag(path) is None:
            return None
        if path not in self._read and (shard := self._summed(step, partition, index, path)):
            whole = self.partition(step, partition)
            assert whole
            return ShardRecord(shard.files(), whole.inputs_of(shard), shard.made_from)
        manifest = self.read(path)
        return ShardRecord(manifest.shard.files(), manifest.inputs, manifest.made_from()) if manifest else None

    def prepare(self, step: str, partition: str, scope: str = "") -> None:
        """Reads all that `record` needs for the shards of a partition, several files at a time."""
        paths = self.paths(step, partition, scope)
        self.read_all(path for index, path in paths.items() if not self._summed(step, partition, index, path))

    def partition(self, step: str, partition: str) -> PartitionManifest | None:
        """The partition manifest as it was last written; None where there is none, or, with a warning, a damaged one.

        It may be older than the shard manifests: see `sum`.
        """
        path = layout.manifest_path(step, partition)
        if path not in self._partitions:
            whole = self._partitions[path] = self._partition(path)
            self._shards[path] = {shard.index: shard for shard in whole.shards} if whole else {}
        return self._partitions[path]

    def sum(
        self, step: str, partition: str, scope: str = "", shards: Iterable[int] | None = None
    ) -> PartitionManifest | None:
        """The sum of all shard manifests of a step and a partition, or of those of some shards; None without any.

        Only what the partition manifest does not say already is read; and that, which can have megabytes, only if the
        shards' own are not known. Raises LaionPeopleError for a damaged one.
        """
        paths = self.paths(step, partition, scope)
        chosen = [paths[index] for index in (paths if shards is None else shards) if index in paths]
        if shards is None and not self._have_read(chosen) and (whole := self._current(step, partition, chosen)):
            return whole
        manifests = self.read_all(chosen)
        for error in manifests.values():
            if isinstance(error, LaionPeopleError):
                raise error
        pairs = [self._read[path] for path in manifests]
        return PartitionManifest.of_shards(pairs) if pairs else None

    def write_sum(self, manifest: PartitionManifest) -> FileEntry:
        """Writes a partition manifest, unless that is what is there; returns its own file."""
        path = layout.manifest_path(manifest.step, manifest.partition)
        if self.partition(manifest.step, manifest.partition) is not manifest:
            data = manifest.to_json()
            file = FileEntry(path, len(data), hashlib.sha256(data).hexdigest())
            if self._files.get(path) != file:
                self.store.write(path, data)
            self._files[path], self._partitions[path] = file, manifest
            self._shards[path] = {shard.index: shard for shard in manifest.shards}
        return self._files[path]

    def _summed(self, step: str, partition: str, index: int, path: str) -> ShardEntry | None:
        """What the partition manifest says of a shard, if its manifest is still the one that was summed."""
        self.partition(step, partition)
        shard = self._shards[layout.manifest_path(step, partition)].get(index)
        named = (shard.manifest.uri, shard.manifest.tag) if shard and shard.manifest else None
        return shard if shard and shard.made_from and named == (path, self.tag(path)) else None

    def _have_read(self, paths: Iterable[str]) -> bool:
        """Whether the shard manifests at these paths are known as they are now."""
        return all(path in self._read and self._read[path][0].tag == self.tag(path) for path in paths)

    def _current(self, step: str, partition: str, paths: Iterable[str]) -> PartitionManifest | None:
        """The partition manifest, if it is that of the shard manifests at these paths as they are now."""
        whole = self.partition(step, partition)
        if whole is None or not all(shard.manifest for shard in whole.shards):
            return None
        named = {shard.manifest.uri: shard.manifest.tag for shard in whole.shards if shard.manifest}
        return whole if named == {path: self.tag(path) for path in paths} else None

    def _partition(self, path: str) -> PartitionManifest | None:
        try:
            data = self.store.read(path)
        except MissingError:
            return None
        self._files[path] = FileEntry(path, len(data), hashlib.sha256(data).hexdigest())
        try:
            return PartitionManifest.parse(path, data)
        except LaionPeopleError as error:
            log.warning(coded("damaged-record", "%s; until then its shards' own are read"), error.message)
            return None
