"""Prepares files of images for a decoder: only what the pixels need goes on, and EXIF is read here.

In images of the web, mostly the metadata are broken and the pixels are whole. Therefore JPEG and PNG are passed on
without texts, profiles, thumbnails and further frames, and TIFF with its first page only. All is done as browsers do,
measured with Chromium 156. The time depends only on the size of the file.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import ExifTags, Image

from laion_people.errors import check_shortage

# Scans of a JPEG at most. Each takes time for all pixels, even if it holds none: a file of 20 MB can take ten minutes
# (https://libjpeg-turbo.org/pmwiki/uploads/About/TwoIssueswiththeJPEGStandard.pdf). Programs write up to 20 scans.
# libtiff's limit is also 100 (JPEG_MAX_ALLOWED_SCAN_NUMBER); the TurboJPEG API's limit for this purpose is 500.
SCANS = 100
SEGMENTS = 5000  # segments of a JPEG at most; a profile or text of 16 MB takes 256
FILLING = 4096  # bytes of a JPEG that take the place of missing ones
MOST_STRIPS = 300_000  # strips or tiles of a TIFF; rows are 65,535 at most
# Bytes of a TIFF's strips for each byte of the file: more if strips share bytes, which are then decoded repeatedly.
SHARED = 4

PNG = b"\x89PNG\r\n\x1a\n"
INDEXED = b"\3"  # the colours of a PNG with a palette
MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)  # libjpeg, too, skips bytes between segments
MARKER_IN_SCAN = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)
SOI, EOI, SOS, APP0, APP1, APP14, APP15, COM = 0xD8, 0xD9, 0xDA, 0xE0, 0xE1, 0xEE, 0xEF, 0xFE
WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
PROGRESSIVE = {0xC2, 0xCA}
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
SHORT, RATIONAL = 3, 5
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
INTEGERS = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}
ORIENTATION, EXIF_IFD = int(ExifTags.Base.Orientation), int(ExifTags.IFD.Exif)
XMP, SUB_IMAGES = 700, 330
NOT_READ = {EXIF_IFD, int(ExifTags.IFD.GPSInfo), int(ExifTags.IFD.Interop), SUB_IMAGES, XMP}
COMPRESSION, STRIPS, STRIP_SIZES = 259, (273, 324), (279, 325)  # of strips and of tiles
LONGEST_TAG, LONGEST_TAGS = 200, 10_000  # characters of a value, and of names and values together


class TooMuchWork(Exception):
    """A file that needs far more time than images of its size do."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """The data for the decoder; the file's EXIF as TIFF, possibly empty or invalid; its orientation.

    A JPEG without an end marker gets one. ``filled`` is the same file with other bytes in place of missing ones: if the
    picture is whole, both show the same; if the decoder has to invent pixels, they differ. ``scans``: of a JPEG, the
    most that it can have; 0 for other files.
    """

    data: bytes
    exif: bytes = b""
    orientation: int = 1
    filled: bytes | None = None
    scans: int = 0


def image_file(data: bytes) -> ImageFile:
    """Raises TooMuchWork; and SyntaxError for a PNG with a damaged header, which browsers refuse."""
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data)
    if data.startswith(PNG):
        return _png(data)
    if data.startswith(TIFF):
        return _tiff(data)
    return ImageFile(data)


def _jpeg(data: bytes) -> ImageFile:
    """Drops, before the first scan, comments and the applications' segments, except the two that decide on colours."""
    kept, exif, frame = [data[:2]], None, b""
    at = 2
    for _ in range(SEGMENTS):
        match = MARKER.search(data, at)
        if not match or match[1][0] in (SOS, EOI):
            break
        marker, body = match[1][0], match.end() + 2
        if marker in WITHOUT_LENGTH:
            at = match.end()
            kept.append(data[at - 2 : at])
            continue
        end = match.end() + int.from_bytes(data[match.end() : body])
        if end < body or end > len(data):
            break
        head = data[body : min(end, body + 12)]
        if marker == APP1 and exif is None and head.startswith(b"Exif\0") and len(head) > 6:
            exif = data[body + 6 : end]  # browsers, too, read only the first
        elif (
            not (APP0 <= marker <= APP15 or marker == COM)
            or (marker == APP0 and head.startswith(b"JFIF\0") and end - body >= 14)
            or (marker == APP14 and head.startswith(b"Adobe") and end - body >= 12)
        ):
            kept.append(data[match.end() - 2 : end])
        if marker in FRAMES:
            frame = data[match.end() - 1 : end]
        at = end
    else:
        raise TooMuchWork(f"more than {SEGMENTS} segments")
    ended = data.endswith(b"\xff\xd9") or data.find(b"\xff\xd9", at) >= 0
    codes = np.frombuffer(data, np.uint8)[at:]
    most = int(np.count_nonzero((codes[:-1] == 0xFF) & (codes[1:] == SOS)))  # `bytes.count` takes three times as long
    scans = _scans(data, at) if not ended or most > SCANS else []
    kept.append(data[at:] if ended else data[at:].rstrip(b"\xff"))
    exif = exif or b""
    if ended or not scans:
        return ImageFile(b"".join(kept), exif, orientation(exif), scans=most)
    if not _complete(frame, scans):
        raise EOFError("scans are missing")
    filling = data[max(scans[-1].end, len(data) - FILLING) :].rstrip(b"\xff")
    end_marker = bytes([0xFF, EOI])
    filled = b"".join([*kept, filling, end_marker])
    return ImageFile(b"".join([*kept, end_marker]), exif, orientation(exif), filled, most)


