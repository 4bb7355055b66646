"""The clusters of a version with their captions."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Annotated, Literal

from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from laion_people.errors import coded
from laion_people.language import captions
from laion_people.language.captions import Entry
from laion_people.reports.views import KINDS, Cluster, clusters_of, clusters_path
from laion_people.storage.store import Store
from laion_people.storage.versions import versions
from laion_people.web import source
from laion_people.web.addresses import AnyKind, Filters, Text, Version, paged
from laion_people.web.auth import Reader, may_change
from laion_people.web.pages import render
from laion_people.web.rows import at_once

router = APIRouter(prefix="/clusters")


class ClusterFilters(Filters):
    """What the form of the list asks for."""

    kind: AnyKind = ""
    reviewed: Literal["", "yes", "no"] = ""
    text: Text = ""


@router.get("")
def newest(request: Request) -> Response:
    store = source.store()
    if not (known := versions(store)):
        return render(request, "nothing.html.j2", partition="", what="clusters", step="cluster", version="")
    labelled = (version for version in reversed(known) if store.exists(clusters_path(version)))
    return RedirectResponse(f"{request.scope['root_path']}/clusters/{next(labelled, known[-1])}")


@router.get("/{version}")
def clusters(
    request: Request, user: Reader, version: Version, filters: Annotated[ClusterFilters, Query()]
) -> HTMLResponse:
    store = source.store()
    known, all_clusters = at_once(lambda: versions(store), lambda: read_clusters(store, version))
    passing = [cluster for cluster in all_clusters if _passes(cluster, filters)]
    pages = paged(filters, [0], len(passing), len(all_clusters))
    return render(
        request,
        "clusters.html.j2",
        version=version,
        versions=known,
        filters=filters,
        pages=pages,
        clusters=passing[pages.span],
        reviewed=sum(cluster.entry.reviewed for cluster in all_clusters),
        pending=[cluster.cluster_id for cluster in all_clusters if cluster.pending],
        may_change=may_change(request, user),
        kinds=KINDS,
    )


def _passes(cluster: Cluster, filters: ClusterFilters) -> bool:
    """Whether a cluster is one of those that the form asks for."""
    text = filters.text.casefold()
    return (
        filters.kind in ("", cluster.kind)
        and filters.reviewed in ("", "yes" if cluster.entry.reviewed else "no")
        and any(text in words.casefold() for words in (cluster.cluster_id, *cluster.entry.captions))
    )


def read_clusters(store: Store, version: str) -> list[Cluster]:
    """The clusters of a version, the largest of each kind first, with what captions.yaml says of them.

    Raises HTTPException 404 when the version has none that are labelled, LaionPeopleError when a file is damaged.
    """
    if not store.exists(clusters_path(version)):
        raise HTTPException(
            404, coded("not-made-yet", f"Version {version} has no labelled clusters yet: the task label writes them.")
        )
    labelled, entries = at_once(lambda: clusters_of(store, version), lambda: entries_of(store, version))
    return [replace(cluster, edited=entries.get(cluster.cluster_id)) for cluster in labelled]


def entries_of(store: Store, version: str) -> dict[str, Entry]:
    """What captions.yaml says of a version's clusters; read again when it has changed."""
    return _read_entries(store, version, store.tag(captions.captions_path(version)))


@lru_cache(maxsize=4)
def _read_entries(store: Store, version: str, tag: str) -> dict[str, Entry]:
    """The captions; reading the YAML of 768 clusters takes 80 ms, so it is read once as long as its tag is the same."""
    return captions.read(store, version)
