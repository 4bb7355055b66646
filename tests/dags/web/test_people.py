from __future__ import annotations

import re
from html import unescape

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

from laion_people.reports.figures import LEFT, MIDDLE, RIGHT
from laion_people.storage.store import LocalStore
from tests.dags.web.big_shard import add_big_shards
from tests.dags.web.browsing import (
    CAPTIONS,
    HOSTILE,
    PARTITION,
    Passes,
    Rows,
    make_browsed,
    people_of,
    replace,
    table,
    words,
)
from tests.synthetic_store import THRESHOLD

PAGE = f"/laion-people/people/{PARTITION}"


@pytest.fixture
def people(store: LocalStore) -> Rows:
    """The store's people with all that the filters look at."""
    make_browsed(store)
    read = [
        table(store, f"{name}/{PARTITION}/00000.parquet").to_pylist() for name in ("people", "clip", "mesh", "facts")
    ]
    assigned = table(store, f"assignments/v0001/{PARTITION}/00000.parquet").to_pylist()
    people = [a | b | c | d | e for a, b, c, d, e in zip(*read, assigned, strict=True)]
    keys = [person["key"] for person in people]
    return [person | {"crowd": keys.count(person["key"])} for person in people]


def all_pages(client: TestClient, address: str) -> list[str]:
    """The ids on a page and on all that follow it by "next"."""
    ids: list[str] = []
    while address:
        page = client.get(address)
        assert page.status_code == 200, page.text
        ids += people_of(page.text)
        link = re.search(r'rel="next" href="([^"]*)"', page.text)
        address = PAGE + unescape(link[1]) if link else ""
    return ids


def test_everybody_is_on_one_page_in_the_order_of_the_shard(
    client: TestClient, people: list[dict[str, object]]
) -> None:
    assert all_pages(client, PAGE) == [person["person_id"] for person in people]


@pytest.mark.parametrize(
    ("query", "passes"),
    [
        ("subset_a=yes", lambda person: person["similarity"] > THRESHOLD),
        ("subset_a=no", lambda person: person["similarity"] <= THRESHOLD),
        ("low=0.25&high=0.3", lambda person: 0.25 <= person["similarity"] <= 0.3),
        ("face=yes", lambda person: person["face_score"] is not None),
        ("face=no", lambda person: person["face_score"] is None),
        ("people=2", lambda person: person["crowd"] == 2),
        ("people=3-5", lambda person: person["crowd"] == 3),
        ("score=0.95", lambda person: person["bbox_score"] >= 0.95),
        ("cluster=pose-0002", lambda person: person["pose_cluster"] == "pose-0002"),
        ("cluster=face-0001", lambda person: person["face_cluster"] == "face-0001"),
        ("fact=base=standing", lambda person: True),
        ("fact=base=sitting", lambda person: False),
        ("fact=mouth=relaxed", lambda person: "mouth" in {fact["name"] for fact in person["facts"]}),
        ("fact=base=on_feet", lambda person: True),  # who stands is
        ("text=SEASIDE", lambda person: "seaside" in person["caption"]),
        ("text=%3Cscript", lambda person: "<script" in person["caption"]),
        ("text=.*", lambda person: False),
        ("face=yes&people=2&low=0.2&text=person", lambda person: person["face_score"] and person["crowd"] == 2
            and person["similarity"] >= 0.2 and "person" in person["caption"].lower()),
        ("text=&low=&high=&score=&cluster=&fact=&face=&people=&shard=", lambda person: True),  # an empty form
    ],
)  # fmt: skip
def test_filters_leave_those_who_pass(client: TestClient, people: Rows, query: str, passes: Passes) -> None:
    assert all_pages(client, f"{PAGE}?{query}") == [person["person_id"] for person in people if passes(person)]


