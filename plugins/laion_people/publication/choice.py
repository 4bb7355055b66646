"""Who is in a publication, and why the others are not: an image goes as a whole, with everybody in it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from laion_people.engine.catalog import OF_IMAGES
from laion_people.language.minors import speaks_of_minors
from laion_people.publication.sources import Shard, Sources
from laion_people.steps.download.owners import opted_out
from laion_people.storage.metadata import flagged
from laion_people.storage.removals import Removed

REASONS = {  # why a row is left out, the first that applies
    "removed": "somebody had the image removed",
    "nsfw": "the collection flags the image as unsafe, though it was downloaded",
    "opted_out": "the owner reserves the image, though it was downloaded",
    "watermark": "the collection thinks a watermark more likely than the publication allows",
    "licence": "the collection names none of the licences that the publication is to have",
    "minor": "the caption, or a description of Subset D, speaks of minors",
    "face": "a face is seen in the composed picture",
}
KEPT = ""
CODES = (KEPT, *REASONS)
OF_PEOPLE = ("person_id", "key", "url", "caption", *OF_IMAGES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What decides the content of a publication.

    edition: see `release.EDITIONS`. pictures: whether the pictures of Subset B are in it; faces: what becomes of faces
    in them (keep, blur, drop). with_minors: whether images that speak of minors are kept. nsfw, opt_outs: what becomes
    of images that the collection flags, or the owner reserves (keep, drop). max_watermark: images of a higher
    ``pwatermark`` go, and those without. licences: images of another ``LICENSE`` go.
    """

    edition: str = "links"
    pictures: bool = True
    faces: str = "keep"
    with_minors: bool = False
    nsfw: str = "drop"
    opt_outs: str = "drop"
    max_watermark: float | None = None
    licences: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"licences": list(self.licences)}


class Choice:
    """Who is in a publication: one look at the people of each shard, a byte for each of them in memory.

    ``removals`` are the ids of those that were heeded.
    """

    def __init__(self, sources: Sources, options: Options, removed: Removed):
        self._sources, self._options, self._removed = sources, options, removed
        self.removals = {removal.id for removal in removed.removals}
        self._codes: dict[Shard, np.ndarray] = {}
        for shard in sources.shards:
            self._codes[shard] = np.fromiter(self._look(shard), np.uint8)

    def people(self, shard: Shard) -> dict[str, str]:
        """The people of a shard in their order: person_id -> KEPT, or why they are left out."""
        ids = self._sources.table("people", shard, ["person_id"])["person_id"].to_pylist()
        return dict(zip(ids, (CODES[code] for code in self._codes[shard]), strict=True))

    def is_removed(self, sample: str) -> bool:
        """Whether an image (``<partition>/<shard>/<key>``), such as a background, was removed."""
        return self._removed.has_sample(sample)

    def count(self) -> int:
        """How many people are kept."""
        return sum(int((codes == 0).sum()) for codes in self._codes.values())

    def _look(self, shard: Shard) -> Iterator[int]:
        rows = self._sources.table("people", shard, OF_PEOPLE).to_pylist()
        described = self._sources.table("subset_d", shard, ("person_id", "caption")).to_pydict()
        descriptions = dict(zip(described["person_id"], described["caption"], strict=True))
        of_images: dict[str, str] = {}
        for row in rows:
            if not of_images.get(row["key"]):
                of_images[row["key"]] = self._reason(row, descriptions.get(row["person_id"]))
        yield from (CODES.index(of_images[row["key"]]) for row in rows)

    def _reason(self, row: Mapping[str, Any], description: str | None) -> str:
        """Why the image of a person is left out; KEPT if nothing speaks against it."""
        options = self._options
        if self._is_removed(row):
            return "removed"
        if options.nsfw == "drop" and _flagged(row):
            return "nsfw"
        if options.opt_outs == "drop" and _reserved(row):
            return "opted_out"
        if options.max_watermark is not None and not _number(row["pwatermark"]) <= options.max_watermark:
            return "watermark"
        if options.licences and row["LICENSE"] not in options.licences:
            return "licence"
        if not options.with_minors and any(map(speaks_of_minors, (row["caption"], description))):
            return "minor"
        return KEPT

    def _is_removed(self, row: Mapping[str, Any]) -> bool:
        removed, person = self._removed, row["person_id"]
        return bool(removed) and (
            removed.has_person(person)
            or removed.has_sample(person.rpartition("/")[0])
            or removed.has_url(row["url"])
            or removed.has_picture(row["sha256"], row["phash"])
        )


def _flagged(row: Mapping[str, Any]) -> bool:
    """Whether the collection flags the image. Of collections without such columns nothing is known."""
    return flagged({name: row[name] for name in ("NSFW", "punsafe") if row[name] is not None})


def _reserved(row: Mapping[str, Any]) -> bool:
    """Whether the owner reserved the image when it was downloaded."""
    tags = (row["x_robots_tag"] or "").splitlines()
    return row["robots_txt"] == "disallowed" or opted_out(tags, row["tdm_reservation"] or "")


def _number(value: float | None) -> float:
    """NaN, which is never small enough, for null."""
    return math.nan if value is None else value
