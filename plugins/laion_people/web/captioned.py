"""The browser of Subset C: what CLIP has looked at, the caption that it chose, and those that it did not."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from laion_people.errors import LaionPeopleError
from laion_people.reports.figures import Figure, choice_figure
from laion_people.reports.views import CHOICE_COLUMNS, Choice, choice_of
from laion_people.web.addresses import AnyKind, Filters, MaybeCluster, Partition, Text, Version
from laion_people.web.pages import stored_path
from laion_people.web.rows import Tables, at_once, contains, equal
from laion_people.web.subsets import browse

router = APIRouter()


class CaptionedFilters(Filters):
    """What the form of the browser asks for."""

    kind: AnyKind = ""
    cluster: MaybeCluster = ""
    text: Text = ""
    sort: Literal["stored", "clear", "close"] = "stored"


@router.get("/captioned/{version}/{collection}/{part}")
def captioned(
    request: Request, version: Version, partition: Partition, filters: Annotated[CaptionedFilters, Query()]
) -> HTMLResponse:
    return browse(request, "subset_c", version, partition, filters, _matching, _choices)


def _matching(tables: Tables, filters: CaptionedFilters) -> tuple[np.ndarray, int]:
    """The rows that pass the filters, in the order asked for, and how many rows the shard has."""
    light = tables.read_all({"subset_c": ["kind", "cluster_id", "caption", "margin"]})["subset_c"]
    passing = np.ones(len(light), bool)
    if filters.kind:
        passing &= equal(light["kind"], filters.kind)
    if filters.cluster:
        passing &= equal(light["cluster_id"], filters.cluster)
    if filters.text:
        passing &= contains(light["caption"], filters.text)
    rows = np.flatnonzero(passing)
    if filters.sort != "stored":
        margins = light["margin"].to_numpy()[rows]
        rows = rows[np.argsort(margins if filters.sort == "close" else -margins, kind="stable")]
    return rows, len(light)


def _choices(tables: Tables, rows: list[int]) -> list[tuple[Choice, Figure]]:
    """Rows of Subset C with what CLIP saw: the body for a pose, the head for the other kinds."""
    table, ids = at_once(
        lambda: tables.read("subset_c", CHOICE_COLUMNS, rows), lambda: tables.read("people", ["person_id"])
    )
    choices = [choice_of(tables.path("subset_c"), row) for row in table.to_pylist()]
    row_of = {person_id: row for row, person_id in enumerate(ids["person_id"].to_pylist())} if ids else {}
    if any(choice.person_id not in row_of for choice in choices):
        raise LaionPeopleError(
            "mismatched-tables", f"{tables.path('subset_c')} is of people who are gone: run again the step `caption`"
        )
    wanted = {"people": ["image_width", "image_height", "bbox"], "pose": ["keypoints"]}
    people = tables.beside([row_of[choice.person_id] for choice in choices], wanted)
    return [
        (choice, choice_figure(choice.kind, person, stored_path(choice.person_id)))
        for choice, person in zip(choices, people, strict=True)
    ]
