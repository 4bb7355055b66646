from __future__ import annotations

import asyncio
import errno
import gc
import io
import json
import logging
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from multidict import CIMultiDict
from PIL import Image

from laion_people.engine import writing
from laion_people.engine.audit import audit
from laion_people.engine.runner import Runner
from laion_people.engine.stages import progress, stage_steps
from laion_people.errors import LaionPeopleError, ShortageError
from laion_people.settings import Settings
from laion_people.steps.download import fetch
from laion_people.steps.download import step as download_step
from laion_people.steps.download.owners import opted_out
from laion_people.steps.download.step import REASONS, Download
from laion_people.steps.registry import STEPS
from laion_people.storage.manifest import Manifest
from laion_people.storage.origin import made_elsewhere
from laion_people.storage.store import LocalStore
from laion_people.vision import phash
from laion_people.vision.images import samples
from tests.fakes import FakeModels, image_shard
from tests.hostile_server import UPRIGHT, HostileServer, encoded, hostile_server, picture

LOOPBACK = Settings(allow_private_addresses=True, url_timeout=1.0, url_max_bytes=1_000_000, url_wait=0.0)

FATES = {
    "/plain.jpg": None,
    "/moved": None,
    "/gzipped": None,
    "/missing": "not_found",
    "/gone": "not_found",
    "/forbidden": "http_error",
    "/busy": "too_many_requests",
    "/late": "timeout",
    "/broken": "server_error",
    "/silent": "timeout",
    "/dripping": "timeout",
    "/endless": "too_large",
    "/announced": "too_large",
    "/gzip_bomb": "too_large",
    "/cut": "connection_error",
    "/not_http": "http_error",
    "/hangs_up": "connection_error",
    "/circle": "too_many_redirects",
    "/elsewhere": "bad_url",
    "/plain.jpg?robots=noai": "opted_out",
    "/moved?robots=x": None,
    "/truncated.jpg": "truncated",
    "/page.jpg": "not_an_image",
    "/empty.jpg": "empty",
    "/bomb.png": "decompression_bomb",
    "/banner.png": "too_small",
    "/pixel.png": "too_small",
    "http://127.0.0.1:9/": "connection_refused",
    "http://does-not-exist.invalid/a.jpg": "dns",
    "http://" + "a" * 70 + ".org/": "bad_url",
    "http://[::1/": "bad_url",
    "file:///etc/passwd": "bad_url",
    "not a url": "bad_url",
    " ": "no_url",
}


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with hostile_server() as server:
        yield server


def put_metadata(store: LocalStore, urls: list[str | None], **columns: list) -> None:
    ids = list(range(100, 100 + len(urls)))
    texts = [f"caption {i}" for i in range(len(urls))]
    path = store.root / "metadata/test/part.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"SAMPLE_ID": ids, "URL": pa.array(urls, pa.string()), "TEXT": texts, **columns}), path)


def download(
    store: LocalStore, settings: Settings = LOOPBACK, retry_failed: bool = False, force: bool = False
) -> Manifest:
    steps = {"download": Download(retry_failed)}
    return Runner(store, settings, FakeModels(), steps).run("download", "test/part", force=force)


def rows_of(store: LocalStore, index: int = 0) -> list[dict]:
    return pq.read_table(store.root / f"images/test/part/{index:05d}.parquet").to_pylist()


def pictures(store: LocalStore) -> dict[str, Image.Image]:
    stored = samples(store.root / "images/test/part/00000.tar")
    return {s.fields["url"].rsplit("/", 1)[-1]: Image.open(io.BytesIO(s.image)) for s in stored}


def image_files(store: LocalStore) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (store.root / "images/test/part").iterdir() if p.suffix != ".json"}


def test_every_row_ends_in_time_as_success_or_under_its_own_reason(store: LocalStore, server: HostileServer) -> None:
    urls = [server.url + path if path.startswith("/") else path for path in FATES]
    busy = list(FATES).index("/busy")
    urls[busy] = urls[busy].replace("127.0.0.1", "localhost")  # a host of its own: others need not wait for it
    put_metadata(store, [*urls, None, server.url + "/plain.jpg"], NSFW=[*["UNLIKELY"] * len(urls), None, "NSFW"])
    start = time.monotonic()
    manifest = download(store)
    assert time.monotonic() - start < 6
    rows = rows_of(store)
    assert dict(zip(FATES, (r["reason"] for r in rows), strict=False)) == FATES
    assert [r["reason"] for r in rows[-2:]] == ["no_url", "nsfw"]
    assert manifest.rows_in == len(rows) == manifest.rows + sum(manifest.rejected.values())
    assert set(manifest.rejected) <= set(REASONS)
    for row in rows:
        assert (row["status"] == "success") == (row["reason"] is None) == (row["error_message"] is None)


