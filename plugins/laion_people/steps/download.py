"""download: fetches the images of a metadata part and stores them as img2dataset does.

The layout is img2dataset's own (`docs/download.md` says why the program is not used): a tar with jpg, json and txt of
every success, a Parquet file with all rows, and ``_stats.json``.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from laion_people import images, metadata
from laion_people.errors import LaionPeopleError
from laion_people.fetch import Fetcher, FetchError
from laion_people.imagefiles import tags
from laion_people.images import ImageError, Picture
from laion_people.manifest import Manifest
from laion_people.overlap import cores
from laion_people.settings import Settings
from laion_people.step import Row, Shard, Step
from laion_people.store import Store

DECIDING = (  # settings that decide the output
    "shard_rows", "nsfw_filter", "allow_private_addresses", "respect_opt_out", "url_max_bytes",
    "image_size", "image_min_size", "image_max_pixels", "jpeg_quality",
)  # fmt: skip
MADE_BY = "laion-people"
AHEAD = 32  # rows that may be finished or under way, per request in flight, while an earlier row is waited for
MAX_ASPECT = 10  # long side over short side; more is a banner

# Why a row has no image, and what that means. `--retry-failed` tries PASSING ones again.
PASSING = {
    "timeout": "no whole answer within the time limit",
    "server_error": "HTTP 5xx",
    "too_many_requests": "HTTP 429",
    "dns": "the host name could not be looked up",
    "connection_refused": "nothing listens at the address",
    "connection_error": "the connection broke, or the answer was not HTTP",
}
LASTING = {
    "no_url": "the metadata row has no URL",
    "bad_url": "the URL is not an HTTP address",
    "nsfw": "flagged by the collection itself, and the filter is on",
    "private_address": "the URL, or a redirect, leads into a private network",
    "not_found": "HTTP 404 or 410",
    "http_error": "another HTTP status than 2xx, such as 403",
    "tls_error": "the host's certificate does not hold",
    "too_many_redirects": "more than five redirects",
    "opted_out": "the owner reserves the image against use for AI",
    "too_large": "the body is larger than the limit, as sent or unpacked",
}
UNUSABLE = {  # img2dataset's failed_to_resize
    "empty": "the body has no bytes",
    "not_an_image": "the body is no image of a known format",
    "truncated": "the image is cut off or broken",
    "decompression_bomb": "more pixels than the limit, or far more work than images of its size take",
    "too_small": "the shorter side is under the limit, or less than a tenth of the longer one",
}
REASONS = PASSING | LASTING | UNUSABLE

OUTCOME = {  # img2dataset's columns, and `reason`
    "status": pa.string(),
    "error_message": pa.string(),
    "width": pa.int32(),
    "height": pa.int32(),
    "original_width": pa.int32(),
    "original_height": pa.int32(),
    "exif": pa.string(),
    "sha256": pa.string(),
    "reason": pa.string(),
}
PENDING: Row = dict.fromkeys(OUTCOME)

_one_at_a_time = Lock()


class Download(Step):
    """One row a metadata row, in its order; rows that failed have a reason of REASONS and no files.

    With ``retry_failed``, finished shards are worked on again where rows failed for a PASSING reason: these rows alone
    are fetched, all others keep their bytes.
    """

    name = "download"
    summary = "fetches images over HTTP"
    reads = ("metadata",)
    writes = "images"
    tar = True

    def __init__(self, retry_failed: bool = False):
        self.retry_failed = retry_failed

    def params(self, settings: Settings) -> dict[str, Any]:
        """Not among them: ``url_timeout`` and ``url_threads``, which only move what ``retry_failed`` can mend."""
        return {name: getattr(settings, name) for name in DECIDING}

    def schema(self) -> pa.Schema:
        return pa.schema(
            {"sample_id": pa.int64(), "url": pa.string(), "caption": pa.string()}
            | metadata.COLLECTION_COLUMNS
            | {"key": pa.string()}
            | OUTCOME
        )

    def plan(self, store: Store, partition: str, settings: Settings) -> list[int]:
        path = metadata.metadata_path(store, partition)
        return list(range(math.ceil(metadata.count_rows(store, path) / settings.shard_rows)))

    def again(self, receipt: Manifest) -> str | None:
        passing = sum(n for reason, n in receipt.rejected.items() if reason in PASSING)
        return f"{passing} rows failed for a passing reason" if self.retry_failed and passing else None

    def apply(self, shard: Shard) -> Iterator[Row]:
        if made_elsewhere(shard.store, shard.partition):
            raise LaionPeopleError(
                f"images/{shard.partition} was made elsewhere: detect reads it as it is; remove it to download again"
            )
        with asyncio.Runner() as runner:
            loop = runner.get_loop()
            rows = _finished(shard, _earlier(shard) if shard.again else _new(shard))
            while True:
                with shard.clock("wait"):
                    row = loop.run_until_complete(anext(rows, None))
                if row is None:
                    break
                shard.rows_in += 1
                if row["reason"]:
                    shard.reject(row["reason"])
                else:
                    picture = row.pop("jpg")
                    row["files"] = {"jpg": picture, "json": json.dumps(row).encode(), "txt": row["caption"].encode()}
                yield row

    def sidecars(self, shard: Shard, rows: int) -> dict[str, bytes]:
        end = time.time()
        unusable = sum(n for reason, n in shard.rejected.items() if reason in UNUSABLE)
        stats = {
            "count": shard.rows_in,
            "successes": rows,
            "failed_to_download": shard.rejected.total() - unusable,
            "failed_to_resize": unusable,
            "duration": end - shard.started,
            "start_time": shard.started,
            "end_time": end,
            "status_dict": {"success": rows, **shard.rejected},
            "made_by": MADE_BY,
        }
        return {"_stats.json": json.dumps(stats, indent=4).encode()}


def made_elsewhere(store: Store, partition: str) -> bool:
    """Whether a partition's images come from another program, such as img2dataset."""
    ours = {path.rsplit("/", 1)[-1].removesuffix(".json") for path in store.list(f"manifests/download/{partition}")}
    tars = [p.removesuffix(".tar") for p in store.list(f"images/{partition}") if p.endswith(".tar")]
    stats = [f"{tar}_stats.json" for tar in tars if tar.rsplit("/", 1)[-1] not in ours]
    return any(not store.exists(p) or json.loads(store.read(p)).get("made_by") != MADE_BY for p in stats)


