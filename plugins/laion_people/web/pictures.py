"""Pictures for the page: bytes straight out of the store's tars. No image is decoded here.

A tar has no table of contents: its headers are walked as far as the key that is asked for, and where its images are is
kept. Shards may be made elsewhere: what a header says is believed only within the file's bounds, and what is sent is a
picture by its first bytes, or nothing.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from threading import Lock
from typing import Annotated, BinaryIO

from anyio import CapacityLimiter, fail_after
from anyio.to_thread import run_sync
from fastapi import APIRouter, Header, HTTPException, Path, Response
from fastapi.responses import StreamingResponse
from starlette.types import Message, Send

from laion_people.images import IMAGE_SUFFIXES
from laion_people.metadata import text
from laion_people.store import Store
from laion_people.web import source
from laion_people.web.addresses import ClusterId, Partition, Version

INDEXES = 8  # tars whose index is kept
MOST_KEYS = 100_000  # of a tar, ten times img2dataset's; with INDEXES, the bound of what indexes take: some 200 MB
MOST_BYTES = 50_000_000  # of a picture; larger ones are not shown
PIECE = 1 << 18  # bytes of a picture that are in memory for each who asks, some of whom don't read
READER_SECONDS = 30.0  # that a piece may wait to be read
MOST_HEADERS = 4 * MOST_KEYS  # of a walk: a sample has a picture, a text, a JSON file and perhaps a long name
LONGEST_KEY = 255  # characters, as many as a file's name has
LONG_NAME = 64_000  # bytes of a header that holds a name
AHEAD = 1 << 22  # bytes of a bucket's tar that one request of a walk reads: some 50 images
Shard = Annotated[int, Path(ge=0, lt=10**9)]
Tag = Annotated[str, Header()]  # If-None-Match: the tags of what the browser has
MAGIC = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png", b"GIF8": "image/gif"}
SAFE = {  # a picture that is opened by itself runs nothing, and no other site can show it
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "private, no-cache",  # kept by the browser, and asked for by its tag: a shard may be made again
}


class TarIndex:
    """Where the images of a tar are, found as far as they have been asked for. Threads may share one."""

    def __init__(self, store: Store, path: str):
        self._store, self._path = store, path
        self._places: dict[str, tuple[int, int]] = {}
        self._next, self._done = 0, False
        self._lock = Lock()

    def find(self, key: str) -> tuple[int, int] | None:
        """Start and size in bytes of a key's image; None when the tar, as far as it is whole, has none."""
        with self._lock:
            if key not in self._places and not self._done:
                self._walk(key)
            return self._places.get(key)

    def _walk(self, wanted: str) -> None:
        """Goes on to the sample after the wanted one: of a sample's images the last counts, as for `samples`."""
        with self._store.open(self._path, AHEAD) as file:
            for header, name, start, size in members(file, self._next, self._store.size(self._path)):
                key, _, suffix = text(name).rpartition("/")[2].partition(".")
                if wanted in self._places and key != wanted:
                    self._next = header
                    return
                if suffix in IMAGE_SUFFIXES and len(key) <= LONGEST_KEY:
                    self._places[key] = start, size
                if len(self._places) == MOST_KEYS:
                    break
        self._done = True


def members(file: BinaryIO, offset: int, end: int) -> Iterator[tuple[int, str, int, int]]:
    """The regular files of a tar of ``end`` bytes from the header at ``offset`` on: header, name, start and size.

    Only as far as it is whole, and of MOST_HEADERS. `tarfile` would read a long name of any size, keep every member,
    and could not go on at an offset.
    """
    first, long_name = offset, ""
    for _ in range(MOST_HEADERS):
        if offset + tarfile.BLOCKSIZE > end:
            return
        file.seek(offset)
        try:
            member = tarfile.TarInfo.frombuf(file.read(tarfile.BLOCKSIZE), "utf-8", "surrogateescape")
        except tarfile.HeaderError:
            return
        start = offset + tarfile.BLOCKSIZE
        names_next = member.type in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE)
        has_data = names_next or member.isreg() or member.type not in tarfile.SUPPORTED_TYPES
        size = member.size if has_data else 0
        if size < 0 or start + size > end or (names_next and size > LONG_NAME):
            return
        offset = start + -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        if names_next:
            long_name = _long_name(member.type, file.read(size)) or long_name
            continue
        if member.isreg() and not member.issparse():
            yield first, long_name or member.name, start, size
        first, long_name = offset, ""


