"""Images of a shard: reading img2dataset-style tars, and decoding with care, in threads that run ahead."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import warnings
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps

from laion_people.errors import LaionPeopleError
from laion_people.metadata import text
from laion_people.overlap import cores, workers

Item = TypeVar("Item")

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")  # others, such as EPS, run programs or are not photos
# What Pillow and its decoders raise for broken files.
BROKEN = (OSError, ValueError, SyntaxError, TypeError, LookupError, EOFError, RuntimeError, struct.error, zlib.error)
MAX_PIXELS = 100_000_000  # what a stored image may have at most; img2dataset can be told to store originals
LARGE_PIXELS = 20_000_000  # images above are decoded one at a time: they take up to 12 bytes a pixel
AHEAD, AHEAD_PIXELS = 256, 64_000_000  # images that are decoded early, and their pixels: some batches' worth
ASIDE = 4  # large images that wait, still encoded but for the first
LATER = 1024  # images read after a large one before it takes its turn: some seconds of work, in which it is decoded
BLOCK = 4_000_000  # bytes of an image that lies in one block for sure: Pillow's blocks are of 16 MiB unless it is told
DAMAGED = (tarfile.TarError, ValueError, TypeError, EOFError)  # what tarfile raises for broken tars

Image.MAX_IMAGE_PIXELS = None  # sizes are checked here, against the caller's limit
warnings.filterwarnings("ignore", module=r"PIL\.")  # remarks on broken EXIF; a block would not be safe with threads


class ImageError(Exception):
    """An image that cannot be used; the message is the reason that is counted (``truncated``, ``not_an_image``)."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of a tar: its key, the encoded image and the fields of its json."""

    key: str
    image: bytes
    fields: dict[str, Any] = field(default_factory=dict)


def samples(tar: Path) -> Iterator[Sample]:
    """The samples of a shard in tar order. Raises LaionPeopleError when the tar is damaged or repeats a key.

    The json of tars made elsewhere can be anything: where it is missing or no JSON object, the sample has no fields.
    """
    key, image = "", None
    fields: dict[str, Any] = {}
    try:
        with tarfile.open(tar, "r:") as archive, tar.open("rb") as content:
            for member, its_key, suffix in _files(archive):
                if its_key != key:
                    if image is not None:
                        yield Sample(key, image, fields)
                    key, image, fields = its_key, None, {}
                if suffix in IMAGE_SUFFIXES or suffix == "json":
                    content.seek(member.offset_data)  # a third less time than extractfile takes
                    data = content.read(member.size)
                    if suffix == "json":
                        fields = _fields(data)
                    else:
                        image = data
            _check_end(tar, archive.offset)
    except DAMAGED as error:
        raise LaionPeopleError(f"{tar.name} is damaged: {error}") from error
    if image is not None:
        yield Sample(key, image, fields)


def _files(archive: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, str, str]]:
    """The regular files of a tar, each with its sample's key and its suffix: ``a`` and ``mask.png`` of d/a.mask.png.

    Keys become part of ids: raises ReadError when one is empty, or comes again after others or in another folder.
    """
    seen: set[str] = set()
    current: tuple[str, str] | None = None
    for member in archive:
        if not member.isfile():
            continue
        folder, _, name = text(member.name).rpartition("/")
        key, _, suffix = name.partition(".")
        if not key:
            raise tarfile.ReadError(f"{name!r} has no key")
        if (folder, key) != current:
            if key in seen:
                raise tarfile.ReadError(f"key {key!r} twice")
            seen.add(key)
            current = folder, key
        yield member, key, suffix


def _fields(data: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _check_end(tar: Path, offset: int) -> None:
    """Raises ReadError unless a tar ends with a block of zeros at ``offset``: tarfile takes any end for the end."""
    with tar.open("rb") as file:
        file.seek(offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("it has been cut off")


class TarImages:
    """The encoded images of a shard by key, read one at a time in any order; the keys are those of ``samples``."""

    def __init__(self, tar: Path):
        self._tar = tar
        try:
            with tarfile.open(tar, "r:") as archive:
                files = [(key, suffix, m.offset_data, m.size) for m, key, suffix in _files(archive)]
        except DAMAGED as error:
            raise LaionPeopleError(f"{tar.name} is damaged: {error}") from error
        self._places = {key: (start, size) for key, suffix, start, size in files if suffix in IMAGE_SUFFIXES}

    def keys(self) -> list[str]:
        return list(self._places)

    def read(self, key: str) -> bytes:
        start, size = self._places[key]
        with self._tar.open("rb") as file:
            file.seek(start)
            return file.read(size)


def open_image(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """An image whose header alone is read so far.

    Raises ImageError: not_an_image, or decompression_bomb when the header tells of more than ``max_pixels``.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
    except BROKEN:
        raise ImageError("not_an_image") from None
    if image.width * image.height > max_pixels:
        raise ImageError("decompression_bomb")
    return image


def to_rgb(image: Image.Image) -> Image.Image:
    """The image right-side-up and as RGB; transparency is laid on white; of an animation, the first frame.

    Raises ImageError: truncated.
    """
    try:
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            image = image if image.mode == "RGBA" else image.convert("RGBA")
            white = Image.new("RGB", image.size, "white")
            white.paste(image, mask=image)
            return white
        return image if image.mode == "RGB" else image.convert("RGB")
    except BROKEN:
        raise ImageError("truncated") from None


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """A right-side-up RGB image. Raises ImageError as ``open_image`` and ``to_rgb`` do."""
    return to_rgb(open_image(data, max_pixels))


@dataclass(frozen=True, slots=True)
class Decoded(Generic[Item]):
    """An item, its place among all, and its uint8 RGB array [height, width, 3] or the reason why there is none."""

    place: int
    item: Item
    image: np.ndarray | ImageError

    @property
    def pixels(self) -> int:
        return 0 if isinstance(self.image, ImageError) else self.image.shape[0] * self.image.shape[1]


def decode_ahead(items: Iterable[tuple[Item, bytes]], threads: int | None = None) -> Iterator[Decoded[Item]]:
    """Items with their decoded images; threads, default one a core, decode the encoded ones early.

    They come in order, but for large images: these are set aside, a thread of their own decodes one after the other,
    and each takes its turn when LATER more items have been read or ASIDE more large ones wait. So the order follows
    from the images alone, and of the large ones no more than one is held here decoded.
    """
    with workers(threads or cores()) as pool, workers(1) as alone:
        ahead: _Queue[Item] = _Queue(pool, AHEAD + 1)
        aside: _Queue[Item] = _Queue(alone, 1)
        for place, (item, data) in enumerate(items):
            opened, pixels = _opened(data)
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
        self._encoded: deque[Image.Image | ImageError] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def first(self) -> int:
        """The place of the image whose turn comes next."""
        return self._waiting[0][0]

    def put(self, place: int, item: Item, opened: Image.Image | ImageError, pixels: int) -> None:
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


def _opened(data: bytes) -> tuple[Image.Image | ImageError, int]:
    """The image with its header read, and its pixels."""
    try:
        image = open_image(data)
    except ImageError as error:
        return error, 0
    return image, image.width * image.height


def _array(opened: Image.Image | ImageError) -> np.ndarray | ImageError:
    try:
        return opened if isinstance(opened, ImageError) else _pixels(to_rgb(opened))
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
