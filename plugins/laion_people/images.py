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

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")  # others, such as EPS, run programs or are not photos
# What Pillow and its decoders raise for broken files.
BROKEN = (OSError, ValueError, SyntaxError, TypeError, LookupError, EOFError, RuntimeError, struct.error, zlib.error)
MAX_PIXELS = 100_000_000  # what a stored image may have at most; img2dataset can be told to store originals

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
    """The samples of a shard in tar order. Raises LaionPeopleError when the tar is damaged."""
    key, image = "", None
    fields: dict[str, Any] = {}
    try:
        with tarfile.open(tar, "r|") as archive:
            for member in archive:
                stem, _, suffix = member.name.rpartition(".")
                if stem != key:
                    if image is not None:
                        yield Sample(key, image, fields)
                    key, image, fields = stem, None, {}
                file = archive.extractfile(member)
                if file and suffix in IMAGE_SUFFIXES:
                    image = file.read()
                elif file and suffix == "json":
                    fields = dict(json.loads(file.read()))
            _check_end(tar, archive.offset)
    except (tarfile.TarError, ValueError, TypeError, EOFError) as error:
        raise LaionPeopleError(f"{tar.name} is damaged: {error}") from error
    if image is not None:
        yield Sample(key, image, fields)


def _check_end(tar: Path, offset: int) -> None:
    """Raises ReadError unless a tar ends with a block of zeros at ``offset``: tarfile takes any end for the end."""
    with tar.open("rb") as file:
        file.seek(offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("it has been cut off")


class TarImages:
    """The encoded images of a shard by key, read one at a time in any order."""

    def __init__(self, tar: Path):
        self._tar = tar
        with tarfile.open(tar, "r:") as archive:
            members = [(*m.name.rpartition("."), m.offset_data, m.size) for m in archive]
        self._places = {key: (start, size) for key, _, suffix, start, size in members if suffix in IMAGE_SUFFIXES}

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

    ``image(item)`` gives the encoded bytes; an image that cannot be decoded comes as its ImageError.
    """

    def work(item: Any) -> np.ndarray | ImageError:
        try:
            return np.asarray(decode(image(item)))
        except ImageError as error:
            return error

    source = iter(items)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        waiting = deque((item, pool.submit(work, item)) for item in islice(source, ahead))
        while waiting:
            item, future = waiting.popleft()
            yield item, future.result()
            waiting.extend((late, pool.submit(work, late)) for late in islice(source, 1))


def crop(image: np.ndarray, box: np.ndarray, padding: float) -> np.ndarray:
    """The part of an image in a box that is widened by ``padding`` of its size on each side, clipped; never empty."""
    height, width = image.shape[:2]
    x1, y1, x2, y2 = (float(v) for v in box)
    dx, dy = (x2 - x1) * padding, (y2 - y1) * padding
    left, top = min(max(int(x1 - dx), 0), width - 1), min(max(int(y1 - dy), 0), height - 1)
    right, bottom = max(min(int(x2 + dx + 0.999), width), left + 1), max(min(int(y2 + dy + 0.999), height), top + 1)
    return image[top:bottom, left:right]
