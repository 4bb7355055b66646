"""What tables of people and subsets know of an image: hostile json harms nothing, older tables are read with nulls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laion_people.engine.catalog import OF_IMAGES
from laion_people.engine.runner import Runner
from laion_people.settings import Settings
from laion_people.steps.imagefields import of_image
from laion_people.steps.registry import STEPS
from laion_people.storage.schemas import SCHEMAS, read_table
from laion_people.storage.store import LocalStore
from laion_people.vision import phash
from laion_people.vision.images import decode
from tests.fakes import FakeModels, image_shard, jpeg, tar_of
from tests.steps.test_detect import detect

PARTITION = "laion2B-en/00042"
WITH_THEM = ("people", "subset_a", "subset_c", "subset_d")
NOTHING = dict.fromkeys(OF_IMAGES)
KNOWN: dict[str, Any] = {
    "sha256": "0f" * 32,
    "original_width": 1920,
    "original_height": 1080,
    "phash": "00112233aabbccdd",
    "NSFW": "UNLIKELY",
    "LICENSE": "CC-BY",
    "punsafe": 0.25,
    "pwatermark": 0.5,
    "x_robots_tag": "nofollow\nmax-snippet: 3",
    "tdm_reservation": "0",
    "robots_txt": "allowed",
}


def test_the_tables_of_people_and_subsets_have_the_same_columns() -> None:
    for table in WITH_THEM:
        assert [n for n in SCHEMAS[table].names if n in OF_IMAGES] == list(OF_IMAGES)
        assert all(SCHEMAS[table].field(name).nullable for name in OF_IMAGES)
        assert all(SCHEMAS[table].field(name) == SCHEMAS["people"].field(name) for name in OF_IMAGES)
    images = STEPS["download"].schema()  # type: ignore[union-attr]
    assert {images.field(name).type for name in OF_IMAGES} == {SCHEMAS["people"].field(n).type for n in OF_IMAGES}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (KNOWN, KNOWN),
        ({name.swapcase(): value for name, value in KNOWN.items()}, KNOWN),
        ({"NSFW": "UNLIKELY", "nsfw": "UNSURE"}, {"NSFW": "UNLIKELY"}),
        ({"sha256": "0F" * 32, "phash": "00112233AABBCCDD"}, {"sha256": "0f" * 32, "phash": "00112233aabbccdd"}),
        ({"sha256": "0f" * 31, "phash": "0011223344556677\n"}, {}),
        ({"sha256": "٣" * 64, "phash": "x" * 16}, {}),
        ({"sha256": int("1" * 64), "phash": ["0" * 16]}, {}),
        ({"original_width": 12.0, "original_height": 2**31 - 1}, {"original_width": 12, "original_height": 2**31 - 1}),
        ({"original_width": 0, "original_height": -5}, {}),
        ({"original_width": 2**31, "original_height": 1.5}, {}),
        ({"original_width": True, "original_height": "12"}, {}),
        ({"original_width": float("nan"), "original_height": float("inf")}, {}),
        ({"punsafe": "0.5", "pwatermark": 1}, {"punsafe": 0.5, "pwatermark": 1.0}),
        ({"punsafe": float("nan"), "pwatermark": float("-inf")}, {}),
        ({"punsafe": 1e300, "pwatermark": 10**400}, {}),
        ({"punsafe": "?", "pwatermark": [0.5]}, {}),
        ({"NSFW": True, "LICENSE": 0.93}, {"NSFW": "true", "LICENSE": "0.93"}),
        ({"NSFW": "", "LICENSE": {"a": 1}, "x_robots_tag": ["noai"]}, {}),
        ({"LICENSE": "\ud800", "x_robots_tag": "y" * 9000}, {"LICENSE": "?", "x_robots_tag": "y" * 1000}),
        ({"robots_txt": "maybe"}, {}),
        ({"robots_txt": ["allowed"]}, {}),
    ],
)
def test_a_value_is_taken_if_it_is_one(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    assert of_image(fields) == NOTHING | expected


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.characters(categories=["Cs"])
VALUES = SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(st.text(), SCALARS, max_size=2)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from([*OF_IMAGES, *map(str.upper, OF_IMAGES)]), VALUES))
def test_whatever_a_json_says_can_be_stored(fields: dict[str, Any]) -> None:
    columns = [SCHEMAS["people"].field(name) for name in OF_IMAGES]
    pa.Table.from_pylist([of_image(fields)], schema=pa.schema(columns)).validate(full=True)


def test_people_know_what_the_json_says_and_the_hash_of_a_picture_without_one(tmp_path: Path) -> None:
    told, silent = detect(tmp_path, {"1": json.dumps(KNOWN).encode(), "2": b"{}"})
    assert {name: told[name] for name in OF_IMAGES} == KNOWN
    pixels = np.asarray(decode(jpeg(100)))
    assert silent["phash"] == cv2.img_hash.pHash(pixels).tobytes().hex() == phash.text(pixels)
    assert {name: silent[name] for name in OF_IMAGES} == NOTHING | {"phash": silent["phash"]}


EVERYONE = Settings(threshold=-1, description_threshold=-1)


def run(store: LocalStore, *steps: str) -> None:
    for step in steps:
        Runner(store, EVERYONE, FakeModels(), STEPS).run(step, PARTITION)


def rows_of(store: LocalStore, table: str) -> list[dict[str, Any]]:
    return pq.read_table(next((store.root / table).rglob("00000.parquet"))).to_pylist()


def test_subsets_say_of_a_person_what_the_json_says(store: LocalStore) -> None:
    with store.writer(f"images/{PARTITION}/00000.tar") as path:
        tar_of({"000000000": jpeg(100)}, path, **{"000000000": KNOWN})
    run(store, "detect", "clip_filter", "subset_a", "describe")
    for table in ("subset_a", "subset_d"):
        (row,) = rows_of(store, table)
        assert {name: row[name] for name in OF_IMAGES} == KNOWN, table


def test_tables_of_before_these_columns_stay_and_are_read_with_nulls(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_shard(store, PARTITION, 0)
    for table, step in {"people": "detect", "subset_a": "clip_filter"}.items():  # which subset_a follows
        with monkeypatch.context() as before:
            older = pa.schema([field for field in SCHEMAS[table] if field.name not in OF_IMAGES])
            before.setitem(SCHEMAS, table, older)
            run(store, step)
    made = {path: store.read(path) for path in store.list("")}
    run(store, "detect", "clip_filter", "subset_a")
    assert {path: store.read(path) for path in made} == made
    run(store, "describe")
    assert all(row[name] is None for row in rows_of(store, "subset_d") for name in OF_IMAGES)
    people = next((store.root / "people").rglob("*.parquet"))
    assert read_table(people, "people").schema == SCHEMAS["people"]
    assert read_table(people, "people", ["phash", "key"]).column_names == ["phash", "key"]
    assert read_table(people, "people", ["phash"]).num_rows == len(rows_of(store, "people"))


def test_a_column_that_a_table_must_have_is_missed(tmp_path: Path) -> None:
    pq.write_table(pa.table({"person_id": ["a"]}), tmp_path / "x.parquet")
    with pytest.raises(pa.ArrowInvalid, match="url"):
        read_table(tmp_path / "x.parquet", "people", ["person_id", "url", "phash"])