@pytest.mark.parametrize(("sort", "sign"), [("similar", -1), ("unlike", 1)])
def test_people_can_be_ordered_by_similarity(client: TestClient, people: Rows, sort: str, sign: int) -> None:
    expected = sorted(people, key=lambda person: sign * person["similarity"])
    assert all_pages(client, f"{PAGE}?sort={sort}") == [person["person_id"] for person in expected]


def test_next_goes_on_into_the_next_shard_and_back(client: TestClient, store: LocalStore) -> None:
    add_big_shards(store, "laion2B-en/00042", "v0001", shards=2, people=30)
    address = "/laion-people/people/laion2B-en/00042"
    seen = []
    for direction in ("next", "next", "next", "prev", "prev", "prev"):
        page = client.get(address).text
        seen.append((re.findall(r"in shard (\d+) · page (\d) of 2", page)[0], len(people_of(page))))
        link = re.search(rf'rel="{direction}" href="([^"]*)"', page)
        assert link, f"no {direction} at {address}"
        address = "/laion-people/people/laion2B-en/00042" + unescape(link[1])
    first, last = (("00000", "1"), 24), (("00001", "2"), 6)
    assert seen == [first, (("00000", "2"), 6), (("00001", "1"), 24), last, (("00001", "1"), 24), (("00000", "2"), 6)]


def test_boxes_skeletons_and_meshes_lie_where_they_were_found(
    client: TestClient, store: LocalStore, people: Rows
) -> None:
    page = client.get(PAGE).text
    row = next(i for i, person in enumerate(people) if person["face_landmarks"])
    figure = page.split("<svg")[row + 1].split("</svg>")[0]
    x1, y1, x2, y2 = (f"{v:.1f}".removesuffix(".0") for v in people[row]["bbox"])
    assert f'<path class="box" stroke="#ff4d6d" d="M{x1} {y1}H{x2}V{y2}H{x1}Z">' in figure
    keypoints = np.array(table(store, f"pose/{PARTITION}/00000.parquet")["keypoints"][row].as_py()).reshape(17, 3)
    seen = [f"M{x:.1f} {y:.1f}h0".replace(".0 ", " ").replace(".0h", "h") for x, y, s in keypoints if s >= 0.2]
    assert f'<path class="pose joints" d="{"".join(seen)}">' in figure
    assert figure.count("h0") == len(seen) + 478
    width, height = people[row]["image_width"], people[row]["image_height"]
    assert f'width="{width}" height="{height}" preserveAspectRatio="none"' in figure


def test_limbs_have_the_colours_of_their_side(client: TestClient, people: Rows) -> None:
    page = client.get(PAGE).text
    for colour in (LEFT, RIGHT, MIDDLE):
        assert f'<path class="pose" stroke="{colour}" d="M' in page


def test_captions_of_others_stay_text(client: TestClient, people: Rows) -> None:
    hostile = next(person["person_id"] for person in people if person["caption"] == HOSTILE)
    for address in (PAGE, f"/laion-people/people/{hostile}"):
        page = client.get(address).text
        assert "<script>alert" not in page
        assert "&lt;script&gt;alert(1)&lt;/script&gt; &#34;quoted&#34; &amp; fdp.exe" in page  # no mark that turns it
    page = client.get(f'{PAGE}?text="><script>alert(1)').text
    assert "<script>alert" not in page


@pytest.mark.parametrize(
    ("url", "linked"),
    [
        ("https://example.org/a.jpg?x=1&y=2", True),
        ("http://example.org/<b>", True),
        ("javascript:alert(1)", False),
        ("data:text/html,<script>alert(1)</script>", False),
        ("http://[", False),
        ("", False),
    ],
)
def test_only_addresses_of_the_web_become_links(client: TestClient, store: LocalStore, url: str, linked: bool) -> None:
    make_browsed(store)
    path = f"people/{PARTITION}/00000.parquet"
    rows = table(store, path)
    urls = pa.array([url] * len(rows))
    with store.writer(path) as local:
        pq.write_table(rows.set_column(rows.schema.get_field_index("url"), "url", urls), local)
    page = client.get(f"/laion-people/people/{rows['person_id'][0].as_py()}").text
    assert ('rel="noreferrer noopener nofollow"' in page) == linked
    assert 'href="javascript' not in page and 'href="data' not in page and "<b>" not in page


