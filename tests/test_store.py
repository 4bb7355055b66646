"""Both kinds of store keep the same promises; S3 is moto over HTTP, with failures and slow answers put in."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import pytest

from laion_people.engine.runner import Runner
from laion_people.errors import LaionPeopleError, ShortageError, StoreError, UsageError
from laion_people.language import captions
from laion_people.language.captions import Entry
from laion_people.settings import Settings
from laion_people.storage.store import LocalStore, S3Store, Store, open_store
from laion_people.storage.versions import take
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


def test_a_file_and_a_folder_get_other_paths(any_store: Store) -> None:
    any_store.write("new/.hidden/a.parquet", b"a")
    any_store.write("new/.hidden/deep/b.tar", b"b")
    any_store.move("new/.hidden/a.parquet", "new/.hidden/deep/c.parquet")
    any_store.move_folder("new/.hidden", "new/shown", last="deep/b.tar")
    assert any_store.list("new") == ["new/shown/deep/b.tar", "new/shown/deep/c.parquet"]
    assert any_store.read("new/shown/deep/c.parquet") == b"a"
    any_store.write("other/x", b"x")
    with pytest.raises(StoreError):
        any_store.move_folder("other", "new/shown", last="x")
    assert any_store.read("other/x") == b"x" and len(any_store.list("new/shown")) == 2
    with pytest.raises(StoreError):
        any_store.move("not/there", "new/there")


def test_a_folder_is_deleted_and_no_other(any_store: Store) -> None:
    for name in ("a", "deep/b", "record"):
        any_store.write(f"old/{name}", b"x")
    any_store.write("older/a", b"x")
    any_store.delete_folder("old", first="record")
    assert any_store.list("old") == [] and any_store.list("older") == ["older/a"]
    any_store.delete_folder("old")
    any_store.delete_folder("never/there", first="record")


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

    monkeypatch.setattr("laion_people.storage.store.os.stat", vanishing)
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


def test_what_a_process_with_a_closed_umask_writes_is_as_open_as_the_store(tmp_path: Path) -> None:
    """Airflow's own processes have one."""
    root = tmp_path / "store"
    root.mkdir()
    root.chmod(0o775)
    before = os.umask(0o077)
    try:
        store = LocalStore(root)
        store.write("notified/demo/00000.json", b"[]")
        store.update("clusters/v0001/reviews.json", lambda _: b"[]")
    finally:
        os.umask(before)
    folders = {path for path in root.rglob("*") if path.is_dir()}
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o775}
    assert {stat.S_IMODE(path.stat().st_mode) for path in root.rglob("*.json")} == {0o644}


WRITE = """
import sys, time
from pathlib import Path
from laion_people.storage.store import LocalStore
store, end = LocalStore(Path(sys.argv[1])), time.monotonic() + 2
while time.monotonic() < end:
    store.write(f"a/{sys.argv[2]}", b"1")
"""


def test_processes_that_write_at_the_same_time_do_not_disturb_one_another(tmp_path: Path) -> None:
    environ = os.environ | {"PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-c", WRITE, str(tmp_path)]
    writers = [subprocess.Popen([*command, str(i)], env=environ, stderr=subprocess.PIPE) for i in range(3)]
    assert [w.communicate()[1].decode() for w in writers] == [""] * 3


UPDATE = """
import sys
from pathlib import Path
from laion_people.storage.store import LocalStore
store = LocalStore(Path(sys.argv[1]))
for _ in range(40):
    store.update("a/counter", lambda before: str(int(before or 0) + 1).encode())
"""


def test_processes_that_update_a_file_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    environ = os.environ | {"PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-c", UPDATE, str(tmp_path)]
    writers = [subprocess.Popen(command, env=environ, stderr=subprocess.PIPE) for _ in range(3)]
    assert [w.communicate()[1].decode() for w in writers] == [""] * 3
    assert LocalStore(tmp_path).read("a/counter") == b"120"


