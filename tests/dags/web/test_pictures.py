from __future__ import annotations

import asyncio
import io
import random
import tarfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from fastapi import FastAPI, Response
from fastapi.testclient import TestClient
from starlette.requests import ClientDisconnect

from laion_people.storage.store import LocalStore
from laion_people.vision.images import TarImages
from laion_people.web import pictures
from laion_people.web.pictures import TarIndex
from tests.dags.web.browsing import PARTITION, make_browsed
from tests.dags.web.conftest import SignedIn
from tests.synthetic_store import VERSION

JPEG, PNG, GIF = b"\xff\xd8\xff\xe0 a jpeg", b"\x89PNG\r\n\x1a\n a png", b"GIF89a a gif"
WEBP = b"RIFF\x10\0\0\0WEBPVP8 "
TAR = "images/demo/00000/00000.tar"
ADDRESS = "/laion-people/images/stored/demo/00000/0/"


def write_tar(store: LocalStore, files: Sequence[tuple[str, bytes]], format: int = tarfile.GNU_FORMAT) -> Path:
    with store.writer(TAR) as local, tarfile.open(local, "w", format=format) as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return store.root / TAR


def test_a_picture_is_sent_as_it_is_stored(client: TestClient, store: LocalStore) -> None:
    make_browsed(store)
    key = TarImages(store.root / TAR).keys()[5]
    answer = client.get(ADDRESS + key)
    assert answer.status_code == 200
    assert answer.content == TarImages(store.root / TAR).read(key)
    assert answer.headers["Content-Type"] == "image/jpeg"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert answer.headers["Cache-Control"].startswith("private")


def test_composed_images_and_contact_sheets_are_sent(client: TestClient, store: LocalStore) -> None:
    make_browsed(store)
    for path in (f"composed/{VERSION}/{PARTITION}/0/000000002", f"sheets/{VERSION}/pose-0001"):
        answer = client.get(f"/laion-people/images/{path}")
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, "image/jpeg")


def test_large_pictures_are_read_in_pieces(
    client: TestClient, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture, read = JPEG + random.Random(3).randbytes(3 * pictures.PIECE), []
    write_tar(store, [("a.jpg", picture), ("b.jpg", JPEG)])
    part = LocalStore.part

    def counted(self: LocalStore, path: str, start: int, stop: int) -> bytes:
        read.append(stop - start)
        return part(self, path, start, stop)

    monkeypatch.setattr(LocalStore, "part", counted)
    answer = client.get(ADDRESS + "a", headers={"Accept-Encoding": "identity"})
    assert answer.content == picture and int(answer.headers["Content-Length"]) == len(picture)
    assert max(read) <= pictures.PIECE


def test_who_does_not_read_a_picture_is_given_up(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_tar(store, [("a.jpg", JPEG + bytes(40 * pictures.PIECE))])
    monkeypatch.setattr(pictures, "READER_SECONDS", 0.05)
    answer = pictures._picture(TAR, "a", "")
    sent = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)
        if len(sent) == 3:  # the window of the connection is full
            await asyncio.sleep(60)

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "asgi": {"spec_version": "2.4"}}
    with pytest.raises(ClientDisconnect):
        asyncio.run(answer(scope, receive, send))
    assert sum(len(message.get("body", b"")) for message in sent) == 2 * pictures.PIECE < file.stat().st_size


def test_pictures_are_for_people_who_are_signed_in(anonymous: TestClient, store: LocalStore) -> None:
    make_browsed(store)
    assert anonymous.get(ADDRESS + "000000001").status_code == 401
    assert anonymous.get(f"/laion-people/images/sheets/{VERSION}/pose-0001").status_code == 401


