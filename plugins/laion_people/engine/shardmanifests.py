"""The manifests of shards as one process sees them: each folder is listed once a run, each manifest read once."""

from __future__ import annotations

from laion_people.engine.step import shard_files
from laion_people.storage.manifest import Manifest, parse_receipt
from laion_people.storage.store import Store

WRITTEN = "written"  # stands for the tag of a file that this process has written


class ShardManifests:
    """``forget`` before each run: what others have done meanwhile is seen then, and what has not changed, not read."""

    def __init__(self, store: Store):
        self._store = store
        self._tags: dict[str, dict[str, str]] = {}  # folder -> path -> tag
        self._read: dict[str, tuple[str, Manifest]] = {}  # path -> tag, manifest

    def forget(self) -> None:
        """Has folders listed anew."""
        self._tags.clear()

    def paths(self, folder: str) -> dict[int, str]:
        """Where the manifests below a folder lie, by shard; other files are passed over."""
        return shard_files(self._listed(folder), folder, ".json")

    def read(self, path: str) -> Manifest | None:
        """A manifest, or None when there is none. Raises LaionPeopleError, naming the file, for a damaged one."""
        tag = self._listed(path.rpartition("/")[0]).get(path)
        if tag is None:
            return None
        if path not in self._read or self._read[path][0] != tag:
            self._read[path] = tag, parse_receipt(path, self._store.read(path))
        return self._read[path][1]

    def write(self, path: str, manifest: Manifest) -> None:
        self._store.write(path, manifest.to_json())
        self._listed(path.rpartition("/")[0])[path] = WRITTEN
        self._read[path] = WRITTEN, manifest

    def delete(self, path: str) -> None:
        self._store.delete(path)
        self._listed(path.rpartition("/")[0]).pop(path, None)

    def _listed(self, folder: str) -> dict[str, str]:
        if folder not in self._tags:
            self._tags[folder] = self._store.tags(folder)
        return self._tags[folder]
