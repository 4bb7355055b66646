"""Images of a shard: reading img2dataset-style tars, decoding with care, and batches that are decoded ahead."""

from __future__ import annotations

import io
import json
import os
import struct
import tarfile
import warnings
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from laion_people.errors import LaionPeopleError
from laion_people.metadata import text

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")  # others, such as EPS, run programs or are not photos
# What Pillow and its decoders raise for broken files.
BROKEN = (OSError, ValueError, SyntaxError, TypeError, LookupError, EOFError, RuntimeError, struct.error, zlib.error)
MAX_PIXELS = 100_000_000  # what a stored image may have at most; img2dataset can be told to store originals
LARGE_PIXELS = 20_000_000  # images above are decoded one at a time: they take up to 12 bytes a pixel
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
        with tarfile.open(tar, "r|") as archive:
            for member, its_key, suffix in _files(archive):
                if its_key != key:
                    if image is not None:
                        yield Sample(key, image, fields)
                    key, image, fields = its_key, None, {}
                file = archive.extractfile(member)
                if file and suffix in IMAGE_SUFFIXES:
                    image = file.read()
                elif file and suffix == "json":
                    fields = _fields(file.read())
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


def decode_ahead(items: Iterable[Any], image: Any, ahead: int = 32) -> Iterator[tuple[Any, np.ndarray | ImageError]]:
    """Each item with its decoded uint8 RGB array [height, width, 3], in order; threads decode up to ``ahead`` early.

    ``image(item)`` gives the encoded bytes; an image that cannot be decoded comes as its ImageError. Large images are
    not decoded early but when it is their turn, so that no more than one is held here.
    """

    def work(item: Any, max_pixels: int) -> np.ndarray | ImageError:
        try:
            return np.asarray(decode(image(item), max_pixels))
        except ImageError as error:
            return error

    source = iter(items)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        waiting = deque((item, pool.submit(work, item, LARGE_PIXELS)) for item in islice(source, ahead))
        while waiting:
            item, future = waiting.popleft()
            decoded = future.result()
            if isinstance(decoded, ImageError) and str(decoded) == "decompression_bomb":
                decoded = work(item, MAX_PIXELS)
            yield item, decoded
            waiting.extend((late, pool.submit(work, late, LARGE_PIXELS)) for late in islice(source, 1))


def crop(image: np.ndarray, box: np.ndarray, padding: float) -> np.ndarray:
    """The part of an image in a box that is widened by ``padding`` of its size on each side, clipped; never empty."""
    height, width = image.shape[:2]
    x1, y1, x2, y2 = (float(v) for v in box)
    dx, dy = (x2 - x1) * padding, (y2 - y1) * padding
    left, top = min(max(int(x1 - dx), 0), width - 1), min(max(int(y1 - dy), 0), height - 1)
    right, bottom = max(min(int(x2 + dx + 0.999), width), left + 1), max(min(int(y2 + dy + 0.999), height), top + 1)
    return image[top:bottom, left:right]
