"""Both kinds of store keep the same promises; S3 is moto over HTTP, with failures and slow answers put in."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from laion_people.errors import LaionPeopleError, UsageError
from laion_people.runner import Runner
from laion_people.settings import Settings
from laion_people.store import LocalStore, S3Store, Store, open_store
from tests.fakes import FakeModels, image_shard
from tests.s3 import flaky, moto_server
from tests.test_runner import EXTRACT, PARTITION, STEPS


@pytest.fixture(scope="module")
def moto() -> Iterator[int]:
    with moto_server() as port:
        yield port


@pytest.fixture
def s3(moto: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Store]:
    with flaky(moto, fail_every=5, slow_every=7) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        bucket = f"b{abs(hash(tmp_path)) % 10**9}"
        boto3.client("s3").create_bucket(Bucket=bucket)
        yield open_store(f"s3://{bucket}/some/prefix")


@pytest.fixture(params=["folder", "s3"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return request.getfixturevalue("s3") if request.param == "s3" else open_store(str(tmp_path / "data"))


def test_what_is_written_is_read_back(any_store: Store) -> None:
    any_store.write("people/a/00000.parquet", b"x" * 100_000)
    assert any_store.read("people/a/00000.parquet") == b"x" * 100_000
    assert any_store.exists("people/a/00000.parquet") and not any_store.exists("people/a")
    assert any_store.size("people/a/00000.parquet") == 100_000
    assert any_store.sha256("people/a/00000.parquet") == hashlib.sha256(b"x" * 100_000).hexdigest()
    with any_store.local("people/a/00000.parquet") as path:
        assert path.read_bytes() == b"x" * 100_000


def test_a_file_can_be_read_from_the_middle(any_store: Store) -> None:
    any_store.write("metadata/part", bytes(range(256)) * 1000)
    with any_store.open("metadata/part") as file:
        file.seek(-3, 2)
        assert file.read() == b"\xfd\xfe\xff"
        file.seek(256_0)
        assert file.read(2) == b"\x00\x01"


def test_parts_of_a_file_may_be_empty_or_reach_beyond_its_end(any_store: Store) -> None:
    any_store.write("a/b", bytes(range(100)))
    assert any_store.part("a/b", 10, 12) == b"\x0a\x0b"
    assert any_store.part("a/b", 90, 200) == bytes(range(90, 100))
    assert any_store.part("a/b", 50, 50) == any_store.part("a/b", 0, 0) == b""


def test_what_vanishes_while_a_folder_is_listed_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path)
    for name in ("a/1", "a/b/2"):
        store.write(name, b"1")
    (tmp_path / "a" / "link").symlink_to(tmp_path / "nothing")
    assert store.list("a") == list(store.tags("a")) == ["a/1", "a/b/2"]
    stat = os.stat

    def vanishing(path: str, **more: bool) -> os.stat_result:
        if str(path).endswith("/2"):
            Path(path).unlink(missing_ok=True)
        return stat(path, **more)

    monkeypatch.setattr("laion_people.store.os.stat", vanishing)
    assert store.list("a") == list(store.tags("a")) == ["a/1"]


def test_listing_is_sorted_whole_and_of_one_folder_only(any_store: Store) -> None:
    for name in ("pose/b/2", "pose/b/10", "pose/a/1", "pose_other/1"):
        any_store.write(name, b"1")
    assert any_store.list("pose") == ["pose/a/1", "pose/b/10", "pose/b/2"]
    assert any_store.list("nothing") == []


def test_a_write_that_fails_leaves_the_old_file(any_store: Store) -> None:
    any_store.write("a/b", b"old")

    def interrupted() -> None:
        with any_store.writer("a/b") as path:
            path.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert any_store.read("a/b") == b"old"
    assert any_store.list("a") == ["a/b"]


WRITE = """
import sys, time
from pathlib import Path
from laion_people.store import LocalStore
store, end = LocalStore(Path(sys.argv[1])), time.monotonic() + 2
while time.monotonic() < end:
    store.write(f"a/{sys.argv[2]}", b"1")
"""


def test_processes_that_write_at_the_same_time_do_not_disturb_one_another(tmp_path: Path) -> None:
    environ = os.environ | {"PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-c", WRITE, str(tmp_path)]
    writers = [subprocess.Popen([*command, str(i)], env=environ, stderr=subprocess.PIPE) for i in range(3)]
    assert [w.communicate()[1].decode() for w in writers] == [""] * 3


def test_delete_is_quiet_about_what_is_gone(any_store: Store) -> None:
    any_store.write("a", b"1")
    any_store.delete("a")
    any_store.delete("a")
    assert not any_store.exists("a")


def test_reading_what_is_not_there_is_one_clear_line(any_store: Store) -> None:
    with pytest.raises(LaionPeopleError, match=r"gone/file") as caught:
        any_store.read("gone/file")
    assert "\n" not in str(caught.value)


def test_a_run_on_failing_slow_s3_leaves_the_same_rows_as_a_run_on_disk(s3: Store, tmp_path: Path) -> None:
    disk = open_store(str(tmp_path / "disk"))
    for store in (s3, disk):
        for index in (0, 1):
            image_shard(store, PARTITION, index)
        for step in EXTRACT:
            Runner(store, Settings(), FakeModels(), STEPS).run(step, PARTITION)
    for table in ("people", "pose", "mesh", "clip", "subset_a"):
        assert s3.list(table) == disk.list(table) != []
        assert [s3.sha256(p) for p in s3.list(table)] == [disk.sha256(p) for p in disk.list(table)]


def test_a_store_that_is_down_is_an_error_not_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    store = S3Store("bucket", "")
    with pytest.raises(LaionPeopleError, match=r"s3://bucket/x: .*check the address and the credentials"):
        store.exists("x")


def test_store_uris(tmp_path: Path) -> None:
    assert isinstance(open_store(f"file://{tmp_path}/a%20b"), LocalStore)
    assert open_store(f"file://{tmp_path}/a%20b").uri == f"file://{tmp_path}/a%20b"
    for wrong in ("http://x/y", "s3:///prefix", "", "file://host/x"):
        with pytest.raises(UsageError, match=r"should be a folder, file:///folder or s3://bucket/prefix"):
            open_store(wrong)
