"""Runs steps shard by shard: skips what is done, has whole shards written, counts and records them."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

from laion_people.engine.files import LocalFiles
from laion_people.engine.metrics import Metrics
from laion_people.engine.planning import Planner
from laion_people.engine.releases import run_release
from laion_people.engine.step import ReleaseStep, Step
from laion_people.engine.work import Shard, Work
from laion_people.engine.writing import write_shard
from laion_people.errors import LaionPeopleError, coded
from laion_people.settings import Settings
from laion_people.storage.layout import RELEASE_FILES
from laion_people.storage.manifest import FileEntry, PartitionManifest, ReleaseManifest
from laion_people.storage.removals import RemovalsReader
from laion_people.storage.store import Store
from laion_people.storage.totals import write_totals

log = logging.getLogger(__name__)


class Runner:
    """Runs the steps of one store with one choice of settings and models: see `Planner`."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        models: Any,
        steps: Mapping[str, Step | ReleaseStep],
        run_id: str = "",
    ):
        self.store, self.steps = store, steps
        self.planner = Planner(store, settings, models, steps, run_id or uuid.uuid4().hex)
        self.model = cache(models.load)
        self.metrics = Metrics(settings.statsd)
        self._removals = RemovalsReader(store)

    @property
    def settings(self) -> Settings:
        """Those that were given, with the cluster version that was chosen."""
        return self.planner.settings

    def run(
        self, name: str, partition: str, shards: Sequence[int] | None = None, force: bool = False
    ) -> PartitionManifest:
        """Runs a step, and those that always follow it, on a partition, or on some of its shards.

        Returns the sum of the shards that it has worked on, or found done. For a whole partition that is written too,
        as the partition manifest; what runs beside others leaves that to the audit.

        With ``force``, shards that are done are made again, but those that this very run (of an Airflow DAG) has made:
        a task that is tried or cleared again goes on where it was.

        Raises LaionPeopleError when an input is missing or damaged, or a chosen shard does not exist.
        """
        step = self.planner.step(name)
        self.planner.index.forget()
        step.check(self.store, partition, self.settings, force)
        planned = self.planner.planned(name, partition)
        chosen = planned if shards is None else sorted(set(shards))
        if missing := sorted(set(chosen) - set(planned)):
            raise LaionPeopleError(
                "no-such-shard", f"{name} {partition}: no shard {missing[0]} among {planned[0]} to {planned[-1]}"
            )
        steps = [self.planner.step(each) for each in self.steps_with(name)]
        with LocalFiles(self.store) as shared:
            for done, index in enumerate(chosen, 1):
                with LocalFiles(self.store) as files:
                    for each in steps:
                        label = f"{each.entry.name} {partition} shard {index:05d} ({done} of {len(chosen)})"
                        self._run_shard(each, partition, index, force, files, shared, label)
        for each in steps:
            _remove_surplus(self.planner, each, partition, planned, force)
        if shards is None:
            for each in steps:
                self.write_sum(each.entry.name, partition)
        return self.sum(name, partition, chosen)

    def steps_with(self, name: str) -> list[str]:
        """A step and those that always follow it."""
        return [name, *self.steps[name].entry.followed_by]

    def run_release(self, name: str, partitions: Sequence[str], force: bool = False) -> ReleaseManifest:
        """Runs a release-wide step; a step that opens a version re-uses one made from the same input and parameters."""
        step = self.steps[name]
        assert isinstance(step, ReleaseStep)
        with located(name, self.metrics) as works:
            manifest = run_release(self.planner, step, sorted(set(partitions)), force, works)
        self.metrics.finished(manifest)
        return manifest

    def write_sum(self, name: str, partition: str) -> FileEntry:
        """Writes the partition manifest and the totals, where they are not there already; returns that file."""
        manifest = self.sum(name, partition)
        file = self.planner.index.write_sum(manifest)
        write_totals(self.store, manifest, len(self.planner.planned(name, partition)))
        return file

    def sum(self, name: str, partition: str, shards: Sequence[int] | None = None) -> PartitionManifest:
        """The sum of the manifests of a partition's shards, or of some. Raises LaionPeopleError without any."""
        scope = self.planner.scope(self.planner.step(name).entry.writes)
        manifest = self.planner.index.sum(name, partition, scope, shards)
        if manifest is None:
            raise LaionPeopleError("unfinished", f"{name} {partition}: no finished shard")
        return manifest

    def _run_shard(
        self,
        step: Step,
        partition: str,
        index: int,
        force: bool,
        files: LocalFiles,
        shared: LocalFiles,
        label: str,
    ) -> None:
        """``files`` are the shard's, ``shared`` those that all shards read."""
        planner, name = self.planner, step.entry.name
        with located(label, self.metrics) as works:
            inputs = planner.inputs.of_shard(step, partition, index, files)
            plan = planner.plan(step, partition, inputs)
            earlier, reason = planner.state(step, index, plan, force)
            if reason is None:
                log.info("%s: done before", label)
                return
            log.info("%s: starts (%s)", label, reason)
            start = time.perf_counter()
            shard = Shard(
                partition,
                index,
                settings=self.settings,
                store=self.store,
                model=self.model,
                files={
                    table: (shared if table in RELEASE_FILES else files).verified(file)
                    for table, file in inputs.items()
                    if table != "metadata"
                },
                inputs=inputs,
                columns=step.entry.reads,
                earlier=earlier,
                force=force,
                removed=self._removals.read,
            )
            works.append(shard)
            entry, contents = write_shard(step, shard, planner.shard_stem(name, partition, index), files, label)
            manifest = replace(
                plan,
                shards=(entry,),
                rows_in=shard.rows_in,
                rows=entry.rows,
                rejected=dict(sorted(shard.rejected.items())),
                seconds=round(time.perf_counter() - start, 3),
                timings=shard.rounded_timings(),
                contents=contents,
            )
            planner.index.write(planner.manifest_path(name, partition, index), manifest)
        self.metrics.finished(manifest)
        lost = ", ".join(f"{n} {r}" for r, n in shard.rejected.most_common()) or "none"
        log.info("%s: %d in, %d out, rejected: %s; %.1f s", label, shard.rows_in, entry.rows, lost, manifest.seconds)


def _remove_surplus(planner: Planner, step: Step, partition: str, planned: Sequence[int], force: bool) -> None:
    """Deletes shards of an earlier plan that this plan does not have; irreplaceable ones only with ``force``.

    The manifest goes last, so that who is killed in between leaves nothing that the next run cannot find.
    """
    name = step.entry.name
    for index, path in planner.manifest_paths(name, partition).items():
        if index in planned:
            continue
        if step.irreplaceable and not force:
            log.warning(
                coded("surplus-shard", "%s is beyond the %d shards planned, and is kept: --force deletes it"),
                path,
                len(planned),
            )
            continue
        stem = planner.shard_stem(name, partition, index)
        for file in planner.store.list(stem.rpartition("/")[0]):
            if file.startswith((f"{stem}.", f"{stem}_")):
                planner.store.delete(file)
        planner.index.delete(path)


@contextmanager
def located(label: str, metrics: Metrics) -> Iterator[list[Work]]:
    """Counts a failure, and adds to the error where it happened and how many rows the last of the works had done: the
    line that the command ends with says so."""
    works: list[Work] = []
    try:
        yield works
    except BaseException as error:
        if not isinstance(error, KeyboardInterrupt):
            metrics.failed(label.partition(" ")[0])
        work = works[-1] if works else Work()
        error.add_note(f"{label}, {work.rows_in:,} rows in, {work.rows:,} out")
        raise
