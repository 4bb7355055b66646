"""Nothing that happens to a byte of a finished store is missed by the audits of its stages."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from laion_people.engine.audit import audit
from laion_people.engine.catalog import STAGES
from laion_people.engine.runner import Runner
from laion_people.errors import LaionPeopleError
from laion_people.language import captions
from laion_people.settings import Settings
from laion_people.steps.cluster.audit import audit_release, newest_version
from laion_people.steps.registry import STEPS
from laion_people.storage.manifest import Manifest, PartitionManifest, ReleaseManifest, ShardEntry
from laion_people.storage.store import LocalStore
from tests.fakes import FakeModels, jpeg
from tests.said import reasons

PARTITION = "made/00000"
SETTINGS = Settings(shard_rows=16, allow_private_addresses=True, image_min_size=1, composites=4)
FAULTS = 80


def runner(store: LocalStore) -> Runner:
    return Runner(store, SETTINGS, FakeModels(), STEPS)


class Images(BaseHTTPRequestHandler):
    """A grey picture at /<brightness>.jpg, and nothing elsewhere."""

    def do_GET(self) -> None:
        shade = self.path.strip("/").removesuffix(".jpg")
        self.send_response(200 if shade.isdigit() else 404)
        self.end_headers()
        if shade.isdigit():
            self.wfile.write(jpeg(int(shade), (300, 260)))

    def log_message(self, *args: Any) -> None: ...


@contextmanager
def served() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Images) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a store in which every step has run, from the download on, with lost rows and a review."""
    store = LocalStore(tmp_path_factory.mktemp("finished"))
    with served() as url:
        urls = [f"{url}/{'missing' if i % 9 == 4 else (37 * i + 20) % 250}.jpg" for i in range(30)]
        with store.writer("metadata/made/part-00000-x.parquet") as path:
            pq.write_table(pa.table({"URL": urls, "TEXT": [f"picture {i}" for i in range(30)]}), path)
        for step in ("download", "detect", "pose", "mesh", "clip_filter"):
            runner(store).run(step, PARTITION)
    for step in ("cluster", "label"):
        runner(store).run_release(step, [PARTITION])
    for step in ("assign", "compose", "embed", "caption"):
        runner(store).run(step, PARTITION)
    store.write("clusters/v0001/reviews.json", b'[{"answer": "Approve", "by": "anna", "at": "", "run_id": "r"}]')
    return store.root


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> LocalStore:
    shutil.copytree(finished, tmp_path / "store")
    return LocalStore(tmp_path / "store")


def faults(store: LocalStore) -> list[str]:
    """What the audits of all stages find; one that cannot go on has found something, too."""
    found: list[str] = []
    for stage in STAGES:
        try:
            if stage == "cluster":
                found += audit_release(runner(store), newest_version(store))
            else:
                found += audit(runner(store), PARTITION, stage)
        except LaionPeopleError as error:
            found.append(str(error))
    return found


def damage(path: Path, rng: random.Random) -> bytes | None:
    """What is left of a file after an accident; None: nothing."""
    data = bytearray(path.read_bytes())
    at = rng.randrange(len(data))
    match rng.choice(("gone", "cut", "flipped", "digit", "zeros", "longer")):
        case "gone":
            return None
        case "cut":
            return bytes(data[:at])
        case "flipped":
            data[at] ^= 1 << rng.randrange(8)
        case "digit":
            digits = [i for i, byte in enumerate(data) if chr(byte).isdigit()] or [at]
            at = rng.choice(digits)
            data[at] = (data[at] - 48 + rng.randrange(1, 10)) % 10 + 48
        case "zeros":
            data[at : at + 64] = bytes(len(data[at : at + 64]))
        case "longer":
            data += bytes(512)
    return bytes(data)


def test_a_whole_store_has_no_fault(copy: LocalStore) -> None:
    assert faults(copy) == []


def is_made_anew(path: Path, original: Path) -> bool:
    """Whether an audit has put what was there into the place of a damaged partition manifest."""
    made, before = (PartitionManifest.from_json(p.read_bytes()) for p in (path, original) if p.is_file())
    return made == before


def test_no_random_fault_is_missed(copy: LocalStore, finished: Path) -> None:
    rng = random.Random(7)
    folders: dict[str, list[Path]] = {}
    for path in sorted(path for path in finished.rglob("*") if path.is_file()):
        folder = path.relative_to(finished).parts[0]
        # what people write can say anything, and when a step ended can be any time
        if folder != "totals" and path.name not in ("captions.yaml", "reviews.json"):
            folders.setdefault(folder, []).append(path)
    missed = []
    for _ in range(FAULTS):
        original = rng.choice(folders[rng.choice(list(folders))])
        path = copy.root / original.relative_to(finished)
        left = damage(original, rng)
        path.unlink()
        if left is not None:
            path.write_bytes(left)
        if not faults(copy) and not is_made_anew(path, original):
            missed.append((path.relative_to(copy.root), left))
        shutil.copyfile(original, path)
    assert missed == []


