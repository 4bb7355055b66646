"""download: fetches the images of a metadata part and stores them as img2dataset does.

The layout is img2dataset's (`docs/download.md` says why the program is not used): a tar with jpg, json and txt of every
success, a Parquet file with all rows, and ``_stats.json``. A shard that is made again keeps the rows that are whole and
would be the same again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from hashlib import sha256
from threading import Lock
from typing import Any

import pyarrow as pa

from laion_people.engine.catalog import STEPS
from laion_people.engine.concurrency import workers
from laion_people.engine.step import Row, Step
from laion_people.engine.work import Shard
from laion_people.errors import LaionPeopleError, UsageError, coded, one_line
from laion_people.settings import Settings
from laion_people.steps.download.earlier import TIME, EarlierRows, row_sha256
from laion_people.steps.download.fetch import Fetcher, FetchError
from laion_people.steps.download.hosts import Known
from laion_people.steps.download.owners import LONGEST, SAID, opted_out
from laion_people.storage import metadata
from laion_people.storage.layout import shard_manifests_folder, shard_name, shard_stem
from laion_people.storage.manifest import FileEntry, Manifest, ShardManifest
from laion_people.storage.origin import MADE_BY, foreign_files, has_manifests, read_object
from laion_people.storage.removals import removed_row
from laion_people.storage.store import Store
from laion_people.vision import images, phash
from laion_people.vision.batches import timed
from laion_people.vision.imagefiles import tags
from laion_people.vision.images import ImageError, Picture

log = logging.getLogger(__name__)

DECIDING = (  # settings that decide the output
    "shard_rows", "nsfw_filter", "allow_private_addresses", "respect_opt_out", "url_max_bytes",
    "image_size", "image_min_size", "image_max_pixels", "jpeg_quality",
)  # fmt: skip
# More of them, with the values that stand for none: shards that were made before they existed stay what they are.
LATER = {"respect_robots_txt": False}
MAX_SHARDS = 100_000  # their names have five digits
AHEAD = 32  # rows, per request in flight, that may be finished or under way while an earlier row is not
MAX_ASPECT = 10  # long side over short side; more is a banner

# Reasons why a row has no image, with their meaning. `--retry-failed` tries PASSING ones again.
PASSING = {
    "timeout": "no whole answer within the time limit",
    "server_error": "HTTP 5xx",
    "too_many_requests": "HTTP 429, or the host wants a longer pause than a row may wait",
    "dns": "the host name could not be looked up",
    "connection_refused": "nothing listens at the address",
    "connection_error": "the connection broke",
}
LASTING = {
    "no_url": "the metadata row has no URL",
    "bad_url": "the URL, or a redirect, is not an HTTP address",
    "nsfw": "flagged by the collection itself, and the filter is on",
    "private_address": "the URL, or a redirect, leads into a private network",
    "not_found": "HTTP 404 or 410",
    "http_error": "another HTTP status than 2xx, such as 403, or an answer that browsers cannot read either",
    "tls_error": "the host's certificate does not hold",
    "too_many_redirects": "more than five redirects",
    "opted_out": "the owner reserves the image, by a header of the answer",
    "robots": "the host's robots.txt disallows it",
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
DECIDED_BY = {  # reason -> the setting that can change it
    "private_address": "allow_private_addresses",
    "opted_out": "respect_opt_out",
    "robots": "respect_robots_txt",
    "too_large": "url_max_bytes",
    "decompression_bomb": "image_max_pixels",
    "too_small": "image_min_size",
}

# img2dataset's columns, `reason`, what the owner said, how the picture looks (vision/phash.py), and `row_sha256`, which
# says if the row is whole (earlier.py)
OUTCOME = {
    "status": pa.string(),
    "error_message": pa.string(),
    "width": pa.int32(),
    "height": pa.int32(),
    "original_width": pa.int32(),
    "original_height": pa.int32(),
    "exif": pa.string(),
    "sha256": pa.string(),
    "reason": pa.string(),
    **SAID,
    "phash": pa.string(),
    "row_sha256": pa.string(),
}
NEWER = {*SAID, "phash"}  # rows of before these are whole without them, and are kept with nulls
PENDING: Row = dict.fromkeys(OUTCOME)

_one_at_a_time = Lock()


class Download(Step):
    """One row a metadata row, in the same order; rows that failed have a reason of REASONS and no files.

    A shard that is made again fetches only rows that are not whole, or that new settings can change. With
    ``retry_failed``, it also fetches rows that failed for a PASSING reason, even in finished shards.
    """

    entry = STEPS["download"]
    irreplaceable = True
    reasons = REASONS

    def __init__(self, retry_failed: bool = False):
        self.retry_failed = self.reworks = retry_failed
        self._known = Known()  # of hosts, for all shards

    def params(self, settings: Settings) -> dict[str, Any]:
        """Without ``url_timeout`` and ``url_threads``: ``retry_failed`` can repair what these change."""
        later = {name: value for name, default in LATER.items() if (value := getattr(settings, name)) != default}
        return {name: getattr(settings, name) for name in DECIDING} | later

    def _made_with(self, settings: Settings) -> dict[str, Any]:
        return {"revision": self.revision} | self.params(settings)

    def schema(self) -> pa.Schema:
        return pa.schema(
            {"sample_id": pa.int64(), "url": pa.string(), "caption": pa.string()}
            | metadata.COLLECTION_COLUMNS
            | {"key": pa.string()}
            | OUTCOME
        )

    def plan(self, store: Store, partition: str, settings: Settings, scope: str) -> list[int]:
        """A part without rows has one empty shard, so that every step has something to finish."""
        path, rows = metadata.part(store, partition)
        if rows > MAX_SHARDS * settings.shard_rows:
            raise LaionPeopleError(
                "too-many-shards",
                f"{path} has {rows:,} rows by its footer, more than {MAX_SHARDS:,} shards: fetch the file again if it "
                "should have fewer, or raise LAION_PEOPLE_SHARD_ROWS",
            )
        return list(range(max(1, math.ceil(rows / settings.shard_rows))))

    def check(self, store: Store, partition: str, settings: Settings, force: bool) -> None:
        """Refuses to write among pictures of other programs and, without ``force``, shards of another size."""
        if foreign := next(foreign_files(store, partition), None):
            if has_manifests(store, partition):
                raise LaionPeopleError(
                    "foreign-file",
                    f"{foreign} lies among the shards that download made and is none of them: move it elsewhere",
                )
            raise LaionPeopleError(
                "made-elsewhere",
                f"images/{partition} was made elsewhere ({foreign.rsplit('/', 1)[-1]}): detect reads its tars as they "
                "are; remove it to download again",
            )
        if not force and (first := _first_manifest(store, partition)):
            _check_size(partition, first.params, settings)

    def needs_rework(self, manifest: ShardManifest) -> str | None:
        passing = sum(n for reason, n in manifest.rejected.items() if reason in PASSING)
        return f"{passing} rows failed for a passing reason" if self.retry_failed and passing else None

    def apply(self, shard: Shard) -> Iterator[Row]:
        with ExitStack() as stack:
            earlier = _earlier_rows(shard, stack)
            yield from self._rows(shard, earlier)
        pictures = earlier.pictures
        if shard.earlier:
            pictures = max(pictures, min(pictures + earlier.unknown, shard.earlier.rows))
        if shard.force or shard.rows >= pictures:
            return
        if not shard.rows:
            raise LaionPeopleError(
                "pictures-lost",
                f"none of the {pictures:,} pictures that the shard had could be kept or fetched again: it is left as "
                "it is, and --force makes it without them",
            )
        log.warning(coded("pictures-lost", "%s: %d pictures are left of %d"), shard.id, shard.rows, pictures)

    def _rows(self, shard: Shard, earlier: EarlierRows) -> Iterator[Row]:
        kept = _with_kept_outcomes(shard, earlier, self._made_with(shard.settings), self.retry_failed)
        with closing(_with_outcomes(shard, kept, self._known)) as rows:
            for row in timed(shard, "wait", rows):
                shard.rows_in += 1
                picture = row.pop("jpg", b"")
                row["row_sha256"] = row_sha256(row, picture)
                if row["reason"]:
                    shard.reject(row["reason"])
                else:
                    fields = json.dumps({name: value for name, value in row.items() if name != TIME}).encode()
                    row["files"] = {"jpg": picture, "json": fields, "txt": row["caption"].encode()}
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
            "params": self._made_with(shard.settings),
        }
        return {"_stats.json": json.dumps(stats, indent=4).encode()}


def _first_manifest(store: Store, partition: str) -> Manifest | None:
    """The first shard manifest of a partition that can be read."""
    for path in store.list(shard_manifests_folder("download", partition)):
        data = store.read(path)
        with suppress(LaionPeopleError):
            return Manifest.from_json(data)
    return None


def _check_size(partition: str, params: Mapping[str, Any], settings: Settings) -> None:
    rows = params.get("shard_rows", settings.shard_rows)
    if rows != settings.shard_rows:
        raise UsageError(
            "download-settings",
            f"images/{partition} has shards of {rows} rows, and shard_rows is {settings.shard_rows}: set it to {rows}, "
            "or fetch everything anew with --force",
        )


def _earlier_rows(shard: Shard, stack: ExitStack) -> EarlierRows:
    """The rows of the existing shard; none with ``force``. Raises LaionPeopleError if another program made it."""
    store, made = shard.store, shard.earlier
    base = shard_stem("images", shard.partition, shard.index)
    files = made.shard.files() if made else ()
    stats = read_object(store, f"{base}_stats.json")
    foreign = stats and stats.get("made_by") != MADE_BY  # the file replaced ours, or ours is damaged
    if foreign and not any(_is_unchanged(store, file) for file in files):
        raise LaionPeopleError(
            "made-elsewhere",
            f"{base}_stats.json says that another program made the shard: remove its files to download it again",
        )
    if shard.force:
        return EarlierRows(None, None, [])
    written = (made.params if made else None, stats.get("params"))
    params = [each for each in written if isinstance(each, dict)]
    if len(params) == 2 and params[0] != params[1]:  # a process was killed: are files newer than the manifest?
        others = [file for file in files if not file.uri.endswith("_stats.json")]  # it is written first
        params = params[:1] if all(_is_unchanged(store, file) for file in others) else params
    for each in params[:1]:
        _check_size(shard.partition, each, shard.settings)
    paths = [f"{base}{suffix}" for suffix in (".parquet", ".tar")]
    table, tar = (stack.enter_context(store.local(path)) if store.exists(path) else None for path in paths)
    return EarlierRows(table, tar, params)


def _is_unchanged(store: Store, file: FileEntry) -> bool:
    return store.exists(file.uri) and store.sha256(file.uri) == file.sha256


def _with_kept_outcomes(
    shard: Shard, earlier: EarlierRows, now: Mapping[str, Any], retry_failed: bool
) -> Iterator[Row]:
    """The shard's metadata rows. Those that need no request have their outcome, with the picture as ``jpg``."""
    now = LATER | dict(now)
    befores = [
        now | LATER | {name: value for name, value in params.items() if type(value) is type(now.get(name))}
        for params in earlier.params or [now]
    ]
    for row in _metadata_rows(shard):
        kept = earlier.next(row)
        if row["status"] or not kept or not OUTCOME.keys() - NEWER - {"row_sha256"} <= kept[0].keys():
            yield row
            continue
        outcome = {name: kept[0].get(name) for name in OUTCOME if name != "row_sha256"}
        if shard.removed.has_picture(outcome["sha256"], outcome["phash"]):
            yield removed_row(row, row["key"])
            continue
        before = next((before for before in befores if _could_change(outcome, before, now)), None)
        if before is None:
            again = retry_failed and outcome["reason"] in PASSING
            yield row if again else row | outcome | ({"jpg": kept[1]} if kept[1] else {})
        elif retry_failed and kept[1]:
            changed = ", ".join(f"{name}={before[name]}" for name in now if before[name] != now[name])
            raise UsageError(
                "download-settings",
                f"images/{shard.id} was made with {changed}: --retry-failed, which keeps pictures, needs the same; "
                "without it, all are fetched anew",
            )
        else:
            yield row


