"""What a step reads for a shard, as those who wrote it have recorded it."""

from __future__ import annotations

from functools import cache

from laion_people.engine.files import LocalFiles
from laion_people.engine.step import Step
from laion_people.engine.tables import Tables
from laion_people.errors import LaionPeopleError, OutsideError
from laion_people.storage import layout, metadata
from laion_people.storage.layout import RELEASE_FILES
from laion_people.storage.manifest import FileEntry
from laion_people.storage.manifestindex import ManifestIndex, ShardRecord


class Inputs:
    """Finds the input files of shards by the manifests of those that wrote them."""

    def __init__(self, tables: Tables, index: ManifestIndex):
        self.tables, self.store, self.index = tables, tables.store, index

    def of_shard(
        self, step: Step, partition: str, index: int, files: LocalFiles, deep: bool = False
    ) -> dict[str, FileEntry]:
        """The input files of a shard, by name, as their writers recorded them. Files made elsewhere are hashed, unless
        a record has their tag and ``deep`` is off.

        Raises LaionPeopleError when one is missing, or was made from an earlier other one.
        """
        records = {}
        for name in step.entry.reads:
            if (writer := self.tables.writer(name)) and (
                record := self.index.record(writer, partition, index, self.tables.scope(name))
            ):
                records[name] = record
        recorded = {file.uri: file for record in records.values() for file in record.inputs}
        if own := self._earlier(step, partition, index):
            recorded |= {file.uri: file for file in own.inputs}
        inputs = {}
        for name in step.entry.reads:
            uri = self._input_uri(name, partition, index)
            made = next((f for f in records[name].files if f.uri == uri), None) if name in records else None
            if name in records and made is None:
                raise LaionPeopleError(
                    "wrong-manifest", f"{uri} is not in its manifest: run again the step that writes it"
                )
            inputs[name] = made or self._made_elsewhere(
                name, uri, None if deep else recorded.get(uri), partition, files
            )
        now = {entry.uri: entry.sha256 for entry in inputs.values()}
        for name, record in records.items():
            for file in record.inputs:
                if now.get(file.uri, file.sha256) != file.sha256:
                    writer = self.tables.writer(name)
                    raise LaionPeopleError(
                        "outdated", f"its {name} was made from an earlier {file.uri}: run `{writer}` first"
                    )
        return inputs

    def _earlier(self, step: Step, partition: str, index: int) -> ShardRecord | None:
        """The record of the shard as it is; None if it cannot be read; `Planner.state` says why."""
        try:
            return self.index.record(step.entry.name, partition, index, self.tables.scope(step.entry.writes))
        except OutsideError:
            raise
        except LaionPeopleError:
            return None

    def _input_uri(self, name: str, partition: str, index: int) -> str:
        if name == "metadata":
            return self._metadata(partition).uri
        if name in RELEASE_FILES:
            return layout.cluster_path(self.tables.settings.cluster_version, RELEASE_FILES[name])
        return layout.shard_file(name, partition, index, self.tables.scope(name))

    def _made_elsewhere(
        self, name: str, uri: str, recorded: FileEntry | None, partition: str, files: LocalFiles
    ) -> FileEntry:
        """An input that no step has recorded as its output."""
        if name == "metadata":
            return self._metadata(partition)
        if name in RELEASE_FILES:
            return self._release_file(uri)
        tag = self.index.tag(uri) or ""
        return recorded if recorded and tag and recorded.tag == tag else files.described(uri, tag)

    @cache  # noqa: B019 - the same for every shard, and a Planner lives as long as its process
    def _release_file(self, uri: str) -> FileEntry:
        with LocalFiles(self.store) as files:
            return files.described(uri, self.store.tag(uri))

    @cache  # noqa: B019
    def _metadata(self, partition: str) -> FileEntry:
        return metadata.recorded(self.store, partition).shards[0].files()[0]
