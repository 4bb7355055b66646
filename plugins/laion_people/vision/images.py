"""Images of a shard: reading img2dataset-style tars, and decoding with care, in threads that run ahead."""

from __future__ import annotations

import io
import json
import logging
import math
import mmap
import sys
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

import numpy as np
import pyarrow as pa
from PIL import Image, ImageChops, ImageFile

from laion_people.engine.concurrency import workers
from laion_people.errors import check_shortage, one_line
from laion_people.storage.metadata import text
from laion_people.storage.tars import Contents, Files, Place
from laion_people.vision.imagefiles import TooMuchWork, image_file, orientation, webp_size

log = logging.getLogger(__name__)

Item = TypeVar("Item")

MOST_JSON, MOST_TEXT = 1 << 22, 1 << 16  # bytes; the json and txt files of real samples have some thousand
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")  # others, such as EPS, run programs or are not photos
MAX_PIXELS = 100_000_000  # what a stored image may have at most; img2dataset can be told to store originals
MAX_SIDE = 65_535  # as in a JPEG; rows of a few pixels take many times their memory and time
LARGE_PIXELS = 20_000_000  # images above are decoded one at a time
BYTES_A_PIXEL = 12  # that decoding takes at most
# The time of a thread for one image: many times what any takes that was not made to take long. A header takes less
# than 10 ms, a pixel 5 to 25 ns.
OPENING_SECONDS, DECODING_SECONDS, SECONDS_A_PIXEL = 1.0, 2.0, 50e-9
TURNED = 5  # EXIF orientations from 5 on swap width and height
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # of a TIFF
SAMPLE_FORMAT, UNSIGNED = 339, (1,)
AHEAD, AHEAD_PIXELS = 256, 64_000_000  # images that are decoded early, and their pixels: some batches' worth
ASIDE = 4  # large images that wait, still encoded but for the first
LATER = 1024  # images read after a large one before it takes its turn: some seconds of work, in which it is decoded
BLOCK = 4_000_000  # bytes of an image that lies in one block for sure: Pillow's blocks are of 16 MiB unless it is told

Image.MAX_IMAGE_PIXELS = None  # sizes are checked here, against the caller's limit
warnings.filterwarnings("ignore", module=r"PIL\.")  # remarks on broken EXIF; a block would not be safe with threads


class ImageError(Exception):
    """An image that cannot be used; the message is the reason that is counted (``truncated``, ``not_an_image``)."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of a tar: its key, the encoded image and the fields of its json.

    Of an ``unusable`` one, which says why it has no image, nothing else is read.
    """

    key: str
    image: bytes
    fields: dict[str, Any] = field(default_factory=dict)
    unusable: str = ""


def samples(tar: Path) -> Iterator[Sample]:
    """All samples of a shard in tar order. Raises LaionPeopleError when the tar is damaged or repeats a key.

    What was made elsewhere can be anything: a json that is missing or no JSON object gives no fields; a caption that
    it lacks is taken from the text file.
    """
    with tar.open("rb") as headers, tar.open("rb") as content:
        for files in Contents(tar.name).walk(headers, tar.stat().st_size):
            if files.unusable:
                yield Sample(files.key, b"", unusable=files.unusable)
            else:
                image = _read(content, files.image)  # it lies before the others in most tars
                yield Sample(files.key, image, _fields(content, files))


def _fields(content: BinaryIO, files: Files) -> dict[str, Any]:
    fields: Any = {}
    if files.json and files.json[1] <= MOST_JSON:
        try:
            fields = json.loads(_read(content, files.json))
        except Exception as error:
            check_shortage(error)
    if not isinstance(fields, dict):
        fields = {}
    if files.text and not text(fields.get("caption")):
        fields["caption"] = _read(content, files.text, MOST_TEXT).decode("utf-8-sig", errors="replace").strip()
    return fields


def _read(content: BinaryIO, place: Place | None, most: int = sys.maxsize) -> bytes:
    start, size = place or (0, 0)
    content.seek(start)
    return content.read(min(size, most))


