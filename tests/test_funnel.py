from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from laion_people.errors import LaionPeopleError
from laion_people.reports.funnel import (
    FUNNEL_PARTITIONS,
    WIDTH,
    format_funnel,
    format_status,
    manifests,
    partition_funnel,
    status,
)
from laion_people.storage.store import LocalStore
from tests.synthetic_store import change_manifest, forget, make_store


def rows(store: LocalStore, partition: str = "demo/00000") -> dict[str, int]:
    return {stage.name: stage.rows for stage in partition_funnel(store, partition)}


def test_every_row_of_metadata_is_downloaded_or_lost_for_a_reason(store: LocalStore) -> None:
    make_store(store, images=12)
    stages = {stage.name: stage for stage in partition_funnel(store, "demo/00000")}
    for before, after in (
        ("rows of metadata", "downloaded"),
        ("downloaded", "images with people"),
        ("people", "poses"),
        ("poses", "face meshes"),
        ("people", "Subset A"),
        ("people", "people composed"),
    ):
        assert stages[before].rows == stages[after].rows + sum(stages[after].rejected.values()), after


def test_people_without_a_face_mesh_are_counted_from_the_tables(store: LocalStore) -> None:
    make_store(store, images=12)
    people = rows(store)["people"]
    without = len(range(0, people, 3))  # every third of the synthetic people
    mesh = next(stage for stage in partition_funnel(store, "demo/00000") if stage.name == "face meshes")
    assert (mesh.rows, mesh.rejected) == (people - without, {"no_face_seen": without})


def test_the_funnel_ends_where_no_step_has_been_run(store: LocalStore) -> None:
    make_store(store, images=4)
    for step in ("mesh", "clip_filter", "subset_a", "assign", "compose", "caption"):
        forget(store, step, "demo/00000")
    assert list(rows(store)) == ["rows of metadata", "downloaded", "images with people", "people", "poses"]
    assert format_funnel(partition_funnel(store, "demo/00001"), "demo/00001") == "demo/00001: no step has been run"


def test_images_made_elsewhere_begin_the_funnel_and_need_no_metadata(store: LocalStore) -> None:
    make_store(store, images=4)
    store.delete("metadata/demo/00000.parquet")
    forget(store, "download", "demo/00000")
    store.write("manifests/detect/demo/00000/00000.json", b"")  # as each shard of a partition leaves one
    assert next(iter(rows(store).items())) == ("images made elsewhere", 4)
    assert list(status(store)["partitions"]) == ["demo/00000"]


def test_several_partitions_add_up(store: LocalStore) -> None:
    make_store(store, "demo/00000", images=4)
    make_store(store, "demo/00001", images=8)
    told = {stage["name"]: stage for stage in status(store)["funnel"]}
    for name, count in rows(store).items():
        assert told[name]["rows"] == count + rows(store, "demo/00001")[name]
    assert told["downloaded"]["rejected"] == {"http_404": 10, "timed_out": 6, "not_an_image": 2}


def test_many_partitions_are_told_without_reading_their_shards(store: LocalStore) -> None:
    make_store(store, images=4)
    chosen = [f"demo/{i:05d}" for i in range(FUNNEL_PARTITIONS + 1)]
    assert status(store, chosen)["funnel"] is None
    assert "bin/laion-people status PARTITION" in format_status(store, chosen)


def test_status_tells_programs_what_is_missing(store: LocalStore) -> None:
    make_store(store, images=4)
    forget(store, "caption", "demo/00000")
    told = json.loads(json.dumps(status(store)))
    steps = told["partitions"]["demo/00000"]
    assert steps["caption"] == {"missing": True}
    download = manifests(store, "demo/00000")["download"]
    assert steps["download"] == {
        "missing": False,
        "shards": 1,
        "rows_in": download.rows_in,
        "rows": download.rows,
        "rejected": download.rejected,
        "seconds": download.seconds,
    }
    assert told["clusters"]["v0001"]["label"]["rows"] == 12


def test_a_step_that_has_not_done_all_shards_shows_how_many(store: LocalStore) -> None:
    for partition in ("demo/00000", "demo/00001"):
        make_store(store, partition, images=4)
    shards = manifests(store, "demo/00000")["detect"].shards
    change_manifest(store, "detect", "demo/00000", shards=(*shards, dataclasses.replace(shards[0], index=1)))
    line = next(line for line in format_status(store).splitlines() if line.startswith("  00000"))
    assert "1/2" in line


def test_text_fits_a_terminal_whatever_the_names_and_counts(store: LocalStore) -> None:
    partitions = [f"relaion2B-en-research-safe/{i:05d}" for i in range(2)]
    for partition in partitions:
        make_store(store, partition, images=4)
        reasons = {f"a_long_reason_for_losing_a_row_{i}": 10**7 + i for i in range(12)}
        change_manifest(store, "download", partition, rows=18_123_456, rejected=reasons, rows_in=18_123_456)
    for text in (format_status(store), format_status(store, partitions[:1])):
        assert max(len(line) for line in text.splitlines()) <= WIDTH
        assert "20,000,022 a_long_reason_for_losing_a_row_11" in text or "10,000,011 a_long_reason" in text


def test_the_limits_of_the_built_in_clip_are_said_plainly_and_only_where_it_was_used(store: LocalStore) -> None:
    make_store(store, images=4)
    assert "built-in sample" in " ".join(format_status(store).split())
    change_manifest(store, "clip_filter", "demo/00000", models={"another-clip": "0" * 64})
    assert "built-in sample" not in " ".join(format_status(store).split())


def test_an_empty_store_says_where_metadata_belongs(store: LocalStore) -> None:
    assert format_status(store).endswith("/metadata/<collection>/")


def test_status_ends_well_right_after_reading_tables(store: LocalStore) -> None:
    make_store(store, images=4)
    command = [sys.executable, "-m", "laion_people.cli", "status", "--store", store.uri]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    for _ in range(3):  # Arrow's threads used to abort most, not all, of such processes
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_a_damaged_mesh_table_is_one_readable_error(store: LocalStore) -> None:
    make_store(store, images=4)
    store.write("mesh/demo/00000/00000.parquet", b"PAR1 cut short")
    with pytest.raises(LaionPeopleError, match=r"^mesh/demo/00000/00000\.parquet .*\[damaged-file\]$"):
        partition_funnel(store, "demo/00000")


def test_what_was_removed_is_lost_once(store: LocalStore) -> None:
    """After `remove`: in each table that had it, and out of the input of each step but the first."""
    make_store(store, images=12)
    before = {stage.name: stage for stage in partition_funnel(store, "demo/00000")}
    made = manifests(store, "demo/00000")
    for step, removed_in in (("download", 0), ("detect", 1), ("pose", 2), ("subset_a", 2)):
        rows, rejected = removed_in or 1, made[step].rejected
        change_manifest(
            store,
            step,
            "demo/00000",
            rows=made[step].rows - rows,
            rejected=rejected | {"removed": rows},
            removed_in=removed_in,
        )
    after = {stage.name: stage for stage in partition_funnel(store, "demo/00000")}
    assert after["downloaded"].rejected == before["downloaded"].rejected | {"removed": 1}
    for name in ("images with people", "poses", "Subset A"):
        assert after[name].rejected == before[name].rejected, name
