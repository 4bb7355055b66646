"""What a shard says of each of its images: in the table of images, in the json of the tar, in the table of people."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from laion_people.errors import LaionPeopleError, OutsideError, check_shortage, one_line
from laion_people.steps.imagefields import READERS, of_image
from laion_people.storage import layout
from laion_people.storage.metadata import sample_id, text
from laion_people.storage.removals import REMOVED, address
from laion_people.storage.store import Store
from laion_people.vision.images import TarImages

COLUMNS = ("key", "url", "sha256", "sample_id", "reason", "error_message")
AHEAD = 1 << 16  # bytes of a bucket's file that a request brings: columns of ids are small


@dataclass(frozen=True, slots=True)
class Image:
    """What is said of an image; "" and None where nothing is. ``url`` is as removals know it, ``sha256`` is of the
    body, in small letters."""

    key: str
    url: str = ""
    sha256: str = ""
    sample_id: int | None = None


@dataclass(frozen=True, slots=True)
class ShardFiles:
    """Where the images of a shard are told of: paths, "" for what is not there.

    ``elsewhere``: the tar was made by another program. ``tag`` changes when any of the files does.
    """

    partition: str
    index: int
    table: str
    tar: str
    people: str
    elsewhere: bool
    tag: str


def shard_files(store: Store, partition: str, elsewhere: bool) -> dict[int, ShardFiles]:
    """The shards of a partition, by two listings."""
    tags: dict[str, str] = {}
    found: dict[str, dict[int, str]] = {}
    for table, suffix in (("images", ".parquet"), ("images", ".tar"), ("people", ".parquet")):
        folder = layout.table_folder(table, partition)
        if suffix != ".tar":
            tags |= store.tags(folder)
        found[table + suffix] = layout.shards_in(tags, folder, suffix)
    shards = {}
    for index in sorted(set(itertools.chain(*found.values()))):
        table, tar, people = (paths.get(index, "") for paths in found.values())
        tag = " ".join(tags.get(path, "") for path in (table, tar, people))
        shards[index] = ShardFiles(partition, index, table, tar, people, elsewhere, tag)
    return shards


def images_in(store: Store, shard: ShardFiles) -> list[Image]:
    """All that is said of the images of a shard; of one image it may be said twice. Raises LaionPeopleError for a file
    that is damaged."""
    found: dict[Image, None] = {}
    for path in filter(None, (shard.table, shard.people)):
        found |= dict.fromkeys(_of_table(store, path))
    if shard.tar and (shard.elsewhere or not shard.table):
        with store.local(shard.tar) as local:
            tar = TarImages(local)
            keys = tar.keys()
            found |= dict.fromkeys(_image(key, _folded(tar.fields(key))) for key in keys)
    return list(found)


def columns(store: Store, path: str, names: Sequence[str]) -> pa.Table:
    """Those of some columns that a table has. Raises LaionPeopleError when it is damaged."""
    try:
        with store.open(path, AHEAD) as file, pq.ParquetFile(file) as table:
            return table.read([name for name in names if name in table.schema_arrow.names])
    except OutsideError:
        raise
    except Exception as error:  # a damaged file: Arrow may raise anything
        check_shortage(error)
        raise LaionPeopleError(
            "damaged-file", f"{path} is damaged ({one_line(repr(error))}): run again the step that writes it"
        ) from error


def _of_table(store: Store, path: str) -> Iterator[Image]:
    table = columns(store, path, COLUMNS)
    if "key" in table.column_names:
        for row in table.to_pylist():
            if REMOVED not in (row.get("reason"), row.get("error_message")):
                yield _image(str(row["key"]), row)


def _image(key: str, fields: Mapping[str, Any]) -> Image:
    """As `detect` reads the json of a sample, which anyone may have written."""
    sha256 = READERS["sha256"](fields.get("sha256")) or ""
    given = {"sample_id", "SAMPLE_ID", "hash"} & fields.keys()
    return Image(key, address(text(fields.get("url"))), sha256, sample_id(dict(fields)) if given else None)


def _folded(fields: dict[str, Any]) -> dict[str, Any]:
    """With ``sha256``, whose name may have other letters there."""
    return fields if "sha256" in fields else fields | {"sha256": of_image(fields)["sha256"]}
