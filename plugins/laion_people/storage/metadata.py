"""LAION metadata: the partitions of a store, and their rows in one shape whatever the collection calls its columns."""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from laion_people.errors import (
    LaionPeopleError,
    MissingError,
    OutsideError,
    UsageError,
    check_shortage,
    coded,
    one_line,
)
from laion_people.storage import layout
from laion_people.storage.layout import PartitionKey
from laion_people.storage.manifest import PartitionManifest, ShardEntry
from laion_people.storage.store import Store

log = logging.getLogger(__name__)

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
REQUIRED = ("url", "caption")
EXACT = ("sample_id", "hash")  # a rounded id would be another one
LAION_NAMES = ("URL", "TEXT", "SAMPLE_ID", *COLLECTION_COLUMNS)
TEXT_TYPES = (
    pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view,
    pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary,
    pa.types.is_null,
)  # fmt: skip
TEXT_CHARACTERS = 8000  # of a caption or URL; longer URLs need not work anywhere (RFC 9110, section 4.1)
SHARED_GROUP = 64 << 20  # bytes of a row group whose texts stay shared in memory; larger ones are streamed
ROWS, BATCH = 4096, 4 << 20  # rows of such a group that are read at a time, and their bytes on average
STREAMED_ROWS, STREAMED_BATCH = 64, 256 << 20  # the same of larger ones, where every row has a copy of its texts
TYPICAL_ROW = 512  # bytes; LAION's have half as many
READ = 16 << 20  # bytes of a column that are read at a time: a row group can be as large as the part


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


def partitions(store: Store) -> dict[str, str]:
    """All partitions: key -> path of the metadata part, in key order.

    Hidden files (.part-*.crc) are passed over; so are, with a warning, those whose name makes no key, and all files of
    a key that several have.
    """
    parts: dict[str, str] = {}
    for key, paths in _files(store).items():
        if not PartitionKey.pattern.fullmatch(key):
            _warn(
                "bad-partition-key",
                f"{store.uri}/{paths[0]} is passed over: a name of letters, digits and ._- makes a partition",
            )
        elif len(paths) > 1:
            _warn(
                "duplicate-partition",
                f"{store.uri}/{paths[0]} and {paths[1]} are passed over: both are partition {key}; rename one",
            )
        else:
            parts[key] = paths[0]
    return dict(sorted(parts.items()))


def known(store: Store, keys: Sequence[str]) -> list[str]:
    """Partition keys of which the store has something. Raises UsageError for the first other one."""
    parts = partitions(store)
    for key in map(PartitionKey.parse, keys):
        made = key in parts or store.exists(layout.manifest_path("detect", key))
        if not made and not any(store.list(f"{table}/{key}") for table in ("images", "people")):
            raise _unknown(store, key)
    return list(keys)


def metadata_path(store: Store, partition: str) -> str:
    """Path of a partition's metadata part. Raises UsageError when there is none, or more than one."""
    if path := partitions(store).get(partition):
        return path
    raise _unknown(store, partition)


def part(store: Store, partition: str) -> tuple[str, int]:
    """Path and rows of a partition's metadata part, by its record or its footer."""
    path = metadata_path(store, partition)
    record = _record(store, partition, path, store.tag(path))
    return path, record.rows if record else count_rows(store, path)


def recorded(store: Store, partition: str, deep: bool = False) -> PartitionManifest:
    """What a partition's metadata part is: its file with its sha256, and its rows.

    A part has more than a gigabyte: it is hashed once, and again when the store says that it is another file, or with
    ``deep``.
    """
    path = metadata_path(store, partition)
    tag = store.tag(path)
    if not deep and (record := _record(store, partition, path, tag)):
        return record
    count = count_rows(store, path)
    shard = ShardEntry(0, path, count, store.size(path), store.sha256(path), tag=tag)
    record = PartitionManifest(
        step="metadata",
        partition=partition,
        run_id="",
        params={},
        inputs=(),
        shards=(shard,),
        rows_in=count,
        rows=count,
    )
    store.write(layout.manifest_path("metadata", partition), record.to_json())
    return record


def _record(store: Store, partition: str, path: str, tag: str) -> PartitionManifest | None:
    """What was recorded of a metadata part; None where it was not, or of another file."""
    manifest_path = layout.manifest_path("metadata", partition)
    try:
        record = PartitionManifest.parse(manifest_path, store.read(manifest_path))
    except MissingError:
        return None
    except OutsideError:
        raise
    except LaionPeopleError as error:
        log.warning(coded("damaged-record", "%s; its part is hashed again"), error.message)
        return None
    return record if [(shard.uri, shard.tag) for shard in record.shards] == [(path, tag)] else None


