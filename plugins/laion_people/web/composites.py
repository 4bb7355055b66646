"""The browser of Subset B: composed images with their captions, and whom they are made of."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import quote

import numpy as np
from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from laion_people.reports.figures import Figure, composite_figure, group_colour
from laion_people.reports.views import COMPOSITE_COLUMNS, Composite, composite_of
from laion_people.web.addresses import AnyKind, Filters, Partition, Text, Version
from laion_people.web.rows import Tables, contains, equal
from laion_people.web.subsets import browse

router = APIRouter()


class CompositeFilters(Filters):
    """What the form of the browser asks for."""

    aspect: AnyKind = ""
    similar: Literal["", "yes", "no"] = ""
    text: Text = ""
    boxes: Literal["pointed", "always"] = "pointed"


@router.get("/composites/{version}/{collection}/{part}")
def composites(
    request: Request, version: Version, partition: Partition, filters: Annotated[CompositeFilters, Query()]
) -> HTMLResponse:
    return browse(request, "subset_b", version, partition, filters, _matching, _composites, group_colour=group_colour)


def _matching(tables: Tables, filters: CompositeFilters) -> tuple[np.ndarray, int]:
    """The rows that pass the filters, and how many rows the shard has."""
    light = tables.read_all({"subset_b": ["aspect", "caption", "n_similar"]})["subset_b"]
    passing = np.ones(len(light), bool)
    if filters.aspect:
        passing &= equal(light["aspect"], filters.aspect)
    if filters.similar:
        passing &= (light["n_similar"].to_numpy() > 0) == (filters.similar == "yes")
    if filters.text:
        passing &= contains(light["caption"], filters.text)
    return np.flatnonzero(passing), len(light)


def _composites(tables: Tables, rows: list[int]) -> list[tuple[Composite, Figure]]:
    """Rows of Subset B with their pictures."""
    table = tables.read("subset_b", COMPOSITE_COLUMNS, rows)
    composites = [composite_of(row) for row in table.to_pylist()] if table else []
    folder = f"/images/composed/{tables.version}/"
    return [(each, composite_figure(each, folder + quote(each.composite_id))) for each in composites]
