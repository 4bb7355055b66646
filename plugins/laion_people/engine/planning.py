"""What is to be done: the shards of a partition, what each is made from, and whether it is there and up to date."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache
from typing import Any

from include.models.errors import ModelError
from laion_people.engine.catalog import CAPTIONER, CLUSTERS, SCOPES
from laion_people.engine.files import LocalFiles
from laion_people.engine.step import ReleaseStep, Step
from laion_people.errors import LaionPeopleError, StoreError
from laion_people.settings import Settings
from laion_people.storage import layout, metadata
from laion_people.storage.layout import RELEASE_FILES
from laion_people.storage.manifest import FileEntry, Manifest, ShardManifest
from laion_people.storage.manifestindex import ManifestIndex
from laion_people.storage.store import Store
from laion_people.storage.versions import newest


class Planner:
    """Plans the steps of one store with one choice of settings and models.

    ``models`` is an ``include.models.profiles.Profile``, or has its ``load``, ``params``, ``model_name`` and
    ``fingerprint``.
    """

    def __init__(
        self, store: Store, settings: Settings, models: Any, steps: Mapping[str, Step | ReleaseStep], run_id: str
    ):
        self.store, self.settings, self.models, self.steps, self.run_id = store, settings, models, steps, run_id
        self.index = ManifestIndex(store)
        self._writers = {s.entry.writes: s.entry.name for s in steps.values() if isinstance(s, Step)}

    def step(self, name: str) -> Step:
        """A step that works on shards; one that works with clusters has the settings name a version from then on."""
        step = self.steps[name]
        assert isinstance(step, Step), f"{name} is a release step"
        if step.entry.versioned:
            self.choose_version()
        return step

    def choose_version(self) -> None:
        """Has the settings name the newest cluster version, unless they name one."""
        if not self.settings.cluster_version:
            self.settings = dataclasses.replace(self.settings, cluster_version=newest(self.store))

    def scope(self, table: str) -> str:
        """What a table belongs to beside its partition: a cluster version, a captioner, or nothing ("")."""
        match SCOPES.get(table, ""):
            case str(scope) if scope == CLUSTERS:
                return self.settings.cluster_version
            case str(scope) if scope == CAPTIONER:
                return str(self.models.model_name("captioner"))
        return ""

    def writer(self, table: str) -> str | None:
        """The step that writes a table; None for metadata and release files."""
        return self._writers.get(table)

    def planned(self, name: str, partition: str) -> list[int]:
        """The shards that a step should make of a partition. Raises LaionPeopleError when there is nothing to read."""
        step = self.step(name)
        first = step.entry.reads[0]
        planned = step.plan(self.store, partition, self.settings, self.scope(first))
        if not planned:
            raise LaionPeopleError(f"{name} {partition}: there is no {first} to read; run the step before it")
        return planned

    def shard_stem(self, name: str, partition: str, index: int) -> str:
        """Where the files of a step's shard lie, but for the ends of their names (.parquet, .tar, ...)."""
        table = self.step(name).entry.writes
        return layout.shard_stem(table, partition, index, self.scope(table))

    def manifest_path(self, name: str, partition: str, index: int) -> str:
        """Where the manifest of a step's shard lies."""
        table = self.step(name).entry.writes
        return layout.shard_manifest_path(name, partition, index, self.scope(table))

    def manifest_paths(self, name: str, partition: str) -> dict[int, str]:
        """Where the manifests of a partition's finished shards lie, by shard."""
        return self.index.paths(name, partition, self.scope(self.step(name).entry.writes))

    def inputs(
        self, step: Step, partition: str, index: int, files: LocalFiles, deep: bool = False
    ) -> dict[str, FileEntry]:
        """The input files of a shard, by name, as their writers recorded them; what was made elsewhere is hashed,
        unless somebody has recorded it as it is and nobody asks to go ``deep``.

        Raises LaionPeopleError when one is missing, or was made from an earlier other one.
        """
        records = {}
        for name in step.entry.reads:
            if (writer := self.writer(name)) and (
                record := self.index.record(writer, partition, index, self.scope(name))
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
                raise LaionPeopleError(f"{uri} is not in its manifest: run again the step that writes it")
            inputs[name] = made or self._made_elsewhere(
                name, uri, None if deep else recorded.get(uri), partition, files
            )
        now = {entry.uri: entry.sha256 for entry in inputs.values()}
        for name, record in records.items():
            for file in record.inputs:
                if now.get(file.uri, file.sha256) != file.sha256:
                    writer = self.writer(name)
                    raise LaionPeopleError(f"its {name} was made from an earlier {file.uri}: run `{writer}` first")
        return inputs

    def plan(self, step: Step, partition: str, inputs: Mapping[str, FileEntry]) -> Manifest:
        """The manifest of a shard that is still to be made from these inputs."""
        return Manifest(
            step=step.entry.name,
            partition=partition,
            run_id=self.run_id,
            params={"revision": step.revision}
            | step.params(self.settings)
            | {role: self.models.params(role) for role in step.entry.roles},
            models={k: v for role in step.entry.roles for k, v in self.models.fingerprint(role).items()},
            inputs=tuple(inputs.values()),
        )

    def state(
        self, step: Step, index: int, plan: Manifest, force: bool = False
    ) -> tuple[ShardManifest | None, str | None]:
        """The manifest of a shard, if it can be read, and why the shard must be worked on, or None when it is done.

        The manifest stays until another takes its place: of files that are newer it says that they are damaged. With
        ``force`` a shard is made once a run, also if its task is tried or cleared again.
        """
        try:
            made = self.index.read(self.manifest_path(step.entry.name, plan.partition, index))
        except StoreError:  # a store that does not answer is no damage, for which all were made anew
            raise
        except LaionPeopleError as error:
            return None, str(error)
        if made is None:
            return None, "new"
        if made.made_from() != plan.made_from():
            return made, "input, parameters or models have changed"
        if made.run_id == self.run_id:
            return made, self.damage(made)
        return made, "forced" if force else self.damage(made) or step.needs_rework(made)

    def unfinished(self, name: str, partition: str, index: int) -> str | None:
        """Why a shard is still to be made or worked on once more, or None when it is done."""
        step = self.step(name)
        try:
            with LocalFiles(self.store) as files:
                plan = self.plan(step, partition, self.inputs(step, partition, index, files))
        except (LaionPeopleError, ModelError) as error:  # an input is still to be made, or weights to be fetched
            return str(error)
        return self.state(step, index, plan)[1]

    def outdated(self, made: ShardManifest, files: LocalFiles, deep: bool = False) -> str | None:
        """Why a shard would be made otherwise today, or None."""
        step = self.step(made.step)
        plan = self.plan(step, made.partition, self.inputs(step, made.partition, made.shard.index, files, deep))
        if made.made_from() != plan.made_from():
            return "input, parameters or models have changed"
        return None if set(made.inputs) == set(plan.inputs) else "its manifest has other sizes of its inputs"

    def damage(self, manifest: Manifest) -> str | None:
        """What is wrong with the files of a manifest, or None. Only those are read that may have changed."""
        for file in (file for shard in manifest.shards for file in shard.files()):
            if (tag := self.index.tag(file.uri)) is None:
                return f"{file.uri} is missing"
            if tag != file.tag and (self.store.size(file.uri), self.store.sha256(file.uri)) != (
                file.bytes,
                file.sha256,
            ):
                return f"{file.uri} is damaged"
        return None

    def _earlier(self, step: Step, partition: str, index: int) -> ShardManifest | None:
        """The manifest of the shard as it is; None where it cannot be read, which `state` says why."""
        try:
            return self.index.read(self.manifest_path(step.entry.name, partition, index))
        except StoreError:
            raise
        except LaionPeopleError:
            return None

    def _input_uri(self, name: str, partition: str, index: int) -> str:
        if name == "metadata":
            return self._metadata(partition).uri
        if name in RELEASE_FILES:
            return layout.cluster_path(self.settings.cluster_version, RELEASE_FILES[name])
        return layout.shard_file(name, partition, index, self.scope(name))

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
