"""What is removed is in no file, never comes back, and nothing else changes."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from laion_people.cli import main
from laion_people.storage.removals import read_removals
from laion_people.storage.store import LocalStore
from tests.fakes import FakeModels
from tests.removal import store as made
from tests.removal.store import ELSEWHERE, FETCHED, TWIN, TWIN_OF


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    with made.picture_server() as url:
        yield url


@pytest.fixture(scope="session")
def finished(server: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("finished") / "store"
    made.fill(LocalStore(root), server)
    return root


@pytest.fixture
def root(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "store")
    return tmp_path / "store"


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
    """Where any of these bytes are, in any file but the metadata, packed or not. What is in cluster versions and
    publications is tested beside those."""
    found = []
    for path, data in made.content(root).items():
        if path.startswith(("metadata/", "clusters/")):
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
            kept = [row for row in rows(after) if '"reason": "removed"' not in row]
            old = rows(before)
            assert kept == [row for row in old if row in kept] and len(kept) < len(old)
            assert pq.read_schema(before).equals(pq.read_schema(after), check_metadata=True)
    assert changed == {*made.TABLES} - {"clusters"}
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
    assert left == [f"images/{ELSEWHERE}/00001.tar"]  # until it is removed once more
    assert remove(root, "--url", made.elsewhere_url(113)) == 0
    assert made.faults(store) == [] and hunt(root, [url]) == []
