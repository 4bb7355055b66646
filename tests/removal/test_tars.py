"""A tar without some samples: every other byte of a file stays."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from laion_people.storage import tars

KEYS = [f"{i:04d}" for i in range(6)]
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def write(path: Path, format: int, prefix: str = "", folders: bool = False) -> None:
    with tarfile.open(path, "w", format=format) as tar:
        for number, key in enumerate(KEYS):
            if folders:
                folder = tarfile.TarInfo(f"folder{number}")
                folder.type = tarfile.DIRTYPE
                tar.addfile(folder)
            for suffix in ("jpg", "txt", "json", "seg.png"):
                data = f"{key} {suffix} ".encode() * (10 + 300 * number)
                member = tarfile.TarInfo(f"{prefix}{key}.{suffix}")
                member.size, member.mtime, member.uname = len(data), 1_700_000_000 + number, "somebody"
                tar.addfile(member, io.BytesIO(data))


def content(path: Path) -> dict[str, tuple[object, bytes]]:
    with tarfile.open(path) as tar:
        return {m.name: (m.get_info(), tar.extractfile(m).read()) for m in tar if m.isfile()}  # type: ignore[union-attr]


def without(source: Path, target: Path, keys: Sequence[str]) -> None:
    with source.open("rb") as file, target.open("wb") as out:
        tars.without(file, source.stat().st_size, source.name, keys, out)


@pytest.mark.parametrize("gone", [[], ["0000"], ["0005"], ["0002", "0003"], ["0001", "0005"], KEYS, ["0", "000", "x"]])
@pytest.mark.parametrize("format", list(FORMATS))
@pytest.mark.parametrize("prefix", ["", "a/", "x" * 90 + "/" + "y" * 60 + "/"])
def test_other_samples_keep_their_bytes(tmp_path: Path, format: str, prefix: str, gone: list[str]) -> None:
    source, target = tmp_path / "old.tar", tmp_path / "new.tar"
    write(source, FORMATS[format], prefix, folders=prefix == "a/")
    without(source, target, gone)
    before = content(source)
    assert content(target) == {name: both for name, both in before.items() if Path(name).name[:4] not in gone}
    assert list(content(target)) == [name for name in before if Path(name).name[:4] not in gone]
    assert target.stat().st_size % tarfile.RECORDSIZE == 0
    for key in {*gone} & {*KEYS}:
        assert f"{key} jpg".encode() not in target.read_bytes()
    with target.open("rb") as file:
        left = [f.key for f in tars.Contents("new.tar").walk(file, target.stat().st_size)]
    assert left == [key for key in KEYS if key not in gone]


def test_of_a_tar_as_download_writes_it_nothing_is_left_that_a_new_one_would_not_have(tmp_path: Path) -> None:
    source, target, anew = tmp_path / "old.tar", tmp_path / "new.tar", tmp_path / "anew.tar"
    write(source, tarfile.DEFAULT_FORMAT)
    without(source, target, ["0001", "0004"])
    with tarfile.open(source) as old, tarfile.open(anew, "w") as tar:
        for member in old:
            if member.name[:4] not in ("0001", "0004"):
                tar.addfile(member, old.extractfile(member))
    assert target.read_bytes() == anew.read_bytes()


@pytest.mark.parametrize("cut", [100, 600, 5000])
def test_a_damaged_tar_is_refused(tmp_path: Path, cut: int) -> None:
    source, target = tmp_path / "old.tar", tmp_path / "new.tar"
    write(source, tarfile.USTAR_FORMAT)
    source.write_bytes(source.read_bytes()[:cut])
    with pytest.raises(tars.TarError):
        without(source, target, ["0001"])


def test_links_and_holes_at_the_end_are_kept(tmp_path: Path) -> None:
    source, target = tmp_path / "old.tar", tmp_path / "new.tar"
    write(source, tarfile.GNU_FORMAT)
    with tarfile.open(source, "a") as tar:
        link = tarfile.TarInfo("0009.jpg")
        link.type, link.linkname = tarfile.LNKTYPE, "0002.jpg"
        tar.addfile(link)
    without(source, target, ["0001"])
    with tarfile.open(target) as tar:
        assert tar.getnames()[-1] == "0009.jpg" and "0001.jpg" not in tar.getnames()
    with target.open("rb") as file:
        last = list(tars.Contents("new.tar").walk(file, target.stat().st_size))[-1]
        assert last.key == "0009" and last.image
        file.seek(last.image[0])
        assert file.read(8) == b"0002 jpg"
