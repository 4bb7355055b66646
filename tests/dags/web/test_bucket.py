"""The browsers on a bucket: what each page asks of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from laion_people.storage.store import LocalStore, S3Store
from laion_people.web import source
from tests.dags.web.big_shard import add_big_shards
from tests.dags.web.browsing import people_of
from tests.s3 import moto_server

PARTITION = "laion2B-en/00042"


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """Port of an S3 service, and a folder with a shard of 4,000 people whose files it has too."""
    folder = tmp_path_factory.mktemp("large")
    add_big_shards(LocalStore(folder), PARTITION, "v0001", shards=1, people=4_000)
    with moto_server() as port:
        yield port, folder


@pytest.fixture
def requests(bucket: tuple[int, Path], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the page's store asks of its bucket, as it comes."""
    port, folder = bucket
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("LAION_PEOPLE_STORE", "s3://people")
    source._open.cache_clear()
    store = source.store()
    assert isinstance(store, S3Store)
    store.client.create_bucket(Bucket="people")
    for path in folder.rglob("*"):
        if path.is_file():
            store.client.upload_file(str(path), "people", path.relative_to(folder).as_posix())
    asked: list[str] = []

    def note(request: Any, **_: object) -> None:
        asked.append(f"{request.method} {request.url} {request.headers.get('Range', '')}")

    store.client.meta.events.register("before-send.s3", note)
    return asked


@pytest.mark.parametrize(
    ("page", "most"),
    [
        (f"/people/{PARTITION}", 28),
        (f"/people/{PARTITION}?page=80", 28),
        (f"/people/{PARTITION}?subset_a=yes&face=yes&low=0.2&text=park&people=2&fact=base=standing", 45),
        (f"/people/{PARTITION}/00000/000000003/0", 32),
        ("/clusters/v0001", 12),
        (f"/composites/v0001/{PARTITION}", 10),
        (f"/captioned/v0001/{PARTITION}", 20),
    ],
)
def test_a_page_takes_few_requests(client: TestClient, requests: list[str], page: str, most: int) -> None:
    assert client.get(f"/laion-people{page}").status_code == 200
    assert len(requests) <= most, requests


def test_of_heavy_tables_a_page_reads_little(client: TestClient, requests: list[str]) -> None:
    """The mesh of 4,000 people is 16 MB: a page takes one row group of its landmarks."""
    answer = client.get(f"/laion-people/people/{PARTITION}")
    assert len(people_of(answer.text)) == 24
    spans = [re.findall(r"bytes=(\d+)-(\d+)", r)[0] for r in requests if "/mesh/" in r and "bytes=" in r]
    assert sum(int(stop) + 1 - int(start) for start, stop in spans) < 6_500_000


def test_a_picture_takes_a_look_and_a_range_once_its_tar_is_known(client: TestClient, requests: list[str]) -> None:
    def picture(key: str) -> int:
        requests.clear()
        answer = client.get(f"/laion-people/images/stored/{PARTITION}/0/{key}")
        assert answer.headers["Content-Type"] == "image/jpeg"
        return len(requests)

    assert picture("000000000") <= 5  # the start of the tar is read
    assert picture("000000100") <= 5
    assert picture("000000007") == 2
    tag = client.get(f"/laion-people/images/stored/{PARTITION}/0/000000007").headers["ETag"]
    requests.clear()
    headers = {"If-None-Match": tag}
    assert client.get(f"/laion-people/images/stored/{PARTITION}/0/000000007", headers=headers).status_code == 304
    assert len(requests) == 1
