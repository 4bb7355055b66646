from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

from laion_people.storage.store import LocalStore
from tests.dags.web.browsing import PARTITION, Order, Passes, Rows, make_browsed, replace, table, words
from tests.synthetic_store import VERSION

PAGE = f"/laion-people/captioned/{VERSION}/{PARTITION}"
PATH = f"subset_c/{VERSION}/{PARTITION}/00000.parquet"


@pytest.fixture
def rows(store: LocalStore) -> Rows:
    make_browsed(store, images=8)
    return list(table(store, PATH).to_pylist())


def shown(page: str) -> list[tuple[str, str]]:
    return re.findall(r'aria-label="(Pose|Face|Head) of person ([^"]+)"', page)


def pages(client: TestClient, query: str) -> list[tuple[str, str]]:
    first = client.get(f"{PAGE}?{query}&page=1").text
    more = client.get(f"{PAGE}?{query}&page=2").text if 'rel="next"' in first else ""
    return shown(first) + shown(more)


@pytest.mark.parametrize(
    ("query", "passes", "order"),
    [
        ("", lambda row: True, None),
        ("kind=face", lambda row: row["kind"] == "face", None),
        ("cluster=pose-0002", lambda row: row["cluster_id"] == "pose-0002", None),
        ("text=HEAD+candidate", lambda row: "head candidate" in row["caption"], None),
        ("sort=clear&kind=pose", lambda row: row["kind"] == "pose", lambda row: -row["margin"]),
        ("sort=close", lambda row: True, lambda row: row["margin"]),
    ],
)
def test_filters_and_orders(client: TestClient, rows: Rows, query: str, passes: Passes, order: Order | None) -> None:
    expected = [row for row in rows if passes(row)]
    expected = sorted(expected, key=order) if order else expected
    assert pages(client, query) == [(row["kind"].capitalize(), row["person_id"]) for row in expected]


def test_candidates_stand_with_their_scores_the_best_first(client: TestClient, rows: Rows) -> None:
    page = client.get(PAGE).text
    ranked = re.findall(r'<li dir="auto">([^<]*) <span class="soft">([\d.]+)</span>', page)[:5]
    assert ranked == [
        (text, f"{score:.3f}") for text, score in zip(rows[0]["candidates"], rows[0]["scores"], strict=True)
    ]
    assert f"{rows[0]['clip_score']:.3f}, ahead by {rows[0]['margin']:.3f} of 4 others" in page


def test_what_a_caption_claims_stands_below_it(client: TestClient, store: LocalStore, rows: Rows) -> None:
    replace(store, PATH, claims=[["base=on_feet", "left_arm=in_lap"]] * len(rows), foil_margin=[-0.125] * len(rows))
    card = words(client.get(PAGE).text, "<figcaption>", "</figcaption>")
    assert f"{rows[0]['caption']} body: on the feet left arm: hand in the lap" in card
    assert "0.125 below the best false caption" in card


def test_captions_of_a_release_without_claims_are_shown(client: TestClient, store: LocalStore, rows: Rows) -> None:
    replace(store, PATH, claims=None, foil_margin=None)
    page = client.get(PAGE)
    assert page.status_code == 200 and len(shown(page.text)) == min(24, len(rows))
    assert 'class="claims"' not in page.text and "false caption" not in page.text


def test_a_claim_without_words_is_told_as_damage(client: TestClient, store: LocalStore, rows: Rows) -> None:
    replace(store, PATH, claims=[[None]] * len(rows))
    answer = client.get(PAGE)
    assert answer.status_code == 503 and f"{PATH} is damaged" in answer.text


def test_of_a_head_the_head_is_shown_and_of_a_pose_the_body(client: TestClient, rows: Rows) -> None:
    page = client.get(PAGE).text
    views = re.findall(r'viewBox="\S+ \S+ \S+ (\S+)"[^>]*aria-label="(\w+) of person ([^"]+)"', page)
    heights = {(kind, person): float(height) for height, kind, person in views}
    both = [person for kind, person in heights if kind == "Face"]
    assert both
    assert all(heights["Face", person] < 0.5 * heights["Pose", person] for person in both)


def test_choices_for_people_who_are_gone_name_the_step_to_run(
    client: TestClient, store: LocalStore, rows: Rows
) -> None:
    make_browsed(store, images=4)
    old = [row for row in rows if "000000007" in str(row["person_id"])]
    assert old
    with store.writer(PATH) as local:
        pq.write_table(pa.Table.from_pylist(old, schema=table(store, PATH).schema), local)
    answer = client.get(PAGE)
    assert answer.status_code == 503
    assert "[mismatched-tables]" in answer.text


def test_before_caption_has_run_the_page_says_what_to_do(client: TestClient) -> None:
    assert "<code>caption</code>" in client.get(PAGE).text
