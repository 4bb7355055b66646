"""Audit: recounts what a partition's steps left in the store, whatever became of the processes that ran them.

A worker that is drained, or a file that somebody deleted, can leave a task green and its output missing. The audit
believes nothing but the bytes: every planned shard has a receipt, its files are there with their sizes and sha256, and
with as many rows as the receipt says; it read as many as its input has, lost each under a reason that its step knows,
and was made from the input that is there now; tars have the samples of their tables, and the tables of people the same
people in the same order. ``release_audit`` does the same for a cluster version.
"""

from __future__ import annotations

import hashlib
import logging
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from include.models.errors import ModelError
from laion_people.engine.catalog import STEPS
from laion_people.engine.catalog import steps_of as steps_of_stage
from laion_people.engine.runner import Runner
from laion_people.engine.step import Step
from laion_people.errors import LaionPeopleError, StoreError, check_shortage, one_line
from laion_people.storage import metadata
from laion_people.storage.manifest import FileEntry, Manifest, manifest_path, merge, parse_receipt, read_manifest
from laion_people.storage.origin import foreign_files, made_elsewhere
from laion_people.storage.store import Store
from laion_people.storage.totals import has_totals, totals_path, write_totals

log = logging.getLogger(__name__)

COLUMNS = {  # of the tables, as far as the audit looks into them
    "download": ["key", "status", "reason"],
    **{name: ["person_id"] for name, entry in STEPS.items() if entry.aligned},
    "detect": ["person_id", "key"],
    "compose": ["composite_id", "people"],
}
Receipt = Manifest | str  # or why it cannot be read


@dataclass(slots=True)
class ShardContents:
    """What the files of a shard hold: rows and COLUMNS of its table, and the keys of its tar, if it has one."""

    rows: int = 0
    table: pa.Table | None = None
    keys: list[str] | None = None

    def column(self, name: str) -> list[Any]:
        assert self.table is not None
        values: list[Any] = self.table[name].to_pylist()
        return values


def audit(runner: Runner, partition: str, stage: str) -> list[str]:
    """Recounts a stage of a partition; returns one line for each fault, with step, shard and reason.

    Without a fault the partition's manifests and totals are written anew, where they are not the sums of the receipts.

    Raises LaionPeopleError when there is nothing to recount.
    """
    steps = steps_of(runner, partition, stage)
    planned = runner.planned(steps[0], partition)
    receipts = {step: _receipts(runner, step, partition) for step in dict.fromkeys((*steps, "detect"))}
    of_metadata = _metadata_rows(runner, partition, planned) if "download" in steps else {}
    faults = [
        f"{step} {partition} shard {index:05d}: {fault}"
        for index in planned
        for step, fault in _shard_faults(
            runner, steps, {s: of.get(index) for s, of in receipts.items()}, of_metadata.get(index)
        )
    ]
    for step in steps:
        faults += [
            f"{step} {partition} shard {index:05d}: is not among the {len(planned)} planned; run `{step}` again"
            for index in sorted(set(receipts[step]) - set(planned))
        ]
    if "download" in steps:
        faults += [
            f"download {partition}: {path} lies among the shards that download made and is none of them"
            for path in foreign_files(runner.store, partition)
        ]
    if not faults:
        for step in steps:
            _write_sums(runner.store, [r for r in receipts[step].values() if isinstance(r, Manifest)], len(planned))
    return faults


def progress(runner: Runner) -> dict[str, list[str]]:
    """The store's partitions by state: ``extracted`` (every shard of every step counted), ``begun`` or ``pending``."""
    state: dict[str, list[str]] = {"extracted": [], "begun": [], "pending": []}
    for partition in metadata.partitions(runner.store):
        first = steps_of(runner, partition, "extract")[0]
        try:
            extracted = _extracted(runner, partition)
        except StoreError:
            raise
        except LaionPeopleError as error:  # what is damaged is no reason to stop the others
            log.warning("%s does not count as extracted until it is audited: %s", partition, error)
            extracted = False
        if extracted:
            state["extracted"].append(partition)
        else:
            begun = runner.store.list(f"manifests/{first}/{partition}")
            state["begun" if begun else "pending"].append(partition)
    return state


