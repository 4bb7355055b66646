"""Pages: templates filled with values that are always escaped, and the addresses that links go to."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment

from laion_people.reports import templating
from laion_people.reports.templating import environment

FOLDER = Path(__file__).parent
STATIC = (FOLDER / "static", templating.STATIC)  # folders with style sheets and scripts
LONGEST_URL = 8000  # characters, as many as servers take (RFC 9110, section 4.1)


def render(request: Request, template: str, status: int = 200, **context: Any) -> HTMLResponse:
    """A page. Templates know ``root`` (the path of this app), ``airflow`` (of Airflow's UI) and ``static(name)``."""
    context |= {
        "root": request.scope["root_path"],
        "airflow": request.scope.get("app_root_path", ""),
        "path": request.url.path,
        "status": status,
    }
    return HTMLResponse(_environment().get_template(template).render(context), status)


def compile_templates() -> None:
    """Makes code of all templates, which the first request would wait for."""
    for name in _environment().list_templates():
        _environment().get_template(name)


def person_path(person_id: str) -> str:
    """Address of a person's page below the app."""
    return "/people/" + quote(person_id)


def stored_path(person_id: str) -> str:
    """Address of the stored image that a person is in."""
    return "/images/stored/" + quote(person_id.rpartition("/")[0])


def web_link(url: str | None) -> str:
    """The URL if it is one of the web, else nothing: a link must not run what a ``javascript:`` URL holds."""
    try:
        return url if url and len(url) <= LONGEST_URL and urlsplit(url).scheme in ("http", "https") else ""
    except ValueError:  # brackets that enclose no IPv6 address
        return ""


@cache
def _environment() -> Environment:
    templates = environment(FOLDER / "templates")
    templates.filters |= {"web_link": web_link, "person_path": person_path}
    templates.globals["static"] = _static
    return templates


@cache
def _static(name: str) -> str:
    """The path of a static file below the app; it changes with the file, so that browsers may keep it."""
    content = next(file for folder in STATIC if (file := folder / name).exists()).read_bytes()
    return f"/static/{name}?{hashlib.sha256(content).hexdigest()[:12]}"
