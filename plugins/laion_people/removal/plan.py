"""What is to be done for a removal: its record, and in each shard concerned which images leave, and from which files.

The plan, ``removals/<id>/plan.json``, is written first and deleted last: it holds the ids of what is removed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Self

from laion_people.errors import LaionPeopleError, MissingError
from laion_people.removal.find import Found, sample_of
from laion_people.removal.images import columns
from laion_people.removal.names import Names
from laion_people.removal.tables import Scopes, id_columns, key_of, leaving, tables_of
from laion_people.storage.layout import PartitionKey
from laion_people.storage.manifest import added
from laion_people.storage.removals import FOLDER, Removal, digest
from laion_people.storage.store import Store


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """What leaves a shard: the images of ``keys``; ``rows`` counts them by Parquet file, where there are any."""

    partition: str
    index: int
    keys: tuple[str, ...]
    rows: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    removal: Removal
    shards: tuple[ShardPlan, ...]

    def images(self) -> list[str]:
        """The ids of the images that leave, ``<partition>/<shard>/<key>``."""
        return [sample_of((shard.partition, shard.index), key) for shard in self.shards for key in shard.keys]

    def rows(self) -> dict[str, int]:
        """How many rows leave, by table."""
        return added({path.partition("/")[0]: rows} for shard in self.shards for path, rows in shard.rows.items())

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), indent=1).encode()

    @classmethod
    def from_json(cls, path: str, data: bytes) -> Self:
        """Raises LaionPeopleError when ``data`` is no such plan."""
        try:
            fields = json.loads(data)
            removal = Removal.from_json(path, json.dumps(fields["removal"]).encode())
            shards = tuple(ShardPlan(**each | {"keys": tuple(each["keys"])}) for each in fields["shards"])
            for shard in shards:
                PartitionKey.parse(shard.partition)
            return cls(removal, shards)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise LaionPeopleError(
                "damaged-removal", f"{path} is damaged ({error!r}): delete it, and give the same command again"
            ) from error


def planned(store: Store, scopes: Scopes, removal: Removal, names: Names, found: Found) -> Plan:
    """What leaves with the images that were found. ``removal`` names what it did before, if it is done once more.

    Reads the ids of the shards concerned. Raises LaionPeopleError for a file that is damaged.
    """
    shards, persons = [], set()
    for place, images in sorted(found.images.items()):
        keys = {image.key for image in images}
        rows = {}
        for table in tables_of(*place, scopes):
            if not store.exists(table.parquet):
                continue
            ids = columns(store, table.parquet, id_columns(table.entry))
            leaves = leaving(table.entry, ids, keys)
            if any(leaves):
                rows[table.parquet] = sum(leaves)
            if table.entry.writes == "people":
                persons |= {person for person in ids["person_id"].to_pylist() if key_of(person) in keys}
        shards.append(ShardPlan(*place, tuple(sorted(keys)), rows))
    every, near = found.every(), max(removal.near, names.bits if names.keep_out_near else -1)
    removal = replace(
        removal,
        urls=_digests(removal.urls, {*names.urls, *(image.url for image in every if image.url)}),
        pictures=_digests(removal.pictures, {*names.pictures, *(image.sha256 for image in every if image.sha256)}),
        samples=_digests(
            removal.samples, {sample_of(place, i.key) for place, images in found.images.items() for i in images}
        ),
        persons=_digests(removal.persons, persons),
        phashes=tuple(sorted({*removal.phashes, *(f"{looks:016x}" for looks in found.looks)})),
        near=near,
    )
    plan = Plan(removal, tuple(shards))
    return replace(plan, removal=replace(removal, rows=added([removal.rows, plan.rows()])))


def _digests(before: Iterable[str], texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({*before, *map(digest, texts)}))


def folder(removal_id: str) -> str:
    """Where what is still to be done lies."""
    return f"{FOLDER}/{removal_id}"


def plan_path(removal_id: str) -> str:
    return f"{folder(removal_id)}/plan.json"


def read_plan(store: Store, removal_id: str) -> Plan | None:
    """None where nothing is left to do."""
    path = plan_path(removal_id)
    try:
        return Plan.from_json(path, store.read(path))
    except MissingError:
        return None


def unfinished(store: Store) -> list[str]:
    """The ids of removals of which something is left to do."""
    return [name for name in store.folders(FOLDER) if store.exists(plan_path(name))]
