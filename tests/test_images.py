from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from laion_people.errors import LaionPeopleError
from laion_people.images import ImageError, crop, decode, decode_ahead, samples
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