def _extracted(runner: Runner, partition: str) -> bool:
    steps = steps_of(runner, partition, "extract")
    if not all(runner.store.exists(manifest_path(step, partition)) for step in steps):
        return False
    planned = runner.planned(steps[0], partition)
    manifests = [read_manifest(runner.store, step, partition) for step in steps]
    return all([shard.index for shard in manifest.shards] == planned for manifest in manifests)


def unfinished(runner: Runner, partition: str, stage: str) -> list[int]:
    """The shards that some step of a stage would still make, or work on once more."""
    steps = steps_of(runner, partition, stage)
    planned = runner.planned(steps[0], partition)
    return [index for index in planned if any(runner.unfinished(step, partition, index) for step in steps)]


def steps_of(runner: Runner, partition: str, stage: str) -> tuple[str, ...]:
    """The steps of a stage in their order; a partition whose images were made elsewhere has no download, and describe
    is among them if the settings ask for it."""
    left_out = {"download"} if stage == "extract" and made_elsewhere(runner.store, partition) else set()
    return tuple(
        entry.name
        for entry in steps_of_stage(stage)
        if entry.name not in left_out and (not entry.optional or getattr(runner.settings, entry.optional))
    )


def _receipts(runner: Runner, step: str, partition: str) -> dict[int, Receipt]:
    """The receipts of a step by shard."""
    return {index: _receipt(runner.store, path) for index, path in runner.receipt_paths(step, partition).items()}


def _receipt(store: Store, path: str) -> Receipt:
    data = store.read(path)  # a store that does not answer ends the audit: it is no fault of a shard
    try:
        return parse_receipt(path, data)
    except LaionPeopleError as error:
        return str(error)


def _metadata_rows(runner: Runner, partition: str, planned: Sequence[int]) -> dict[int, int]:
    """How many rows of the metadata each shard has."""
    rows = metadata.count_rows(runner.store, metadata.metadata_path(runner.store, partition))
    size = runner.settings.shard_rows
    return {index: min(size, rows - index * size) for index in planned}


def _shard_faults(
    runner: Runner,
    steps: Sequence[str],
    receipts: Mapping[str, Receipt | None],
    of_metadata: int | None,
) -> Iterator[tuple[str, str]]:
    """Step and reason of each fault of one shard; ``receipts`` has the shard's receipt of every step."""
    first: tuple[str, pa.ChunkedArray] | None = None
    for step in steps:
        receipt = receipts[step]
        if not isinstance(receipt, Manifest):
            yield step, receipt or "has no receipt: it was never finished"
            continue
        contents = ShardContents()
        if fault := (
            _name_fault(runner, receipt)
            or _file_fault(runner.store, receipt, contents)
            or _outdated(runner, receipt)
            or _count_fault(runner, receipt, contents, _input_rows(step, receipts, of_metadata))
        ):
            yield step, fault
        elif STEPS[step].aligned and contents.table is not None:
            people = contents.table["person_id"]
            if first and not people.equals(first[1]):
                yield step, f"does not have the people of {first[0]} in their order"
            first = first or (step, people)


def _name_fault(runner: Runner, receipt: Manifest) -> str | None:
    """Whether a receipt names other files than those of its shard."""
    entry, step = receipt.shards[0], runner.steps[receipt.step]
    assert isinstance(step, Step)
    base = runner.shard_path(receipt.step, receipt.partition, entry.index)
    main = f"{base}.tar" if step.entry.writes == "images" else f"{base}.parquet"
    named = {file.uri for file in entry.files()}
    wanted = {f"{base}.parquet", f"{base}.tar"} if step.entry.tar_key else {f"{base}.parquet"}
    if entry.uri != main or not wanted <= named or not all(uri.startswith(base) for uri in named):
        return f"its receipt names the files {', '.join(sorted(named))}: run `{receipt.step}` with force"
    return None


def _file_fault(store: Store, receipt: Manifest, contents: ShardContents) -> str | None:
    """What is wrong with the files of a shard, or None; fills ``contents`` with what they hold."""
    for file in receipt.shards[0].files():
        if not store.exists(file.uri):
            return f"{file.uri} is missing"
        with store.local(file.uri) as path:
            if not is_whole(path, file):
                return f"{file.uri} is damaged"
            try:
                _look_into(path, COLUMNS.get(receipt.step), contents)
            except Exception as error:  # it is what its receipt says, and no Parquet file or tar
                check_shortage(error)
                return f"{file.uri} is damaged ({one_line(repr(error))})"
    return None


