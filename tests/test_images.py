from __future__ import annotations

import io
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from laion_people import images
from laion_people.errors import LaionPeopleError
from laion_people.images import ImageError, TarImages, crop, decode, decode_ahead, samples
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
    with pytest.raises(LaionPeopleError, match=r"y.tar is damaged"):
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
    files += [("/b.png", b"B"), ("c\udcff.jpg", b"C"), ("README", b"R")]
    tar = files_tar(tmp_path / "x.tar", files)
    read = list(samples(tar))
    assert [(s.key, s.image) for s in read] == [("a", b"A"), ("b", b"B"), ("c?", b"C")]
    assert read[0].fields == {"x": 1}
    by_key = TarImages(tar)
    assert [(key, by_key.read(key)) for key in by_key.keys()] == [(s.key, s.image) for s in read]  # noqa: SIM118


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["a.jpg", "b.jpg", "a.jpg"], "key 'a' twice"),
        (["x/a.jpg", "y/a.jpg"], "key 'a' twice"),
        (["a.jpg", "b.jpg", "a.json"], "key 'a' twice"),
        (["a.jpg", "d/.jpg"], "'.jpg' has no key"),
    ],
)
def test_a_key_that_is_repeated_or_empty_is_an_error(tmp_path: Path, names: list[str], what: str) -> None:
    tar = files_tar(tmp_path / "x.tar", [(name, b"{}") for name in names])
    with pytest.raises(LaionPeopleError, match=f"x.tar is damaged: {what}"):
        list(samples(tar))
    with pytest.raises(LaionPeopleError, match=f"x.tar is damaged: {what}"):
        TarImages(tar)


def test_large_images_are_decoded_when_it_is_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "LARGE_PIXELS", 50 * 50)
    monkeypatch.setattr(images, "MAX_PIXELS", 100 * 100)
    decoded: list[tuple[int, bool]] = []

    def to_rgb(image: Image.Image) -> Image.Image:
        decoded.append((image.width, threading.current_thread() is threading.main_thread()))
        return real(image)

    real = images.to_rgb
    monkeypatch.setattr(images, "to_rgb", to_rgb)
    sizes = [10, 60, 50, 101, 70, 80, 20, 90]
    shapes = []
    for _, image in decode_ahead([jpeg(9, (size, size)) for size in sizes], lambda data: data):
        shapes.append(str(image) if isinstance(image, ImageError) else len(image))
        large = [width for width, _ in decoded if width > 50]
        assert large == [shape for shape in shapes if shape in (60, 70, 80, 90)]
    assert shapes == [10, 60, 50, "decompression_bomb", 70, 80, 20, 90]
    assert all(in_main == (width > 50) for width, in_main in decoded)


def test_decoding_ahead_keeps_order_and_reports_bad_images() -> None:
    items = [jpeg(i * 10) if i % 7 else b"bad" for i in range(25)]
    got = list(decode_ahead(items, lambda data: data, ahead=4))
    assert [item for item, _ in got] == items
    assert [isinstance(image, ImageError) for _, image in got] == [i % 7 == 0 for i in range(25)]


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
        assert part[..., 0].min() <= inside[0] and part[..., 0].max() >= int(inside[2] - 1e-6)
        assert part[..., 1].min() <= inside[1] and part[..., 1].max() >= int(inside[3] - 1e-6)
