"""Tars of samples, whoever packed them: their files, and which of these are a sample's image, fields and caption.

Samples are grouped as webdataset does it (a key up to the first dot, a suffix in small letters, the files of a sample
side by side): https://github.com/webdataset/webdataset/blob/main/src/webdataset/tariterators.py. `tarfile` reads a
header, but doesn't walk them: it keeps every member, reads a long name of any size, takes what is no header for the
end, and stops where the first of several archives ends.
"""

from __future__ import annotations

import re
import sys
import tarfile
from collections.abc import Collection, Iterable, Iterator
from typing import BinaryIO, NamedTuple

from laion_people.errors import LaionPeopleError, check_shortage

BLOCK = tarfile.BLOCKSIZE
MOST_HEADER = 1 << 20  # bytes of a header that holds names and attributes; those of real files take some thousand
MOST_PADDING = 1 << 24  # zeros behind the end; GNU tar pads to 10,240 bytes unless it is told otherwise
LONGEST_KEY = 255  # characters, as many as a file's name has
LONG_NAMES = {tarfile.GNUTYPE_LONGNAME: "path", tarfile.GNUTYPE_LONGLINK: "linkpath"}
PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
PAX_RECORD = re.compile(rb"(\d{1,8}) ([^=]{1,999})=")  # its length, all of it, and what it tells of

IMAGE_SUFFIXES = ("jpg", "png", "jpeg", "webp", "jpe", "jfif", "gif", "bmp", "tif", "tiff", "avif")
TEXT_SUFFIXES = ("txt", "caption", "text")
KINDS = {  # suffix -> what a file is, and its rank: of several, the first is taken
    suffix: (kind, rank)
    for kind, suffixes in (("image", IMAGE_SUFFIXES), ("json", ("json",)), ("text", TEXT_SUFFIXES))
    for rank, suffix in enumerate(suffixes)
}
COMPOUND = 100  # the rank of suffixes such as image.jpg and seg.png, which may be the sample's image or about it
# What systems leave behind in folders that are packed, and webdataset's own remarks.
LEFT_BEHIND = re.compile(r"(.*/)?(__MACOSX|PaxHeaders?(\.\d+)?|__[^/]*__)(/.*)?")

SAMPLE_REASONS = {  # why a sample of a tar that was made elsewhere has no image
    "no_image": "none of its files is called as images are, or what is so called is a link or a file with holes",
    "several_images": "two of its files could each be the image, by their names",
    "file_too_large": "the image file is larger than any picture of 100 megapixels",
    "bad_key": "its files have no name before the dot, or one of more than 255 characters",
}
MOST_BYTES = 1 << 29

Place = tuple[int, int]  # start and size in bytes


class TarError(LaionPeopleError):
    """A tar that is damaged, or whose samples cannot be told apart."""


class Member(NamedTuple):
    """A file of a tar; ``header`` is where its first header starts.

    ``place`` is None for what has no bytes there: ``link`` is the name that a hard link stands for, "" for symbolic
    links, devices and sparse files.
    """

    name: str
    header: int
    place: Place | None
    link: str


class Files(NamedTuple):
    """Where the files of a sample are; ``unusable`` is a reason of SAMPLE_REASONS, or "" when it has an image."""

    key: str
    unusable: str
    image: Place | None
    json: Place | None
    text: Place | None


