"""cluster and assign: frozen versions, and the nearest clusters of everybody."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from laion_people.engine.runner import Runner
from laion_people.engine.step import ReleaseStep, Step
from laion_people.errors import LaionPeopleError, StoreError
from laion_people.language import captions
from laion_people.reports import funnel
from laion_people.reports.report import write_report
from laion_people.settings import Settings
from laion_people.steps.assign import Assign
from laion_people.steps.cluster.clusters import load_fit
from laion_people.steps.cluster.contactsheets import HIGHEST, WIDTH
from laion_people.steps.cluster.step import Cluster
from laion_people.steps.detect import Detect
from laion_people.steps.download.step import Download
from laion_people.steps.facts.step import Facts
from laion_people.steps.label import Label
from laion_people.steps.mesh import Mesh
from laion_people.steps.pose import Pose
from laion_people.steps.registry import STEPS as ALL
from laion_people.storage.store import LocalStore
from laion_people.storage.versions import newest, take, versions
from tests.fakes import FakeMesh, FakeModels, image_shard

PARTITIONS = ["laion2B-en/00042", "laion2B-en/00043"]
LEAST_FACT_SETS = {
    "base": "standing",
    "left_arm": "down",
    "mouth": "smiling",
    "eyes": "open",
    "turn": "camera",
    "nod": "level",
}
STEPS: dict[str, Step | ReleaseStep] = {
    s.entry.name: s for s in (Download(), Detect(), Pose(), Mesh(), Facts(), Cluster(), Label(), Assign())
}


class FacelessMesh(FakeMesh):
    def _one(self, *_: object) -> None:
        return None


class Faceless(FakeModels):
    """Models that see no faces."""

    KINDS = FakeModels.KINDS | {"mesh": FacelessMesh}


def runner(store: LocalStore, run_id: str = "", **settings: Any) -> Runner:
    return Runner(store, replace(Settings(), **settings), FakeModels(), STEPS, run_id)


@pytest.fixture
def extracted(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> LocalStore:
    """People with the same number of facts of each kind; the fake faces are circles."""
    monkeypatch.setattr("laion_people.steps.cluster.step.read_facts", lambda table: [LEAST_FACT_SETS] * len(table))
    for partition in PARTITIONS:
        for index in (0, 1):
            image_shard(store, partition, index)
        for step in ("detect", "pose", "mesh"):
            runner(store).run(step, partition)
    return store


@pytest.fixture
def clustered(extracted: LocalStore) -> LocalStore:
    runner(extracted).run_release("cluster", PARTITIONS)
    return extracted


def people(store: LocalStore) -> list[str]:
    tables = [pq.read_table(store.root / path, columns=["person_id"]) for path in store.list("people")]
    return [person_id for table in tables for person_id in table["person_id"].to_pylist()]


def test_a_fit_has_clusters_of_every_kind_and_counts_everybody(clustered: LocalStore) -> None:
    fit = load_fit(clustered.read("clusters/v0001/fit.json"))
    ids = people(clustered)
    for name, cluster_set in fit.cluster_sets.items():
        assert cluster_set.clusters and all(c.cluster_id.startswith(f"{name}-0") for c in cluster_set.clusters)
        assert {c.medoid_person_id for c in cluster_set.clusters} <= set(ids)
        assert 0 < cluster_set.near <= cluster_set.far
    assert sum(c.size for c in fit.cluster_sets["pose"].clusters) == len(ids)
    manifest = json.loads(clustered.read("manifests/cluster/v0001.json"))
    assert manifest["rows_in"] == len(ids)
    assert manifest["rows"] == sum(len(cluster_set.clusters) for cluster_set in fit.cluster_sets.values())


def test_clusters_of_whom_no_two_things_can_be_said_are_none(
    extracted: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = {"base": "standing", "left_arm": "down", "mouth": "smiling"}
    monkeypatch.setattr("laion_people.steps.cluster.step.read_facts", lambda table: [facts] * len(table))
    runner(extracted).run_release("cluster", PARTITIONS)
    cluster_sets = load_fit(extracted.read("clusters/v0001/fit.json")).cluster_sets
    assert cluster_sets["pose"].clusters and all(len(c.fact_sets) >= 2 for c in cluster_sets["pose"].clusters)
    assert not cluster_sets["face"].clusters + cluster_sets["head"].clusters


def test_a_partition_without_rows_is_clustered_with_the_others(extracted: LocalStore) -> None:
    empty = "laion2B-en/00044"
    path = extracted.root / "metadata/laion2B-en/part-00044-x.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table({"URL": pa.array([], pa.string()), "TEXT": pa.array([], pa.string())}), path)
    for step in ("download", "detect", "pose", "mesh"):
        runner(extracted).run(step, empty)
    runner(extracted).run_release("cluster", [*PARTITIONS, empty])
    assert runner(extracted).run("assign", empty).rows == 0
    assert load_fit(extracted.read("clusters/v0001/fit.json")).cluster_sets["pose"].clusters


def test_every_cluster_has_a_contact_sheet_of_its_members(clustered: LocalStore) -> None:
    fit = load_fit(clustered.read("clusters/v0001/fit.json"))
    for cluster in (c for cluster_set in fit.cluster_sets.values() for c in cluster_set.clusters):
        sheet = Image.open(io.BytesIO(clustered.read(f"clusters/v0001/contact-{cluster.cluster_id}.jpg")))
        assert sheet.width == WIDTH and 0 < sheet.height <= 2 * HIGHEST
        assert np.asarray(sheet).std() > 5


def test_the_same_people_and_seed_give_the_same_bytes_and_no_second_version(clustered: LocalStore) -> None:
    before = {p: clustered.read(p) for p in clustered.list("clusters")}
    assert runner(clustered).run_release("cluster", PARTITIONS).partition == "v0001"
    runner(clustered).run_release("cluster", PARTITIONS, force=True)
    assert runner(clustered).run_release("cluster", PARTITIONS).partition == "v0002"  # the other steps take it, too
    again = {p.replace("v0002", "v0001"): clustered.read(p) for p in clustered.list("clusters/v0002")}
    assert all(again[path] == data for path, data in before.items() if path.endswith(".jpg"))
    old, new = (load_fit(d) for d in (before["clusters/v0001/fit.json"], clustered.read("clusters/v0002/fit.json")))
    for name, cluster_set in new.cluster_sets.items():
        assert [c.cluster_id for c in cluster_set.clusters] == [c.cluster_id for c in old.cluster_sets[name].clusters]
        assert cluster_set.summary["previous"]["version"] == "v0001"
        assert all(before == after for before, after in cluster_set.summary["previous"]["map"].items())


def test_people_s_edits_outlive_a_lost_manifest_and_live_on_in_the_next_version(clustered: LocalStore) -> None:
    texts = tuple(f"A person holds pose number {i}." for i in range(5))
    runner(clustered).run_release("label", PARTITIONS)
    tag = captions.read(clustered, "v0001")["pose-0001"].tag
    captions.edit(clustered, "v0001", "pose-0001", texts, reviewed=True, by="anna", tag=tag)
    clustered.write("clusters/v0001/reviews.json", b"[]")
    clustered.delete("manifests/cluster/v0001.json")
    before = {path: clustered.read(path) for path in clustered.list("clusters/v0001")}
    assert runner(clustered).run_release("cluster", PARTITIONS).partition == "v0002"
    runner(clustered).run_release("label", PARTITIONS)
    assert {path: clustered.read(path) for path in clustered.list("clusters/v0001")} == before
    assert captions.read(clustered, "v0002")["pose-0001"].by == "anna"


@pytest.mark.parametrize("fault", [b"", b"{", b'{"step": "cluster"', b"[]", b"\xff"])
def test_a_damaged_manifest_is_named_and_passed_over(
    clustered: LocalStore, fault: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    runner(clustered).run_release("cluster", PARTITIONS, force=True)
    path = "manifests/cluster/v0002.json"
    clustered.write(path, fault)
    assert newest(clustered) == "v0001"
    assert runner(clustered).planner.shard_stem("assign", PARTITIONS[0], 0).startswith("assignments/v0001/")
    assert list(funnel.release_manifests(clustered)) == ["v0001"]
    assert f"version v0002 is passed over: {path} " in caplog.text and "[damaged-version]" in caplog.text
    assert runner(clustered).run_release("cluster", PARTITIONS).partition == "v0001"
    assert runner(clustered).run_release("cluster", PARTITIONS, force=True).partition == "v0003"
    assert clustered.read(path) == fault


def test_a_version_that_cannot_be_read_now_is_not_taken_for_damaged(
    clustered: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the same people would be clustered again, and assigned to an older version."""

    def refuse(_: str) -> bytes:
        raise LaionPeopleError("store-away", "the service answers SlowDown")

    monkeypatch.setattr(clustered, "read", refuse)
    with pytest.raises(LaionPeopleError, match="SlowDown"):
        newest(clustered)


