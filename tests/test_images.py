from __future__ import annotations

import io
import tarfile
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from laion_people import images
from laion_people.errors import LaionPeopleError
from laion_people.images import ImageError, Picture, TarImages, crop, decode, decode_ahead, samples
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


def sizes_in_order(sizes: list[int], threads: int = 2) -> list[tuple[int, int, int | str]]:
    """Decodes squares of these sides: item, place and the side or what is wrong, as they come."""
    items = [(i, jpeg(9, (size, size)) if size else b"bad") for i, size in enumerate(sizes)]
    got = decode_ahead(items, threads)
    return [(d.item, d.place, str(d.image) if isinstance(d.image, ImageError) else len(d.image)) for d in got]


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (1000, 1000), (1000, 1001), (2100, 2100)])  # 2100: several blocks
def test_decoding_ahead_gives_the_pixels_that_decode_gives(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    for data in (encoded(Image.fromarray(noise), "PNG"), encoded(Image.fromarray(noise[..., 0]), "PNG")):
        (decoded,) = decode_ahead([("x", data)])
        assert isinstance(decoded.image, np.ndarray) and decoded.image.dtype == np.uint8
        assert np.array_equal(decoded.image, np.asarray(decode(data)))


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

    def to_rgb(picture: Picture) -> Image.Image:
        assert picture.size[0] < 60 or go_on.wait(30)
        return real(picture)

    real = images.to_rgb
    monkeypatch.setattr(images, "to_rgb", to_rgb)
    items = [(size, jpeg(9, (size, size))) for size in [10, 60, *[10] * 20]]
    got = []
    for decoded in decode_ahead(items):
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
        for decoded in decode_ahead(items):
            del decoded
    assert most <= 5 + 1 + 1 + 1  # ahead, the one that is put there, a large one, the one that is handed out


@pytest.mark.usefixtures("small_limits")
def test_images_are_decoded_ahead_up_to_so_many_pixels() -> None:
    read = []

    def items() -> Iterator[tuple[int, bytes]]:
        for number in range(10):
            read.append(number)
            yield number, jpeg(9, (50, 50))

    decoded = decode_ahead(items())
    for done in range(1, 8):
        next(decoded)
        assert len(read) == done + 2  # two more are 5,000 pixels, three would be too many
    decoded.close()


def test_large_images_are_decoded_one_at_a_time(small_limits: None, monkeypatch: pytest.MonkeyPatch) -> None:
    at_work = threading.Lock()

    def to_rgb(picture: Picture) -> Image.Image:
        if picture.size[0] <= 50:
            return real(picture)
        assert at_work.acquire(blocking=False)
        try:
            return real(picture)
        finally:
            at_work.release()

    real = images.to_rgb
    monkeypatch.setattr(images, "to_rgb", to_rgb)
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
        assert part[..., 0].min() <= inside[0] and part[..., 0].max() >= int(inside[2] - 1e-6)
        assert part[..., 1].min() <= inside[1] and part[..., 1].max() >= int(inside[3] - 1e-6)
