"""Runs steps: finds the input of each shard, skips what is done, writes whole shards, counts and records them."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import tarfile
import time
import uuid
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from include.models.errors import ModelError
from laion_people.engine.catalog import RELEASE_FILES, VERSIONED_TABLES
from laion_people.engine.concurrency import overlapped
from laion_people.engine.metrics import Metrics
from laion_people.engine.shardmanifests import ShardManifests
from laion_people.engine.step import Release, ReleaseStep, Row, Shard, Step
from laion_people.errors import LaionPeopleError, MissingError, StoreError
from laion_people.settings import Settings
from laion_people.storage import metadata
from laion_people.storage.manifest import FileEntry, Manifest, ShardEntry, manifest_path, merge
from laion_people.storage.store import Store
from laion_people.storage.totals import write_totals
from laion_people.storage.versions import TAKEN, manifest_of, newest, take, versions

log = logging.getLogger(__name__)

ROW_GROUP = 1024  # rows that are held in memory before they are written
HEARTBEAT_SECONDS = 30.0


class Runner:
    """Runs the steps of one store with one choice of settings and models.

    ``models`` is an ``include.models.profiles.Profile``, or has its ``load``, ``params`` and ``fingerprint``.
    """

    def __init__(self, store: Store, settings: Settings, models: Any, steps: Mapping[str, Step | ReleaseStep]):
        self.store, self.models, self.steps = store, models, steps
        self.settings = settings
        self.run_id = os.environ.get("AIRFLOW_CTX_DAG_RUN_ID") or uuid.uuid4().hex
        self.model = cache(models.load)
        self._newest = cache(partial(newest, store))
        self.metrics = Metrics(settings.statsd)
        self.manifests = ShardManifests(store)
        self._writers = {s.entry.writes: s for s in steps.values() if isinstance(s, Step)}

    def run(self, name: str, partition: str, shards: Sequence[int] | None = None, force: bool = False) -> Manifest:
        """Runs a step on a partition, or on some of its shards; returns the partition's manifest so far.

        With ``force``, shards that are done are made again, but those that this very run (of an Airflow DAG) has made:
        a task that is tried or cleared again goes on where it was.

        Raises LaionPeopleError when an input is missing or damaged, or a chosen shard does not exist.
        """
        step = self._step(name)
        self.manifests.forget()
        step.check(self.store, partition, self.settings, force)
        planned = self.planned(name, partition)
        chosen = planned if shards is None else sorted(set(shards))
        if missing := sorted(set(chosen) - set(planned)):
            raise LaionPeopleError(f"{name} {partition}: no shard {missing[0]} among {planned[0]} to {planned[-1]}")
        steps = [step, *(self._step(follower) for follower in step.entry.followed_by)]
        for done, index in enumerate(chosen, 1):
            with ExitStack() as held:
                files: dict[str, Path] = {}  # that one of the steps has fetched or written
                for each in steps:
                    label = f"{each.entry.name} {partition} shard {index:05d} ({done} of {len(chosen)})"
                    shard = Shard(
                        partition, index, settings=self.settings, store=self.store, model=self.model, files={}
                    )
                    with self._located(label, shard):
                        self._run_shard(each, shard, force, label, files, held)
        for each in steps:
            self._remove_surplus(each, partition, planned, force)
        manifests = [self.write_manifest(each.entry.name, partition) for each in steps]
        return manifests[0]

    def planned(self, name: str, partition: str) -> list[int]:
        """The shards that a step should make of a partition. Raises LaionPeopleError when there is nothing to read."""
        step = self._step(name)
        planned = step.plan(self.store, partition, self.settings)
        if not planned:
            raise LaionPeopleError(
                f"{name} {partition}: there is no {step.entry.reads[0]} to read; run the step before it"
            )
        return planned

    def run_release(self, name: str, partitions: Sequence[str], force: bool = False) -> Manifest:
        """Runs a release-wide step; a step that opens a version re-uses one made from the same input and parameters."""
        step = self.steps[name]
        assert isinstance(step, ReleaseStep)
        if not step.opens_version:
            self._choose_version()
        partitions = sorted(set(partitions))
        shards = [(p, i) for p in partitions for i in self._finished("facts", p)]
        plan = Manifest(
            step=name,
            partition=self.settings.clusters,
            run_id=self.run_id,
            params=step.params(self.settings) | {"partitions": partitions},
            inputs=tuple(dict.fromkeys(self._input(n, p, i) for p, i in shards for n in step.entry.reads)),
        )
        if step.opens_version:
            if same := self._same_version(plan, force):
                log.info("%s: version %s is made from the same input and parameters", name, same.partition)
                self.settings = dataclasses.replace(self.settings, clusters=same.partition)
                return same
            version = take(self.store, plan.made_from(), self.run_id if force else "")
            plan = dataclasses.replace(plan, partition=version)
            self.settings = dataclasses.replace(self.settings, clusters=version)
        log.info("%s: version %s of %d partitions, %d shards", name, plan.partition, len(partitions), len(shards))
        start = time.perf_counter()
        release = Release(
            plan.partition, partitions, settings=self.settings, store=self.store, local=self._local, shards=shards
        )
        with self._located(f"{name} {plan.partition}", release):
            rows, names = step.apply(release)
        names += [TAKEN] if step.opens_version else []
        files = [_describe(release.path(n), self.store) for n in names]
        manifest = dataclasses.replace(
            plan,
            shards=(ShardEntry(0, files[0].uri, rows, files[0].bytes, files[0].sha256, tuple(files[1:])),),
            rows_in=release.rows_in,
            rows=rows,
            rejected=dict(sorted(release.rejected.items())),
            seconds=round(time.perf_counter() - start, 3),
            timings=_rounded(release.timings),
        )
        self.store.write(manifest_path(name, plan.partition), manifest.to_json())
        write_totals(self.store, manifest, planned=1)
        self.metrics.finished(manifest)
        log.info("%s: version %s has %d clusters; %.1f s", name, plan.partition, rows, manifest.seconds)
        return manifest

    def write_manifest(self, name: str, partition: str) -> Manifest:
        """Sums the receipts of a partition into its manifest."""
        before: dict[int, str] = {}
        self.manifests.forget()
        while before != (paths := self.receipt_paths(name, partition)):  # a task may have finished a shard meanwhile
            before = paths
            manifest = merge(list(self.receipts(name, partition).values()))
            self.store.write(manifest_path(name, partition), manifest.to_json())
        if not before:
            raise LaionPeopleError(f"{name} {partition}: no finished shard")
        write_totals(self.store, manifest, len(self.planned(name, partition)))
        return manifest

    def receipts(self, name: str, partition: str) -> dict[int, Manifest]:
        """The receipts of a partition's finished shards, by shard."""
        return {index: self._receipt(path) for index, path in self.receipt_paths(name, partition).items()}

    def receipt_paths(self, name: str, partition: str) -> dict[int, str]:
        """Where the receipts of a partition's finished shards lie, by shard; other files are passed over."""
        return self.manifests.paths(self._receipt_folder(self._step(name), partition))

    def shard_path(self, name: str, partition: str, index: int) -> str:
        """Where the files of a step's shard lie, but for the ends of their names (.parquet, .tar, ...)."""
        return f"{self._folder(self._step(name).entry.writes, partition)}/{index:05d}"

    def unfinished(self, name: str, partition: str, index: int) -> str | None:
        """Why a shard is still to be made or worked on once more, or None when it is done, by its files' sizes."""
        step, path = self._step(name), self._receipt_path(name, partition, index)
        try:
            plan = self._plan(step, partition, self._inputs(step, partition, index))
        except (LaionPeopleError, ModelError) as error:  # an input is still to be made, or weights to be fetched
            return str(error)
        return self._state(step, path, plan, contents=False)[1]

    def outdated(self, receipt: Manifest, index: int) -> str | None:
        """Why a shard would be made otherwise today, or None."""
        step = self._step(receipt.step)
        plan = self._plan(step, receipt.partition, self._inputs(step, receipt.partition, index))
        if receipt.made_from() != plan.made_from():
            return "input, parameters or models have changed"
        return None if set(receipt.inputs) == set(plan.inputs) else "its receipt has other sizes of its inputs"

    def damage(self, manifest: Manifest, contents: bool = True) -> str | None:
        """What is wrong with the files of a manifest or receipt, or None; without ``contents`` by their sizes alone."""
        for file in (f for s in manifest.shards for f in s.files()):
            if not self.store.exists(file.uri):
                return f"{file.uri} is missing"
            if self.store.size(file.uri) != file.bytes or (contents and self.store.sha256(file.uri) != file.sha256):
                return f"{file.uri} is damaged"
        return None

    @contextmanager
    def _located(self, label: str, work: Shard | Release) -> Iterator[None]:
        """Counts a failure and notes on the error where it happened, for the line that the command ends with."""
        try:
            yield
        except BaseException as error:
            if not isinstance(error, KeyboardInterrupt):
                self.metrics.failed(label.partition(" ")[0])
            error.add_note(f"{label}, {work.rows_in:,} rows in, {work.rows:,} out")
            raise

    def _run_shard(
        self, step: Step, shard: Shard, force: bool, label: str, files: dict[str, Path], held: ExitStack
    ) -> None:
        partition, index = shard.partition, shard.index
        inputs = self._inputs(step, partition, index, files, held)
        plan = self._plan(step, partition, inputs)
        receipt_path = self._receipt_path(step.entry.name, partition, index)
        shard.force = force
        shard.receipt, reason = self._state(step, receipt_path, plan, force)
        if reason is None:
            log.info("%s: done before", label)
            return
        log.info("%s: starts (%s)", label, reason)
        start = time.perf_counter()
        shard.inputs = inputs
        for name, file in inputs.items():
            if name != "metadata" and name not in files:
                files[name] = held.enter_context(self._verified(file))
        shard.files = files
        entry, files[step.entry.writes] = self._write(step, shard, label, held)
        receipt = dataclasses.replace(
            plan,
            shards=(entry,),
            rows_in=shard.rows_in,
            rows=entry.rows,
            rejected=dict(sorted(shard.rejected.items())),
            seconds=round(time.perf_counter() - start, 3),
            timings=_rounded(shard.timings),
        )
        self.manifests.write(receipt_path, receipt)
        self.metrics.finished(receipt)
        lost = ", ".join(f"{n} {r}" for r, n in shard.rejected.most_common()) or "none"
        log.info("%s: %d in, %d out, rejected: %s; %.1f s", label, shard.rows_in, entry.rows, lost, receipt.seconds)

    def _plan(self, step: Step, partition: str, inputs: Mapping[str, FileEntry]) -> Manifest:
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

    def _inputs(
        self,
        step: Step,
        partition: str,
        index: int,
        files: dict[str, Path] | None = None,
        held: ExitStack | None = None,
    ) -> dict[str, FileEntry]:
        """The input files of a shard, by name. Raises LaionPeopleError when one was made from an earlier other one.

        What must be hashed, as it was made elsewhere, is kept in ``files`` for as long as ``held`` holds it.
        """
        inputs = {}
        for name in step.entry.reads:
            path, entry = self._recorded_input(name, partition, index)
            if entry is None and files is not None and held is not None:
                files[name] = files.get(name) or held.enter_context(self._fetched(path))
                entry = _described(path, files[name])
            inputs[name] = entry or self._described_in_store(path)
        now = {entry.uri: entry.sha256 for entry in inputs.values()}
        for name in step.entry.reads:
            receipt = self._receipt_of(name, partition, index)
            for file in receipt.inputs if receipt else ():
                if now.get(file.uri, file.sha256) != file.sha256:
                    raise LaionPeopleError(
                        f"its {name} was made from an earlier {file.uri}: run `{self._writers[name].entry.name}` first"
                    )
        return inputs

    def _write(self, step: Step, shard: Shard, label: str, held: ExitStack) -> tuple[ShardEntry, Path]:
        """Writes the shard's files; returns their record, and the main file, which is there as long as ``held``."""
        base = self.shard_path(step.entry.name, shard.partition, shard.index)
        suffixes = (".parquet", ".tar") if step.entry.tar_key else (".parquet",)
        temporary = {suffix: held.enter_context(self.store.temporary(base + suffix)) for suffix in suffixes}
        _write_rows(step, shard, temporary[".parquet"], temporary.get(".tar"), label)
        entries = {suffix: _described(base + suffix, path) for suffix, path in temporary.items()}
        for suffix, data in step.sidecars(shard, shard.rows).items():
            # before the tar: they tell whose it is, should the process be killed
            self.store.write(base + suffix, data)
            entries[suffix] = FileEntry(base + suffix, len(data), hashlib.sha256(data).hexdigest())
        put = {suffix: self.store.put(path, base + suffix) for suffix, path in reversed(temporary.items())}
        main = ".tar" if step.entry.writes == "images" else ".parquet"
        entry = entries.pop(main)
        sidecars = tuple(entries.values())
        return ShardEntry(shard.index, entry.uri, shard.rows, entry.bytes, entry.sha256, sidecars), put[main]

    def _state(
        self, step: Step, receipt_path: str, plan: Manifest, force: bool = False, contents: bool = True
    ) -> tuple[Manifest | None, str | None]:
        """The receipt of a shard, if it can be read, and why the shard must be worked on, or None when it is done.

        The receipt stays until another takes its place: of files that are newer it says that they are damaged.
        """
        try:
            receipt = self.manifests.read(receipt_path)
        except StoreError:  # a store that does not answer is no damage, for which all were made anew
            raise
        except LaionPeopleError as error:
            return None, str(error)
        if receipt is None:
            return None, "new"
        if receipt.made_from() != plan.made_from():
            return receipt, "input, parameters or models have changed"
        if receipt.run_id == self.run_id:  # once a run, also if its task is tried or cleared again
            return receipt, self.damage(receipt, contents)
        return receipt, "forced" if force else self.damage(receipt, contents) or step.again(receipt)

    def _finished(self, name: str, partition: str) -> list[int]:
        """All shards of a partition. Raises LaionPeopleError when one is not finished."""
        planned = self.planned(name, partition)
        if missing := sorted(set(planned) - self.receipts(name, partition).keys()):
            raise LaionPeopleError(f"{name} {partition} shard {missing[0]:05d} is not finished: run `{name}` first")
        return planned

    def _receipt(self, path: str) -> Manifest:
        receipt = self.manifests.read(path)
        if receipt is None:
            raise LaionPeopleError(f"{path} is gone: try again")
        return receipt

    def _receipt_of(self, name: str, partition: str, index: int) -> Manifest | None:
        """The receipt of the shard that is an input, or None for metadata, release files and shards made elsewhere."""
        if name not in self._writers:
            return None
        return self.manifests.read(self._receipt_path(self._writers[name].entry.name, partition, index))

    def _same_version(self, plan: Manifest, force: bool) -> Manifest | None:
        """The newest version that is made from the same; with ``force`` one that this run has made."""
        for version in reversed(versions(self.store)):
            manifest = manifest_of(self.store, plan.step, version)
            if manifest is None or (force and manifest.run_id != self.run_id):
                continue
            if manifest.made_from() == plan.made_from() and not self.damage(manifest):
                return manifest
        return None

    def _input(self, name: str, partition: str, index: int) -> FileEntry:
        """An input of a shard as its writer recorded it; what was made elsewhere (metadata, shards) is hashed."""
        path, entry = self._recorded_input(name, partition, index)
        return entry or self._described_in_store(path)

    def _recorded_input(self, name: str, partition: str, index: int) -> tuple[str, FileEntry | None]:
        """Where an input of a shard lies, and what its writer recorded of it, if that was a step."""
        if name == "metadata":
            entry = self._metadata(partition)
            return entry.uri, entry
        if name in RELEASE_FILES:
            path = f"clusters/{self.settings.clusters}/{RELEASE_FILES[name]}"
            return path, self._release_file(path)
        path = f"{self._folder(name, partition)}/{index:05d}.{'tar' if name == 'images' else 'parquet'}"
        made = self._receipt_of(name, partition, index)
        if made is None:
            return path, None
        if recorded := next((f for f in made.shards[0].files() if f.uri == path), None):
            return path, recorded
        raise LaionPeopleError(f"{path} is not in its receipt: run again the step that writes it")

    def _described_in_store(self, path: str) -> FileEntry:
        with self._fetched(path) as local:
            return _described(path, local)

    @cache  # noqa: B019 - the same for every shard, and a Runner lives as long as its process
    def _release_file(self, path: str) -> FileEntry:
        return self._described_in_store(path)

    @cache  # noqa: B019 - a metadata part is large, the same for every shard, and a Runner lives as long as its process
    def _metadata(self, partition: str) -> FileEntry:
        return _describe(metadata.metadata_path(self.store, partition), self.store)

    @contextmanager
    def _verified(self, entry: FileEntry) -> Iterator[Path]:
        with self._fetched(entry.uri) as path:
            if _described(entry.uri, path) != entry:
                raise LaionPeopleError(f"{entry.uri} is damaged: run again the step that writes it")
            yield path

    @contextmanager
    def _fetched(self, path: str) -> Iterator[Path]:
        with ExitStack() as stack:
            try:
                local = stack.enter_context(self.store.local(path))
            except MissingError as error:
                raise LaionPeopleError(f"{path} is missing: run the step that writes it") from error
            yield local

    @contextmanager
    def _local(self, name: str, partition: str, index: int) -> Iterator[Path]:
        with self._verified(self._input(name, partition, index)) as path:
            yield path

    def _remove_surplus(self, step: Step, partition: str, planned: Sequence[int], force: bool) -> None:
        """Deletes shards of an earlier plan that this plan does not have; irreplaceable ones only with ``force``."""
        for index, path in self.receipt_paths(step.entry.name, partition).items():
            if index in planned:
                continue
            if step.irreplaceable and not force:
                log.warning("%s is beyond the %d shards planned, and is kept: --force deletes it", path, len(planned))
                continue
            files = self._receipt(path).shards[0].files()
            self.manifests.delete(path)
            for file in files:
                self.store.delete(file.uri)

    def _step(self, name: str) -> Step:
        step = self.steps[name]
        assert isinstance(step, Step), f"{name} is a release step"
        if step.entry.versioned:
            self._choose_version()
        return step

    def _choose_version(self) -> None:
        """Has the settings name the newest cluster version, unless they name one.

        Not done for steps that work without: a version's manifest lists every file of the release, millions of them.
        """
        if not self.settings.clusters:
            self.settings = dataclasses.replace(self.settings, clusters=self._newest())

    def _folder(self, table: str, partition: str) -> str:
        return f"{table}/{self.settings.clusters}/{partition}" if table in VERSIONED_TABLES else f"{table}/{partition}"

    def _receipt_folder(self, step: Step, partition: str) -> str:
        version = f"{self.settings.clusters}/" if step.entry.writes in VERSIONED_TABLES else ""
        return f"manifests/{step.entry.name}/{version}{partition}"

    def _receipt_path(self, name: str, partition: str, index: int) -> str:
        return f"{self._receipt_folder(self._step(name), partition)}/{index:05d}.json"


