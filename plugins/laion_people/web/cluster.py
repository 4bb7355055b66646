"""One cluster: its contact sheet, its members, and its captions, which Editors change.

The word gate speaks up as they type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from fastapi import APIRouter, Form, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import BaseModel

from laion_people.engine.writing import ROW_GROUP
from laion_people.errors import LaionPeopleError, coded
from laion_people.language import captions
from laion_people.reports.figures import Figure, person_figure
from laion_people.reports.tables import columns
from laion_people.reports.views import Cluster
from laion_people.storage.layout import table_folder
from laion_people.storage.store import Store
from laion_people.web import source
from laion_people.web.addresses import ClusterId, MaybePartition, MaybeShard, Version
from laion_people.web.auth import Editor, Reader, csrf_token, may_change
from laion_people.web.captionform import Texts, Typed, fault, lines_of, read_lines, spare_lines
from laion_people.web.clusters import read_clusters
from laion_people.web.pages import render, stored_path
from laion_people.web.people import MESH_GROUPS, PEOPLE
from laion_people.web.rows import Tables, equal, shards

router = APIRouter(prefix="/clusters")
MEMBERS = 12  # that a cluster's page shows
LOOKED_AT = 8  # partitions that are looked through for some
LOOK = "what the words of new captions claim has been filled in: look at it, change it if need be, and save again"


class Members(BaseModel):
    """Which shard the members on a cluster's page come from; by default the first of the first partition."""

    partition: MaybePartition = ""
    shard: MaybeShard = None
    saved: Literal["", "yes"] = ""


@router.post("/check")
def check(caption: Texts, claims: Texts, seen: Texts, said: Texts) -> dict[str, Any]:
    """What is wrong with captions that are being typed, with all of them together and with each, and what each claims:
    what its words suggest, unless somebody has said so."""
    lines = [line.settled() for line in read_lines(caption, claims, seen, said)]
    return {
        "fault": fault(lines),
        "captions": [line.fault for line in lines],
        "claims": [line.claims for line in lines],
    }


@router.get("/{version}/{cluster_id}")
def cluster(
    request: Request, user: Reader, version: Version, cluster_id: ClusterId, members: Annotated[Members, Query()]
) -> HTMLResponse:
    return _page(request, user, version, cluster_id, members)


@router.post("/{version}/{cluster_id}")
def edit(
    request: Request,
    user: Editor,
    version: Version,
    cluster_id: ClusterId,
    tag: Annotated[str, Form(max_length=100)],
    caption: Texts,
    claims: Texts,
    seen: Texts,
    said: Texts,
    reviewed: Annotated[bool, Form()] = False,
    then: Annotated[Literal["stay", "next"], Form()] = "stay",
) -> Response:
    """Saves a cluster's captions; ``tag`` is of the entry that the editor has seen.

    Claims of captions that are new are suggested, and nothing is saved until their editor has seen them.
    """
    store = source.store()
    typed = [line for line in read_lines(caption, claims, seen, said) if line.text]
    lines = [line.settled() for line in typed]
    approved = reviewed or then == "next"
    _cluster(read_clusters(store, version), version, cluster_id)
    try:
        if not fault(lines) and any(a.parsed != b.parsed for a, b in zip(typed, lines, strict=True)):
            raise LaionPeopleError("claims-suggested", LOOK)
        texts, stated = [line.text for line in lines], [line.parsed for line in lines]
        captions.edit(store, version, cluster_id, texts, stated, reviewed=approved, by=user.get_name(), tag=tag)
    except LaionPeopleError as error:
        return _page(request, user, version, cluster_id, Members(), Typed(lines, reviewed, tag, str(error)))
    following = _around(read_clusters(store, version), cluster_id)["unreviewed"] if then == "next" else None
    where = following or f"{cluster_id}?saved=yes"
    return RedirectResponse(f"{request.scope['root_path']}/clusters/{version}/{where}", 303)


