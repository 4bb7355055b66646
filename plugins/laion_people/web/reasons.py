"""What it means that a row was rejected, in a few words for the funnel; what to do stands in docs/operations.md."""

from __future__ import annotations

from collections.abc import Mapping

from laion_people.steps.registry import STEPS

MEANINGS: dict[str, Mapping[str, str]] = {  # by the unit of the funnel's stage
    "images": {**STEPS["download"].reasons, **STEPS["detect"].reasons},
    "people": {
        "no_face_seen": "a back, a steep profile or a covered face; the row is kept, without a mesh",
        **STEPS["subset_a"].reasons,
        **STEPS["compose"].reasons,
    },
    "captions": STEPS["caption"].reasons,
    "descriptions": STEPS["describe"].reasons,
}
