"""Runs a step on a whole release: at a cost that grows with the partitions, not with their shards."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from laion_people.engine.files import LocalFiles
from laion_people.engine.planning import Planner
from laion_people.engine.step import ReleaseStep
from laion_people.engine.work import Release, Work
from laion_people.errors import LaionPeopleError
from laion_people.storage import layout
from laion_people.storage.manifest import FileEntry, PartitionManifest, ReleaseManifest, ShardEntry
from laion_people.storage.manifestindex import ManifestIndex
from laion_people.storage.totals import write_totals
from laion_people.storage.versions import TAKEN, manifest_of, take, versions

log = logging.getLogger(__name__)

PARTITIONS_AT_ONCE = 8
PARTITION_TABLES = 32  # whose files are kept in mind while the sample is read: some megabytes each


def run_release(
    planner: Planner, step: ReleaseStep, partitions: Sequence[str], force: bool, works: list[Work]
) -> ReleaseManifest:
    """Runs a release step; adds its work to ``works``. Sets the planner's cluster version.

    Raises LaionPeopleError when a shard of the partitions is not finished.
    """
    name, store = step.entry.name, planner.store
    if not step.opens_version:
        planner.choose_version()
    inputs = _Inputs(planner, step, partitions)
    plan = ReleaseManifest(
        step=name,
        partition=planner.settings.cluster_version,
        run_id=planner.run_id,
        params=step.params(planner.settings) | {"partitions": list(partitions)},
        inputs=tuple(inputs.files),
        contents=inputs.digests,
    )
    if step.opens_version:
        same = _same_version(planner, plan, force)
        version = same.partition if same else take(store, plan.made_from(), planner.run_id)
        planner.settings = dataclasses.replace(planner.settings, cluster_version=version)
        if same:
            log.info("%s: version %s is made from the same input and parameters", name, version)
            return same
        plan = dataclasses.replace(plan, partition=version)
    log.info("%s: version %s of %d partitions, %d shards", name, plan.partition, len(partitions), len(inputs.shards))
    start = time.perf_counter()
    release = Release(
        plan.partition,
        partitions,
        settings=planner.settings,
        store=store,
        local=inputs.local,
        shards=inputs.shards,
        columns=step.entry.reads,
    )
    works.append(release)
    rows, names = step.apply(release)
    names += [TAKEN] if step.opens_version else []
    tags = store.tags(layout.clusters_folder(plan.partition))
    with LocalFiles(store) as local:
        main, *others = (local.described(uri, tags.get(uri, "")) for uri in map(release.path, names))
    manifest = dataclasses.replace(
        plan,
        shards=(ShardEntry(0, main.uri, rows, main.bytes, main.sha256, tuple(others), main.tag),),
        rows_in=release.rows_in,
        rows=rows,
        rejected=dict(sorted(release.rejected.items())),
        seconds=round(time.perf_counter() - start, 3),
        timings=release.rounded_timings(),
    )
    store.write(layout.manifest_path(name, plan.partition), manifest.to_json())
    write_totals(store, manifest, planned=1)
    log.info("%s: version %s has %d clusters; %.1f s", name, plan.partition, rows, manifest.seconds)
    return manifest


class _Inputs:
    """What a release step reads: the partition manifests of its tables, and release files.

    ``files`` are their records, ``digests`` the partition manifests' `contents_digest` by path, ``shards`` all shards
    of the release.
    """

    def __init__(self, planner: Planner, step: ReleaseStep, partitions: Sequence[str]):
        self.planner = planner
        self.files: list[FileEntry] = []
        self.digests: dict[str, str] = {}
        self.shards: list[tuple[str, int]] = []
        self._tables = [name for name in step.entry.reads if planner.writer(name)]
        self._recorded = lru_cache(PARTITION_TABLES)(self._record)
        with ThreadPoolExecutor(PARTITIONS_AT_ONCE) as pool:
            for partition, shards in zip(partitions, pool.map(self._finished, partitions), strict=True):
                self.shards += [(partition, index) for index in shards]
        self.files.sort(key=lambda file: file.uri)
        with LocalFiles(planner.store) as local:
            for name in step.entry.reads:
                if name in layout.RELEASE_FILES:
                    uri = layout.cluster_path(planner.settings.cluster_version, layout.RELEASE_FILES[name])
                    self.files.append(local.described(uri, planner.store.tag(uri)))

    @contextmanager
    def local(self, table: str, partition: str, index: int) -> Iterator[Path]:
        """A shard's file of a table, verified, as a local file."""
        with LocalFiles(self.planner.store) as files:
            yield files.verified(self._recorded(table, partition)[index])

    def _finished(self, partition: str) -> list[int]:
        """The shards of a partition. Raises LaionPeopleError when one of them is not finished in every table."""
        if not self._tables:
            return []
        from_images = next(table for table in self._tables if table != "images")
        planned = self.planner.planned(self.planner.writer(from_images) or "", partition)
        for table in self._tables:
            step, index = self.planner.writer(table) or "", ManifestIndex(self.planner.store)
            manifest = self._sum(index, table, partition)
            if manifest is None and table == "images":  # made elsewhere: the steps that read them have recorded them
                continue
            finished = {shard.index for shard in manifest.shards} if manifest else set()
            if missing := sorted(set(planned) - finished):
                raise LaionPeopleError(
                    "unfinished", f"{step} {partition} shard {missing[0]:05d} is not finished: run `{step}` first"
                )
            assert manifest
            file = index.write_sum(manifest)
            self.files.append(file)
            self.digests[file.uri] = manifest.contents_digest()
        return planned

    def _sum(self, index: ManifestIndex, table: str, partition: str) -> PartitionManifest | None:
        return index.sum(self.planner.writer(table) or "", partition, self.planner.scope(table))

    def _record(self, table: str, partition: str) -> dict[int, FileEntry]:
        """A table's files by shard, as they were recorded."""
        index, scope = ManifestIndex(self.planner.store), self.planner.scope(table)
        if manifest := self._sum(index, table, partition):
            files = ((shard.index, file) for shard in manifest.shards for file in shard.files())
        else:
            reader = self._sum(index, self._tables[self._tables.index(table) + 1], partition)
            assert reader  # the table after it is made from it
            files = ((shard.index, file) for shard in reader.shards for file in reader.inputs_of(shard))
        return {i: file for i, file in files if file.uri == layout.shard_file(table, partition, i, scope)}


def _same_version(planner: Planner, plan: ReleaseManifest, force: bool) -> ReleaseManifest | None:
    """The newest version that is made from the same; with ``force`` one that this run has made."""
    for version in reversed(versions(planner.store)):
        manifest = manifest_of(planner.store, plan.step, version)
        if manifest is None or (force and manifest.run_id != planner.run_id):
            continue
        if manifest.made_from() == plan.made_from() and not planner.damage(manifest.shards[0].files()):
            return manifest
    return None