def test_steps_that_work_without_a_version_look_for_none(
    clustered: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest of a version of a large release has hundreds of megabytes."""
    asked = []
    monkeypatch.setattr("laion_people.engine.tables.newest", lambda _: asked.append("newest") or "v0001")
    for step in ("detect", "pose", "mesh"):
        runner(clustered).run(step, PARTITIONS[0])
    assert asked == []
    assert runner(clustered).run("assign", PARTITIONS[0]).shards[0].uri.startswith("assignments/v0001/")


def test_files_with_other_names_are_no_versions(clustered: LocalStore) -> None:
    manifest = clustered.read("manifests/cluster/v0001.json")
    for name in ("v0001.json.bak", "v0001 (1).json", "v0001.json~", "v1.json", "V0002.json", "old/v0007.json", "v9"):
        clustered.write(f"manifests/cluster/{name}", manifest)
    for name in ("v0001.bak", "v0004 (1)", "old/v0005"):
        clustered.write(f"clusters/{name}/captions.yaml", b"[")
    clustered.write("manifests/cluster/v0008.json", manifest)  # a copy with the name of a version
    assert versions(clustered) == ["v0001", "v0008"] and newest(clustered) == "v0001"
    assert runner(clustered).run_release("cluster", PARTITIONS, force=True).partition == "v0009"
    runner(clustered).run_release("label", PARTITIONS)


def test_versions_are_ordered_by_number(store: LocalStore) -> None:
    for version in ("v9999", "v10000", "v0010"):
        store.write(f"manifests/cluster/{version}.json", b"")
    assert versions(store) == ["v0010", "v9999", "v10000"]
    assert take(store, "plan", "") == "v10001"


def test_a_fit_that_was_killed_is_gone_on_with_under_its_number(
    extracted: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("laion_people.steps.cluster.step.write_sheets", kill)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                runner(extracted, run_id="manual__1").run_release("cluster", PARTITIONS)
    assert newest(extracted) == ""
    changed = runner(extracted, pose_clusters=2)  # is made from something else
    assert changed.run_release("cluster", PARTITIONS).partition == "v0002"
    assert runner(extracted).run_release("cluster", PARTITIONS).partition == "v0003"  # v0001 may still be in work
    assert runner(extracted, run_id="manual__1", seed=1).run_release("cluster", PARTITIONS).partition == "v0004"


def kill(*_: object) -> None:
    raise KeyboardInterrupt


def test_an_earlier_fit_that_cannot_be_read_is_named_and_passed_over(
    clustered: LocalStore, caplog: pytest.LogCaptureFixture
) -> None:
    runner(clustered).run_release("label", PARTITIONS)
    clustered.write("clusters/v0001/fit.json", b"{")
    assert runner(clustered).run_release("cluster", PARTITIONS).partition == "v0002"
    runner(clustered).run_release("label", PARTITIONS)
    assert "v0001 is passed over: clusters/v0001/fit.json: not a fit.json" in caplog.text


@pytest.mark.parametrize("step", ["cluster", "label"])
def test_an_earlier_fit_that_the_store_does_not_give_now_stops_the_step(
    clustered: LocalStore, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Else its ids would end there, and with them the captions that people wrote for its clusters."""
    runner(clustered).run_release("label", PARTITIONS)
    if step == "label":
        runner(clustered).run_release("cluster", PARTITIONS, force=True)
    read = LocalStore.read

    def fails(store: LocalStore, path: str) -> bytes:
        if path == "clusters/v0001/fit.json":
            raise StoreError("store-away", f"{path}: the service answers SlowDown")
        return read(store, path)

    monkeypatch.setattr(LocalStore, "read", fails)
    with pytest.raises(StoreError, match="SlowDown"):
        runner(clustered).run_release(step, PARTITIONS, force=True)


def test_people_without_faces_have_pose_clusters_only_and_what_follows_works(clustered: LocalStore) -> None:
    steps = Runner(clustered, Settings(), Faceless(), ALL)
    for index in (0, 1):
        image_shard(clustered, "laion2B-en/00044", index)
    for step in ("detect", "pose", "mesh", "clip_filter"):
        steps.run(step, "laion2B-en/00044")
    for step in ("cluster", "label"):
        assert steps.run_release(step, ["laion2B-en/00044"]).partition == "v0002"
    fit = load_fit(clustered.read("clusters/v0002/fit.json"))
    assert (
        fit.cluster_sets["pose"].clusters and not fit.cluster_sets["face"].clusters + fit.cluster_sets["head"].clusters
    )
    assert set(fit.cluster_sets["face"].summary["previous"]["map"].values()) == {None}
    for step in ("assign", "compose", "embed", "caption"):
        steps.run(step, "laion2B-en/00044")
    report = write_report(clustered, clustered.root.parent / "report")
    assert "pose-0001" in report.read_text() and "clusters v0002" in funnel.format_status(clustered)


def test_a_sample_is_drawn_from_as_few_shards_as_it_needs(extracted: LocalStore) -> None:
    manifest = runner(extracted, cluster_sample=10).run_release("cluster", PARTITIONS)
    fit = load_fit(extracted.read("clusters/v0001/fit.json"))
    assert sum(c.size for c in fit.cluster_sets["pose"].clusters) == 10
    assert manifest.rejected["not_sampled"] == manifest.rows_in - 10
    assert manifest.rows_in < len(people(extracted))


def test_numbers_of_clusters_can_be_set(extracted: LocalStore) -> None:
    runner(extracted, pose_clusters=2, face_clusters=1, head_clusters=3).run_release("cluster", PARTITIONS)
    fit = load_fit(extracted.read("clusters/v0001/fit.json"))
    assert [len(fit.cluster_sets[kind].clusters) for kind in ("pose", "face", "head")] == [2, 1, 3]


def test_everybody_is_assigned_to_the_clusters_that_she_shows(clustered: LocalStore) -> None:
    for partition in PARTITIONS:
        manifest = runner(clustered).run("assign", partition)
        assert manifest.rows == manifest.rows_in
    paths = clustered.list("assignments/v0001")
    rows = [row for p in paths for row in pq.read_table(clustered.root / p).to_pylist()]
    assert sorted(row["person_id"] for row in rows) == sorted(people(clustered))
    meshes = [row for p in clustered.list("mesh") for row in pq.read_table(clustered.root / p).to_pylist()]
    faces = {row["person_id"] for row in meshes if row["blendshapes"]}
    for row in rows:
        assert row["pose_cluster"].startswith("pose-") and row["pose_distance"] >= 0
        for kind in ("face", "head"):
            assert (row[f"{kind}_cluster"] is not None) == (row["person_id"] in faces)
            assert (row[f"{kind}_distance"] is not None) == (row["person_id"] in faces)
    fit = load_fit(clustered.read("clusters/v0001/fit.json"))
    nearest = {row["person_id"]: row["pose_cluster"] for row in rows}
    assert all(nearest[c.medoid_person_id] == c.cluster_id for c in fit.cluster_sets["pose"].clusters)


def test_a_release_needs_every_shard_of_the_images(extracted: LocalStore) -> None:
    """Also one that no step has come to yet."""
    image_shard(extracted, PARTITIONS[0], 7)
    with pytest.raises(LaionPeopleError, match="shard 00007 is not finished: run `detect` first"):
        runner(extracted).run_release("cluster", PARTITIONS)


def test_label_without_a_fit_says_what_to_run(extracted: LocalStore) -> None:
    with pytest.raises(LaionPeopleError, match="no cluster version: run `cluster` first"):
        runner(extracted).run_release("label", PARTITIONS)
