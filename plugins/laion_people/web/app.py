"""The web app: its routes, its headers, and what it says when something is wrong."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from laion_people.errors import LaionPeopleError
from laion_people.web import (
    auth,
    captioned,
    cluster,
    clusters,
    composites,
    handbook,
    overview,
    partition,
    people,
    pictures,
    publications,
    removals,
    source,
)
from laion_people.web.pages import compile_templates, render

# No script or style but the app's own files, no picture from elsewhere, and no other site may frame a page.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'self'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "private, no-store",
}
MOST_SENT = 1_000_000  # bytes of a form: the captions of a cluster are some thousands
WARM_UP_SECONDS = 10  # far more than a store needs that answers


def warm_up() -> None:
    """Does what the first request would wait for.

    It reads all totals, a file for each step and partition, and the captions of the newest clusters, which are long
    YAML; and it asks Airflow's database for something: SQLAlchemy looks at all of Airflow's models before its first
    query, for a fifth of a second.
    """
    compile_templates()
    with suppress(LaionPeopleError):  # which a page says whenever somebody asks for it
        for version in source.state().versions[:1]:
            clusters.entries_of(source.store(), version)
    source.latest_runs()


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Airflow's API server starts when the pages are ready to be asked for, or after WARM_UP_SECONDS without them."""
    warming = threading.Thread(target=warm_up, daemon=True)
    warming.start()
    await asyncio.to_thread(warming.join, WARM_UP_SECONDS)
    yield


app = FastAPI(
    title="LAION-People",
    lifespan=lifespan,
    docs_url=None,
    redoc_url=None,
    openapi_url=None,
    dependencies=[Depends(auth.reader)],  # of every route, so that none can be forgotten
)
PAGES = (overview, partition, people, clusters, cluster, composites, captioned, pictures)
for module in (*PAGES, publications, removals, handbook):
    app.include_router(module.router)
PACKAGES = [("laion_people.web", "static"), ("laion_people.reports", "shared/static")]
app.mount("/static", StaticFiles(packages=PACKAGES), name="static")  # style and script, the same for everyone


@app.middleware("http")
async def add_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Refuses forms of any size, and sets the headers that a page or picture has not set itself."""
    static = f"{request.scope['root_path']}/static/"  # a mounted app changes the scope
    if request.method == "POST" and not _fits(request.headers.get("content-length", "")):
        # Before anybody's rights are looked at, FastAPI would have read all of it, and put it on the disk.
        message = f"What was sent should be at most {MOST_SENT:,} bytes, and say how many it is."
        response: Response = render(request, "error.html.j2", status=413, title="Too large", message=message)
    else:
        response = await call_next(request)
    if request.url.path.startswith(static) and response.status_code < 400:
        response.headers["Cache-Control"] = "public, max-age=604800"  # its address changes with the file
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response


def _fits(length: str) -> bool:
    return length.isascii() and length.isdigit() and len(length) < 10 and int(length) <= MOST_SENT


@app.exception_handler(LaionPeopleError)
def store_error(request: Request, error: LaionPeopleError) -> Response:
    """The store is away or a file in it damaged: a sentence that says what to do."""
    return render(request, "error.html.j2", status=503, title="Something is wrong with the store", message=str(error))


@app.exception_handler(HTTPException)
def http_error(request: Request, error: HTTPException) -> Response:
    title, message = {
        401: ("You are signed out", "Sign in to see this page."),
        403: ("Not allowed", str(error.detail)),
        404: ("Not found", str(error.detail)),
    }.get(error.status_code, (HTTPStatus(error.status_code).phrase, str(error.detail)))
    return render(request, "error.html.j2", status=error.status_code, title=title, message=message)


@app.exception_handler(RequestValidationError)
def bad_request(request: Request, error: RequestValidationError) -> Response:
    first = error.errors()[0]
    message = f"{first['loc'][-1]}: {first['msg']}"
    return render(request, "error.html.j2", status=422, title="This address is not right", message=message)
