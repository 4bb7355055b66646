"""The browser of Subset B: composed images with their captions, and whom they are made of."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import quote

import numpy as np
from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from laion_people.web import source
from laion_people.web.addresses import AnyKind, Filters, Partition, Text, Version, chosen_shard, paged
from laion_people.web.figures import Figure, box_mark
from laion_people.web.pages import render
from laion_people.web.people import person_path
from laion_people.web.rows import Tables, contains, equal, shards

router = APIRouter()
SHOWN = ["composite_id", "caption", "aspect", "n_people", "n_similar", "people", "background_key", "width", "height"]
COLOURS = 4  # of groups of people who share a cluster: classes of browse.css


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
    store = source.store()
    there = shards(store, f"subset_b/{version}/{partition}")
    if not there:
        what, step = "composed images", "compose"
        return render(request, "nothing.html.j2", partition=partition, what=what, step=step, version=version)
    tables = Tables(store, partition, chosen_shard(filters, there), version)
    light = tables.read_all({"subset_b": ["aspect", "caption", "n_similar"]})["subset_b"]
    passing = np.ones(len(light), bool)
    if filters.aspect:
        passing &= equal(light["aspect"], filters.aspect)
    if filters.similar:
        passing &= (light["n_similar"].to_numpy() > 0) == (filters.similar == "yes")
    if filters.text:
        passing &= contains(light["caption"], filters.text)
    found = np.flatnonzero(passing)
    pages = paged(filters, there, len(found), len(light))
    rows = tables.read("subset_b", SHOWN, found[pages.span].tolist())
    return render(
        request,
        "composites.html.j2",
        partition=partition,
        version=version,
        subsets=tables.subsets(),
        filters=filters,
        pages=pages,
        composites=[_shown(version, row) for row in rows.to_pylist()] if rows else [],
    )


def _shown(version: str, row: dict[str, Any]) -> dict[str, Any]:
    """A row with its figure; people of one cluster have boxes of one colour."""
    groups = list(dict.fromkeys(person["cluster_id"] for person in row["people"]))
    people = [
        person
        | {
            "path": person_path(person["person_id"]),
            "name": person["person_id"].split("/", 3)[-1],
            "group": f"group-{groups.index(person['cluster_id']) % COLOURS}",
        }
        for person in row["people"]
    ]
    marks = [box_mark(of["bbox"], f"box {of['group']}", f"{of['name']}: {of['cluster_id']}") for of in people]
    picture = f"/images/composed/{version}/{quote(row['composite_id'])}"
    label = f"Composed image {row['composite_id']} of {row['n_people']} people"
    figure = Figure(picture, row["width"], row["height"], f"0 0 {row['width']} {row['height']}", label, marks)
    return row | {"figure": figure, "people": people}
