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
        f"{FETCHED}/00000/000000004/", f"{FETCHED}/00002/000020005/", '"background_key": "000000004"',
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
    assert made.content(root) == before