def test_no_flipped_bit_of_a_manifest_is_read() -> None:
    entry = ShardEntry(0, "pose/made/00000/00000.parquet", 3, 100, "a")
    data = Manifest(
        step="pose",
        partition="made/00000",
        run_id="run",
        params={"p": 0.5},
        inputs=(),
        shards=(entry,),
        rows_in=3,
        rows=3,
        seconds=1.5,
        timings={"write": 0.1},
    ).to_json()
    assert Manifest.from_json(data).shards == (entry,)
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(LaionPeopleError, match=r"\[damaged-file\]$"):
            Manifest.from_json(bytes(flipped))


def put_old(store: LocalStore, path: str, **fields: Any) -> None:
    """Changes fields of a manifest, and leaves it as version 0.1 wrote it: without a checksum."""
    document = json.loads(store.read(path))
    del document["checksum"]
    store.write(path, json.dumps(document | fields).encode())


@pytest.mark.parametrize(
    ("step", "fields", "fault"),
    [
        ("pose", {}, ""),
        ("pose", {"rows_in": 5, "rejected": {}}, "rows are"),
        ("pose", {"rows_in": -5}, "damaged"),
        ("pose", {"seconds": -1.0}, "damaged"),
        ("pose", {"rows": "many"}, "damaged"),
        ("pose", {"shards": []}, "damaged"),
        ("pose", {"step": "mesh"}, "is the manifest of another"),
        ("pose", {"partition": "made/00001"}, "is the manifest of another"),
        ("detect", {"rejected": {"no_people": 9}}, "rows are both written and rejected"),
        ("detect", {"rows_in": 1000, "rejected": {"no_people": 989}}, "there are"),
        ("subset_a", {"rejected": {"below_threshhold": 1}}, "no reason of `subset_a`"),
        ("download", {"rejected": {"dns": 1, "not_found": 1}}, "other counts than its table"),
        ("compose", {"rejected": {}}, "rows are neither written nor rejected"),
    ],
)
def test_counts_without_a_checksum_are_held_against_the_files(
    copy: LocalStore, step: str, fields: dict[str, Any], fault: str
) -> None:
    version = "v0001/" if step == "compose" else ""
    path = f"manifests/{step}/{version}{PARTITION}/00000.json"
    if step == "detect" and "rows_in" in fields:  # the images that have people stay as many as they are
        images = {row["key"] for row in pq.read_table(copy.root / f"people/{PARTITION}/00000.parquet").to_pylist()}
        fields = fields | {"rejected": {"no_people": fields["rows_in"] - len(images)}}
    put_old(copy, path, **fields)
    found = faults(copy)
    assert bool(found) == bool(fault), found
    assert all(fault in line and f"{step} {PARTITION} shard 00000" in line for line in found[:1])


def test_sizes_that_a_manifest_gives_are_compared(copy: LocalStore) -> None:
    path = f"manifests/pose/{PARTITION}/00000.json"
    for field in ("shards", "inputs"):
        before = copy.read(path)
        files = json.loads(before)[field]
        files[0]["bytes"] += 1
        put_old(copy, path, **{field: files})
        assert len(faults(copy)) >= 1, field
        copy.write(path, before)


def test_the_manifest_of_another_shard_is_no_manifest(copy: LocalStore) -> None:
    paths = [f"manifests/download/{PARTITION}/0000{index}.json" for index in (0, 1)]
    copy.write(paths[0], copy.read(paths[1]))
    assert f"{paths[0]} is the manifest of another, download {PARTITION}" in faults(copy)[0]
    with pytest.raises(LaionPeopleError, match=paths[0]):
        runner(copy).sum("download", PARTITION)


def test_manifests_and_totals_that_are_not_the_sums_are_written_anew(copy: LocalStore) -> None:
    assert faults(copy) == []
    manifest, totals = f"manifests/pose/{PARTITION}.json", "totals/label/v0001.json"
    before = copy.read(manifest), copy.read(totals)
    put_old(copy, manifest, rows_in=7)
    copy.write(totals, copy.read(totals).replace(b'"rows": ', b'"rows": 1'))
    assert faults(copy) == []
    assert PartitionManifest.from_json(copy.read(manifest)) == PartitionManifest.from_json(before[0])
    assert json.loads(copy.read(totals))["rows"] == json.loads(before[1])["rows"]


