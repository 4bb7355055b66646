"""Tables of the store, read with care: they may have been made elsewhere, by an earlier release, or be damaged.

Of a Parquet file, the columns that are asked for are read, as the schema of its table has them; of heavy columns only
the row groups with the rows that are asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from laion_people.errors import LaionPeopleError
from laion_people.storage.schemas import SCHEMAS
from laion_people.storage.store import Store

AHEAD = 1 << 19  # bytes of a bucket's file in one request: some columns of a row group
MOST_BYTES = 200_000_000  # of columns that are read at once: of a shard's captions, 1 MB is usual
LONGEST = 2000  # characters of a text
LATER = {"subset_c": ("claims",), "clusters": ("claims",)}  # null in tables of release 0.1, which lack them


def columns(store: Store, path: str, names: Sequence[str]) -> pa.Table:
    """Columns of all rows; texts are cut to LONGEST characters.

    Raises LaionPeopleError when the file is missing or damaged, lacks a column, or would fill the memory. Arrow's own
    threads are not used: one that still holds the Python file when the interpreter ends aborts the process
    ("terminate called without an active exception").
    """
    with _parquet(store, path, names) as file:
        _check_size(path, file, range(file.num_row_groups), names)
        return _sound(path, file.read(columns=list(names), use_threads=False), names)


def take(store: Store, path: str, rows: Sequence[int], names: Sequence[str]) -> pa.Table:
    """Columns of some rows, in their order; row groups without one are not read. Raises as `columns` does.

    One row group is in memory at a time: of face landmarks, that is 6 MB.
    """
    with _parquet(store, path, names) as file:
        pieces, places, start = [_sound(path, file.schema_arrow.empty_table(), names)], dict[int, int](), 0
        for group in range(file.num_row_groups):
            stop = start + file.metadata.row_group(group).num_rows
            if wanted := [row for row in dict.fromkeys(rows) if start <= row < stop]:
                _check_size(path, file, [group], names)
                table = file.read_row_group(group, columns=list(names), use_threads=False)
                pieces.append(_sound(path, table.take([row - start for row in wanted]), names))
                places |= {row: len(places) + i for i, row in enumerate(wanted)}
            start = stop
    if lost := [row for row in rows if row not in places]:
        raise LaionPeopleError(
            "mismatched-tables", f"{path} has {start} rows and no row {lost[0]}: run again the step that writes it"
        )
    return pa.concat_tables(pieces).take(pa.array([places[row] for row in rows], pa.int64()))


def _sound(path: str, table: pa.Table, names: Sequence[str]) -> pa.Table:
    """Columns as the schema of the table has them, texts cut to LONGEST. Raises ArrowException, KeyError or ValueError
    for what is no such table, lacks values, or has texts that are not UTF-8."""
    kind = path.partition("/")[0]
    schema, later = SCHEMAS[kind], LATER.get(kind, ())
    for name in {*names} - {*table.column_names}:
        if schema.field(name).nullable or name in later:
            table = table.append_column(name, pa.nulls(len(table), schema.field(name).type))
    table = table.select(list(names))
    table.validate(full=True)
    for at, name in enumerate(names):
        if pa.types.is_dictionary(table.schema.field(name).type):
            table = table.set_column(
                at, name, pa.chunked_array([_cut(chunk) for chunk in table[name].chunks], pa.string())
            )
    fields = [schema.field(name) for name in names]
    return table.cast(pa.schema([field.with_nullable(field.nullable or field.name in later) for field in fields]))


def _cut(texts: pa.DictionaryArray) -> pa.StringArray:
    """The first LONGEST characters of texts, of which equal ones are kept once until then."""
    beginnings = pc.call_function("utf8_slice_codeunits", [texts.dictionary], pc.SliceOptions(0, LONGEST))
    return pa.DictionaryArray.from_arrays(texts.indices, beginnings).dictionary_decode()


def _check_size(path: str, file: pq.ParquetFile, groups: Iterable[int], names: Sequence[str]) -> None:
    """Raises LaionPeopleError for columns that would fill the memory."""
    parts = [file.metadata.row_group(group) for group in groups]
    places = [at for at in range(file.metadata.num_columns) if file.schema.column(at).path.split(".")[0] in names]
    size = sum(part.column(at).total_uncompressed_size for part in parts for at in places)
    if size > MOST_BYTES:
        raise LaionPeopleError(
            "large-table", f"{path} is too large to be read at once: {size / 1e6:.0f} MB of {', '.join(names)}"
        )


@contextmanager
def _parquet(store: Store, path: str, names: Sequence[str]) -> Iterator[pq.ParquetFile]:
    schema = SCHEMAS[path.partition("/")[0]]
    texts = [name for name in names if schema.field(name).type == pa.string()]
    with store.open(path, AHEAD) as source:
        try:
            yield pq.ParquetFile(source, read_dictionary=texts)
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:  # OSError: a page of it cannot be unpacked
            raise LaionPeopleError(
                "damaged-file", f"{path} is damaged ({error}): run again the step that writes it"
            ) from error
