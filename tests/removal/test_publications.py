"""Removed images leave publications: a new patch version without them, and no version that has them."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from laion_people.errors import LaionPeopleError
from laion_people.publication import release
from laion_people.publication.build import KEY, hand_out
from laion_people.publication.choice import Options
from laion_people.publication.content import Content
from laion_people.publication.release import Publication
from laion_people.publication.tables import Pseudonyms, configs, schema
from laion_people.publication.writing import Limits, Picture, Staging
from laion_people.removal.proof import prove
from laion_people.removal.publications import rewrite_publications
from laion_people.storage.removals import Removal, Removed, digest, path_of
from laion_people.storage.store import LocalStore, Store, open_store
from tests.s3 import moto_server

NAME, SHARD = "some-people", "demo/part.x/00000"  # names of partitions may have dots
IMAGES = [f"{SHARD}/{i:09d}" for i in range(6)]
PERSONS = [f"{image}/{index}" for image in IMAGES for index in (0, 1)]
BACKGROUND = f"{SHARD}/{9:09d}"
PICTURES = {f"{SHARD}/{n:05d}": PERSONS[2 * n : 2 * n + 3] for n in range(5)}  # by composition, whom it shows
LIMITS = Limits(file=20_000, group=3_000, pictures=2)
CLUSTERS = {"pose-0001": PERSONS[2], "pose-0002": PERSONS[5], "face-0001": None}
PERSON = {"person_id": "", "bbox": [0, 0, 1, 1], "cluster_id": "pose-0001", "claims": []}


class Killed(BaseException):
    pass


class Made(Content):
    """Rows that are made up; ``pseudonyms`` as the edition geometry has them."""

    def __init__(self, edition: str, pseudonyms: Pseudonyms | None = None):
        super().__init__()
        self.edition, self.pseudonyms = edition, pseudonyms
        self.left_out["people"]["minor"] = 3

    def schemas(self) -> dict[str, pa.Schema]:
        return {config: schema(config, self.edition) for config in configs(self.edition)}

    def tables(self, config: str) -> Iterator[pa.Table]:
        given: list[dict[str, Any]]
        match config:
            case "subset_b":
                given = [
                    {"composite_id": c, "people": [PERSON | {"person_id": p} for p in persons], "background_key": "0"}
                    for c, persons in PICTURES.items()
                ]
                given[-1]["background_key"] = BACKGROUND.rpartition("/")[2]
            case "clusters":
                given = [{"cluster_id": c, "kind": "pose", "medoid_person_id": p} for c, p in CLUSTERS.items()]
            case _:
                given = [{"person_id": p, "url": url_of(p), "sha256": sha256_of(p), "caption": p} for p in PERSONS]
        if self.pseudonyms:
            for name in ("person_id", "medoid_person_id"):
                given = [g | {name: self.pseudonyms.of(g[name])} if g.get(name) else g for g in given]
        columns = self.schemas()[config]
        yield pa.Table.from_pylist([{f.name: g.get(f.name, _nothing(f)) for f in columns} for g in given], columns)

    def pictures(self) -> Iterator[Picture]:
        if self.edition == "links":
            for composition in PICTURES:
                fields = json.dumps({"composite_id": composition}).encode()
                yield composition, {"jpg": composition.encode(), "txt": b"People.", "json": fields}


def _nothing(field: pa.Field) -> Any:
    if field.nullable:
        return None
    kind = field.type
    if pa.types.is_fixed_size_list(kind):
        return [0] * kind.list_size
    return [] if pa.types.is_list(kind) else "" if pa.types.is_string(kind) else pa.scalar(0).cast(kind).as_py()


def url_of(person: str) -> str:
    return f"http://example.org/{person.rsplit('/', 2)[1]}.jpg"


def sha256_of(person: str) -> str:
    return hashlib.sha256(url_of(person).encode()).hexdigest()


def publish(store: Store, version: str, edition: str = "links", name: str = NAME) -> Publication:
    draft = Publication(
        name=name,
        version=version,
        edition=edition,
        at="2026-01-01T00:00:00+00:00",
        clusters="v0001",
        partitions=("demo/part.x",),
        options=Options(edition=edition).to_json(),
        models={},
        files=(),
        columns={},
        left_out={},
        numbers={"funnel: people": {"value": 12, "unit": "people", "lost": {}, "source": "manifests/a.json"}},
        changes=({"version": version, "at": "2026-01-01T00:00:00+00:00", "text": "the first"},),
        licence="cc-by-4.0",
    )
    pseudonyms = None
    if edition == "geometry":
        store.write(KEY, b"a key of 32 bytes, well kept.....")
        pseudonyms = Pseudonyms(store.read(KEY))
    with Staging(store, name, version, LIMITS) as staging:
        return hand_out(staging, draft, Made(edition, pseudonyms))


def removal(**named: tuple[str, ...]) -> Removal:
    return Removal(id="00ff", at="2026-02-02T00:00:00+00:00", by="eve", reason="asked", asked={}, **named)


def without(*images: str) -> Removed:
    persons = [p for p in PERSONS if p.rpartition("/")[0] in images]
    return Removed([removal(samples=tuple(map(digest, images)), persons=tuple(map(digest, persons)))])


def rows(store: LocalStore, version: str, config: str, column: str, name: str = NAME) -> list[Any]:
    publication = release.read(store, name, version)
    assert publication
    folder = store.root / release.folder(name, version)
    tables = [pq.read_table(folder / file.path) for file in publication.files if file.config == config]
    return pa.concat_tables(tables)[column].to_pylist()


def tars(store: LocalStore, version: str) -> dict[str, bytes]:
    found = {}
    for path in sorted((store.root / release.folder(NAME, version)).glob("subset_b/*.tar")):
        with tarfile.open(path) as tar:
            found |= {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    return found


def test_a_patch_version_has_all_rows_but_those_that_were_removed(store: LocalStore) -> None:
    old = publish(store, "1.2.0")
    before = tars(store, "1.2.0")
    assert rewrite_publications(store, without(IMAGES[1])) == {"publications": 1, "deleted": 1}
    assert release.published(store) == {NAME: ["1.2.1"]} and not store.list(release.folder(NAME, "1.2.0"))
    new = release.read(store, NAME, "1.2.1")
    assert new
    left = [p for p in PERSONS if not p.startswith(f"{IMAGES[1]}/")]
    for config in ("people", "poses", "meshes", "facts", "subset_a", "subset_c", "subset_d"):
        assert rows(store, "1.2.1", config, "person_id") == left
        assert new.left_out[config]["removed"] == 2 and new.rows(config) == len(left)
    kept = [c for c, persons in PICTURES.items() if set(persons) <= set(left)]
    assert rows(store, "1.2.1", "subset_b", "composite_id") == kept and 0 < len(kept) < len(PICTURES)
    after = tars(store, "1.2.1")
    assert after == {name: data for name, data in before.items() if name.rpartition(".")[0] in kept}
    assert len(after) == 3 * len(kept)
    assert rows(store, "1.2.1", "clusters", "medoid_person_id") == [None, PERSONS[5], None]
    assert new.left_out["people"]["minor"] == 3 and new.replaces == "1.2.0" and new.options == old.options
    assert [change["version"] for change in new.changes] == ["1.2.0", "1.2.1"]
    assert new.numbers["funnel: people"] == old.numbers["funnel: people"]
    assert new.numbers["rows of people"]["value"] == len(left)


def test_it_is_whole_and_says_what_has_left_by_digests_alone(store: LocalStore) -> None:
    publish(store, "1.2.0")
    rewrite_publications(store, without(IMAGES[1]))
    folder = store.root / release.folder(NAME, "1.2.1")
    tombstones = pq.read_table(folder / "tombstones.parquet").to_pylist()
    ids = {digest(p): "person" for p in PERSONS if p.startswith(f"{IMAGES[1]}/")} | {digest(IMAGES[1]): "sample"}
    assert {row["digest"]: row["kind"] for row in tombstones} == ids
    assert {row["removed_at"] for row in tombstones} == {"2026-02-02T00:00:00+00:00"}
    publication = release.read(store, NAME, "1.2.1")
    assert publication and publication.tombstones == 3
    for line in (folder / "checksums.sha256").read_text().splitlines():
        sha256, path = line.split("  ")
        assert hashlib.sha256((folder / path).read_bytes()).hexdigest() == sha256
    for file in publication.files:
        assert hashlib.sha256((folder / file.path).read_bytes()).hexdigest() == file.sha256
    card = (folder / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["configs"] and "1.2.1" in card
    assert json.loads((folder / "croissant.json").read_bytes())["version"] == "1.2.1"
    record = store.list(release.FOLDER)
    text = b"".join(data if (data := store.read(p)) and not p.endswith(".parquet") else b"" for p in record)
    assert IMAGES[1].encode() not in text and url_of(f"{IMAGES[1]}/0").encode() not in text
    store.write(path_of("00ff"), without(IMAGES[1]).removals[0].to_json())
    assert prove(store).faults == []


@pytest.mark.parametrize(
    "names",
    [
        {"urls": (digest(url_of(PERSONS[2])),)},
        {"pictures": (digest(sha256_of(PERSONS[2])),)},
        {"samples": (digest(IMAGES[1]),)},
    ],
    ids=["url", "sha256", "sample"],
)
def test_an_image_goes_with_everybody_in_it_from_all_tables_whatever_names_it(
    store: LocalStore, names: dict[str, tuple[str, ...]]
) -> None:
    publish(store, "1.0.0")
    rewrite_publications(store, Removed([removal(**names)]))
    left = [p for p in PERSONS if not p.startswith(f"{IMAGES[1]}/")]
    assert rows(store, "1.0.1", "people", "person_id") == left == rows(store, "1.0.1", "facts", "person_id")
    assert f"{SHARD}/00001" not in rows(store, "1.0.1", "subset_b", "composite_id")


def test_a_background_that_was_removed_takes_its_pictures(store: LocalStore) -> None:
    publish(store, "1.0.0")
    rewrite_publications(store, without(BACKGROUND))
    assert rows(store, "1.0.1", "subset_b", "composite_id") == list(PICTURES)[:-1]
    assert rows(store, "1.0.1", "people", "person_id") == PERSONS
    assert not any(name.startswith(list(PICTURES)[-1]) for name in tars(store, "1.0.1"))


def test_all_versions_that_hold_it_go_and_others_stay(store: LocalStore) -> None:
    for version in ("1.0.0", "1.0.3", "1.10.0", "1.9.0"):
        publish(store, version)
    publish(store, "3.0.0", name="others")
    assert rewrite_publications(store, without(IMAGES[0])) == {"publications": 2, "deleted": 5}
    assert release.published(store) == {NAME: ["1.10.1"], "others": ["3.0.1"]}
    tags = store.tags(release.FOLDER)
    assert rewrite_publications(store, without(IMAGES[0])) == {} == rewrite_publications(store, Removed([]))
    assert store.tags(release.FOLDER) == tags
    assert rewrite_publications(store, without(IMAGES[0], IMAGES[3]))["publications"] == 2
    assert release.published(store) == {NAME: ["1.10.2"], "others": ["3.0.2"]}
    folder = store.root / release.folder(NAME, "1.10.2")
    assert len(pq.read_table(folder / "tombstones.parquet")) == 6
    newest = release.read(store, NAME, "1.10.2")
    assert newest and newest.left_out["people"]["removed"] == 4 and len(newest.changes) == 3


def test_of_the_edition_that_leads_nobody_back_people_leave_by_the_stores_key(store: LocalStore) -> None:
    publish(store, "1.0.0", "geometry")
    assert rewrite_publications(store, without(IMAGES[2])) == {}
    assert rewrite_publications(store, without(IMAGES[2]), [IMAGES[2]]) == {"publications": 1, "deleted": 1}
    pseudonyms = Pseudonyms(store.read(KEY))
    gone = [pseudonyms.of(p) for p in PERSONS if p.startswith(f"{IMAGES[2]}/")]
    assert not set(gone) & set(rows(store, "1.0.1", "poses", "person_id"))
    assert len(rows(store, "1.0.1", "poses", "person_id")) == len(PERSONS) - 2
    assert rows(store, "1.0.1", "clusters", "medoid_person_id")[1] is None
    tombstones = pq.read_table(store.root / release.folder(NAME, "1.0.1") / "tombstones.parquet").to_pylist()
    assert {row["digest"] for row in tombstones} == set(map(digest, gone))


def test_what_is_no_publication_yet_is_deleted(store: LocalStore) -> None:
    publish(store, "1.0.0")
    for path in ("releases/.staging/a/1.0.0/x/people/a.parquet", f"releases/{NAME}/2.0.0/people/half-moved.parquet"):
        store.write(path, b"x")
    store.write(f"releases/{NAME}/notes/a.txt", b"not ours")
    rewrite_publications(store, Removed([]))
    others = [path for path in store.list(release.FOLDER) if "/1.0.0/" not in path]
    assert others == [f"releases/{NAME}/notes/a.txt"]


def test_a_publication_that_is_damaged_stops_no_other_and_is_named(store: LocalStore) -> None:
    made = publish(store, "1.0.0")
    publish(store, "1.0.0", name="others")
    path = f"{release.folder(NAME, '1.0.0')}/{made.files[0].path}"
    store.write(path, b"x")
    with pytest.raises(LaionPeopleError, match=path):
        rewrite_publications(store, without(IMAGES[0]))
    assert release.published(store) == {NAME: ["1.0.0"], "others": ["1.0.1"]}
    store.delete_folder(release.folder(NAME, "1.0.0"))
    assert rewrite_publications(store, without(IMAGES[0])) == {}


def test_a_kill_anywhere_leaves_whole_versions_and_then_the_same(store: LocalStore, tmp_path: Path) -> None:
    publish(store, "1.0.0")
    publish(store, "1.1.0")
    wanted: dict[str, Any] = {}
    kill_at, done = 0, False
    while not done:
        shutil.copytree(store.root, tmp_path / "killed")
        killed, dying = LocalStore(tmp_path / "killed"), Dying(tmp_path / "killed", kill_at)
        try:
            rewrite_publications(dying, without(IMAGES[1]))
            done = True
        except Killed:
            check_whole(killed)
            moving = bool(killed.list(release.folder(NAME, "1.1.1")))
            rewrite_publications(killed, without(IMAGES[1]))
            kill_at += 1 if moving else 7  # what nobody sees is of less interest
        made = content(killed)
        assert release.published(killed) == {NAME: ["1.1.1"]}, kill_at
        assert not wanted or made == wanted, kill_at
        wanted = made
        shutil.rmtree(killed.root)
    assert kill_at > 60


def check_whole(store: LocalStore) -> None:
    """What is seen as a publication has all its files."""
    for name, versions in release.published(store).items():
        for version in versions:
            publication = release.read(store, name, version)
            assert publication and all(
                store.exists(f"{release.folder(name, version)}/{f.path}") for f in publication.files
            )


def content(store: LocalStore) -> dict[str, Any]:
    """The files of publications that have no times in them."""
    timed = ("README.md", "croissant.json", "checksums.sha256", "release.json")
    return {p: store.read(p) for p in store.list(release.FOLDER) if not p.endswith(timed)}


class Dying(LocalStore):
    """A store whose process is killed after so many changes."""

    def __init__(self, root: Path, left: int):
        super().__init__(root)
        self.left, self.dead = left, False

    def _count(self) -> None:
        self.dead = self.left <= 0
        if self.dead:
            raise Killed
        self.left -= 1

    def put(self, *args: Any) -> Any:
        self._count()
        return super().put(*args)

    def move(self, source: str, target: str) -> None:
        self._count()
        super().move(source, target)

    def move_folder(self, source: str, target: str, last: str) -> None:
        """As of a bucket, file by file, the record last."""
        for path in sorted(self.list(source), key=lambda path: path.endswith(f"/{last}")):
            self.move(path, target + path.removeprefix(source))

    def delete(self, path: str) -> None:
        self._count()
        super().delete(path)

    def delete_folder(self, folder: str, first: str = "") -> None:
        """As of a bucket."""
        if self.dead:  # which tidies nothing up
            return
        for path in [*filter(None, [first and f"{folder}/{first}"]), *self.list(folder)]:
            self.delete(path)
        super().delete_folder(folder)


def test_the_proof_knows_what_a_publication_lists_as_removed(store: LocalStore) -> None:
    publish(store, "1.0.0", "geometry")
    rewrite_publications(store, without(IMAGES[2]), [IMAGES[2]])
    store.write(path_of("00ff"), without(IMAGES[2]).removals[0].to_json())
    assert prove(store).faults == []
    gone = Pseudonyms(store.read(KEY)).of(f"{IMAGES[2]}/0")
    sink = io.BytesIO()
    pq.write_table(pa.table({"person_id": [gone]}), sink)
    store.write(f"{release.folder(NAME, '1.0.1')}/poses/train-00000-of-00001.parquet", sink.getvalue())
    assert any("which the publication lists as removed" in fault for fault in prove(store).faults)


def test_versions_go_on_counting_where_some_were_deleted(store: LocalStore) -> None:
    made = publish(store, "1.0.5")
    path = f"{release.folder(NAME, '1.0.5')}/{release.RECORD}"
    earlier = {"version": "1.0.8", "at": "2026-01-01T00:00:00+00:00", "text": "withdrawn"}
    store.write(path, replace(made, changes=(earlier, *made.changes)).to_json())
    rewrite_publications(store, without(IMAGES[0]))
    assert release.published(store) == {NAME: ["1.0.9"]}


def test_in_a_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    with moto_server() as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        boto3.client("s3").create_bucket(Bucket="people")
        store = open_store("s3://people/store")
        publish(store, "1.0.0")
        store.write(path_of("00ff"), without(IMAGES[1]).removals[0].to_json())
        assert any("1.0.0/people/" in fault for fault in prove(store, threads=4).faults)
        assert rewrite_publications(store, without(IMAGES[1])) == {"publications": 1, "deleted": 1}
        assert release.published(store) == {NAME: ["1.0.1"]}
        assert prove(store, threads=4).faults == []
        assert not [path for path in store.list(release.FOLDER) if "/1.0.1/" not in path]