def test_every_kind_of_file_is_stored_as_right_side_up_rgb(store: LocalStore, server: HostileServer) -> None:
    put_metadata(store, [server.url + path for path in [*UPRIGHT, "/grey.jpg"]])
    download(store)
    stored = pictures(store)
    assert len(stored) == len(UPRIGHT) + 1
    for name, image in stored.items():
        assert (image.mode, image.size) == ("RGB", (120, 160)), name
        above, below = np.array(image.getpixel((60, 20))), np.array(image.getpixel((60, 140)))
        if name != "grey.jpg":
            assert above.argmax() == 0 and below.argmax() == 2, f"{name} is not right-side-up"
    turned = next(r for r in rows_of(store) if r["url"].endswith("turned.jpg"))
    assert (turned["original_width"], turned["original_height"]) == (120, 160)
    assert json.loads(turned["exif"])["Orientation"] == "6"


def test_images_are_shrunk_to_the_shortest_side_and_never_enlarged(store: LocalStore, server: HostileServer) -> None:
    put_metadata(store, [server.url + "/large.jpg", server.url + "/plain.jpg"])
    download(store)
    large, plain = rows_of(store)
    assert (large["width"], large["height"]) == (384, 640) == pictures(store)["large.jpg"].size
    assert (large["original_width"], large["original_height"]) == (900, 1500)
    assert (plain["width"], plain["height"]) == (120, 160)


def test_a_shard_has_img2datasets_layout(store: LocalStore, server: HostileServer) -> None:
    put_metadata(store, [server.url + "/plain.jpg", server.url + "/missing"], WIDTH=[120, None], similarity=[0.3, 0.4])
    download(store)
    good, bad = rows_of(store)
    with tarfile.open(store.root / "images/test/part/00000.tar") as tar:
        assert tar.getnames() == ["000000000.jpg", "000000000.json", "000000000.txt"]
        assert tar.extractfile("000000000.txt").read() == b"caption 0"
        packed = json.loads(tar.extractfile("000000000.json").read())
        assert packed | {"requested_at": good["requested_at"]} == good and "requested_at" not in packed
    assert (good["sample_id"], good["key"], good["WIDTH"], good["similarity"]) == (100, "000000000", 120, 0.3)
    assert (bad["key"], bad["status"], bad["error_message"]) == (
        "000000001",
        "failed_to_download",
        "HTTP 404 Not Found",
    )
    stats = json.loads((store.root / "images/test/part/00000_stats.json").read_bytes())
    assert (stats["count"], stats["successes"], stats["failed_to_download"], stats["failed_to_resize"]) == (2, 1, 1, 0)
    assert stats["status_dict"] == {"success": 1, "not_found": 1} and stats["made_by"] == "laion-people"


def test_the_perceptual_hash_is_that_of_the_stored_picture_but_for_what_jpeg_changes(
    store: LocalStore, server: HostileServer
) -> None:
    put_metadata(store, [server.url + path for path in (*UPRIGHT, "/large.jpg", "/missing")])
    download(store)
    *rows, missing = rows_of(store)
    packed = list(samples(store.root / "images/test/part/00000.tar"))
    assert missing["phash"] is None and len(packed) == len(rows)
    for row, sample in zip(rows, packed, strict=True):
        assert sample.fields["phash"] == row["phash"]
        again = phash.text(np.asarray(Image.open(io.BytesIO(sample.image))))
        assert (int(row["phash"], 16) ^ int(again, 16)).bit_count() <= 3


def test_a_part_is_cut_into_shards_with_keys_that_never_meet(store: LocalStore, server: HostileServer) -> None:
    put_metadata(store, [server.url + "/plain.jpg"] * 5)
    manifest = download(store, Settings(allow_private_addresses=True, shard_rows=2))
    assert [s.rows for s in manifest.shards] == [2, 2, 1]
    assert [r["key"] for i in range(3) for r in rows_of(store, i)] == [
        "000000000", "000000001", "000010000", "000010001", "000020000",
    ]  # fmt: skip


