"""Images of a shard: reads img2dataset-style tars, and decodes hostile images safely, in threads that run ahead."""

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
from PIL import Image, ImageChops
from PIL.ImageFile import ImageFile as PillowImage

from laion_people.engine.concurrency import workers
from laion_people.errors import check_shortage, one_line
from laion_people.storage.metadata import text
from laion_people.storage.tars import Contents, Files, Place
from laion_people.vision.imagefiles import ImageFile, TooMuchWork, image_file, orientation, webp_size

log = logging.getLogger(__name__)

Item = TypeVar("Item")

MOST_JSON, MOST_TEXT = 1 << 22, 1 << 16  # bytes; the json and txt files of real samples have a few thousand
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")  # others, such as EPS, run programs or are not photos
MAX_PIXELS = 100_000_000  # of a stored image; img2dataset may store originals
MAX_SIDE = 65_535  # as in a JPEG; images with very short rows take many times the usual memory and time
LARGE_PIXELS = 20_000_000  # larger images are decoded one at a time
BYTES_A_PIXEL = 12  # taken by decoding, at most
QUICK_WORK = 100_000_000  # pixels times scans of a JPEG that is decoded in one go: less than a second
# Limits on a thread's time for one image: many times what any harmless image takes. A header takes less than 10 ms, a
# pixel 5 to 25 ns.
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
AHEAD, AHEAD_PIXELS = 256, 64_000_000  # images decoded early, and their pixels: several batches
ASIDE = 4  # large images that wait, all but the first still encoded
LATER = 1024  # images read after a large one before its turn: some seconds of work, while it is decoded
BLOCK = 4_000_000  # bytes of an image that surely lies in one block: Pillow's blocks have 16 MiB by default

Image.MAX_IMAGE_PIXELS = None  # sizes are checked here, against the caller's limit
warnings.filterwarnings("ignore", module=r"PIL\.")  # remarks on broken EXIF; `catch_warnings` is not safe with threads


class ImageError(Exception):
    """An image that cannot be used. The message is the reason to count (``truncated``, ``not_an_image``, ...)."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of a tar: its key, the encoded image and the fields of its json.

    ``unusable`` says why there is no image; then nothing else is read.
    """

    key: str
    image: bytes
    fields: dict[str, Any] = field(default_factory=dict)
    unusable: str = ""


def samples(tar: Path) -> Iterator[Sample]:
    """All samples of a shard in tar order. Raises LaionPeopleError if the tar is damaged or repeats a key.

    Shards made elsewhere can hold anything: if the json is missing or no JSON object, there are no fields; if it has no
    caption, the caption is taken from the text file.
    """
    with tar.open("rb") as headers, tar.open("rb") as content:
        for files in Contents(tar.name).walk(headers, tar.stat().st_size):
            if files.unusable:
                yield Sample(files.key, b"", unusable=files.unusable)
            else:
                image = _read(content, files.image)  # in most tars it comes first
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
    """The encoded images of a shard by key, read one at a time in any order. The keys are those of ``samples``."""

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
    """A file that can be read only for a limited time, measured in the reading thread's CPU time.

    Pillow reads most formats piece by piece. Some use loops in Python that a file can make long: over comments,
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


_Opened = tuple[PillowImage, _Source]


@dataclass(frozen=True, slots=True)
class Picture:
    """An image of which only the header has been read.

    ``stored``: width and height before it is turned; ``filled``: see `imagefiles.ImageFile`; ``opened``: by Pillow, but
    for a JPEG without a known fault, which needs it only if decoding shows one.
    """

    data: bytes
    stored: tuple[int, int]
    exif: bytes
    orientation: int
    filled: bytes | None
    limited: bool
    opened: _Opened | None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as shown."""
        width, height = self.stored
        return (height, width) if self.orientation >= TURNED else (width, height)

    @property
    def pixels(self) -> int:
        return self.stored[0] * self.stored[1]


