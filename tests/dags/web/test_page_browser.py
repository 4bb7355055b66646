"""The page in real Chromium (Debian's), inside the real UI of Airflow."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, FrameLocator, Page, expect

from laion_people.storage.store import LocalStore
from tests.dags.web.big_store import add_partition, add_version
from tests.dags.web.conftest import AddRun

PATIENCE = 120_000  # milliseconds: Airflow's UI is 7 MB of script, on a machine that is busy with other tests
STYLE = Path(__file__).resolve().parents[3] / "plugins" / "laion_people" / "web" / "static" / "style.css"
KEY = "laion2B-en/00001"


@pytest.fixture
def context(chromium: Browser) -> Iterator[BrowserContext]:
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(PATIENCE)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext, server: str, store: LocalStore) -> Page:
    """A page of somebody who has signed in by Airflow's form; the store has three partitions."""
    for part in range(3):
        add_partition(store, f"laion2B-en/{part:05d}", 4, {"caption": 2} if part == 1 else None)
    add_version(store, "v0001", [KEY])
    passwords = Path(os.environ["AIRFLOW_HOME"], "simple_auth_manager_passwords.json.generated")
    page = context.new_page()
    page.goto(f"{server}/auth/login")
    page.fill("input[name=username]", "vera")
    page.fill("input[name=password]", json.loads(passwords.read_text())["vera"])
    page.click("button[type=submit]")
    page.wait_for_url(f"{server}/")
    return page


def frame(page: Page) -> FrameLocator:
    return page.frame_locator("iframe[title=People]")


def test_people_is_a_page_of_airflow(page: Page, server: str, add_run: AddRun) -> None:
    """From the navigation to the matrix, a partition, its run; light and dark as the user of Airflow chooses."""
    add_run("laion_people_extract", "manual__1", KEY, "failed")
    page.get_by_text("People", exact=True).click()
    inside = frame(page)
    expect(inside.locator("tbody th[scope=row] a")).to_have_count(3 + 1, timeout=PATIENCE)
    expect(page).to_have_url(f"{server}/plugin/laion-people/laion-people/")

    assert inside.locator("html").get_attribute("data-theme") == "light"
    page.get_by_text("User", exact=True).click()
    page.get_by_role("menuitem", name="Appearance").click()
    page.get_by_text("Dark Mode").click()
    expect(inside.locator("html")).to_have_attribute("data-theme", "dark")
    expect(inside.locator("body")).to_have_css("background-color", "rgb(22, 29, 45)")
    page.keyboard.press("Escape")

    inside.get_by_role("link", name="00001").click()
    expect(inside.locator("h1")).to_have_text(KEY)
    expect(page).to_have_url(f"{server}/plugin/laion-people/laion-people/partitions/{KEY}")
    page.reload()  # the server is the page's own
    expect(inside.locator("h1")).to_have_text(KEY, timeout=PATIENCE)
    inside.get_by_role("link", name="failed").first.click()
    page.wait_for_url(f"{server}/dags/laion_people_extract/runs/manual__1**")


def test_who_is_signed_out_is_led_to_the_sign_in_and_back(
    context: BrowserContext, server: str, store: LocalStore
) -> None:
    page = context.new_page()
    page.goto(f"{server}/laion-people/partitions/{KEY}")
    page.get_by_role("link", name="Sign in").click()
    page.wait_for_url("**/login?next=*laion-people*")


def test_keys_move_filter_and_help(page: Page, server: str) -> None:
    page.goto(f"{server}/laion-people/partitions/{KEY}")
    page.keyboard.press("j")
    page.wait_for_url("**/laion2B-en/00002")
    page.keyboard.press("k")
    page.wait_for_url(f"**/{KEY}")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.goto(f"{server}/laion-people/")
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.type("02?j")
    expect(page.get_by_role("searchbox")).to_have_value("02?j")  # typed, and nothing else


@pytest.mark.parametrize("path", ["", f"partitions/{KEY}", "partitions/a/b"])
def test_nothing_is_wider_than_a_telephone(page: Page, server: str, path: str) -> None:
    page.set_viewport_size({"width": 400, "height": 800})
    page.goto(f"{server}/laion-people/{path}")
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    beyond = "e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.scroll, .skip, .hidden')"
    assert page.evaluate(f"[...document.body.querySelectorAll('*')].filter({beyond}).map(e => e.outerHTML)") == []


def test_no_script_but_our_own_runs(page: Page, server: str) -> None:
    page.goto(f"{server}/laion-people/")
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {textContent: 'hacked = 1'}))")
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"hacked = 1\">')")
    page.wait_for_timeout(300)
    assert page.evaluate("typeof hacked") == "undefined"


def test_every_control_has_a_name_and_every_table_its_headers(page: Page, server: str) -> None:
    for path in ("", f"partitions/{KEY}"):
        page.goto(f"{server}/laion-people/{path}")
        assert page.locator("main").count() == page.locator("h1").count() == 1
        assert page.locator("th:not([scope])").count() == 0
        unnamed = "e => !(e.labels?.length || e.ariaLabel || e.textContent.trim())"
        assert (
            page.evaluate(f"[...document.querySelectorAll('a, button, input, select')].filter({unnamed}).length") == 0
        )


def luminance(colour: str) -> float:
    """Relative luminance of #rgb or #rrggbb (WCAG 2.2)."""
    digits = colour.lstrip("#")
    parts = (
        [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)] if len(digits) == 6 else [int(d, 16) / 15 for d in digits]
    )
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [":root", ":root[data-theme=dark]"])
def test_text_stands_out_from_what_is_behind_it(theme: str) -> None:
    """Contrast of 4.5 to 1 at least (WCAG 2.2, 1.4.3)."""
    block = STYLE.read_text().split(f"{theme} {{", 1)[1].split("}", 1)[0]
    colours = dict(re.findall(r"--([\w-]+): (#\w+)", block))
    pairs = [
        (text, back) for text in ("text", "soft", "accent", "good", "bad", "busy", "warn") for back in ("page", "card")
    ]
    for text, back in [*pairs, ("accent-text", "accent"), ("text", "warn-page"), ("text", "hover"), ("soft", "hover")]:
        low, high = sorted((luminance(colours[text]), luminance(colours[back])))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (text, back)
