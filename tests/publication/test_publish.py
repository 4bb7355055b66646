"""What `publish` promises: everything that was audited and chosen, nothing else, whole or not at all."""

from __future__ import annotations

import gc
import hashlib
import io
import json
import signal
import subprocess
import sys
import tarfile
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from laion_people.cli import main
from laion_people.errors import LaionPeopleError, StoreError, UsageError
from laion_people.publication import release
from laion_people.publication.build import KEY, publish
from laion_people.publication.choice import Options
from laion_people.publication.release import Publication
from laion_people.publication.rewriting import rewritten
from laion_people.publication.writing import STAGING, Limits, Staging
from laion_people.settings import Settings
from laion_people.storage.layout import manifest_path, shard_manifest_path
from laion_people.storage.removals import Removal, digest, path_of
from laion_people.storage.store import LocalStore, Store, open_store
from tests.publication.audited import PARTITION, change_table, make_audited, rows_of, tell_of_images
from tests.s3 import moto_server
from tests.synthetic_store import VERSION, forget

OTHER = "demo/00001"
ROOT = Path(__file__).parent.parent.parent
Row = dict[str, Any]


def made(store: Store, version: str = "1.0.0", target: Store | None = None, **options: Any) -> Publication:
    limits = options.pop("limits", Limits())
    partitions = options.pop("partitions", ())
    return publish(store, target or store, "people", version, partitions, Options(**options), Settings(), limits)


def loaded(store: Store, publication: Publication, config: str) -> list[Row]:
    """The rows of a config, in the order of its files."""
    folder = release.folder(publication.name, publication.version)
    paths = [file.path for file in publication.files if file.config == config]
    return [row for p in paths for row in pq.read_table(io.BytesIO(store.read(f"{folder}/{p}"))).to_pylist()]


