"""Audit: recounts what a partition's steps left in the store, whatever became of the processes that ran them.

A worker that is drained, or a file that somebody deleted, can leave a task green and its output missing. The audit
believes no task: every planned shard has a manifest, and its files are there as they were when they were written; it
read as many rows as its input has, lost each under a reason that its step knows, and was made from the input that is
there now; tars have the samples of their tables, and the tables of people the same people in the same order.

What a file holds was recorded when it was written. It is read again where the store's tag for it has changed, where
version 0.1 wrote it, and if the audit is to go deep.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from include.models.errors import ModelError
from laion_people.engine.catalog import STEPS
from laion_people.engine.contents import contents_of
from laion_people.engine.files import LocalFiles
from laion_people.engine.runner import Runner
from laion_people.engine.stages import stage_steps
from laion_people.errors import LaionPeopleError, OutsideError, check_shortage, coded, one_line
from laion_people.storage import metadata
from laion_people.storage.manifest import Contents, ShardManifest
from laion_people.storage.origin import foreign_files

SHARDS_AT_ONCE = 8
COUNTED_IN = {"images": "images", "people": "people", "captions": "people"}  # tables whose rows a step reads, by amount


def audit(runner: Runner, partition: str, stage: str, deep: bool = False) -> list[str]:
    """Recounts a stage of a partition; returns one line for each fault, with step, shard and reason.

    Without a fault the partition manifests and totals are written, where they are not there already. ``deep`` has every
    byte read. Raises LaionPeopleError when there is nothing to recount.
    """
    runner.planner.index.forget()
    steps = stage_steps(runner.planner, partition, stage)
    planned = runner.planner.planned(steps[0], partition)
    shards = _Audit(runner, partition, steps, planned, deep)
    with ThreadPoolExecutor(SHARDS_AT_ONCE) as pool:
        faults = [fault for faults_of_shard in pool.map(shards.faults, planned) for fault in faults_of_shard]
    faults += shards.surplus_faults()
    for step in steps:
        if STEPS[step].writes == "images":
            faults += [
                coded(
                    "foreign-file",
                    f"{step} {partition}: {path} lies among the shards that {step} made and is none of them",
                )
                for path in foreign_files(runner.store, partition)
            ]
    if not faults:
        for step in steps:
            runner.write_sum(step, partition)
    return faults


class _Audit:
    """The audit of some steps of a partition, whose shard manifests are read first, several at a time."""

    def __init__(self, runner: Runner, partition: str, steps: Sequence[str], planned: Sequence[int], deep: bool):
        self.runner, self.planner, self.partition = runner, runner.planner, partition
        self.steps, self.planned, self.deep = steps, planned, deep
        counted = {COUNTED_IN.get(STEPS[step].amount, "") for step in steps}
        writers = [writer for writer in map(self.planner.writer, counted - {""}) if writer]
        self.manifests: dict[str, dict[int, ShardManifest | LaionPeopleError]] = {}
        for step in dict.fromkeys((*steps, *writers)):
            paths = self.planner.manifest_paths(step, partition)
            read = self.planner.index.read_all(paths.values())
            self.manifests[step] = {index: read[path] for index, path in paths.items() if path in read}
        self.metadata_rows = 0
        if "rows" in {STEPS[step].amount for step in steps}:
            self.metadata_rows = metadata.recorded(runner.store, partition, deep).rows

    def faults(self, index: int) -> list[str]:
        """A line for each fault of a shard."""
        with LocalFiles(self.runner.store) as files:
            return [f"{step} {self.partition} shard {index:05d}: {fault}" for step, fault in self._faults(index, files)]

    def surplus_faults(self) -> list[str]:
        """A line for each shard that is not planned."""
        return [
            coded(
                "surplus-shard",
                f"{step} {self.partition} shard {index:05d}: is not among the "
                f"{len(self.planned)} planned: run `{step}`",
            )
            for step in self.steps
            for index in sorted(set(self.manifests[step]) - set(self.planned))
        ]

    def _faults(self, index: int, files: LocalFiles) -> Iterator[tuple[str, str]]:
        """Step and reason of each fault of a shard."""
        first: tuple[str, str] | None = None
        for step in self.steps:
            manifest = self.manifests[step].get(index)
            if not isinstance(manifest, ShardManifest):
                yield step, str(manifest or coded("unfinished", "has no manifest: it was never finished"))
                continue
            contents, damage = self._contents_and_damage(manifest, files)
            fault = self._name_fault(manifest) or damage or self._outdated(manifest, files)
            if contents and not fault:
                fault = self._count_fault(manifest, contents)
            if fault:
                yield step, fault
            elif contents and contents.person_ids:
                if first and contents.person_ids != first[1]:
                    yield step, coded("mismatched-tables", f"does not have the people of {first[0]} in their order")
                first = first or (step, contents.person_ids)

    def _name_fault(self, manifest: ShardManifest) -> str | None:
        """Whether a manifest names other files than those of its shard."""
        entry, step = manifest.shard, STEPS[manifest.step]
        stem = self.planner.shard_stem(step.name, manifest.partition, entry.index)
        main = f"{stem}.tar" if step.writes == "images" else f"{stem}.parquet"
        named = {file.uri for file in entry.files()}
        wanted = {f"{stem}.parquet", f"{stem}.tar"} if step.tar_key else {f"{stem}.parquet"}
        if entry.uri != main or not wanted <= named or not all(uri.startswith(stem) for uri in named):
            return coded(
                "wrong-manifest",
                f"its manifest names the files {', '.join(sorted(named))}: run `{step.name}` with force",
            )
        return None

    def _contents_and_damage(self, manifest: ShardManifest, files: LocalFiles) -> tuple[Contents | None, str | None]:
        """What the files of a shard hold, and what is wrong with them, or None."""
        recorded = manifest.shard.files()
        tags = {file.uri: self.planner.index.tag(file.uri) for file in recorded}
        if missing := next((uri for uri, tag in tags.items() if tag is None), None):
            return None, coded("missing-file", f"{missing} is missing")
        if not self.deep and manifest.contents and all(file.tag and tags[file.uri] == file.tag for file in recorded):
            return manifest.contents, None
        local = {}
        for file in recorded:
            try:
                local["." + file.uri.rpartition(".")[2]] = files.verified(file)
            except OutsideError:  # which say nothing of the file
                raise
            except LaionPeopleError:
                return None, coded("damaged-file", f"{file.uri} is damaged")
        try:
            contents = contents_of(STEPS[manifest.step], local)
        except Exception as error:  # it is what its manifest says, and no Parquet file or tar
            check_shortage(error)
            return None, coded(
                "damaged-file", f"{manifest.shard.uri} or a file beside it is damaged ({one_line(repr(error))})"
            )
        if manifest.contents not in (None, contents):
            return None, coded("wrong-manifest", f"{manifest.shard.uri} does not hold what its manifest says")
        return contents, None

    def _outdated(self, manifest: ShardManifest, files: LocalFiles) -> str | None:
        """Why a shard would be made otherwise today, or None."""
        try:
            return self.planner.outdated(manifest, files, self.deep)
        except OutsideError:
            raise
        except (LaionPeopleError, ModelError) as error:
            return str(error)

    def _input_rows(self, manifest: ShardManifest) -> int | None:
        """How many rows a step had to read; None where only images made elsewhere or a damaged manifest could tell."""
        step, index = STEPS[manifest.step], manifest.shard.index
        if step.amount == "rows":
            size = self.runner.settings.shard_rows
            return min(size, self.metadata_rows - index * size)
        writer = self.planner.writer(COUNTED_IN[step.amount])
        before = self.manifests[writer].get(index) if writer else None
        return before.rows * step.rows_per_person + manifest.removed_in if isinstance(before, ShardManifest) else None

    def _count_fault(self, manifest: ShardManifest, contents: Contents) -> str | None:
        """Which of a manifest's counts is not what the files, the input and the step say, or None."""
        entry, step = manifest.shard, STEPS[manifest.step]
        rows = contents.samples if step.outcomes else contents.rows
        for count in (entry.rows, manifest.rows):
            if rows != count:
                return coded("wrong-manifest", f"{entry.uri} has {rows} rows, its manifest says {count}")
        if unknown := sorted(manifest.rejected.keys() - self.runner.steps[step.name].reasons.keys()):
            return coded(
                "wrong-manifest", f"its manifest has rows rejected as {unknown[0]}, which is no reason of `{step.name}`"
            )
        if lost := manifest.rows_in - contents.used - sum(manifest.rejected.values()):
            manner = "neither written nor rejected" if lost > 0 else "both written and rejected"
            return coded("wrong-manifest", f"{abs(lost)} of {manifest.rows_in} rows are {manner}")
        if (input_rows := self._input_rows(manifest)) not in (None, manifest.rows_in):
            return coded(
                "wrong-manifest", f"its manifest says that {manifest.rows_in} rows were read, there are {input_rows}"
            )
        if step.outcomes and (contents.rejected, contents.rows) != (manifest.rejected, manifest.rows_in):
            return coded("wrong-manifest", f"its manifest has other counts than its table of {contents.rows} rows")
        if contents.table_keys != contents.tar_keys:
            return coded("wrong-manifest", "its tar does not have the samples of its table in their order")
        return None
