"""The audit: what is not in the store as its manifests say turns red, with step, shard and reason."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from laion_people.engine.audit import audit
from laion_people.engine.runner import Runner
from laion_people.engine.stages import progress, unfinished
from laion_people.errors import StoreError
from laion_people.settings import Settings
from laion_people.steps.registry import STEPS
from laion_people.storage.manifest import PartitionManifest, ShardManifest
from laion_people.storage.store import LocalStore
from tests.fakes import FakeModels, image_shard

PARTITION = "laion2B-en/00042"
Damage = Callable[[LocalStore], object]


def runner(store: LocalStore) -> Runner:
    return Runner(store, Settings(), FakeModels(), STEPS)


@pytest.fixture
def extracted(store: LocalStore) -> LocalStore:
    for index in (0, 1):
        image_shard(store, PARTITION, index)
    for step in ("detect", "pose", "mesh", "clip_filter"):
        runner(store).run(step, PARTITION)
    return store


def to_make(runner: Runner) -> list[int]:
    """The shards that some step would make."""
    return sorted({index for shards in unfinished(runner.planner, PARTITION, "extract").values() for index in shards})


def change_manifest(store: LocalStore, step: str, change: Callable[[ShardManifest], ShardManifest]) -> None:
    path = f"manifests/{step}/{PARTITION}/00001.json"
    store.write(path, change(ShardManifest.from_json(store.read(path))).to_json())


def count_one_more(manifest: ShardManifest) -> ShardManifest:
    entry = dataclasses.replace(manifest.shards[0], rows=manifest.rows + 1)
    return dataclasses.replace(manifest, shards=(entry,), rows=entry.rows, rows_in=manifest.rows_in + 1)


def reverse_people(store: LocalStore) -> None:
    path = f"clip/{PARTITION}/00001.parquet"
    table = pq.read_table(store.root / path)
    pq.write_table(table.take(list(reversed(range(len(table))))), store.root / path)
    file = {"bytes": store.size(path), "sha256": store.sha256(path)}
    change_manifest(
        store,
        "clip_filter",
        lambda m: dataclasses.replace(m, shards=(dataclasses.replace(m.shard, **file),), contents=None),
    )


def detect_again_with_another_result(store: LocalStore) -> None:
    image_shard(store, PARTITION, 1, images=9)
    runner(store).run("detect", PARTITION, [1])


def test_a_whole_partition_has_no_fault_and_complete_manifests(extracted: LocalStore) -> None:
    extracted.delete(f"manifests/pose/{PARTITION}.json")
    assert audit(runner(extracted), PARTITION, "extract") == []
    manifest = PartitionManifest.from_json(extracted.read(f"manifests/pose/{PARTITION}.json"))
    assert [shard.index for shard in manifest.shards] == [0, 1]


@pytest.mark.parametrize(
    ("damage", "step", "reason"),
    [
        (lambda s: s.delete(f"pose/{PARTITION}/00001.parquet"), "pose", "[missing-file]"),
        (lambda s: s.delete(f"manifests/mesh/{PARTITION}/00001.json"), "mesh", "never finished"),
        (lambda s: s.write(f"clip/{PARTITION}/00001.parquet", b"half"), "clip_filter", "[damaged-file]"),
        (lambda s: change_manifest(s, "pose", count_one_more), "pose", "its manifest says"),
        (
            lambda s: change_manifest(s, "mesh", lambda r: dataclasses.replace(r, rows_in=r.rows_in + 3)),
            "mesh",
            "rows are neither written nor rejected",
        ),
        (reverse_people, "clip_filter", "does not have the people of detect in their order"),
        (detect_again_with_another_result, "pose", "run `pose` again [outdated]"),
    ],
)
def test_a_fault_is_named_with_step_shard_and_reason(
    extracted: LocalStore, damage: Damage, step: str, reason: str
) -> None:
    damage(extracted)
    faults = [f for f in audit(runner(extracted), PARTITION, "extract") if f.startswith(f"{step} ")]
    assert len(faults) == 1
    assert f"{step} {PARTITION} shard 00001: " in faults[0]
    assert reason in faults[0]


@pytest.mark.parametrize(
    "damage",
    [
        lambda s: s.delete(f"people/{PARTITION}/00001.parquet"),
        lambda s: s.delete(f"manifests/mesh/{PARTITION}/00001.json"),
        lambda s: s.write(f"manifests/mesh/{PARTITION}/00001.json", b"half"),
        lambda s: s.write(f"subset_a/{PARTITION}/00001.parquet", b"half"),
        detect_again_with_another_result,
    ],
)
def test_a_shard_is_unfinished_until_every_step_has_made_it(extracted: LocalStore, damage: Damage) -> None:
    assert to_make(runner(extracted)) == []
    damage(extracted)
    assert to_make(runner(extracted)) == [1]
    for step in ("detect", "pose", "mesh", "clip_filter"):
        runner(extracted).run(step, PARTITION, [1])
    assert to_make(runner(extracted)) == []
    assert audit(runner(extracted), PARTITION, "extract") == []


def test_another_threshold_leaves_every_shard_unfinished_for_those_who_ask_with_it(extracted: LocalStore) -> None:
    stricter = Runner(extracted, Settings(threshold=0.6), FakeModels(), STEPS)
    assert to_make(stricter) == [0, 1]
    stricter.run("clip_filter", PARTITION)
    assert audit(stricter, PARTITION, "extract") == to_make(stricter) == []
    assert to_make(runner(extracted)) == [0, 1]


def test_shards_beyond_the_plan_are_a_fault(extracted: LocalStore) -> None:
    extracted.delete(f"images/{PARTITION}/00001.tar")
    faults = audit(runner(extracted), PARTITION, "extract")
    assert any(re.match(rf"detect {PARTITION} shard 00001: .*\[surplus-shard\]$", fault) for fault in faults)


def test_a_partition_without_metadata_or_images_is_an_error_not_a_clean_audit(store: LocalStore) -> None:
    with pytest.raises(Exception, match=rf"{PARTITION}.*\[unknown-partition\]$"):
        audit(runner(store), PARTITION, "extract")


def test_a_partition_counts_as_extracted_only_when_every_step_has_every_shard(store: LocalStore) -> None:
    image_shard(store, PARTITION, 0)
    people = pa.table({"url": ["http://example.org/1.jpg"], "caption": ["one"]})
    with store.writer("metadata/laion2B-en/part-00042-0-c000.snappy.parquet") as path:
        pq.write_table(people, path)
    state = "pending"
    for step in ("detect", "pose", "mesh", "clip_filter"):  # no download: the images were made elsewhere
        assert progress(runner(store).planner) == {"extracted": [], "begun": [], "pending": []} | {state: [PARTITION]}
        runner(store).run(step, PARTITION)
        state = "begun"
    assert progress(runner(store).planner) == {"extracted": [PARTITION], "begun": [], "pending": []}
    image_shard(store, PARTITION, 1)
    assert progress(runner(store).planner) == {"extracted": [], "begun": [PARTITION], "pending": []}


def test_a_store_that_does_not_answer_is_no_partition_that_is_not_extracted(
    extracted: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    extracted.write(f"metadata/{PARTITION}.parquet", b"")
    read = LocalStore.read

    def fails(store: LocalStore, path: str) -> bytes:
        if path.startswith("totals/"):
            raise StoreError("store-away", f"{store.uri}/{path}: Input/output error")
        return read(store, path)

    monkeypatch.setattr(LocalStore, "read", fails)
    with pytest.raises(StoreError, match="Input/output error"):
        progress(runner(extracted).planner)
