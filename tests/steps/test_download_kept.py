"""A shard of pictures that is made again: whole rows stay, byte for byte, even if the web has lost everything."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from laion_people.engine.audit import audit
from laion_people.engine.runner import Runner
from laion_people.engine.stages import progress
from laion_people.errors import LaionPeopleError, UsageError
from laion_people.settings import Settings
from laion_people.steps.download.fetch import Fetcher, FetchError
from laion_people.steps.download.step import Download
from laion_people.steps.registry import STEPS
from laion_people.storage.manifest import Manifest
from laion_people.storage.origin import foreign_files, made_elsewhere
from laion_people.storage.store import LocalStore
from tests.fakes import FakeModels, image_shard, jpeg

PARTITION = "test/part"
IMAGES, RECEIPTS = f"images/{PARTITION}", f"manifests/download/{PARTITION}"
SETTINGS: dict[str, Any] = {
    "allow_private_addresses": True,
    "shard_rows": 4,
    "image_size": 60,
    "url_max_bytes": 1_000_000,
}
Harm = Callable[[LocalStore], object]


class Web:
    """Answers in place of the web: pictures by URL, 404 for missing ones; ``asked`` lists all requested URLs."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.pictures = {f"http://x.org/{i}.jpg": jpeg(20 + 25 * i, (120, 80)) for i in range(8)}
        del self.pictures["http://x.org/2.jpg"]

    async def get(self, url: str) -> bytes:
        self.asked.append(url)
        if url not in self.pictures:
            raise FetchError("timeout" if "late" in url else "not_found", "gone")
        return self.pictures[url]


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Web:
    web = Web()
    monkeypatch.setattr(Fetcher, "get", lambda self, url, visit: web.get(url))
    return web


@pytest.fixture
def made(store: LocalStore, web: Web) -> LocalStore:
    """Two shards of four rows, all downloaded but rows 2 (404) and 5 (timeout); then the web loses everything."""
    urls = [f"http://x.org/{'late' if i == 5 else i}.jpg" for i in range(8)]
    path = store.root / "metadata/test/part.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table({"URL": urls, "TEXT": [f"caption {i}" for i in range(8)], "punsafe": [0.1] * 8}), path)
    download(store)
    web.asked, web.pictures = [], {}
    return store


def download(
    store: LocalStore, retry_failed: bool = False, force: bool = False, shards: list[int] | None = None, **changed: Any
) -> Manifest:
    runner = Runner(store, Settings(**SETTINGS | changed), FakeModels(), {"download": Download(retry_failed)})
    return runner.run("download", PARTITION, shards, force)


def files(store: LocalStore) -> dict[str, bytes]:
    return {path: store.read(path) for path in store.list("images") if not path.endswith("_stats.json")}


def flip(store: LocalStore, path: str, place: int) -> None:
    data = bytearray(store.read(path))
    data[place] ^= 0x55
    store.write(path, bytes(data))


def cut(store: LocalStore, path: str, share: float) -> None:
    store.write(path, store.read(path)[: int(store.size(path) * share)])


def as_of_version_0_1(store: LocalStore) -> None:
    """Removes the digests from the shard's files, and the shard's manifest."""
    table = pq.read_table(store.root / f"{IMAGES}/00000.parquet").drop_columns("row_sha256")
    pq.write_table(table, store.root / f"{IMAGES}/00000.parquet")
    with tarfile.open(store.root / f"{IMAGES}/00000.tar") as tar:
        members = [(m, tar.extractfile(m).read()) for m in tar]  # type: ignore[union-attr]
    with tarfile.open(store.root / f"{IMAGES}/00000.tar", "w") as tar:
        for member, data in members:
            if member.name.endswith("json"):
                data = json.dumps({k: v for k, v in json.loads(data).items() if k != "row_sha256"}).encode()
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    store.write(f"{RECEIPTS}/00000.json", b"{")