def samples(store: Store, publication: Publication) -> dict[str, bytes]:
    """The members of all tars by name."""
    folder, found = release.folder(publication.name, publication.version), {}
    for file in publication.files:
        if file.path.endswith(".tar"):
            with tarfile.open(fileobj=io.BytesIO(store.read(f"{folder}/{file.path}"))) as tar:
                found |= {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    return found


def persons(rows: list[Row]) -> list[str]:
    return [row["person_id"] for row in rows]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    store = LocalStore(tmp_path_factory.mktemp("finished"))
    make_audited(store, PARTITION)
    make_audited(store, OTHER, images=12)
    return store


@pytest.fixture
def one(store: LocalStore) -> LocalStore:
    """A store of its own with one partition, to be changed."""
    make_audited(store)
    return store


def test_each_table_is_joined_from_the_shards_of_all_partitions(finished: LocalStore, tmp_path: Path) -> None:
    target = LocalStore(tmp_path)
    publication = made(finished, target=target)
    both = {
        t: [r for p in (PARTITION, OTHER) for r in rows_of(finished, t, p)]
        for t in ("people", "pose", "mesh", "facts", "subset_a", "subset_b", "subset_c")
    }
    names = {"pose": "poses", "mesh": "meshes"}
    for table, rows in both.items():
        config = names.get(table, table)
        published = loaded(target, publication, config)
        assert [{k: row[k] for k in rows[0]} for row in published] == rows
        assert publication.rows(config) == len(rows)
    assert publication.partitions == (PARTITION, OTHER)
    assert publication.configs() == [
        "people", "poses", "meshes", "facts", "subset_a", "subset_b", "subset_c", "clusters"
    ]  # fmt: skip
    assert "subset_d" not in publication.columns  # nobody was described


def test_a_box_can_be_placed_on_any_copy_of_the_image(finished: LocalStore, tmp_path: Path) -> None:
    target = LocalStore(tmp_path)
    publication = made(finished, target=target)
    for config in ("people", "subset_a", "subset_c"):
        for row in loaded(target, publication, config):
            size = np.array([row["image_width"], row["image_height"]] * 2)
            assert np.allclose(np.array(row["bbox_normalized"]) * size, row["bbox"], atol=1e-3)
            assert min(row["bbox_normalized"]) >= 0 and max(row["bbox_normalized"]) <= 1
    sizes = {r["person_id"]: (r["image_width"], r["image_height"]) for r in loaded(target, publication, "people")}
    assert len(set(sizes.values())) > 1
    for config in ("poses", "meshes"):
        rows = loaded(target, publication, config)
        assert {r["person_id"]: (r["image_width"], r["image_height"]) for r in rows} == sizes


def test_the_pictures_of_subset_b_are_webdataset_samples_of_its_rows(finished: LocalStore, tmp_path: Path) -> None:
    target = LocalStore(tmp_path)
    publication = made(finished, target=target)
    rows, members = loaded(target, publication, "subset_b"), samples(target, publication)
    assert len(members) == 3 * len(rows) > 0
    for row in rows:
        key = row["composite_id"]
        assert json.loads(members[f"{key}.json"]) == row
        assert members[f"{key}.txt"].decode() == row["caption"]
        partition, shard, number = key.rsplit("/", 2)
        path = finished.root / f"subset_b/{VERSION}/{partition}/{shard}.tar"
        with tarfile.open(path) as tar:
            assert members[f"{key}.jpg"] == tar.extractfile(f"{number}.jpg").read()  # type: ignore[union-attr]


def test_without_pictures_the_table_of_subset_b_stays(finished: LocalStore, tmp_path: Path) -> None:
    target = LocalStore(tmp_path)
    publication = made(finished, target=target, pictures=False)
    assert not samples(target, publication) and loaded(target, publication, "subset_b")
    assert not [file for file in publication.files if file.path.endswith((".tar", ".jpg"))]


def faces_of(store: LocalStore) -> set[str]:
    """People with a face mesh."""
    return {row["person_id"] for row in rows_of(store, "mesh") if row["face_score"] is not None}


def test_pictures_in_which_a_face_is_seen_can_be_left_out(one: LocalStore) -> None:
    change_table(one, "pose", lambda row: row | {"keypoints": [0.0] * 51})  # who has no mesh is seen from behind
    faces, rows = faces_of(one), rows_of(one, "subset_b")
    faceless = [row for row in rows if not faces & {person["person_id"] for person in row["people"]}]
    publication = made(one, faces="drop")
    assert loaded(one, publication, "subset_b") == faceless
    assert publication.left_out == {"subset_b": {"face": len(rows) - len(faceless)}}
    assert len(samples(one, publication)) == 3 * len(faceless)
    assert publication.rows("meshes") == len(rows_of(one, "mesh"))  # who is measured stays measured


def test_faces_in_pictures_can_be_blurred(one: LocalStore) -> None:
    kept, blurred = made(one), made(one, "1.0.1", faces="blur")
    assert loaded(one, blurred, "subset_b") == loaded(one, kept, "subset_b")
    boxes = {row["person_id"]: row["bbox"] for row in rows_of(one, "people")}
    before, after = samples(one, kept), samples(one, blurred)
    assert before.keys() == after.keys()
    shown = 0
    for row in loaded(one, blurred, "subset_b"):
        names = [f"{row['composite_id']}.{suffix}" for suffix in ("jpg", "txt", "json")]
        assert [after[name] for name in names[1:]] == [before[name] for name in names[1:]]
        old, new = (np.asarray(Image.open(io.BytesIO(m[names[0]])).convert("L"), float) for m in (before, after))
        assert old.shape == new.shape
        assert np.abs(old[:, :25] - new[:, :25]).mean() < 8  # packed anew, and otherwise as it was
        for person in row["people"]:
            if person["person_id"] in faces_of(one):  # the mesh lies 25 pixels below the top of the box, in its middle
                x1, y1, x2, y2 = person["bbox"]
                _, top, _, bottom = boxes[person["person_id"]]
                y, x = round(y1 + 25 * (y2 - y1) / (bottom - top)), round((x1 + x2) / 2)
                eyes = slice(y - 2, y + 3), slice(x - 2, x + 3)
                assert new[eyes].std() < old[eyes].std() / 4
                shown += 1
    assert shown > 3


def test_every_file_is_in_the_record_with_its_checksum(finished: LocalStore, tmp_path: Path) -> None:
    target = LocalStore(tmp_path)
    publication = made(finished, target=target)
    folder = release.folder("people", "1.0.0")
    recorded = {file.path: file.sha256 for file in publication.files}
    there = {path.removeprefix(f"{folder}/") for path in target.list("")}
    described = {"README.md", "croissant.json", "checksums.sha256", "release.json"}
    assert there == {*recorded, *described}
    assert all(target.sha256(f"{folder}/{path}") == sha256 for path, sha256 in recorded.items())
    sums = dict(reversed(line.split("  ")) for line in target.read(f"{folder}/checksums.sha256").decode().splitlines())
    assert sums.keys() == there - {"checksums.sha256", "release.json"}
    assert release.read(target, "people", "1.0.0") == publication


def test_the_same_input_gives_the_same_bytes(finished: LocalStore, tmp_path: Path) -> None:
    limits = Limits(file=30_000, group=8_000)
    first, second = (made(finished, target=LocalStore(tmp_path / name), limits=limits) for name in "ab")
    assert first.files == second.files


def test_files_and_row_groups_stay_below_their_limits_and_no_row_is_lost(finished: LocalStore, tmp_path: Path) -> None:
    target, limits = LocalStore(tmp_path), Limits(file=110_000, group=100_000)
    publication, whole = made(finished, target=target, limits=limits), made(finished, target=LocalStore(tmp_path / "w"))
    folder = release.folder("people", "1.0.0")
    for config in publication.configs():
        files = [file for file in publication.files if file.config == config]
        names = [f"{config}/train-{i:05d}-of-{len(files):05d}.parquet" for i in range(len(files))]
        assert [file.path for file in files] == names
        rows = loaded(LocalStore(tmp_path / "w"), whole, config)
        assert loaded(target, publication, config) == rows and sum(file.rows for file in files) == len(rows)
    assert len([file for file in publication.files if file.config == "meshes"]) > 1
    for file in publication.files:
        assert file.bytes <= limits.file
        if file.config:
            metadata = pq.read_metadata(io.BytesIO(target.read(f"{folder}/{file.path}")))
            groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
            assert all(g.num_rows == 1 or g.total_byte_size <= 1.1 * limits.group for g in groups)
    tars = [file for file in publication.files if file.path.endswith(".tar")]
    assert [t.path for t in tars] == [f"subset_b/train-{i:05d}-of-{len(tars):05d}.tar" for i in range(len(tars))]
    assert len(tars) > 1 and sum(t.rows for t in tars) == publication.rows("subset_b")
    few = made(finished, "1.0.1", target=target, limits=Limits(pictures=4))
    assert [f.rows for f in few.files if f.path.endswith(".tar")] == [4] * (few.rows("subset_b") // 4) + (
        [few.rows("subset_b") % 4] if few.rows("subset_b") % 4 else []
    )


def test_no_more_than_a_row_group_is_in_memory(store: LocalStore) -> None:
    schema, alive, most = pa.schema([pa.field("x", pa.float64(), nullable=False)]), set[int](), 0
    rng = np.random.default_rng(7)

    def tables() -> Iterator[pa.Table]:
        nonlocal most
        for number in range(300):
            array = pa.array(rng.uniform(size=1000))
            alive.add(number)
            weakref.finalize(array, alive.discard, number)
            yield pa.table([array], schema=schema)
            del array
            gc.collect(0)
            most = max(most, len(alive))

    with Staging(store, "people", "1.0.0", Limits(file=500_000, group=80_000)) as staging:
        files = staging.write_tables("people", schema, tables())
    assert sum(file.rows for file in files) == 300_000
    assert len(files) > 1
    assert most <= 30  # of 8 kB; a row group holds ten


def test_who_is_removed_is_nowhere_and_takes_the_image_along(one: LocalStore) -> None:
    people = rows_of(one, "people")
    image = next(key for key, n in Counter(row["key"] for row in people).items() if n == 3)
    gone = {row["person_id"] for row in people if row["key"] == image}
    url = next(row["url"] for row in people if row["key"] == image)
    removal = Removal(id="r1", at="", by="", reason="", asked={"url": 1}, urls=(digest(url),))
    one.write(path_of("r1"), removal.to_json())
    publication = made(one)
    for config in ("people", "poses", "meshes", "facts", "subset_a", "subset_c"):
        assert not gone & set(persons(loaded(one, publication, config)))
    assert set(persons(loaded(one, publication, "poses"))) == set(persons(people)) - gone
    shown = {p["person_id"] for row in loaded(one, publication, "subset_b") for p in row["people"]}
    all_shown = {p["person_id"] for row in rows_of(one, "subset_b") for p in row["people"]}
    assert gone & all_shown and not gone & shown
    assert len(samples(one, publication)) == 3 * publication.rows("subset_b")
    assert publication.left_out["people"] == {"removed": 3}
    assert publication.left_out["subset_b"]["removed"] == len(rows_of(one, "subset_b")) - publication.rows("subset_b")
    everything = b"".join(one.read(path) for path in one.list(release.folder("people", "1.0.0")))
    assert not any(person.encode() in everything for person in gone)


@pytest.mark.parametrize("of", ["sample", "person", "sha256", "near"])
def test_a_removal_counts_however_it_names_the_image(one: LocalStore, of: str) -> None:
    victim = rows_of(one, "people")[0]
    body, phash = "ab" * 32, "00000000000000ff"
    change_table(
        one, "detect", lambda row: row | ({"sha256": body, "phash": phash} if row["key"] == victim["key"] else {})
    )
    named: Row = {
        "sample": {"samples": (digest(victim["person_id"].rpartition("/")[0]),)},
        "person": {"persons": (digest(victim["person_id"]),)},
        "sha256": {"pictures": (digest(body),)},
        "near": {"phashes": ("00000000000000f0",), "near": 4},
    }[of]
    one.write(path_of("r1"), Removal(id="r1", at="", by="", reason="", asked={of: 1}, **named).to_json())
    publication = made(one)
    left = loaded(one, publication, "people")
    assert len(left) == len(rows_of(one, "people")) - publication.left_out["people"]["removed"]
    assert victim["key"] not in {row["key"] for row in left}


@pytest.mark.parametrize(
    ("column", "value", "reason", "keep"),
    [
        ("caption", "A happy 8-year-old at school", "minor", {"with_minors": True}),
        ("NSFW", "NSFW", "nsfw", {"nsfw": "keep"}),
        ("punsafe", 0.9, "nsfw", {"nsfw": "keep"}),
        ("x_robots_tag", "noai, noimageai", "opted_out", {"opt_outs": "keep"}),
        ("tdm_reservation", "1", "opted_out", {"opt_outs": "keep"}),
        ("robots_txt", "disallowed", "opted_out", {"opt_outs": "keep"}),
    ],
)
def test_images_that_should_not_be_there_are_left_out_unless_they_are_asked_for(
    one: LocalStore, column: str, value: object, reason: str, keep: Row
) -> None:
    key = rows_of(one, "people")[0]["key"]
    change_table(one, "detect", lambda row: row | ({column: value} if row["key"] == key else {}))
    without = made(one)
    assert set(without.left_out["people"]) == {reason}
    assert key not in {row["key"] for row in loaded(one, without, "people")}
    kept = made(one, "1.0.1", **keep)
    assert not kept.left_out and kept.rows("people") == len(rows_of(one, "people"))


def test_a_release_chooses_by_watermark_and_licence(one: LocalStore) -> None:
    values = iter([0.1, 0.79, 0.81, None] * 100)
    of_images: dict[str, Row] = {}

    def change(row: Row) -> Row:
        fields = of_images.setdefault(row["key"], {"pwatermark": (v := next(values)), "LICENSE": "CC0" if v else "?"})
        return row | fields

    change_table(one, "detect", change)
    clean = made(one, "1.0.0", max_watermark=0.8)
    assert {round(row["pwatermark"], 2) for row in loaded(one, clean, "people")} == {0.1, 0.79}
    free = made(one, "1.0.1", licences=("CC0", "CC-BY"))
    assert {row["LICENSE"] for row in loaded(one, free, "people")} == {"CC0"}
    assert set(free.left_out["people"]) == {"licence"} and set(clean.left_out["people"]) == {"watermark"}


def test_a_medoid_who_is_left_out_is_not_named(one: LocalStore) -> None:
    medoid = rows_of(one, "people")[0]["person_id"]
    assert all(row["medoid_person_id"] == medoid for row in loaded(one, made(one), "clusters"))
    change_table(one, "detect", lambda row: row | ({"NSFW": "NSFW"} if row["person_id"] == medoid else {}))
    assert all(row["medoid_person_id"] is None for row in loaded(one, made(one, "1.0.1"), "clusters"))


def test_the_edition_geometry_leads_nobody_back(one: LocalStore) -> None:
    change_table(one, "detect", lambda row: row | {"sha256": "ab" * 32, "phash": "0" * 16, "punsafe": 0.125})
    publication = made(one, edition="geometry")
    assert publication.configs() == ["poses", "meshes", "facts", "subset_c", "clusters"]
    folder = release.folder("people", "1.0.0")
    tables = {c: loaded(one, publication, c) for c in publication.configs()}
    everything = json.dumps(tables)
    assert "example.org" not in everything and PARTITION not in everything and "ab" * 32 not in everything
    assert not [path for path in one.list(folder) if path.endswith((".tar", ".jpg"))]
    ids = set(persons(tables["poses"]))
    assert len(ids) == len(rows_of(one, "people")) and persons(tables["poses"]) == sorted(ids)
    assert persons(tables["meshes"]) == persons(tables["facts"]) == persons(tables["poses"])
    assert set(persons(tables["subset_c"])) <= ids and {c["medoid_person_id"] for c in tables["clusters"]} <= ids
    points = {tuple(row["keypoints"]) for row in tables["poses"]}
    assert points == {tuple(row["keypoints"]) for row in rows_of(one, "pose")}
    again = made(one, "1.0.1", edition="geometry")
    assert persons(loaded(one, again, "poses")) == persons(tables["poses"])  # so that versions can be compared
    one.delete(KEY)
    other = made(one, "1.0.2", edition="geometry")
    assert not ids & set(persons(loaded(one, other, "poses")))  # the key is all that leads back


def test_numbers_name_the_manifest_or_file_that_they_are_from(finished: LocalStore, tmp_path: Path) -> None:
    target = LocalStore(tmp_path)
    publication = made(finished, target=target, partitions=(PARTITION,))
    numbers = publication.numbers
    people = rows_of(finished, "people")
    assert numbers["funnel: people"] == {
        "value": len(people), "unit": "people", "lost": {}, "source": manifest_path("detect", PARTITION)
    }  # fmt: skip
    assert numbers["funnel: downloaded"]["lost"] == {"http_404": 5, "not_an_image": 1, "timed_out": 3}
    assert numbers["threshold of Subset A"] == {"value": 0.3, "source": manifest_path("subset_a", PARTITION)}
    meshes = sum(row["face_score"] is not None for row in rows_of(finished, "mesh"))
    assert numbers["people with a face mesh"]["value"] == meshes == numbers["funnel: face meshes"]["value"]
    better = sum(row["foil_margin"] > 0 for row in rows_of(finished, "subset_c"))
    assert numbers["captions of subset_c that CLIP scores above all false ones"]["value"] == better
    for number in numbers.values():
        path = number["source"].partition(",")[0]
        if not path.startswith("manifests/"):
            assert any(Path(file.path).match(path) for file in publication.files), number
        else:
            assert finished.exists(path), number
    both = made(finished, "1.0.1", target=target)
    assert both.numbers["funnel: people"]["source"] == "manifests/detect/<partition>.json of 2 partitions"
    assert both.numbers["funnel: people"]["value"] > len(people)


def test_a_removal_that_is_asked_for_meanwhile_stops_a_publication(
    one: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    show_pictures = Staging.write_pictures

    def removes(self: Staging, config: str, pictures: Any) -> Any:
        one.write(path_of("r2"), Removal(id="r2", at="", by="", reason="", asked={}).to_json())
        return show_pictures(self, config, pictures)

    monkeypatch.setattr(Staging, "write_pictures", removes)
    with pytest.raises(LaionPeopleError) as error:
        made(one)
    assert error.value.code == "removed-meanwhile" and not release.published(one)


def test_what_has_left_earlier_versions_is_told_on(finished: LocalStore, tmp_path: Path) -> None:
    target, tombstones = LocalStore(tmp_path), pa.table({"digest": ["ab", "cd"]})
    stays = lambda _, table: [True] * len(table)  # noqa: E731
    rewritten(target, made(finished, target=target), "1.0.1", stays, "removed", "", tombstones)
    assert made(finished, "1.1.0", target).tombstones == 2
    assert pq.read_table(tmp_path / "releases/people/1.1.0/tombstones.parquet").equals(tombstones)


def test_changes_of_earlier_versions_are_told_on(finished: LocalStore, tmp_path: Path) -> None:
    target = LocalStore(tmp_path)
    for version in ("1.0.0", "1.1.0"):
        made(finished, version, target)
    assert [change["version"] for change in made(finished, "1.0.1", target).changes] == ["1.0.0", "1.0.1"]
    assert [change["version"] for change in made(finished, "1.10.0", target).changes] == ["1.0.0", "1.1.0", "1.10.0"]


@pytest.mark.parametrize("step", ["detect", "mesh", "subset_a", "compose", "caption"])
def test_a_table_that_is_not_audited_is_refused_with_what_to_run(one: LocalStore, step: str) -> None:
    forget(one, step)
    with pytest.raises(LaionPeopleError, match=rf"{step} demo/00000 .*audit demo/00000 --stage") as error:
        made(one)
    assert error.value.code == "unaudited"
    assert not release.published(one)


def test_a_shard_that_was_made_again_since_the_audit_is_refused(one: LocalStore) -> None:
    path = shard_manifest_path("pose", PARTITION, 0)
    one.write(path, one.read(path).replace(b'"run_id": "test"', b'"run_id": "else"').replace(b'"checksum"', b'"_"', 0))
    with pytest.raises(LaionPeopleError):
        made(one)


def test_tables_that_change_while_they_are_published_are_no_publication(
    one: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tables = Staging.write_tables

    def meanwhile(self: Staging, config: str, *of: Any) -> Any:
        if config == "meshes":
            change_table(one, "mesh", lambda row: row | {"head_yaw": 3.0})
        return write_tables(self, config, *of)

    monkeypatch.setattr(Staging, "write_tables", meanwhile)
    with pytest.raises(LaionPeopleError, match="mesh demo/00000 has been made again meanwhile"):
        made(one)
    assert not release.published(one)


def test_a_file_that_is_not_what_its_manifest_says_is_refused(one: LocalStore) -> None:
    one.write(f"mesh/{PARTITION}/00000.parquet", b"PAR1 nothing PAR1")
    with pytest.raises(LaionPeopleError, match=f"mesh/{PARTITION}/00000.parquet is damaged") as error:
        made(one)
    assert error.value.code == "damaged-file"
    assert not one.list("releases")


def test_when_the_options_leave_nobody_there_is_no_publication(one: LocalStore) -> None:
    with pytest.raises(UsageError, match="nobody") as error:
        made(one, licences=("MIT",))
    assert error.value.code == "nothing-to-publish" and not one.list("releases")


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["--release", "../x", "--version", "1.0.0"], 2, "[bad-argument]"),
        (["--release", "a/b", "--version", "1.0.0"], 2, "[bad-argument]"),
        (["--release", ".staging", "--version", "1.0.0"], 2, "[bad-argument]"),
        (["--release", "x\n", "--version", "1.0.0"], 2, "[bad-argument]"),
        (["--release", "x", "--version", "1.0"], 2, "should look like 1.2.0 [bad-argument]"),
        (["--release", "x", "--version", "1.0.0/../.."], 2, "[bad-argument]"),
        (["--release", "x", "--version", "01.0.0"], 2, "[bad-argument]"),
        (["--release", "x", "--version", "1.0.0", "no/where"], 2, "[unknown-partition]"),
        (["--release", "x", "--version", "1.0.0", "../../etc"], 2, "[bad-partition-key]"),
        (["--release", "x", "--version", "1.0.0", "--clusters", "v0009"], 2, "[unknown-version]"),
        (["--release", "x", "--version", "1.0.0", "--clusters", "../v0001"], 2, "[bad-setting]"),
        (["--release", "x", "--version", "1.0.0", "--max-watermark", "nan"], 2, "[bad-argument]"),
        (["--release", "x", "--version", "1.0.0", "--edition", "geometry", "--faces", "blur"], 2, "[bad-argument]"),
        (["--release", "x", "--version", "1.0.0", "--no-pictures", "--faces", "drop"], 2, "[bad-argument]"),
        (["--release", "x", "--version", "1.0.0", "-o", "ftp://x"], 2, "[bad-setting]"),
        (
            ["--release", "x", "--version", "1.0.0", "-o", "/proc/nothing"],
            1,
            "choose another -o, or give rights [cannot-write]",
        ),
        (["--version", "1.0.0"], 2, "--release"),
    ],
)
def test_bad_usage_is_one_line(
    finished: LocalStore, capfd: pytest.CaptureFixture[str], args: list[str], code: int, says: str
) -> None:
    try:
        returned = main(["publish", "--store", str(finished.root), *args])
    except SystemExit as stop:
        returned = int(stop.code or 0)
    captured = capfd.readouterr()
    assert returned == code and says in captured.err and "Traceback" not in captured.err
    assert not captured.out and not finished.list("releases")