def _unknown(store: Store, key: str) -> UsageError:
    """Why there is no metadata part for a key."""
    if paths := _files(store).get(key):
        return UsageError("duplicate-partition", f"{paths[0]} and {paths[1]} are both partition {key}: rename one")
    some = ", ".join(list(partitions(store))[:5]) or "none"
    return UsageError("unknown-partition", f"no metadata for partition {key} in {store.uri}/metadata; there is: {some}")


def _files(store: Store) -> dict[str, list[str]]:
    """The Parquet files of all collections by the key that their name makes."""
    files: dict[str, list[str]] = defaultdict(list)
    for path in store.list("metadata"):
        _, collection, *rest = path.split("/")
        if len(rest) == 1 and not rest[0].startswith(".") and rest[0].endswith(".parquet"):
            stem = rest[0].removesuffix(".parquet")
            number = PART_NUMBER.fullmatch(stem)
            files[f"{collection}/{number[1] if number else stem}"].append(path)
    return files


def count_rows(store: Store, path: str) -> int:
    """Rows of a part by its footer. Raises LaionPeopleError when the part is damaged."""
    with store.open(path) as file, _damage_named(path):
        return int(_parquet(file).metadata.num_rows)


def rows(store: Store, path: str, start: int, stop: int) -> Iterator[MetadataRow]:
    """Rows ``start`` to ``stop`` (exclusive) of a part, reading only the row groups and columns that it must.

    Memory is bounded by the part's pages and longest values, not by what its rows unfold to.

    Raises LaionPeopleError when the part is damaged, or has no URLs or captions; optional columns of a type that says
    nothing are passed over with a warning.
    """
    with store.open(path) as file, _damage_named(path):
        part = _parquet(file)
        columns = _columns(part.schema_arrow, f"{store.uri}/{path}", path)
        first = 0
        for group in range(part.num_row_groups):
            last = first + part.metadata.row_group(group).num_rows
            if first < stop and last > start:
                offset = first
                for batch in _batches(file, part, group, columns, path):
                    lo, hi = max(start - offset, 0), min(stop - offset, batch.num_rows)
                    if lo < hi:
                        yield from _rows(batch.slice(lo, hi - lo), columns)
                    offset += batch.num_rows
                    if offset >= stop:
                        break
                if offset < min(last, stop):
                    raise LaionPeopleError(
                        "damaged-metadata",
                        f"{path} is damaged: row group {group} ends after {offset - first} of {last - first} rows; "
                        "fetch the file again",
                    )
            first = last


@contextmanager
def _damage_named(path: str) -> Iterator[None]:
    """Names the part in whatever Arrow raises about its bytes, and only tells a shortage from damage where it can."""
    try:
        yield
    except LaionPeopleError:
        raise
    except Exception as error:
        if not isinstance(error, pa.ArrowMemoryError):  # which damaged sizes cause, too
            check_shortage(error)
        raise LaionPeopleError(
            "damaged-metadata", f"{path} is damaged: {one_line(error, 300)}; fetch the file again"
        ) from error


def _parquet(file: BinaryIO) -> pq.ParquetFile:
    part = pq.ParquetFile(file, buffer_size=READ)
    footer = part.metadata
    sizes = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
    if footer.num_rows != sum(sizes) or min(sizes, default=0) < 0:
        raise pa.ArrowInvalid(f"its footer says {footer.num_rows} rows, its row groups have {sum(sizes)}")
    return part


