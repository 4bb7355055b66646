"""What the Airflow UI says of each task: what it reads, writes and costs, how to run it again, where its failures are.

DAG files are parsed without the libraries of the steps. So what is said of steps comes from `engine.catalog`, and their
costs from rates.json.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from laion_people.engine.catalog import KINDS_OF_CAPTION, STEPS, Resources, StepEntry

HERE = Path(__file__).parent
SHARD_ROWS = 10_000  # rows of metadata that costs are given for: the default of LAION_PEOPLE_SHARD_ROWS
CLUSTER_SAMPLE = 100_000  # the default of LAION_PEOPLE_CLUSTER_SAMPLE
PROFILES = ("packaged", "standard", "large")


OTHERS = {  # tasks that run bin/laion-people and no step
    "list_metadata": """\
Lists the partitions of the store by state: `extracted`, `begun` and `pending`.

Reads the names of the metadata parts and the totals of each partition; writes nothing. Seconds on a disk, longer \
on S3 with many partitions. Clear it at any time. Failures: docs/operations.md, "Metadata" and "The store".""",
    "count": """\
Counts which partitions of the release are extracted.

Reads the names of the metadata parts and the totals of each partition; writes nothing. Clear it at any time: the \
gate after it then looks again. Failures: docs/operations.md, "Metadata" and "The store".""",
    "plan": """\
Lists the run's shards in groups; each group is one mapped task of every step.

Reads the whole metadata part once, to record its checksum (extract), or the names of shards (caption), and the \
manifests of what is done where only the rest is asked for. Seconds, a minute or two on S3. It is also what refuses a \
run without a partition key or without metadata. Clear it with its downstream tasks after shards have been added. \
Failures: docs/operations.md, "Runs and their parameters" and "Metadata".""",
    "audit_cluster": """\
Recounts the cluster version, whatever the tasks say: manifests, fit, contact sheets, the clusters with their \
captions, and what people have written into `captions.yaml` and `reviews.json`.

Reads the files of the version alone: seconds. Captions that were edited since `label` ran are no fault, and are said. \
Clear the step that a fault names, with its downstream tasks. Faults: docs/operations.md, "Audit".""",
    "publish": """\
Writes the publication: Parquet files of at most 500 MB joined from shards, the pictures of Subset B unless they are \
left out, card, Croissant, checksums; then uploads it, where the run says whereto.

Reads every table of the partitions, and what was removed. Writes `releases/<name>/<version>`, which is there whole or \
not at all: clear it after a failure, and it begins anew. A publication that is there is never written over. Failures: \
docs/operations.md, "Publications".""",
    "remove": """\
Records the removal, then takes what it names out of tables, pictures, cluster versions and publications.

Reads the request that `ask` has left and the index of the partitions; rewrites the files of the shards concerned, and \
no others. No model runs. Clear `ask` with its downstream tasks: it goes on where it was. Failures: \
docs/operations.md, "Removals".""",
    "audit_removals": """\
Looks for everything that was ever removed in every file of the store but the metadata: addresses, checksums, ids, \
near-equal pictures, contact sheets, publications.

Reads every file: hours, days of a whole collection. Writes nothing. What it finds, it names with its file. Clear the \
step that wrote that file, then this task. Failures: docs/operations.md, "Removals".""",
    "audit": """\
Recounts every shard, whatever the tasks say: manifests, files, sha256, rows, reasons, inputs, the same people in the \
same order.

Reads the manifest of every shard and step, several at a time, and of the data only what may have changed since it was \
written: a minute or two on S3. Writes the partition's manifests. It runs also when shards have failed, and names each \
fault with the step to clear. Clear that step with its downstream tasks, not the audit alone. Faults: \
docs/operations.md, "Audit".""",
}


def task_doc(task_id: str, step: str = "") -> str | None:
    """The documentation of a task that runs ``bin/laion-people``, as Markdown; None for a task that is not known.

    ``step`` is the step that it runs, if any.
    """
    return step_doc(step) if step in STEPS else OTHERS.get(task_id)


