"""The tables of a publication: which columns each config has, and its rows as they come from the store's shards."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from laion_people.engine.catalog import OF_IMAGES
from laion_people.errors import LaionPeopleError
from laion_people.storage.schemas import SCHEMAS, box, i32, text

CONFIGS = {  # the table that each is made from
    "people": "people",
    "poses": "pose",
    "meshes": "mesh",
    "facts": "facts",
    "subset_a": "subset_a",
    "subset_b": "subset_b",
    "subset_c": "subset_c",
    "subset_d": "subset_d",
    "clusters": "clusters",
}
GEOMETRY = ("poses", "meshes", "facts", "subset_c", "clusters")  # configs of the edition without addresses
SIZED = ("poses", "meshes")  # which get the size of the image, to place their points in
SIZE = ("image_width", "image_height")
# Columns that tell of an image what leads to it, or to its row of the collection.
LEADS_BACK = {"sample_id", "url", "key", *OF_IMAGES}


def configs(edition: str) -> list[str]:
    """The configs that an edition can have."""
    return list(GEOMETRY if edition == "geometry" else CONFIGS)


def schema(config: str, edition: str) -> pa.Schema:
    """The columns of a config."""
    fields: list[pa.Field] = []
    for field in SCHEMAS[CONFIGS[config]]:
        if edition == "geometry" and field.name in LEADS_BACK:
            continue
        fields.append(field.with_nullable(True) if field.name == "medoid_person_id" else field)
        if field.name == "bbox":
            fields.append(pa.field("bbox_normalized", box, nullable=False))
    if config in SIZED:
        fields += [pa.field(name, i32, nullable=False) for name in SIZE]
    return pa.schema(fields)


def with_sizes(table: pa.Table, people: pa.Table) -> pa.Table:
    """A table of persons with the sizes of their stored images, from the shard's people (person_id, SIZE).

    Raises LaionPeopleError for a person whom the shard does not have.
    """
    places = {person: row for row, person in enumerate(people["person_id"].to_pylist())}
    rows = pa.array([places[person] for person in known(table["person_id"].to_pylist(), places)], pa.int64())
    for name in SIZE:
        table = table.append_column(name, people[name].take(rows))
    return table


def known(persons: Iterable[str], people: Mapping[str, Any]) -> list[str]:
    """Persons, if the shard has them all. Raises LaionPeopleError for another one."""
    persons = list(persons)
    if strange := next((person for person in persons if person not in people), None):
        raise LaionPeopleError(
            "mismatched-tables", f"{strange} is in a table and not among the people of its shard: run the audit"
        )
    return persons


def with_normalized(table: pa.Table) -> pa.Table:
    """A table with ``bbox_normalized`` beside bbox: shares of the stored image's width and height, from 0 to 1.

    The stored image is the upright original, only smaller: the same shares hold for both.
    """
    size = np.stack([table[name].to_numpy() for name in SIZE], axis=1).astype(np.float64)
    boxes = table["bbox"].combine_chunks().flatten().to_numpy().reshape(-1, 4)
    shares = np.clip(boxes / np.tile(np.maximum(size, 1), 2), 0, 1).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(shares.ravel()), 4)
    return table.append_column("bbox_normalized", column)


class Pseudonyms:
    """Ids of a publication's own, which lead back who has the store's key alone; the same in all its tables."""

    def __init__(self, key: bytes):
        self._key = key

    def of(self, person_id: str) -> str:
        """80 bits: of 100 million people, two have the same id once in 240 million publications."""
        return "p" + hmac.digest(self._key, person_id.encode(), "sha256").hex()[:20]

    def in_column(self, table: pa.Table, name: str) -> pa.Table:
        """A table with the ids of a column replaced; nulls stay."""
        ids = [None if each is None else self.of(each) for each in table[name].to_pylist()]
        at = table.schema.get_field_index(name)
        return table.set_column(at, table.schema.field(name), pa.array(ids, text))
