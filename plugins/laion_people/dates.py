"""Dates of partitions: Airflow's own backfill asks for a range of dates where a person means a range of parts.

Each collection has a first day. Part 0 is that day, part 42 is 42 days later, and so on up to the day before the first
day of another collection, so that no two partitions have the same date.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import date, timedelta

# Of years that are no leap years, so that 1 March is always part 59; no collection of LAION's has more than 128 parts.
FIRST_DAYS = {
    "laion2B-en": "2001-01-01",
    "laion2B-multi": "2002-01-01",
    "laion1B-nolang": "2003-01-01",
    "relaion2B-en-research-safe": "2005-01-01",
    "relaion2B-multi-research-safe": "2006-01-01",
    "relaion1B-nolang-research-safe": "2007-01-01",
    "relaion2B-en-research": "2009-01-01",
    "relaion2B-multi-research": "2010-01-01",
    "relaion1B-nolang-research": "2011-01-01",
    "sample": "2013-01-01",
}


def first_days(more: str) -> dict[str, str]:
    """The first day of each collection: those known here and those of the setting ``first_days`` (JSON), which win."""
    return FIRST_DAYS | (json.loads(more) if more else {})


def partition_date(key: str, first_days: Mapping[str, str]) -> date | None:
    """The date of a partition; None when its collection has no first day, its part no number, or its day is taken.

    ``first_days``: collection -> ISO date; no two may be the same.
    """
    collection, _, part = key.rpartition("/")
    if collection not in first_days or not re.fullmatch(r"[0-9]{5}", part):
        return None
    first = date.fromisoformat(first_days[collection])
    day = first + timedelta(days=int(part))
    later = [other for other in map(date.fromisoformat, first_days.values()) if other > first]
    return day if day < min(later, default=date.max) else None
