"""Images leave cluster versions: sheets, medoids and manifests; what is made from them is not made again."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from laion_people.engine.audit import audit
from laion_people.engine.runner import Runner
from laion_people.removal.versions import rewrite_versions
from laion_people.settings import Settings
from laion_people.steps.cluster.audit import audit_release
from laion_people.steps.cluster.clusters import read_fit
from laion_people.steps.cluster.contactsheets import GAP, GROUND, RECORD, Pictured, record_from_json
from laion_people.steps.registry import STEPS
from laion_people.storage.manifest import ReleaseManifest, ShardManifest
from laion_people.storage.store import LocalStore
from tests.fakes import FakeModels, image_shard

PARTITIONS = ["made/00000", "made/00001"]
SETTINGS = Settings(composites=4)
FOLDER = "clusters/v0001"
FACTS = {"base": "standing", "left_arm": "down", "mouth": "smiling", "eyes": "open", "turn": "camera", "nod": "level"}


class Killed(BaseException):
    pass


def runner(store: LocalStore) -> Runner:
    return Runner(store, SETTINGS, FakeModels(), STEPS)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a store in which every step but describe has run on two partitions."""
    store = LocalStore(tmp_path_factory.mktemp("finished"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("laion_people.steps.cluster.step.read_facts", lambda table: [FACTS] * len(table))
        for partition in PARTITIONS:
            for index in (0, 1):
                image_shard(store, partition, index)
            for step in ("detect", "pose", "mesh", "clip_filter"):
                runner(store).run(step, partition)
        for step in ("cluster", "label"):
            runner(store).run_release(step, PARTITIONS)
    for partition in PARTITIONS:
        for step in ("assign", "compose", "embed", "caption"):
            runner(store).run(step, partition)
    assert faults(store) == []
    return store.root


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> LocalStore:
    shutil.copytree(finished, tmp_path / "copy")
    return LocalStore(tmp_path / "copy")


def faults(store: LocalStore) -> list[str]:
    of_partitions = [fault for each in PARTITIONS for fault in audit(runner(store), each, "caption", deep=True)]
    return audit_release(runner(store), "v0001", deep=True) + of_partitions


def sheets(store: LocalStore) -> dict[str, list[Pictured]]:
    return record_from_json(RECORD, store.read(f"{FOLDER}/{RECORD}"))


def medoids(store: LocalStore) -> dict[str, str]:
    fit = read_fit(store, "v0001")
    return {c.cluster_id: c.medoid_person_id for cluster_set in fit.cluster_sets.values() for c in cluster_set.clusters}


def image_of(person_id: str) -> str:
    return person_id.rpartition("/")[0]


def first_medoid(store: LocalStore) -> str:
    """The image of a medoid whose cluster's sheet has somebody of another image, too."""
    listed = sheets(store)
    return next(
        image_of(medoid)
        for cluster, medoid in sorted(medoids(store).items())
        if any(image_of(p.person_id) != image_of(medoid) for p in listed[f"contact-{cluster}.jpg"])
    )


def said(store: LocalStore, image: str) -> list[str]:
    """The files of versions that have the id of somebody in an image."""
    files = store.list("clusters")
    tables = {p: str(pq.read_table(store.root / p).to_pylist()).encode() for p in files if p.endswith(".parquet")}
    return [path for path in files if f"{image}/".encode() in tables.get(path, store.read(path))]


def content(store: LocalStore) -> dict[str, Any]:
    """What is in a store, but for times and tags."""

    def plain(path: str, data: bytes) -> Any:
        if not path.startswith(("manifests", "totals")):
            return data
        fields = json.loads(data, object_hook=lambda each: {k: v for k, v in each.items() if k not in ("tag", "ended")})
        if fields.get("step") and "checksum" in fields:
            del fields["checksum"]
            for shard in fields["shards"]:
                shard.pop("manifest", None)
        return fields

    return {path: plain(path, store.read(path)) for path in store.list("")}


def test_cluster_says_who_is_where_on_each_sheet(copy: LocalStore) -> None:
    listed = sheets(copy)
    assert listed.keys() == {p.removeprefix(f"{FOLDER}/") for p in copy.list(FOLDER) if p.endswith(".jpg")}
    for cluster, medoid in medoids(copy).items():
        people = listed[f"contact-{cluster}.jpg"]
        sheet = Image.open(io.BytesIO(copy.read(f"{FOLDER}/contact-{cluster}.jpg")))
        assert people[0].person_id == medoid
        assert all(p.left >= 0 and p.left + p.width <= sheet.width for p in people)
        assert max(p.top + p.height for p in people) == sheet.height


def test_who_leaves_is_on_no_sheet_and_no_medoid_and_nothing_is_made_again(copy: LocalStore) -> None:
    image, before, old = first_medoid(copy), sheets(copy), medoids(copy)
    kept = {path: copy.read(path) for path in copy.list(FOLDER)}
    manifests = {path: copy.read(path) for path in copy.list("manifests")}
    counts = rewrite_versions(copy, {image})
    assert counts["pictures"] == sum(image_of(p.person_id) == image for people in before.values() for p in people) > 0
    assert counts["medoids"] == sum(image_of(medoid) == image for medoid in old.values()) > 0
    assert said(copy, image) == []
    assert f"{FOLDER}/removing.json" not in copy.list(FOLDER)
    for name, people in before.items():
        gone = [p for p in people if image_of(p.person_id) == image]
        assert sheets(copy)[name] == [p for p in people if p not in gone]
        if not gone:
            assert copy.read(f"{FOLDER}/{name}") == kept[f"{FOLDER}/{name}"]
        check_sheet(kept[f"{FOLDER}/{name}"], copy.read(f"{FOLDER}/{name}"), people, gone)
    for cluster, medoid in medoids(copy).items():
        left = [p.person_id for p in sheets(copy)[f"contact-{cluster}.jpg"]]
        assert medoid == (old[cluster] if image_of(old[cluster]) != image else left[0] if left else "")
    assert faults(copy) == []
    runner(copy).run_release("label", PARTITIONS)  # which every run of the DAG does
    for partition in PARTITIONS:
        for step in ("assign", "compose", "embed", "caption"):
            again = runner(copy)
            again.run(step, partition)
            assert again.planner.models.loaded == []
    for path, data in manifests.items():
        if path.count("/") > 3:
            was, now = (ShardManifest.from_json(each) for each in (data, copy.read(path)))
            assert replace(now, inputs=was.inputs) == was


def check_sheet(before: bytes, after: bytes, people: list[Pictured], gone: list[Pictured]) -> None:
    was, now = (np.asarray(Image.open(io.BytesIO(data))).astype(int) for data in (before, after))
    for p in people:
        place = np.s_[p.top : p.top + p.height, p.left : p.left + p.width]
        if p in gone:
            inside = now[place][GAP:-GAP, GAP:-GAP]
            assert np.abs(inside - GROUND).max() < 24 and np.abs(inside - GROUND).mean() < 2
        else:
            assert np.abs(now[place] - was[place]).mean() < 3


def test_what_has_left_once_changes_nothing_any_more(copy: LocalStore) -> None:
    image = first_medoid(copy)
    rewrite_versions(copy, {image})
    tags = copy.tags("")
    assert rewrite_versions(copy, {image}) == {} == rewrite_versions(copy, {"made/00000/00000/nobody"})
    assert copy.tags("") == tags


@pytest.mark.parametrize("recorded", [True, False], ids=["sheets.json", "of an older release"])
def test_a_kill_at_any_write_and_then_the_same_again_is_as_if_there_had_been_none(
    copy: LocalStore, tmp_path: Path, recorded: bool
) -> None:
    image = first_medoid(copy)
    if not recorded:
        make_old(copy)
    begun = content(copy)
    shutil.copytree(copy.root, tmp_path / "whole")
    rewrite_versions(whole := LocalStore(tmp_path / "whole"), {image})
    wanted = content(whole)
    assert wanted != begun
    for kill_at in range(1000):
        shutil.copytree(copy.root, tmp_path / "killed")
        killed = LocalStore(tmp_path / "killed")
        try:
            rewrite_versions(Dying(killed.root, kill_at), {image})
        except Killed:
            rewrite_versions(killed, {image})
            assert content(killed) == wanted, kill_at
            shutil.rmtree(killed.root)
        else:
            break
    assert kill_at > 10


class Dying(LocalStore):
    """A store whose process is killed after so many writes and deletions."""

    def __init__(self, root: Path, left: int):
        super().__init__(root)
        self.left = left

    def _count(self) -> None:
        if self.left <= 0:
            raise Killed
        self.left -= 1

    def put(self, *args: Any) -> Any:
        self._count()
        return super().put(*args)

    def delete(self, path: str) -> None:
        self._count()
        super().delete(path)


def make_old(store: LocalStore) -> None:
    """Takes sheets.json away, as if `cluster` had not known of it yet."""
    store.delete(f"{FOLDER}/{RECORD}")
    change_manifest(store, lambda uri: uri != f"{FOLDER}/{RECORD}")


def change_manifest(store: LocalStore, keep: Callable[[str], bool]) -> None:
    path = "manifests/cluster/v0001.json"
    manifest = ReleaseManifest.from_json(store.read(path))
    [shard] = manifest.shards
    shard = replace(shard, sidecars=tuple(file for file in shard.sidecars if keep(file.uri)))
    store.write(path, replace(manifest, shards=(shard,)).to_json())


def test_a_version_that_does_not_say_who_is_on_its_sheets_loses_those_of_their_clusters(copy: LocalStore) -> None:
    make_old(copy)
    image = first_in_two_clusters(copy)
    rows = pq.read_table(copy.root / "assignments/v0001" / f"{image.rpartition('/')[0]}.parquet").to_pylist()
    mine = [row for row in rows if image_of(row["person_id"]) == image]
    clusters = {row[f"{kind}_cluster"] for row in mine for kind in ("pose", "face", "head")} - {None}
    before = set(copy.list(FOLDER))
    counts = rewrite_versions(copy, {image})
    assert counts["sheets"] == len(clusters)
    assert before - set(copy.list(FOLDER)) == {f"{FOLDER}/contact-{cluster}.jpg" for cluster in clusters}
    assert said(copy, image) == [] and faults(copy) == []
    assert all(medoid == "" or image_of(medoid) != image for medoid in medoids(copy).values())


def first_in_two_clusters(store: LocalStore) -> str:
    return image_of(medoids(store)[min(medoids(store))])


def test_without_assignments_an_older_version_loses_all_sheets_of_a_release_with_the_image(copy: LocalStore) -> None:
    make_old(copy)
    image = first_in_two_clusters(copy)
    copy.delete(f"assignments/v0001/{image.rpartition('/')[0]}.parquet")
    sheets = [path for path in copy.list(FOLDER) if path.endswith(".jpg")]
    assert rewrite_versions(copy, {"elsewhere/00000/00000/000000001"}) == {}
    assert rewrite_versions(copy, {image})["sheets"] == len(sheets) > 0
    assert not [path for path in copy.list(FOLDER) if path.endswith(".jpg")]
    assert audit_release(runner(copy), "v0001") == []


def test_a_version_that_was_never_finished_is_rewritten_too(copy: LocalStore) -> None:
    image = first_medoid(copy)
    for step in ("cluster", "label"):
        copy.delete(f"manifests/{step}/v0001.json")
    assert rewrite_versions(copy, {image})["pictures"] > 0
    assert said(copy, image) == []


def test_what_was_damaged_before_stays_so_to_the_audit_and_a_sheet_that_is_no_picture_is_deleted(
    copy: LocalStore, caplog: pytest.LogCaptureFixture
) -> None:
    image = first_medoid(copy)
    names = [n for n, people in sheets(copy).items() if any(image_of(p.person_id) == image for p in people)]
    path = f"{FOLDER}/{names[0]}"
    copy.write(path, b"no picture")
    copy.write(f"{FOLDER}/fit.json", copy.read(f"{FOLDER}/fit.json").replace(b'"size"', b'"size" '))
    rewrite_versions(copy, {image})
    assert path not in copy.list(FOLDER) and "no contact sheet" in caplog.text
    assert said(copy, image) == []
    assert any("fit.json is damaged" in fault for fault in audit_release(runner(copy), "v0001"))


@pytest.mark.parametrize("data", [b"", b"[", b"[]", b'{"a": 1}', b'{"a": [{}]}', b"[" * 100_000])
def test_a_damaged_record_of_sheets_costs_the_sheets_and_hides_nobody(copy: LocalStore, data: bytes) -> None:
    image = first_in_two_clusters(copy)
    copy.write(f"{FOLDER}/{RECORD}", data)
    assert rewrite_versions(copy, {image})["sheets"] > 0
    assert said(copy, image) == []


def test_a_fit_that_cannot_be_read_is_left_with_a_warning(copy: LocalStore, caplog: pytest.LogCaptureFixture) -> None:
    image = first_medoid(copy)
    copy.write(f"{FOLDER}/fit.json", b'{"kinds": 3}')
    assert rewrite_versions(copy, {image})["pictures"] > 0
    assert "fit.json is left as it is" in caplog.text
