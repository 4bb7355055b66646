"""The project's documents on the page."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from urllib.parse import urljoin

import pytest
from fastapi.testclient import TestClient

from laion_people.web.handbook import html
from tests.dags.conftest import ROOT


def test_the_runbook_is_a_page_with_the_ids_that_links_lead_to(client: TestClient) -> None:
    page = client.get("/laion-people/docs/operations.md")
    assert page.status_code == 200
    assert '<h2 id="audit">Audit</h2>' in page.text
    assert "<td><code>unfinished</code></td>" in page.text


def test_every_page_leads_to_the_runbook(client: TestClient) -> None:
    assert 'href="/laion-people/docs/operations.md"' in client.get("/laion-people/").text


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "docs").glob("*.md")))
def test_documents_are_shown_and_link_to_each_other(client: TestClient, name: str) -> None:
    page = client.get(f"/laion-people/docs/{name}")
    assert page.status_code == 200
    check_links(client, f"/laion-people/docs/{name}")


def test_the_description_of_the_dags_is_a_page(client: TestClient) -> None:
    check_links(client, "/laion-people/DAGs.md")


def check_links(client: TestClient, address: str) -> None:
    """Links of a document lead to places in documents, or to the web in another window."""
    article = client.get(address).text.split("<article", 1)[1].split("</article>")[0]
    for tag in set(re.findall("<a [^>]*>", article)):
        link = unescape(re.findall('href="([^"]*)"', tag)[0])
        if link.startswith("https://"):
            assert 'target="_blank" rel="noreferrer"' in tag
            continue
        page, _, heading = urljoin(f"http://testserver{address}", link).partition("#")
        answer = client.get(page)
        assert answer.status_code == 200, link
        assert not heading or f'id="{heading}"' in answer.text, link


@pytest.mark.parametrize("path", ["docs/..%2FREADME.md", "docs/none.md", "docs/Operations.md", "docs/operations"])
def test_nothing_but_documents_is_shown(client: TestClient, path: str) -> None:
    assert client.get(f"/laion-people/{path}").status_code in (404, 422)


def test_documents_are_for_those_who_may_see_the_page(anonymous: TestClient) -> None:
    assert anonymous.get("/laion-people/docs/operations.md").status_code == 401


def test_html_in_a_document_is_text(tmp_path: Path) -> None:
    document = tmp_path / "document.md"
    document.write_text("# A <b>\n\n<script>x</script>\n\n```mermaid\ngraph\n```\n\n[a](javascript:alert)")
    title, body = html(document)
    assert title == "A <b>"
    assert "<script" not in body and "<b>" not in body and "graph" not in body and "href" not in body
