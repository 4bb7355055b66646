"""Why a person has a caption: rows of Subset C with the facts behind their claims, and the candidates compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from laion_people.errors import LaionPeopleError
from laion_people.language.facts import Fact
from laion_people.web.rows import Tables

CHOICE = ["caption", "claims", "kind", "cluster_id", "clip_score", "margin", "foil_margin", "candidates", "scores"]


def told_facts(tables: Tables, stored: Sequence[Mapping[str, Any]] | None) -> list[Fact] | None:
    """A person's facts as stored; None where there is no table. Raises LaionPeopleError for one that cannot be."""
    if stored is None:
        return None
    if any(of is None or None in of.values() for of in stored):
        raise _damaged(tables, "facts", "a fact without name, value or confidence")
    return [Fact(of["name"], of["value"], of["confidence"]) for of in stored]


def ranked(tables: Tables, choice: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The candidates of a row of Subset C with their scores, the best first; its claims are sound, too, or None.

    Raises LaionPeopleError for a row that cannot be.
    """
    candidates, scores = choice["candidates"], choice["scores"]
    if len(candidates) != len(scores) or None in scores:
        raise _damaged(tables, "subset_c", "not a score for each candidate")
    if None in (choice["claims"] or ()):
        raise _damaged(tables, "subset_c", "a claim without words")
    return sorted(zip(candidates, scores, strict=True), key=lambda of: -of[1])


def _damaged(tables: Tables, table: str, what: str) -> LaionPeopleError:
    return LaionPeopleError(f"{tables.path(table)} is damaged ({what}): run again the step that writes it")