@pytest.mark.parametrize(
    "harm",
    [
        lambda s: s.delete(f"{RECEIPTS}/00000.json"),
        lambda s: cut(s, f"{RECEIPTS}/00000.json", 0.5),
        lambda s: s.write(
            f"{RECEIPTS}/00000.json", s.read(f"{RECEIPTS}/00000.json").replace(b'"bytes": 1', b'"bytes": 2')
        ),
        lambda s: s.delete(f"{IMAGES}/00000_stats.json"),
        lambda s: s.write(f"{IMAGES}/00000_stats.json", b"{"),
        lambda s: s.write(f"{IMAGES}/00000_stats.json", s.read(f"{IMAGES}/00000_stats.json").replace(b"made", b"mate")),
        lambda s: (s.delete(f"{RECEIPTS}/00000.json"), s.delete(f"{IMAGES}/00000_stats.json")),
        lambda s: (s.delete(f"{RECEIPTS}/00000.json"), s.delete(f"manifests/download/{PARTITION}.json")),
        as_of_version_0_1,
    ],
)
def test_a_damaged_record_costs_no_request_and_no_byte(made: LocalStore, web: Web, harm: Harm) -> None:
    before = files(made)
    harm(made)
    manifest = download(made)
    assert not web.asked and manifest.rows == 6 and manifest.rejected == {"not_found": 1, "timeout": 1}
    assert files(made) == before
    assert audit_faults(made) == []


def audit_faults(store: LocalStore) -> list[str]:
    runner = Runner(store, Settings(**SETTINGS), FakeModels(), STEPS)
    return [fault for fault in audit(runner, PARTITION, "extract") if fault.startswith("download")]


