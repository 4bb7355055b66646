"""What people have answered, as it is kept: a JSON list beside what the question was about, oldest answer first.

``clusters/<version>/reviews.json`` has the answers on captions, ``releases/<name>/approvals.json`` on publications.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from laion_people.errors import LaionPeopleError, one_line
from laion_people.storage.store import Store

FIELDS = {"answer", "by", "at", "run_id"}  # of each answer, beside what it was about


def parse(path: str, data: bytes) -> list[dict[str, Any]]:
    """The content of a file of answers. Raises LaionPeopleError, naming the file, when it is damaged."""
    try:
        listed = json.loads(data)
        if not isinstance(listed, list) or not all(
            isinstance(answer, dict) and answer.keys() >= FIELDS for answer in listed
        ):
            raise ValueError("it should list answers")
    except (ValueError, RecursionError) as error:
        advice = "mend it, or move it away; the next answer writes a new one"
        raise LaionPeopleError("damaged-reviews", f"{path} is damaged ({one_line(error)}): {advice}") from error
    return listed


def keep(store: Store, path: str, answer: Mapping[str, Any]) -> None:
    """Adds an answer to those in the file. Raises LaionPeopleError for a damaged file, which is left as it is, since it
    holds what people have said."""

    def with_answer(before: bytes | None) -> bytes:
        answers = parse(path, b"[]" if before is None else before)
        return json.dumps([*answers, answer], indent=1, ensure_ascii=False).encode()

    store.update(path, with_answer)