def test_a_browser_is_not_sent_what_it_has(client: TestClient, store: LocalStore) -> None:
    write_tar(store, [("a.jpg", JPEG), ("b.jpg", JPEG)])
    tag = client.get(ADDRESS + "a").headers["ETag"]
    again = client.get(ADDRESS + "a", headers={"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get(ADDRESS + "b", headers={"If-None-Match": tag}).status_code == 200


def test_a_shard_that_was_made_again_gives_its_new_pictures(client: TestClient, store: LocalStore) -> None:
    write_tar(store, [("a.jpg", JPEG), ("b.jpg", JPEG)])
    tag = client.get(ADDRESS + "b").headers["ETag"]
    write_tar(store, [("b.png", PNG + b"!" * 2000), ("a.jpg", JPEG)])
    answer = client.get(ADDRESS + "b", headers={"If-None-Match": tag})
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "image/png")
    assert answer.content == PNG + b"!" * 2000


@pytest.mark.parametrize(
    ("data", "kind"), [(JPEG, "image/jpeg"), (PNG, "image/png"), (GIF, "image/gif"), (WEBP, "image/webp")]
)
def test_the_first_bytes_and_not_the_name_tell_the_type(
    client: TestClient, store: LocalStore, data: bytes, kind: str
) -> None:
    write_tar(store, [("a.jpg", data)])
    assert client.get(ADDRESS + "a").headers["Content-Type"] == kind


@pytest.mark.parametrize(
    "data", [b"<html><script>alert(1)</script>", b"<svg onload='alert(1)'/>", b"", b"RIFF1234WAVE"]
)
def test_what_is_no_picture_is_not_sent(client: TestClient, store: LocalStore, data: bytes) -> None:
    write_tar(store, [("a.jpg", data)])
    answer = client.get(ADDRESS + "a")
    assert answer.status_code == 415
    assert b"alert(1)" not in answer.content


@pytest.mark.parametrize("key", ["nobody", "..%2f..%2fsecret", "%00", "a/../../secret", "a.jpg", "\N{SNOWMAN}", "%ff"])
def test_a_key_that_the_tar_has_not_is_not_found(client: TestClient, store: LocalStore, key: str) -> None:
    write_tar(store, [("a.jpg", JPEG)])
    (store.root / "secret").write_bytes(JPEG)
    assert client.get(ADDRESS + key).status_code == 404


@pytest.mark.parametrize(
    "address", ["stored/demo/00000/7/a", "stored/../../0/a", "sheets/v0001/pose-9999", "sheets/v1/x"]
)
def test_a_shard_or_sheet_that_is_not_there_is_not_found(client: TestClient, address: str) -> None:
    assert client.get(f"/laion-people/images/{address}").status_code in (404, 422)


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("seed", range(5))
def test_tars_of_others_give_the_pictures_that_the_steps_see(store: LocalStore, format: int, seed: int) -> None:
    """Keys in any order, in folders, with long or foreign names, other files between, several images of one sample.

    Some images are hard links to earlier ones.
    """
    rng = random.Random(seed)
    long = "" if format == tarfile.USTAR_FORMAT else "long" * 60
    names = [f"{rng.choice(('', 'd/', './', f'{long}/'))}{long[: rng.randrange(241)]}k{i}é" for i in range(40)]
    rng.shuffle(names)
    files = [
        (f"{name}.{suffix}", JPEG + rng.randbytes(rng.randrange(2000)))
        for name in names
        for suffix in rng.sample(
            ["jpg", "txt", "JSON", "PNG", "mask.png", "webp", "seg.jpg", "JPG"], rng.randrange(1, 8)
        )
    ]
    path = write_tar(store, files, format)
    with tarfile.open(path, "a", format=format) as tar:
        for i, (name, _) in enumerate(files[::7]):
            link = tarfile.TarInfo(f"link{i}.jpg")
            link.type, link.linkname = tarfile.LNKTYPE, name
            tar.addfile(link)
    steps, index = TarImages(path), TarIndex(store, TAR)
    keys = steps.keys()
    assert any(key.startswith("link") for key in keys)
    rng.shuffle(keys)
    for key in keys:
        start, size = index.find(key) or (0, 0)
        assert store.part(TAR, start, start + size) == steps.read(key)
    assert index.find("another") is None


@pytest.mark.parametrize("name", ["a b", "a?b#c%", "\\", "a\n\x1b[2J", "a\udcff", "\N{SNOWMAN}", "\u202ea"])
def test_hostile_keys_are_found_by_their_addresses(client: TestClient, store: LocalStore, name: str) -> None:
    (key,) = TarImages(write_tar(store, [(f"x/../{name}.jpg", JPEG)])).keys()
    assert key.isprintable()
    assert client.get(ADDRESS + quote(key)).content == JPEG


def test_a_walk_that_broke_off_goes_on(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tar(store, [(f"{i}.jpg", JPEG) for i in range(4)])
    index = TarIndex(store, TAR)
    for at in range(512, 4 * 1024, 512):
        data = store.read(TAR)[:at]
        with monkeypatch.context() as patch, pytest.raises(OSError, match="gone"):
            patch.setattr(store, "open", lambda *_, data=data: Breaks(data))
            index.find("nobody")
    assert all(index.find(str(i)) for i in range(4))


class Breaks(io.BytesIO):
    """A file of a store that stops answering."""

    def read(self, size: int | None = -1) -> bytes:
        if not (data := super().read(size)):
            raise OSError("gone")
        return data


@pytest.mark.parametrize("cut", [700, 1600, 2100])
def test_of_a_tar_that_is_cut_off_the_whole_pictures_are_found(store: LocalStore, cut: int) -> None:
    path = write_tar(store, [(f"{i}.jpg", JPEG * 30) for i in range(9)])
    path.write_bytes(path.read_bytes()[:cut])
    index = TarIndex(store, TAR)
    whole = [i for i in range(9) if 1024 * i + 512 + len(JPEG) * 30 <= cut]
    assert [i for i in range(9) if index.find(str(i))] == whole


def test_headers_are_not_believed_beyond_the_file(store: LocalStore) -> None:
    def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
        member = tarfile.TarInfo(name)
        member.size, member.type = size, kind
        return member.tobuf(tarfile.GNU_FORMAT)

    hostile = (
        header("a.jpg", 2**40),
        header("a.jpg", -512),
        header("././@LongLink", 2**33, tarfile.GNUTYPE_LONGNAME),
        header("././@LongLink", 2**20, tarfile.GNUTYPE_LONGNAME) + b"x" * 2**20 + header("a.jpg", 0),
        b"\xff" * 512,
    )
    for data in hostile:
        store.write(TAR, data + bytes(1024))
        assert TarIndex(store, TAR).find("a") is None


def test_a_walk_ends_after_so_many_headers(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders and long names count too, of which a tar may have nothing else."""
    monkeypatch.setattr(pictures, "MOST_HEADERS", 50)
    folder = tarfile.TarInfo("folder")
    folder.type = tarfile.DIRTYPE
    path = write_tar(store, [("a.jpg", JPEG)])
    path.write_bytes(folder.tobuf() * 49 + path.read_bytes())
    assert TarIndex(store, TAR).find("a")
    path.write_bytes(folder.tobuf() + path.read_bytes())
    assert TarIndex(store, TAR).find("a") is None


def test_keys_longer_than_names_of_files_are_not_kept(store: LocalStore) -> None:
    write_tar(store, [(f"{'x' * 256}.jpg", JPEG), (f"{'y' * 255}.jpg", JPEG)])
    index = TarIndex(store, TAR)
    assert index.find("x" * 256) is None
    assert index.find("y" * 255)
    assert len(index._places) == 1


def test_what_a_browser_has_is_not_looked_for(
    client: TestClient, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tar(store, [("a.jpg", JPEG)])
    tag = client.get(ADDRESS + "a").headers["ETag"]
    monkeypatch.setattr(pictures, "_pictures", None)  # as in another process, which would walk the tar
    assert client.get(ADDRESS + "a", headers={"If-None-Match": tag}).status_code == 304


def test_slow_tars_do_not_keep_airflow_waiting(
    airflow: FastAPI, signed_in: SignedIn, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow's own API has 40 threads for all its requests: pictures have a few of their own."""
    write_tar(store, [("a.jpg", JPEG)])
    waiting, go = threading.Semaphore(0), threading.Event()

    def slow(*_: object) -> Response:
        waiting.release()
        assert go.wait(60)
        return Response()

    monkeypatch.setattr(pictures, "_picture", slow)
    cookies = {"_token": signed_in("vera").cookies["_token"]}

    async def ask() -> int:
        transport = httpx.ASGITransport(airflow)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", cookies=cookies) as client:
            pending = [asyncio.create_task(client.get(ADDRESS + "a")) for _ in range(60)]
            try:
                await asyncio.to_thread(waiting.acquire, timeout=30)
                await asyncio.sleep(1)
                page = await asyncio.wait_for(client.get("/laion-people/"), 20)
            finally:
                go.set()
                await asyncio.gather(*pending)
            return page.status_code

    assert asyncio.run(ask()) == 200


def test_what_is_remembered_of_tars_is_bounded(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "INDEXES", 3)
    write_tar(store, [("a.jpg", JPEG)])
    kept = pictures.Pictures()
    for tag in "abcdef":
        assert kept.find(store, TAR, "a", tag)
    assert len(kept._indexes) == 3
