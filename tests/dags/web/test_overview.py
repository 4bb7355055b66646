"""Partitions x steps."""

from __future__ import annotations

import dataclasses
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from laion_people.errors import LaionPeopleError
from laion_people.reports.drift import Statistics
from laion_people.storage.store import LocalStore
from laion_people.storage.totals import Totals, write_totals
from laion_people.web import source
from laion_people.web.app import app
from laion_people.web.source import Shared
from tests.dags.web.big_store import add_partition, add_partitions, add_version, manifest
from tests.dags.web.conftest import AddRun
from tools.local_airflow import free_port

PAGE = "/laion-people/"
EXTRACT, CAPTION = "laion_people_extract", "laion_people_caption"


def rows(page: str) -> dict[str, list[str]]:
    """The matrix: the texts of each partition's cells, by the last part of its key."""
    cells_by_row = {}
    for row in re.findall(
        r"<tr>\s*<th scope=\"row\"><a href=\"[^\"]*/partitions/[^>]*>(.*?)</a>(.*?)</tr>", page, re.DOTALL
    ):
        cells = re.findall(r"<td[^>]*>(.*?)</td>", row[1], re.DOTALL)
        cells_by_row[row[0]] = [re.sub(r"<[^>]*>", "", cell).replace("\xa0", " ").strip() for cell in cells]
    return cells_by_row


def test_a_store_without_partitions_says_what_to_do(client: TestClient, store: LocalStore) -> None:
    page = client.get(PAGE).text
    assert "has no partitions yet" in page
    assert f"{store.uri}/metadata/" in page


def test_each_partition_tells_each_step(client: TestClient, store: LocalStore) -> None:
    store.write("metadata/laion2B-en/part-00000-x.parquet", b"")
    add_partition(store, "laion2B-en/00001", 5, {"pose": 3, "mesh": 0})
    cells = rows(client.get(PAGE).text)
    assert list(cells) == ["00000", "00001"]
    assert set(cells["00000"]) == {"", "–not run"}
    assert cells["00001"][:6] == ["", "31 k", "27.9 k", "3/5", "–not run", "27.9 k"]


def test_the_newest_run_of_each_dag_is_linked(client: TestClient, store: LocalStore, add_run: AddRun) -> None:
    add_partition(store, "laion2B-en/00001", 2)
    add_run(EXTRACT, "manual__1", "laion2B-en/00001", "failed")
    add_run(EXTRACT, "manual__2+00:00", "laion2B-en/00001", "running")
    add_run("another_dag", "manual__3", "laion2B-en/00001", "success")
    page = client.get(PAGE).text
    assert re.findall(r'<a class="run (\w+)" href="([^"]*)" target="_top"', page) == [
        ("running", f"/dags/{EXTRACT}/runs/manual__2%2B00%3A00")
    ]


def test_partitions_are_chosen_by_collection_state_and_key(
    client: TestClient, store: LocalStore, add_run: AddRun
) -> None:
    add_partition(store, "laion2B-en/00001", 2)
    add_partition(store, "laion2B-en/00012", 2, {"caption": 1})
    add_partition(store, "relaion2B-en/00001", 2)
    add_run(EXTRACT, "manual__1", "laion2B-en/00012", "failed")
    add_run(CAPTION, "manual__2", "relaion2B-en/00001", "queued")

    def keys(**choice: str) -> list[str]:
        return re.findall(r'href="/laion-people/partitions/([^"]+)"', client.get(PAGE, params=choice).text)

    assert keys() == ["laion2B-en/00001", "laion2B-en/00012", "relaion2B-en/00001"]
    assert keys(collection="laion2B-en") == ["laion2B-en/00001", "laion2B-en/00012"]
    assert keys(show="unfinished") == keys(show="failed") == keys(q="12") == ["laion2B-en/00012"]
    assert keys(show="running") == ["relaion2B-en/00001"]
    assert keys(show="failed", collection="relaion2B-en") == []


def test_a_partition_unlike_its_collection_is_flagged(client: TestClient, store: LocalStore) -> None:
    for part in range(6):
        add_partition(store, f"laion2B-en/0000{part}", 1)
        statistics = Statistics(f"laion2B-en/0000{part}", 0.1 if part == 4 else 0.6, 1.0, 0.28, "d", "c")
        store.write(f"statistics/laion2B-en/0000{part}.json", json.dumps(dataclasses.asdict(statistics)).encode())
    page = client.get(PAGE, params={"show": "drift"}).text
    assert list(rows(page)) == ["00004"]
    assert "download success is 10.0%" in page


