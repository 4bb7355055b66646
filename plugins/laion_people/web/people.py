"""The browser of people: those of a shard over their images, filtered by columns alone, and one person in detail."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from fastapi import APIRouter, HTTPException, Path, Query, Request
from fastapi.responses import HTMLResponse
from pydantic import AfterValidator, Field

from laion_people.engine.writing import ROW_GROUP
from laion_people.errors import LaionPeopleError, coded
from laion_people.language.facts import KIND, VALUES, Fact, closure
from laion_people.reports.figures import person_figure
from laion_people.reports.views import CHOICE_COLUMNS, KINDS, choice_of, facts_of
from laion_people.storage.layout import table_folder
from laion_people.storage.store import Store
from laion_people.storage.versions import versions
from laion_people.vision.geometry import BLENDSHAPES
from laion_people.web import source
from laion_people.web.addresses import (
    PAGE_ROWS,
    Filters,
    MaybeCluster,
    MaybeNumber,
    MaybeVersion,
    Partition,
    Text,
    chosen_shard,
    paged,
)
from laion_people.web.pages import person_path, render, stored_path
from laion_people.web.rows import Tables, at_once, contains, equal, shards

router = APIRouter()
PEOPLE = ["key", "caption", "image_width", "image_height", "bbox", "bbox_score"]
CLUSTERS = [f"{kind}_cluster" for kind in KINDS]
ANGLES = ["head_yaw", "head_pitch", "head_roll"]
CROWDS = {"1": (1, 1), "2": (2, 2), "3-5": (3, 5), "6+": (6, 10**9)}  # people in an image
STANDS_OUT = 0.3  # blendshapes (0 to 1) above it are shown
MESH_GROUPS = 2  # row groups of face landmarks (6 MB each) that a page of people reads at most


def _known_fact(fact: str) -> str:
    name, _, value = fact.partition("=")
    if fact and value not in VALUES.get(KIND.get(name, ""), {}).get(name, ()):
        raise ValueError("no fact is called so")
    return fact


MaybeFact = Annotated[str, AfterValidator(_known_fact)]


class PeopleFilters(Filters):
    """What the form of the browser asks for."""

    subset_a: Literal["", "yes", "no"] = ""
    low: MaybeNumber = None
    high: MaybeNumber = None
    face: Literal["", "yes", "no"] = ""
    people: Literal["", "1", "2", "3-5", "6+"] = ""
    score: MaybeNumber = None
    version: MaybeVersion = ""
    cluster: MaybeCluster = ""
    fact: MaybeFact = ""
    text: Text = ""
    sort: Literal["stored", "similar", "unlike"] = "stored"
    view: Literal["crop", "whole"] = "crop"
    hide: Annotated[list[Literal["box", "pose", "mesh"]], Field(default_factory=list)]


@router.get("/people/{collection}/{part}")
def people(request: Request, partition: Partition, filters: Annotated[PeopleFilters, Query()]) -> HTMLResponse:
    store = source.store()
    listed = shards(store, table_folder("people", partition))
    if not listed:
        return render(request, "nothing.html.j2", partition=partition, what="people", step="detect", version="")
    known = versions(store)
    tables = _tables(store, partition, chosen_shard(filters, listed), filters.version)
    matching, total = _matching(tables, filters)
    pages = paged(filters, listed, len(matching), total)
    rows = matching[pages.span].tolist()
    with_mesh = "mesh" not in filters.hide and len({row // ROW_GROUP for row in rows}) <= MESH_GROUPS
    return render(
        request,
        "people.html.j2",
        partition=partition,
        filters=filters,
        pages=pages,
        versions=known,
        version=tables.version,
        subsets=tables.subsets(),
        people=_listed(tables, rows, with_mesh),
        crowds=list(CROWDS),
        vocabulary=[*VALUES.values()],
        mesh_left_out=not with_mesh and "mesh" not in filters.hide,
    )


@router.get("/people/{collection}/{part}/{shard}/{key}/{number}")
def person(
    request: Request,
    partition: Partition,
    shard: Annotated[int, Path(ge=0, lt=10**9)],
    key: str,
    number: Annotated[int, Path(ge=0, lt=10**9)],
    version: Annotated[MaybeVersion, Query()] = "",
) -> HTMLResponse:
    store = source.store()
    tables = _tables(store, partition, shard, version)
    ids = tables.read("people", ["person_id"])
    person_id = f"{partition}/{shard:05d}/{key}/{number}"
    row = -1 if ids is None else pc.index(ids["person_id"], person_id).as_py()
    if ids is None or row < 0:
        raise HTTPException(404, coded("no-such-page", f"There is no person {person_id}."))
    return render(
        request,
        "person.html.j2",
        partition=partition,
        shard=shard,
        page=row // PAGE_ROWS + 1,
        version=tables.version,
        subsets=tables.subsets(),
        person=_detailed(tables, row, person_id),
        around={
            relation: person_path(ids["person_id"][at].as_py()) if 0 <= at < len(ids) else None
            for relation, at in (("prev", row - 1), ("next", row + 1))
        },
    )


def _tables(store: Store, partition: str, shard: int, version: str) -> Tables:
    """Those of a cluster version; without one, of the newest that the shard's people have been assigned to."""
    tables = Tables(store, partition, shard, version)
    return tables if version else replace(tables, version=tables.newest("assignments"))