def _batches(
    file: BinaryIO, part: pq.ParquetFile, group: int, columns: Sequence[_Column], path: str
) -> Iterator[pa.RecordBatch]:
    """A row group, some rows at a time.

    The format has values share their bytes: a page of 3 MB can unfold to any number of captions of 3 MB. Read as
    dictionaries, they stay shared; but then Arrow keeps all that it has read, so large row groups are streamed. Raises
    LaionPeopleError for one that has a dictionary with such values.
    """
    footer = part.metadata.row_group(group)
    size, rows = max(1, footer.total_byte_size), footer.num_rows
    names = sorted({c.theirs for c in columns if c.values})
    texts = sorted({c.theirs for c in columns if c.values is _texts})
    done, differences = 0, False

    def read(source: pq.ParquetFile, count: int, names: Sequence[str] = names) -> Iterator[pa.RecordBatch]:
        return source.iter_batches(count, row_groups=[group], columns=names, use_threads=False)

    shared = pq.ParquetFile(file, metadata=part.metadata, read_dictionary=texts, buffer_size=READ)
    try:
        if size <= SHARED_GROUP:
            for batch in read(shared, max(1, min(ROWS, BATCH * rows // size))):
                yield batch
                done += batch.num_rows
            return
        for batch in islice(read(shared, 1, texts), 1):
            _check_dictionaries(batch, path)
    except OSError as error:  # values written as differences to the one before (DELTA_BYTE_ARRAY) cannot be read so
        if "Not yet implemented" not in str(error):
            raise
        differences = True
    typical = size <= TYPICAL_ROW * rows and not differences
    for batch in read(part, STREAMED_ROWS if typical else max(1, min(STREAMED_ROWS, STREAMED_BATCH // size))):
        if batch.num_rows > done:
            yield batch.slice(done)
        done = max(0, done - batch.num_rows)


def _check_dictionaries(batch: pa.RecordBatch, path: str) -> None:
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if not pa.types.is_dictionary(column.type):  # a column of nulls, or of bytes of one length
            continue
        lengths = pc.binary_length(column.dictionary).to_pylist()  # type: ignore[attr-defined]
        longest = max((length or 0 for length in lengths), default=0)
        if longest > STREAMED_BATCH // STREAMED_ROWS:
            raise LaionPeopleError(
                "metadata-columns",
                f"{path}: column {name} repeats a value of {longest:,} bytes, which is neither URL nor caption: take "
                "it out, or write the part anew in smaller row groups",
            )


@dataclass(frozen=True, slots=True)
class _Column:
    """A column: our name, the part's, and what makes values of TYPES of its arrays, None where nothing can."""

    ours: str
    theirs: str
    values: Callable[[pa.Array], list[Any]] | None


def _columns(schema: pa.Schema, uri: str, path: str) -> list[_Column]:
    """The columns to read, of laion2B-en (URL, TEXT, ...) and relaion2B (url, caption, ...) schemas."""
    names: dict[str, str] = {}
    for name in sorted(schema.names, key=lambda name: name not in LAION_NAMES):  # URL goes before Url and url
        if (ours := name.strip().lower()) in names:
            _warn("metadata-values", f"{uri}: column {name!r} is passed over, {names[ours]!r} is read")
        else:
            names[ours] = name
    if "url" not in names or not {"text", "caption"} & names.keys():
        raise LaionPeopleError(
            "metadata-columns", f"{path}: no URL and TEXT (or url and caption) columns among {', '.join(schema.names)}"
        )
    names["caption"] = names.get("text") or names["caption"]
    columns = []
    for ours in TYPES:
        if ours in names:
            type = schema.field(schema.names.index(names[ours])).type
            values = _converter(ours, type, f"{uri}: column {names[ours]}")
            if values is None and ours in REQUIRED:
                raise LaionPeopleError(
                    "metadata-columns",
                    f"{path}: column {names[ours]} is not of LAION's type: it holds {type}, not text",
                )
            columns.append(_Column(ours, names[ours], values))
    return columns


def _converter(ours: str, type: pa.DataType, column: str) -> Callable[[pa.Array], list[Any]] | None:
    """What makes values of TYPES of a column's arrays; None, with a warning, when its type says nothing."""
    type = type.value_type if pa.types.is_dictionary(type) else type
    number = pa.types.is_integer(type) or pa.types.is_floating(type) or pa.types.is_decimal(type)
    if any(is_text(type) for is_text in TEXT_TYPES):
        if TYPES[ours] == pa.string() or pa.types.is_null(type):
            return _texts
    elif ours == "nsfw" and (number or pa.types.is_boolean(type)):
        return _tags
    elif number and pa.types.is_floating(TYPES[ours]):
        return partial(_floats, type=TYPES[ours])
    elif number and pa.types.is_integer(TYPES[ours]):
        return partial(_integers, type=TYPES[ours], exact=ours in EXACT, column=column)
    if ours not in REQUIRED:
        effect = "every row counts as flagged" if ours in ("nsfw", "punsafe") else "it is passed over"
        _warn("metadata-values", f"{column} is not of LAION's type but {type}: {effect}")
    return None


def _rows(batch: pa.RecordBatch, columns: Sequence[_Column]) -> Iterator[MetadataRow]:
    values = {
        c.ours: c.values(batch.column(batch.schema.names.index(c.theirs)))
        if c.values
        else ["NSFW" if c.ours == "nsfw" else None] * batch.num_rows  # what cannot be read is never safe for work
        for c in columns
    }
    for i in range(batch.num_rows):
        row = {ours: column[i] for ours, column in values.items()}
        yield MetadataRow(
            sample_id=sample_id(row),
            url=row["url"],
            caption=row["caption"] or "",
            flagged=flagged(row),
            collection={name: row.get(name.lower()) for name in COLLECTION_COLUMNS},
        )


def _plain(array: pa.Array) -> pa.Array:
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _texts(array: pa.Array) -> list[str | None]:
    """Texts of TEXT_CHARACTERS at most; bytes that are not UTF-8 are replaced. A character has at most four bytes."""
    if pa.types.is_dictionary(array.type):
        used = array.indices.drop_null().unique()
        texts = dict(zip(used.to_pylist(), _texts(array.dictionary.take(used)), strict=True))
        return [texts.get(index) for index in array.indices.to_pylist()]
    data = pc.binary_slice(array.cast(pa.large_binary()), 0, 4 * TEXT_CHARACTERS)  # type: ignore[attr-defined]
    return [value if value is None else value.decode(errors="replace")[:TEXT_CHARACTERS] for value in data.to_pylist()]


def _tags(array: pa.Array) -> list[str | None]:
    """LAION's tags for true and false, 1 and 0; any other number is no clear no."""
    return [value if value is None else "NSFW" if value != 0 else "UNLIKELY" for value in _plain(array).to_pylist()]


def _floats(array: pa.Array, type: pa.DataType) -> list[float | None]:
    """Finite numbers; null for others, which JSON does not have."""
    values = _plain(array).cast(type, safe=False).to_pylist()
    return [value if value is not None and math.isfinite(value) else None for value in values]


def _integers(array: pa.Array, type: pa.DataType, exact: bool, column: str) -> list[int | None]:
    """Whole numbers; null for what is none, as NaN, which pandas makes of nulls, or does not fit."""
    array = _plain(array)
    try:
        return array.cast(type).to_pylist()
    except pa.ArrowException:
        values = array.to_pylist()
    whole = [_integer(value, type.bit_width, exact) for value in values]
    odd = [v for v, w in zip(values, whole, strict=True) if w is None and v is not None and v == v]
    if odd:
        _warn("metadata-values", f"{column} has values that are no {type}, such as {odd[0]}: they are passed over")
    return whole


def _integer(value: Any, bits: int, exact: bool) -> int | None:
    try:
        whole = int(value)
    except (TypeError, ValueError, ArithmeticError):  # null, NaN, infinity
        return None
    fits = -(2 ** (bits - 1)) <= whole < 2 ** (bits - 1)
    return whole if fits and not (exact and whole != value) else None


@lru_cache(1024)
def _warn(code: str, message: str) -> None:
    """Says a thing once a process, however many shards a part has."""
    log.warning("%s", coded(code, message))


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
    """A string that can be stored: lone surrogates, which JSON can hold, are replaced, and it is cut off after
    TEXT_CHARACTERS; '' for what is no string."""
    return value[:TEXT_CHARACTERS].encode(errors="replace").decode() if isinstance(value, str) else ""


def flagged(row: Mapping[str, Any]) -> bool:
    """Whether the collection itself calls an image unsafe for work: NSFW (UNSURE is not), or punsafe above the limit.

    ``row`` may come from anyone's json: names and values in any case, with blanks, numbers as texts, booleans. A nested
    NSFW is unsafe, and so is a punsafe that is null or no number; but the json of ``download``, which alone has a
    ``reason``, has nulls for columns that its part lacks.
    """
    for name, value in row.items():
        match name.lower():
            case "nsfw":
                word = value.strip().lower() if isinstance(value, str) else ""
                nested = isinstance(value, list | dict)  # nobody can tell what it means
                if word in ("nsfw", "true") or number(value) > UNSAFE_ABOVE or nested:
                    return True
            case "punsafe":
                known = value is not None or "reason" not in row
                if known and not number(value) <= UNSAFE_ABOVE:  # NaN is unsafe
                    return True
    return False


def number(value: object) -> float:
    """NaN for what is no number, nor the text of one."""
    try:
        return float(value) if isinstance(value, str | int | float) else math.nan
    except (ValueError, OverflowError):
        return math.nan