def test_updates_at_the_same_time_lose_nothing(any_store: Store) -> None:
    with ThreadPoolExecutor(4) as pool:
        seen = set(pool.map(lambda i: any_store.update("a/b", lambda before: (before or b"") + b"%d" % i), range(8)))
    assert sorted(any_store.read("a/b")) == sorted(b"01234567")
    assert len(seen) == 8 and any_store.list("a") == ["a/b"]


def test_every_one_of_several_fits_at_once_has_a_number_of_its_own(any_store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda plan: take(any_store, plan, ""), "abcdefgh"))
    assert sorted(taken) == [f"v{i:04d}" for i in range(1, 9)]
    assert take(any_store, "c", "") == taken[2]  # tried again


def test_an_update_that_is_refused_leaves_the_file(any_store: Store) -> None:
    def refuse(before: bytes | None) -> bytes:
        raise LaionPeopleError("refused", f"it has {before!r}")

    with pytest.raises(LaionPeopleError, match=r"it has None"):
        any_store.update("a/b", refuse)
    assert not any_store.exists("a/b")
    assert any_store.update("a/b", lambda before: b"1") == b"1"
    with pytest.raises(LaionPeopleError, match=r"it has b'1'"):
        any_store.update("a/b", refuse)
    assert any_store.read("a/b") == b"1"