def members(file: BinaryIO, name: str, start: int, end: int, most: int = sys.maxsize) -> Iterator[Member]:
    """The files, in any sense but folders, of a tar of ``end`` bytes from the header at ``start`` on.

    What headers say is believed within these bytes only. ``name`` is the tar's, for errors: raises TarError when a
    header is damaged, the tar is cut off or goes on behind its end, or it has more than ``most`` headers.
    """
    first, offset = start, start
    more: dict[str, str] = {}  # what headers before a file's own say about it
    for _ in range(most):
        file.seek(offset)
        block = file.read(BLOCK)
        if len(block) < BLOCK:
            raise TarError("damaged-tar", f"{name} is damaged: it has been cut off at byte {end:,}")
        if block == bytes(BLOCK):
            _check_padding(file, name, offset + BLOCK)
            return
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
            kind = header.type
            extends = kind in LONG_NAMES or kind in PAX
            size = header.size if extends else int(more.get("size", header.size))
        except Exception as error:
            check_shortage(error)
            raise TarError("damaged-tar", f"{name} is damaged: {error} at byte {offset:,}") from error
        if not (extends or kind in tarfile.REGULAR_TYPES or kind not in tarfile.SUPPORTED_TYPES):
            size = 0  # links and devices have no data, whatever they say
        if size < 0 or (extends and size > MOST_HEADER):
            raise TarError("damaged-tar", f"{name} is damaged: the header at byte {offset:,} tells of {size:,} bytes")
        offset += BLOCK
        if kind == tarfile.GNUTYPE_SPARSE:
            offset = _after_sparse_map(file, offset, block)
        if offset + size > end:
            raise TarError(
                "damaged-tar",
                f"{name} is damaged: cut off at byte {end:,}, while a file of {size:,} bytes starts at {offset:,}",
            )
        place = offset, size
        offset += -(-size // BLOCK) * BLOCK
        if extends:
            file.seek(place[0])
            more |= _extended(kind, file.read(size))
        elif kind != tarfile.XGLTYPE:
            if kind != tarfile.DIRTYPE:
                plain = kind in tarfile.REGULAR_TYPES and kind != tarfile.GNUTYPE_SPARSE and "sparse" not in more
                link = more.get("linkpath", header.linkname) if kind == tarfile.LNKTYPE else ""
                yield Member(more.get("path") or header.name, first, place if plain else None, link)
            first, more = offset, {}
    raise TarError("tar-layout", f"{name} has more than {most:,} headers")


class Contents:
    """The samples of a tar, walked once from front to back; a walk that was stopped goes on where it was.

    ``kinds`` are the files that are of interest. Hard links to earlier ones of their kind are followed.
    """

    def __init__(self, name: str, kinds: Iterable[str] = ("image", "json", "text")):
        self._name, self._next = name, 0
        self._keys: set[str] = set()
        # Of each kind, where the files are, by the hashes of their names: these may be long.
        self._places: dict[str, dict[int, Place]] = {kind: {} for kind in kinds}

    def walk(self, file: BinaryIO, end: int, most: int = sys.maxsize) -> Iterator[Files]:
        """The samples in the order of the tar. Raises TarError as ``members`` does, and when a key comes again."""
        for group, after in self._groups(members(file, self._name, self._next, end, most), end):
            if not group.unusable:
                if group.key in self._keys:
                    raise TarError(
                        "tar-layout",
                        f"{self._name}: the files of sample {group.key!r} must lie together, in one folder, and no "
                        "other sample have its key: pack it anew with `tar --sort=name`",
                    )
                self._keys.add(group.key)
            self._next = after
            yield group.files()

    def _groups(self, files: Iterator[Member], end: int) -> Iterator[tuple[_Group, int]]:
        """The files of each sample, and the header behind them; also of a damaged tar, as far as it is whole."""
        group: _Group | None = None
        current = folder = None
        left_behind = False
        try:
            for member in files:
                in_folder, _, base = member.name.rpartition("/")
                if in_folder != folder:
                    folder, left_behind = in_folder, bool(LEFT_BEHIND.fullmatch(in_folder))
                stem, _, suffix = base.partition(".")
                inner, _, last = suffix.rpartition(".")
                kind, rank = KINDS.get(last.lower(), ("", 0))
                hidden = not stem and (kind != "image" or inner)  # but .jpg, an image without a key
                if hidden or left_behind or LEFT_BEHIND.fullmatch(stem):
                    continue
                if group is None or not stem or (folder, stem) != current:
                    if group is not None:
                        yield group, member.header
                    group, current = _Group(stem), (folder, stem)
                if (places := self._places.get(kind)) is not None:
                    place = places.get(hash(member.link)) if member.link else member.place
                    if place:
                        places[hash(member.name)] = place
                        group.add(kind, COMPOUND if inner else rank, place)
        except TarError:
            if group is not None:
                yield group, end
            raise
        if group is not None:
            yield group, end


def without(file: BinaryIO, end: int, name: str, keys: Collection[str], out: BinaryIO) -> None:
    """Copies a tar of ``end`` bytes without the samples of these keys; the bytes of all others stay what they are.

    Raises TarError as ``members`` does.
    """
    copied = stop = 0
    leaves = False
    for member in members(file, name, 0, end):
        if leaves:
            copied = member.header
        stem = printable(member.name.rpartition("/")[2].partition(".")[0])
        if stem in keys and not leaves:
            _copy(file, copied, member.header, out)
        leaves = stem in keys
        start, size = member.place or (end, 0)  # of links and files with holes it is not known where they end
        stop = start + -(-size // BLOCK) * BLOCK
    if not leaves:
        _copy(file, copied, stop, out)
    out.write(bytes(2 * BLOCK + -(out.tell() + 2 * BLOCK) % tarfile.RECORDSIZE))  # as `tarfile` ends its archives


def _copy(file: BinaryIO, start: int, stop: int, out: BinaryIO) -> None:
    file.seek(start)
    while start < stop and (data := file.read(min(stop - start, 1 << 20))):
        out.write(data)
        start += len(data)


def printable(stem: str) -> str:
    """A key is part of ids, addresses and logs: what cannot be seen in it is written as Python writes it."""
    return stem if stem.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in stem)


class _Group:
    """The files of a sample so far: of each kind, the one whose suffix ranks first."""

    __slots__ = ("_found", "_several", "key", "unusable")

    def __init__(self, stem: str):
        self.key = printable(stem)
        self.unusable = "" if 0 < len(self.key) <= LONGEST_KEY else "bad_key"
        self._found: dict[str, tuple[int, Place]] = {}
        self._several = False  # images of the rank that is the first so far

    def add(self, kind: str, rank: int, place: Place) -> None:
        before = self._found[kind][0] if kind in self._found else sys.maxsize
        if rank < before:
            self._found[kind] = rank, place
        if kind == "image" and rank <= before:
            self._several = rank == before

    def files(self) -> Files:
        image, fields, text = (self._found.get(kind, (0, None))[1] for kind in ("image", "json", "text"))
        unusable = self.unusable
        if not unusable and not image:
            unusable = "no_image"
        elif not unusable and self._several:
            unusable = "several_images"
        elif not unusable and image and image[1] > MOST_BYTES:
            unusable = "file_too_large"
        return Files(self.key, unusable, image, fields, text)


def _check_padding(file: BinaryIO, name: str, offset: int) -> None:
    """Raises TarError unless nothing but some zeros is left."""
    stop = offset + MOST_PADDING
    file.seek(offset)
    while offset < stop and (data := file.read(1 << 16)):
        if rest := data.lstrip(b"\0"):
            at = offset + len(data) - len(rest)
            raise TarError(
                "tar-layout",
                f"{name} has another archive behind its end, or something else, at byte {at:,}: unpack it with "
                "`tar -i`, and pack it anew",
            )
        offset += len(data)
    if offset >= stop:
        raise TarError("tar-layout", f"{name} has more than {MOST_PADDING:,} zeros behind its end: pack it anew")


def _after_sparse_map(file: BinaryIO, offset: int, header: bytes) -> int:
    """Where the data of a GNU sparse file starts: its map may go on in blocks of its own."""
    goes_on = header[482]
    while goes_on:
        file.seek(offset)
        goes_on = (file.read(BLOCK) or bytes(BLOCK))[-8:][0]
        offset += BLOCK
    return offset


def _extended(kind: bytes, data: bytes) -> dict[str, str]:
    """What a GNU or a PAX header tells of the file after it: path, linkpath, size, and whether it is ``sparse``."""
    if kind in LONG_NAMES:
        return {LONG_NAMES[kind]: data.partition(b"\0")[0].decode(errors="backslashreplace")}
    fields: dict[str, str] = {}
    at = 0
    while record := PAX_RECORD.match(data, at):
        end = at + int(record[1])
        if end <= record.end():
            break
        key = record[2].decode(errors="replace")
        if key.startswith("GNU.sparse."):
            fields["sparse"] = ""
            key = "path" if key == "GNU.sparse.name" else ""
        if key in ("path", "linkpath", "size"):
            fields[key] = data[record.end() : end - 1].decode(errors="backslashreplace")
        at = end
    return fields