def _could_change(outcome: Row, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a row made with the parameters ``before`` could have another outcome with ``now``."""
    changed = {name for name in now if before[name] != now[name]}
    if "revision" in changed or (reason := outcome["reason"]) in ("nsfw", "no_url"):  # the metadata decide these
        return True
    if reason:
        return reason not in REASONS or DECIDED_BY.get(reason) in changed
    short, long = sorted((outcome["original_width"], outcome["original_height"]))
    return (
        min(outcome["width"], outcome["height"]) != min(short, now["image_size"])
        or "jpeg_quality" in changed
        or short < now["image_min_size"]
        or short * long > now["image_max_pixels"]
        or now["url_max_bytes"] < before["url_max_bytes"]
        or now["allow_private_addresses"] < before["allow_private_addresses"]
        or (now["respect_opt_out"] > before["respect_opt_out"] and _may_be_reserved(outcome))
        or (now["respect_robots_txt"] > before["respect_robots_txt"] and outcome["robots_txt"] != "allowed")
    )


def _may_be_reserved(outcome: Row) -> bool:
    """Whether the owner reserves a picture, by what is recorded of the answer; if nothing is, it may be."""
    tags, reservation = outcome["x_robots_tag"] or "", outcome["tdm_reservation"] or ""
    return not outcome["requested_at"] or len(tags) >= LONGEST or opted_out(tags.splitlines(), reservation)


def _metadata_rows(shard: Shard) -> Iterator[Row]:
    """The shard's metadata rows. Only rows that must not be fetched have an outcome."""
    settings = shard.settings
    digits = max(4, len(str(settings.shard_rows - 1)))
    start = shard.index * settings.shard_rows
    path = shard.inputs["metadata"].uri
    for place, row in enumerate(metadata.rows(shard.store, path, start, start + settings.shard_rows)):
        fields = {"sample_id": row.sample_id, "url": row.url, "caption": row.caption, **row.collection}
        fields |= {"key": f"{shard_name(shard.index)}{place:0{digits}d}", **PENDING}
        if shard.removed.has_url(row.url):
            yield removed_row(fields, fields["key"])
        elif row.flagged and settings.nsfw_filter:
            yield fields | _failure("nsfw", REASONS["nsfw"])
        elif not row.url or not row.url.strip():
            yield fields | _failure("no_url", REASONS["no_url"])
        elif len(row.url) >= metadata.TEXT_CHARACTERS:
            yield fields | _failure("bad_url", f"the URL has {metadata.TEXT_CHARACTERS} characters or more")
        else:
            yield fields


def _with_outcomes(shard: Shard, rows: Iterator[Row], known: Known) -> Generator[Row]:
    """The rows in order, each with its outcome; ``url_threads`` rows are worked on at a time.

    A request keeps its place until its image is stored: fetching never gets far ahead of decoding. A caller that stops
    early must close the generator; then no request, task or thread is left.
    """
    import cv2

    cv2.setNumThreads(1)  # else OpenCV's own threads wait in a loop beside the pool's
    settings = shard.settings
    waiting: deque[asyncio.Task[Row]] = deque()
    threads = settings.threads + 1  # one of them often waits for Python's lock
    with asyncio.Runner() as runner, workers(threads) as pool:
        loop = runner.get_loop()

        async def finish(row: Row) -> Row:
            if row["status"]:
                return row
            with fetcher.visit() as visit:
                try:
                    body = await fetcher.get(row["url"].strip(), visit)
                    outcome = await loop.run_in_executor(pool, _store_image, body, settings)
                except FetchError as error:
                    outcome = _failure(error.reason, str(error))
                except ImageError as error:
                    outcome = _failure(str(error), REASONS[str(error)])
            if shard.removed.has_picture(outcome.get("sha256"), outcome.get("phash")):
                return removed_row(row, row["key"])
            return row | visit.said | outcome

        def first() -> Row:
            row = loop.run_until_complete(waiting[0])
            waiting.popleft()
            return row

        fetcher = loop.run_until_complete(Fetcher(settings, known).__aenter__())
        try:
            for row in rows:
                waiting.append(loop.create_task(finish(row)))
                if len(waiting) == AHEAD * settings.url_threads:
                    yield first()
            while waiting:
                yield first()
        finally:
            loop.run_until_complete(_stop(waiting, fetcher))


async def _stop(tasks: Iterable[asyncio.Task[Row]], fetcher: Fetcher) -> None:
    """Ends what is under way. Errors are ignored: the caller is already raising one of the same kind."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await fetcher.__aexit__()


def _failure(reason: str, message: str) -> Row:
    status = "failed_to_resize" if reason in UNUSABLE else "failed_to_download"
    return {"status": status, "error_message": one_line(message[:1000], 500), "reason": reason}


def _store_image(body: bytes, settings: Settings) -> Row:
    """The outcome of a fetched body, with the stored image as ``jpg``. Raises ImageError."""
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
    """Shrinks to the wanted size by area averaging, as img2dataset does. All of it lets go of Python's lock."""
    import cv2

    from laion_people.vision.shrinking import shrunk  # takes two seconds, which only a download needs

    width, height = picture.size
    pixels = images.to_array(picture, 2 * settings.image_size)
    with images.reading("truncated", picture.pixels):
        scale = settings.image_size / min(width, height)
        if scale < 1:
            size = max(round(width * scale), settings.image_size), max(round(height * scale), settings.image_size)
            pixels = shrunk(pixels, size)
        looks = phash.text(pixels)  # not of the JPEG, which would have to be decoded: four times the work
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
        "phash": looks,
        "jpg": jpg,
    }
