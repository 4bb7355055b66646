"""Clusters of a version with their captions, which Editors change; the word gate speaks up as they type."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from typing import Annotated, Any, Literal

import numpy as np
from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from fastapi import APIRouter, Form, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import BaseModel

from laion_people.engine.writing import ROW_GROUP
from laion_people.errors import LaionPeopleError
from laion_people.language import captions
from laion_people.language.captions import Entry
from laion_people.language.suggestions import suggested_claims
from laion_people.storage.store import Store
from laion_people.storage.versions import versions
from laion_people.web import source
from laion_people.web.addresses import (
    KINDS,
    AnyKind,
    ClusterId,
    Filters,
    MaybePartition,
    MaybeShard,
    Text,
    Version,
    paged,
)
from laion_people.web.auth import Editor, Reader, csrf_token, may_change
from laion_people.web.pages import render
from laion_people.web.people import MESH_GROUPS, PEOPLE, figure, person_path
from laion_people.web.rows import Tables, at_once, columns, equal, shards

router = APIRouter(prefix="/clusters")
MEMBERS = 12  # that a cluster's page shows
LOOKED_AT = 8  # partitions that are looked through for some
SPARE = 2  # empty fields at the end of the form, for those without scripts
LOOK = "what the words of new captions claim has been filled in: look at it, change it if need be, and save again"
Texts = Annotated[list[str], Form(default_factory=list, max_length=200)]


class ClusterFilters(Filters):
    """What the form of the list asks for."""

    kind: AnyKind = ""
    reviewed: Literal["", "yes", "no"] = ""
    text: Text = ""


class Members(BaseModel):
    """Which shard the members on a cluster's page come from; by default the first of the first partition."""

    partition: MaybePartition = ""
    shard: MaybeShard = None
    saved: Literal["", "yes"] = ""


@dataclass(frozen=True, slots=True)
class Line:
    """A caption of the form, with what it claims as typed ("base=sitting, left_arm=raised").

    ``seen`` and ``said``: the caption and the claims that its editor has last seen together.
    """

    text: str
    claims: str
    seen: str
    said: str

    @property
    def stale(self) -> bool:
        """Whether the caption is another one since, and the claims are still the old one's."""
        return self.text != self.seen and self.parsed == _parsed(self.said)

    @property
    def parsed(self) -> tuple[str, ...]:
        return _parsed(self.claims)

    @property
    def fault(self) -> str:
        """What is wrong with it; an empty line is left out."""
        return self.text and (captions.caption_fault(self.text) or captions.claims_fault(self.parsed))

    def settled(self) -> Line:
        """The line with claims that are its own: if they are stale, those that its words suggest."""
        return _line(self.text, suggested_claims(self.text)) if self.stale else self


def _line(text: str = "", claims: tuple[str, ...] = ()) -> Line:
    said = ", ".join(claims)
    return Line(text, said, text, said)


def _parsed(claims: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(claims.replace(",", " ").split()))


@dataclass(frozen=True, slots=True)
class Typed:
    """A form that was refused: what was typed, the tag of the entry that its editor has seen, and why."""

    lines: list[Line]
    reviewed: bool
    tag: str
    refused: str


@router.get("")
def newest(request: Request) -> Response:
    store = source.store()
    if not (known := versions(store)):
        return render(request, "nothing.html.j2", partition="", what="clusters", step="cluster", version="")
    labelled = (version for version in reversed(known) if store.exists(_table_path(version)))
    return RedirectResponse(f"{request.scope['root_path']}/clusters/{next(labelled, known[-1])}")


@router.post("/check")
def check(caption: Texts, claims: Texts, seen: Texts, said: Texts) -> dict[str, Any]:
    """What is wrong with captions that are being typed, with all of them together and with each, and what each claims:
    what its words suggest, unless somebody has said so."""
    lines = [line.settled() for line in _lines(caption, claims, seen, said)]
    return {
        "fault": _fault(lines),
        "captions": [line.fault for line in lines],
        "claims": [line.claims for line in lines],
    }