def test_an_update_whose_answer_is_lost_is_not_made_twice(s3: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(s3, S3Store)
    put = s3.client.put_object

    def answer_lost(**request: object) -> object:  # as boto3 sees it when it has sent the request again
        put(**request)
        return put(**request)

    monkeypatch.setattr(s3.client, "put_object", answer_lost)
    assert s3.update("a/b", lambda before: (before or b"") + b"1") == b"1" == s3.read("a/b")


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
    with pytest.raises(LaionPeopleError, match=r"^s3://bucket/x: .*\[store-away\]$"):
        store.exists("x")


class CutOff(BaseHTTPRequestHandler):
    """A bucket whose one file comes in pieces: each answer ends after ``most`` bytes, whatever it has announced."""

    data, most = bytes(range(256)) * 1000, 100_000
    announces: Callable[[int, int], int] = max

    def do_GET(self) -> None:
        start, _, end = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        wanted = self.data[int(start) : int(end) + 1 if end else None]
        self.send_response(206 if int(start) or end else 200)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Range", f"bytes {start}-/{len(self.data)}")
        self.send_header("Content-Length", str(type(self).announces(len(wanted), min(len(wanted), self.most))))
        self.end_headers()
        self.wfile.write(wanted[: self.most])

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("ETag", '"1"')
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(params=[max, min], ids=["cut", "short"])
def cut_off(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[CutOff]]:
    handler = type("Handler", (CutOff,), {"announces": staticmethod(request.param)})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    yield handler
    server.shutdown()
    server.server_close()


def test_an_answer_that_is_cut_off_is_gone_on_with(cut_off: type[CutOff]) -> None:
    store = S3Store("bucket", "")
    assert store.read("x") == CutOff.data and store.part("x", 5, 250_000) == CutOff.data[5:250_000]
    assert store.sha256("x") == hashlib.sha256(CutOff.data).hexdigest()
    with store.local("x") as path, store.open("x") as file:
        assert path.read_bytes() == file.read() == CutOff.data
    assert store.update("x", lambda before: before or b"") == CutOff.data


def test_an_answer_that_is_cut_off_at_every_try_is_an_error_that_names_the_file(cut_off: type[CutOff]) -> None:
    cut_off.most = 10
    store = S3Store("bucket", "", attempts=2)
    for read in (
        store.read,
        store.sha256,
        lambda path: store.part(path, 100, 1000),
        lambda path: store.open(path).read(),
    ):
        with pytest.raises(LaionPeopleError, match=r"^s3://bucket/x: .*\[store-away\]$"):
            read("x")


@pytest.mark.parametrize(
    ("bucket", "endpoint", "says"),
    [
        ("nobody-made-this", "", r"^s3://nobody-made-this/a: .*\[no-bucket\]$"),
        ("bucket", "http://127.0.0.1:9", r"^s3://bucket/a: .*\[store-away\]$"),
    ],
)
def test_errors_of_a_bucket_name_the_file_and_no_class_of_boto3(
    s3: Store, monkeypatch: pytest.MonkeyPatch, bucket: str, endpoint: str, says: str
) -> None:
    if endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    store = S3Store(bucket, "", attempts=1)
    for use in (store.read, lambda path: store.write(path, b"1"), store.list):
        with pytest.raises(LaionPeopleError, match=says) as caught:
            use("a")
        assert "Error" not in str(caught.value) and "operation" not in str(caught.value)


def test_a_disk_that_is_full_is_said_with_the_name_of_the_file(any_store: Store) -> None:
    def fill() -> None:
        with any_store.writer("people/a/00000.parquet"):
            raise OSError(errno.ENOSPC, "No space left on device", "/tmp/tmpxyz")

    with pytest.raises(ShortageError, match=r"/people/a/00000\.parquet: .*\[disk-full\]$"):
        fill()


def test_a_folder_that_cannot_be_listed_is_not_taken_for_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path)
    store.write("people/a/00000.parquet", b"1")
    scandir = os.scandir

    def refused(path: str) -> object:  # as root, who may list everything, sees no other way
        if str(path).endswith("/a"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", refused)
    with pytest.raises(LaionPeopleError, match=r"/people/a: Permission denied \[store-away\]$"):
        store.list("people")


@pytest.mark.parametrize("name", ["a#1", "a?x", "a%23", "ä b"])
def test_a_folder_is_the_one_that_was_named(tmp_path: Path, name: str) -> None:
    open_store(str(tmp_path / name)).write("a", b"1")
    assert (tmp_path / name / "a").exists()
    store = open_store(open_store(str(tmp_path / name)).uri)
    assert store.read("a") == b"1"


def test_store_uris(tmp_path: Path) -> None:
    assert isinstance(open_store(f"file://{tmp_path}/a%20b"), LocalStore)
    assert open_store(f"file://{tmp_path}/a%20b").uri == f"file://{tmp_path}/a%20b"
    wrong_ones = (
        "http://x/y",
        "s3:///prefix",
        "",
        "file://host/x",
        "file:/x",
        "File:/x",
        "s3:/bucket/x",
        f"file://{tmp_path}#1",
        f"file://{tmp_path}?x",
        "a\0b",
    )
    for wrong in wrong_ones:
        with pytest.raises(UsageError, match=r"\[bad-setting\]$"):
            open_store(wrong)


def test_edits_of_captions_and_label_at_the_same_time_lose_nothing(any_store: Store) -> None:
    """Also at a bucket: each writes on the condition that nobody else has, and looks again if somebody was faster."""
    sentences, others = ([f"A person {word} {n}." for n in range(5)] for word in ("waits", "stands"))
    names = [f"pose-{n:04d}" for n in range(6)]
    captions.put(any_store, "v0001", dict.fromkeys(names, Entry(tuple(sentences))))
    seen = captions.read(any_store, "v0001")

    def edit(name: str) -> None:
        captions.edit(any_store, "v0001", name, others, reviewed=True, by=name, tag=seen[name].tag)

    def label(name: str) -> None:  # which makes an entry of a cluster that has none, and others again
        captions.put(any_store, "v0001", dict.fromkeys([name, *names], Entry(tuple(sentences[::-1]))), seen)

    with ThreadPoolExecutor(8) as pool:
        done = [pool.submit(edit, name) for name in names] + [pool.submit(label, f"head-000{n}") for n in range(2)]
        errors = [error for error in (future.exception() for future in done) if error]
    after = captions.read(any_store, "v0001")
    assert after.keys() == {*names, "head-0000", "head-0001"}
    refused = {name for name in names if any(name in str(error) for error in errors)}  # as label was faster there
    assert len(errors) == len(refused) and {n for n in names if after[n].by == n} == set(names) - refused