def is_whole(path: Path, file: FileEntry) -> bool:
    """Whether a local copy has the size and sha256 that a manifest says."""
    if path.stat().st_size != file.bytes:
        return False
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest() == file.sha256


def _look_into(path: Path, columns: list[str] | None, contents: ShardContents) -> None:
    if path.suffix == ".parquet":
        contents.rows = pq.read_metadata(path).num_rows
        contents.table = pq.read_table(path, columns=columns) if columns else None
    elif path.suffix == ".tar":
        with tarfile.open(path) as tar:
            contents.keys = list(dict.fromkeys(name.partition(".")[0] for name in tar.getnames()))


def _outdated(runner: Runner, receipt: Manifest) -> str | None:
    """Why a shard would be made otherwise today, or None."""
    try:
        reason = runner.outdated(receipt, receipt.shards[0].index)
    except (LaionPeopleError, ModelError) as error:
        return str(error)
    return f"{reason}: run `{receipt.step}` again" if reason else None


def _input_rows(step: str, receipts: Mapping[str, Receipt | None], of_metadata: int | None) -> int | None:
    """How many rows a step has to read; None where only images made elsewhere, or a damaged receipt, could tell."""
    if step == "download":
        return of_metadata
    before = receipts.get("download" if step == "detect" else "detect")
    if not isinstance(before, Manifest):
        return None
    return before.rows * STEPS[step].rows_per_person


def _count_fault(runner: Runner, receipt: Manifest, contents: ShardContents, input_rows: int | None) -> str | None:
    """Which of a receipt's counts is not what the files, the input and the step say, or None."""
    entry, step = receipt.shards[0], receipt.step
    rows = len(contents.keys or ()) if step == "download" else contents.rows
    for count in (entry.rows, receipt.rows):
        if rows != count:
            return f"{entry.uri} has {rows} rows, its receipt says {count}"
    if unknown := sorted(receipt.rejected.keys() - runner.steps[step].reasons.keys()):
        return f"its receipt has rows rejected as {unknown[0]}, which is no reason of `{step}`"
    if lost := receipt.rows_in - _used(receipt, contents) - sum(receipt.rejected.values()):
        manner = "neither written nor rejected" if lost > 0 else "both written and rejected"
        return f"{abs(lost)} of {receipt.rows_in} rows are {manner}"
    if input_rows not in (None, receipt.rows_in):
        return f"its receipt says that {receipt.rows_in} rows were read, there are {input_rows}"
    return _tar_fault(receipt, contents)


def _used(receipt: Manifest, contents: ShardContents) -> int:
    """How many of the rows that a step has read are in what it wrote."""
    if receipt.step == "detect":  # images that have people
        return len(set(contents.column("key")))
    if receipt.step == "compose":  # people who are in pictures
        return len({person["person_id"] for people in contents.column("people") for person in people})
    return receipt.rows


def _tar_fault(receipt: Manifest, contents: ShardContents) -> str | None:
    """Whether a tar has other samples than its table, or a download's table other reasons than its receipt."""
    if receipt.step == "download":
        if Counter(filter(None, contents.column("reason"))) != receipt.rejected or contents.rows != receipt.rows_in:
            return f"its receipt has other counts than its table of {contents.rows} rows"
        outcomes = zip(contents.column("key"), contents.column("status"), strict=True)
        keys = [key for key, status in outcomes if status == "success"]
    elif receipt.step == "compose":
        keys = [name.rsplit("/", 1)[-1] for name in contents.column("composite_id")]
    else:
        return None
    return None if keys == contents.keys else "its tar does not have the samples of its table in their order"


def _write_sums(store: Store, receipts: Sequence[Manifest], planned: int) -> None:
    """Writes a partition's manifest and totals, where they are not the sums of its receipts."""
    manifest = merge(receipts)
    path = manifest_path(manifest.step, manifest.partition)
    if not _has(store, manifest):
        log.info("%s was not the sum of its receipts, and is written anew", path)
        store.write(path, manifest.to_json())
    if not has_totals(store, manifest, planned):
        log.info("%s was not the sum of its receipts, and is written anew", totals_path(manifest))
        write_totals(store, manifest, planned)


def _has(store: Store, manifest: Manifest) -> bool:
    step, partition = manifest.step, manifest.partition
    try:
        return store.exists(manifest_path(step, partition)) and read_manifest(store, step, partition) == manifest
    except LaionPeopleError:
        return False
