"""Addresses and stores that are not as they should be: whatever is wrong, a page says it in a sentence."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

from laion_people.reports import tables
from laion_people.storage.store import LocalStore
from laion_people.web import rows
from tests.dags.web.browsing import PARTITION, make_browsed
from tests.synthetic_store import VERSION

PEOPLE = f"/people/{PARTITION}"
PAGES = (
    "/",
    f"/partitions/{PARTITION}",
    f"{PEOPLE}?text=a&face=yes&low=0&cluster=pose-0001&people=1",
    f"{PEOPLE}?subset_a=yes&sort=similar&fact=base=standing",
    f"{PEOPLE}/0/000000001/0",
    f"/captioned/{VERSION}/{PARTITION}?kind=pose&sort=clear",
    f"/composites/{VERSION}/{PARTITION}?similar=yes&text=a",
    f"/clusters/{VERSION}?text=a",
    f"/clusters/{VERSION}/face-0001",
    f"/images/stored/{PARTITION}/0/000000001",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    make_browsed(LocalStore(folder))
    return folder


@pytest.fixture
def store(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalStore]:
    store = LocalStore(Path(shutil.copytree(whole, tmp_path / "store")))
    monkeypatch.setenv("LAION_PEOPLE_STORE", store.uri)
    monkeypatch.setattr(rows, "LISTING_SECONDS", 0)
    yield store


def ask_all(client: TestClient, what: str) -> None:
    for page in PAGES:
        answer = client.get(f"/laion-people{page}")
        told = answer.status_code == 503 and "Something is wrong with the store" in answer.text
        assert told or answer.status_code < 500, (page, what)


@pytest.mark.parametrize("name", ["a" * 300, "a" * 5000, "\0", "..%2f..", "\N{PARTY POPPER}", "(", "%"])
def test_any_address_is_answered(client: TestClient, name: str) -> None:
    at = ("/docs/{}.md", "/people/demo/{}", "/partitions/{}/{}", "/images/stored/demo/00000/0/{}", "/runs/{}/{}")
    at += ("/clusters/{}/face-0001", "/{}", PEOPLE + "/0/{}/0", PEOPLE + "?text={}", PEOPLE + "?shard={}")
    for page in at:
        assert client.get("/laion-people" + page.replace("{}", quote(name, safe=""))).status_code < 500, page


def test_any_table_in_place_of_another_is_told(client: TestClient, store: LocalStore, whole: Path) -> None:
    paths = sorted(path.relative_to(whole) for path in whole.rglob("*.parquet") if path.parts[-4] != "metadata")
    others = random.Random(5).sample([(a, b) for a in paths for b in paths if a != b], 24)
    for path, other in others:
        shutil.copyfile(whole / other, store.root / path)
        ask_all(client, f"{other} as {path}")
        shutil.copyfile(whole / path, store.root / path)


@pytest.mark.parametrize(
    "change",
    [
        {"rows": "x"}, {"rows": -1}, {"rows": 10**400}, {"seconds": None}, {"rejected": None},
        {"rejected": {"dns": "x"}}, {"partition": []}, {"partition": "demo/00001"}, {"step": "pose"},
        {"ended": 7}, {"params": 7},
    ],
)  # fmt: skip
def test_totals_that_cannot_be_are_told_with_their_file(
    client: TestClient, store: LocalStore, change: dict[str, Any]
) -> None:
    path = f"totals/detect/{PARTITION}.json"
    store.write(path, json.dumps(json.loads(store.read(path)) | change).encode())
    for page in ("/", f"/partitions/{PARTITION}"):
        answer = client.get(f"/laion-people{page}")
        assert answer.status_code == 503 and f"{path} is damaged" in answer.text, page


@pytest.mark.parametrize("kind", ["text", "number", "null", "not UTF-8", "short lists"])
def test_columns_of_another_type_or_without_values_are_told(
    client: TestClient, store: LocalStore, whole: Path, kind: str
) -> None:
    """As many rows and the same names, so that the table looks right."""
    for path in sorted(whole.rglob("*.parquet")):
        table = pq.read_table(path)
        n = len(table)
        values = {
            "text": pa.array(["x"] * n),
            "number": pa.array([7] * n),
            "null": pa.nulls(n),
            "not UTF-8": pa.array([b"\xff\xfe"] * n, pa.binary()).view(pa.string()),
            "short lists": pa.array([[1.0]] * n, pa.list_(pa.float32())),
        }[kind]
        ids = {name: table[name] for name in table.column_names if name == "person_id"}
        pq.write_table(pa.table(dict.fromkeys(table.column_names, values) | ids), store.root / path.relative_to(whole))
        ask_all(client, f"{kind} in {path.relative_to(whole)}")
        shutil.copyfile(path, store.root / path.relative_to(whole))


def test_huge_captions_of_an_old_store_make_no_huge_page(client: TestClient, store: LocalStore) -> None:
    path = store.root / f"people/{PARTITION}/00000.parquet"
    table = pq.read_table(path)
    huge = pa.array([f"{i} " + "word " * 100_000 for i in range(len(table))])
    pq.write_table(table.set_column(table.column_names.index("caption"), table.schema.field("caption"), huge), path)
    answer = client.get(f"/laion-people{PEOPLE}")
    assert answer.status_code == 200 and "word word" in answer.text and len(answer.text) < 1_000_000
    assert client.get(f"/laion-people{PEOPLE}?text=word").status_code == 200


def test_columns_that_would_fill_the_memory_are_refused(
    client: TestClient, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "MOST_BYTES", 100)
    answer = client.get(f"/laion-people{PEOPLE}")
    assert answer.status_code == 503 and "[large-table]" in answer.text
