"""Pages: templates filled with values that are always escaped, and the addresses that links go to."""

from __future__ import annotations

import hashlib
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from laion_people.language.factwords import claim_words, name_words, value_words

FOLDER = Path(__file__).parent
LONGEST_URL = 8000  # characters, as many as servers take (RFC 9110, section 4.1)
HIDDEN = {ord(c): None for c in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c"}


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


def web_link(url: str | None) -> str:
    """The URL if it is one of the web, else nothing: a link must not run what a ``javascript:`` URL holds."""
    try:
        return url if url and len(url) <= LONGEST_URL and urlsplit(url).scheme in ("http", "https") else ""
    except ValueError:  # brackets that enclose no IPv6 address
        return ""


def plain(text: str | None) -> str:
    """Text without the characters that turn its direction (bidi controls), so that it cannot pose as other text."""
    return (text or "").translate(HIDDEN)


def number(value: float, units: str = "kMG") -> str:
    """At most three digits and a unit: 4.07, 812, 18.1 k, 2.32 M; more before the last unit (1,200 G)."""
    at = 0
    while value >= 999.5 and at < len(units):
        value, at = value / 1000, at + 1
    text = f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"
    return f"{text}\N{NO-BREAK SPACE}{units[at - 1]}" if at else text


def size(value: float) -> str:
    """Bytes for people: 812 B, 3.1 GB."""
    text = number(value, "kMGTP")
    return f"{text}B" if value >= 999.5 else f"{text}\N{NO-BREAK SPACE}B"


def share(part: float, whole: float) -> str:
    """A share in per cent; empty of nothing."""
    return f"{100 * part / whole:.3g}\N{NO-BREAK SPACE}%" if whole else ""


def duration(seconds: float) -> str:
    """Seconds, minutes, hours or days: 41 s, 12 min, 3.4 h."""
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g}\N{NO-BREAK SPACE}{unit}"
    return f"{seconds:.3g}\N{NO-BREAK SPACE}s"


def time(moment: str | datetime | None) -> str:
    """A moment in UTC, to the minute; of ISO 8601 text in UTC too."""
    text = moment.isoformat() if isinstance(moment, datetime) else moment or ""
    return text[:16].replace("T", " ")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    texts = (web_link, plain, number, size, share, duration, time, claim_words, name_words)
    environment.filters |= {f.__name__: f for f in texts}
    environment.globals |= {"static": _static, "value_words": value_words}
    return environment


@cache
def _static(name: str) -> str:
    """The path of a static file below the app; it changes with the file, so that browsers may keep it."""
    return f"/static/{name}?{hashlib.sha256((FOLDER / 'static' / name).read_bytes()).hexdigest()[:12]}"