class TarImages:
    """The encoded images of a shard by key, read one at a time in any order; the keys are those of ``samples``."""

    def __init__(self, tar: Path):
        self._tar = tar
        with tar.open("rb") as headers:
            contents = Contents(tar.name).walk(headers, tar.stat().st_size)
            self._files = {files.key: files for files in contents if not files.unusable}

    def keys(self) -> list[str]:
        return list(self._files)

    def read(self, key: str) -> bytes:
        with self._tar.open("rb") as content:
            return _read(content, self._files[key].image)

    def fields(self, key: str) -> dict[str, Any]:
        with self._tar.open("rb") as content:
            return _fields(content, self._files[key])


class _Source(io.BytesIO):
    """A file that can be read for so much of the reading thread's own time.

    Pillow reads most formats piece by piece, some of them by loops in Python that a file can make long: of comments,
    directories, markers, runs of pixels.
    """

    def __init__(self, data: bytes, limited: bool):
        super().__init__(data)
        self._limited, self._until = limited, 0.0

    def allow(self, seconds: float) -> None:
        self._until = time.thread_time() + seconds if self._limited else math.inf

    def read(self, size: int | None = -1, /) -> bytes:
        if time.thread_time() > self._until:
            raise ImageError("decompression_bomb")
        return super().read(size)


