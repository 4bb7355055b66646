"""Identifiers in a store, without any library: DAG files and forms take their patterns from here."""

from __future__ import annotations

import re
from typing import Self

from laion_people.errors import UsageError

KEY_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"


class PartitionKey(str):
    """``<collection>/<part>``, safe in paths and URIs."""

    __slots__ = ()
    pattern = re.compile(f"{KEY_PART}/{KEY_PART}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises UsageError for a text that is no partition key."""
        if not cls.pattern.fullmatch(text):
            raise UsageError(f"partition {text!r}: should look like laion2B-en/00042")
        return cls(text)