def test_a_store_without_clusters_has_nothing_to_publish(store: LocalStore, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["publish", "--store", str(store.root), "--release", "x", "--version", "1.0.0"]) == 2
    assert "there is no cluster version to publish" in capfd.readouterr().err


def test_the_command_says_what_it_made(finished: LocalStore, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    args = ["publish", "--store", str(finished.root), "--release", "x", "--version", "2.0.0", "-o", str(tmp_path)]
    assert main([*args, "--clusters", VERSION, OTHER, "--result", str(tmp_path / "result.json")]) == 0
    out = json.loads(capfd.readouterr().out)
    assert out == json.loads((tmp_path / "result.json").read_text())
    assert out["publication"] == f"{tmp_path.as_uri()}/releases/x/2.0.0"
    assert out["rows"]["people"] == len(rows_of(finished, "people", OTHER))
    record = (tmp_path / "releases/x/2.0.0/release.json").read_bytes()
    assert out["manifests"] == [
        {"uri": f"{out['publication']}/release.json", "sha256": hashlib.sha256(record).hexdigest()}
    ]
    assert main([*args, OTHER]) == 2
    assert "exists, and is never changed: give another --version [version-exists]" in capfd.readouterr().err


def test_a_task_that_is_tried_again_finds_what_its_run_has_published(
    finished: LocalStore, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ["publish", "--store", str(finished.root), "--release", "x", "--version", "1.0.0", "-o", str(tmp_path)]
    monkeypatch.setenv("AIRFLOW_CTX_DAG_RUN_ID", "manual__1")
    assert main(args) == 0
    first = capfd.readouterr().out
    assert main(args) == 0 and capfd.readouterr().out == first
    monkeypatch.setenv("AIRFLOW_CTX_DAG_RUN_ID", "manual__2")
    assert main(args) == 2


def test_an_unwritable_target_is_one_line(
    finished: LocalStore, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "releases").write_text("in the way")
    args = ["publish", "--store", str(finished.root), "--release", "x", "--version", "1.0.0", "-o", str(tmp_path)]
    assert main(args) == 1
    assert "[cannot-write]" in capfd.readouterr().err.splitlines()[-1]


def test_a_file_in_the_place_of_the_version_is_told_with_what_to_do(finished: LocalStore, tmp_path: Path) -> None:
    place = tmp_path / "releases/people/1.0.0"
    place.parent.mkdir(parents=True)
    place.write_text("in the way")
    with pytest.raises(UsageError, match="choose another -o") as error:
        made(finished, target=LocalStore(tmp_path))
    assert error.value.code == "version-exists" and place.read_text() == "in the way"


def test_what_somebody_else_has_put_there_is_not_deleted(finished: LocalStore, tmp_path: Path) -> None:
    for path in ("people/1.0.0/notes.txt", "people/1.0.0/people/train-00000-of-00001.parquet"):
        (tmp_path / "releases" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "releases" / path).write_text("mine")
    with pytest.raises(UsageError, match=r"notes\.txt is in the way") as error:
        made(finished, target=LocalStore(tmp_path))
    assert error.value.code == "version-exists"
    assert (tmp_path / "releases/people/1.0.0/notes.txt").read_text() == "mine"
    (tmp_path / "releases/people/1.0.0/notes.txt").unlink()
    made(finished, target=LocalStore(tmp_path))  # the table alone is what a killed run leaves


def test_a_name_has_one_edition(finished: LocalStore, tmp_path: Path) -> None:
    """Tombstones of one edition say nothing to those who have the other, or too much."""
    target = LocalStore(tmp_path)
    made(finished, "1.1.0", target)
    for version in ("1.0.0", "1.2.0"):
        with pytest.raises(UsageError, match=r"people 1\.1\.0 is of the edition links"):
            made(finished, version, target, edition="geometry")
    assert release.published(target) == {"people": ["1.1.0"]}


DRIVER = """
import sys, time
from pathlib import Path
from laion_people.publication.build import publish
from laion_people.publication.choice import Options
from laion_people.publication.rewriting import rewritten
from laion_people.publication.writing import Staging
from laion_people.settings import Settings
from laion_people.storage.store import LocalStore

put = Staging._put

def slow(self, local, path, *more, **named):
    print(path, flush=True)
    time.sleep(0.05)
    return put(self, local, path, *more, **named)

Staging._put = slow
store = LocalStore(Path(sys.argv[1]))
publish(store, store, "people", "1.0.0", (), Options(), Settings())
"""


@pytest.mark.parametrize("at", ["people/", "clusters/", "subset_b/00000.tar", "README.md", "release.json"])
def test_who_is_killed_leaves_nothing_to_be_seen_and_the_next_run_replaces_it(one: LocalStore, at: str) -> None:
    command = [sys.executable, "-c", DRIVER, str(one.root)]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout or ():
        if line.startswith(at):
            break
    process.send_signal(signal.SIGKILL)
    _, said = process.communicate()
    assert process.returncode == -signal.SIGKILL, said
    assert not release.published(one) and not one.list(f"{release.FOLDER}/people")
    assert one.list(STAGING) or at == "people/"
    publication = made(one)
    assert release.published(one) == {"people": ["1.0.0"]} and not one.list(STAGING)
    assert publication.files == made(one, "1.0.1").files


def test_two_runs_of_one_version_do_not_mix(one: LocalStore) -> None:
    with Staging(one, "people", "1.0.0") as first:
        first.write("README.md", b"first")
        with Staging(one, "people", "1.0.0") as second:
            second.write("README.md", b"second")
            first.write(release.RECORD, b"{}")
            with pytest.raises(LaionPeopleError, match="another run") as error:
                first.show()
            assert error.value.code == "published-meanwhile"
            second.write(release.RECORD, b"{}")
            second.show()
    assert one.read(f"{release.folder('people', '1.0.0')}/README.md") == b"second"


@pytest.fixture(scope="module")
def bucket() -> Iterator[Store]:
    with moto_server() as port, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        boto3.client("s3").create_bucket(Bucket="published")
        yield open_store("s3://published/of/ours")


def test_a_bucket_shows_the_record_last_and_a_half_moved_version_is_replaced(
    finished: LocalStore, bucket: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    move, moved = type(bucket).move, list[str]()

    def breaks(self: Store, source: str, target: str) -> None:
        moved.append(target)
        if target.startswith("releases/people/1.0.0/poses/"):
            raise StoreError("store-away", "the machine is gone")
        move(self, source, target)

    with monkeypatch.context() as patch:
        patch.setattr(type(bucket), "move", breaks)
        with pytest.raises(StoreError):
            made(finished, target=bucket)
    assert bucket.list("releases/people/1.0.0") and not release.published(bucket)
    publication = made(finished, target=bucket)
    assert release.published(bucket) == {"people": ["1.0.0"]} and not bucket.list(STAGING)
    local = made(finished, target=LocalStore(tmp_path))
    assert publication.files == local.files
    assert loaded(bucket, publication, "meshes") == loaded(LocalStore(tmp_path), local, "meshes")
    with pytest.raises(UsageError, match="exists"):
        made(finished, target=bucket)
    tail = [path for path in moved if path.startswith("releases/people/1.0.0/")]
    assert "releases/people/1.0.0/release.json" not in tail


def test_a_store_in_a_bucket_is_published_there(bucket: Store) -> None:
    make_audited(bucket, images=8)
    publication = made(bucket, "3.0.0")
    assert publication.rows("people") == len(rows_of(bucket, "people"))
    assert samples(bucket, publication) and release.published(bucket)["people"][-1] == "3.0.0"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"url": "http://example.org/scene.jpg"}, "removed"),
        ({"sha256": "cd" * 32}, "removed"),
        ({"NSFW": "NSFW"}, "nsfw"),
        ({"x_robots_tag": "noai"}, "opted_out"),
    ],
)
def test_a_composition_goes_with_its_background(one: LocalStore, fields: Row, reason: str) -> None:
    rows = rows_of(one, "subset_b")
    change_table(one, "compose", lambda row: row | ({"background_key": "scene"} if row == rows[0] else {}))
    tell_of_images(one, [{"key": "scene", "url": "x", "caption": "A beach"} | fields, {"key": "000000000", "url": "y"}])
    named = {"urls": (digest("http://example.org/scene.jpg"),), "pictures": (digest("cd" * 32),)}
    one.write(path_of("r1"), Removal(id="r1", at="", by="", reason="", asked={}, **named).to_json())
    publication = made(one)
    assert publication.left_out == {"subset_b": {reason: 1}}
    assert [row["composite_id"] for row in loaded(one, publication, "subset_b")] == [
        row["composite_id"] for row in rows[1:]
    ]
    assert len(samples(one, publication)) == 3 * (len(rows) - 1)