def test_images_made_elsewhere_need_no_download(client: TestClient, store: LocalStore) -> None:
    add_partition(store, "laion2B-en/00000", 1)
    add_partition(store, "mine/00000", 1)
    store.delete("totals/download/mine/00000.json")
    assert 'value="unfinished">unfinished (0)' in client.get(PAGE).text
    tiles = dict(re.findall(r"<b>([^<]*)</b> <span>(\w+)", client.get(PAGE, params={"collection": "mine"}).text))
    assert "images" in tiles.values() and tiles["6.2\xa0k"] == "images"


def test_many_partitions_come_in_pages(client: TestClient, store: LocalStore) -> None:
    for part in range(130):
        store.write(f"metadata/laion2B-en/part-{part:05d}-x.parquet", b"")
    first = client.get(PAGE).text
    assert len(rows(first)) == 128
    [following] = re.findall(r'rel="next" href="([^"]+)"', first)
    assert list(rows(client.get(following.replace("&amp;", "&")).text)) == ["00128", "00129"]
    assert list(rows(client.get(PAGE, params={"page": 99}).text)) == ["00128", "00129"]


def test_sums_stand_on_top(client: TestClient, store: LocalStore) -> None:
    add_partition(store, "laion2B-en/00000", 100)
    add_partition(store, "laion2B-en/00001", 100, {"subset_a": 50})
    page = client.get(PAGE).text.replace("\xa0", " ")
    assert re.findall(r"<b>([^<]*)</b> <span>([\w ]+)</span>", page)[:5] == [
        ("2", "partitions"), ("2 M", "rows of metadata"), ("1.24 M", "images"), ("1.12 M", "people"),
        ("259 k", "in Subset A"),
    ]  # fmt: skip
    sums = dict(re.findall(r'<tr>\s*<th scope="row">([\w/]+)</th>(.*?)</tr>', page, re.DOTALL))
    cells = {name: re.findall(r'<td class="number">([^<]*)</td>', row) for name, row in sums.items()}
    assert [cells[name][0] for name in ("done", "rows", "kept", "rows/s")] == ["2/2", "1.24 M", "62 %", "173"]
    assert cells["done"][6] == "1/2"


def test_cluster_versions_are_linked(client: TestClient, store: LocalStore) -> None:
    add_partition(store, "laion2B-en/00000", 1)
    add_version(store, "v0007", ["laion2B-en/00000"])
    page = client.get(PAGE).text
    assert 'href="/laion-people/clusters/v0007"' in page
    assert list(rows(page)) == ["00000"]  # a version is no partition


def test_what_comes_from_outside_is_text_and_nothing_else(client: TestClient, store: LocalStore) -> None:
    attack = "\"'><script>alert(1)</script>\u202egnp"
    made = dataclasses.replace(manifest("download", "laion2B-en/00000", [0], 10), run_id=attack, rejected={attack: 3})
    write_totals(store, made, 1)
    for path in ("", "partitions/laion2B-en/00000"):
        page = client.get(PAGE + path, params={"q": "", "collection": ""}).text
        assert "<script>alert" not in page
        assert "\u202e" not in page
    page = client.get(PAGE, params={"q": attack}).text
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


def test_a_metadata_file_with_an_odd_name_hides_no_partition(client: TestClient, store: LocalStore) -> None:
    add_partition(store, "laion2B-en/00001", 1)
    store.write("metadata/laion2B-en/part-00002-x.parquet", b"")
    store.write("metadata/laion2B-en/-odd name-.parquet", b"")
    page = client.get(PAGE)
    assert (page.status_code, list(rows(page.text))) == (200, ["00001", "00002"])
    assert all(client.get(f"{PAGE}partitions/laion2B-en/0000{i}").status_code == 200 for i in (1, 2))


def test_a_version_that_does_not_tell_its_partitions_is_listed(client: TestClient, store: LocalStore) -> None:
    add_partition(store, "laion2B-en/00000", 1)
    for version, params in (("v0001", {}), ("v0002", {"partitions": 7})):
        write_totals(store, dataclasses.replace(manifest("cluster", version, [0], 10), params=params), 1)
    page = client.get(PAGE)
    assert page.status_code == 200
    assert "clusters/v0001" in page.text and "clusters/v0002" in page.text


