"""The page of a partition."""

from __future__ import annotations

import dataclasses
import re

import pytest
from fastapi.testclient import TestClient

from laion_people.engine.catalog import PARTITION_STEPS
from laion_people.storage.layout import manifest_path
from laion_people.storage.store import LocalStore
from laion_people.storage.totals import write_totals
from laion_people.web.partition import ranges
from laion_people.web.reasons import MEANINGS
from tests.dags.web.big_store import add_partition, add_version, manifest
from tests.dags.web.conftest import AddRun
from tests.said import reasons

KEY = "laion2B-en/00001"
PAGE = f"/laion-people/partitions/{KEY}"
UNIT_OF = {"download": "images", "detect": "images", "caption": "captions", "describe": "descriptions"}  # else people


def text(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))


def test_the_funnel_tells_what_was_lost_and_why(client: TestClient, store: LocalStore) -> None:
    add_partition(store, KEY, 2)
    told = text(client.get(PAGE).text)
    assert "20,000 rows of metadata" in told
    assert "12,400 downloaded" in told
    assert "7,600 lost (38 %) 4,000 not_found HTTP 404 or 410 1,600 dns the host name could not be looked up" in told
    assert "3,458 Subset A" in told


def test_every_reason_has_a_meaning() -> None:
    counted = [said for said in reasons() if said.step in PARTITION_STEPS or said.step == "mesh"]
    assert len(counted) > 20
    for said in counted:
        for reason in said.text.replace("no_…_cluster", "no_pose_cluster no_face_cluster no_head_cluster").split():
            assert reason in MEANINGS[UNIT_OF.get(said.step, "people")], said


def test_the_steps_tell_rates_and_lead_to_their_runs(client: TestClient, store: LocalStore, add_run: AddRun) -> None:
    add_partition(store, KEY, 2)
    write_totals(store, manifest("pose", KEY, [0, 1], 10, run_id="0123abcd"), 2)
    add_run("laion_people_extract", "manual__1", KEY, "success")
    page = client.get(PAGE).text
    steps = dict(re.findall(r'<tr id="step-(\w+)">(.*?)</tr>', page, re.DOTALL))
    assert list(steps) == [step for step in PARTITION_STEPS if step != "describe"]
    assert "20,000 12,400 62 %" in text(steps["download"])
    assert " 173 " in text(steps["download"])
    assert 'href="/dags/laion_people_extract/runs/manual__1" target="_top"' in steps["download"]
    assert "outside Airflow" in steps["pose"]


def test_missing_shards_are_named(client: TestClient, store: LocalStore) -> None:
    add_partition(store, KEY, 20)
    made = manifest("caption", KEY, [0, 1, 2, 5, 9, *range(11, 20)], 10)
    store.write(manifest_path("caption", KEY), made.to_json())
    write_totals(store, made, 20)
    told = text(client.get(PAGE).text)
    assert "Missing shards caption 3-4, 6-8, 10 A run under way" in told


def test_shards_are_not_named_when_it_cannot_be_told_which(client: TestClient, store: LocalStore) -> None:
    """Images that were made elsewhere have gaps in their numbers, and no manifest of a download."""
    made = manifest("detect", KEY, [3, 7], 10)
    store.write(manifest_path("detect", KEY), made.to_json())
    write_totals(store, made, 3)
    page = client.get(PAGE).text
    assert "2/3" in page
    assert "Missing shards" not in page


@pytest.mark.parametrize(
    ("numbers", "told"), [([], []), ([4], ["4"]), ([3, 1, 2, 7, 9, 8], ["1-3", "7-9"]), ([0, 2], ["0", "2"])]
)
def test_ranges(numbers: list[int], told: list[str]) -> None:
    assert ranges(numbers) == told


