"""Reads what a shard of images held when it was last made: whole rows are kept, and only the rest is fetched.

Each row proves itself: ``row_sha256`` is a digest of its values and of its stored picture. Thus it doesn't matter which
file of a shard is damaged, nor whether its manifest can still be read. A picture's row is both in the table and, as
json, in the tar; one of them is enough, but for the time of its request.
"""

from __future__ import annotations

import itertools
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from laion_people.engine.step import Row
from laion_people.errors import check_shortage
from laion_people.storage.origin import json_object
from laion_people.vision import images
from laion_people.vision.images import ImageError

# In the table alone: the same pictures give the same tar whenever they were asked for, and what follows stays as it is.
TIME = "requested_at"


def row_sha256(row: Row, picture: bytes) -> str:
    """Hex digest of a row's values, but ``row_sha256`` and TIME, and of its stored picture (empty if it has none)."""
    return sha256(_text(row) + picture).hexdigest()


class EarlierRows:
    """The rows of a shard's table and tar, in the order of the metadata. Both files may be missing or damaged.

    ``params``: what the rows may have been made with, as far as it is known. ``pictures`` counts the wanted rows that
    had a picture; ``unknown`` counts the wanted rows of which nothing can be read.
    """

    def __init__(self, table: Path | None, tar: Path | None, params: Sequence[Mapping[str, Any]]):
        self.params = params
        self.pictures = self.unknown = 0
        self._tar = tar
        self._places = _places(tar) if tar else {}
        self._table = _table_rows(table) if table else iter(())

    def next(self, wanted: Row) -> tuple[Row, bytes] | None:
        """The earlier row for the next row of the metadata, with its stored picture (empty if it failed).

        None if it is not whole, or has another URL.
        """
        key = wanted["key"]
        listed, packed = next(self._table, {}), json_object(self._read(f"{key}.json"))
        if listed.get("key") != key:
            listed = {}
        picture = self._read(f"{key}.jpg")
        if not wanted["status"]:
            self.pictures += bool(picture) or listed.get("status") == "success"
            self.unknown += not (picture or listed)
        for row, twin, stored in ((listed, packed, picture), (packed, listed, picture), (listed, packed, b"")):
            if row.get("key") == key and row.get("url") == wanted["url"] and _is_whole(row, twin, stored):
                return row, stored
        return None

    def _read(self, name: str) -> bytes:
        if not self._tar or name not in self._places:
            return b""
        start, size = self._places[name]
        with self._tar.open("rb") as file:
            file.seek(start)
            return file.read(size)


def _is_whole(row: Row, twin: Row, picture: bytes) -> bool:
    """Whether a row and its picture are as they were written. ``twin``: the same row in the other file, table or tar.

    Rows of version 0.1 have no digest: they count as whole if table and tar don't differ and the picture decodes.
    """
    if bool(picture) != (row.get("status") == "success"):
        return False
    if "row_sha256" in row:
        return bool(row["row_sha256"] == row_sha256(row, picture))
    if picture and twin and _text(row) != _text(twin):
        return False
    try:
        return not picture or bool(images.decode(picture, limited=False))
    except ImageError:
        return False


def _table_rows(path: Path) -> Iterator[Row]:
    """The rows of a table; a row that cannot be read is empty."""
    try:
        table = pq.ParquetFile(path)
    except Exception as error:  # a damaged file: Arrow may raise anything
        check_shortage(error)
        return
    with table:
        for group in range(table.num_row_groups):
            rows: Iterable[Row]
            try:
                rows = table.read_row_group(group).to_pylist()
            except Exception as error:
                check_shortage(error)
                rows = itertools.repeat({}, table.metadata.row_group(group).num_rows)
            yield from rows


def _places(path: Path) -> dict[str, tuple[int, int]]:
    """Where the files of a tar lie: name -> start, size. Skips broken headers, but includes a file that is cut off."""
    places: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(path, "r:", ignore_zeros=True) as archive:  # continues after blocks that are no header
            for member in archive:
                places.setdefault(member.name, (member.offset_data, member.size))
    except Exception as error:  # a damaged file: tarfile may raise anything
        check_shortage(error)
    return places


def _text(row: Row) -> bytes:
    values = {name: value for name, value in row.items() if name not in ("row_sha256", TIME)}
    return json.dumps(values, sort_keys=True).encode()