def _long_name(kind: bytes, data: bytes) -> str:
    """The name that a GNU or a PAX header gives to the file after it; "" when it tells something else."""
    if kind == tarfile.XHDTYPE:
        data = next((line.partition(b" path=")[2] for line in data.split(b"\n") if b" path=" in line), b"")
    return data.rstrip(b"\0").decode(errors="surrogateescape")


class Pictures:
    """The pictures of a store's tars; indexes of the tars used last are kept."""

    def __init__(self) -> None:
        self._indexes: OrderedDict[tuple[str, str, str], TarIndex] = OrderedDict()
        self._lock = Lock()

    def find(self, store: Store, tar: str, key: str, tag: str) -> tuple[int, int] | None:
        """Where a key's image is in a tar that has this tag."""
        with self._lock:
            index = self._indexes.get((store.uri, tar, tag)) or TarIndex(store, tar)
            self._indexes[store.uri, tar, tag] = index
            self._indexes.move_to_end((store.uri, tar, tag))
            while len(self._indexes) > INDEXES:
                self._indexes.popitem(last=False)
        return index.find(key)


def media_type(data: bytes) -> str:
    """JPEG, PNG, GIF or WebP by the first bytes, "" for everything else, whatever it is called."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for magic, kind in MAGIC.items() if data.startswith(magic)), "")


router = APIRouter(prefix="/images")
_pictures = Pictures()
_threads = CapacityLimiter(8)  # of their own: to walk large tars takes seconds, and Airflow's API has only 40 for all


@router.get("/stored/{collection}/{part}/{shard}/{key}")
async def stored(partition: Partition, shard: Shard, key: str, if_none_match: Tag = "") -> Response:
    """A stored image of a shard."""
    return await _answer(f"images/{partition}/{shard:05d}.tar", key, if_none_match)


@router.get("/composed/{version}/{collection}/{part}/{shard}/{key}")
async def composed(version: Version, partition: Partition, shard: Shard, key: str, if_none_match: Tag = "") -> Response:
    """A composed image of Subset B."""
    return await _answer(f"subset_b/{version}/{partition}/{shard:05d}.tar", key, if_none_match)


@router.get("/sheets/{version}/{cluster_id}")
async def sheet(version: Version, cluster_id: ClusterId, if_none_match: Tag = "") -> Response:
    """The contact sheet of a cluster."""
    return await _answer(f"clusters/{version}/contact-{cluster_id}.jpg", "", if_none_match)


async def _answer(path: str, key: str, if_none_match: str) -> Response:
    return await run_sync(_picture, path, key, if_none_match, limiter=_threads)


def _picture(path: str, key: str, if_none_match: str) -> Response:
    """The picture of a key in a tar, or (without a key) a file that is one, unless the browser has it."""
    store = source.store()
    if not (tag := store.tag(path)):
        raise HTTPException(404, f"{path} is not in the store.")
    changing = f"{tag} {key}"  # with the picture
    headers = SAFE | {"ETag": f'"{hashlib.sha256(changing.encode(errors="replace")).hexdigest()[:32]}"'}
    if headers["ETag"] in if_none_match:
        return Response(status_code=304, headers=headers)
    place = _pictures.find(store, path, key, tag) if key else (0, store.size(path))
    if place is None:
        raise HTTPException(404, f"{path} has no image {key}.")
    start, size = place
    first = store.part(path, start, start + min(size, PIECE)) if size <= MOST_BYTES else b""
    if not (kind := media_type(first)):
        raise HTTPException(415, "This is no JPEG, PNG, GIF or WebP that can be shown.")
    headers["Content-Length"] = str(size)
    return Pieces(_pieces(store, path, first, start, start + size), media_type=kind, headers=headers)


async def _pieces(store: Store, path: str, piece: bytes, start: int, stop: int) -> AsyncIterator[bytes]:
    """A part of a file, of which the first piece has been read."""
    while piece:
        yield piece
        start += len(piece)
        piece = await run_sync(store.part, path, start, min(stop, start + PIECE), limiter=_threads)


class Pieces(StreamingResponse):
    """An answer that is given up when nobody reads it for READER_SECONDS."""

    async def stream_response(self, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            with fail_after(READER_SECONDS):
                await send(message)

        await super().stream_response(send_in_time)