def test_a_damaged_partition_manifest_is_made_anew_from_its_shards(copy: LocalStore) -> None:
    path = f"manifests/pose/{PARTITION}.json"
    before = PartitionManifest.from_json(copy.read(path))
    copy.write(path, b"{}")
    assert faults(copy) == []
    assert PartitionManifest.from_json(copy.read(path)) == before


def edit(store: LocalStore, old: str, new: str) -> None:
    path = captions.captions_path("v0001")
    store.write(path, store.read(path).decode().replace(old, new, 1).encode())


@pytest.mark.parametrize(
    ("accident", "fault"),
    [
        (lambda s: s.delete("manifests/cluster/v0001.json"), "manifests/cluster/v0001.json is missing"),
        (lambda s: s.delete("manifests/label/v0001.json"), "manifests/label/v0001.json is missing"),
        (lambda s: s.write("manifests/cluster/v0001.json", b""), "manifests/cluster/v0001.json is damaged"),
        (lambda s: s.delete("clusters/v0001/contact-pose-0001.jpg"), "contact-pose-0001.jpg is missing"),
        (lambda s: s.write("clusters/v0001/contact-pose-0001.jpg", b"x"), "contact-pose-0001.jpg is damaged"),
        (lambda s: s.write("clusters/v0001/clusters.parquet", b"x"), "clusters.parquet is damaged"),
        (lambda s: s.delete("clusters/v0001/captions.yaml"), "captions.yaml is missing"),
        (lambda s: s.write("clusters/v0001/captions.yaml", b"{"), "captions.yaml is not YAML"),
        (lambda s: edit(s, "pose-0001", "pose-9999"), "there is no cluster pose-9999"),
        (lambda s: edit(s, "- A person", "- A woman"), "'woman'"),
        (lambda s: s.write("clusters/v0001/reviews.json", b"[{"), "reviews.json is damaged"),
        (lambda s: s.write("clusters/v0001/reviews.json", b"[1]"), "reviews.json is damaged"),
    ],
)
def test_a_fault_of_a_release_names_its_file(copy: LocalStore, accident: Any, fault: str) -> None:
    accident(copy)
    [found] = audit_release(runner(copy), newest_version(copy))
    assert fault in found and " v0001: " in found


def test_edited_captions_are_no_fault_and_are_said(copy: LocalStore, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    edit(copy, "- A person", "- Now a person")
    assert faults(copy) == []
    assert "1 of" in caplog.text and "were edited since `label` ran" in caplog.text


def test_clusters_of_another_fit_are_a_fault(copy: LocalStore) -> None:
    path = "manifests/label/v0001.json"
    manifest = ReleaseManifest.from_json(copy.read(path))
    other = replace(manifest, inputs=tuple(replace(f, sha256="0" * 64) for f in manifest.inputs))
    copy.write(path, other.to_json())
    assert audit_release(runner(copy), "v0001") == [
        "label v0001: was made from another fit: run `label` again [outdated-labels]"
    ]


def test_every_reason_that_a_step_gives_is_declared_by_it() -> None:
    for said in reasons():
        if said.text != "no_face_seen":  # which the funnel counts
            for step in [said.step] if said.step else STEPS:  # what is of no step is of every one
                declared = STEPS[step].reasons
                assert any(fnmatch(reason, said.text.replace("…", "*")) for reason in declared), said


def test_only_a_deep_audit_finds_what_no_tag_shows(finished: Path) -> None:
    """A disk that forgets: the bytes are other ones, and size, time and inode are as they were."""
    store = LocalStore(finished)
    for table in ("metadata", "images", "people", "pose", "mesh", "facts", "clip", "subset_a"):
        path = next(
            p for p in (finished / table).rglob("*") if p.suffix == (".tar" if table == "images" else ".parquet")
        )
        before, when = path.read_bytes(), path.stat()
        try:
            with path.open("r+b") as file:
                file.seek(len(before) // 2)
                file.write(bytes([before[len(before) // 2] ^ 1]))
            os.utime(path, ns=(when.st_atime_ns, when.st_mtime_ns))
            assert audit(runner(store), PARTITION, "extract") == [], table
            assert audit(runner(store), PARTITION, "extract", deep=True) != [], table
        finally:
            with path.open("r+b") as file:
                file.write(before)
            os.utime(path, ns=(when.st_atime_ns, when.st_mtime_ns))
        assert audit(runner(store), PARTITION, "extract", deep=True) == [], table