@dataclass(frozen=True, slots=True)
class _Scan:
    """The end of its header; its components; its first and last coefficient; its lowest bit."""

    end: int
    components: bytes
    first: int
    last: int
    bit: int


def _scans(data: bytes, at: int) -> list[_Scan]:
    """The scans from ``at`` to the end of the image, or of the file."""
    scans: list[_Scan] = []
    for _ in range(SEGMENTS):
        match = MARKER_IN_SCAN.search(data, at)
        if not match or match[1][0] == EOI:
            return scans
        at = match.end()
        if match[1][0] in WITHOUT_LENGTH:
            continue
        segment = data[at : at + int.from_bytes(data[at : at + 2])]
        if match[1][0] == SOS and len(segment) >= 6:
            first, last, bits = segment[-3:]
            scans.append(_Scan(at + len(segment), segment[3:-3:2], first, last, bits & 15))
            if len(scans) > SCANS:
                raise TooMuchWork(f"more than {SCANS} scans")
        at += max(len(segment), 2)
    raise TooMuchWork(f"more than {SEGMENTS} segments")


def _complete(frame: bytes, scans: list[_Scan]) -> bool:
    """Whether scans have begun for each coefficient of each component, down to its lowest bit."""
    if len(frame) < 9:
        return False
    if frame[0] in PROGRESSIVE:
        begun = {(c, k) for s in scans if not s.bit for c in s.components for k in range(s.first, min(s.last, 63) + 1)}
        return begun >= {(c, k) for c in frame[9::3] for k in range(64)}
    return {c for s in scans for c in s.components} >= set(frame[9::3])


def _png(data: bytes) -> ImageFile:
    """Only the still image. Other chunks with a wrong checksum are skipped, as browsers do.

    The checksum of the pixels is ignored: they contain a second one, and either may be wrong.
    """
    header = palette = transparency = b""
    exif: bytes | None = None
    pixels: list[bytes] = []
    at = len(PNG)
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + size]
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"eXIf"):
            whole = data[at + 8 + size : at + 12 + size] == zlib.crc32(kind + body).to_bytes(4)
            if kind in (b"IHDR", b"PLTE") and not whole:
                raise SyntaxError(f"wrong checksum of {kind.decode()}")
            if kind == b"IHDR":
                header = header or body
            elif kind == b"PLTE":
                palette = palette or body
            elif kind == b"tRNS" and whole and not pixels and (palette or header[9:10] != INDEXED):
                transparency = transparency or body
            elif kind == b"eXIf" and whole and exif is None and not pixels:
                exif = body
        elif kind == b"IDAT":
            pixels.append(body)
        elif kind == b"IEND":
            break
        at += 12 + size
    if header[9:10] == INDEXED and not palette:
        raise SyntaxError("no PLTE")
    stream = b"".join(pixels)
    chunks = [(b"IHDR", header)]
    if palette:
        chunks.append((b"PLTE", palette))
    if len(header) > 9 and (transparency := _transparent(transparency, header[8], header[9])):
        chunks.append((b"tRNS", transparency))
    chunks += [(b"IDAT", stream[:-4]), (b"IDAT", stream[-4:]), (b"IEND", b"")]  # the last four bytes are a checksum
    written = (struct.pack(">I", len(d)) + k + d + zlib.crc32(k + d).to_bytes(4) for k, d in chunks)
    exif = exif or b""
    return ImageFile(PNG + b"".join(written), exif, orientation(exif))


