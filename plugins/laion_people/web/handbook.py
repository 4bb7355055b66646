"""The project's documents as pages, so that people who sit in the UI find the runbook there."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path as File
from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Request
from fastapi.responses import HTMLResponse
from markdown_it import MarkdownIt
from markupsafe import Markup

from laion_people.errors import coded
from laion_people.storage.store import ROOT
from laion_people.web.pages import render, web_link

router = APIRouter()


@router.get("/docs/{name}.md")
def document(request: Request, name: Annotated[str, Path(pattern="^[a-z]+$")]) -> HTMLResponse:
    """A document of docs/, at an address that the links between them lead to."""
    return _page(request, ROOT / "docs" / f"{name}.md")


@router.get("/DAGs.md")
def dags(request: Request) -> HTMLResponse:
    return _page(request, ROOT / "DAGs.md")


def _page(request: Request, file: File) -> HTMLResponse:
    if not _is_document(file):
        raise HTTPException(404, coded("no-such-page", f"There is no document {file.name}."))
    title, body = html(file)
    return render(request, "document.html.j2", title=title, body=Markup(body))  # noqa: S704 - of our own files, escaped


def html(file: File) -> tuple[str, str]:
    """The first heading and the HTML of a Markdown file; headings have the ids that links on GitHub lead to.

    What is HTML in the text is shown as text. Mermaid's graphs are left out: Airflow draws the same. Links to files
    that are no documents are text too, and those to the web open another window: this one is a frame of Airflow's.
    """
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = [token for token in markdown.parse(file.read_text()) if token.info != "mermaid"]
    title = ""
    for heading, inline in pairwise(tokens):
        if heading.type == "heading_open":
            title = title or inline.content
            heading.attrSet("id", re.sub(r"[^\w -]", "", inline.content.lower()).replace(" ", "-"))
    for link in (child for token in tokens for child in token.children or () if child.type == "link_open"):
        address = str(link.attrGet("href"))
        if web_link(address):
            link.attrs |= {"target": "_blank", "rel": "noreferrer"}
        elif not _is_document((file.parent / address.partition("#")[0]) if address[:1] != "#" else file):
            del link.attrs["href"]
    return title, markdown.renderer.render(tokens, markdown.options, {})


def _is_document(file: File) -> bool:
    """Whether one of the routes shows a file."""
    return file.resolve() in (ROOT / "DAGs.md", *(ROOT / "docs").glob("*.md"))
