from __future__ import annotations

import errno
import io
import json
import logging
import random
import struct
import subprocess
import tarfile
import threading
import time
import weakref
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from laion_people.errors import LaionPeopleError, ShortageError
from laion_people.vision import images
from laion_people.vision.imagefiles import orientation, tags, webp_size
from laion_people.vision.images import (
    ImageError,
    Picture,
    TarImages,
    crop,
    decode,
    decode_ahead,
    open_image,
    samples,
    to_rgb,
)
from tests.fakes import jpeg, tar_of


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def test_every_kind_of_file_comes_out_as_right_side_up_rgb() -> None:
    red = Image.new("RGB", (40, 20), (200, 30, 30))
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: the camera was turned
    clear = Image.new("RGBA", (40, 20), (0, 0, 0, 0))
    cases = {
        "cmyk": (encoded(red.convert("CMYK"), "JPEG"), (40, 20), (200, 30, 30)),
        "grey": (encoded(Image.new("L", (40, 20), 90), "JPEG"), (40, 20), (90, 90, 90)),
        "alpha": (encoded(clear, "PNG"), (40, 20), (255, 255, 255)),
        "palette": (encoded(red.quantize(), "PNG"), (40, 20), (200, 30, 30)),
        "webp": (encoded(red, "WEBP", lossless=True), (40, 20), (200, 30, 30)),
        "animated": (encoded(red, "GIF", save_all=True, append_images=[Image.new("RGB", (40, 20))]), (40, 20), None),
        "rotated": (encoded(red, "JPEG", exif=exif), (20, 40), (200, 30, 30)),
        "16 bit": (encoded(Image.new("I;16", (40, 20), 65535), "PNG"), (40, 20), (255, 255, 255)),
    }
    for name, (data, size, colour) in cases.items():
        image = decode(data)
        assert (image.mode, image.size) == ("RGB", size), name
        if colour:
            assert np.abs(np.array(image.getpixel((5, 5))) - colour).max() < 12, name


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not_an_image"),
        (b"<html>gone</html>", "not_an_image"),
        (jpeg(100, (300, 300))[:700], "truncated"),
        (encoded(Image.new("1", (20_000, 20_000)), "PNG"), "decompression_bomb"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError) as caught:
        decode(data)
    assert str(caught.value) == reason


QUARTERS = np.array([[[220, 60, 60], [80, 215, 80]], [[60, 80, 220], [250, 235, 80]]], np.uint8)  # all differ
UPRIGHT = Image.fromarray(QUARTERS.repeat(16, 0).repeat(24, 1))  # 48 x 32
ORIENTATION = 0x0112


def corners(image: Image.Image) -> list[int]:
    """The quarters of UPRIGHT at the top left, top right, bottom left and bottom right."""
    width, height = image.size
    places = [(2, 2), (width - 3, 2), (2, height - 3), (width - 3, height - 3)]
    colours = np.array([image.getpixel(place) for place in places])
    return [int(np.abs(QUARTERS.reshape(4, 3).astype(int) - c).sum(1).argmin()) for c in colours]


def directory(*entries: tuple[int, int, int, bytes], endian: str = "<") -> bytes:
    """EXIF with these entries: tag, type, count, value."""
    head = (b"II*\0" if endian == "<" else b"MM\0*") + struct.pack(endian + "IH", 8, len(entries))
    listed, values = b"", b""
    for tag, kind, count, value in entries:
        at = struct.pack(endian + "I", len(head) + 12 * len(entries) + 4 + len(values))
        listed += struct.pack(endian + "HHI", tag, kind, count) + (at if len(value) > 4 else value.ljust(4, b"\0"))
        values += value if len(value) > 4 else b""
    return head + listed + bytes(4) + values


def turned(value: int = 6, kind: int = 3, count: int = 1) -> tuple[int, int, int, bytes]:
    return ORIENTATION, kind, count, struct.pack("<II" if kind == 5 else "<HH", value, 1)


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def with_exif(exif: bytes, name: bytes = b"Exif\0\0") -> bytes:
    data = encoded(UPRIGHT, "JPEG", quality=95)
    return data[:2] + segment(0xE1, name + exif) + data[2:]


def chunk(kind: bytes, content: bytes, wrong: bool = False) -> bytes:
    checksum = zlib.crc32(kind + content) ^ wrong
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png_with(*chunks: bytes) -> bytes:
    data = encoded(UPRIGHT, "PNG")
    return data[:33] + b"".join(chunks) + data[33:]


@pytest.mark.parametrize("value", range(1, 9))
def test_a_jpeg_is_turned_as_its_exif_says(value: int) -> None:
    shown = {1: [0, 1, 2, 3], 2: [1, 0, 3, 2], 3: [3, 2, 1, 0], 4: [2, 3, 0, 1]}
    shown |= {5: [0, 2, 1, 3], 6: [2, 0, 3, 1], 7: [3, 1, 2, 0], 8: [1, 3, 0, 2]}
    data = with_exif(directory(turned(value)))
    assert corners(decode(data)) == shown[value]
    assert decode(data).size == open_image(data).size == ((48, 32) if value < 5 else (32, 48))


AVIF_WITH_ODD_EXIF = encoded(UPRIGHT, "AVIF", exif=directory(turned(), (0x010F, 2, 8, b"makers!\0")), quality=95)
AVIF_WITH_ODD_EXIF = AVIF_WITH_ODD_EXIF.replace(struct.pack("<HHI", 0x010F, 2, 8), struct.pack("<HHI", 0x010F, 5, 1))
SUB_DIRECTORY = directory((0x8769, 4, 1, struct.pack("<I", 26)))[:-4] + bytes(4) + directory(turned())[8:]