@pytest.mark.parametrize("suffix", ["tar", "parquet"])
@pytest.mark.parametrize("seed", range(12))
def test_a_damaged_file_costs_the_rows_that_it_hits_and_no_other(
    made: LocalStore, web: Web, suffix: str, seed: int
) -> None:
    path = f"{IMAGES}/00000.{suffix}"
    before = files(made)
    flip(made, path, seed * (made.size(path) - 1) // 11)
    download(made)
    lost = {url for url in web.asked if "2.jpg" not in url}  # it failed before, too
    assert len(lost) <= (1 if suffix == "tar" else 0)
    if not lost and "http://x.org/2.jpg" not in web.asked:
        assert files(made) == before


@pytest.mark.parametrize("harm", [lambda s, p: cut(s, p, 0.35), lambda s, p: flip(s, p, 0)])
def test_pictures_of_a_broken_tar_are_kept_as_far_as_they_are_whole(
    made: LocalStore, web: Web, harm: Callable[[LocalStore, str], object]
) -> None:
    harm(made, f"{IMAGES}/00000.tar")
    assert download(made).rows >= 4
    assert 0 < len(web.asked) < 3 and audit_faults(made) == []


def test_a_shard_never_shrinks_to_nothing_unless_it_is_forced(made: LocalStore, web: Web) -> None:
    before = files(made)
    with pytest.raises(LaionPeopleError, match="none of the 3 pictures"):
        download(made, image_size=40)
    assert files(made) == before
    assert download(made).rows == 6  # the manifests still hold
    for path in (f"{IMAGES}/00000.tar", f"{IMAGES}/00000.parquet"):
        made.delete(path)
    with pytest.raises(LaionPeopleError, match="none of the 3 pictures"):
        download(made)
    assert download(made, force=True).rows == 0


@pytest.mark.parametrize(
    ("changed", "asked"),
    [
        ({"url_max_bytes": 2_000_000}, []),
        ({"image_max_pixels": 200_000_000}, []),
        ({"image_min_size": 16}, []),
        ({"respect_opt_out": False}, []),
        ({"nsfw_filter": False}, []),
        ({"image_min_size": 90}, [0, 1, 3]),
        ({"image_size": 70}, [0, 1, 3]),
        ({"jpeg_quality": 80}, [0, 1, 3]),
        ({"allow_private_addresses": False}, [0, 1, 3]),
    ],
)
def test_another_setting_fetches_only_what_it_can_change(
    made: LocalStore, web: Web, changed: dict[str, Any], asked: list[int]
) -> None:
    before = files(made)
    if asked:
        with pytest.raises(LaionPeopleError, match="none of the"):
            download(made, shards=[0], **changed)
    else:
        download(made, shards=[0], **changed)
    assert web.asked == [f"http://x.org/{i}.jpg" for i in asked]
    assert files(made) == before


def test_a_picture_smaller_than_both_sizes_stays(made: LocalStore, web: Web) -> None:
    web.pictures = Web().pictures
    small = download(made, force=True, image_size=100)
    web.asked = []
    assert download(made, image_size=200).rows == small.rows and not web.asked


def test_what_the_filter_flags_now_leaves(made: LocalStore, web: Web) -> None:
    path = made.root / "metadata/test/part.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(2, "punsafe", pa.array([0.9] * 4 + [0.1] * 4)), path)
    assert download(made).rejected == {"nsfw": 4, "timeout": 1} and not web.asked


def test_retry_failed_keeps_every_picture_or_refuses(made: LocalStore, web: Web) -> None:
    before = files(made)
    with pytest.raises(UsageError, match="was made with image_size=60"):
        download(made, retry_failed=True, image_size=40)
    with pytest.raises(UsageError, match="has shards of 4 rows"):
        download(made, retry_failed=True, shard_rows=2, shards=[0])
    assert files(made) == before
    web.asked, web.pictures = [], {"http://x.org/late.jpg": jpeg(9)}
    assert download(made, retry_failed=True, url_max_bytes=2_000_000).rows == 7
    assert web.asked == ["http://x.org/late.jpg"]


def test_only_force_deletes_shards_beyond_the_plan(made: LocalStore, web: Web) -> None:
    path = made.root / "metadata/test/part.parquet"
    pq.write_table(pq.read_table(path).slice(0, 4), path)
    download(made)
    assert made.exists(f"{IMAGES}/00001.tar")
    web.pictures = Web().pictures
    download(made, force=True)
    assert not made.exists(f"{IMAGES}/00001.tar")


def test_pictures_that_were_lost_with_the_record_of_them_are_told(
    made: LocalStore, web: Web, caplog: pytest.LogCaptureFixture
) -> None:
    cut(made, f"{IMAGES}/00000.tar", 0.35)
    made.delete(f"{IMAGES}/00000.parquet")
    assert 4 <= download(made).rows < 6
    assert re.search(r"part/00000: [12] pictures are left of 3", caplog.text)


def killed_after(monkeypatch: pytest.MonkeyPatch, written: int, store: LocalStore, **options: Any) -> None:
    """Downloads, and is killed after ``written`` files are in place: stats, tar, table, manifest."""
    puts = iter([True] * written)
    put = LocalStore.put

    def killed(self: LocalStore, local: Path, path: str) -> Path:
        if not next(puts, False):
            raise KeyboardInterrupt
        return put(self, local, path)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(LocalStore, "put", killed)
        download(store, **options)


@pytest.mark.parametrize("written", [0, 1, 2, 3])
@pytest.mark.parametrize("first", [True, False])
def test_a_process_killed_between_two_files_is_gone_on_with(
    made: LocalStore, web: Web, monkeypatch: pytest.MonkeyPatch, written: int, first: bool
) -> None:
    """For a new shard, and for one that existed before. The files are put in place one by one."""
    web.pictures = Web().pictures
    undisturbed = files(made)
    for path in (p for p in [*made.list("images"), *made.list("manifests")] if first):
        made.delete(path)
    killed_after(monkeypatch, written, made, force=True)
    assert list(foreign_files(made, PARTITION)) == [] and not made_elsewhere(made, PARTITION)
    download(made)
    assert files(made) == undisturbed and audit_faults(made) == []


@pytest.mark.parametrize("written", [0, 1, 2, 3])
@pytest.mark.parametrize("changed", [{"image_size": 40}, {"jpeg_quality": 50}])
def test_a_process_killed_under_other_settings_leaves_no_picture_of_them(
    made: LocalStore, web: Web, monkeypatch: pytest.MonkeyPatch, written: int, changed: dict[str, Any]
) -> None:
    """Its files are newer than the manifest. Files that it has not replaced yet are kept."""
    web.pictures = Web().pictures
    undisturbed = files(made)
    killed_after(monkeypatch, written, made, shards=[0], **changed)
    web.asked = []
    download(made, shards=[0])
    assert files(made) == undisturbed and bool(web.asked) == (written >= 2)


STATS = b'{"count": 12, "successes": 12}'
FORMATS: dict[str, dict[str, bytes]] = {
    "webdataset": {"00000.tar": b"tar", "00000.parquet": b"table", "00000_stats.json": STATS},
    "webdataset, no stats": {"00000.tar": b"tar"},
    "webdataset, cut stats": {"00000.tar": b"tar", "00000_stats.json": STATS[:9]},
    "webdataset, stats of no object": {"00000.tar": b"tar", "00000_stats.json": b"[1]"},
    "parquet": {"00000.parquet": b"pictures", "00000_stats.json": STATS},
    "parquet, no stats": {"00003.parquet": b"pictures"},
    "files": {"00000/000000000.jpg": b"jpg", "00000/000000000.json": b"{}", "00000.parquet": b"table"},
    "files alone": {"00000/000000000.WEBP": b"webp"},
    "tfrecord": {"00000.tfrecord": b"records", "00000.parquet": b"table", "00000_stats.json": STATS},
    "a stray tar": {"backup.tar": b"tar"},
    "packed": {"00000.tar.gz": b"gz"},
}


@pytest.fixture(params=FORMATS)
def foreign(request: pytest.FixtureRequest, store: LocalStore, web: Web) -> Iterator[LocalStore]:
    path = store.root / "metadata/test/part.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table({"URL": ["http://x.org/0.jpg"], "TEXT": ["a"]}), path)
    for name, data in FORMATS[request.param].items():
        store.write(f"{IMAGES}/{name}", data)
    yield store
    for name, data in FORMATS[request.param].items():
        assert store.read(f"{IMAGES}/{name}") == data
    assert store.list("manifests") == [] and not web.asked


@pytest.mark.parametrize("options", [{}, {"force": True}, {"retry_failed": True}, {"shards": [0]}])
def test_pictures_of_others_are_refused_whatever_their_format(foreign: LocalStore, options: dict[str, Any]) -> None:
    with pytest.raises(LaionPeopleError, match=rf"{IMAGES} was made elsewhere \("):
        download(foreign, **options)
    state = progress(Runner(foreign, Settings(), FakeModels(), STEPS).planner)
    assert state["pending"] == [PARTITION]


@pytest.mark.parametrize(
    "name", ["backup.tar", "00007.tar", "00002.parquet", "00000/000000000.jpg", "00009_stats.json"]
)
def test_a_file_of_others_among_our_shards_is_named(made: LocalStore, name: str) -> None:
    made.write(f"{IMAGES}/{name}", b"x")
    made.write(f"{IMAGES}/._00000.tar", b"what a Mac leaves")
    assert not made_elsewhere(made, PARTITION)
    with pytest.raises(LaionPeopleError, match=f"^{IMAGES}/{name} lies among"):
        download(made)
    assert [fault for fault in audit_faults(made) if name in fault]
    made.delete(f"{IMAGES}/{name}")
    assert audit_faults(made) == []


@pytest.mark.parametrize("force", [False, True])
def test_a_shard_that_another_program_put_over_ours_stays(made: LocalStore, force: bool) -> None:
    image_shard(made, PARTITION, 0)
    made.write(f"{IMAGES}/00000.parquet", b"table")
    made.write(f"{IMAGES}/00000_stats.json", STATS)
    before = files(made)
    with pytest.raises(LaionPeopleError, match="says that another program made the shard"):
        download(made, force=force)
    assert files(made) == before
