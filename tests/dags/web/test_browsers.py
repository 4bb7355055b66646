"""The browsers in real Chromium (Debian's), signed in, in light and dark, on a laptop and on a telephone."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import unquote

import pytest
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import select

from laion_people.language import captions
from laion_people.storage.store import LocalStore
from tests.dags.conftest import ROOT
from tests.dags.web.browsing import PARTITION, make_browsed
from tests.dags.web.conftest import SignedIn
from tests.synthetic_store import VERSION

PERSON = f"{PARTITION}/00000/000000003/1"
PAGES = {
    "people": f"/people/{PARTITION}?view=whole",
    "person": f"/people/{PERSON}",
    "clusters": f"/clusters/{VERSION}",
    "cluster": f"/clusters/{VERSION}/face-0001",
    "composites": f"/composites/{VERSION}/{PARTITION}?boxes=always",
    "captioned": f"/captioned/{VERSION}/{PARTITION}",
    "nothing": "/people/demo/00009",
}
BEYOND = """() => [...document.querySelectorAll('body *')]
    .filter(e => !e.closest('.scroll, svg, dialog, .skip, .hidden'))
    .filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"""


@pytest.fixture
def address(server: str) -> str:
    """Where the page is."""
    return f"{server}/laion-people"


@pytest.fixture(scope="module")
def browsed(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    store = LocalStore(tmp_path_factory.mktemp("browsed"))
    make_browsed(store, images=60)
    return store


@pytest.fixture
def store(browsed: LocalStore, monkeypatch: pytest.MonkeyPatch) -> LocalStore:
    """The same store for all tests, which the page reads."""
    monkeypatch.setenv("LAION_PEOPLE_STORE", browsed.uri)
    return browsed


@pytest.fixture
def page(
    request: pytest.FixtureRequest, chromium: Browser, server: str, address: str, store: LocalStore, signed_in: SignedIn
) -> Iterator[Page]:
    """A page of an editor; it may not log an error. Parametrized with a width and a colour scheme."""
    width, scheme = getattr(request, "param", (1280, "light"))
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, base_url=address)
    token = signed_in("ulla").cookies["_token"]
    context.add_cookies([{"name": "_token", "value": token, "url": server}])
    page = context.new_page()
    page.set_default_timeout(20_000)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("dialog", lambda dialog: errors.append(f"a caption was run: {dialog.message}"))
    yield page
    context.close()
    assert errors == []


@pytest.mark.parametrize("page", [(400, "light"), (1280, "dark")], indirect=True, ids=["telephone", "dark laptop"])
@pytest.mark.parametrize("name", PAGES)
def test_pages_fit_the_screen_and_show_their_pictures(page: Page, address: str, name: str) -> None:
    page.goto(address + PAGES[name], wait_until="networkidle")
    assert page.evaluate(BEYOND) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    broken = "[...document.images].filter(i => i.complete && !i.naturalWidth).length"
    assert page.evaluate(broken) == 0
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") != dark


def test_a_box_lies_over_its_person_on_the_screen(page: Page, address: str) -> None:
    """The drawn ellipse of a person touches its box on all sides: the pixels there tell."""
    page.goto(f"{address}/people/{PERSON}", wait_until="networkidle")
    svg, box = page.locator(".picture"), page.locator(".picture .box")
    image = page.locator(".picture image").bounding_box()
    shown, drawn = svg.bounding_box(), box.bounding_box()
    assert image and shown and drawn
    assert image["x"] - 1 <= drawn["x"] and drawn["x"] + drawn["width"] <= image["x"] + image["width"] + 1
    scale = image["width"] / 384  # pixels of the stored image
    assert drawn["x"] - image["x"] == pytest.approx((384 / 3 + 8) * scale, abs=3)
    assert drawn["y"] - image["y"] == pytest.approx(20 * scale, abs=3)


def test_keys_turn_pages_and_change_the_view(page: Page, address: str) -> None:
    page.goto(f"{address}/people/{PARTITION}")
    first = page.locator(".picture").nth(2)  # of two people in an image
    crop = first.get_attribute("viewBox")
    page.keyboard.press("w")
    assert first.get_attribute("viewBox") == first.get_attribute("data-whole") != crop
    page.keyboard.press("w")
    assert first.get_attribute("viewBox") == crop
    for key, mark in (("b", ".box"), ("s", ".pose.joints"), ("f", ".mesh.outlines")):
        drawn = page.locator(f".picture {mark}").first
        assert drawn.evaluate("e => getComputedStyle(e).visibility") == "visible"
        page.keyboard.press(key)
        assert drawn.evaluate("e => getComputedStyle(e).visibility") == "hidden"
    page.keyboard.press("j")
    page.wait_for_url("**page=2**")
    page.keyboard.press("ArrowLeft")
    page.wait_for_url(lambda url: "page=2" not in url)
    page.keyboard.press("/")
    page.keyboard.type("SEASIDE w")
    page.keyboard.press("Enter")
    page.wait_for_url("**text=SEASIDE+w**")
    assert "Loosen the filter" in page.content()


def test_boxes_of_composed_images_show_when_pointed_at(page: Page, address: str) -> None:
    page.goto(f"{address}/composites/{VERSION}/{PARTITION}", wait_until="networkidle")
    box = page.locator(".picture .box").first
    assert box.evaluate("e => getComputedStyle(e).visibility") == "hidden"
    page.locator("figure").first.hover()
    assert box.evaluate("e => getComputedStyle(e).visibility") == "visible"
    page.mouse.move(0, 0)
    page.keyboard.press("b")
    assert box.evaluate("e => getComputedStyle(e).visibility") == "visible"


def test_the_word_gate_speaks_up_while_one_types(page: Page, address: str) -> None:
    page.goto(f"{address}/clusters/{VERSION}/pose-0003")
    page.keyboard.press("e")
    page.keyboard.type("A woman ")
    line = page.locator(".captions li").first
    line.locator(".fault", has_text="has the word 'woman' (gender)").wait_for()
    line.locator(".remove").click()
    page.locator("[data-fault]", has_text="5 or more captions").wait_for()
    page.get_by_role("button", name="Add a caption").click()
    page.keyboard.type("A person stands on one leg.")
    page.locator("[data-fault]:empty").wait_for(state="attached")


def test_clusters_are_approved_by_keys_alone(page: Page, address: str, store: LocalStore) -> None:
    page.goto(f"{address}/clusters/{VERSION}/head-0001")
    page.keyboard.press("e")
    page.keyboard.type("As one sees, ")
    line = page.locator(".captions li").first
    expect(line.locator("[name=claims]")).to_have_value("")  # the words tell nothing, and so it claims nothing
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/head-0002")
    entry = captions.read(store, VERSION)["head-0001"]
    assert entry.reviewed and entry.by == "ulla"
    assert entry.captions[0].startswith("As one sees, ") or entry.captions[0].endswith("As one sees,")
    page.keyboard.press("n")
    page.wait_for_url("**/head-0003")
    page.keyboard.press("p")
    page.wait_for_url("**/head-0002")
    page.keyboard.press("k")
    page.wait_for_url("**/head-0001")
    page.keyboard.press("?")
    assert page.locator("dialog", has_text="not reviewed").is_visible()


def test_captions_are_edited_without_scripts_too(
    chromium: Browser, server: str, address: str, store: LocalStore, signed_in: SignedIn
) -> None:
    context = chromium.new_context(java_script_enabled=False)
    token = signed_in("ulla").cookies["_token"]
    context.add_cookies([{"name": "_token", "value": token, "url": server}])
    page = context.new_page()
    page.goto(f"{address}/clusters/{VERSION}/face-0002")
    page.locator("textarea").nth(5).fill("A child laughs.")
    page.get_by_role("button", name="Save").click()
    assert "has the word 'child' (age)" in page.inner_text("[role=alert]")
    assert page.locator("textarea").nth(5).input_value() == "A child laughs."
    page.locator("textarea").nth(5).fill("A person laughs.")
    page.get_by_role("button", name="Save").click()
    assert "Saved" in page.inner_text("[role=status].saved")
    assert captions.read(store, VERSION)["face-0002"].captions[5] == "A person laughs."
    context.close()


def test_a_button_starts_the_run_that_takes_edits_up(page: Page, address: str, store: LocalStore) -> None:
    DagBundlesManager().sync_bundles_to_db()
    sync_bag_to_db(DagBag(ROOT / "dags" / "laion_people_cluster.py"), "dags-folder", None)
    page.goto(f"{address}/clusters/{VERSION}/pose-0002")
    page.locator("textarea").nth(5).fill("A person stands still.")
    expect(page.locator("[name=claims]").nth(5)).to_have_value("base=standing")  # suggested while one types
    page.get_by_role("button", name="Save").click()
    page.goto(f"{address}/clusters/{VERSION}")
    page.get_by_role("button", name="Trigger it now").click()
    link = page.get_by_role("link", name="Look at the run.")
    link.wait_for()
    run_id = unquote(str(link.get_attribute("href")).rsplit("/", 1)[1])
    with create_session() as session:
        run = session.scalars(select(DagRun).where(DagRun.run_id == run_id)).one()
        assert (run.dag_id, run.conf) == ("laion_people_cluster", {"clusters": VERSION})
        assert run.triggering_user_name == "ulla"
        session.delete(run)


def test_a_run_that_cannot_start_says_why_and_can_be_asked_for_again(
    chromium: Browser, server: str, address: str, store: LocalStore, signed_in: SignedIn
) -> None:
    context = chromium.new_context()
    context.add_cookies([{"name": "_token", "value": signed_in("ulla").cookies["_token"], "url": server}])
    page = context.new_page()
    page.route("**/dagRuns", lambda route: route.fulfill(status=409, json={"detail": "<b>busy</b>"}))
    page.goto(f"{address}/clusters/{VERSION}/pose-0002?saved=yes")
    button = page.get_by_role("button", name="Trigger it now")
    button.click()
    page.get_by_text("No run has started: Airflow answers 409").wait_for()
    assert "<b>busy</b>" in page.inner_text("[role=status].saved")
    assert button.is_enabled()
    context.close()