@router.get("/{version}")
def clusters(
    request: Request, user: Reader, version: Version, filters: Annotated[ClusterFilters, Query()]
) -> HTMLResponse:
    store = source.store()
    known, found = at_once(lambda: versions(store), lambda: _clusters(store, version))
    passing = [
        of
        for of in found
        if filters.kind in ("", of["kind"])
        and filters.reviewed in ("", "yes" if of["entry"].reviewed else "no")
        and any(filters.text.casefold() in text.casefold() for text in (of["cluster_id"], *of["entry"].captions))
    ]
    pages = paged(filters, [0], len(passing), len(found))
    return render(
        request,
        "clusters.html.j2",
        version=version,
        versions=known,
        filters=filters,
        pages=pages,
        clusters=passing[pages.span],
        reviewed=sum(of["entry"].reviewed for of in found),
        pending=[of["cluster_id"] for of in found if of["pending"]],
        may_change=may_change(request, user),
        kinds=KINDS,
    )


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
    typed = [line for line in _lines(caption, claims, seen, said) if line.text]
    lines = [line.settled() for line in typed]
    approved = reviewed or then == "next"
    _cluster(_clusters(store, version), version, cluster_id)
    try:
        if not _fault(lines) and any(a.parsed != b.parsed for a, b in zip(typed, lines, strict=True)):
            raise LaionPeopleError(LOOK)
        texts, stated = [line.text for line in lines], [line.parsed for line in lines]
        captions.edit(store, version, cluster_id, texts, stated, reviewed=approved, by=user.get_name(), tag=tag)
    except LaionPeopleError as error:
        return _page(request, user, version, cluster_id, Members(), Typed(lines, reviewed, tag, str(error)))
    following = _around(_clusters(store, version), cluster_id)["unreviewed"] if then == "next" else None
    where = following or f"{cluster_id}?saved=yes"
    return RedirectResponse(f"{request.scope['root_path']}/clusters/{version}/{where}", 303)


def _lines(caption: list[str], claims: list[str], seen: list[str], said: list[str]) -> list[Line]:
    fields = zip_longest(*(map(str.strip, of[: len(caption)]) for of in (caption, claims, seen, said)), fillvalue="")
    return [Line(*of) for of in fields]


def _fault(lines: list[Line]) -> str:
    """What is wrong with the captions of a form."""
    given = [line for line in lines if line.text]
    return captions.fault([line.text for line in given], [line.parsed for line in given])


def _page(
    request: Request, user: BaseUser, version: str, cluster_id: str, members: Members, typed: Typed | None = None
) -> HTMLResponse:
    """A cluster's page; a form that was refused comes back with what was typed, and with what stands there now."""
    store = source.store()
    found = _clusters(store, version)
    of = _cluster(found, version, cluster_id)
    entry: Entry = of["entry"]
    conflict = typed is not None and typed.tag != entry.tag
    lines = typed.lines if typed else [*map(_line, entry.captions, entry.claims)]
    return render(
        request,
        "cluster.html.j2",
        status=200 if typed is None else 409 if conflict else 422,
        version=version,
        of=of,
        entry=entry,
        lines=[*lines, *[_line()] * SPARE],
        longest=captions.LONGEST,
        reviewed=typed.reviewed if typed else entry.reviewed,
        saved=members.saved,
        refused=typed.refused if typed else "",
        conflict=conflict,
        may_change=may_change(request, user),
        csrf=csrf_token(user),
        around=_around(found, cluster_id),
        left=sum(not of["entry"].reviewed for of in found),
        medoid=person_path(of["medoid_person_id"]),
        **_members(store, version, of, members),
    )


def _cluster(found: list[dict[str, Any]], version: str, cluster_id: str) -> dict[str, Any]:
    """One of the clusters. Raises HTTPException 404 when there is none such, whatever captions.yaml may say of it."""
    of = next((of for of in found if of["cluster_id"] == cluster_id), None)
    if of is None:
        raise HTTPException(404, f"There is no cluster {cluster_id} in version {version}.")
    return of


def _table_path(version: str) -> str:
    return f"clusters/{version}/clusters.parquet"