def _new(shard: Shard) -> Iterator[Row]:
    """The shard's metadata rows, still without outcome unless they are not to be fetched."""
    settings = shard.settings
    digits = max(4, len(str(settings.shard_rows - 1)))
    start = shard.index * settings.shard_rows
    path = metadata.metadata_path(shard.store, shard.partition)
    for place, row in enumerate(metadata.rows(shard.store, path, start, start + settings.shard_rows)):
        fields = {"sample_id": row.sample_id, "url": row.url, "caption": row.caption, **row.collection}
        fields |= {"key": f"{shard.index:05d}{place:0{digits}d}", **PENDING}
        if row.flagged and settings.nsfw_filter:
            yield fields | _failure("nsfw", REASONS["nsfw"])
        elif not row.url or not row.url.strip():
            yield fields | _failure("no_url", REASONS["no_url"])
        else:
            yield fields


def _earlier(shard: Shard) -> Iterator[Row]:
    """The rows of the finished shard with their images; without outcome those that failed for a passing reason."""
    base = f"images/{shard.partition}/{shard.index:05d}"
    with shard.store.local(f"{base}.parquet") as table, shard.store.local(f"{base}.tar") as tar:
        pictures = images.samples(tar)
        for batch in pq.ParquetFile(table).iter_batches(1024):
            for row in batch.to_pylist():
                if row["reason"] in PASSING:
                    row |= PENDING
                elif row["status"] == "success":
                    row["jpg"] = next(pictures).image
                yield row


async def _finished(shard: Shard, rows: Iterator[Row]) -> AsyncIterator[Row]:
    """The rows in order, each with its outcome, ``url_threads`` of them being worked on at a time.

    A request keeps its place until its image is stored, so that fetching does not run away from decoding.
    """
    settings = shard.settings
    places = asyncio.Semaphore(settings.url_threads)
    waiting: deque[asyncio.Future[Row]] = deque()
    with ThreadPoolExecutor(cores()) as pool:
        async with Fetcher(settings) as fetcher:

            async def finish(row: Row) -> Row:
                if row["status"]:
                    return row
                async with places:
                    try:
                        body = await fetcher.get(row["url"].strip())
                        loop = asyncio.get_running_loop()
                        return row | await loop.run_in_executor(pool, _stored, body, settings)
                    except FetchError as error:
                        return row | _failure(error.reason, str(error))
                    except ImageError as error:
                        return row | _failure(str(error), REASONS[str(error)])

            for row in rows:
                waiting.append(asyncio.ensure_future(finish(row)))
                if len(waiting) == AHEAD * settings.url_threads:
                    yield await waiting.popleft()
            while waiting:
                yield await waiting.popleft()


def _failure(reason: str, message: str) -> Row:
    status = "failed_to_resize" if reason in UNUSABLE else "failed_to_download"
    readable = message.encode(errors="replace").decode()[:500]  # headers can hold bytes that are not UTF-8
    return {"status": status, "error_message": readable, "reason": reason}


def _stored(body: bytes, settings: Settings) -> Row:
    """The outcome of a body that was fetched, with the stored image as ``jpg``. Raises ImageError."""
    if not body:
        raise ImageError("empty")
    picture = images.open_image(body, settings.image_max_pixels)
    short, long = sorted(picture.size)
    if short < settings.image_min_size or long > MAX_ASPECT * short:
        raise ImageError("too_small")
    if picture.pixels > images.LARGE_PIXELS:
        with _one_at_a_time:
            return _resized(picture, body, settings)
    return _resized(picture, body, settings)


def _resized(picture: Picture, body: bytes, settings: Settings) -> Row:
    """Shrinks to the size wanted by area averaging, as img2dataset does. OpenCV works without holding Python's lock."""
    import cv2

    width, height = picture.size
    rgb = images.to_rgb(picture, 2 * settings.image_size)
    with images.reading("truncated", picture.pixels):
        if (factor := min(rgb.size) // (2 * settings.image_size)) > 1:
            rgb = rgb.reduce(factor)
        pixels = np.asarray(rgb)
        scale = settings.image_size / min(width, height)
        if scale < 1:
            size = max(round(width * scale), settings.image_size), max(round(height * scale), settings.image_size)
            pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        options = [cv2.IMWRITE_JPEG_QUALITY, settings.jpeg_quality]
        jpg = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)[1].tobytes()
    return {
        "status": "success",
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        "original_width": width,
        "original_height": height,
        "exif": json.dumps(tags(picture.exif)),
        "sha256": sha256(body).hexdigest(),
        "jpg": jpg,
    }
