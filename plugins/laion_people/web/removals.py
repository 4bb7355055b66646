"""The removals of the store, for those who may start some: when, by whom, why, and what left."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from laion_people.storage.removals import read_removals
from laion_people.web import source
from laion_people.web.auth import REMOVE, Remover
from laion_people.web.pages import render

router = APIRouter(prefix="/removals")
ROWS = 100  # on a page


@router.get("")
def removals(request: Request, user: Remover, page: Annotated[int, Query(ge=1, lt=10**9)] = 1) -> HTMLResponse:
    """Newest first."""
    listed = sorted(read_removals(source.store()), key=lambda removal: removal.at, reverse=True)
    pages = max(1, -(-len(listed) // ROWS))
    page = min(page, pages)
    return render(
        request,
        "removals.html.j2",
        removals=listed[(page - 1) * ROWS : page * ROWS],
        count=len(listed),
        under_way=sum(not removal.done for removal in listed),
        page=page,
        pages=pages,
        dag=REMOVE,
    )