def test_a_composition_with_a_minor_goes_with_its_picture(one: LocalStore) -> None:
    child = rows_of(one, "subset_b")[0]["people"][0]["person_id"]
    key = child.rsplit("/", 2)[1]
    change_table(one, "detect", lambda row: row | ({"caption": "Two toddlers"} if row["key"] == key else {}))
    publication = made(one)
    left = loaded(one, publication, "subset_b")
    assert not [row for row in left for person in row["people"] if person["person_id"].rsplit("/", 2)[1] == key]
    assert publication.left_out["subset_b"]["minor"] == len(rows_of(one, "subset_b")) - len(left) > 0
    assert {name.rpartition(".")[0] for name in samples(one, publication)} == {row["composite_id"] for row in left}


def test_a_publication_is_made_anew_without_some_rows(finished: LocalStore, tmp_path: Path) -> None:
    target, limits = LocalStore(tmp_path), Limits(file=300_000, group=100_000)
    old = made(finished, target=target, limits=limits)
    gone = persons(loaded(target, old, "people"))[0]

    def stays(config: str, table: pa.Table) -> list[bool]:
        match config:
            case "clusters":
                return [True] * len(table)
            case "subset_b":
                return [all(p["person_id"] != gone for p in people) for people in table["people"].to_pylist()]
        return [person != gone for person in table["person_id"].to_pylist()]

    def change(config: str, table: pa.Table) -> pa.Table:
        return table.slice(0, 5) if config == "clusters" else table

    tombstones = pa.table({"digest": [digest(gone)]})
    new = rewritten(target, old, "1.0.1", stays, "removed", "One image was removed", tombstones, change, limits)
    for config in old.configs():
        before = loaded(target, old, config)
        after = loaded(target, new, config)
        if config == "clusters":
            assert after == before[:5]
        else:
            wanted = stays(config, pa.Table.from_pylist(before))
            assert after == [row for row, stay in zip(before, wanted, strict=True) if stay]
            assert new.left_out.get(config, {}).get("removed", 0) == wanted.count(False)
    keys = {row["composite_id"] for row in loaded(target, new, "subset_b")}
    assert samples(target, new) == {n: d for n, d in samples(target, old).items() if n.rpartition(".")[0] in keys}
    assert len(samples(target, new)) < len(samples(target, old))
    assert (new.version, new.replaces, new.tombstones) == ("1.0.1", "1.0.0", 1)
    assert [change["text"] for change in new.changes][-1] == "One image was removed"
    assert new.numbers["rows of people"]["value"] == old.numbers["rows of people"]["value"] - 1
    assert new.columns == old.columns and new.options == old.options
    assert release.published(target) == {"people": ["1.0.0", "1.0.1"]}


def test_a_damaged_publication_is_not_made_anew(finished: LocalStore, tmp_path: Path) -> None:
    target = LocalStore(tmp_path)
    old = made(finished, target=target)
    (tmp_path / "releases/people/1.0.0/facts/train-00000-of-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(LaionPeopleError, match="is damaged"):
        rewritten(target, old, "1.0.1", lambda _, table: [True] * len(table), "removed", "")
    assert release.published(target) == {"people": ["1.0.0"]} and not target.list(STAGING)