@pytest.mark.parametrize(  # all except RATIONAL as Chromium 156 shows them
    ("data", "is_turned"),
    [
        (with_exif(directory((ORIENTATION, 3, 1, b"\0\6"), endian=">")), True),
        (with_exif(directory(turned(9), turned(6), turned(1))), True),
        (with_exif(directory(turned(1), turned(6))), False),
        (with_exif(directory(turned(0))), False),
        (with_exif(directory(turned(9))), False),
        (with_exif(directory(turned(65535))), False),
        (with_exif(directory(turned(kind=4))), False),
        (with_exif(directory(turned(kind=5))), True),
        (with_exif(directory(turned(count=2))), False),
        (with_exif(SUB_DIRECTORY), False),
        (with_exif(directory(turned(1)))[:2] + with_exif(directory(turned(6)))[2:], True),
        (with_exif(b'<x tiff:Orientation="6"/>', b"http://ns.adobe.com/xap/1.0/\0"), False),
        (with_exif(directory(turned())[:22]), True),  # cut off after the value
        (with_exif(directory(turned())[:14]), False),
        (with_exif(directory((0x010F, 5, 1, struct.pack("<II", 1, 2)), turned())), True),  # Pillow#8965
        (with_exif(directory((0x829A, 10, 1, b"\xff" * 8), turned())), True),
        (png_with(chunk(b"eXIf", directory(turned()))), True),
        (png_with(chunk(b"eXIf", directory(turned()), wrong=True)), False),
        (encoded(UPRIGHT, "WEBP", exif=directory(turned()), lossless=True), False),
        (encoded(UPRIGHT, "TIFF", tiffinfo={ORIENTATION: 6}), True),
        (encoded(UPRIGHT, "TIFF", tiffinfo={ORIENTATION: 6}, compression="tiff_lzw"), True),
        (encoded(UPRIGHT, "TIFF", tiffinfo={ORIENTATION: 9}), False),
        (encoded(UPRIGHT, "AVIF", exif=directory(turned()), quality=95), True),
        (AVIF_WITH_ODD_EXIF, True),
    ],
)
def test_other_orientations_turn_an_image_if_browsers_do(data: bytes, is_turned: bool) -> None:
    picture = open_image(data)
    image = to_rgb(picture)
    assert corners(image) == ([2, 0, 3, 1] if is_turned else [0, 1, 2, 3])
    assert picture.size == image.size


RAMP = np.arange(256, dtype=np.uint16).repeat(64).reshape(128, 128)


def png(depth: int, colours: int, rows: bytes, *chunks: bytes) -> bytes:
    """4 x 4 pixels."""
    header = struct.pack(">IIBBBBB", 4, 4, depth, colours, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    )


def as_unsigned(tiff: bytes) -> bytes:
    """A TIFF with its integers marked as unsigned."""
    return tiff.replace(struct.pack("<HHIH", 339, 3, 1, 2), struct.pack("<HHIH", 339, 3, 1, 1))


@pytest.mark.parametrize(
    "data",
    [
        encoded(Image.fromarray(RAMP * 257), "PNG"),
        encoded(Image.fromarray(RAMP * 257), "TIFF"),
        encoded(Image.fromarray(RAMP * 257), "TIFF", compression="tiff_lzw"),
        encoded(Image.frombytes("I;16B", (128, 128), (RAMP * 257).astype(">u2").tobytes()), "TIFF"),
        encoded(Image.fromarray(RAMP.astype(np.int32)), "TIFF"),
        encoded(Image.fromarray(RAMP.astype(np.int32) * 257), "TIFF"),
        encoded(Image.fromarray(RAMP.astype(np.int32) * 100_000 - 7), "TIFF"),
        as_unsigned(encoded(Image.fromarray((RAMP.astype(np.uint32) * 0x01010101).view(np.int32)), "TIFF")),
        encoded(Image.fromarray(RAMP.astype(np.float32) / 255), "TIFF"),
        encoded(Image.fromarray(RAMP.astype(np.float32)), "TIFF"),
        encoded(Image.fromarray(RAMP.astype(np.float32) * 1e20 - 1e19), "TIFF"),
    ],
)
def test_greys_of_many_bits_are_neither_white_nor_black(data: bytes) -> None:
    assert np.abs(np.asarray(decode(data)).astype(int) - RAMP[..., None]).max() <= 1


def test_what_is_no_number_and_what_has_zero_for_white_is_shown() -> None:
    values = RAMP.astype(np.float32) / 255
    values[0, :3] = np.nan, np.inf, -np.inf
    image = np.asarray(decode(encoded(Image.fromarray(values), "TIFF")))
    assert image[0, :3, 0].tolist() == [0, 255, 0] and image[127, 127, 0] == 255
    tiff = encoded(Image.fromarray(RAMP * 257), "TIFF")
    inverted = tiff.replace(struct.pack("<HHIH", 262, 3, 1, 1), struct.pack("<HHIH", 262, 3, 1, 0))
    assert np.array_equal(np.asarray(decode(inverted)), 255 - np.asarray(decode(tiff)))


@pytest.mark.parametrize(
    ("data", "row"),
    [
        (png(2, 0, b"\0\x1b" * 4, chunk(b"tRNS", b"\0\2")), [0, 85, 255, 255]),
        (png(16, 0, (b"\0" + struct.pack(">4H", 0x1234, 0x1235, 0x9ABC, 1)) * 4, chunk(b"tRNS", b"\x12\x34")),
         [255, 0x12, 0x9A, 0]),
        (png(16, 2, (b"\0" + struct.pack(">3H", 0x1234, 0x1234, 0x1234) * 4) * 4, chunk(b"tRNS", b"\x12\x34" * 3)),
         [255] * 4),
        (png(16, 4, (b"\0" + struct.pack(">8H", 0x8034, 65535, 9, 0, 0x9ABC, 65535, 0, 65535)) * 4),
         [0x80, 255, 0x9A, 0]),
        (png(8, 3, b"\0\0\1\0\1" * 4, chunk(b"PLTE", b"\x10\x10\x10\x20\x20\x20"), chunk(b"tRNS", b"\0")),
         [255, 0x20, 255, 0x20]),
    ],
)  # fmt: skip
def test_what_is_transparent_is_white(data: bytes, row: list[int]) -> None:
    assert np.asarray(decode(data))[0, :, 0].tolist() == row