@dataclass(frozen=True, slots=True)
class Picture:
    """An image whose header alone has been read; ``filled`` as an ImageFile has it."""

    image: ImageFile.ImageFile
    source: _Source
    exif: bytes
    orientation: int
    filled: bytes | None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as it is shown."""
        width, height = self.image.size
        return (height, width) if self.orientation >= TURNED else (width, height)

    @property
    def pixels(self) -> int:
        return self.image.width * self.image.height


@contextmanager
def reading(reason: str, pixels: int = 0) -> Iterator[None]:
    """Whatever a library raises about one image is ``reason``, and said in the log; but not the machine's shortages.

    Raises ImageError, and ShortageError: when memory is short, decoders say that the image is broken, each in its own
    way. So when one does, it is tried whether there is the memory that so many ``pixels`` may take.
    """
    try:
        yield
    except ImageError:
        raise
    except Exception as error:
        check_shortage(error)
        try:
            mmap.mmap(-1, max(BYTES_A_PIXEL * pixels, mmap.PAGESIZE)).close()
        except OSError as shortage:
            check_shortage(shortage)
        log.debug("%s: %s: %s", reason, type(error).__name__, one_line(error, 200))
        raise ImageError(reason) from error


def open_image(data: bytes, max_pixels: int = MAX_PIXELS, limited: bool = True) -> Picture:
    """An image whose header alone is read so far. With ``limited``, it has so much time to be opened and decoded.

    Raises ImageError: not_an_image; truncated, when scans are missing; decompression_bomb, when the header tells of
    more than ``max_pixels`` or a side over MAX_SIDE, or the file asks for far more work than images of its size do.
    """
    width, height = webp_size(data)
    _check_size(width, height, max_pixels)
    with reading("not_an_image", width * height):
        try:
            file = image_file(data)
        except TooMuchWork as error:
            log.debug("decompression_bomb: %s", error)
            raise ImageError("decompression_bomb") from error
        except EOFError as error:
            raise ImageError("truncated") from error
        try:
            image, source = _opened_by_pillow(file.data, limited)
        except Exception as error:
            if data[8:12] != b"avif":
                raise
            check_shortage(error)
            no_exif = data.replace(b"Exif", b"skip")  # Pillow gives up when EXIF is broken
            image, source = _opened_by_pillow(no_exif, limited)
    _check_size(*image.size, max_pixels)
    exif = file.exif or image.info.get("exif", b"")
    exif = exif.removeprefix(b"Exif\0\0") if isinstance(exif, bytes) else b""
    # Pillow says in the EXIF of an AVIF how its boxes turn it. Browsers don't turn a WebP.
    turned = orientation(exif) if image.format == "AVIF" else file.orientation
    return Picture(image, source, exif, turned, file.filled)


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels or max(width, height) > MAX_SIDE:
        raise ImageError("decompression_bomb")


def _opened_by_pillow(data: bytes, limited: bool) -> tuple[ImageFile.ImageFile, _Source]:
    source = _Source(data, limited)
    source.allow(OPENING_SECONDS)
    return Image.open(source, formats=FORMATS), source


def to_rgb(picture: Picture, side: int | None = None) -> Image.Image:
    """The image right-side-up and as RGB; transparency is laid on white; of an animation, the first frame.

    With ``side``, a JPEG may be read at a half, a quarter or an eighth, with sides of no less than ``side``.
    Raises ImageError: truncated, decompression_bomb.
    """
    with reading("truncated", picture.pixels):
        image = _loaded(picture.image, picture.source, side)
        if picture.filled is not None:
            filled, source = _opened_by_pillow(picture.filled, limited=False)  # as long as the first took
            if ImageChops.difference(image, _loaded(filled, source, side)).getbbox():
                raise ImageError("truncated")
        rgb = _rgb(image)
        turn = TURNS.get(picture.orientation)
        return rgb if turn is None else rgb.transpose(turn)


def _loaded(image: ImageFile.ImageFile, source: _Source, side: int | None) -> Image.Image:
    if side:
        image.draft(None, (side, side))
    source.allow(DECODING_SECONDS + SECONDS_A_PIXEL * image.width * image.height)
    covered = image.tile[0][1] if image.format == "GIF" else None
    image.load()
    if covered and covered != (0, 0, *image.size) and "transparency" not in image.info:
        white = Image.new("RGB", image.size, "white")  # what the first frame leaves free is transparent
        white.paste(image.crop(covered).convert("RGB"), covered)
        return white
    return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        image = _grey(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey(image: Image.Image) -> Image.Image:
    """Greys of 16 bits by their high bytes, as browsers show them.

    Other integers and floats, which no browser shows: from 0 to the least of 1 (floats alone), 255 and 65535 that none
    of them exceeds; or else from the least to the greatest. What is no number is black.
    """
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    if image.mode == "I" and tags and tags.get(SAMPLE_FORMAT, UNSIGNED) == UNSIGNED:
        values = values.view(np.uint32)  # Pillow has no such mode
    clear = image.info.pop("transparency", None)
    if image.mode.startswith("I;16"):
        grey: np.ndarray = (values >> 8).astype(np.uint8)
    else:
        values = values.astype(np.float64)
        there = values[np.isfinite(values)]
        low, high = (float(there.min()), float(there.max())) if there.size else (0.0, 0.0)
        tops = [top for top in (1, 255, 65535) if (top > 1 or image.mode == "F") and low >= 0 and high <= top]
        low, high = (0.0, float(tops[0])) if tops else (low, high)
        scaled = np.nan_to_num((values - low) * (255 / ((high - low) or 1)), nan=0.0)
        grey = scaled.clip(0, 255).round().astype(np.uint8)
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        grey = 255 - grey
    if isinstance(clear, int):
        grey[values == clear] = 255
    return Image.fromarray(grey)


def decode(data: bytes, limited: bool = True) -> Image.Image:
    """A right-side-up RGB image. Raises ImageError as ``open_image`` and ``to_rgb`` do."""
    return to_rgb(open_image(data, limited=limited))


@dataclass(frozen=True, slots=True)
class Decoded(Generic[Item]):
    """An item, its place among all, and its uint8 RGB array [height, width, 3] or the reason why there is none."""

    place: int
    item: Item
    image: np.ndarray | ImageError

    @property
    def pixels(self) -> int:
        return 0 if isinstance(self.image, ImageError) else self.image.shape[0] * self.image.shape[1]


def decode_ahead(items: Iterable[tuple[Item, bytes]], threads: int, limited: bool = True) -> Iterator[Decoded[Item]]:
    """Items with their decoded images; threads decode the encoded ones early.

    They come in order, but for large images: these are set aside, a thread of their own decodes one after the other,
    and each takes its turn when LATER more items have been read or ASIDE more large ones wait. So the order follows
    from the images alone, and of the large ones no more than one is held here decoded.
    """
    with workers(threads) as pool, workers(1) as alone:
        ahead: _Queue[Item] = _Queue(pool, AHEAD + 1)
        aside: _Queue[Item] = _Queue(alone, 1)
        for place, (item, data) in enumerate(items):
            opened, pixels = _opened(data, limited)
            (aside if pixels > LARGE_PIXELS else ahead).put(place, item, opened, pixels)
            while len(ahead) and (place >= ahead.first + AHEAD or ahead.pixels > AHEAD_PIXELS):
                yield ahead.get()
            if len(aside) and (place >= aside.first + LATER or len(aside) > ASIDE):
                yield aside.get()
        for queue in (ahead, aside):
            while len(queue):
                yield queue.get()


class _Queue(Generic[Item]):
    """Images that wait for their turn; the first ``early`` of them are given to a pool to decode."""

    def __init__(self, pool: Executor, early: int):
        self.pixels = 0
        self._pool, self._early = pool, early
        self._waiting: deque[tuple[int, Item, int]] = deque()
        self._decoding: deque[Future[np.ndarray | ImageError]] = deque()
        self._encoded: deque[Picture | ImageError] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def first(self) -> int:
        """The place of the image whose turn comes next."""
        return self._waiting[0][0]

    def put(self, place: int, item: Item, opened: Picture | ImageError, pixels: int) -> None:
        self._waiting.append((place, item, pixels))
        self._encoded.append(opened)
        self.pixels += pixels
        self._start()

    def get(self) -> Decoded[Item]:
        image = self._decoding.popleft().result()
        place, item, pixels = self._waiting.popleft()
        self.pixels -= pixels
        self._start()
        return Decoded(place, item, image)

    def _start(self) -> None:
        if self._encoded and len(self._decoding) < self._early:
            self._decoding.append(self._pool.submit(_array, self._encoded.popleft()))


def _opened(data: bytes, limited: bool) -> tuple[Picture | ImageError, int]:
    """The image with its header read, and its pixels."""
    try:
        picture = open_image(data, limited=limited)
    except ImageError as error:
        return error, 0
    return picture, picture.pixels


def _array(opened: Picture | ImageError) -> np.ndarray | ImageError:
    if isinstance(opened, ImageError):
        return opened
    try:
        rgb = to_rgb(opened)
        with reading("truncated", opened.pixels):
            return _pixels(rgb)
    except ImageError as error:
        return error


def _pixels(rgb: Image.Image) -> np.ndarray:
    """The same as ``np.asarray``, which copies twice, and while no other thread can run Python.

    Pillow hands images on without a copy, at four bytes a pixel, but only those that lie in one block of its memory:
    https://pillow.readthedocs.io/en/stable/reference/arrow_support.html
    """
    import cv2

    if 4 * rgb.width * rgb.height > BLOCK:
        return np.asarray(rgb)
    rgbx = pa.array(rgb).flatten().to_numpy().reshape(rgb.height, rgb.width, 4)
    return cv2.cvtColor(rgbx, cv2.COLOR_RGBA2RGB)


def crop(image: np.ndarray, box: np.ndarray, padding: float) -> np.ndarray:
    """The part of an image in a box that is widened by ``padding`` of its size on each side, clipped; never empty."""
    height, width = image.shape[:2]
    x1, y1, x2, y2 = (float(v) for v in box)
    dx, dy = (x2 - x1) * padding, (y2 - y1) * padding
    left, top = min(max(int(x1 - dx), 0), width - 1), min(max(int(y1 - dy), 0), height - 1)
    right, bottom = max(min(int(x2 + dx + 0.999), width), left + 1), max(min(int(y2 + dy + 0.999), height), top + 1)
    return image[top:bottom, left:right]