def test_those_who_ask_together_share_a_reading() -> None:
    """Each reading of a bucket lists it, which takes a second for thousands of partitions."""
    began, go = threading.Semaphore(0), threading.Event()
    readings: list[int] = []

    def read() -> dict[str, dict[str, Totals]]:
        readings.append(len(readings))
        began.release()
        assert go.wait(20)
        return {f"reading {readings[-1]}": {}}

    shared = Shared(read)
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(shared.read)
        assert began.acquire(timeout=20)
        later = [pool.submit(shared.read) for _ in range(8)]  # what the first has read may be older than they are
        while pool._work_queue.qsize():
            time.sleep(0.01)
        time.sleep(0.2)
        go.set()
        assert list(first.result(20)) == ["reading 0"]
        assert {str(list(reading.result(20))) for reading in later} == {"['reading 1']"}
    assert list(shared.read()) == ["reading 2"]


def test_those_who_ask_together_share_an_error() -> None:
    def read() -> dict[str, dict[str, Totals]]:
        raise LaionPeopleError("store-away", "away")

    shared = Shared(read)
    for _ in range(2):
        with pytest.raises(LaionPeopleError, match="away"):
            shared.read()


def test_the_server_starts_when_the_pages_are_ready(
    airflow: FastAPI, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_partition(store, "laion2B-en/00000", 1)
    asked: list[str] = []
    monkeypatch.setattr(source, "latest_runs", lambda: asked.append("Airflow's database"))
    with TestClient(app):
        assert asked == ["Airflow's database"]  # SQLAlchemy's first query takes long
        monkeypatch.setattr(LocalStore, "open", lambda self, path: asked.append(path))
        assert source.totals()["laion2B-en/00000"].keys() >= {"download", "caption"}
    assert len(asked) == 1


def test_a_damaged_file_is_told_in_a_sentence(client: TestClient, store: LocalStore) -> None:
    store.write("totals/detect/laion2B-en/00000.json", b"{")
    answer = client.get(PAGE)
    assert answer.status_code == 503
    assert "Something is wrong with the store" in answer.text
    assert "totals/detect/laion2B-en/00000.json is damaged" in answer.text
    assert "Traceback" not in answer.text


def test_a_bucket_that_is_away_is_told_in_a_sentence(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAION_PEOPLE_STORE", "s3://bucket/away")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "nobody")
    answer = client.get(PAGE)
    assert answer.status_code == 503
    assert "[store-away]" in answer.text


def test_wrong_settings_are_told_in_a_sentence(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAION_PEOPLE_STORE", "ftp://elsewhere")
    answer = client.get(PAGE)
    assert answer.status_code == 503
    assert "[bad-setting]" in answer.text


@pytest.mark.parametrize("query", ["page=0", "page=x", "show=nothing"])
def test_a_wrong_address_is_told_in_a_sentence(client: TestClient, query: str) -> None:
    answer = client.get(f"{PAGE}?{query}")
    assert answer.status_code == 422
    assert "This address is not right" in answer.text


def test_a_page_asks_the_store_for_little_however_many_shards_there_are(
    client: TestClient, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a bucket each request takes its time. What lies in folders of shards is never listed."""
    add_partitions(store, "laion2B-en", 4, 50)
    client.get(PAGE)  # which reads all totals, once
    asked: list[str] = []

    def watch(name: str) -> None:
        method = getattr(LocalStore, name)
        monkeypatch.setattr(
            LocalStore, name, lambda self, path: (asked.append(f"{name} {path}"), method(self, path))[1]
        )

    for name in ("list", "tags", "open", "exists", "size", "tag"):
        watch(name)
    folders = ["list metadata", "tags statistics", "tags totals"]
    client.get(PAGE)
    assert sorted(asked) == folders
    asked.clear()
    client.get(f"{PAGE}partitions/laion2B-en/00000")
    assert sorted(asked) == folders
    asked.clear()
    client.get(f"{PAGE}partitions/laion2B-en/00001")  # unfinished: two manifests tell which shards are missing
    manifests = [f"open manifests/{step}/laion2B-en/00001.json" for step in ("caption", "embed")]
    assert sorted(asked) == sorted(folders + manifests)
