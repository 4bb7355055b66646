"""What the runner promises: whole shards, nothing done twice, nothing lost, every row counted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from laion_people.engine.audit import audit
from laion_people.engine.runner import Runner
from laion_people.engine.stages import unfinished
from laion_people.engine.step import ReleaseStep, Row, Step
from laion_people.engine.work import Shard
from laion_people.errors import LaionPeopleError, ShortageError, StoreError
from laion_people.settings import Settings
from laion_people.steps.clip_filter import ClipFilter
from laion_people.steps.detect import Detect
from laion_people.steps.download.step import Download
from laion_people.steps.facts.step import Facts
from laion_people.steps.mesh import Mesh
from laion_people.steps.pose import Pose
from laion_people.steps.subset_a import SubsetA
from laion_people.storage.layout import manifest_path
from laion_people.storage.store import LocalStore, Store
from tests.fakes import FakeModels, image_shard, tar_of

PARTITION = "laion2B-en/00042"
EXTRACT = ("detect", "pose", "mesh", "clip_filter")
STEPS: dict[str, Step | ReleaseStep] = {
    s.entry.name: s for s in (Download(), Detect(), Pose(), Mesh(), Facts(), ClipFilter(), SubsetA())
}


def runner(
    store: Store,
    settings: Settings | None = None,
    steps: dict[str, Step | ReleaseStep] | None = None,
    run_id: str = "",
) -> Runner:
    return Runner(store, settings or Settings(), FakeModels(), steps or STEPS, run_id)


@pytest.fixture
def extracted(store: LocalStore) -> LocalStore:
    for index in (0, 1, 2):
        image_shard(store, PARTITION, index)
    for step in EXTRACT:
        runner(store).run(step, PARTITION)
    return store


def files(store: LocalStore, *tables: str) -> dict[str, tuple[bytes, int]]:
    paths = [p for t in tables for p in store.list(t)]
    return {p: (store.read(p), (store.root / p).stat().st_mtime_ns) for p in paths}


def test_every_row_read_is_used_or_rejected_under_a_reason(extracted: LocalStore) -> None:
    for step in ("detect", "pose", "mesh", "clip_filter", "subset_a"):
        manifest = runner(extracted).sum(step, PARTITION)
        assert manifest.rows == sum(s.rows for s in manifest.shards) > 0
        if step != "detect":  # one image can hold several people
            assert manifest.rows_in == manifest.rows + sum(manifest.rejected.values())
    detected = runner(extracted).sum("detect", PARTITION)
    with_people = {r["key"] for i in range(3) for r in rows(extracted, "people", i)}
    assert detected.rows_in == 36 == len(with_people) + detected.rejected["no_people"]


def rows(store: LocalStore, table: str, index: int) -> list[dict]:
    return pq.read_table(store.root / table / PARTITION / f"{index:05d}.parquet").to_pylist()


def test_tables_of_a_shard_are_row_aligned(extracted: LocalStore) -> None:
    for index in range(3):
        ids = [[r["person_id"] for r in rows(extracted, t, index)] for t in ("people", "pose", "mesh", "clip")]
        assert ids[0] == ids[1] == ids[2] == ids[3]
        assert len(set(ids[0])) == len(ids[0])


def test_a_second_run_leaves_every_byte_alone_and_loads_no_model(extracted: LocalStore) -> None:
    before = files(extracted, "people", "pose", "mesh", "clip", "subset_a")
    again = runner(extracted)
    for step in EXTRACT:
        again.run(step, PARTITION)
    assert files(extracted, "people", "pose", "mesh", "clip", "subset_a") == before
    assert again.planner.models.loaded == []


@pytest.mark.parametrize("harm", ["delete", "flip", "truncate"])
def test_a_damaged_shard_is_noticed_and_made_again_alone(extracted: LocalStore, harm: str) -> None:
    before = files(extracted, "people")
    path = extracted.root / "people" / PARTITION / "00001.parquet"
    data = bytearray(path.read_bytes())
    if harm == "delete":
        path.unlink()
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data[: -40 if harm == "truncate" else None])
    runner(extracted).run("detect", PARTITION)
    after = files(extracted, "people")
    assert {p: b for p, (b, _) in after.items()} == {p: b for p, (b, _) in before.items()}
    assert [p for p in after if after[p][1] != before[p][1]] == [f"people/{PARTITION}/00001.parquet"]


def test_damaged_input_stops_the_step_with_what_to_do(extracted: LocalStore) -> None:
    path = extracted.root / "people" / PARTITION / "00002.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(LaionPeopleError, match=r"^people/.*00002.parquet .*\[damaged-file\]"):
        runner(extracted).run("pose", PARTITION, force=True)


def test_another_threshold_makes_subset_a_again_without_inference(extracted: LocalStore) -> None:
    clip = files(extracted, "clip")
    stricter = runner(extracted, Settings(threshold=0.6))
    stricter.run("clip_filter", PARTITION)
    assert files(extracted, "clip") == clip and stricter.planner.models.loaded == []
    kept = [r for i in range(3) for r in rows(extracted, "subset_a", i)]
    scored = [r for i in range(3) for r in rows(extracted, "clip", i)]
    assert {r["person_id"] for r in kept} == {r["person_id"] for r in scored if r["similarity"] > kept[0]["threshold"]}
    assert {round(r["threshold"], 3) for r in kept} == {0.6}


def test_changed_input_is_worked_on_again_downstream(extracted: LocalStore) -> None:
    image_shard(extracted, PARTITION, 1, images=5)
    for step in EXTRACT:
        runner(extracted).run(step, PARTITION)
    assert len({r["key"] for r in rows(extracted, "people", 1)}) <= 5
    assert [r["person_id"] for r in rows(extracted, "mesh", 1)] == [
        r["person_id"] for r in rows(extracted, "people", 1)
    ]


def test_shards_can_be_run_apart_and_the_manifest_sums_them(store: LocalStore) -> None:
    for index in (0, 1, 2, 7):
        image_shard(store, PARTITION, index)
    assert len(runner(store).run("detect", PARTITION, [7]).shards) == 1
    assert [s.index for s in runner(store).run("detect", PARTITION, [0, 1, 2]).shards] == [0, 1, 2]
    assert not store.exists(manifest_path("detect", PARTITION))  # as long as others may be at work on it
    manifest = runner(store).run("detect", PARTITION)
    assert [s.index for s in manifest.shards] == [0, 1, 2, 7]
    assert store.read(manifest_path("detect", PARTITION)) == manifest.to_json()
    with pytest.raises(LaionPeopleError, match=r"no shard 3 .*\[no-such-shard\]"):
        runner(store).run("detect", PARTITION, [3])


def test_shards_that_an_earlier_plan_had_are_removed(extracted: LocalStore) -> None:
    extracted.delete(f"images/{PARTITION}/00002.tar")
    manifest = runner(extracted).run("detect", PARTITION)
    assert [s.index for s in manifest.shards] == [0, 1]
    assert not extracted.exists(f"people/{PARTITION}/00002.parquet")


@pytest.mark.parametrize(
    "name", [".DS_Store", "._00001.json", "00001 (1).json", "00001.json.bak", "x", "old/00001.json"]
)
def test_strangers_among_manifests_are_passed_over(extracted: LocalStore, name: str) -> None:
    before = files(extracted, "people")
    extracted.write(f"manifests/detect/{PARTITION}/{name}", b"")
    assert len(runner(extracted).run("detect", PARTITION).shards) == 3
    assert runner(extracted).run("pose", PARTITION, [1]).rows
    assert files(extracted, "people") == before


def test_an_input_that_was_made_from_an_earlier_one_is_refused(extracted: LocalStore) -> None:
    image_shard(extracted, PARTITION, 1, images=5)
    runner(extracted).run("detect", PARTITION)
    with pytest.raises(LaionPeopleError, match=r"an earlier images/.*: run `pose` .*\[outdated\]"):
        runner(extracted).run("mesh", PARTITION)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\x00", b"[1]"])
def test_a_damaged_manifest_is_made_again_with_its_shard(extracted: LocalStore, content: bytes) -> None:
    before = files(extracted, "people")
    extracted.write(f"manifests/detect/{PARTITION}/00001.json", content)
    with pytest.raises(LaionPeopleError, match=r"00001.json .*\[damaged-file\]"):
        runner(extracted).run("pose", PARTITION)
    runner(extracted).run("detect", PARTITION)
    assert {p: b for p, (b, _) in files(extracted, "people").items()} == {p: b for p, (b, _) in before.items()}
    assert len(runner(extracted).planner.manifest_paths("detect", PARTITION)) == 3


def test_a_step_of_another_revision_makes_its_shards_again(extracted: LocalStore) -> None:
    class Better(Pose):
        revision = Pose.revision + 1

    again = runner(extracted, steps=STEPS | {"pose": Better()})
    again.run("pose", PARTITION)
    assert again.planner.models.loaded == ["pose"]


def test_a_step_without_input_says_which_step_comes_before(store: LocalStore) -> None:
    with pytest.raises(LaionPeopleError, match=r"no images .*\[unfinished\]"):
        runner(store).run("detect", PARTITION)


@pytest.mark.parametrize("name", ["000007.tar", "7.tar", "000.tar", "00008.TAR"])
def test_a_shard_with_another_number_of_digits_is_refused_by_its_path(store: LocalStore, name: str) -> None:
    image_shard(store, PARTITION, 7)
    store.write(f"images/{PARTITION}/{name}", b"")
    with pytest.raises(LaionPeopleError, match=rf"^images/{PARTITION}/{name}: .*\[shard-name\]"):
        runner(store).run("detect", PARTITION)


@pytest.mark.parametrize(
    "name", ["backup.tar", "00001.tar.gz", "train-00001.tar", "00001 (1).tar", "²³.tar", "old/00001.tar"]
)
def test_a_tar_that_is_no_shard_is_named_and_stops_no_shard(
    store: LocalStore, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    store.write(f"images/{PARTITION}/{name}", b"")
    with pytest.raises(LaionPeopleError, match=r"\[shard-name\]") as caught:
        runner(store).run("detect", PARTITION)
    assert f"images/{PARTITION}/{name}" in str(caught.value)
    for index in (3, 123456):
        image_shard(store, PARTITION, index)
    with caplog.at_level("WARNING"):
        assert [s.index for s in runner(store).run("detect", PARTITION).shards] == [3, 123456]
    assert f"images/{PARTITION}/{name} is not read" in caplog.text


def test_hidden_tars_are_passed_over_without_a_word(store: LocalStore, caplog: pytest.LogCaptureFixture) -> None:
    image_shard(store, PARTITION, 0)
    store.write(f"images/{PARTITION}/._00000.tar", b"")
    store.write(f"images/{PARTITION}/.DS_Store", b"")
    with caplog.at_level("WARNING"):
        assert len(runner(store).run("detect", PARTITION).shards) == 1
    assert caplog.text == ""


def test_undecodable_and_empty_images_are_counted_not_fatal(store: LocalStore) -> None:
    with store.writer(f"images/{PARTITION}/00000.tar") as path:
        tar_of({"000000000": b"no image", "000000001": b"\xff\xd8\xff\xe0 cut"}, path)
    manifest = runner(store).run("detect", PARTITION)
    assert (manifest.rows_in, manifest.rows, manifest.rejected) == (2, 0, {"not_an_image": 2})
    for step in EXTRACT[1:]:
        assert runner(store).run(step, PARTITION).rows == 0


def test_a_cut_tar_is_an_error_that_names_the_file(store: LocalStore) -> None:
    image_shard(store, PARTITION, 0)
    path = store.root / "images" / PARTITION / "00000.tar"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(LaionPeopleError, match=r"00000.tar .*\[damaged-tar\]"):
        runner(store).run("detect", PARTITION)
    assert store.list("people") == []


class Dies(Pose):
    """A pose step that fails after a few rows."""

    def apply(self, shard: Shard) -> Iterator[Row]:
        for count, row in enumerate(super().apply(shard)):
            if count == 3:
                raise OSError("disk on fire")
            yield row


def test_a_step_that_fails_in_the_middle_leaves_no_file(extracted: LocalStore) -> None:
    before = files(extracted, "pose")
    with pytest.raises(OSError, match="disk on fire"):
        runner(extracted, steps=STEPS | {"pose": Dies()}).run("pose", PARTITION, [1], force=True)
    assert files(extracted, "pose") == before
    assert list((extracted.root / ".writing").iterdir()) == []


def test_force_makes_a_shard_again_once_in_a_run_however_often_its_task_is_tried(extracted: LocalStore) -> None:
    with pytest.raises(OSError, match="disk on fire"):
        runner(extracted, steps=STEPS | {"pose": Dies()}, run_id="1").run("pose", PARTITION, [2], force=True)
    runner(extracted, run_id="1").run("pose", PARTITION, [0, 1], force=True)
    tried = files(extracted, "pose")
    runner(extracted, run_id="1").run("pose", PARTITION, force=True)  # the next try
    again = files(extracted, "pose")
    assert [path for path in again if again[path] != tried.get(path)] == [f"pose/{PARTITION}/00002.parquet"]
    extracted.delete(f"pose/{PARTITION}/00001.parquet")
    runner(extracted, run_id="1").run("pose", PARTITION, force=True)  # cleared
    mended = files(extracted, "pose")
    assert [path for path in mended if mended[path] != again[path]] == [f"pose/{PARTITION}/00001.parquet"]
    runner(extracted, run_id="2").run("pose", PARTITION, force=True)
    forced = files(extracted, "pose")
    assert all(forced[path][1] > mended[path][1] and forced[path][0] == mended[path][0] for path in forced)


MEASURE = """
import resource, sys
from pathlib import Path
from laion_people.engine.runner import Runner
from laion_people.settings import Settings
from laion_people.storage.store import LocalStore
from tests.fakes import FakeModels, image_shard
from tests.test_runner import EXTRACT, PARTITION, STEPS
store = LocalStore(Path(sys.argv[1]))
peaks = []
for index in range(50):
    image_shard(store, PARTITION, index, images=40)