def _matching(tables: Tables, filters: PeopleFilters) -> tuple[np.ndarray, int]:
    """The rows that pass the filters, in the order asked for, and how many rows the shard has."""
    wanted = {"people": ["bbox_score"]}
    wanted["people"] += ["key"] * bool(filters.people) + ["caption"] * bool(filters.text)
    if filters.subset_a:
        wanted |= {"people": [*wanted["people"], "person_id"], "subset_a": ["person_id"]}
    if filters.low is not None or filters.high is not None or filters.sort != "stored":
        wanted["clip"] = ["similarity"]
    if filters.face:
        wanted["mesh"] = ["face_score"]
    if filters.cluster:
        wanted["assignments"] = [f"{filters.cluster.split('-')[0]}_cluster"]
    if filters.fact:
        wanted["facts"] = ["facts"]
    read = tables.read_all(wanted)
    for name, table in read.items():
        if name != "subset_a" and len(table) != len(read["people"]):
            raise LaionPeopleError(
                "mismatched-tables", f"{tables.path(name)} has other rows than the people table: run its step again"
            )
    passing = _passing(read, filters)
    rows = np.flatnonzero(passing)
    if filters.sort != "stored":
        similarity = read["clip"]["similarity"].to_numpy()[rows]
        rows = rows[np.argsort(similarity if filters.sort == "unlike" else -similarity, kind="stable")]
    return rows, len(passing)


def _passing(read: Mapping[str, pa.Table], filters: PeopleFilters) -> np.ndarray:
    """Which people pass the filters, bool [people]."""
    people = read["people"]
    passing = np.ones(len(people), bool)
    if filters.score is not None:
        passing &= people["bbox_score"].to_numpy() >= filters.score
    if filters.people:
        least, most = CROWDS[filters.people]
        codes = people["key"].combine_chunks().dictionary_encode().indices.to_numpy()
        crowd = np.bincount(codes, minlength=1)[codes]
        passing &= (crowd >= least) & (crowd <= most)
    if filters.text:
        passing &= contains(people["caption"], filters.text)
    if filters.subset_a:
        members = set(read["subset_a"]["person_id"].to_pylist())
        inside = [person_id in members for person_id in people["person_id"].to_pylist()]
        passing &= np.array(inside, bool) == (filters.subset_a == "yes")
    if filters.low is not None:
        passing &= read["clip"]["similarity"].to_numpy() >= filters.low
    if filters.high is not None:
        passing &= read["clip"]["similarity"].to_numpy() <= filters.high
    if filters.face:
        passing &= read["mesh"]["face_score"].is_valid().to_numpy() == (filters.face == "yes")
    if filters.cluster:
        passing &= equal(read["assignments"].column(0), filters.cluster)
    if filters.fact:
        passing &= _having(read["facts"]["facts"], *filters.fact.split("="))
    return passing


def _having(facts: pa.ChunkedArray, name: str, value: str) -> np.ndarray:
    """Which people have a fact, or a narrower one, bool [people]."""
    lists = facts.combine_chunks()
    names, values, _ = map(pa.chunked_array, lists.flatten().flatten())
    narrower = [each for each in VALUES[KIND[name]][name] if value in closure(name, each)]
    true = equal(names, name) & np.logical_or.reduce([equal(values, each) for each in narrower])
    people = np.repeat(np.arange(len(lists)), pc.call_function("list_value_length", [lists]))
    return np.bincount(people[true], minlength=len(lists)) > 0


def _listed(tables: Tables, rows: list[int], with_mesh: bool) -> list[dict[str, Any]]:
    """What the page shows of some people."""
    wanted = {"people": PEOPLE, "pose": ["keypoints"], "clip": ["similarity"], "assignments": CLUSTERS}
    if with_mesh:
        wanted["mesh"] = ["face_landmarks"]
    people, members = at_once(lambda: tables.beside(rows, wanted), lambda: tables.read("subset_a", ["person_id"]))
    inside = None if members is None else set(members["person_id"].to_pylist())
    for person in people:
        person["in_subset_a"] = inside and person["person_id"] in inside
        person["figure"] = person_figure(person, stored_path(person["person_id"]))
    return people


def _detailed(tables: Tables, row: int, person_id: str) -> dict[str, Any]:
    """All that is known of a person."""
    wanted = {
        "people": [*PEOPLE, "sample_id", "url"],
        "pose": ["keypoints", "pose_score"],
        "mesh": ["face_landmarks", "blendshapes", *ANGLES, "face_score"],
        "facts": ["facts"],
        "clip": ["similarity", "clip_model"],
        "assignments": [*CLUSTERS, *(f"{kind}_distance" for kind in KINDS)],
    }
    descriptions = ["caption", "captioner", "similarity"]
    (person,), subset_a, subset_c, subset_d = at_once(
        lambda: tables.beside([row], wanted),
        lambda: tables.of_person("subset_a", person_id, ["threshold"]),
        lambda: tables.of_person("subset_c", person_id, CHOICE_COLUMNS),
        lambda: tables.of_person("subset_d", person_id, descriptions),
    )
    shapes = zip(BLENDSHAPES, person["blendshapes"] or (), strict=False)
    expression = sorted((shape for shape in shapes if shape[1] > STANDS_OUT), key=lambda shape: -shape[1])
    facts = facts_of(tables.path("facts"), person["facts"])
    choices = [choice_of(tables.path("subset_c"), row, facts) for row in subset_c]
    behind = [fact for choice in choices for _, of_claim in choice.reasons for fact in of_claim or ()]
    return person | {
        "figure": person_figure(person, stored_path(person_id)),
        "facts": None if facts is None else {kind: _of_kind(facts, kind) for kind in KINDS},
        "claimed": {fact.name for fact in behind},
        "subset_a": subset_a,
        "choices": choices,
        "subset_d": subset_d,
        "expression": [(re.sub(r"([A-Z])", r" \1", name).lower(), value) for name, value in expression],
    }


def _of_kind(facts: list[Fact], kind: str) -> list[Fact]:
    return [fact for fact in facts if KIND.get(fact.name) == kind]
