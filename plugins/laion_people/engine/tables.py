"""Where the tables of a store lie for one choice of settings and models, and which step writes each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from laion_people.engine.catalog import CAPTIONER, CLUSTERS, SCOPES
from laion_people.engine.step import ReleaseStep, Step
from laion_people.errors import LaionPeopleError
from laion_people.settings import Settings
from laion_people.storage import layout
from laion_people.storage.store import Store
from laion_people.storage.versions import newest


class Tables:
    """The tables and steps of one store with one choice of settings and models.

    ``models`` is an ``include.models.profiles.Profile``, or has its ``load``, ``params``, ``model_name`` and
    ``fingerprint``.
    """

    def __init__(self, store: Store, settings: Settings, models: Any, steps: Mapping[str, Step | ReleaseStep]):
        self.store, self.settings, self.models, self.steps = store, settings, models, steps
        self._writers = {s.entry.writes: s.entry.name for s in steps.values() if isinstance(s, Step)}

    def step(self, name: str) -> Step:
        """A step that works on shards; one that works with clusters has the settings name a version from then on."""
        step = self.steps[name]
        assert isinstance(step, Step), f"{name} is a release step"
        if step.entry.versioned:
            self.choose_version()
        return step

    def choose_version(self) -> None:
        """Has the settings name the newest cluster version, unless they name one.

        Raises LaionPeopleError when there is none.
        """
        if not self.settings.cluster_version:
            version = newest(self.store)
            if not version:
                raise LaionPeopleError("unknown-version", "there is no cluster version: run `cluster` first")
            self.settings = dataclasses.replace(self.settings, cluster_version=version)

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

    def shard_stem(self, name: str, partition: str, index: int) -> str:
        """Where the files of a step's shard lie, but for the ends of their names (.parquet, .tar, ...)."""
        table = self.step(name).entry.writes
        return layout.shard_stem(table, partition, index, self.scope(table))

    def manifest_path(self, name: str, partition: str, index: int) -> str:
        """Where the manifest of a step's shard lies."""
        table = self.step(name).entry.writes
        return layout.shard_manifest_path(name, partition, index, self.scope(table))
