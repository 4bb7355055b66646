"""View models: what the HTML report and the page People show of the store's rows, made here for both.

Rows may be damaged or of an earlier release; a view is sound, or its making raises LaionPeopleError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from laion_people.errors import LaionPeopleError
from laion_people.language.captions import Entry
from laion_people.language.facts import Fact, explained
from laion_people.reports.tables import columns
from laion_people.storage.layout import RELEASE_FILES, cluster_path, contact_sheet
from laion_people.storage.store import Store

KINDS = {"pose": "Poses", "face": "Facial expressions", "head": "Head directions"}
CLUSTER_COLUMNS = ["cluster_id", "kind", "size", "medoid_person_id", "captions", "claims", "reviewed"]
COMPOSITE_COLUMNS = [
    "composite_id", "caption", "aspect", "n_people", "n_similar", "people", "background_key", "width", "height",
]  # fmt: skip
CHOICE_COLUMNS = [
    "person_id", "caption", "claims", "kind", "cluster_id", "clip_score", "margin", "foil_margin", "candidates",
    "scores",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Choice:
    """A row of Subset C: the caption that CLIP chose for a person, and why.

    ``candidates`` have their scores, the best first. ``claims`` are None in rows of release 0.1, which also have no
    ``foil_margin``. ``reasons`` are the claims with the facts that bear each out, [] where none does; None where the
    person's facts have not been given.
    """

    person_id: str
    kind: str
    cluster_id: str
    caption: str
    clip_score: float
    margin: float
    foil_margin: float | None
    candidates: tuple[tuple[str, float], ...]
    claims: tuple[str, ...] | None
    reasons: tuple[tuple[str, list[Fact] | None], ...]


@dataclass(frozen=True, slots=True)
class Member:
    """A person of a composed image: box (pixels), and the number of their cluster among those of the image."""

    person_id: str
    cluster_id: str
    bbox: tuple[float, ...]
    group: int

    @property
    def name(self) -> str:
        """The person's id within the shard."""
        return self.person_id.split("/", 3)[-1]


@dataclass(frozen=True, slots=True)
class Composite:
    """A row of Subset B: a composed image (size in pixels), its caption, and whom it is made of."""

    composite_id: str
    caption: str
    aspect: str
    n_similar: int
    background_key: str
    width: int
    height: int
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster with its captions as `label` took them and, where they were read, as captions.yaml has them now."""

    cluster_id: str
    kind: str
    size: int
    medoid_person_id: str
    labelled: Entry
    edited: Entry | None = None

    @property
    def entry(self) -> Entry:
        """The newest captions that are known."""
        return self.edited or self.labelled

    @property
    def pending(self) -> bool:
        """Whether captions or claims were edited since `label` took them, so that Subset C does not have them yet."""
        labelled, entry = self.labelled, self.entry
        return (entry.captions, entry.claims) != (labelled.captions, labelled.claims)


def facts_of(path: str, stored: Sequence[Mapping[str, Any]] | None) -> list[Fact] | None:
    """A person's facts as the table at ``path`` has them; None where there is no table.

    Raises LaionPeopleError for a fact that cannot be.
    """
    if stored is None:
        return None
    if any(fact is None or None in fact.values() for fact in stored):
        raise _damaged(path, "a fact without name, value or confidence")
    return [Fact(fact["name"], fact["value"], fact["confidence"]) for fact in stored]


def choice_of(path: str, row: Mapping[str, Any], facts: Sequence[Fact] | None = None) -> Choice:
    """The view of CHOICE_COLUMNS of a row of Subset C, whose table is at ``path``, with the person's facts.

    Raises LaionPeopleError for a row that cannot be.
    """
    claims, candidates, scores = row["claims"], row["candidates"], row["scores"]
    if len(candidates) != len(scores) or None in scores:
        raise _damaged(path, "not a score for each candidate")
    if None in (claims or ()):
        raise _damaged(path, "a claim without words")
    ranked = sorted(zip(candidates, scores, strict=True), key=lambda candidate: -candidate[1])
    same = {name: row[name] for name in CHOICE_COLUMNS if name not in ("claims", "candidates", "scores")}
    return Choice(
        **same,
        candidates=tuple(ranked),
        claims=None if claims is None else tuple(claims),
        reasons=tuple(explained(claims or (), facts)),
    )


def composite_of(row: Mapping[str, Any]) -> Composite:
    """The view of COMPOSITE_COLUMNS of a row of Subset B."""
    groups = list(dict.fromkeys(person["cluster_id"] for person in row["people"]))
    members = [
        Member(person["person_id"], person["cluster_id"], tuple(person["bbox"]), groups.index(person["cluster_id"]))
        for person in row["people"]
    ]
    same = {name: row[name] for name in COMPOSITE_COLUMNS if name not in ("people", "n_people")}
    return Composite(**same, members=tuple(members))


def clusters_path(version: str) -> str:
    """The table that `label` writes."""
    return cluster_path(version, RELEASE_FILES["clusters"])


def sheet_path(version: str, cluster_id: str) -> str:
    """The contact sheet of a cluster."""
    return cluster_path(version, contact_sheet(cluster_id))


def clusters_of(store: Store, version: str) -> list[Cluster]:
    """The labelled clusters of a version, in the order of KINDS and the largest of each kind first.

    Raises LaionPeopleError when the table is missing or damaged.
    """
    path = clusters_path(version)
    rows = columns(store, path, CLUSTER_COLUMNS).to_pylist()
    kinds = list(KINDS)
    if unknown := {row["kind"] for row in rows} - KINDS.keys():
        raise _damaged(path, f"kind {unknown.pop()!r}")
    return [
        Cluster(row["cluster_id"], row["kind"], row["size"], row["medoid_person_id"], _labelled(row))
        for row in sorted(rows, key=lambda row: (kinds.index(row["kind"]), -row["size"], row["cluster_id"]))
    ]


def _labelled(row: Mapping[str, Any]) -> Entry:
    claims = tuple(tuple(of_caption or ()) for of_caption in row["claims"] or ())
    return Entry(tuple(row["captions"]), row["reviewed"], claims=claims)


def _damaged(path: str, what: str) -> LaionPeopleError:
    return LaionPeopleError("damaged-file", f"{path} is damaged ({what}): run again the step that writes it")
