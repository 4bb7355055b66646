"""LAION metadata: the partitions of a store, and their rows in one shape whatever the collection calls its columns."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from laion_people.errors import LaionPeopleError, UsageError
from laion_people.store import Store

PARTITION_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}/[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
PART_NUMBER = re.compile(r"part-(\d{5})-.*")
UNSAFE_ABOVE = 0.5  # punsafe, as in LAION's own safety filtering; null and NaN count as unsafe
COLLECTION_COLUMNS = {  # of both LAION schemas, handed on with each image as far as the part has them
    "WIDTH": pa.int32(),
    "HEIGHT": pa.int32(),
    "LICENSE": pa.string(),
    "NSFW": pa.string(),
    "similarity": pa.float64(),
    "hash": pa.int64(),
    "punsafe": pa.float32(),
    "pwatermark": pa.float32(),
}
TYPES = {"url": pa.string(), "caption": pa.string(), "sample_id": pa.int64()} | {
    name.lower(): type for name, type in COLLECTION_COLUMNS.items()
}
EXACT = ("url", "caption", "sample_id", "hash")  # a rounded or wrapped id would be another one


@dataclass(frozen=True, slots=True)
class MetadataRow:
    """One row of a metadata part. ``flagged``: the collection itself calls the image unsafe for work.

    ``collection`` has the values of COLLECTION_COLUMNS, None where the part has no such column.
    """

    sample_id: int
    url: str | None
    caption: str
    flagged: bool
    collection: dict[str, Any]


def check_partition(key: str) -> str:
    """Returns a partition key that is safe in paths and URIs; raises UsageError for any other."""
    if not PARTITION_KEY.fullmatch(key):
        raise UsageError(f"partition {key!r}: should look like laion2B-en/00042")
    return key


def partitions(store: Store) -> dict[str, str]:
    """All partitions: key -> path of the metadata part, in key order. Hidden files (.part-*.crc) are passed over."""
    found: dict[str, str] = {}
    for path in store.list("metadata"):
        _, collection, *rest = path.split("/")
        if len(rest) != 1 or rest[0].startswith(".") or not rest[0].endswith(".parquet"):
            continue
        stem = rest[0].removesuffix(".parquet")
        number = PART_NUMBER.fullmatch(stem)
        key = check_partition(f"{collection}/{number[1] if number else stem}")
        if key in found:
            raise LaionPeopleError(f"{path} and {found[key]} are both partition {key}: rename one")
        found[key] = path
    return dict(sorted(found.items()))


def known(store: Store, keys: Sequence[str]) -> list[str]:
    """Partition keys of which the store has something. Raises UsageError for the first other one."""
    parts = partitions(store)
    for key in map(check_partition, keys):
        if key not in parts and not any(store.list(f"{table}/{key}") for table in ("images", "people")):
            raise _unknown(store, key, parts)
    return list(keys)


def metadata_path(store: Store, partition: str) -> str:
    """Path of a partition's metadata part. Raises UsageError when there is none."""
    parts = partitions(store)
    if partition not in parts:
        raise _unknown(store, partition, parts)
    return parts[partition]


def _unknown(store: Store, key: str, parts: Iterable[str]) -> UsageError:
    some = ", ".join(list(parts)[:5]) or "none"
    return UsageError(f"no metadata for partition {key} in {store.uri}/metadata; there is: {some}")


def count_rows(store: Store, path: str) -> int:
    with store.open(path) as file:
        return int(_parquet(file, path).metadata.num_rows)


def rows(store: Store, path: str, start: int, stop: int) -> Iterator[MetadataRow]:
    """Rows ``start`` to ``stop`` (exclusive) of a part, reading only the row groups and columns that it must."""
    with store.open(path) as file:
        part = _parquet(file, path)
        names = _columns(part.schema_arrow, path)
        first = 0
        for group in range(part.num_row_groups):
            size = part.metadata.row_group(group).num_rows
            if first < stop and first + size > start:
                offset = first
                for batch in part.iter_batches(10_000, row_groups=[group], columns=sorted(set(names.values()))):
                    lo, hi = max(start - offset, 0), min(stop - offset, batch.num_rows)
                    if lo < hi:
                        yield from _rows(batch.slice(lo, hi - lo), names, path)
                    offset += batch.num_rows
            first += size