runner = Runner(store, Settings(), FakeModels(), STEPS)
for last in (1, 50):
    for step in EXTRACT:
        runner.run(step, PARTITION, range(last))
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(*peaks)
"""


def test_memory_stays_flat_from_1_to_50_shards(tmp_path: Path) -> None:
    environ = os.environ | {"PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environ)
    one, fifty = (float(v) for v in done.stdout.split())
    assert fifty < one + 40, f"{one:.0f} MiB after one shard, {fifty:.0f} MiB after fifty"


@pytest.mark.parametrize("kind", [StoreError, ShortageError])
def test_a_manifest_that_cannot_be_read_now_is_not_taken_for_damaged(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, kind: type[LaionPeopleError]
) -> None:
    """Or all would be made anew."""
    image_shard(store, PARTITION, 0)
    runner(store).run("detect", PARTITION)

    def fails(store: LocalStore, path: str) -> bytes:
        raise kind("store-away", f"{path}: the service answers SlowDown")

    monkeypatch.setattr(LocalStore, "read", fails)
    with pytest.raises(kind, match="SlowDown"):
        runner(store).run("detect", PARTITION)


def test_a_damaged_surplus_shard_goes_too_and_leaves_no_file(extracted: LocalStore) -> None:
    extracted.delete(f"images/{PARTITION}/00002.tar")
    extracted.write(f"manifests/detect/{PARTITION}/00002.json", b"{")
    runner(extracted).run("detect", PARTITION)
    assert not [path for path in extracted.list("people") + extracted.list("manifests/detect") if "/00002" in path]


def test_a_kill_while_surplus_is_removed_leaves_it_to_the_next_run(
    extracted: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    extracted.delete(f"images/{PARTITION}/00002.tar")
    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "delete", kill)
        with pytest.raises(KeyboardInterrupt):
            runner(extracted).run("detect", PARTITION)
    runner(extracted).run("detect", PARTITION)
    assert not [path for path in extracted.list("people") if "/00002" in path]


def kill(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_store_that_fails_is_no_damage_and_nothing_to_make(
    extracted: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    extracted.write(f"people/{PARTITION}/00001.parquet", extracted.read(f"people/{PARTITION}/00001.parquet"))

    def fails(store: LocalStore, path: str) -> Iterator[Path]:
        raise StoreError("store-away", f"{path}: the service answers SlowDown")

    monkeypatch.setattr(LocalStore, "local", fails)
    monkeypatch.setattr(LocalStore, "sha256", fails)
    with pytest.raises(StoreError, match="SlowDown"):
        audit(runner(extracted), PARTITION, "extract")
    with pytest.raises(StoreError, match="SlowDown"):
        unfinished(runner(extracted).planner, PARTITION, "extract")