@pytest.mark.parametrize(
    "chunks",
    [
        [chunk(kind, content, wrong=True)]
        for kind, content in {
            b"tEXt": b"Comment\0x",
            b"pHYs": bytes(9),
            b"iCCP": b"a\0\0" + zlib.compress(b"profile"),
            b"gAMA": bytes(4),
            b"tRNS": bytes(6),
            b"eXIf": b"?",
        }.items()
    ]
    + [
        [chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(3_000_000)))] * 2,
        [chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(3_000_000)))],
        [chunk(b"zTXt", b"k\0\7unknown method")],
        [chunk(b"acTL", b"short")],
        [chunk(b"tRNS", b"\0")],
        [chunk(b"tRNS", bytes(5))],
    ],
)
def test_a_png_is_shown_whatever_is_wrong_beside_its_pixels(chunks: list[bytes]) -> None:
    assert np.array_equal(np.asarray(decode(png_with(*chunks))), np.asarray(UPRIGHT))


def test_transparency_of_a_palette_counts_where_browsers_read_it() -> None:
    def row(*chunks: bytes) -> list[int]:
        return np.asarray(decode(png(8, 3, b"\0\0\1\0\1" * 4, *chunks)))[0, :, 0].tolist()

    palette, clear = chunk(b"PLTE", b"\x10\x10\x10\x20\x20\x20"), chunk(b"tRNS", b"\0" + bytes(299))
    assert row(palette, clear) == [255] * 4
    assert row(clear, palette) == row(palette) == [0x10, 0x20, 0x10, 0x20]
    with pytest.raises(ImageError, match="not_an_image"):
        row()


