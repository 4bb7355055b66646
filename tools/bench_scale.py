"""What the bookkeeping of 128 partitions costs: time, requests and memory of all that is done beside the data itself.

    PYTHONPATH=.:plugins .venv/worker/bin/python tools/bench_scale.py [--partitions 32,128] [--shards 1813]

Makes stores of manifests without pictures, of each number of partitions, and measures every piece of work on disk and
at a bucket whose every answer takes 20 ms. Files that nobody reads are links to one, so that a million of them take no
room. Each piece runs in a process of its own. Fails when one grows faster than the partitions do.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from laion_people.engine.audit import audit
from laion_people.engine.catalog import steps_of
from laion_people.engine.files import describe
from laion_people.engine.runner import Runner
from laion_people.engine.stages import progress, unfinished
from laion_people.engine.work import Release
from laion_people.reports import drift, funnel
from laion_people.settings import Settings
from laion_people.steps.cluster.step import Cluster
from laion_people.steps.registry import STEPS
from laion_people.storage import layout, metadata
from laion_people.storage.manifest import Contents, FileEntry, PartitionManifest, ShardEntry, ShardManifest
from laion_people.storage.manifestindex import ManifestIndex
from laion_people.storage.store import LocalStore, Store, open_store
from laion_people.storage.totals import TotalsReader, write_totals
from tests.bucket import bucket
from tests.fakes import FakeModels, image_shard

SETTINGS = Settings(cluster_sample=1000, shard_rows=12)
EXTRACT = tuple(entry.name for entry in steps_of("extract"))
IMAGES = 12  # of a shard
COLLECTION, FIRST = "bench", "bench/00000"
TASK = 16  # shards of a task
SLACK = 1.6  # by which more than the growth of the partitions may be measured: the machine has other things to do
LINKS = 30_000  # to one file, of which ext4 allows 65,000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--partitions", default="32,128", help="numbers of partitions, ascending")
    parser.add_argument("--shards", type=int, default=1813, help="of each partition: LAION-2B's have 1,813")
    parser.add_argument("--latency", type=float, default=0.02, help="seconds that the bucket takes for an answer")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    counts = [int(count) for count in args.partitions.split(",")]
    measured: dict[tuple[str, str], list[Measure]] = {}
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            make_store(Path(folder), count, args.shards)
            print(f"{count} partitions of {args.shards:,} shards, made in {time.perf_counter() - start:.0f} s")
            with opened(Path(folder) / "store", args.latency) as stores:
                for where, (store, requests) in stores.items():
                    unfinish(Path(folder) / "store", args.shards)
                    for name, work in WORK.items():
                        measure = measured_apart(work, store, requests)
                        measured.setdefault((where, name), []).append(measure)
                        print(f"  {where:6}  {name:30}  {measure}", flush=True)
    sys.exit(report(measured, counts))


@dataclasses.dataclass(frozen=True)
class Measure:
    """Seconds, requests (of a bucket; 0 on disk), and the most memory of the process, in MiB."""

    seconds: float
    requests: int
    mebibytes: float

    def __str__(self) -> str:
        return f"{self.seconds:8.1f} s  {self.requests:7,} requests  {self.mebibytes:6.0f} MiB"


def report(measured: dict[tuple[str, str], list[Measure]], counts: list[int]) -> int:
    """Says what grew faster than the partitions; returns the exit code."""
    allowed = SLACK * counts[-1] / counts[0]
    code = 0
    for (where, name), measures in measured.items():
        first, last = measures[0], measures[-1]
        if last.seconds > max(1.0, allowed * first.seconds) or last.requests > allowed * first.requests:
            print(f"{name} ({where}) grew faster than linearly: {first} -> {last}", file=sys.stderr)
            code = 1
    return code


def make_store(root: Path, partitions: int, shards: int) -> None:
    """A store in which all partitions but the last TASK shards of the first one are extracted and clustered."""
    template = LocalStore(root / "template")
    key = FIRST
    image_shard(template, key, 0, images=IMAGES)
    _download(template, key)
    runner = Runner(template, SETTINGS, FakeModels(), STEPS)
    for step in EXTRACT:
        if step not in ("download", "facts", "subset_a"):  # the last two follow
            runner.run(step, key)
    version = runner.run_release("cluster", [key]).partition
    runner.run_release("label", [key])
    store = LocalStore(root / "store")
    for step in ("cluster", "label"):
        _link(template, layout.manifest_path(step, version), store, layout.manifest_path(step, version))
    for path in template.list("clusters"):
        _link(template, path, store, path)
    made = {step: ShardManifest.from_json(template.read(layout.shard_manifest_path(step, key, 0))) for step in EXTRACT}
    for part in range(partitions):
        _make_partition(template, store, made, f"{COLLECTION}/{part:05d}", shards, whole=part == 0)


def unfinish(root: Path, shards: int) -> None:
    """Leaves the last TASK shards of the first partition with their images alone, as if a task had still to run."""
    store = LocalStore(root)
    for entry in steps_of("extract"):
        for index in range(shards - TASK, shards):
            if entry.writes != "images":
                store.delete(layout.shard_manifest_path(entry.name, FIRST, index))
                store.delete(layout.shard_file(entry.writes, FIRST, index))


def _make_partition(
    template: LocalStore, store: LocalStore, made: dict[str, ShardManifest], key: str, shards: int, whole: bool
) -> None:
    """Of a ``whole`` partition, every file is there, and the manifests of its shards can be read."""
    part = f"metadata/{COLLECTION}/part-{key.rpartition('/')[2]}-made-up.parquet"
    shard = ShardEntry(0, part, IMAGES * shards, 0, "0" * 64, tag=store.write(part, b""))
    record = PartitionManifest(
        step="metadata", partition=key, run_id="", params={}, inputs=(), shards=(shard,), rows=shard.rows
    )
    store.write(layout.manifest_path("metadata", key), record.to_json())
    for step, manifest in made.items():
        pairs = []
        link = ""
        for index in range(shards):
            renamed = _renamed(manifest, key, index, shard)
            path = layout.shard_manifest_path(step, key, index)
            if whole or index % LINKS == 0:
                link = path
                store.write(path, renamed.to_json())
            else:
                _link(store, link, store, path)
            if whole or step in ("download", "detect"):  # whose files are listed
                for old, new in zip(manifest.shard.files(), renamed.shard.files(), strict=True):
                    _link(template, old.uri, store, new.uri)
            pairs.append((FileEntry(path, 0, "0" * 64, store.tag(path)), renamed))
        if not whole:
            total = PartitionManifest.of_shards(pairs)
            store.write(layout.manifest_path(step, key), total.to_json())
            write_totals(store, total, shards)


def _renamed(manifest: ShardManifest, key: str, index: int, metadata_part: ShardEntry) -> ShardManifest:
    """The manifest as that of another shard, made from another part."""
    old, new = f"{manifest.partition}/{layout.shard_name(0)}", f"{key}/{layout.shard_name(index)}"

    def renamed(entry: Any) -> Any:
        return dataclasses.replace(entry, uri=entry.uri.replace(old, new))

    shard = dataclasses.replace(
        renamed(manifest.shard), index=index, sidecars=tuple(map(renamed, manifest.shard.sidecars))
    )
    inputs = metadata_part.files() if manifest.step == "download" else tuple(map(renamed, manifest.inputs))
    return dataclasses.replace(manifest, partition=key, shards=(shard,), inputs=inputs)


def _download(template: LocalStore, key: str) -> None:
    """As if a step had made the images of the template."""
    runner = Runner(template, SETTINGS, FakeModels(), STEPS)
    stem = layout.shard_stem("images", key, 0)
    with template.writer(f"{stem}.parquet") as path:
        pq.write_table(pa.table({"key": [f"{n:09d}" for n in range(IMAGES)]}), path)
    files = []
    for suffix in (".tar", ".parquet"):
        path = template.root / f"{stem}{suffix}"
        files.append(describe(f"{stem}{suffix}", path, template.tag(f"{stem}{suffix}")))
    step = runner.planner.step("download")
    plan = runner.planner.plan(step, key, {})
    shard = ShardEntry(0, files[0].uri, IMAGES, files[0].bytes, files[0].sha256, (files[1],), files[0].tag)
    manifest = ShardManifest(
        step=plan.step,
        partition=key,
        run_id=plan.run_id,
        params=plan.params,
        inputs=(),
        shards=(shard,),
        rows_in=IMAGES,
        rows=IMAGES,
        contents=Contents(IMAGES, IMAGES, IMAGES, {}),
    )
    template.write(layout.shard_manifest_path("download", key, 0), manifest.to_json())


def _link(source: LocalStore, old: str, store: LocalStore, new: str) -> None:
    target = store.root / new
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.hardlink_to(source.root / old)
    except OSError:  # too many links
        shutil.copy2(source.root / old, target)


class Reached(Exception):
    """Clustering begins to read its sample."""


class Stops(Cluster):
    """Clustering up to its sample."""

    def apply(self, release: Release) -> tuple[int, list[str]]:
        raise Reached


def runner_of(store: Store) -> Runner:
    return Runner(store, SETTINGS, FakeModels(), STEPS | {"cluster": Stops()})


def _keys(store: Store) -> list[str]:
    return list(metadata.partitions(store))


def discover(store: Store) -> None:
    state = progress(runner_of(store).planner)
    assert (len(state["extracted"]), state["begun"]) == (len(_keys(store)) - 1, [FIRST])


def plan(store: Store) -> None:
    to_make = unfinished(runner_of(store).planner, FIRST, "extract")
    assert {len(shards) for step, shards in to_make.items() if step != "download"} == {TASK}, to_make


def task(store: Store) -> None:
    shards = sorted(_shards(store) - _shards(store, "detect"))
    made = runner_of(store).run("detect", FIRST, shards)
    assert len(made.shards) == TASK


def audit_first(store: Store) -> None:
    faults = audit(runner_of(store), FIRST, "extract")
    assert len(faults) == 5 * TASK, faults[:3]  # of the steps that were not run after detect


def cluster(store: Store) -> None:
    try:
        runner_of(store).run_release("cluster", [key for key in _keys(store) if key != FIRST])
    except Reached:
        return
    raise AssertionError("the version was not new")


def label(store: Store) -> None:
    assert runner_of(store).run_release("label", _keys(store)).rows


def status(store: Store) -> None:
    assert len(funnel.status(store)["partitions"]) == len(_keys(store))


def page(store: Store) -> None:
    assert len(TotalsReader(store).read()) >= len(_keys(store)) - 1
    drift.flags(store)


def _shards(store: Store, step: str = "download") -> set[int]:
    return set(ManifestIndex(store).paths(step, FIRST))


WORK: dict[str, Callable[[Store], None]] = {
    "discover, gate": discover,
    "plan of a partition": plan,
    f"a task of {TASK} shards (detect)": task,
    "audit of a partition": audit_first,
    "clustering, up to its sample": cluster,
    "label": label,
    "status": status,
    "what the first page reads": page,
}


def measured_apart(work: Callable[[Store], None], store: Store, requests: Callable[[], int]) -> Measure:
    """Measures a piece of work in a process of its own; fails as that fails."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    before = requests()
    process = context.Process(target=_measure, args=(work, store.uri, sender))
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(f"{work.__name__} failed")
    seconds, mebibytes = receiver.recv()
    return Measure(seconds, requests() - before, mebibytes)


def _measure(work: Callable[[Store], None], uri: str, sender: Any) -> None:
    store = open_store(uri)
    start = time.perf_counter()
    work(store)
    sender.send((time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


@contextmanager
def opened(root: Path, latency: float) -> Iterator[dict[str, tuple[Store, Callable[[], int]]]]:
    """The store on disk, and at a bucket, each with what counts its requests."""
    with bucket(root, latency) as served:
        os.environ |= {"AWS_ENDPOINT_URL": served.url, "AWS_DEFAULT_REGION": "none"}
        os.environ |= {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none"}
        yield {"disk": (LocalStore(root), lambda: 0), "bucket": (open_store("s3://bench"), served.requests)}


if __name__ == "__main__":
    main()