def _parquet(file: object, path: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise LaionPeopleError(f"{path} is not a Parquet file: {error}") from error


def _columns(schema: pa.Schema, path: str) -> dict[str, str]:
    """Our name -> the part's name, for laion2B-en (URL, TEXT, ...) and relaion2B (url, caption, ...) schemas."""
    by_lower = {name.lower(): name for name in schema.names}
    if "url" not in by_lower or not {"text", "caption"} & by_lower.keys():
        raise LaionPeopleError(f"{path}: no URL and TEXT (or url and caption) columns among {', '.join(schema.names)}")
    names = {"url": by_lower["url"], "caption": by_lower.get("text") or by_lower["caption"]}
    for name in ("sample_id", *(name.lower() for name in COLLECTION_COLUMNS)):
        if name in by_lower:
            names[name] = by_lower[name]
    return names


def _rows(batch: pa.RecordBatch, names: dict[str, str], path: str) -> Iterator[MetadataRow]:
    columns = {ours: _cast(batch.column(theirs), ours, theirs, path).to_pylist() for ours, theirs in names.items()}
    for i in range(batch.num_rows):
        row = {ours: column[i] for ours, column in columns.items()}
        yield MetadataRow(
            sample_id=sample_id(row),
            url=row["url"],
            caption=row["caption"] or "",
            flagged=flagged(row),
            collection={name: row.get(name.lower()) for name in COLLECTION_COLUMNS},
        )


def _cast(array: pa.Array, ours: str, theirs: str, path: str) -> pa.Array:
    """A column as TYPES has it. Raises LaionPeopleError when it is something else, or text that is not UTF-8."""
    try:
        array = array.cast(TYPES[ours], safe=ours in EXACT)
        array.validate(full=True)
    except pa.ArrowException as error:
        raise LaionPeopleError(f"{path}: column {theirs} is not of LAION's type: {error}") from error
    return array


def sample_id(row: dict[str, Any], otherwise: str = "") -> int:
    """SAMPLE_ID, else the collection's hash, else 63 bits of the URL's sha256 (relaion2B parts have no SAMPLE_ID).

    ``row`` may come from anyone's json: what is no 64-bit integer is passed over. ``otherwise`` is hashed when there is
    no URL either.
    """
    for name in ("sample_id", "SAMPLE_ID", "hash"):  # the second: as img2dataset copies it
        value = row.get(name)
        if isinstance(value, float) and value.is_integer():  # pandas makes floats of a column that has nulls
            value = int(value)
        if type(value) is int and -(2**63) <= value < 2**63:  # not isinstance: true is no id
            return value
    return int.from_bytes(hashlib.sha256((text(row.get("url")) or otherwise).encode()).digest()[:8]) >> 1


def text(value: object) -> str:
    """A string that can be stored: lone surrogates, which JSON can hold, are replaced; '' for what is no string."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else ""


def flagged(row: Mapping[str, Any]) -> bool:
    """Whether the collection itself calls an image unsafe for work: NSFW (UNSURE is not), or punsafe above the limit.

    ``row`` may come from anyone's json: names and values in any case, with blanks, numbers as texts, booleans. A
    punsafe that is null or no number is unsafe; but the json of ``download``, which alone has a ``reason``, has nulls
    for columns that its part lacks.
    """
    for name, value in row.items():
        match name.lower():
            case "nsfw":
                word = value.strip().lower() if isinstance(value, str) else ""
                if word in ("nsfw", "true") or _number(value) > UNSAFE_ABOVE:
                    return True
            case "punsafe":
                known = value is not None or "reason" not in row
                if known and not _number(value) <= UNSAFE_ABOVE:  # NaN is unsafe
                    return True
    return False


def _number(value: object) -> float:
    """NaN for what is no number, nor the text of one."""
    try:
        return float(value) if isinstance(value, str | int | float) else math.nan
    except (ValueError, OverflowError):
        return math.nan