def test_a_persons_page_has_all_that_is_known(client: TestClient, people: Rows) -> None:
    row = next(i for i, person in enumerate(people) if person["face_landmarks"] and person["similarity"] > THRESHOLD)
    page = client.get(f"/laion-people/people/{people[row]['person_id']}").text
    assert f"in it: similarity {people[row]['similarity']:.3f}, threshold 0.3" in page
    assert "yaw 0°, pitch 0°, roll 0°" in page
    for kind in ("pose", "face", "head"):
        assert f'href="/laion-people/clusters/v0001/{people[row][f"{kind}_cluster"]}"' in page
        assert f"A person, {kind} candidate 0." in page
    assert f'rel="next" href="/laion-people/people/{people[row + 1]["person_id"]}"' in page
    assert f'rel="prev" href="/laion-people/people/{people[row - 1]["person_id"]}"' in page


def test_a_persons_page_tells_what_stands_out_in_the_face(client: TestClient, store: LocalStore) -> None:
    add_big_shards(store, PARTITION, "v0001", shards=1, people=30)
    mesh = table(store, f"mesh/{PARTITION}/00000.parquet")
    shapes = [None if row is None else [0.0] * 44 + [0.75, 0.25] + [0.0] * 6 for row in mesh["blendshapes"].to_pylist()]
    with store.writer(f"mesh/{PARTITION}/00000.parquet") as local:
        column = mesh.schema.field("blendshapes")
        pq.write_table(mesh.set_column(2, column, pa.array(shapes, column.type)), local)
    page = client.get(f"/laion-people/people/{mesh['person_id'][1].as_py()}").text
    assert re.findall(r"<dt>([a-z ]+)</dt><dd><meter[^>]*></meter> ([\d.]+)", page) == [("mouth smile left", "0.75")]


CAPTIONED = f"subset_c/v0001/{PARTITION}/00000.parquet"
FACTS = f"facts/{PARTITION}/00000.parquet"


def tell(store: LocalStore, facts: dict[str, tuple[str, float]], claims: list[str]) -> str:
    """Gives everybody these facts, and every pose caption these claims; returns the address of one of the people."""
    told = [{"name": name, "value": value, "confidence": sure} for name, (value, sure) in facts.items()]
    replace(store, FACTS, facts=[told] * len(table(store, FACTS)))
    captioned = table(store, CAPTIONED).to_pylist()
    replace(store, CAPTIONED, claims=[claims if person["kind"] == "pose" else person["claims"] for person in captioned])
    return f"/laion-people/people/{table(store, FACTS)['person_id'][1].as_py()}"


def test_a_persons_page_has_the_facts_by_kind_and_says_which_are_claimed(
    client: TestClient, store: LocalStore, people: Rows
) -> None:
    facts = {"base": ("walking", 0.83), "left_arm": ("on_hip", 0.61), "turn": ("slight_left", 0.97)}
    page = client.get(tell(store, facts, ["base=on_feet"])).text
    assert words(page, 'aria-label="Facts of the pose">', "</section>").endswith(
        "body walking 0.83 claimed left arm hand on the hip 0.61"
    )
    assert "head turned slightly to the left 0.97" in words(page, 'aria-label="Facts of the head">', "</section>")
    assert "Nothing is certain." in words(page, 'aria-label="Facts of the face">', "</section>")


