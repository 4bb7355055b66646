from __future__ import annotations

import re

import pytest
from fastapi.testclient import TestClient

from laion_people.storage.store import LocalStore
from tests.dags.web.browsing import PARTITION, Passes, Rows, make_browsed, table
from tests.synthetic_store import VERSION

PAGE = f"/laion-people/composites/{VERSION}/{PARTITION}"


@pytest.fixture
def rows(store: LocalStore) -> Rows:
    make_browsed(store)
    return list(table(store, f"subset_b/{VERSION}/{PARTITION}/00000.parquet").to_pylist())


def shown(page: str) -> list[str]:
    return re.findall(r'aria-label="Composed image (\S+) of 2 people"', page)


@pytest.mark.parametrize(
    ("query", "passes"),
    [
        ("", lambda row: True),
        ("aspect=face", lambda row: row["aspect"] == "face"),
        ("similar=yes", lambda row: row["n_similar"] > 0),
        ("similar=no&aspect=pose", lambda row: row["n_similar"] == 0 and row["aspect"] == "pose"),
        ("text=SAME", lambda row: "same" in row["caption"]),
        ("text=nothing+like+it", lambda row: False),
    ],
)
def test_filters_leave_those_that_pass(client: TestClient, rows: Rows, query: str, passes: Passes) -> None:
    answer = client.get(f"{PAGE}?{query}")
    assert answer.status_code == 200
    assert shown(answer.text) == [row["composite_id"] for row in rows if passes(row)]


def test_people_of_one_cluster_have_boxes_of_one_colour(client: TestClient, rows: Rows) -> None:
    figures = client.get(PAGE).text.split('<svg class="picture')[1:]
    for row, figure in zip(rows, figures, strict=True):
        boxes = re.findall(r'class="box" stroke="(#\w+)" d="M([\d.]+)', figure)
        assert [float(left) for _, left in boxes] == [person["bbox"][0] for person in row["people"]]
        assert len({colour for colour, _ in boxes}) == (1 if row["n_similar"] else 2)


def test_each_composite_leads_to_the_people_it_is_made_of(client: TestClient, rows: Rows) -> None:
    page = client.get(PAGE).text
    for person in rows[0]["people"]:
        link = f"/laion-people/people/{person['person_id']}?version={VERSION}"
        assert f'href="{link}"' in page
        assert client.get(link).status_code == 200
    picture = re.findall(r'<image href="([^"]+)"', page)[0]
    assert client.get(picture).headers["Content-Type"] == "image/jpeg"


def test_before_compose_has_run_the_page_says_what_to_do(client: TestClient) -> None:
    assert "<code>compose</code>" in client.get(PAGE).text
