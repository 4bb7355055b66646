"""What the browsers of Subsets B and C have in common: a page of the rows of a shard that pass the filters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from fastapi import Request
from fastapi.responses import HTMLResponse

from laion_people.reports.figures import Figure
from laion_people.web import source
from laion_people.web.addresses import Filters, chosen_shard, paged
from laion_people.web.pages import render
from laion_people.web.rows import Tables, shards

Chosen = TypeVar("Chosen", bound=Filters)
CONTENTS = {"subset_b": ("composed images", "compose"), "subset_c": ("captioned people", "caption")}  # and their step


def browse(
    request: Request,
    table: str,
    version: str,
    partition: str,
    filters: Chosen,
    matching: Callable[[Tables, Chosen], tuple[np.ndarray, int]],
    shown: Callable[[Tables, list[int]], list[tuple[Any, Figure]]],
    **context: Any,
) -> HTMLResponse:
    """A page of a subset, by the template of the table's name.

    ``matching`` gives the rows of a shard that pass the filters, in the order asked for, and how many rows the shard
    has; ``shown`` the views of some rows with their pictures. ``context`` is for the template.
    """
    store = source.store()
    listed = shards(store, f"{table}/{version}/{partition}")
    if not listed:
        what, step = CONTENTS[table]
        return render(request, "nothing.html.j2", partition=partition, what=what, step=step, version=version)
    tables = Tables(store, partition, chosen_shard(filters, listed), version)
    rows, total = matching(tables, filters)
    pages = paged(filters, listed, len(rows), total)
    return render(
        request,
        f"{table}.html.j2",
        partition=partition,
        version=version,
        subsets=tables.subsets(),
        filters=filters,
        pages=pages,
        shown=shown(tables, rows[pages.span].tolist()),
        **context,
    )
