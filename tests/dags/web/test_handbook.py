"""The project's documents on the page."""

from __future__ import annotations

import re

import pytest
from fastapi.testclient import TestClient

from laion_people.web.handbook import html
from tests.dags.conftest import ROOT


def test_the_runbook_is_a_page_with_the_ids_that_links_lead_to(client: TestClient) -> None:
    page = client.get("/laion-people/docs/operations.md")
    assert page.status_code == 200
    assert '<h2 id="audit">Audit</h2>' in page.text
    assert "<td><code>has no receipt: it was never finished</code></td>" in page.text


def test_every_page_leads_to_the_runbook(client: TestClient) -> None:
    assert 'href="/laion-people/docs/operations.md"' in client.get("/laion-people/").text


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "docs").glob("*.md")))
def test_documents_are_shown_and_link_to_each_other(client: TestClient, name: str) -> None:
    page = client.get(f"/laion-people/docs/{name}")
    assert page.status_code == 200
    for link in set(re.findall(r'href="([a-z]+\.md|\.\./DAGs\.md)[#"]', page.text)):
        assert client.get(f"/laion-people/docs/{link}").status_code == 200, link


@pytest.mark.parametrize("path", ["docs/..%2FREADME.md", "docs/none.md", "docs/Operations.md", "docs/operations"])
def test_nothing_but_documents_is_shown(client: TestClient, path: str) -> None:
    assert client.get(f"/laion-people/{path}").status_code in (404, 422)


def test_documents_are_for_those_who_may_see_the_page(anonymous: TestClient) -> None:
    assert anonymous.get("/laion-people/docs/operations.md").status_code == 401


def test_html_in_a_document_is_text() -> None:
    title, body = html("# A <b>\n\n<script>x</script>\n\n```mermaid\ngraph\n```\n\n[a](javascript:alert)")
    assert title == "A <b>"
    assert "<script" not in body and "<b>" not in body and "graph" not in body and "href" not in body