def test_a_partition_leads_to_its_neighbours_and_browsers(client: TestClient, store: LocalStore) -> None:
    for part in range(3):
        add_partition(store, f"laion2B-en/{part:05d}", 1)
    add_version(store, "v0002", [KEY])
    page = client.get(PAGE).text
    assert re.findall(r'rel="(prev|next)" href="([^"]+)"', page) == [
        ("prev", "/laion-people/partitions/laion2B-en/00000"), ("next", "/laion-people/partitions/laion2B-en/00002"),
    ]  # fmt: skip
    for path in (f"people/{KEY}", f"composites/v0002/{KEY}", f"captioned/v0002/{KEY}"):
        assert f'href="/laion-people/{path}"' in page


def test_a_partition_of_which_nothing_is_made_says_how_to_start(client: TestClient, store: LocalStore) -> None:
    store.write("metadata/laion2B-en/part-00001-x.parquet", b"")
    assert "Nothing has been made of this partition yet" in client.get(PAGE).text


@pytest.mark.parametrize("path", ["a/b", "..%2f..%2fetc/passwd", ".a/b", "a/b%00", "a/b%0a", "a/<b>"])
def test_what_is_no_partition_is_not_found(client: TestClient, store: LocalStore, path: str) -> None:
    store.write("metadata/laion2B-en/part-00001-x.parquet", b"")
    answer = client.get(f"/laion-people/partitions/{path}")
    assert answer.status_code == 404
    assert "root:" not in answer.text
    assert "<b>" not in answer.text


def test_a_damaged_manifest_leaves_out_which_shards_are_missing(client: TestClient, store: LocalStore) -> None:
    add_partition(store, KEY, 3, {"caption": 2})
    store.write(manifest_path("caption", KEY), b"{}")
    answer = client.get(PAGE)
    assert answer.status_code == 200 and "Missing shards" not in answer.text


def test_what_no_audit_has_counted_is_shown_by_its_shards(client: TestClient, store: LocalStore) -> None:
    for step, shards in (("detect", 3), ("pose", 2), ("assign/v0001", 1)):
        for index in range(shards):
            store.write(f"manifests/{step}/{KEY}/{index:05d}.json", b"{}")
    page = client.get(PAGE).text
    for step, shards in (("detect", 3), ("pose", 2), ("assign", 1)):
        assert f'<tr id="step-{step}"><th scope="row">{step}</th><td class="partial number">{shards}</td>' in page
    overview = client.get("/laion-people/").text
    assert re.findall(r">(\d) shards</td>", overview) == ["3", "2", "1"]


def test_a_run_leads_to_its_partition(client: TestClient, store: LocalStore, add_run: AddRun) -> None:
    add_run("laion_people_extract", "manual__1+00:00", KEY, "running")
    add_run("laion_people_cluster", "manual__2", "laion2B-en", "running")
    add_run("laion_people_extract", "manual__3", None, "failed")
    add_run("another_dag", "manual__4", KEY, "success")

    def led(dag: str, run: str) -> tuple[int, str]:
        answer = client.get(f"/laion-people/runs/{dag}/{run}")
        return answer.status_code, answer.headers.get("location", "")

    assert led("laion_people_extract", "manual__1%2B00:00") == (303, PAGE)
    assert led("laion_people_cluster", "manual__2") == (303, "/laion-people/?collection=laion2B-en")
    assert led("laion_people_extract", "manual__3") == led("another_dag", "manual__4") == (404, "")


def test_runs_of_other_dags_are_not_ours(client: TestClient, store: LocalStore, add_run: AddRun) -> None:
    add_partition(store, KEY, 2)
    add_run("another_dag", "manual__1", KEY, "failed")  # the run id that the steps' manifests have
    page = client.get(PAGE).text
    assert "another_dag" not in page
    assert "Airflow knows of no run with this partition key" in page


def test_parameters_and_flags_are_text(client: TestClient, store: LocalStore) -> None:
    attack = '"><img src=x onerror=alert(1)>'
    made = dataclasses.replace(manifest("detect", KEY, [0], 10), params={attack: attack})
    write_totals(store, made, 1)
    page = client.get(PAGE).text
    assert "<img" not in page
    assert "&lt;img src=x" in page