def _write_rows(step: Step, shard: Shard, parquet: Path, tar_path: Path | None, label: str) -> None:
    """Streams a step's rows into its files; ``shard.rows`` counts them (of a tar step: those that have files).

    A thread writes a group of rows to the Parquet file while the step works on the next.
    """
    schema = step.schema()
    beat = time.monotonic()

    def groups() -> Generator[list[Row]]:
        nonlocal beat
        group: list[Row] = []
        for row in step.apply(shard):
            files = row.pop("files", None)
            shard.rows += 1 if files or not tar else 0
            group.append(row)
            if tar and files:
                with shard.clock("write"):
                    _add_files(tar, row[step.entry.tar_key].rsplit("/", 1)[-1], files)
            if len(group) == ROW_GROUP:
                yield group
                group = []
            if time.monotonic() - beat > HEARTBEAT_SECONDS:
                log.info("%s: %d rows so far", label, shard.rows)
                beat = time.monotonic()
        yield group

    def write(group: list[Row]) -> None:
        writer.write_batch(pa.RecordBatch.from_pylist(group, schema=schema))

    with ExitStack() as stack:
        writer = stack.enter_context(pq.ParquetWriter(parquet, schema, compression="zstd"))
        tar = stack.enter_context(tarfile.open(tar_path, "w")) if tar_path else None
        grouped = stack.enter_context(closing(groups()))
        for written in stack.enter_context(closing(overlapped(write, grouped, threads=1))):
            with shard.clock("write"):
                written.result()


def _add_files(tar: tarfile.TarFile, key: str, files: dict[str, bytes]) -> None:
    for suffix, data in files.items():
        member = tarfile.TarInfo(f"{key}.{suffix}")  # time and owner stay zero: the same rows give the same bytes
        member.size = len(data)
        tar.addfile(member, BytesIO(data))


def _describe(path: str, store: Store) -> FileEntry:
    return FileEntry(path, store.size(path), store.sha256(path))


def _described(uri: str, path: Path) -> FileEntry:
    with path.open("rb") as file:
        return FileEntry(uri, path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def _rounded(seconds: dict[str, float]) -> dict[str, float]:
    return {part: round(value, 3) for part, value in sorted(seconds.items())}
