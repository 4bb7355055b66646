"""What is to be done: the shards of a partition, what each is made from, and whether it is there and up to date."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from include.models.errors import ModelError
from laion_people.engine.files import LocalFiles
from laion_people.engine.inputs import Inputs
from laion_people.engine.step import ReleaseStep, Step
from laion_people.engine.tables import Tables
from laion_people.errors import LaionPeopleError, OutsideError, coded
from laion_people.settings import Settings
from laion_people.storage.manifest import FileEntry, ShardManifest
from laion_people.storage.manifestindex import ManifestIndex
from laion_people.storage.store import Store


class Planner(Tables):
    """Plans shards for one run: what is done by the manifests that it finds is not done again."""

    def __init__(
        self, store: Store, settings: Settings, models: Any, steps: Mapping[str, Step | ReleaseStep], run_id: str
    ):
        super().__init__(store, settings, models, steps)
        self.run_id, self.index = run_id, ManifestIndex(store)
        self.inputs = Inputs(self, self.index)

    def planned(self, name: str, partition: str) -> list[int]:
        """The shards that a step should make of a partition. Raises LaionPeopleError when there is nothing to read."""
        step = self.step(name)
        first = step.entry.first_input
        planned = step.plan(self.store, partition, self.settings, self.scope(first))
        if not planned:
            raise LaionPeopleError(
                "unfinished", f"{name} {partition}: there is no {first} to read; run the step before it"
            )
        return planned

    def manifest_paths(self, name: str, partition: str) -> dict[int, str]:
        """Where the manifests of a partition's finished shards lie, by shard."""
        return self.index.paths(name, partition, self.scope(self.step(name).entry.writes))

    def plan(self, step: Step, partition: str, inputs: Mapping[str, FileEntry]) -> ShardManifest:
        """The manifest of a shard that is still to be made from these inputs: it has no shard yet."""
        return ShardManifest(
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
        self, step: Step, index: int, plan: ShardManifest, force: bool = False
    ) -> tuple[ShardManifest | None, str | None]:
        """The manifest of a shard, if it can be read, and why the shard must be worked on, or None when it is done.

        A shard that is made again keeps its old manifest until the new one is written; until then its new files count
        as damaged. With ``force`` a shard is made once a run, also if its task is tried or cleared again.
        """
        try:
            made = self.index.read(self.manifest_path(step.entry.name, plan.partition, index))
        except OutsideError:  # a store that does not answer is no damage, for which all were made anew
            raise
        except LaionPeopleError as error:
            return None, str(error)
        if made is None:
            return None, "new"
        if made.made_from() != plan.made_from():
            return made, "input, parameters or models have changed"
        if made.run_id == self.run_id:
            return made, self.damage(made.shard.files())
        return made, "forced" if force else self.damage(made.shard.files()) or step.needs_rework(made)

    def unfinished(self, name: str, partition: str, index: int) -> str | None:
        """Why a shard is still to be made or worked on once more, or None when it is done."""
        step = self.step(name)
        try:
            with LocalFiles(self.store) as files:
                plan = self.plan(step, partition, self.inputs.of_shard(step, partition, index, files))
            scope = self.scope(step.entry.writes)
            record = None if step.reworks else self.index.record(name, partition, index, scope)
        except OutsideError:
            raise
        except (LaionPeopleError, ModelError) as error:  # an input is still to be made, or weights to be fetched
            return str(error)
        if record and record.made_from == plan.made_from():
            return self.damage(record.files)
        return self.state(step, index, plan)[1]

    def outdated(self, made: ShardManifest, files: LocalFiles, deep: bool = False) -> str | None:
        """Why a shard would be made otherwise today, or None."""
        step = self.step(made.step)
        plan = self.plan(
            step, made.partition, self.inputs.of_shard(step, made.partition, made.shard.index, files, deep)
        )
        if made.made_from() != plan.made_from():
            return coded("outdated", f"input, parameters or models have changed: run `{made.step}` again")
        if set(made.inputs) != set(plan.inputs):
            return coded("wrong-manifest", f"its manifest has other sizes of its inputs: run `{made.step}` with force")
        return None

    def damage(self, files: Iterable[FileEntry]) -> str | None:
        """What is wrong with files, or None. Only those are read that may have changed."""
        for file in files:
            if (tag := self.index.tag(file.uri)) is None:
                return f"{file.uri} is missing"
            if tag != file.tag and (self.store.size(file.uri), self.store.sha256(file.uri)) != (
                file.bytes,
                file.sha256,
            ):
                return f"{file.uri} is damaged"
        return None
