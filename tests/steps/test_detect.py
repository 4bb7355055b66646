from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from laion_people.metadata import sample_id
from laion_people.schemas import SCHEMAS
from laion_people.settings import Settings
from laion_people.step import Row, Shard
from laion_people.steps.detect import Detect
from laion_people.store import LocalStore
from tests.fakes import FakeDetector, jpeg

GOOD = {"url": "http://x/1", "caption": "a man", "SAMPLE_ID": 7}


def detect(folder: Path, jsons: dict[str, bytes | None]) -> list[Row]:
    """Runs the step on a tar with one person an image; the rows have been through the table's schema."""
    with tarfile.open(folder / "x.tar", "w") as tar:
        for key, fields in jsons.items():
            for suffix, content in (("jpg", jpeg(100)), ("json", fields)):
                if content is not None:
                    member = tarfile.TarInfo(f"{key}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    shard = Shard(
        "a/b",
        3,
        settings=Settings(),
        store=LocalStore(folder / "store"),
        model=lambda role: FakeDetector(),
        files={"images": folder / "x.tar"},
    )
    rows = list(Detect().apply(shard))
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