def test_each_claim_of_a_caption_stands_with_the_facts_behind_it(
    client: TestClient, store: LocalStore, people: Rows
) -> None:
    facts = {"base": ("walking", 0.83), "left_arm": ("on_hip", 0.61), "right_arm": ("down", 0.92), "view": ("back", 1)}
    page = client.get(tell(store, facts, ["base=on_feet", "arms=down+on_hip", "view=back", "lean=upright"])).text
    [row] = [person for person in table(store, CAPTIONED).to_pylist() if person["person_id"] == people[1]["person_id"]
             and person["kind"] == "pose"]  # fmt: skip
    told = words(page, '<article class="choice">', "</article>")
    for line in (
        row["caption"],
        "body: on the feet body: walking 0.83",
        "arms: one hanging down, the other hand on the hip left arm: hand on the hip 0.61 right arm: hanging down 0.92",
        "seen from: behind the same 1.00",
        "trunk: upright no fact says so now",
        f"Score {row['clip_score']:.3f} Margin {row['margin']:.3f} Foil margin {row['foil_margin']:.3f}",
        "5 candidates compared",
        *row["candidates"],
    ):
        assert line in told


def test_a_caption_that_somebody_wrote_without_claims_says_so(
    client: TestClient, store: LocalStore, people: Rows
) -> None:
    page = client.get(tell(store, {}, [])).text
    assert "It claims nothing that is checked" in words(page, '<article class="choice">', "</article>")


def test_a_store_of_before_facts_and_claims_is_shown_without_them(
    client: TestClient, store: LocalStore, people: Rows
) -> None:
    address = f"/laion-people/people/{people[1]['person_id']}"
    store.delete(FACTS)
    page = client.get(address).text
    assert "the task facts says" in words(page, "<h2", "</main>")
    assert "body: standing facts are not there" in words(page, '<article class="choice">', "</article>")
    replace(store, CAPTIONED, claims=None, foil_margin=None)
    told = words(client.get(address).text, '<article class="choice">', "</article>")
    assert "A person, pose candidate 0." in told and "Foil margin –" in told
    assert "of an earlier release" in told


def test_facts_and_claims_of_others_stay_text(client: TestClient, store: LocalStore, people: Rows) -> None:
    facts = {"base": ("<script>alert(1)</script>", 0.9), "left_arm": ('"><img src=x>', 0.9)}
    claims = ["base=<script>alert(1)</script>", '"><img src=x>=\u202e"><img src=x>']
    person = tell(store, facts, claims)
    for address in (person, f"/laion-people/captioned/v0001/{PARTITION}"):
        page = client.get(address).text
        assert "&lt;script&gt;alert(1)" in page
        assert "<script>alert" not in page and "<img src=x" not in page and "\u202e" not in page


@pytest.mark.parametrize("fact", [None, {"name": "base", "value": None, "confidence": 0.9},
                                  {"name": "base", "value": "sitting", "confidence": None}])  # fmt: skip
def test_facts_that_lack_something_are_told_as_damage(
    client: TestClient, store: LocalStore, people: Rows, fact: dict[str, object] | None
) -> None:
    replace(store, FACTS, facts=[[fact]] * len(people))
    answer = client.get(f"/laion-people/people/{people[1]['person_id']}")
    assert answer.status_code == 503 and f"{FACTS} is damaged" in answer.text
    assert client.get(f"{PAGE}?fact=base=sitting").status_code == 200


@pytest.mark.parametrize(
    "query",
    [
        "low=x",
        "low=nan",
        "page=-1",
        "cluster=%27%3B--",
        "shard=-5",
        "sort=up",
        "text=" + "x" * 201,
        "fact=base",
        "fact=base=flying",
        "fact=colour=red",
    ],
)
def test_an_address_that_is_not_right_says_so(client: TestClient, people: Rows, query: str) -> None:
    answer = client.get(f"{PAGE}?{query}")
    assert answer.status_code == 422
    assert "This address is not right" in answer.text


@pytest.mark.parametrize("address", [f"{PAGE}?shard=3", f"/laion-people/people/{PARTITION}/00000/nobody/0",
                                     "/laion-people/people/-x/00000"])  # fmt: skip