def _page(
    request: Request, user: BaseUser, version: str, cluster_id: str, members: Members, typed: Typed | None = None
) -> HTMLResponse:
    """A cluster's page; a form that was refused comes back with what was typed, and with what stands there now."""
    store = source.store()
    all_clusters = read_clusters(store, version)
    cluster = _cluster(all_clusters, version, cluster_id)
    entry = cluster.entry
    conflict = typed is not None and typed.tag != entry.tag
    return render(
        request,
        "cluster.html.j2",
        status=200 if typed is None else 409 if conflict else 422,
        version=version,
        cluster=cluster,
        entry=entry,
        lines=[*(typed.lines if typed else lines_of(entry)), *spare_lines()],
        longest=captions.LONGEST,
        reviewed=typed.reviewed if typed else entry.reviewed,
        saved=members.saved,
        refused=typed.refused if typed else "",
        conflict=conflict,
        may_change=may_change(request, user),
        csrf=csrf_token(user),
        around=_around(all_clusters, cluster_id),
        left=sum(not each.entry.reviewed for each in all_clusters),
        **_members(store, version, cluster, members),
    )


def _cluster(all_clusters: Sequence[Cluster], version: str, cluster_id: str) -> Cluster:
    """One of the clusters. Raises HTTPException 404 when there is none such, whatever captions.yaml may say of it."""
    for cluster in all_clusters:
        if cluster.cluster_id == cluster_id:
            return cluster
    raise HTTPException(404, coded("no-such-page", f"There is no cluster {cluster_id} in version {version}."))


def _around(all_clusters: Sequence[Cluster], cluster_id: str) -> dict[str, str | None]:
    """The clusters before and after one, and the nearest ones after and before it that nobody has reviewed."""
    ids = [cluster.cluster_id for cluster in all_clusters]
    at = ids.index(cluster_id)
    others = [*all_clusters[at + 1 :], *all_clusters[:at]]
    left = [cluster.cluster_id for cluster in others if not cluster.entry.reviewed]
    return {
        "next": ids[at + 1] if at + 1 < len(ids) else None,
        "prev": ids[at - 1] if at else None,
        "unreviewed": left[0] if left else None,
        "unreviewed_before": left[-1] if left else None,
    }


def _members(store: Store, version: str, cluster: Cluster, asked: Members) -> dict[str, Any]:
    """Members of a cluster in one shard, and the partitions that have some, by variable of the template.

    Of a partition that nobody has asked for: the one of the person in the middle, or else one of a few whose people
    have been assigned to this version.
    """
    assigned = sorted(key for key, steps in source.totals().items() if "assign" in steps)
    none = {"partitions": assigned, "partition": "", "shard": None, "shards": [], "members": [], "count": 0}
    middle = cluster.medoid_person_id.rsplit("/", 3)[0]
    likely = sorted(assigned, key=lambda key: key != middle)[:LOOKED_AT]
    choices = [asked.partition] if asked.partition else likely
    folders = ((key, shards(store, table_folder("assignments", key, version))) for key in choices)
    partition, listed = next((folder for folder in folders if folder[1]), (next(iter(choices), ""), []))
    if not listed:
        return none | {"partition": partition}
    shard = listed[0] if asked.shard is None else asked.shard
    if shard not in listed:
        raise HTTPException(
            404, coded("not-made-yet", f"Shard {shard} of {partition} has no assignments to version {version}.")
        )
    members, count = _figures(Tables(store, partition, shard, version), cluster)
    return none | {"partition": partition, "shard": shard, "shards": listed, "members": members, "count": count}


def _figures(tables: Tables, cluster: Cluster) -> tuple[list[tuple[str, Figure]], int]:
    """The first MEMBERS of a cluster in a shard, as person id and figure, and how many it has there.

    Face landmarks are heavy, so members of clusters of faces are from MESH_GROUPS row groups.
    """
    column = f"{cluster.kind}_cluster"
    assigned = columns(tables.store, tables.path("assignments"), [column])[column]
    rows = shown = np.flatnonzero(equal(assigned, cluster.cluster_id)).tolist()
    drawn: Mapping[str, Sequence[str]] = {"pose": ["keypoints"]}
    if cluster.kind != "pose":
        drawn = {"mesh": ["face_landmarks"]}
        groups = list(dict.fromkeys(row // ROW_GROUP for row in rows))[:MESH_GROUPS]
        shown = [row for row in rows if row // ROW_GROUP in groups]
    people = tables.beside(shown[:MEMBERS], {"people": PEOPLE, **drawn})
    figures = [(person["person_id"], person_figure(person, stored_path(person["person_id"]))) for person in people]
    return figures, len(rows)