def test_a_part_without_rows_is_done(store: LocalStore) -> None:
    put_metadata(store, [])
    manifest = download(store)
    assert (manifest.rows_in, manifest.rows, [s.index for s in manifest.shards]) == (0, 0, [0])
    assert rows_of(store) == []
    runner = Runner(store, LOOPBACK, FakeModels(), STEPS)
    for step in stage_steps(runner.planner, "test/part", "extract"):
        if step != "subset_a":  # it follows clip_filter
            runner.run(step, "test/part")
    assert audit(runner, "test/part", "extract") == []
    assert progress(runner.planner)["extracted"] == ["test/part"]


def test_a_part_of_more_shards_than_names_is_refused(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    put_metadata(store, ["u"] * 7)
    with pytest.raises(
        LaionPeopleError, match=r"metadata/test/part.parquet has 7 rows by its footer, more than 2 shards"
    ):
        monkeypatch.setattr("laion_people.steps.download.step.MAX_SHARDS", 2)
        download(store, replace(LOOPBACK, shard_rows=3))


def test_a_url_that_was_cut_off_is_not_fetched(store: LocalStore, server: HostileServer) -> None:
    put_metadata(store, [f"{server.url}/plain.jpg?{'x' * 3_000_000}", f"{server.url}/plain.jpg?{'x' * 4000}"])
    assert download(store).rejected == {"bad_url": 1}
    assert [len(row["url"]) < 8001 for row in rows_of(store)] == [True, True]


def test_the_same_answers_give_the_same_bytes_but_for_the_time_in_the_table(
    tmp_path: Path, server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tars, tables = [], []
    for name in "ab":
        monkeypatch.setattr(fetch, "utc_now", lambda name=name: f"asked for by {name}")
        store = LocalStore(tmp_path / name)
        put_metadata(store, [server.url + path for path in ("/missing", "/large.jpg", *UPRIGHT)])
        download(store)
        tars.append((store.root / "images/test/part/00000.tar").read_bytes())
        tables.append(pq.read_table(store.root / "images/test/part/00000.parquet"))
    assert tars[0] == tars[1]
    assert tables[0]["requested_at"] != tables[1]["requested_at"]
    assert tables[0].drop_columns("requested_at") == tables[1].drop_columns("requested_at")


def test_a_slow_row_holds_up_no_other(store: LocalStore, server: HostileServer) -> None:
    put_metadata(store, [server.url + "/silent", *[server.url + "/plain.jpg"] * 60, server.url + "/silent"])
    settings = Settings(allow_private_addresses=True, url_timeout=1.0, url_threads=4)
    start = time.monotonic()
    assert download(store, settings).rejected == {"timeout": 2}
    assert time.monotonic() - start < 4


def test_a_shortage_of_the_machine_fails_the_shard_and_counts_no_row(
    store: LocalStore, server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    put_metadata(store, [server.url + "/plain.jpg"] * 20)
    monkeypatch.setattr(fetch, "_Socket", none_left)
    with quiet_end(), pytest.raises(ShortageError, match="too many open files: raise `ulimit -n`"):
        download(store)
    assert not store.list("images") and not store.list("manifests/download")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_shard_that_is_stopped_leaves_nothing_under_way_and_says_no_more(
    error: BaseException, store: LocalStore, server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    put_metadata(store, [server.url + path for path in ("/plain.jpg", "/silent") * 40])
    monkeypatch.setattr(writing, "_add_files", fail)
    threads = threading.active_count()
    with quiet_end(), pytest.raises((type(error), ShortageError)):
        download(store, Settings(allow_private_addresses=True, url_timeout=60.0, url_threads=8))
    assert threading.active_count() <= threads + 8  # threads of the server, which answer /silent


@contextmanager
def quiet_end() -> Iterator[None]:
    """Fails the test if something is still under way at the end of the block, and complains when collected."""
    complaints: list[object] = []
    heard = sys.unraisablehook
    handler = logging.Handler()
    handler.emit = complaints.append  # type: ignore[method-assign]
    sys.unraisablehook = complaints.append
    logging.getLogger("asyncio").addHandler(handler)
    try:
        yield
        gc.collect()
    finally:
        sys.unraisablehook = heard
        logging.getLogger("asyncio").removeHandler(handler)
    assert not complaints, [str(c) for c in complaints]


def test_private_addresses_are_refused_unless_allowed(store: LocalStore, server: HostileServer) -> None:
    port = server.server_port
    hosts = ("127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "127.1", "0x7f.1", "0", "10.0.0.1")
    put_metadata(store, [f"http://{host}:{port}/plain.jpg" for host in hosts])
    download(store, Settings(url_timeout=2.0))
    assert [r["reason"] for r in rows_of(store)] == ["private_address"] * len(hosts)
    assert not server.hits


def test_a_redirect_into_a_private_network_is_refused(server: HostileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "is_public", lambda address: address == "127.0.0.1")

    async def get(target: str) -> bytes:
        async with fetch.Fetcher(Settings()) as fetcher:
            with fetcher.visit() as visit:
                return await fetcher.get(f"{server.url}/x?to={target}", visit)

    assert asyncio.run(get(f"{server.url}/plain.jpg")) == UPRIGHT["/plain.jpg"]
    for target in ("http://169.254.169.254/latest/meta-data", f"http://127.0.0.2:{server.server_port}/plain.jpg"):
        with pytest.raises(fetch.FetchError) as caught:
            asyncio.run(get(target))
        assert caught.value.reason == "private_address"


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "224.0.0.1",
            "0.0.0.0",
        ),
        *("255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fec0::1", "ff02::1", "ff0e::1"),
        *(
            "::10.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "2002:a00:1::",
            "127.1",
            "2130706433",
            "localhost",
        ),
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not fetch.is_public(address)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_addresses_that_are_public(address: str) -> None:
    assert fetch.is_public(address)


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        ([("X-Robots-Tag", "noai")], True),
        ([("X-Robots-Tag", "noindex, NoImageAI")], True),
        ([("X-Robots-Tag", "otherbot: noai, noindex")], True),
        ([("X-Robots-Tag", "noindex"), ("x-robots-tag", "noml")], True),
        ([("TDM-Reservation", "1")], True),
        ([("X-Robots-Tag", "noindex, nofollow"), ("TDM-Reservation", "0")], True),
        ([("X-Robots-Tag", "nofollow"), ("x-robots-tag", "NoImageIndex")], True),
        ([("X-Robots-Tag", "unavailable_after: Fri, 25 Jun 2030 15:00:00 PST, noindex")], True),
        ([("X-Robots-Tag", "none")], True),
        ([("X-Robots-Tag", "*: noindex")], True),
        ([("X-Robots-Tag", "googlebot: nofollow, laion-people: nosnippet, noindex")], True),
        ([("X-Robots-Tag", "googlebot: noindex, nofollow")], False),
        ([("X-Robots-Tag", "laion-people: nofollow, googlebot: noindex")], False),
        ([("X-Robots-Tag", "noindexifembedded, max-image-preview: none")], False),
        ([("X-Robots-Tag", " " * 60_000 + ":,"), ("TDM-Reservation", "0")], False),
        ([("X-Robots-Tag", "unavailable_after: 25 Jun 2030 15:00:00 PST")], False),
        ([], False),
    ],
)
def test_owners_can_opt_out_by_headers(headers: list[tuple[str, str]], refused: bool) -> None:
    given = CIMultiDict(headers)
    assert opted_out(given.getall("X-Robots-Tag", ()), given.get("TDM-Reservation", "")) is refused


def test_opt_out_can_be_set_aside(store: LocalStore, server: HostileServer) -> None:
    put_metadata(store, [server.url + "/plain.jpg?robots=noai"])
    assert download(store, Settings(allow_private_addresses=True, respect_opt_out=False)).rows == 1


def test_retry_failed_fetches_only_rows_that_failed_for_a_passing_reason(
    store: LocalStore, server: HostileServer
) -> None:
    put_metadata(store, [server.url + p for p in ("/large.jpg", "/flaky", "/missing", "/plain.jpg", "/broken")])
    download(store)
    before, hits = pictures(store)["large.jpg"].tobytes(), dict(server.hits)
    server.recovered = True
    assert download(store).rejected == {"server_error": 2, "not_found": 1}  # unchanged: nothing is tried again
    assert dict(server.hits) == hits
    manifest = download(store, retry_failed=True)
    assert (manifest.rows_in, manifest.rows, manifest.rejected) == (5, 3, {"not_found": 1, "server_error": 1})
    assert dict(server.hits) == hits | {"/flaky": 2, "/broken": 2}
    assert [r["reason"] for r in rows_of(store)] == [None, None, "not_found", None, "server_error"]
    assert pictures(store)["large.jpg"].tobytes() == before


def test_a_retried_shard_equals_one_that_never_failed(
    tmp_path: Path, server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "utc_now", lambda: "2026-01-31T12:00:00Z")
    retried, straight = LocalStore(tmp_path / "a"), LocalStore(tmp_path / "b")
    for store in (retried, straight):
        put_metadata(store, [server.url + p for p in ("/flaky", "/plain.jpg", "/missing")], punsafe=[0.1, 0.2, 0.3])
    download(retried)
    server.recovered = True
    download(retried, retry_failed=True)
    download(straight)
    assert image_files(retried) == image_files(straight)


def test_retry_failed_leaves_a_shard_without_passing_failures_alone(store: LocalStore, server: HostileServer) -> None:
    put_metadata(store, [server.url + "/plain.jpg", server.url + "/missing"])
    first = download(store)
    assert download(store, retry_failed=True) == first
    assert server.hits == {"/plain.jpg": 1, "/missing": 1}


def test_a_longer_time_limit_is_no_reason_to_fetch_all_again_but_another_size_is(
    store: LocalStore, server: HostileServer
) -> None:
    put_metadata(store, [server.url + "/plain.jpg"])
    download(store, Settings(allow_private_addresses=True))
    download(store, Settings(allow_private_addresses=True, url_timeout=30))
    assert server.hits["/plain.jpg"] == 1
    download(store, Settings(allow_private_addresses=True, image_size=64))
    assert server.hits["/plain.jpg"] == 2 and rows_of(store)[0]["width"] == 64


def test_shards_made_elsewhere_are_never_overwritten(store: LocalStore, server: HostileServer) -> None:
    put_metadata(store, [server.url + "/plain.jpg"])
    image_shard(store, "test/part", 0)
    store.write("images/test/part/00000_stats.json", b'{"count": 12, "successes": 12}')
    before = image_files(store)
    for force in (False, True):
        with pytest.raises(LaionPeopleError, match="was made elsewhere"):
            download(store, force=force)
    assert image_files(store) == before and not server.hits
    assert made_elsewhere(store, "test/part") and not made_elsewhere(store, "test/other")


def test_what_is_stored_is_never_squeezed_and_says_the_size_that_is_shown() -> None:
    for number, orientation in enumerate((0, 1, 6, 8, 9)):
        exif = Image.Exif()
        exif[0x0112] = orientation
        exif[0x010F] = "maker"
        for options in ({"exif": exif}, {"exif": exif, "progressive": True}):
            outcome = stored(encoded(picture(900, 600), "JPEG", **options))
            size = (600, 900) if orientation in (6, 8) else (900, 600)
            assert (outcome["original_width"], outcome["original_height"]) == size, number
            assert (outcome["width"] > outcome["height"]) == (size[0] > size[1])
            assert json.loads(outcome["exif"])["Make"] == "maker"


@pytest.mark.parametrize("shortage", [MemoryError(), OSError(errno.EMFILE, "too many open files")])
def test_a_shortage_while_decoding_fails_the_shard_and_loses_no_row(
    store: LocalStore, server: HostileServer, monkeypatch: pytest.MonkeyPatch, shortage: Exception
) -> None:
    def decode(*_: object, **__: object) -> None:
        raise shortage

    put_metadata(store, [server.url + "/plain.jpg"])
    with monkeypatch.context() as patch:
        patch.setattr("simplejpeg.decode_jpeg", decode)
        with pytest.raises(ShortageError):
            download(store)
    assert download(store).rows == 1


@pytest.mark.parametrize("options", [{"format": "JPEG"}, {"format": "JPEG", "progressive": True}, {"format": "WEBP"}])
@pytest.mark.parametrize("size", [(640, 480), (1000, 1403), (1500, 900), (300, 200)])
def test_what_is_stored_is_the_whole_image_averaged_by_area(size: tuple[int, int], options: dict) -> None:
    body = encoded(picture(*size), quality=90, **options)
    whole = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
    scale = min(1.0, LOOPBACK.image_size / min(size))
    if scale < 1:
        whole = cv2.resize(whole, (round(size[0] * scale), round(size[1] * scale)), interpolation=cv2.INTER_AREA)
    expected = cv2.imencode(".jpg", whole, [cv2.IMWRITE_JPEG_QUALITY, LOOPBACK.jpeg_quality])[1].tobytes()
    got, wanted = (np.asarray(Image.open(io.BytesIO(jpg)), np.int16) for jpg in (stored(body)["jpg"], expected))
    assert got.shape == wanted.shape and np.abs(got - wanted).max() <= 3 and np.abs(got - wanted).mean() < 0.1


def stored(body: bytes) -> dict:
    return download_step._store_image(body, LOOPBACK)
