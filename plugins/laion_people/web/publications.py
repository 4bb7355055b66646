"""The publications of the store, and one of them: its rows, its files, and its card."""

from __future__ import annotations

import re
from functools import partial
from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Request
from fastapi.responses import HTMLResponse
from markupsafe import Markup

from laion_people.errors import MissingError, coded
from laion_people.publication import release
from laion_people.publication.release import EDITIONS, NAME, VERSION, Publication
from laion_people.reports.templating import plain
from laion_people.storage.store import Store
from laion_people.web import source
from laion_people.web.auth import Reader, may_remove
from laion_people.web.markdown import rendered
from laion_people.web.pages import render
from laion_people.web.rows import at_once

router = APIRouter(prefix="/releases")
CARD, CHECKSUMS = "README.md", "checksums.sha256"
LONGEST_CARD = 1_000_000  # bytes of a card that are shown; ours have some thousands
HUBS_OWN = {  # what the hub knows beside Markdown -> what stands for it here
    r"(?s)\A---\n.*?\n---\n": "",
    r"(?m)^<details><summary>(.*)</summary>$": r"**\1**",
    r"(?m)^</details>$": "",
    r"(?m)^> \[!WARNING\]$": "> **Warning**",
}
MOST_FILES = 500  # of a publication that are listed

Name = Annotated[str, Path(pattern=f"^{NAME.pattern}$")]
PublishedVersion = Annotated[str, Path(pattern=f"^{VERSION.pattern}$")]


@router.get("")
def publications(request: Request, user: Reader) -> HTMLResponse:
    """The newest version of each name, and which others there are."""
    store = source.store()
    known = release.published(store)
    newest = at_once(*(partial(release.read, store, name, known[name][-1]) for name in known)) if known else []
    return render(
        request,
        "releases.html.j2",
        store=store.uri,
        newest=[publication for publication in newest if publication],
        known=known,
        may_remove=may_remove(request, user),
    )


@router.get("/{name}/{version}")
def publication(request: Request, user: Reader, name: Name, version: PublishedVersion) -> HTMLResponse:
    store = source.store()
    known, published, card = at_once(
        lambda: release.published(store).get(name, []),
        lambda: release.read(store, name, version),
        lambda: _card(store, name, version),
    )
    if published is None:
        raise HTTPException(404, coded("no-such-page", f"There is no publication {name} {version}."))
    return render(
        request,
        "release.html.j2",
        release=published,
        content=EDITIONS.get(published.edition, ""),
        others=[other for other in reversed(known) if other != version],
        files=published.files[:MOST_FILES],
        bytes=_bytes(published),
        folder=f"{store.uri}/{release.folder(name, version)}",
        checksums=CHECKSUMS,
        card=Markup(card),  # noqa: S704 - rendered from Markdown, without the HTML in it
        may_remove=may_remove(request, user),
    )


def _bytes(publication: Publication) -> dict[str, int]:
    """Bytes by config."""
    return {
        config: sum(file.bytes for file in publication.files if file.config == config)
        for config in publication.configs()
    }


def _card(store: Store, name: str, version: str) -> str:
    """The card as HTML; empty when there is none."""
    try:
        data = store.part(f"{release.folder(name, version)}/{CARD}", 0, LONGEST_CARD)
    except MissingError:
        return ""
    text = data.decode(errors="replace")
    for pattern, replacement in HUBS_OWN.items():
        text = re.sub(pattern, replacement, text)
    return rendered(plain(text), lambda address: False)[1]
