"""What is written into a publication, from wherever it comes: tables by config, and pictures, as streams.

`FromStore` makes it of a store's audited tables. Who makes a publication of another one (with fewer rows) is a second
`Content`.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from laion_people.errors import LaionPeopleError
from laion_people.publication import tables
from laion_people.publication.choice import KEPT, Choice, Options
from laion_people.publication.pictures import Faces, Pictures
from laion_people.publication.sources import Shard, Sources
from laion_people.publication.tables import Pseudonyms
from laion_people.publication.writing import Picture
from laion_people.storage.removals import read_removals

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

    def check(self) -> None:
        """Called before the publication is shown; raises LaionPeopleError when it must not be."""
        return


class FromStore(Content):
    """The rows of a store's audited tables that were chosen, shard by shard."""

    def __init__(
        self,
        sources: Sources,
        options: Options,
        choice: Choice,
        pseudonyms: Pseudonyms | None = None,
        quality: int = 92,
    ):
        """pseudonyms: of the edition that leads nobody back. quality: of JPEG files in which faces are blurred."""
        super().__init__()
        self._sources, self._options, self._choice = sources, options, choice
        self._pseudonyms, self._quality = pseudonyms, quality

    def schemas(self) -> dict[str, pa.Schema]:
        edition = self._options.edition
        made = (c for c in tables.configs(edition) if c == "clusters" or self._sources.has(tables.CONFIGS[c]))
        return {config: tables.schema(config, edition) for config in made}

    def tables(self, config: str) -> Iterator[pa.Table]:
        names = self.schemas()[config].names
        if config == "clusters":
            yield self._clusters().select(names)
            return
        for shard in _told(self._sources.shards, config):
            table, reasons = self._compositions(shard) if config == "subset_b" else self._persons(config, shard)
            self.left_out[config].update(filter(None, reasons))
            yield table.select(names)

    def pictures(self) -> Iterator[Picture]:
        if not self._options.pictures or "subset_b" not in self.schemas():
            return
        names = self.schemas()["subset_b"].names
        for shard in _told(self._sources.shards, "pictures of subset_b"):
            rows = self._compositions(shard)[0].select(names).to_pylist()
            if not rows:
                continue
            faces = self._faces(shard) if self._options.faces == "blur" else None
            with self._sources.pictures(shard) as path:
                shown = Pictures(path, faces, self._quality)
                for row in rows:
                    yield row["composite_id"], shown.sample(row)

    def check(self) -> None:
        if {removal.id for removal in read_removals(self._sources.store)} != self._choice.removals:
            raise LaionPeopleError(
                "removed-meanwhile", "somebody was removed while this was made: run `publish` again, without them"
            )

    def _persons(self, config: str, shard: Shard) -> tuple[pa.Table, list[str]]:
        """The rows of a shard's table that are of people who are kept; of all, why they are not."""
        table, people = self._sources.table(tables.CONFIGS[config], shard), self._choice.people(shard)
        reasons = [people[person] for person in tables.known(table["person_id"].to_pylist(), people)]
        table = _kept(table, reasons)
        if config in tables.SIZED:
            table = tables.with_sizes(table, self._sources.table("people", shard, ["person_id", *tables.SIZE]))
        if "bbox" in table.schema.names:
            table = tables.with_normalized(table)
        if self._pseudonyms:  # sorted, lest the order tell what the ids don't
            table = self._pseudonyms.in_column(table, "person_id").sort_by("person_id")
        return table, reasons

    def _compositions(self, shard: Shard) -> tuple[pa.Table, list[str]]:
        """The compositions of a shard that are kept; of all, why they are not."""
        table, people = self._sources.table("subset_b", shard), self._choice.people(shard)
        faces = self._faces(shard) if self._options.faces == "drop" else None
        rows = table.select(["people", "background_key"]).to_pylist()
        backgrounds = self._choice.images(shard, (row["background_key"] for row in rows))

        def reason(row: dict[str, Any]) -> str:
            """Why a composition is left out: its background, the first of its people who is, or a face."""
            persons = tables.known((person["person_id"] for person in row["people"]), people)
            of_people = next((people[person] for person in persons if people[person]), KEPT)
            face = "face" if faces and faces.are_seen(row) else KEPT
            return backgrounds[row["background_key"]] or of_people or face

        reasons = [reason(row) for row in rows]
        return _kept(table, reasons), reasons

    def _faces(self, shard: Shard) -> Faces:
        """The faces of a shard's people."""
        columns = {"people": ("person_id", "bbox"), "pose": ("keypoints",), "mesh": ("face_landmarks",)}
        return Faces(*(self._sources.table(table, shard, names) for table, names in columns.items()))

    def _clusters(self) -> pa.Table:
        """The clusters; a medoid who is not in the publication is not named."""
        table = self._sources.clusters()
        named = self._in_it(set(table["medoid_person_id"].to_pylist()))
        ids = [person if person in named else None for person in table["medoid_person_id"].to_pylist()]
        at = table.schema.get_field_index("medoid_person_id")
        table = table.set_column(
            at, tables.schema("clusters", self._options.edition).field(at), pa.array(ids, pa.string())
        )
        return self._pseudonyms.in_column(table, "medoid_person_id") if self._pseudonyms else table

    def _in_it(self, persons: set[str]) -> set[str]:
        """Those of some persons who are in the publication."""
        wanted = {tuple(person.rsplit("/", 3)[:2]) for person in persons}
        shards = [shard for shard in self._sources.shards if (shard[0], f"{shard[1]:05d}") in wanted]
        return {p for shard in shards for p, reason in self._choice.people(shard).items() if not reason} & persons


def _kept(table: pa.Table, reasons: list[str]) -> pa.Table:
    return table.filter(pa.array([reason == KEPT for reason in reasons], pa.bool_()))


def _told(shards: list[Shard], what: str) -> Iterator[Shard]:
    """Shards, with a line in the log now and then."""
    beat = time.monotonic()
    for done, shard in enumerate(shards, 1):
        yield shard
        if time.monotonic() - beat > PROGRESS_SECONDS:
            log.info("%s: %d of %d shards", what, done, len(shards))
            beat = time.monotonic()
