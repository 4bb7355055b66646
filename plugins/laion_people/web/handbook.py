"""The project's documents as pages, so that people who sit in the UI find the runbook there."""

from __future__ import annotations

from pathlib import Path as File
from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Request
from fastapi.responses import HTMLResponse
from markupsafe import Markup

from laion_people.errors import coded
from laion_people.storage.store import ROOT
from laion_people.web.markdown import rendered
from laion_people.web.pages import render

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
    """The first heading and the HTML of a document; links to files that are no documents are text."""

    def is_followed(address: str) -> bool:
        return _is_document((file.parent / address.partition("#")[0]) if address[:1] != "#" else file)

    return rendered(file.read_text(), is_followed)


def _is_document(file: File) -> bool:
    """Whether one of the routes shows a file."""
    return file.resolve() in (ROOT / "DAGs.md", *(ROOT / "docs").glob("*.md"))
