"""What the json of a sample says of its image, in the types of the table of people. Anyone may have written it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from laion_people.engine.catalog import OF_IMAGES
from laion_people.steps.download.owners import LONGEST
from laion_people.storage.metadata import number, text

LARGEST = 2**31 - 1
LARGEST_FLOAT = 3.4e38  # of 32 bits
ROBOTS = ("allowed", "disallowed", "unreachable")


def of_image(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The columns OF_IMAGES; None for what is not there, or is no such value.

    Names count in any case, as in `metadata.flagged`, and the table's own spelling before others.
    """
    folded = {name.lower(): value for name, value in fields.items()}
    return {name: READERS[name](fields.get(name, folded.get(name.lower()))) for name in OF_IMAGES}


def _words(value: object) -> str | None:
    """A text, or json's word for a number, true or false."""
    if isinstance(value, bool | int | float):
        value = json.dumps(value)
    return text(value)[:LONGEST] or None


def _digits(count: int) -> Callable[[object], str | None]:
    pattern = re.compile(f"[0-9a-fA-F]{{{count}}}")
    return lambda value: value.lower() if isinstance(value, str) and pattern.fullmatch(value) else None


def _size(value: object) -> int | None:
    """A whole number of pixels; pandas makes floats of a column that has nulls."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= LARGEST:
        return None
    return int(value) if value == int(value) else None


def _score(value: object) -> float | None:
    found = number(value)
    return found if math.isfinite(found) and abs(found) <= LARGEST_FLOAT else None


READERS: Mapping[str, Callable[[object], Any]] = {
    "sha256": _digits(64),
    "original_width": _size,
    "original_height": _size,
    "phash": _digits(16),
    "NSFW": _words,
    "LICENSE": _words,
    "punsafe": _score,
    "pwatermark": _score,
    "x_robots_tag": _words,
    "tdm_reservation": _words,
    "robots_txt": lambda value: value if value in ROBOTS else None,
}
