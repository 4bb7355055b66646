"""Pictures for the page: bytes straight out of the store's tars. No image is decoded here.

A tar has no table of contents: its headers are walked as far as the key that is asked for, and where its images are is
kept. Shards may be made elsewhere: what a header says is believed only within the file's bounds, and what is sent is a
picture by its first bytes, or nothing.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import suppress
from threading import Lock
from typing import Annotated

from anyio import CapacityLimiter, fail_after
from anyio.to_thread import run_sync
from fastapi import APIRouter, Header, HTTPException, Path, Response
from fastapi.responses import StreamingResponse
from starlette.types import Message, Send

from laion_people.errors import coded
from laion_people.reports.views import sheet_path
from laion_people.storage.layout import shard_file, shard_stem
from laion_people.storage.store import Store
from laion_people.storage.tars import Contents, Place, TarError
from laion_people.web import source
from laion_people.web.addresses import ClusterId, Partition, Version

INDEXES = 8  # tars whose index is kept
MOST_KEYS = 100_000  # of a tar, ten times img2dataset's; with INDEXES, the bound of what indexes take: some 400 MB
MOST_BYTES = 50_000_000  # of a picture; larger ones are not shown
PIECE = 1 << 18  # bytes of a picture that are in memory for each who asks, some of whom don't read
READER_SECONDS = 30.0  # that a piece may wait to be read
MOST_HEADERS = 4 * MOST_KEYS  # of a walk: a sample has a picture, a text, a JSON file and perhaps a long name
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
        self._contents = Contents(path, kinds=("image",))
        self._places: dict[str, Place] = {}
        self._done = False
        self._lock = Lock()

    def find(self, key: str) -> Place | None:
        """Start and size in bytes of a key's image; None when the tar, as far as it is whole, has none."""
        with self._lock:
            if key not in self._places and not self._done:
                self._walk(key)
            return self._places.get(key)

    def _walk(self, wanted: str) -> None:
        """Goes on until the wanted sample is whole, which is when the next one begins."""
        with self._store.open(self._path, AHEAD) as file, suppress(TarError):
            for files in self._contents.walk(file, self._store.size(self._path), MOST_HEADERS):
                if files.image and not files.unusable:
                    self._places[files.key] = files.image
                if files.key == wanted:
                    return
                if len(self._places) == MOST_KEYS:
                    break
        self._done = True


class Pictures:
    """The pictures of a store's tars; indexes of the tars used last are kept."""

    def __init__(self) -> None:
        self._indexes: OrderedDict[tuple[str, str, str], TarIndex] = OrderedDict()
        self._lock = Lock()

    def find(self, store: Store, tar: str, key: str, tag: str) -> Place | None:
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
    return await _answer(shard_file("images", partition, shard), key, if_none_match)


@router.get("/composed/{version}/{collection}/{part}/{shard}/{key}")
async def composed(version: Version, partition: Partition, shard: Shard, key: str, if_none_match: Tag = "") -> Response:
    """A composed image of Subset B."""
    return await _answer(f"{shard_stem('subset_b', partition, shard, version)}.tar", key, if_none_match)


@router.get("/sheets/{version}/{cluster_id}")
async def sheet(version: Version, cluster_id: ClusterId, if_none_match: Tag = "") -> Response:
    """The contact sheet of a cluster."""
    return await _answer(sheet_path(version, cluster_id), "", if_none_match)


async def _answer(path: str, key: str, if_none_match: str) -> Response:
    return await run_sync(_picture, path, key, if_none_match, limiter=_threads)


def _picture(path: str, key: str, if_none_match: str) -> Response:
    """The picture of a key in a tar, or (without a key) a file that is one, unless the browser has it."""
    store = source.store()
    if not (tag := store.tag(path)):
        raise HTTPException(404, coded("lost-image", f"{path} is not in the store."))
    changing = f"{tag} {key}"  # with the picture
    headers = SAFE | {"ETag": f'"{hashlib.sha256(changing.encode(errors="replace")).hexdigest()[:32]}"'}
    if headers["ETag"] in if_none_match:
        return Response(status_code=304, headers=headers)
    place = _pictures.find(store, path, key, tag) if key else (0, store.size(path))
    if place is None:
        raise HTTPException(404, coded("lost-image", f"{path} has no image {key}."))
    start, size = place
    first = store.part(path, start, start + min(size, PIECE)) if size <= MOST_BYTES else b""
    if not (kind := media_type(first)):
        raise HTTPException(415, coded("unsafe-image", "This is no JPEG, PNG, GIF or WebP that can be shown."))
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
