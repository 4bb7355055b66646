"""Audit: recounts what a partition's steps left in the store, whatever became of the processes that ran them.

A worker that is drained, or a file that somebody deleted, can leave a task green and its output missing. The audit
believes nothing but the bytes: every planned shard has a receipt, its files are there with their sha256 and as many
rows as the receipt says, it was made from the input that is there now, and the tables of people have the same people
in the same order.
"""

from __future__ import annotations

import hashlib
import logging
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from laion_people import metadata
from laion_people.errors import LaionPeopleError
from laion_people.manifest import Manifest
from laion_people.runner import Runner, manifest_path
from laion_people.steps.download import foreign_files, made_elsewhere

log = logging.getLogger(__name__)

STAGES = {
    "extract": ("download", "detect", "pose", "mesh", "clip_filter", "subset_a"),
    "caption": ("assign", "compose", "embed", "caption", "describe"),
}
# rows_in = rows + rejected
ONE_TO_ONE = ("download", "pose", "mesh", "clip_filter", "subset_a", "assign", "embed", "caption", "describe")
ALIGNED = ("detect", "pose", "mesh", "clip_filter", "assign", "embed")  # the same people in the same order


def audit(runner: Runner, partition: str, stage: str) -> list[str]:
    """Recounts a stage of a partition; returns one line for each fault, with step, shard and reason.

    Without a fault the partition's manifests are written anew from the receipts, which are then complete. Raises
    LaionPeopleError when there is nothing to recount.
    """
    steps = steps_of(runner, partition, stage)
    planned = runner.planned(steps[0], partition)
    receipts = {step: runner.receipts(step, partition) for step in steps}
    faults = [
        f"{step} {partition} shard {index:05d}: {fault}"
        for index in planned
        for step, fault in _shard_faults(runner, {step: receipts[step].get(index) for step in steps})
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
            runner.write_manifest(step, partition)
    return faults


def progress(runner: Runner) -> dict[str, list[str]]:
    """The store's partitions by state: ``extracted`` (every shard of every step counted), ``begun`` or ``pending``."""
    state: dict[str, list[str]] = {"extracted": [], "begun": [], "pending": []}
    for partition in metadata.partitions(runner.store):
        first = steps_of(runner, partition, "extract")[0]
        try:
            extracted = _extracted(runner, partition)
        except LaionPeopleError as error:  # which is no reason to stop the others
            log.warning("%s: not known to be extracted: %s", partition, error)
            extracted = False
        if extracted:
            state["extracted"].append(partition)
        else:
            begun = runner.store.list(f"manifests/{first}/{partition}")
            state["begun" if begun else "pending"].append(partition)
    return state


def _extracted(runner: Runner, partition: str) -> bool:
    steps = steps_of(runner, partition, "extract")
    paths = [manifest_path(step, partition) for step in steps]
    if not all(runner.store.exists(path) for path in paths):
        return False
    planned = runner.planned(steps[0], partition)
    manifests = (Manifest.from_json(runner.store.read(path)) for path in paths)
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
    left_out |= set() if runner.settings.describe else {"describe"}
    return tuple(step for step in STAGES[stage] if step not in left_out)


def _shard_faults(runner: Runner, receipts: dict[str, Manifest | None]) -> Iterator[tuple[str, str]]:
    """Step and reason of each fault of one shard; ``receipts`` has the shard's receipt of every step."""
    first: tuple[str, pa.ChunkedArray] | None = None
    for step, receipt in receipts.items():
        if receipt is None:
            yield step, "has no receipt: it was never finished"
            continue
        if fault := _fault(runner, receipt) or _outdated(runner, receipt):
            yield step, fault
            continue
        if step in ALIGNED:
            with runner.store.local(receipt.shards[0].uri) as path:
                people = pq.read_table(path, columns=["person_id"])["person_id"]
            if first and not people.equals(first[1]):
                yield step, f"does not have the people of {first[0]} in their order"
            first = first or (step, people)


def _fault(runner: Runner, receipt: Manifest) -> str | None:
    """What is wrong with the files of a shard, or None."""
    entry = receipt.shards[0]
    if receipt.step in ONE_TO_ONE and receipt.rows_in != entry.rows + sum(receipt.rejected.values()):
        lost = receipt.rows_in - entry.rows - sum(receipt.rejected.values())
        return f"{lost} of {receipt.rows_in} rows are neither written nor rejected"
    for file in entry.files():
        if not runner.store.exists(file.uri):
            return f"{file.uri} is missing"
        with runner.store.local(file.uri) as path:
            if _sha256(path) != file.sha256:
                return f"{file.uri} is damaged"
            if file.uri == entry.uri and (rows := _rows(path)) != entry.rows:
                return f"{file.uri} has {rows} rows, its receipt says {entry.rows}"
    return None


def _outdated(runner: Runner, receipt: Manifest) -> str | None:
    """Why a shard would be made otherwise today, or None."""
    try:
        reason = runner.outdated(receipt, receipt.shards[0].index)
    except LaionPeopleError as error:
        return str(error)
    return f"{reason}: run `{receipt.step}` again" if reason else None


def _rows(path: Path) -> int:
    """Rows of a Parquet file by its footer, samples of a tar by their keys."""
    if path.suffix == ".parquet":
        return int(pq.read_metadata(path).num_rows)
    with tarfile.open(path) as tar:
        return len({name.partition(".")[0] for name in tar.getnames()})


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
