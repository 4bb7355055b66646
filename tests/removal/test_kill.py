"""A removal that is killed at any of its writes, or whose store fails there, and is gone on with: the same files."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from laion_people.cli import main
from laion_people.errors import StoreError
from laion_people.removal import lock, remove
from laion_people.storage.manifest import ShardManifest
from laion_people.storage.store import LocalStore, Placed
from tests.removal import store as made
from tests.removal.store import FETCHED, TWIN_OF

ROOT = Path(__file__).parent.parent.parent
NOW = "2026-11-30T12:00:00+00:00"


class Interrupted(BaseException):
    """As a kill: nothing that comes after it is done."""


@contextmanager
def interrupted_at(number: int, kind: type[BaseException] = Interrupted) -> Iterator[list[str]]:
    """Lets the process put files into stores, or delete them, until ``number`` were; gives the paths so far."""
    done: list[str] = []

    def step(path: str) -> None:
        if len(done) == number:
            raise kind("store-away", f"{path}: the store is away") if kind is StoreError else kind
        done.append(path)

    put, delete = LocalStore.put, LocalStore.delete

    def counted_put(self: LocalStore, local: Path, path: str) -> Placed:
        step(path)
        return put(self, local, path)

    def counted_delete(self: LocalStore, path: str) -> None:
        step(path)
        delete(self, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalStore, "put", counted_put)
        patch.setattr(LocalStore, "delete", counted_delete)
        yield done


def command(root: Path, server: str) -> list[str]:
    return ["remove", "--store", str(root), "--reason", "mail", "--by", "Ada", "--file", str(root.parent / "list")]


def write_list(root: Path, server: str) -> None:
    """An image that is twice in one partition, and one of the other."""
    (root.parent / "list").write_text(f"{server}/{TWIN_OF}.jpg\n{made.elsewhere_url(113)}\n")


def content(root: Path) -> dict[str, Any]:
    """The files of a store; of manifests what they say, but for tags, which tell when a file was written."""
    read: dict[str, Any] = {}
    for path, data in made.content(root).items():
        if path.startswith("manifests/") and path.count("/") == 4:
            read[path] = ShardManifest.parse(path, data)
        elif not path.startswith(("manifests/", "totals/", "removals/index/")):
            read[path] = data
    return read


@pytest.fixture(autouse=True)
def noon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock of a killed process is nobody's soon."""
    monkeypatch.setattr(remove, "_now", lambda: NOW)
    monkeypatch.setattr(lock, "DEAD_SECONDS", 0.1)
    monkeypatch.setattr(lock, "POLL_SECONDS", 0.03)
    monkeypatch.setattr(lock, "BEAT_SECONDS", 1e6)  # else the writes could not be counted


@pytest.fixture(scope="module")
def removed(finished: Path, server: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[str]]:
    """What an undisturbed removal leaves, and the paths that it writes or deletes, in order."""
    root = tmp_path_factory.mktemp("removed") / "store"
    shutil.copytree(finished, root)
    write_list(root, server)
    with pytest.MonkeyPatch.context() as patch, interrupted_at(10**6) as paths:
        patch.setattr(remove, "_now", lambda: NOW)
        assert main(command(root, server)) == 0
    return content(root), paths


def test_it_writes_in_this_order(removed: tuple[dict[str, Any], list[str]]) -> None:
    """The record before anything is rewritten, the plan deleted at the end."""
    paths = [path for path in removed[1] if "/index/" not in path and path != lock.PATH]
    plan, record = paths[0], paths[1]
    assert plan.endswith("/plan.json") and record.count("/") == 1
    assert paths[-1] == plan and paths.count(record) == 2
    assert {path.split("/")[0] for path in paths} >= {"images", "people", "subset_b", "clusters", "manifests", "totals"}


@pytest.mark.parametrize("again", ["the same", "--resume"])
def test_a_removal_killed_at_any_write_goes_on_where_it_was(
    finished: Path, tmp_path: Path, server: str, removed: tuple[dict[str, Any], list[str]], again: str
) -> None:
    expected, paths = removed
    first = next(number for number, path in enumerate(paths) if path.endswith("/plan.json"))
    places = range(first + 1, len(paths))
    chosen = [place for place in places if place % 11 == (5 if again == "the same" else 0)] + [
        first + 1,
        len(paths) - 1,
    ]
    for place in chosen:
        root = tmp_path / str(place) / "store"
        shutil.copytree(finished, root)
        write_list(root, server)
        with pytest.raises(Interrupted), interrupted_at(place):
            remove_as_killed(command(root, server))
        second = command(root, server) if again == "the same" else ["remove", "--store", str(root), "--resume"]
        assert main(second) == 0
        now = content(root)
        assert now.keys() == expected.keys()
        different = [path for path in expected if now[path] != expected[path]]
        assert different == [], f"killed before {paths[place]}"
        assert made.faults(LocalStore(root)) == []
        shutil.rmtree(root.parent)


def remove_as_killed(arguments: list[str]) -> None:
    """The command, without what it does about errors."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("laion_people.cli._complain", _raise)
        main(arguments)


def _raise(error: BaseException) -> int:
    raise error


def test_a_store_that_fails_ends_in_one_line(
    root: Path, server: str, removed: tuple[dict[str, Any], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    write_list(root, server)
    with interrupted_at(len(removed[1]) // 2, StoreError):
        assert main(command(root, server)) == 1
    assert "[store-away]" in capsys.readouterr().err.splitlines()[-1]
    assert main(command(root, server)) == 0
    assert content(root) == removed[0]


def test_kill_9(root: Path, server: str, removed: tuple[dict[str, Any], list[str]]) -> None:
    write_list(root, server)
    environ = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}"}
    process = subprocess.Popen(
        [sys.executable, "-m", "laion_people.cli", *command(root, server)],
        cwd=ROOT, env=environ, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    for line in process.stderr or ():
        if b"(2 of 3)" in line:
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert main(command(root, server)) == 0
    assert {path: data for path, data in content(root).items() if not path.startswith("removals/")} == {
        path: data for path, data in removed[0].items() if not path.startswith("removals/")
    }
    assert made.faults(LocalStore(root)) == []


@pytest.mark.parametrize("table", ["people", "pose"])
def test_a_damaged_table_is_no_end_without_a_word(
    root: Path, server: str, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is said which step is to be run again; then the removal goes on, and what the step makes is without it."""
    write_list(root, server)
    path = root / f"{table}/{FETCHED}/00002.parquet"
    data = path.read_bytes()
    path.write_bytes(data[:99] + bytes([data[99] ^ 1]) + data[100:])
    assert main(command(root, server)) == 1
    assert "[damaged-file]" in capsys.readouterr().err.splitlines()[-1]
    works = made.runner(LocalStore(root))
    for step in (*made.EXTRACT, *made.CAPTION):
        works.run(step, FETCHED)
    assert main(command(root, server)) == 0
    assert made.faults(LocalStore(root)) == []