def test_a_png_is_refused_when_its_size_or_palette_is_damaged_but_not_its_checksum_of_pixels() -> None:
    whole = encoded(UPRIGHT.quantize(8), "PNG")
    for name in (b"IHDR", b"PLTE", b"IDAT"):
        at = whole.index(name)
        end = at + 4 + int.from_bytes(whole[at - 4 : at])
        data = whole[:end] + bytes([whole[end] ^ 1]) + whole[end + 1 :]
        if name == b"IDAT":
            assert np.array_equal(np.asarray(decode(data)), np.asarray(UPRIGHT))
        else:
            with pytest.raises(ImageError, match="not_an_image"):
                decode(data)
    with pytest.raises(ImageError, match="truncated"):
        decode(whole[:-40])


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"subsampling": 0}])
def test_a_jpeg_without_end_marker_is_whole_but_not_one_that_lacks_pixels(options: dict) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise).resize((240, 160)), "JPEG", **options)
    for whole in (data[:-1], data[:-2], data[:-2] + bytes(100)):
        assert np.array_equal(np.asarray(decode(whole)), np.asarray(decode(data)))
    for lost in (5, 9, 30, 200, len(data) // 3, len(data) // 2):
        with pytest.raises(ImageError, match="truncated"):
            decode(data[:-lost])


def scan_bomb(scans: int, side: int = 64) -> bytes:
    """A progressive grey JPEG with many empty scans: each takes time for all pixels."""
    blocks = (side // 8) ** 2
    tables = segment(0xDB, b"\0" + b"\1" * 64) + segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + b"\1\x11\0")
    tables += segment(0xC4, b"\0\1" + bytes(15) + b"\0") + segment(0xC4, b"\x10\1\1" + bytes(14) + b"\xe0\0")
    dc = segment(0xDA, b"\1\1\0\0\0\0") + bytes(blocks // 8)
    ac = segment(0xDA, b"\1\1\0\1\x3f\0") + int("10" * blocks, 2).to_bytes(blocks // 4)
    return b"\xff\xd8" + tables + dc + ac * scans + b"\xff\xd9"


def tiff_bomb(sizes: bool) -> bytes:
    """A TIFF of many strips; each is the whole file."""
    rows, stream = 20_000, b"\x78\x9c" + b"\0\0\0\xff\xff" * 10_000
    tags = [(256, 4, 1, struct.pack("<I", 1000)), (257, 4, 1, struct.pack("<I", rows)), (258, 3, 1, b"\x08\0"),
            (259, 3, 1, b"\x08\0"), (262, 3, 1, b"\1\0"), (273, 4, rows, struct.pack("<I", 500_000) * rows),
            (277, 3, 1, b"\1\0"), (278, 4, 1, b"\1\0\0\0")]  # fmt: skip
    if sizes:
        tags.append((279, 4, rows, struct.pack("<I", len(stream)) * rows))
    return directory(*tags).ljust(500_000, b"\0") + stream


def gif_bomb() -> bytes:
    data = encoded(UPRIGHT, "GIF")
    at = data.index(b"\x2c\0\0\0\0")
    return data[:at] + b"\x21\xfe" + (b"\1x" * 8_000_000) + b"\0" + data[at:]


def bmp_bomb() -> bytes:
    body = b"\1\5" * 5_000_000
    info = struct.pack("<IiiHHIIiiII", 40, 4000, 4000, 1, 8, 1, len(body), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1078 + len(body), 0, 0, 1078) + info + bytes(1024) + body


@pytest.mark.parametrize(
    "bomb",
    [
        lambda: scan_bomb(2000, 1024),
        lambda: scan_bomb(2000, 1024).replace(b"\xff\xda", segment(0xFE, b"\xff\xd9") + b"\xff\xda"),
        lambda: with_exif(b"")[:2] + segment(0xE1, b"Exif\0\0x") * 300_000 + with_exif(b"")[2:],
        lambda: tiff_bomb(sizes=True),
        lambda: tiff_bomb(sizes=False),
        gif_bomb,
    ],
)
def test_an_image_that_was_made_to_take_long_is_refused(
    monkeypatch: pytest.MonkeyPatch, bomb: Callable[[], bytes]
) -> None:
    monkeypatch.setattr(images, "OPENING_SECONDS", 0.3)
    data, start = bomb(), time.thread_time()
    with pytest.raises(ImageError, match="decompression_bomb"):
        decode(data)
    assert time.thread_time() - start < 2


def test_the_time_of_decoding_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "DECODING_SECONDS", 0.2)
    monkeypatch.setattr(images, "SECONDS_A_PIXEL", 0)
    (decoded,) = decode_ahead([("x", bmp_bomb())], 2)
    assert str(decoded.image) == "decompression_bomb"


def test_a_side_that_no_jpeg_can_have_is_refused() -> None:
    with pytest.raises(ImageError, match="decompression_bomb"):
        decode(encoded(Image.new("1", (1, 70_000)), "PNG"))


def test_a_picture_that_was_taken_once_is_decoded_however_slow_the_machine_is_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(images, "OPENING_SECONDS", -1)
    data = encoded(UPRIGHT, "JPEG")
    with pytest.raises(ImageError, match="decompression_bomb"):
        decode(data)
    assert decode(data, limited=False).size == UPRIGHT.size
    assert [d.image.shape[:2] for d in decode_ahead([("a", data)], 2, limited=False)] == [UPRIGHT.size[::-1]]


@pytest.mark.parametrize("lossless", [False, True])
def test_a_webp_takes_no_memory_before_its_size_is_known(lossless: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    still = encoded(UPRIGHT, "WEBP", lossless=lossless)
    animated = encoded(UPRIGHT, "WEBP", lossless=lossless, save_all=True, append_images=[Image.new("RGB", (48, 32))])
    for data in (still, animated):
        assert webp_size(data) == decode(data).size == (48, 32)
        with monkeypatch.context() as patch:
            patch.setattr("PIL._webp.WebPAnimDecoder", None)
            with pytest.raises(ImageError, match="decompression_bomb"):
                open_image(data, 48 * 32 - 1)


def test_scans_as_programs_write_them_are_decoded() -> None:
    assert decode(scan_bomb(99)).size == (64, 64)


def test_a_gif_is_white_where_its_first_frame_leaves_the_canvas_free() -> None:
    data = bytearray(encoded(UPRIGHT.quantize(4), "GIF"))
    data[6:10] = struct.pack("<HH", 60, 40)
    image = decode(bytes(data))
    assert image.size == (60, 40) and image.getpixel((55, 35)) == (255, 255, 255) and corners(image)[0] == 0


SHORTAGES = [MemoryError(), OSError(errno.ENOMEM, "no memory"), OSError(errno.EMFILE, "too many open files")]


@pytest.mark.parametrize("shortage", SHORTAGES)
def test_a_shortage_is_not_the_fault_of_an_image(monkeypatch: pytest.MonkeyPatch, shortage: Exception) -> None:
    def load(image: object) -> None:
        raise shortage

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(ShortageError):
        decode(jpeg(9))
    with pytest.raises(ShortageError):
        list(decode_ahead([("x", encoded(UPRIGHT, "PNG"))], 2))


def test_a_jpeg_that_finds_no_memory_is_not_called_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("simplejpeg.decode_jpeg", no_memory)
    with pytest.raises(ShortageError):
        list(decode_ahead([("x", jpeg(9))], 2))


def test_a_decoder_that_got_no_memory_and_calls_the_image_broken_is_not_believed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_memory(*_: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr("mmap.mmap", no_memory)
    with pytest.raises(ShortageError):
        decode(encoded(UPRIGHT, "PNG")[:-40])


@pytest.mark.parametrize("error", [AttributeError, OverflowError, ZeroDivisionError, RecursionError, KeyError])
def test_whatever_a_library_raises_about_an_image_is_its_reason(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: type[Exception]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error("of a library\n" * 99)

    caplog.set_level(logging.DEBUG, "laion_people")
    with monkeypatch.context() as patch:
        patch.setattr("PIL.ImageFile.ImageFile.load", fail)
        with pytest.raises(ImageError, match="truncated"):
            decode(jpeg(9))
    with monkeypatch.context() as patch:
        patch.setattr("PIL.Image.open", fail)
        (decoded,) = decode_ahead([("x", encoded(UPRIGHT, "PNG"))], 2)
    assert str(decoded.image) == "not_an_image"
    assert [error.__name__ in line and "\n" not in line and len(line) < 300 for line in caplog.messages] == [True] * 2


INTEGERS = [
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\0\0\0\0",
    b"\0\0\xff\xff",
    b"\1\0\0\0",
    b"\0\0\0\1",
    b"\xff\xff",
]


def seeds() -> list[bytes]:
    """Small images of each format, mode and compression."""
    exif, grey = directory(turned(), (0x010F, 2, 6, b"maker\0")), UPRIGHT.convert("L")
    files = [encoded(UPRIGHT.convert(m), "JPEG", exif=exif, progressive=p) for m in ("RGB", "CMYK") for p in (0, 1)]
    files += [encoded(UPRIGHT.convert(mode), "PNG", exif=exif) for mode in ("RGB", "P", "RGBA", "1", "LA", "I;16")]
    files += [encoded(UPRIGHT, "WEBP", exif=exif), encoded(UPRIGHT.convert("RGBA"), "WEBP", lossless=True)]
    files += [encoded(UPRIGHT, "GIF", save_all=True, append_images=[grey]), encoded(UPRIGHT.convert("P"), "BMP")]
    for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits"):
        files.append(encoded(UPRIGHT, "TIFF", compression=compression, tiffinfo={ORIENTATION: 6}))
    files += [encoded(UPRIGHT.convert("1"), "TIFF", compression="group4"), encoded(grey.convert("F"), "TIFF")]
    return [*files, encoded(UPRIGHT, "AVIF", exif=exif)]


def mutant(data: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 8, 30))):
        at = rng.randrange(min(len(damaged), rng.choice((60, 300, 9999))) or 1)
        match rng.randrange(6):
            case 0:
                damaged[at : at + 1] = bytes([rng.randrange(256)])
            case 1 | 2:
                integer = rng.choice(INTEGERS)
                damaged[at : at + len(integer)] = integer
            case 3:
                del damaged[at : at + rng.choice((1, 2, 4, 16, 200))]
            case 4:
                damaged[at:at] = rng.randbytes(rng.choice((1, 2, 4, 16)))
            case 5:
                damaged[at:at] = damaged[at : at + rng.choice((4, 16, 64, 300))]
    return bytes(damaged)


@pytest.mark.filterwarnings("ignore")
def test_damaged_images_end_as_images_or_under_a_reason_and_soon() -> None:
    rng, files = random.Random(9), seeds()
    for number in range(1500):
        data = mutant(files[number % len(files)], rng)
        start = time.thread_time()
        try:
            picture = open_image(data, 10_000_000)
            assert to_rgb(picture).size == picture.size
            json.dumps(tags(picture.exif)).encode()
        except ImageError as error:
            assert str(error) in ("not_an_image", "truncated", "decompression_bomb")
        assert time.thread_time() - start < 2


SIZE_OF_TYPE = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}


@pytest.mark.filterwarnings("ignore")
def test_tags_are_read_whatever_type_they_have() -> None:
    rng = random.Random(4)
    for tag in sorted(ExifTags.TAGS):
        for kind, size in SIZE_OF_TYPE.items():
            count, fill = rng.choice((0, 1, 2, 5)), rng.choice((b"\1", b"\xff", b"\0", b"\xd8"))
            exif = directory((tag, kind, count, fill * (size * count)), turned(), (0x0110, 2, 6, b"model\0"))
            assert tags(exif)["Model"] == "model" or tag == 0x0110
            assert tag == ORIENTATION or orientation(exif) == 6


def test_tags_are_short_and_few_and_hold_no_place() -> None:
    place = (0x8825, 4, 1, struct.pack("<I", 8))
    exif = directory(
        (0x010F, 2, 6, b"maker\0"), (0x0110, 2, 300, b"m" * 300), place, (0x0132, 2, 9, b'\xff\0"\\\x1b\x80{}\0')
    )
    assert tags(exif) == {"Make": "maker", "DateTime": '\xff\0"\\\x1b\x80{}'}
    many = directory(*((tag, 2, 199, b"x" * 199) for tag in ExifTags.TAGS))
    assert 5000 < len(json.dumps(tags(many))) < 15_000
    assert tags(b"") == tags(b"II*\0") == tags(bytes(100)) == {}


@given(st.binary(max_size=400), st.integers(0, 300))
def test_garbage_never_escapes_as_another_error(noise: bytes, at: int) -> None:
    for data in (noise, jpeg(90)[:at] + noise, jpeg(90)[:at] + noise + jpeg(90)[at + len(noise) :]):
        try:
            assert decode(data).mode == "RGB"
        except ImageError as error:
            assert str(error) in ("not_an_image", "truncated", "decompression_bomb")


def test_samples_come_in_tar_order_with_their_json(tmp_path: Path) -> None:
    tar_of({"b": jpeg(1), "a": jpeg(2), "c": b""}, tmp_path / "x.tar")
    read = list(samples(tmp_path / "x.tar"))
    assert [(s.key, len(s.image)) for s in read] == [("b", len(jpeg(1))), ("a", len(jpeg(2))), ("c", 0)]
    assert read[0].fields["caption"] == "picture b" and read[1].image == jpeg(2)


def test_a_damaged_tar_is_an_error(tmp_path: Path) -> None:
    tar_of({str(i): jpeg(i) for i in range(9)}, tmp_path / "x.tar")
    (tmp_path / "y.tar").write_bytes((tmp_path / "x.tar").read_bytes()[:-9000])
    with pytest.raises(LaionPeopleError, match=r"y.tar .*\[damaged-tar\]$"):
        list(samples(tmp_path / "y.tar"))


def files_tar(path: Path, files: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            if name.endswith("/"):
                member.type = tarfile.DIRTYPE
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    "odd",
    [
        b"",
        b"{",
        b"null",
        b"5",
        b'["url"]',
        b"\xff\xfe\xfd",
        b'{"url":',
        b"[" * 200_000,
        b'{"id": ' + b"9" * 5000 + b"}",
    ],
)
def test_json_that_is_no_object_is_no_fields_and_harms_no_other_sample(tmp_path: Path, odd: bytes) -> None:
    files = [("a.jpg", b"A"), ("a.json", odd), ("b.jpg", b"B"), ("b.json", b'{"url": "u"}'), ("c.jpg", b"C")]
    read = list(samples(files_tar(tmp_path / "x.tar", files)))
    assert [(s.key, s.image, s.fields) for s in read] == [("a", b"A", {}), ("b", b"B", {"url": "u"}), ("c", b"C", {})]


def test_keys_are_base_names_up_to_the_first_dot(tmp_path: Path) -> None:
    files = [("./", b""), ("../d.e/a.jpg", b"A"), ("../d.e/a.mask.png", b"M"), ("../d.e/a.json", b'{"x": 1}')]
    files += [("/b.png", b"B"), ("c\udcff.jpg", b"C"), ("c\udcfe.jpg", b"D"), ("d\n\x1b[2J\u202e.jpg", b"E")]
    tar = files_tar(tmp_path / "x.tar", files)
    read = list(samples(tar))
    keys = ["a", "b", r"c\xff", r"c\xfe", r"d\n\x1b[2J\u202e"]
    assert [(s.key, s.image) for s in read] == list(zip(keys, [b"A", b"B", b"C", b"D", b"E"], strict=True))
    assert read[0].fields == {"x": 1}
    by_key = TarImages(tar)
    assert [(key, by_key.read(key)) for key in by_key.keys()] == [(s.key, s.image) for s in read]  # noqa: SIM118


def usable(tar: Path) -> dict[str, bytes | str]:
    """Each sample's key with its image, or the reason why it has none. All ways to read a tar must agree."""
    read = list(samples(tar))
    by_key = TarImages(tar)
    assert {key: by_key.read(key) for key in by_key.keys()} == {s.key: s.image for s in read if not s.unusable}  # noqa: SIM118
    return {s.key: s.unusable or s.image for s in read}


@pytest.mark.parametrize(
    ("names", "image"),
    [
        (["a.JPG", "a.JSON"], "a.JPG"),
        (["a.Jpeg"], "a.Jpeg"),
        (["a.gif"], "a.gif"),
        (["a.TIFF"], "a.TIFF"),
        (["a.avif"], "a.avif"),
        (["a.image.jpg", "a.json"], "a.image.jpg"),
        (["a.jpg.JPG"], "a.jpg.JPG"),
        (["a.seg.png", "a.jpg", "a.mask.png"], "a.jpg"),
        (["a.png", "a.jpg"], "a.jpg"),
        (["a.jpg", "a.png"], "a.jpg"),
        (["a.seg.png", "a.mask.png"], "several_images"),
        (["a.jpg", "a.JPG"], "several_images"),
        (["a.json", "a.txt"], "no_image"),
        (["a.heic", "a.json"], "no_image"),
        (["a"], "no_image"),
        (["a.jpg.json"], "no_image"),
        (["x/._a.jpg", "x/a.jpg", "x/.DS_Store", "x/a.json"], "x/a.jpg"),
    ],
)
def test_which_file_of_a_sample_is_its_image(tmp_path: Path, names: list[str], image: str) -> None:
    tar = files_tar(tmp_path / "x.tar", [(name, name.encode()) for name in names])
    assert usable(tar) == {"a": image.encode() if image in names else image}


def test_what_systems_leave_behind_is_no_sample(tmp_path: Path) -> None:
    names = ["./", ".DS_Store", "._a.jpg", "__MACOSX/._a.jpg", "__MACOSX/a.jpg", "d/PaxHeaders.12/a.jpg", "__meta__"]
    assert usable(files_tar(tmp_path / "x.tar", [(name, b"") for name in names])) == {}


def test_keys_that_ids_cannot_hold_are_counted(tmp_path: Path) -> None:
    names = [".jpg", "d/.jpg", f"{'k' * 255}.jpg", f"{'k' * 256}.jpg", f"{chr(1) * 100}.jpg", f"{'k' * 256}.jpg"]
    read = list(samples(files_tar(tmp_path / "x.tar", [(name, b"A") for name in names])))
    assert [s.unusable for s in read] == ["bad_key", "bad_key", "", "bad_key", "bad_key", "bad_key"]


def test_hard_links_are_followed_and_other_links_counted(tmp_path: Path) -> None:
    links = {
        "b.jpg": (tarfile.LNKTYPE, "a.jpg"),
        "b.json": (tarfile.LNKTYPE, "a.json"),
        "c.jpg": (tarfile.LNKTYPE, "b.jpg"),
        "d.jpg": (tarfile.LNKTYPE, "/etc/passwd"),
        "e.jpg": (tarfile.SYMTYPE, "a.jpg"),
        "f.jpg": (tarfile.CHRTYPE, ""),
    }
    path = files_tar(tmp_path / "x.tar", [("a.jpg", b"A"), ("a.json", b'{"caption": "c"}')])
    with tarfile.open(path, "a") as tar:
        for name, (kind, target) in links.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            tar.addfile(member)
    assert usable(path) == {"a": b"A", "b": b"A", "c": b"A", "d": "no_image", "e": "no_image", "f": "no_image"}
    assert [s.fields for s in samples(path)][:3] == [{"caption": "c"}, {"caption": "c"}, {}]


@pytest.mark.parametrize("format", ["gnu", "pax"])
def test_sparse_files_are_counted_and_those_behind_them_read(tmp_path: Path, format: str) -> None:
    with (tmp_path / "s.jpg").open("wb") as file:
        for at in range(9):  # more holes than fit into a GNU header
            file.seek(at << 20)
            file.write(b"x")
        file.truncate(1 << 30)
    (tmp_path / "t.jpg").write_bytes(b"T")
    command = ["tar", "--sparse", f"--format={format}", "-cf", "x.tar", "s.jpg", "t.jpg"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert usable(tmp_path / "x.tar") == {"s": "no_image", "t": b"T"}


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_of_all_formats_are_read(tmp_path: Path, format: int) -> None:
    folders = "/".join(["d" * 50] * (2 if format == tarfile.USTAR_FORMAT else 20))
    names = [f"{folders}/{'k' * (60 if format == tarfile.USTAR_FORMAT else 200)}{i}.jpg" for i in range(3)]
    with tarfile.open(tmp_path / "x.tar", "w", format=format) as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(name))
    assert list(usable(tmp_path / "x.tar")) == [name.rpartition("/")[2].removesuffix(".jpg") for name in names]


@pytest.mark.parametrize(
    ("files", "caption"),
    [
        ([("a.jpg", b""), ("a.txt", b"\xef\xbb\xbfa man\n")], "a man"),
        ([("a.txt", b"a man"), ("a.json", b'{"caption": null}'), ("a.jpg", b"")], "a man"),
        ([("a.jpg", b""), ("a.json", b'{"caption": 5}'), ("a.caption", b"a m\xe4n")], "a m\ufffdn"),
        ([("a.jpg", b""), ("a.json", b'{"caption": "a woman"}'), ("a.txt", b"a man")], "a woman"),
        ([("a.jpg", b""), ("a.json", b"[]"), ("a.txt", b"x" * 10_000_000)], "x" * 65_536),
    ],
)
def test_a_caption_that_the_json_lacks_is_the_texts(
    tmp_path: Path, files: list[tuple[str, bytes]], caption: str
) -> None:
    (sample,) = samples(files_tar(tmp_path / "x.tar", files))
    assert sample.fields["caption"] == caption


def test_a_json_of_many_megabytes_is_not_read(tmp_path: Path) -> None:
    files = [("a.jpg", b""), ("a.json", b'{"caption": "' + b"x" * 5_000_000 + b'"}')]
    assert [s.fields for s in samples(files_tar(tmp_path / "x.tar", files))] == [{}]


def refused(tar: Path) -> str:
    """The error of a tar, the same for all ways to read it."""
    with pytest.raises(LaionPeopleError) as caught:
        list(samples(tar))
    with pytest.raises(LaionPeopleError) as again:
        TarImages(tar)
    assert str(caught.value) == str(again.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "names", [["a.jpg", "b.jpg", "a.jpg"], ["x/a.jpg", "y/a.jpg"], ["a.jpg", "b.jpg", "a.json", "b.json"]]
)
def test_files_of_a_sample_must_lie_together(tmp_path: Path, names: list[str]) -> None:
    message = refused(files_tar(tmp_path / "x.tar", [(name, b"{}") for name in names]))
    assert message.startswith("x.tar: the files of sample 'a' must lie together") and "--sort=name" in message


def test_what_stands_behind_the_end_is_not_passed_over(tmp_path: Path) -> None:
    first = files_tar(tmp_path / "a.tar", [("a.jpg", b"A")]).read_bytes()
    tar = tmp_path / "x.tar"
    tar.write_bytes(first + files_tar(tmp_path / "b.tar", [("b.jpg", b"B")]).read_bytes())
    assert refused(tar).startswith("x.tar has another archive behind its end, or something else, at byte 10,240")
    tar.write_bytes(first + bytes(10_000) + b"!")
    assert "at byte 20,240" in refused(tar)
    tar.write_bytes(first + bytes(10_000))
    assert usable(tar) == {"a": b"A"}
    with tar.open("ab") as file:
        file.truncate(1 << 30)
    assert "zeros behind its end" in refused(tar)


def pax(**headers: str) -> bytes:
    member = tarfile.TarInfo("a.jpg")
    member.pax_headers = headers
    return member.tobuf(tarfile.PAX_FORMAT)


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "is damaged: it has been cut off at byte 0"),
        (b"\x1f\x8b" + bytes(1022), "is damaged: bad checksum at byte 0"),
        (
            header("a.jpg", 5 << 30),
            "is damaged: cut off at byte 1,536, while a file of 5,368,709,120 bytes starts at 512",
        ),
        (header("a.jpg", -512), "is damaged: the header at byte 0 tells of -512 bytes"),
        (header("a", 2 << 20, tarfile.GNUTYPE_LONGNAME), "is damaged: the header at byte 0 tells of 2,097,152 bytes"),
        (pax(size="-5"), "is damaged: the header at byte 1,024 tells of -5 bytes"),
        (pax(size="x" * 9999), "is damaged: invalid literal"),
    ],
)
def test_a_hostile_header_is_one_readable_reason(tmp_path: Path, data: bytes, what: str) -> None:
    (tmp_path / "x.tar").write_bytes(data + bytes(1024 if data else 0))
    message = refused(tmp_path / "x.tar")
    assert message.startswith(f"x.tar {what}") and len(message) < 400 and message.isprintable()