def test_shards_and_people_that_are_not_there_are_not_found(client: TestClient, people: Rows, address: str) -> None:
    assert client.get(address).status_code == 404


def test_a_page_beyond_the_last_is_the_last(client: TestClient, people: Rows) -> None:
    assert people_of(client.get(f"{PAGE}?page=99").text)[-1] == people[-1]["person_id"]


def test_before_detect_has_run_the_page_says_what_to_do(client: TestClient) -> None:
    answer = client.get("/laion-people/people/demo/00007")
    assert answer.status_code == 200
    assert "No people of demo/00007 yet" in answer.text and "<code>detect</code>" in answer.text


@pytest.mark.parametrize(
    "table_name", ["pose", "mesh", "facts", "clip", "subset_a", "assignments/v0001", "subset_c/v0001"]
)
def test_steps_that_have_not_run_yet_leave_their_part_out(
    client: TestClient, store: LocalStore, people, table_name: str
) -> None:  # type: ignore[no-untyped-def]
    store.delete(f"{table_name}/{PARTITION}/00000.parquet")
    assert people_of(client.get(PAGE).text)[0] == people[0]["person_id"]
    assert client.get(f"/laion-people/people/{people[1]['person_id']}").status_code == 200


def test_a_filter_by_what_is_not_there_says_so(client: TestClient, store: LocalStore, people: Rows) -> None:
    store.delete(f"clip/{PARTITION}/00000.parquet")
    answer = client.get(f"{PAGE}?low=0.2")
    assert answer.status_code == 404
    assert f"clip/{PARTITION}/00000.parquet is not there yet" in answer.text and "[not-made-yet]" in answer.text


def test_a_damaged_table_is_named(client: TestClient, store: LocalStore, people: Rows) -> None:
    store.write(f"pose/{PARTITION}/00000.parquet", b"PAR1 nonsense")
    answer = client.get(PAGE)
    assert answer.status_code == 503
    assert f"pose/{PARTITION}/00000.parquet is damaged" in answer.text


def test_a_table_whose_pages_are_damaged_is_named(client: TestClient, store: LocalStore, people: Rows) -> None:
    path = store.root / f"people/{PARTITION}/00000.parquet"
    data = bytearray(path.read_bytes())
    for at in range(4, len(data) // 2):
        data[at] ^= 0xFF
    path.write_bytes(data)
    answer = client.get(PAGE)
    assert answer.status_code == 503
    assert f"people/{PARTITION}/00000.parquet is damaged" in answer.text


def test_people_are_of_the_newest_version_that_they_have_been_assigned_to(
    client: TestClient, store: LocalStore, people
) -> None:  # type: ignore[no-untyped-def]
    store.write("manifests/cluster/v0002.json", b"{}")
    page = client.get(PAGE).text
    assert "/clusters/v0001/pose-" in page
    assert "composites/v0001/" in page and "captioned/v0001/" in page
    person = client.get(f"/laion-people/people/{people[1]['person_id']}").text
    assert "Clusters of v0001" in person
    store.delete(f"subset_c/v0001/{PARTITION}/00000.parquet")
    assert "captioned/v0001/" not in client.get(PAGE).text
    assert (
        "No composed images of demo/00000 with clusters v0002 yet"
        in client.get(f"/laion-people/composites/v0002/{PARTITION}").text
    )


def test_a_table_of_other_people_is_not_drawn_over_them(client: TestClient, store: LocalStore, people: Rows) -> None:
    path = f"pose/{PARTITION}/00000.parquet"
    rows = table(store, path)
    with store.writer(path) as local:
        pq.write_table(rows.slice(1), local)
    answer = client.get(PAGE)
    assert answer.status_code == 503
    assert "[mismatched-tables]" in answer.text


def test_long_captions_are_cut_by_style_alone(client: TestClient, people: Rows) -> None:
    assert CAPTIONS[2] in client.get(PAGE).text
