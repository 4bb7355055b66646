"""Publications on the page, and removals for those who may start some."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from playwright.sync_api import Browser, expect

from laion_people.publication.release import RECORD, Publication, PublishedFile, folder
from laion_people.storage.removals import Removal, digest, path_of
from laion_people.storage.store import LocalStore
from tests.dags.web.conftest import USERS, SignedIn

PAGE = "/laion-people/releases"
REMOVALS = "/laion-people/removals"
HOSTILE = '<script>alert(1)</script> "quoted" & \u202efdp.exe'
CARD = """\
---
license: cc-by-4.0
pretty_name: not shown
---
# The card

143 people, see [the paper](https://example.org/paper) and [the files](croissant.json).

| config | rows |
|---|---|
| people | 143 |

<details><summary>Columns of people</summary>

Many.

</details>

> [!WARNING]
> Nobody was asked.
"""
PUBLISHED = Publication(
    name="laion-people",
    version="1.0.0",
    edition="links",
    at="2026-11-30T20:00:00+00:00",
    clusters="v0001",
    partitions=("laion2B-en/00000", "laion2B-en/00001"),
    options={"faces": "keep"},
    models={"yolox.onnx": "ab" * 32},
    files=(
        PublishedFile("people/train-00000-of-00002.parquet", 1000, "0a" * 32, "people", 100),
        PublishedFile("people/train-00001-of-00002.parquet", 500, "0b" * 32, "people", 43),
        PublishedFile("subset_a/train-00000-of-00001.parquet", 300, "0c" * 32, "subset_a", 50),
        PublishedFile("subset_b/00000.tar", 9000, "0d" * 32),
    ),
    columns={"people": {"person_id": "string"}},
    left_out={"people": {"removed": 2, "minors": 3}},
    numbers={"people": {"value": 143, "source": "manifests/detect/laion2B-en/00000.json"}},
    changes=({"version": "1.0.0", "at": "2026-11-30", "text": "The first version."},),
    licence="cc-by-4.0",
    contact="people@example.org",
)
REMOVED = Removal(
    id="ab12000000000001",
    at="2026-11-30T20:00:00+00:00",
    by="anna",
    reason="asked for by mail",
    asked={"url": 2, "person": 0},
    urls=(digest("https://example.org/a.jpg"),),
    rows={"people": 3, "pose": 3},
    done="2026-11-30T20:05:00+00:00",
)


def publish(store: LocalStore, publication: Publication, card: str = CARD) -> None:
    """Writes the record and the card of a publication, which are what the pages read."""
    where = folder(publication.name, publication.version)
    store.write(f"{where}/README.md", card.encode())
    store.write(f"{where}/{RECORD}", publication.to_json())


def remove(store: LocalStore, removal: Removal) -> None:
    store.write(path_of(removal.id), removal.to_json())


def words(page: str) -> str:
    """What a page says, without its tags."""
    main = page.split("<main", 1)[1].split("</main>")[0].partition(">")[2]
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", main)).split())


def test_a_store_without_publications_says_what_to_do(client: TestClient) -> None:
    said = words(client.get(PAGE).text)
    assert "has no publications yet" in said and "laion_people_publish" in said


def test_each_name_shows_its_newest_version_and_leads_to_the_others(client: TestClient, store: LocalStore) -> None:
    for version in ("1.0.0", "1.0.10", "1.0.9"):
        publish(store, replace(PUBLISHED, version=version))
    publish(store, replace(PUBLISHED, name="geometry", edition="geometry"))
    page = client.get(PAGE).text
    shown = re.findall(r'<h2 [^>]*><a href="([^"]+)">([^<]+)</a>', page)
    assert shown == [
        (f"{PAGE}/geometry/1.0.0", "geometry 1.0.0"),
        (f"{PAGE}/laion-people/1.0.10", "laion-people 1.0.10"),
    ]
    assert "Older: 1.0.9 , 1.0.0" in words(page)
    assert "143 people" in words(page) and "2 partitions" in words(page)


def test_what_is_not_whole_is_no_publication(client: TestClient, store: LocalStore) -> None:
    store.write(f"{folder('laion-people', '1.0.0')}/README.md", CARD.encode())
    publish(store, replace(PUBLISHED, name=".hidden"))
    assert "has no publications yet" in client.get(PAGE).text
    assert client.get(f"{PAGE}/laion-people/1.0.0").status_code == 404


def test_a_publication_tells_its_rows_files_changes_and_card(client: TestClient, store: LocalStore) -> None:
    publish(store, replace(PUBLISHED, tombstones=7))
    page = client.get(f"{PAGE}/laion-people/1.0.0").text
    said = words(page).replace("\xa0", " ")
    for text in (
        "people 143 1.5 kB 3 minors , 2 removed",
        "subset_a 50 300 B",
        "The first version.",
        f"subset_b/00000.tar 9 kB {'0d' * 32}",
        "checksums.sha256 beside them has the sha256 of all",
        "cc-by-4.0",
        "people@example.org",
        "7: digests",
        f"{store.uri}/releases/laion-people/1.0.0",
    ):
        assert text in said, text
    card = page.split('<article class="document card">')[1].split("</article>")[0]
    assert "<td>143</td>" in card and "pretty_name" not in card
    assert '<a href="https://example.org/paper" target="_blank" rel="noreferrer">' in card
    assert "<strong>Columns of people</strong>" in card and "details" not in card
    assert "<strong>Warning</strong>\nNobody was asked." in card
    assert "croissant.json" not in card  # a link that leads nowhere here is text


def test_a_publication_without_a_card_is_shown(client: TestClient, store: LocalStore) -> None:
    publish(store, PUBLISHED)
    store.delete(f"{folder('laion-people', '1.0.0')}/README.md")
    assert "It has none." in client.get(f"{PAGE}/laion-people/1.0.0").text


def test_thousands_of_files_are_not_all_listed(client: TestClient, store: LocalStore) -> None:
    many = [PublishedFile(f"people/train-{n:05d}-of-09000.parquet", 1, "0" * 64, "people", 1) for n in range(9000)]
    publish(store, replace(PUBLISHED, files=tuple(many)))
    page = client.get(f"{PAGE}/laion-people/1.0.0").text
    assert page.count("people/train-") == 500 and "The first 500 of 9,000." in page


@pytest.mark.parametrize("path", ["..%2F..%2Fetc/1.0.0", "a/1.0", "a/1.0.0%0A", "a/01.0.0", "a/../1.0.0"])
def test_other_addresses_are_refused(client: TestClient, store: LocalStore, path: str) -> None:
    publish(store, PUBLISHED)
    assert client.get(f"{PAGE}/{path}").status_code in (404, 422)


def test_what_others_wrote_is_text(client: TestClient, signed_in: SignedIn, store: LocalStore) -> None:
    files = (PublishedFile(f"people/{HOSTILE}", 1, HOSTILE, HOSTILE, 1),)
    changes = ({"version": HOSTILE, "at": HOSTILE, "text": HOSTILE},)
    card = f"# {HOSTILE}\n\n{HOSTILE} [x](javascript:alert(1)) ![x](https://example.org/spy.png) <img src=x onerror=1>"
    hostile = replace(
        PUBLISHED,
        files=files,
        changes=changes,
        clusters=HOSTILE,
        partitions=(HOSTILE,),
        left_out={HOSTILE: {HOSTILE: 1}},
        licence=HOSTILE,
        contact=HOSTILE,
        replaces=HOSTILE,
    )
    publish(store, hostile, card)
    remove(store, replace(REMOVED, id="e0", by=HOSTILE, reason=HOSTILE, rows={HOSTILE: 1}))
    ada = signed_in("ada")
    for page in (client.get(PAGE).text, client.get(f"{PAGE}/laion-people/1.0.0").text, ada.get(REMOVALS).text):
        assert "alert(1)" in words(page)
        assert "<script>alert" not in page and "<img" not in page and 'href="javascript' not in page
        assert "\u202e" not in page


def test_a_damaged_record_is_named(client: TestClient, signed_in: SignedIn, store: LocalStore) -> None:
    store.write(f"{folder('laion-people', '1.0.0')}/{RECORD}", b"{")
    store.write(path_of("b0"), b"[1]")
    answers = client.get(PAGE), signed_in("ada").get(REMOVALS)
    assert [answer.status_code for answer in answers] == [503, 503]
    assert "releases/laion-people/1.0.0/release.json is damaged" in answers[0].text
    assert "removals/b0.json is damaged" in answers[1].text


@pytest.mark.parametrize(("name", "role"), USERS.items())
def test_removals_are_for_those_who_may_start_some(
    signed_in: SignedIn, store: LocalStore, name: str, role: str
) -> None:
    publish(store, PUBLISHED)
    remove(store, REMOVED)
    client, may = signed_in(name), role != "viewer"
    answer = client.get(REMOVALS)
    assert answer.status_code == (200 if may else 403)
    assert ("asked for by mail" in answer.text) is may and ("anna" in answer.text) is may
    for path in (PAGE, f"{PAGE}/laion-people/1.0.0"):
        assert (f'href="{REMOVALS}"' in client.get(path).text) is may


def test_a_removal_tells_when_by_whom_why_and_what_left(signed_in: SignedIn, store: LocalStore) -> None:
    remove(store, REMOVED)
    remove(store, replace(REMOVED, id="cd34000000000002", at="2026-11-30T21:00:00+00:00", rows={}, done=""))
    page = signed_in("ada").get(REMOVALS).text
    ids = re.findall(r'<th scope="row"><code>([^<]+)', page)
    assert ids == ["cd34000000000002", "ab12000000000001"]
    said = words(page)
    assert "2 removals, of which 1 is still under way" in said
    assert "remove --resume" in said
    assert "2026-11-30 20:00 anna asked for by mail 2 url 6 people 3 pose 3 2026-11-30 20:05" in said
    assert digest("https://example.org/a.jpg") not in page


def test_a_store_without_removals_says_how_to_remove(signed_in: SignedIn, store: LocalStore) -> None:
    page = signed_in("ada").get(REMOVALS).text
    assert "Nothing was removed" in page and 'href="/laion-people/docs/removals.md"' in page


def test_many_removals_come_in_pages(signed_in: SignedIn, store: LocalStore) -> None:
    for n in range(130):
        remove(store, replace(REMOVED, id=f"{n:016x}", at=f"2026-11-30T20:{n // 60:02d}:{n % 60:02d}+00:00"))
    ada = signed_in("ada")
    first, last = ada.get(REMOVALS).text, ada.get(REMOVALS, params={"page": 99}).text
    assert len(re.findall(f"<code>({129:016x}|{30:016x})<", first)) == 2 and "page 1 of 2" in first
    assert len(re.findall(f"<code>({29:016x}|{0:016x})<", last)) == 2 and 'rel="prev"' in last


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_laptops_and_telephones(
    chromium: Browser, server: str, store: LocalStore, signed_in: SignedIn, tmp_path: Path, width: int, scheme: str
) -> None:
    publish(store, replace(PUBLISHED, tombstones=7))
    publish(store, replace(PUBLISHED, version="1.1.0", tombstones=7))
    remove(store, REMOVED)
    remove(store, replace(REMOVED, id="cd34000000000002", done=""))
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    context.add_cookies([{"name": "_token", "value": signed_in("ada").cookies["_token"], "url": server}])
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    for path in (PAGE, f"{PAGE}/laion-people/1.1.0", REMOVALS):
        page.goto(f"{server}{path}")
        expect(page.locator("nav a[aria-current=page]")).to_have_count(1)
        assert page.evaluate("document.documentElement.scrollWidth") == width, path
        assert page.locator("th:not([scope])").count() == page.locator(".card th").count(), path
        page.screenshot(path=tmp_path / f"{path.replace('/', '-')}-{width}-{scheme}.png", full_page=True)
    assert faults == []
    context.close()