@cache
def step_doc(step: str) -> str:
    """The documentation of a step's task, as Markdown."""
    doc = STEPS[step]
    facts = {
        "reads": ", ".join(f"`{name}`" for name in doc.reads),
        "writes": ", ".join(f"`{name}`" for name in _written(doc)),
        "runs on": "GPU, where there is one" if doc.pool == "gpu" else "CPU",
        **_asked(doc),
        **_costs(step),
        **_sizes(step),
    }
    lines = [f"{doc.summary[0].upper()}{doc.summary[1:]}.", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {text} |" for name, text in facts.items() if text]
    lines += ["", doc.remark] if doc.remark else []
    lines += [
        "",
        f"**Cleared.** {doc.cleared}",
        "",
        f'**Failures.** docs/operations.md, "{doc.failures}" (People > Runbook).',
    ]
    return "\n".join(lines)


def seconds(step: str, profile: str, device: str) -> float | None:
    """What a step needs for a shard of SHARD_ROWS rows, in seconds of one ``gpu`` or one core (``cpu``)."""
    rate = _rate(f"{device}:{step}", profile)
    return _amounts()[STEPS[step].amount] / rate["value"] if rate else None


def _costs(step: str) -> dict[str, str]:
    """How long the rows take, by profile."""
    times = {}
    for profile in PROFILES:
        needed = {"GPU": seconds(step, profile, "gpu"), "core": seconds(step, profile, "cpu")}
        if used := [rate for device in ("gpu", "cpu") if (rate := _rate(f"{device}:{step}", profile))]:
            text = " and ".join(f"{_duration(time)} of a {unit}" for unit, time in needed.items() if time is not None)
            times[profile] = f"{text} ({'measured' if all(rate['measured'] for rate in used) else 'assumed'} rate)"
    return _by_profile("the sample takes" if STEPS[step].amount == "sampled" else f"{SHARD_ROWS:,} rows take", times)


def _sizes(step: str) -> dict[str, str]:
    """How many bytes the rows leave, by profile."""
    entries = {STEPS[name].writes: STEPS[name] for name in (step, *STEPS[step].followed_by)}
    sizes = {}
    for profile in PROFILES:
        rates = {table: _rate(f"bytes:{table}", profile) for table in entries}
        sizes[profile] = ", ".join(
            f"{table} {size(rate['value'] * _amounts()[entries[table].written or entries[table].amount])}"
            f" ({'measured' if rate['measured'] else 'assumed'})"
            for table, rate in rates.items()
            if rate
        )
    return _by_profile(f"{SHARD_ROWS:,} rows leave", sizes)


def _by_profile(label: str, texts: dict[str, str]) -> dict[str, str]:
    """One entry where all profiles have the same text, else one for each."""
    if len(set(texts.values())) == 1:
        return {label: next(iter(texts.values()))}
    return {f"{label}, {profile}": text for profile, text in texts.items()}


@cache
def _amounts() -> dict[str, float]:
    """How many rows of each unit a shard of SHARD_ROWS rows has, as capacity.py reckons."""
    shares = {name: rate["value"] for name, rate in _rates()["any"].items()}
    images = SHARD_ROWS * shares["images_per_row"]
    people = images * shares["people_per_image"]
    return {
        "rows": SHARD_ROWS,
        "images": images,
        "people": people,
        "kept": people * shares["kept_per_person"],
        "sampled": CLUSTER_SAMPLE,
        "captions": KINDS_OF_CAPTION * people,
    }


def _written(entry: StepEntry) -> tuple[str, ...]:
    return entry.files or (entry.writes, *(STEPS[name].writes for name in entry.followed_by))


def _asked(entry: StepEntry) -> dict[str, str]:
    """What the step's pod asks for, and with which profiles it asks for something else."""
    asked = {"a pod asks for": _resource(entry.resources(""))}
    for profile in entry.pods:
        if (other := _resource(entry.resources(profile))) != asked["a pod asks for"]:
            asked[f"a pod asks for, {profile}"] = other
    return asked


def _resource(asked: Resources) -> str:
    gpu = f", {asked.gpu} GPU" if asked.gpu else ""
    return f"{asked.cpu} {'core' if asked.cpu == 1 else 'cores'}, {asked.memory}{gpu}"


def _rate(name: str, profile: str) -> dict[str, Any] | None:
    rates = _rates()
    rate: dict[str, Any] | None = rates.get(profile, {}).get(name) or rates["any"].get(name)
    return rate


@cache
def _rates() -> dict[str, dict[str, dict[str, Any]]]:
    content: dict[str, dict[str, dict[str, Any]]] = json.loads((HERE.parent / "reports" / "rates.json").read_text())
    return content


def _duration(time: float) -> str:
    if time < 1:
        return "under a second"
    for size, unit in ((3600, "h"), (60, "min")):
        if time >= 2 * size:
            return f"{time / size:.0f} {unit}"
    return f"{time:.0f} s"


def size(count: float) -> str:
    """Bytes for people."""
    unit = "bytes"
    for larger in ("kB", "MB", "GB"):
        if count >= 1000:
            count, unit = count / 1000, larger
    return f"{count:.0f} {unit}" if count >= 10 else f"{count:.1f} {unit}"