@contextmanager
def reading(reason: str, pixels: int = 0) -> Iterator[None]:
    """Turns whatever a library raises about one image into ImageError(``reason``), with a line in the log.

    Raises ShortageError for the machine's shortages. When memory is short, decoders say that the image is broken, each
    in its own way. Therefore an error is followed by a test: is there the memory that ``pixels`` may take?
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
    """Reads the header of an image. With ``limited``, opening and decoding it must end in a limited time.

    Raises ImageError: not_an_image; truncated, if scans are missing; decompression_bomb, if the header says more than
    ``max_pixels`` or a side over MAX_SIDE, or the file needs far more work than images of its size do.
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
        if size := _jpeg_size(file):
            _check_size(*size, max_pixels)
            return Picture(file.data, size, file.exif, file.orientation, None, limited, opened=None)
        try:
            opened = image, _ = _opened_by_pillow(file.data, limited)
        except Exception as error:
            if data[8:12] != b"avif":
                raise
            check_shortage(error)
            no_exif = data.replace(b"Exif", b"skip")  # Pillow fails if EXIF is broken
            opened = image, _ = _opened_by_pillow(no_exif, limited)
    _check_size(*image.size, max_pixels)
    exif = file.exif or image.info.get("exif", b"")
    exif = exif.removeprefix(b"Exif\0\0") if isinstance(exif, bytes) else b""
    # For an AVIF, Pillow writes the turn by its boxes into EXIF. Browsers don't turn a WebP.
    turned = orientation(exif) if image.format == "AVIF" else file.orientation
    return Picture(file.data, image.size, exif, turned, file.filled, limited, opened)


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels or max(width, height) > MAX_SIDE:
        raise ImageError("decompression_bomb")


def _jpeg_size(file: ImageFile) -> tuple[int, int] | None:
    """Width and height of a JPEG that is decoded in one go; None for other files, and JPEG that have to be watched.

    Pillow would read its header in Python, byte by byte.
    """
    import simplejpeg

    if not file.scans or file.filled:
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(file.data)
    except (ValueError, RuntimeError) as error:  # a warning of libjpeg is enough
        log.debug("left to Pillow: %s", one_line(error, 200))
        return None
    quick = colours in ("Gray", "YCbCr", "RGB") and file.scans * width * height <= QUICK_WORK
    return (width, height) if quick else None


def _opened_by_pillow(data: bytes, limited: bool) -> _Opened:
    source = _Source(data, limited)
    source.allow(OPENING_SECONDS)
    return Image.open(source, formats=FORMATS), source


