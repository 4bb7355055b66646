"""What is removed is in no file, never comes back, and nothing else changes."""

from __future__ import annotations

import json
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pyarrow.parquet as pq
import pytest

from laion_people.cli import main
from laion_people.errors import LaionPeopleError
from laion_people.removal import lock
from laion_people.removal import remove as removing
from laion_people.removal.names import of_value
from laion_people.removal.proof import prove
from laion_people.storage.removals import digest, read_removals
from laion_people.storage.store import LocalStore, open_store
from laion_people.vision.images import decode
from tests.fakes import FakeModels, tar_of
from tests.removal import store as made
from tests.removal.store import ELSEWHERE, FETCHED, TWIN, TWIN_OF
from tests.s3 import flaky, moto_server


def remove(root: Path, *args: str) -> int:
    return main(["remove", "--store", str(root), "--reason", "asked by mail", "--by", "Ada", *args])


def test_the_store_is_whole_before(root: Path) -> None:
    assert made.faults(LocalStore(root)) == []
    counts = {p.parent.parent.parent.name: pq.read_metadata(p).num_rows for p in root.rglob("00000.parquet")}
    assert all(counts.values()), counts


def test_an_image_leaves_every_file_by_its_address(root: Path, server: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert remove(root, "--url", f"{server}/{TWIN_OF}.jpg") == 0
    assert "people" in capsys.readouterr().out
    assert made.faults(LocalStore(root)) == []


def hunt(root: Path, needles: list[bytes]) -> list[str]:
    """Where any of these bytes are, in any file but the metadata, packed or not."""
    found = []
    for path, data in made.content(root).items():
        if path.startswith("metadata/"):
            continue
        if path.endswith(".parquet"):
            data = json.dumps(pq.read_table(root / path).to_pylist(), default=str).encode()
        found += [f"{path}: {needle[:60]!r}" for needle in needles if needle in data]
    return found


def stored(root: Path, partition: str, key: str) -> bytes:
    """The stored picture of a sample."""
    with tarfile.open(root / f"images/{partition}/{key[:5]}.tar") as tar:
        member = tar.extractfile(f"{key}.jpg")
        assert member
        return member.read()


def needles(root: Path, server: str) -> list[bytes]:
    """Of TWIN_OF and TWIN, which are the same picture."""
    texts = [
        f'{server}/{TWIN_OF}.jpg"', f'{server}/{TWIN}.jpg"', made.body_sha256(TWIN),
        f"{FETCHED}/00000/000000004/", f"{FETCHED}/00002/000020005/",
    ]  # fmt: skip
    return [*(text.encode() for text in texts), stored(root, FETCHED, "000000004"), stored(root, FETCHED, "000020005")]


def test_the_other_image_with_the_same_body_leaves_too_and_no_byte_of_either_stays(root: Path, server: str) -> None:
    wanted = needles(root, server)
    assert len(hunt(root, wanted)) > 20
    assert remove(root, "--url", f"{server}/{TWIN_OF}.jpg") == 0
    assert hunt(root, wanted) == []


def rows(path: Path) -> list[str]:
    return [json.dumps(row, default=str) for row in pq.read_table(path).to_pylist()]


def test_other_rows_and_members_stay_what_they_are(root: Path, finished: Path, server: str) -> None:
    assert remove(root, "--url", f"{server}/{TWIN_OF}.jpg") == 0
    changed = set()
    for before in sorted(finished.rglob("*.parquet")):
        after = root / before.relative_to(finished)
        if before.read_bytes() != after.read_bytes():
            changed.add(before.relative_to(finished).parts[0])
            if before.relative_to(finished).parts[0] == "clusters":  # another medoid, of the same clusters
                continue
            kept = [row for row in rows(after) if '"reason": "removed"' not in row]
            old = rows(before)
            assert kept == [row for row in old if row in kept] and len(kept) < len(old)
            assert pq.read_schema(before).equals(pq.read_schema(after), check_metadata=True)
    assert changed >= {*made.TABLES} - {"clusters"}
    for before in sorted(finished.rglob("*.tar")):
        with tarfile.open(before) as old, tarfile.open(root / before.relative_to(finished)) as new:
            members = {m.name: (m.get_info(), old.extractfile(m).read()) for m in old}  # type: ignore[union-attr]
            for member in new:
                assert members[member.name] == (member.get_info(), new.extractfile(member).read())  # type: ignore[union-attr]


def test_nothing_is_made_again_and_no_model_runs(root: Path, server: str) -> None:
    assert remove(root, "--url", f"{server}/{TWIN_OF}.jpg") == 0
    before, models = made.content(root), FakeModels()
    made.run_all(LocalStore(root), models)
    assert models.loaded == []
    changed = {path for path, data in made.content(root).items() if before.get(path) != data}
    assert {path.split("/")[0] for path in changed} <= {"manifests", "totals"}  # a copied store has other tags


def test_composed_pictures_on_a_removed_background_leave(root: Path, server: str) -> None:
    def grounds() -> list[str]:
        return pq.read_table(root / f"subset_b/v0001/{FETCHED}/00000.parquet")["background_key"].to_pylist()

    before = grounds()
    assert "000000000" in before and set(before) != {"000000000"}
    assert remove(root, "--url", f"{server}/0.jpg") == 0
    assert grounds() == [key for key in before if key != "000000000"]
    assert made.faults(LocalStore(root)) == []


@pytest.mark.parametrize("name", ["url", "sha256", "sample", "sample_id", "person"])
def test_an_image_made_elsewhere_leaves_by_every_name(root: Path, name: str) -> None:
    url, sha256, key = made.elsewhere_url(113), made.body_sha256(113), "000010003"
    sample = f"{ELSEWHERE}/00001/{key}"
    wanted = [url.encode(), sha256.encode(), f"{sample}/".encode(), stored(root, ELSEWHERE, key)]
    assert len(hunt(root, wanted)) > 10
    kind, value = {
        "url": ("--url", url),
        "sha256": ("--sha256", sha256.upper()),
        "sample": ("--sample", sample),
        "sample_id": ("--sample", "1113"),
        "person": ("--person", f"{sample}/0"),
    }[name]
    assert remove(root, kind, value) == 0
    assert hunt(root, wanted) == [] and made.faults(LocalStore(root)) == []
    models = FakeModels()
    made.run_all(LocalStore(root), models)
    assert models.loaded == []
    [removal] = read_removals(LocalStore(root))
    assert removal.rows["people"] == removal.rows["pose"] > 0 and removal.done and removal.by == "Ada"


@pytest.mark.parametrize("again", [("--force",), ("--retry-failed",), ()])
def test_a_download_brings_nothing_back(root: Path, server: str, again: tuple[str, ...]) -> None:
    store = LocalStore(root)
    wanted = needles(root, server)
    assert remove(root, "--url", f"{server}/{TWIN_OF}.jpg") == 0
    nulled = pq.read_table(root / f"images/{FETCHED}/00000.parquet").to_pylist()[TWIN_OF]
    assert {name for name, value in nulled.items() if value is not None} == {"key", "status", "reason", "row_sha256"}
    if not again:
        (root / f"images/{FETCHED}/00000.tar").unlink()
    made.Pictures.asked.clear()
    works = made.runner(store, retry_failed="--retry-failed" in again)
    works.run("download", FETCHED, force="--force" in again)
    assert f"/{TWIN_OF}.jpg" not in made.Pictures.asked and f"/{TWIN}.jpg" not in made.Pictures.asked
    assert pq.read_table(root / f"images/{FETCHED}/00000.parquet").to_pylist()[TWIN_OF] == nulled
    assert [hit for hit in hunt(root, wanted) if "images/" in hit] == []
    assert works.sum("download", FETCHED).rejected == {"removed": 2}


def test_the_same_body_at_another_address_does_not_come_in(root: Path, server: str) -> None:
    store = LocalStore(root)
    assert remove(root, "--sha256", made.body_sha256(7)) == 0
    path = root / "metadata/sample/part-00000-x.parquet"
    table = pq.read_table(path)
    urls = [url.replace("/7.jpg", "/07.jpg") for url in table["URL"].to_pylist()]
    pq.write_table(table.set_column(0, "URL", [urls]), path)
    made.Pictures.asked.clear()
    works = made.runner(store)
    works.run("download", FETCHED)
    assert "/07.jpg" in made.Pictures.asked
    assert works.sum("download", FETCHED).rejected == {"removed": 1}
    assert hunt(root, [made.body_sha256(7).encode(), b"/07.jpg"]) == []


def test_what_is_imported_once_more_is_refused(root: Path) -> None:
    store = LocalStore(root)
    assert remove(root, "--url", made.elsewhere_url(113)) == 0
    made.import_shard(store, 1)
    works = made.runner(store)
    for step in (*made.EXTRACT[1:], *made.CAPTION):
        works.run(step, ELSEWHERE)
    assert works.sum("detect", ELSEWHERE).rejected["removed"] == 1
    url = b"elsewhere.example/113.jpg"
    left = [hit.partition(":")[0] for hit in hunt(root, [b"other/00001/00001/000010003/", url])]
    assert left == [
        f"images/{ELSEWHERE}/00001.parquet",
        f"images/{ELSEWHERE}/00001.tar",
    ]  # until it is removed once more
    assert remove(root, "--url", made.elsewhere_url(113)) == 0
    assert made.faults(store) == [] and hunt(root, [url]) == []


def test_an_image_without_address_and_sha256_is_refused_by_its_place(root: Path) -> None:
    store, tar = LocalStore(root), root / f"images/{ELSEWHERE}/00001.tar"
    images = {f"00001{i:04d}": stored(root, ELSEWHERE, f"00001{i:04d}") for i in (1, 2, 3)}
    (root / f"images/{ELSEWHERE}/00001.parquet").unlink()

    def import_again() -> None:
        nameless = {"url": None, "SAMPLE_ID": None}
        tar_of(images, tar, **dict.fromkeys(images, nameless))
        made.runner(store).run("detect", ELSEWHERE)

    import_again()
    assert remove(root, "--sample", f"{ELSEWHERE}/00001/000010003") == 0
    import_again()
    people = pq.read_table(root / f"people/{ELSEWHERE}/00001.parquet")["key"].to_pylist()
    assert people and "000010003" not in people


def looks_like(root: Path, partition: str, key: str, target: Path) -> Path:
    """A smaller, worse copy of a stored picture."""
    picture = decode(stored(root, partition, key))
    picture.resize((picture.width // 2, picture.height // 2)).save(target, "JPEG", quality=60)
    return target


def test_a_copy_finds_the_image_that_it_is_of(root: Path, tmp_path: Path, server: str) -> None:
    copy = looks_like(root, FETCHED, "000000004", tmp_path / "copy.jpg")
    wanted = needles(root, server)
    assert remove(root, "--near", str(copy), "--bits", "8") == 0
    assert hunt(root, wanted) == [] and made.faults(LocalStore(root)) == []
    [removal] = read_removals(LocalStore(root))
    assert removal.rows["images"] == 2 and removal.asked == {"near": 1} and removal.near == -1


def test_what_looks_like_it_is_kept_out_where_that_is_asked(root: Path, tmp_path: Path) -> None:
    store = LocalStore(root)
    key, number = "000010003", 113
    copy = looks_like(root, ELSEWHERE, key, tmp_path / "copy.jpg")
    assert remove(root, "--url", made.elsewhere_url(number), "--keep-out-near", "--bits", "8") == 0
    with store.writer(f"images/{ELSEWHERE}/00001.tar") as path:
        tar_of({key: copy.read_bytes(), "000010009": made.body(119)}, path)
    made.runner(store).run("detect", ELSEWHERE, [1])
    people = pq.read_table(root / f"people/{ELSEWHERE}/00001.parquet")
    assert set(people["key"].to_pylist()) == {"000010009"}
    assert made.runner(store).sum("detect", ELSEWHERE, shards=[1]).rejected == {"removed": 1}


@pytest.mark.parametrize("content", [b"", b"no picture", b"\xff\xd8\xff\xe0" + b"\0" * 1000])
def test_what_is_no_picture_ends_in_one_line(
    root: Path, tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.jpg").write_bytes(content)
    assert remove(root, "--near", str(tmp_path / "x.jpg")) == 2
    assert "[bad-argument]" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("name", ["http://nowhere.example/1.jpg", "ab" * 32])
def test_what_is_not_there_is_recorded_all_the_same(
    root: Path, name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "list").write_text(f"# asked by mail\n\n{name}\n")
    before = made.content(root)
    assert remove(root, "--file", str(tmp_path / "list")) == 0
    assert "nothing of it is in the store" in capsys.readouterr().out
    now = made.content(root)
    assert {path.split("/")[0] for path in now.keys() - before.keys()} == {"removals"}
    assert before.items() <= now.items()
    [removal] = read_removals(LocalStore(root))
    assert removal.done and (*removal.urls, *removal.pictures) == (digest(name),)


@pytest.mark.parametrize("kind", ["--sample", "--person"])
@pytest.mark.parametrize(
    "name", ["sample/00000/00000/000000099", "sample/00000/00099/000990001", "sample/00007/00000/000000001", "../x/0/1"]
)
def test_an_id_that_nothing_has_is_wrong_usage(
    root: Path, kind: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert remove(root, kind, name + "/0" * (kind == "--person")) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.endswith("[bad-argument]" if name.startswith(".") else "[nothing-to-remove]")
    assert not read_removals(LocalStore(root))


def test_a_look_changes_nothing_but_the_index(root: Path, server: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = made.content(root)
    assert remove(root, "--url", f"{server}/{TWIN_OF}.jpg", "--dry-run") == 0
    told = capsys.readouterr().out
    now = made.content(root)
    assert before.items() <= now.items()
    assert all(path.startswith("removals/index/") for path in now.keys() - before.keys())
    assert not any(server.encode() in data for path, data in now.items() if path.startswith("removals/"))
    assert remove(root, "--url", f"{server}/{TWIN_OF}.jpg") == 0
    *table, first, second = told.splitlines()
    assert [first, second] == [f"  {FETCHED}/00000/000000004", f"  {FETCHED}/00002/000020005"]
    assert capsys.readouterr().out.splitlines()[: len(table)] == table


def test_a_removal_says_why_and_the_list_says_all(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["remove", "--store", str(root), "--url", made.elsewhere_url(113)]) == 2
    assert remove(root) == 2
    assert remove(root, "--url", made.elsewhere_url(113)) == 0
    capsys.readouterr()
    assert main(["remove", "--store", str(root), "--list"]) == 0
    told = capsys.readouterr().out
    assert "Ada: asked by mail" in told and "done" in told and "elsewhere.example" not in told
    assert main(["remove", "--store", str(root), "--resume"]) == 0


def test_the_proof_finds_nothing(root: Path, server: str) -> None:
    store = LocalStore(root)
    before = prove(store)
    assert remove(root, "--url", f"{server}/{TWIN_OF}.jpg") == 0
    assert remove(root, "--url", made.elsewhere_url(113)) == 0
    proof = prove(store)
    assert before.faults == [] and proof.faults == [] and proof.files > 100


def test_what_another_program_could_not_fetch_leaves_its_table_and_summary(root: Path, finished: Path) -> None:
    assert remove(root, "--url", made.gone_url(1)) == 0
    assert hunt(root, [made.gone_url(1).encode()]) == [] and made.faults(LocalStore(root)) == []
    path = f"images/{ELSEWHERE}/00001"
    *others, last = pq.read_table(root / f"{path}.parquet").to_pylist()
    assert others == pq.read_table(finished / f"{path}.parquet").to_pylist()[:-1]
    said = {"key": "000019999", "status": "failed_to_download", "error_message": "removed"}
    assert last == dict.fromkeys(last) | said
    assert (root / f"{path}.tar").read_bytes() == (finished / f"{path}.tar").read_bytes()
    stats = json.loads((root / f"{path}_stats.json").read_text())
    assert stats["status_dict"] == {"success": 10, "removed": 1} and stats["failed_to_download"] == 1


def test_the_summaries_of_images_count_what_was_removed(root: Path, server: str) -> None:
    assert remove(root, "--url", f"{server}/{TWIN_OF}.jpg") == 0
    assert remove(root, "--url", made.elsewhere_url(113)) == 0
    for partition, index in ((FETCHED, "00000"), (ELSEWHERE, "00001")):
        stats = json.loads((root / f"images/{partition}/{index}_stats.json").read_text())
        assert (stats["successes"], stats["status_dict"]["success"], stats["status_dict"]["removed"]) == (9, 9, 1)
        assert stats["count"] == stats["successes"] + stats["failed_to_download"] + stats["failed_to_resize"]


def test_a_person_of_an_image_who_is_not_in_it_is_wrong_usage(root: Path) -> None:
    assert remove(root, "--person", f"{ELSEWHERE}/00001/000010003/77") == 2
    assert remove(root, "--person", f"{ELSEWHERE}/00001/000010003/0") == 0


def test_the_same_command_again_is_no_error_however_it_names_things(root: Path, tmp_path: Path) -> None:
    """Who was killed gives it again, not knowing how far it came; and a list may name what is out already."""
    image = f"{ELSEWHERE}/00001/000010003"
    [number] = pq.read_table(root / f"images/{FETCHED}/00000.parquet")["sample_id"].to_pylist()[1:2]
    (tmp_path / "list").write_text(f"sample {image}\nsample {FETCHED}/00000/000000002\n")
    commands = [
        ("--person", f"{image}/0"),
        ("--sample", image),
        ("--sample", str(number)),
        ("--file", tmp_path / "list"),
    ]
    for name in [*commands, *commands]:
        assert remove(root, *map(str, name)) == 0
    assert made.faults(LocalStore(root)) == []
    assert remove(root, "--person", f"{image}/77") == 2


def test_a_damaged_file_keeps_it_in_no_other_shard(root: Path, tmp_path: Path) -> None:
    damaged = root / f"images/{ELSEWHERE}/00001.tar"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    (tmp_path / "list").write_text(f"{ELSEWHERE}/00001/000010003/0\n{FETCHED}/00000/000000001/0\n")
    assert remove(root, "--file", str(tmp_path / "list")) == 1
    assert not {path for path in map(str, prove(LocalStore(root)).faults) if f"/{FETCHED}/" in path}
    damaged.write_bytes(whole)
    assert main(["remove", "--store", str(root), "--resume"]) == 0
    assert made.faults(LocalStore(root)) == [] and prove(LocalStore(root)).faults == []


@pytest.mark.parametrize("number", ["987654321", "-5"])
def test_a_number_that_no_image_has_is_wrong_usage(root: Path, number: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert remove(root, f"--sample={number}") == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("[nothing-to-remove]")


def test_two_at_once_wait_for_each_other(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = LocalStore(root)
    with ThreadPoolExecutor(4) as pool:
        urls = [made.elsewhere_url(number) for number in (111, 113, 115, 117)]
        list(pool.map(lambda url: removing.remove(store, made.PARTITIONS, of_value("url", url), "Ada", "mail"), urls))
    assert hunt(root, [url.encode() for url in urls]) == [] and made.faults(store) == []
    assert [removal.done != "" for removal in read_removals(store)] == [True] * 4
    assert len(pq.read_table(root / f"people/{ELSEWHERE}/00001.parquet")) > 0


def test_who_was_taken_for_dead_rewrites_nothing_more(root: Path) -> None:
    store = LocalStore(root)
    with pytest.raises(LaionPeopleError, match=r"\[removed-meanwhile\]"), lock.alone(store) as check:
        check()
        store.write(lock.PATH, b"of somebody else")
        check()
    assert store.read(lock.PATH) == b"of somebody else"


def test_a_store_of_several_scopes_loses_it_in_all(root: Path, server: str) -> None:
    """Other cluster versions, other captioners: their tables are other tables."""
    store = LocalStore(root)
    works = made.runner(store)
    works.run_release("cluster", [FETCHED])
    works.run_release("label", [FETCHED])
    for step in ("assign", "compose", "caption"):
        works.run(step, FETCHED)
    for table, scope in (("subset_c", "v0002"), ("subset_b", "v0001"), ("subset_b", "v0002")):
        assert pq.read_metadata(root / f"{table}/{scope}/{FETCHED}/00000.parquet").num_rows
    wanted = needles(root, server)
    assert remove(root, "--url", f"{server}/{TWIN_OF}.jpg") == 0
    assert hunt(root, wanted) == [] and made.faults(store, clusters="v0001") == []
    assert [fault for fault in made.faults(store, clusters="v0002") if FETCHED in fault] == []


def test_in_a_bucket(finished: Path, server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with moto_server() as port, flaky(port, fail_every=11) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        boto3.client("s3").create_bucket(Bucket="people")
        store = open_store("s3://people/some/prefix")
        for path, data in made.content(finished).items():
            store.write(path, data)
        arguments = ["--reason", "mail", "--url", f"{server}/{TWIN_OF}.jpg", "--store", store.uri]
        assert main(["remove", *arguments]) == 0
        assert made.faults(store) == [] and prove(store).faults == []
        for path in store.list(""):
            target = tmp_path / "copy" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(store.read(path))
    assert hunt(tmp_path / "copy", needles(finished, server)) == []
