"""Templates of the report and of the page People: values are always escaped, and written as people read them."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from laion_people.language.factwords import claim_words, name_words, value_words

SHARED = Path(__file__).parent / "shared"
TEMPLATES, STATIC = SHARED / "templates", SHARED / "static"  # of figures, which both show
HIDDEN = {ord(c): None for c in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c"}


def environment(*folders: Path) -> Environment:
    """An environment with the functions below as filters, for the templates in some folders and for shared ones."""
    templates = Environment(
        loader=FileSystemLoader([*folders, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    texts = (plain, count, number, size, share, duration, time, claim_words, name_words)
    templates.filters |= {text.__name__: text for text in texts}
    templates.globals["value_words"] = value_words
    return templates


def plain(text: str | None) -> str:
    """Text without the characters that turn its direction (bidi controls), so that it cannot pose as other text."""
    return (text or "").translate(HIDDEN)


def count(value: int) -> str:
    """All digits of a whole number: 18,125,000."""
    return f"{value:,}"


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