def to_rgb(picture: Picture, side: int | None = None) -> Image.Image:
    """The image right-side-up as RGB; transparent parts become white; of an animation, the first frame.

    With ``side``, a JPEG may be read at a half, a quarter or an eighth, and pixels may be averaged by a whole number,
    but no side gets shorter than ``side``. Raises ImageError: truncated, decompression_bomb.
    """
    with reading("not_an_image", picture.pixels):
        opened = picture.opened or _opened_by_pillow(picture.data, picture.limited)
    with reading("truncated", picture.pixels):
        image = _loaded(*opened, side)
        if picture.filled is not None:
            filled = _opened_by_pillow(picture.filled, limited=False)  # takes as long as the first
            if ImageChops.difference(image, _loaded(*filled, side)).getbbox():
                raise ImageError("truncated")
        rgb = _rgb(image)
        if side and (factor := min(rgb.size) // side) > 1:
            rgb = rgb.reduce(factor)
        turn = TURNS.get(picture.orientation)
        return rgb if turn is None else rgb.transpose(turn)


def to_array(picture: Picture, side: int | None = None) -> np.ndarray:
    """The same pixels as those of ``to_rgb``, as a uint8 array [height, width, 3]. Raises ImageError as that does.

    Nearly all images of the web are JPEG or plain WebP, and whole. They are decoded without Pillow, which copies pixels
    twice and takes Python's lock for each part of the file. Whatever is unusual or damaged is left to Pillow.
    """
    with reading("truncated", picture.pixels):
        array = _quick_webp(picture, side) if picture.opened else _quick_jpeg(picture, side)
        return _pixels(to_rgb(picture, side)) if array is None else _turned(array, picture.orientation)


def _quick_jpeg(picture: Picture, side: int | None) -> np.ndarray | None:
    """The pixels of a JPEG that has a `_jpeg_size`; None if decoding shows a fault."""
    import simplejpeg

    width, height = picture.stored
    scale = min(8, 1 << (min(width, height) // side).bit_length() - 1) if side and side <= min(width, height) else 1
    size = -(-height // scale), -(-width // scale)
    if side and min(size) >= 2 * side:
        return None
    try:
        array: np.ndarray = simplejpeg.decode_jpeg(
            picture.data, min_height=size[0], min_width=size[1], min_factor=scale
        )
    except (ValueError, RuntimeError) as error:  # a warning of libjpeg is enough
        log.debug("left to Pillow: %s", one_line(error, 200))
        return None
    return array if array.shape == (*size, 3) else None


def _quick_webp(picture: Picture, side: int | None) -> np.ndarray | None:
    """The pixels of a WebP that is but one lossy image; None for other files and for damaged ones."""
    import cv2

    data = picture.data
    is_plain = data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8 "
    if not is_plain or (side and min(picture.size) >= 2 * side):
        return None
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    same = bgr is not None and bgr.shape[1::-1] == picture.stored
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB, dst=bgr) if same else None


def _turned(array: np.ndarray, orientation: int) -> np.ndarray:
    """An array as shown."""
    if orientation >= TURNED:
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


def _loaded(image: PillowImage, source: _Source, side: int | None) -> Image.Image:
    if side:
        image.draft(None, (side, side))
    source.allow(DECODING_SECONDS + SECONDS_A_PIXEL * image.width * image.height)
    covered = image.tile[0][1] if image.format == "GIF" else None
    image.load()
    if covered and covered != (0, 0, *image.size) and "transparency" not in image.info:
        white = Image.new("RGB", image.size, "white")  # parts that the first frame leaves free are transparent
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

    Browsers show no other integers and floats. They are scaled from 0 to the smallest of 1 (only floats), 255 and 65535
    that no value exceeds, or else from the least value to the greatest. NaN is black.
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
    """An item, its place in the order, and its uint8 RGB array [height, width, 3] or the reason why there is none."""

    place: int
    item: Item
    image: np.ndarray | ImageError

    @property
    def pixels(self) -> int:
        return 0 if isinstance(self.image, ImageError) else self.image.shape[0] * self.image.shape[1]


def decode_ahead(items: Iterable[tuple[Item, bytes]], threads: int, limited: bool = True) -> Iterator[Decoded[Item]]:
    """Items with their images, which threads decode early.

    They come in order, except large images. These are set aside, and one thread decodes them one by one. Each comes
    after LATER more items have been read, or when more than ASIDE large ones wait. Thus the order depends on the images
    only, and at most one large image is held decoded.
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
    """Images that wait for their turn; a pool decodes the first ``early`` of them."""

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
    """The image with its header read, and the number of its pixels."""
    try:
        picture = open_image(data, limited=limited)
    except ImageError as error:
        return error, 0
    return picture, picture.pixels


def _array(opened: Picture | ImageError) -> np.ndarray | ImageError:
    if isinstance(opened, ImageError):
        return opened
    try:
        return to_array(opened)
    except ImageError as error:
        return error


def _pixels(rgb: Image.Image) -> np.ndarray:
    """The same as ``np.asarray``, which copies twice and blocks other Python threads meanwhile.

    Pillow shares an image without a copy, at four bytes a pixel, but only if it lies in one block of its memory:
    https://pillow.readthedocs.io/en/stable/reference/arrow_support.html
    """
    import cv2

    if 4 * rgb.width * rgb.height > BLOCK:
        return np.asarray(rgb)
    rgbx = pa.array(rgb).flatten().to_numpy().reshape(rgb.height, rgb.width, 4)
    return cv2.cvtColor(rgbx, cv2.COLOR_RGBA2RGB)


def crop(image: np.ndarray, box: np.ndarray, padding: float) -> np.ndarray:
    """The part of an image in a box, widened by ``padding`` of its size on each side and clipped; never empty."""
    height, width = image.shape[:2]
    x1, y1, x2, y2 = (float(v) for v in box)
    dx, dy = (x2 - x1) * padding, (y2 - y1) * padding
    left, top = min(max(int(x1 - dx), 0), width - 1), min(max(int(y1 - dy), 0), height - 1)
    right, bottom = max(min(int(x2 + dx + 0.999), width), left + 1), max(min(int(y2 + dy + 0.999), height), top + 1)
    return image[top:bottom, left:right]
