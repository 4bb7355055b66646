"""What is written into a publication, from wherever it comes: tables by config, and pictures, as streams.

`FromStore` makes it of a store's audited tables. Who makes a publication of another one (with fewer rows) is a second
`Content`.
"""

from __future__ import annotations

import json
import logging
import time
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from laion_people.errors import LaionPeopleError
from laion_people.publication import tables
from laion_people.publication.choice import KEPT, Choice, Options
from laion_people.publication.sources import Shard, Sources
from laion_people.publication.tables import Pseudonyms
from laion_people.publication.writing import Picture
from laion_people.vision.images import TarImages

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 30.0


class Content(ABC):
    """The rows of a publication: the same at every reading.

    ``left_out`` counts rows by config and reason, ``tombstones`` (None: there are none) are digests of what has left
    earlier versions; both are whole when all tables have been read.
    """

    def __init__(self) -> None:
        self.left_out: dict[str, Counter[str]] = defaultdict(Counter)
        self.tombstones: pa.Table | None = None

    @abstractmethod
    def schemas(self) -> dict[str, pa.Schema]:
        """The columns of each config, in the order in which they are to be written."""

    @abstractmethod
    def tables(self, config: str) -> Iterator[pa.Table]:
        """The rows of a config, piece by piece."""

    @abstractmethod
    def pictures(self) -> Iterator[Picture]:
        """The samples of Subset B: key (the composite_id), and jpg, txt and json."""


class FromStore(Content):
    """The rows of a store's audited tables that were chosen, shard by shard."""

    def __init__(self, sources: Sources, options: Options, choice: Choice, pseudonyms: Pseudonyms | None):
        """pseudonyms: of the edition that leads nobody back."""
        super().__init__()
        self._sources, self._options, self._choice, self._pseudonyms = sources, options, choice, pseudonyms

    def schemas(self) -> dict[str, pa.Schema]:
        edition = self._options.edition
        made = (c for c in tables.configs(edition) if c == "clusters" or self._sources.has(tables.CONFIGS[c]))
        return {config: tables.schema(config, edition) for config in made}

    def tables(self, config: str) -> Iterator[pa.Table]:
        rows: Callable[[Shard], pa.Table]
        match config:
            case "clusters":
                yield self._clusters().select(self.schemas()[config].names)
                return
            case "subset_b":
                rows = self._compositions
            case _:
                rows = lambda shard: self._persons(config, shard)  # noqa: E731 - which of the two is all that differs
        names = self.schemas()[config].names
        for shard in _told(self._sources.shards, config):
            yield rows(shard).select(names)

    def pictures(self) -> Iterator[Picture]:
        if not self._options.pictures or "subset_b" not in self.schemas():
            return
        names = self.schemas()["subset_b"].names
        for shard in _told(self._sources.shards, "pictures of subset_b"):
            rows = self._chosen(shard).select(names).to_pylist()
            if not rows:
                continue
            with self._sources.pictures(shard) as path:
                images = TarImages(path)
                for row in rows:
                    yield row["composite_id"], _sample(row, images)

    def _persons(self, config: str, shard: Shard) -> pa.Table:
        """The rows of a shard's table that are of people who are kept; counts the others."""
        table, people = self._sources.table(tables.CONFIGS[config], shard), self._choice.people(shard)
        reasons = [people[person] for person in tables.known(table["person_id"].to_pylist(), people)]
        self.left_out[config].update(filter(None, reasons))
        table = table.filter(pa.array([reason == KEPT for reason in reasons], pa.bool_()))
        if config in tables.SIZED:
            table = tables.with_sizes(table, self._sources.table("people", shard, ["person_id", *tables.SIZE]))
        if "bbox" in table.schema.names:
            table = tables.with_normalized(table)
        if self._pseudonyms:  # sorted, lest the order tell what the ids don't
            table = self._pseudonyms.in_column(table, "person_id").sort_by("person_id")
        return table

    def _compositions(self, shard: Shard) -> pa.Table:
        """The compositions of a shard that are kept; counts the others."""
        return self._chosen(shard, self.left_out["subset_b"])

    def _chosen(self, shard: Shard, left_out: Counter[str] | None = None) -> pa.Table:
        table, people = self._sources.table("subset_b", shard), self._choice.people(shard)
        reasons = [self._reason(row, shard, people) for row in table.select(["people", "background_key"]).to_pylist()]
        if left_out is not None:
            left_out.update(filter(None, reasons))
        return table.filter(pa.array([reason == KEPT for reason in reasons], pa.bool_()))

    def _reason(self, row: dict[str, Any], shard: Shard, people: dict[str, str]) -> str:
        """Why a composition is left out: its background, or the first of its people who is."""
        partition, index = shard
        if self._choice.is_removed(f"{partition}/{index:05d}/{row['background_key']}"):
            return "removed"
        persons = tables.known((person["person_id"] for person in row["people"]), people)
        return next((people[person] for person in persons if people[person]), KEPT)

    def _clusters(self) -> pa.Table:
        """The clusters; a medoid who is not in the publication is not named."""
        table = self._sources.clusters()
        named = self._kept(set(table["medoid_person_id"].to_pylist()))
        ids = [person if person in named else None for person in table["medoid_person_id"].to_pylist()]
        at = table.schema.get_field_index("medoid_person_id")
        table = table.set_column(
            at, tables.schema("clusters", self._options.edition).field(at), pa.array(ids, pa.string())
        )
        return self._pseudonyms.in_column(table, "medoid_person_id") if self._pseudonyms else table

    def _kept(self, persons: set[str]) -> set[str]:
        """Those of some persons who are in the publication."""
        wanted = {tuple(person.rsplit("/", 3)[:2]) for person in persons}
        shards = [shard for shard in self._sources.shards if (shard[0], f"{shard[1]:05d}") in wanted]
        return {p for shard in shards for p, reason in self._choice.people(shard).items() if not reason} & persons


def _sample(row: dict[str, Any], images: TarImages) -> dict[str, bytes]:
    """A composed picture as webdataset has it: the picture, its caption, and its row."""
    key = row["composite_id"].rpartition("/")[2]
    if key not in images.keys():  # noqa: SIM118 - no dict
        raise LaionPeopleError(
            "mismatched-tables", f"{row['composite_id']} is in a table, and not in the tar beside it: run the audit"
        )
    fields = json.dumps(row, ensure_ascii=False)
    return {"jpg": images.read(key), "txt": row["caption"].encode(), "json": fields.encode()}


def _told(shards: list[Shard], what: str) -> Iterator[Shard]:
    """Shards, with a line in the log now and then."""
    beat = time.monotonic()
    for done, shard in enumerate(shards, 1):
        yield shard
        if time.monotonic() - beat > PROGRESS_SECONDS:
            log.info("%s: %d of %d shards", what, done, len(shards))
            beat = time.monotonic()
