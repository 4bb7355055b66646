"""Who is in a publication, and why the others are not: an image goes as a whole, with everybody in it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
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
OF_IMAGE = ("url", "caption", *OF_IMAGES)
OF_PEOPLE = ("person_id", "key", *OF_IMAGE)


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

    def images(self, shard: Shard, keys: Iterable[str]) -> dict[str, str]:
        """Images of a shard without people, such as backgrounds: key -> KEPT, or why they are left out."""
        partition, index = shard
        known, reasons = self._sources.images(shard, keys := set(keys), OF_IMAGE), dict[str, str]()
        for key in keys:
            sample = f"{partition}/{index:05d}/{key}"
            if key in known:
                reasons[key] = self._reason(sample, known[key])
            else:  # made elsewhere, or of a folder of backgrounds
                reasons[key] = "removed" if self._removed.has_sample(sample) else KEPT
        return reasons

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
                reason = self._reason(row["person_id"].rpartition("/")[0], row, descriptions.get(row["person_id"]))
                of_images[row["key"]] = "removed" if self._removed.has_person(row["person_id"]) else reason
        yield from (CODES.index(of_images[row["key"]]) for row in rows)

    def _reason(self, sample: str, image: Mapping[str, Any], description: str | None = None) -> str:
        """Why an image (``<partition>/<shard>/<key>``) is left out; KEPT if nothing speaks against it."""
        options, removed = self._options, self._removed
        if removed.has_sample(sample) or removed.has_url(image["url"]):
            return "removed"
        if removed.has_picture(image["sha256"], image["phash"]):
            return "removed"
        if options.nsfw == "drop" and _flagged(image):
            return "nsfw"
        if options.opt_outs == "drop" and _reserved(image):
            return "opted_out"
        if options.max_watermark is not None and not _number(image["pwatermark"]) <= options.max_watermark:
            return "watermark"
        if options.licences and image["LICENSE"] not in options.licences:
            return "licence"
        if not options.with_minors and any(map(speaks_of_minors, (image["caption"], description))):
            return "minor"
        return KEPT


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