def test_mutated_tars_are_read_or_refused(tmp_path: Path) -> None:
    """Overwrites fields of headers, mostly with a corrected checksum, and cuts tars off."""
    rng = random.Random(7)
    content = [(f"{'d' * 120}/{i}.{s}", b'{"a": 1}') for i in range(3) for s in ("jpg", "json", "txt")]
    seeds = []
    for format in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=format) as tar:
            for name, data in content:
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        seeds.append(file.getvalue())
    fields = [(0, 100), (124, 12), (136, 12), (156, 1), (157, 100), (345, 155), (482, 1), (0, 512)]
    numbers = [b"\x80" + b"\xff" * 11, b"\xff" * 12, b"77777777777\0", b"-0000000001\0", bytes(12)]
    outcomes: Counter[str] = Counter()
    path = tmp_path / "x.tar"
    for _ in range(500):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.choice((1, 1, 2, 4))):
            block = 512 * rng.randrange(len(data) // 512)
            start, length = rng.choice(fields)
            start += block
            noise = rng.choice([rng.randbytes(length), rng.choice(numbers)[:length].ljust(length, b"\0")])
            data[start : start + length] = noise
            if rng.random() < 0.8:
                data[block + 148 : block + 156] = b" " * 8
                data[block + 148 : block + 156] = b"%06o\0 " % sum(data[block : block + 512])
        if rng.random() < 0.1:
            del data[rng.randrange(len(data)) :]
        path.write_bytes(data)
        try:
            usable(path)
            outcomes["read"] += 1
        except LaionPeopleError as error:
            assert str(error).isprintable() and len(str(error)) < 600
            outcomes["refused"] += 1
    assert outcomes["read"] > 50 < outcomes["refused"]


def sizes_in_order(sizes: list[int], threads: int = 2) -> list[tuple[int, int, int | str]]:
    """Decodes squares of these sides. Returns item, place, and the side or the error, in their order."""
    items = [(i, jpeg(9, (size, size)) if size else b"bad") for i, size in enumerate(sizes)]
    got = decode_ahead(items, threads)
    return [(d.item, d.place, str(d.image) if isinstance(d.image, ImageError) else len(d.image)) for d in got]


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (1000, 1000), (1000, 1001), (2100, 2100)])  # 2100: several blocks
def test_decoding_ahead_gives_the_pixels_that_decode_gives(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    for data in (encoded(Image.fromarray(noise), "PNG"), encoded(Image.fromarray(noise[..., 0]), "PNG")):
        (decoded,) = decode_ahead([("x", data)], 2)
        assert isinstance(decoded.image, np.ndarray) and decoded.image.dtype == np.uint8
        assert np.array_equal(decoded.image, np.asarray(decode(data)))


NOISE = np.random.default_rng(0).integers(0, 255, (60, 83, 3), dtype=np.uint8)
SMOOTH = Image.fromarray(NOISE).resize((830, 601), Image.Resampling.BICUBIC)
WHOLE = {
    "jpeg": encoded(SMOOTH, "JPEG", quality=85),
    "progressive": encoded(SMOOTH, "JPEG", quality=92, progressive=True),
    "4:4:4": encoded(SMOOTH, "JPEG", subsampling=0),
    "4:2:2": encoded(SMOOTH, "JPEG", subsampling=1),
    "rgb": encoded(SMOOTH, "JPEG", keep_rgb=True),
    "grey": encoded(SMOOTH.convert("L"), "JPEG"),
    "cmyk": encoded(SMOOTH.convert("CMYK"), "JPEG"),
    "restarts": encoded(SMOOTH, "JPEG", restart_marker_rows=1),
    "webp": encoded(SMOOTH, "WEBP", quality=80),
    "webp, lossless": encoded(SMOOTH, "WEBP", lossless=True),
    "webp, transparent": encoded(SMOOTH.convert("RGBA").rotate(9), "WEBP"),
    "webp, animated": encoded(SMOOTH, "WEBP", save_all=True, append_images=[SMOOTH.rotate(9)]),
}


@pytest.mark.parametrize("side", [None, 60, 150, 290, 310])  # of 601 pixels: an eighth and less, to the whole
@pytest.mark.parametrize("kind", WHOLE)
def test_an_array_has_exactly_the_pixels_of_the_image(kind: str, side: int | None) -> None:
    array, image = (read(open_image(WHOLE[kind]), side) for read in (images.to_array, to_rgb))
    assert np.array_equal(array, np.asarray(image)) and min(array.shape[:2]) >= (side or 601)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_array_is_turned_as_the_image_is(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(SMOOTH, "JPEG", exif=exif)
    assert np.array_equal(images.to_array(open_image(data)), np.asarray(decode(data)))


@pytest.mark.parametrize("kind", ["jpeg", "progressive", "restarts", "webp"])
def test_a_damaged_image_has_the_same_outcome_as_array_and_as_image(kind: str) -> None:
    rng = random.Random(kind)
    outcomes: Counter[str] = Counter()
    for number in range(60):
        data = bytearray(WHOLE[kind])
        for _ in range(number % 4):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if number % 5 == 4:
            del data[rng.randrange(len(data)) :]
        array, image = (outcome(read, bytes(data)) for read in (images.to_array, to_rgb))
        assert array == image
        outcomes[array if isinstance(array, str) else "shown"] += 1
    assert outcomes["shown"] >= 12 <= outcomes.total() - outcomes["shown"]


def outcome(read: Callable[[Picture], np.ndarray | Image.Image], data: bytes) -> bytes | str:
    try:
        return np.asarray(read(open_image(data))).tobytes()
    except ImageError as error:
        return str(error)


def test_decoding_ahead_keeps_order_and_reports_bad_images() -> None:
    sizes = [10 + i if i % 7 else 0 for i in range(25)]
    assert sizes_in_order(sizes) == [(i, i, size or "not_an_image") for i, size in enumerate(sizes)]


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"LARGE_PIXELS": 50 * 50, "AHEAD": 5, "AHEAD_PIXELS": 6000, "ASIDE": 2, "LATER": 12}
    for name, value in limits.items():
        monkeypatch.setattr(images, name, value)


@pytest.mark.usefixtures("small_limits")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(st.lists(st.sampled_from([0, 8, 16, 40, 50, 51, 60]), max_size=60))
def test_only_large_images_are_set_aside_and_not_for_long(sizes: list[int]) -> None:
    got = sizes_in_order(sizes)
    assert got == sizes_in_order(sizes, threads=4)
    assert sorted(place for _, place, _ in got) == list(range(len(sizes)))
    assert all(item == place and what == (sizes[place] or "not_an_image") for item, place, what in got)
    small, large = ([p for _, p, _ in got if (sizes[p] > 50) == big] for big in (False, True))
    assert small == sorted(small) and large == sorted(large)
    for turn, (_, place, _) in enumerate(got):
        overtaken_by = sum(later > place for _, later, _ in got[:turn])
        assert overtaken_by <= (12 if sizes[place] > 50 else 5)


@pytest.mark.usefixtures("small_limits")
def test_a_slow_image_stalls_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()

    def to_array(picture: Picture) -> np.ndarray:
        assert picture.size[0] < 60 or go_on.wait(30)
        return real(picture)

    real = images.to_array
    monkeypatch.setattr(images, "to_array", to_array)
    items = [(size, jpeg(9, (size, size))) for size in [10, 60, *[10] * 20]]
    got = []
    for decoded in decode_ahead(items, 2):
        got.append(decoded.item)
        if len(got) == 8:  # the slow one is still being decoded
            go_on.set()
    assert got.index(60) >= 8 and len(got) == 22


@pytest.mark.usefixtures("small_limits")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(st.lists(st.sampled_from([8, 40, 50, 60]), max_size=60))
def test_few_images_are_held_decoded_at_a_time(sizes: list[int]) -> None:
    held: set[int] = set()
    most = 0

    def array(opened: Picture | ImageError) -> np.ndarray | ImageError:
        nonlocal most
        image = real(opened)
        held.add(id(image))
        weakref.finalize(image, held.discard, id(image))
        most = max(most, len(held))
        return image

    real = images._array
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "_array", array)
        items = ((size, jpeg(9, (size, size))) for size in sizes)
        for decoded in decode_ahead(items, 2):
            del decoded
    assert most <= 5 + 1 + 1 + 1  # ahead, one being put there, a large one, one being returned


