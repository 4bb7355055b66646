from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from laion_people.engine.step import Row
from laion_people.engine.work import Shard
from laion_people.settings import Settings
from laion_people.steps.detect import Detect
from laion_people.storage.metadata import sample_id
from laion_people.storage.schemas import SCHEMAS
from laion_people.storage.store import LocalStore
from tests.fakes import FakeDetector, jpeg

GOOD = {"url": "http://x/1", "caption": "a man", "SAMPLE_ID": 7}


def shard_of(folder: Path, files: dict[str, bytes], **settings: Any) -> tuple[Shard, list[Row]]:
    """Runs the step on a tar of these files with one person an image."""
    with tarfile.open(folder / "x.tar", "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    shard = Shard(
        "a/b",
        3,
        settings=Settings(**settings),
        store=LocalStore(folder / "store"),
        model=lambda role: FakeDetector(),
        files={"images": folder / "x.tar"},
        columns=Detect.entry.reads,
    )
    return shard, list(Detect().apply(shard))


def detect(folder: Path, jsons: dict[str, bytes | None]) -> list[Row]:
    """The rows of images with these jsons; they have been through the table's schema."""
    files: dict[str, bytes] = {}
    for key, fields in jsons.items():
        files |= {f"{key}.jpg": jpeg(100)} | ({} if fields is None else {f"{key}.json": fields})
    shard, rows = shard_of(folder, files)
    assert shard.rows_in == len(jsons) == len(rows)
    return pa.Table.from_pylist(rows, schema=SCHEMAS["people"]).to_pylist()


@pytest.mark.parametrize(
    ("odd", "url", "caption"),
    [
        (None, "", ""),
        (b"{not json", "", ""),
        (b"[" * 200_000, "", ""),
        ({}, "", ""),
        ({"url": 5, "caption": ["a", "b"]}, "", ""),
        ({"url": None, "caption": None}, "", ""),
        ({"url": "http://x/\ud800", "caption": "\udfff man"}, "http://x/?", "? man"),
        (GOOD | {"SAMPLE_ID": "abc"}, "http://x/1", "a man"),
        (GOOD | {"SAMPLE_ID": float("nan"), "hash": float("nan")}, "http://x/1", "a man"),
        (GOOD | {"SAMPLE_ID": 2**63}, "http://x/1", "a man"),
    ],
)
def test_an_odd_sample_is_a_row_like_others_and_harms_none(tmp_path: Path, odd: Any, url: str, caption: str) -> None:
    content = odd if odd is None or isinstance(odd, bytes) else json.dumps(odd).encode()
    good = json.dumps(GOOD).encode()
    first, row, last = detect(tmp_path, {"1": good, "2": content, "3": good})
    assert (first["sample_id"], first["url"], first["caption"]) == (7, "http://x/1", "a man")
    assert (row["person_id"], row["key"], row["url"], row["caption"]) == ("a/b/00003/2/0", "2", url, caption)
    assert row["sample_id"] == sample_id({"url": url or "2"})
    assert last["person_id"] == "a/b/00003/3/0"


def test_every_sample_is_used_or_counted(tmp_path: Path) -> None:
    names = ["a.JPG", "b.txt", "c.heic", "d.seg.png", "d.mask.png", "e.webp", f"{'f' * 256}.jpg", ".DS_Store", "g.jpg"]
    shard, rows = shard_of(tmp_path, {name: jpeg(100) for name in names} | {"g.jpg": b"GIF"})
    assert [row["key"] for row in rows] == ["a", "e"]
    assert shard.rejected == {"no_image": 2, "several_images": 1, "bad_key": 1, "not_an_image": 1}
    assert shard.rows_in == len(rows) + shard.rejected.total()


FLAGS: list[tuple[dict[str, Any], bool]] = [
    ({}, False),
    ({"NSFW": "NSFW"}, True),
    ({"nsfw": " Nsfw\n"}, True),
    ({"NSFW": True}, True),
    ({"NSFW": "true"}, True),
    ({"NSFW": 1}, True),
    ({"NSFW": "0.93"}, True),
    ({"NSFW": "UNLIKELY", "nsfw": "NSFW"}, True),
    ({"NSFW": "UNSURE"}, False),
    ({"NSFW": "UNLIKELY", "punsafe": 0.5}, False),
    ({"NSFW": None}, False),
    ({"NSFW": False, "punsafe": 0}, False),
    ({"NSFW": {"a": ["NSFW"]}}, True),
    ({"NSFW": ["UNLIKELY"]}, True),
    ({"punsafe": 0.99}, True),
    ({"PUNSAFE": "0.99"}, True),
    ({"punsafe": None}, True),
    ({"punsafe": float("nan")}, True),
    ({"punsafe": "?"}, True),
    ({"punsafe": 10**400}, True),
    ({"punsafe": None, "reason": None}, False),  # `download` writes this for parts without the column
    ({"punsafe": 0.99, "reason": None}, True),
]


@pytest.mark.parametrize(("fields", "unsafe"), FLAGS)
def test_what_the_collection_flags_is_refused_in_shards_made_elsewhere(
    tmp_path: Path, fields: dict[str, Any], unsafe: bool
) -> None:
    files = {"a.jpg": jpeg(100), "a.json": json.dumps(fields).encode()}
    shard, rows = shard_of(tmp_path, files)
    assert (len(rows), shard.rejected) == ((0, {"nsfw": 1}) if unsafe else (1, {}))
    assert shard.rows_in == 1
    assert len(shard_of(tmp_path, files, nsfw_filter=False)[1]) == 1