def _clusters(store: Store, version: str) -> list[dict[str, Any]]:
    """The clusters of a version, the largest of each kind first, with what captions.yaml says of them.

    ``pending``: it says something else than `label` has last put into clusters.parquet, which Subset C is made from.
    """
    path = _table_path(version)
    if not store.exists(path):
        raise HTTPException(404, f"Version {version} has no labelled clusters yet: the task label writes them.")
    names = ["cluster_id", "kind", "size", "medoid_person_id", "captions", "claims", "reviewed"]
    table, entries = at_once(lambda: columns(store, path, names), lambda: entries_of(store, version))
    kinds = list(KINDS)
    if unknown := set(table["kind"].to_pylist()) - set(kinds):
        raise LaionPeopleError(f"{path} is damaged (kind {unknown.pop()!r}): run again the step that writes it")
    found = sorted(table.to_pylist(), key=lambda of: (kinds.index(of["kind"]), -of["size"], of["cluster_id"]))
    for of in found:
        claims = tuple(tuple(each or ()) for each in of["claims"] or ())
        labelled = Entry(tuple(of["captions"]), of["reviewed"], claims=claims)
        of["entry"] = entries.get(of["cluster_id"], labelled)
        of["pending"] = (of["entry"].captions, of["entry"].claims) != (labelled.captions, labelled.claims)
    return found


def entries_of(store: Store, version: str) -> dict[str, Entry]:
    """What captions.yaml says of a version's clusters; read again when it has changed."""
    return _read_entries(store, version, store.tag(captions.captions_path(version)))


@lru_cache(maxsize=4)
def _read_entries(store: Store, version: str, tag: str) -> dict[str, Entry]:
    """The captions; reading the YAML of 768 clusters takes 80 ms, so it is read once as long as its tag is the same."""
    return captions.read(store, version)


def _around(found: list[dict[str, Any]], cluster_id: str) -> dict[str, str | None]:
    """The clusters before and after one, and the nearest ones after and before it that nobody has reviewed."""
    ids = [of["cluster_id"] for of in found]
    at = ids.index(cluster_id)
    turned = [*found[at + 1 :], *found[:at]]
    left = [of["cluster_id"] for of in turned if not of["entry"].reviewed]
    return {
        "next": ids[at + 1] if at + 1 < len(ids) else None,
        "prev": ids[at - 1] if at else None,
        "unreviewed": left[0] if left else None,
        "unreviewed_before": left[-1] if left else None,
    }


def _members(store: Store, version: str, of: dict[str, Any], asked: Members) -> dict[str, Any]:
    """Members of a cluster in one shard, and the partitions that have some.

    Of a partition that nobody has asked for: the one of the person in the middle, or else one of a few whose people
    have been assigned to this version. Face landmarks are heavy, so such members are from MESH_GROUPS row groups.
    """
    assigned = sorted(key for key, steps in source.totals().items() if "assign" in steps)
    nobody = {"partitions": assigned, "partition": "", "shard": None, "shards": [], "members": [], "count": 0}
    middle = of["medoid_person_id"].rsplit("/", 3)[0]
    likely = sorted(assigned, key=lambda key: key != middle)[:LOOKED_AT]
    choices = [asked.partition] if asked.partition else likely
    folders = ((key, shards(store, f"assignments/{version}/{key}")) for key in choices)
    partition, there = next((found for found in folders if found[1]), (next(iter(choices), ""), []))
    if not there:
        return nobody | {"partition": partition}
    shard = there[0] if asked.shard is None else asked.shard
    if shard not in there:
        raise HTTPException(404, f"Shard {shard} of {partition} has no assignments to version {version}.")
    tables = Tables(store, partition, shard, version)
    column = f"{of['kind']}_cluster"
    clusters = columns(store, tables.path("assignments"), [column])[column]
    rows = shown = np.flatnonzero(equal(clusters, of["cluster_id"])).tolist()
    drawn = {"pose": ["keypoints"]}
    if of["kind"] != "pose":
        drawn = {"mesh": ["face_landmarks"]}
        groups = list(dict.fromkeys(row // ROW_GROUP for row in rows))[:MESH_GROUPS]
        shown = [row for row in rows if row // ROW_GROUP in groups]
    people = tables.beside(shown[:MEMBERS], {"people": PEOPLE, **drawn})
    for person in people:
        person |= {"figure": figure(person), "path": person_path(person["person_id"])}
    return nobody | {"partition": partition, "shard": shard, "shards": there, "members": people, "count": len(rows)}