@pytest.mark.usefixtures("small_limits")
def test_images_are_decoded_ahead_up_to_so_many_pixels() -> None:
    read = []

    def items() -> Iterator[tuple[int, bytes]]:
        for number in range(10):
            read.append(number)
            yield number, jpeg(9, (50, 50))

    decoded = decode_ahead(items(), 2)
    for done in range(1, 8):
        next(decoded)
        assert len(read) == done + 2  # two more are 5,000 pixels, three would be too many
    decoded.close()


def test_large_images_are_decoded_one_at_a_time(small_limits: None, monkeypatch: pytest.MonkeyPatch) -> None:
    at_work = threading.Lock()

    def to_array(picture: Picture) -> np.ndarray:
        if picture.size[0] <= 50:
            return real(picture)
        assert at_work.acquire(blocking=False)
        try:
            return real(picture)
        finally:
            at_work.release()

    real = images.to_array
    monkeypatch.setattr(images, "to_array", to_array)
    assert len(sizes_in_order([60] * 9 + [10] * 9 + [60] * 9, threads=4)) == 27


coordinate = st.floats(-50, 250, allow_nan=False)


@given(coordinate, coordinate, coordinate, coordinate, st.floats(0, 1))
def test_a_crop_is_never_empty_and_holds_the_box(x1: float, y1: float, x2: float, y2: float, padding: float) -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    image[:, :, 0], image[:, :, 1] = np.arange(200), np.arange(100)[:, None]
    (x1, x2), (y1, y2) = sorted((x1, x2)), sorted((y1, y2))
    part = crop(image, np.array([x1, y1, x2, y2]), padding)
    assert part.size > 0
    inside = [max(x1, 0), max(y1, 0), min(x2, 199), min(y2, 99)]
    if inside[0] <= inside[2] and inside[1] <= inside[3]:
        assert part[..., 0].min() <= inside[0] and part[..., 0].max() >= int(inside[2] - 1e-3)
        assert part[..., 1].min() <= inside[1] and part[..., 1].max() >= int(inside[3] - 1e-3)