def _transparent(values: bytes, depth: int, colours: int) -> bytes:
    """The transparent grey or colour with Pillow's bits: 8, or 16 for greys of 16; empty if it is cut off."""
    if len(values) < {0: 2, 2: 6}.get(colours, 0):
        return b""
    if colours == 0 and depth in (2, 4):
        grey = int.from_bytes(values[:2]) & (2**depth - 1)
        return (grey * 255 // (2**depth - 1)).to_bytes(2)
    if colours == 2 and depth == 16:
        return bytes([0, values[0], 0, values[2], 0, values[4]])
    return values[:256]


def _tiff(data: bytes) -> ImageFile:
    """The first page, upright. Directories that it points to are left out: broken ones make Pillow lose the page."""
    page, directory = bytearray(data), _Directory(data)
    strips, sizes, compressed = 0, None, False
    for entry in directory.entries:
        if entry.tag == ORIENTATION:
            struct.pack_into(directory.endian + "H", page, entry.at + 2, SHORT)
            struct.pack_into(directory.endian + directory.offset, page, entry.at + 4, 1)
            struct.pack_into(directory.endian + "H", page, entry.inline, 1)
        elif entry.tag in NOT_READ:
            page[entry.at + 2 : entry.at + 4] = b"\0\0"  # an invalid type: readers skip the tag
        elif entry.tag == COMPRESSION:
            compressed = directory.integers(entry)[:1].tolist() != [1]
        elif entry.tag in STRIPS:
            strips = max(strips, entry.count)
        elif entry.tag in STRIP_SIZES:
            sizes = int(directory.integers(entry).astype(np.uint64).clip(max=len(data)).sum())
    if strips > MOST_STRIPS:
        raise TooMuchWork(f"more than {MOST_STRIPS} strips")
    # If the sizes are missing, libtiff takes the rest of the file for each strip.
    if compressed and strips > 1 and (strips * len(data) if sizes is None else sizes) > SHARED * len(data):
        raise TooMuchWork("strips that share bytes")
    page[directory.following] = bytes(len(page[directory.following]))
    return ImageFile(bytes(page), data, orientation(data))


def webp_size(data: bytes) -> tuple[int, int]:
    """Width and height of a WebP: its decoder takes memory for all pixels on opening. Zeros for other files."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return 0, 0
    match data[12:16]:
        case b"VP8X":
            return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
        case b"VP8L":
            bits = int.from_bytes(data[21:25], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF


def orientation(exif: bytes) -> int:
    """The orientation, 1 to 8, of EXIF or a TIFF: the first valid one in its first directory, or else 1.

    As in browsers, XMP and other directories don't count, and an integer must be a SHORT. A RATIONAL, which some
    programs write, is read, too, though browsers don't.
    """
    directory = _Directory(exif)
    for entry in directory.entries:
        if entry.tag == ORIENTATION and entry.count == 1:
            value = directory.value(entry)
            if entry.type == SHORT:
                (turned,) = struct.unpack(directory.endian + "H", value)
            elif entry.type == RATIONAL and len(value) == 8:
                above, below = struct.unpack(directory.endian + "II", value)
                turned = above // below if below and not above % below else 0
            else:
                continue
            if 1 <= turned <= 8:
                return int(turned)
    return 1


def tags(exif: bytes) -> dict[str, str]:
    """The tags of the image and of the camera that have a name and a short value; no place (GPS), no offsets.

    The list ends before it has more than LONGEST_TAGS characters.
    """
    directory = _Directory(exif)
    entries = {entry.tag: (directory, entry) for entry in directory.entries}
    if EXIF_IFD in entries and (places := directory.integers(entries[EXIF_IFD][1]).tolist()):
        camera = _Directory(exif, places[0])
        entries |= {entry.tag: (camera, entry) for entry in camera.entries}
    short = {
        tag: (entry.type, entry.count, owner.value(entry))
        for tag, (owner, entry) in entries.items()
        if tag in ExifTags.TAGS and tag not in NOT_READ and 0 < entry.size <= LONGEST_TAG
    }
    read = Image.Exif()
    read.load(b"Exif\0\0" + directory.written(short))
    texts: dict[str, str] = {}
    left = LONGEST_TAGS
    for tag in short:
        try:
            text = str(read[tag])
        except Exception as error:  # no value, or one of a wrong type: Pillow reads values on access
            check_shortage(error)
            continue
        if len(text) <= LONGEST_TAG:
            left -= len(ExifTags.TAGS[tag]) + len(text)
            if left < 0:
                break
            texts[ExifTags.TAGS[tag]] = text
    return texts


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry of a directory: its place, and the place of its value if that is short."""

    at: int
    tag: int
    type: int
    count: int
    inline: int

    @property
    def size(self) -> int:
        return SIZES.get(self.type, 0) * self.count


class _Directory:
    """A directory of EXIF, a TIFF or a BigTIFF, by default the first: its entries, as far as they exist.

    ``following``: the bytes that hold the place of the next directory.
    """

    def __init__(self, tiff: bytes, at: int | None = None):
        self.entries: list[_Entry] = []
        self.following = slice(0, 0)
        self.endian = ">" if tiff[:2] == b"MM" else "<"
        big = tiff[2:4] in (b"+\0", b"\0+")
        self.offset = "Q" if big else "I"
        self._tiff, self._width = tiff, 8 if big else 4
        if tiff[:4] not in TIFF:
            return
        number = struct.Struct(self.endian + ("Q" if big else "H"))
        entry = struct.Struct(self.endian + ("HHQ" if big else "HHI"))
        if at is None:
            at = int.from_bytes(tiff[8:16] if big else tiff[4:8], self._order)
        if at + number.size > len(tiff):
            return
        (count,) = number.unpack_from(tiff, at)
        at += number.size
        step = entry.size + self._width
        there = min(count, (len(tiff) - at) // step)
        for place in range(at, at + there * step, step):
            tag, kind, values = entry.unpack_from(tiff, place)
            self.entries.append(_Entry(place, tag, kind, values, place + entry.size))
        if there == count:
            self.following = slice(at + count * step, at + count * step + self._width)

    @property
    def _order(self) -> Literal["little", "big"]:
        return "big" if self.endian == ">" else "little"

    def value(self, entry: _Entry) -> bytes:
        """The bytes of a value; fewer if it reaches beyond the end."""
        at = entry.inline
        if entry.size > self._width:
            at = int.from_bytes(self._tiff[at : at + self._width], self._order)
        return self._tiff[at : at + entry.size]

    def integers(self, entry: _Entry) -> np.ndarray:
        """The values of an entry with integers; none for other types."""
        if entry.type not in INTEGERS:
            return np.array([], np.uint64)
        kind = np.dtype(self.endian + INTEGERS[entry.type])
        value = self.value(entry)
        return np.frombuffer(value, kind, len(value) // kind.itemsize)

    def written(self, entries: dict[int, tuple[int, int, bytes]]) -> bytes:
        """EXIF of one directory with these entries, tag: (type, count, value)."""
        head = (b"II*\0" if self.endian == "<" else b"MM\0*") + struct.pack(self.endian + "IH", 8, len(entries))
        listed, values = [], []
        at = len(head) + 12 * len(entries) + 4
        for tag, (kind, count, value) in entries.items():
            listed.append(struct.pack(self.endian + "HHI", tag, kind, count))
            if len(value) <= 4:
                listed.append(value.ljust(4, b"\0"))
            else:
                listed.append(struct.pack(self.endian + "I", at))
                values.append(value)
                at += len(value)
        return head + b"".join(listed) + bytes(4) + b"".join(values)
