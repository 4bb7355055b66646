"""Writes the files of a publication where nobody sees them, and shows them all at once.

Files are written below ``releases/.staging/<name>/<version>/<run>/``. What a killed run has left there, or a bucket's
half-moved folder without a record, is no publication: the next run of the same version deletes it.
"""

from __future__ import annotations

import re
import tarfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from laion_people.engine.files import describe
from laion_people.errors import LaionPeopleError, StoreError, UsageError
from laion_people.publication.release import FOLDER, RECORD, PublishedFile, folder
from laion_people.storage.store import Store

STAGING, PROBE = f"{FOLDER}/.staging", "can-be-written"
OURS = re.compile(  # the files that a publication has
    r"[a-z_]+/(train-\d{5,}-of-)?\d{5,}\.(parquet|tar)"
    r"|README\.md|croissant\.json|checksums\.sha256|tombstones\.parquet|release\.json",
    re.ASCII,
)
ROWS = 256  # that are weighed at a time, at most, when row groups are made up
Item = TypeVar("Item")
Picture = tuple[str, Mapping[str, bytes]]  # a sample of a tar: its key, and its files by suffix


@dataclass(frozen=True, slots=True)
class Limits:
    """How large files may be: in bytes, in bytes of a row group before it is packed, and in pictures of a tar."""

    file: int = 500_000_000
    group: int = 64_000_000
    pictures: int = 10_000


LIMITS = Limits()


class Staging:
    """The hidden folder of a publication that is being written; what is left of an earlier one is deleted first.

    Raises UsageError when the version exists, or its folder holds what no publication has.
    """

    def __init__(self, store: Store, name: str, version: str, limits: Limits = LIMITS):
        self.store, self.limits = store, limits
        self.target = folder(name, version)
        self._all = f"{STAGING}/{name}/{version}"  # of this run, and of those that were killed
        self.folder = f"{self._all}/{uuid.uuid4().hex}"
        self._files: dict[str, PublishedFile] = {}

    def __enter__(self) -> Self:
        self._check_free()
        self._check_ours()
        try:
            self.store.delete_folder(self._all)
            self.store.delete_folder(self.target)
            self.store.write(f"{self.folder}/{PROBE}", b"")  # rather than after hours
            self.store.delete(f"{self.folder}/{PROBE}")
        except StoreError as error:
            raise StoreError(
                "cannot-write", f"nothing can be published there: {error.message}; choose another -o, or give rights"
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(StoreError):  # the next run of this version deletes it; what went wrong before is to be told
            self.store.delete_folder(self.folder)

    def write(self, path: str, data: bytes) -> PublishedFile:
        """Writes a small file."""
        with self.store.temporary(f"{self.folder}/{path}") as local:
            local.write_bytes(data)
            return self._put(local, path)

    def write_table(self, path: str, table: pa.Table) -> PublishedFile:
        """Writes a small table, which `datasets` does not load."""
        with self.store.temporary(f"{self.folder}/{path}") as local:
            pq.write_table(table, local, compression="zstd")
            return self._put(local, path, rows=len(table))

    def write_tables(self, config: str, schema: pa.Schema, tables: Iterable[pa.Table]) -> list[PublishedFile]:
        """Writes tables one after another as ``<config>/train-00000-of-00003.parquet`` and so on; one file at least.

        As much as a row group is in memory. The same tables give the same bytes.
        """
        groups, files = _Ahead(_groups(schema, tables, self.limits.group)), list[PublishedFile]()
        while groups.item is not None or not files:
            path = f"{config}/{len(files):05d}.parquet"
            with self.store.temporary(f"{self.folder}/{path}") as local:
                rows = _write_parquet(local, schema, groups, self.limits)
                files.append(self._put(local, path, config, rows))
        return self._named(config, ".parquet", files)

    def write_pictures(self, config: str, pictures: Iterable[Picture]) -> list[PublishedFile]:
        """Writes samples as webdataset reads them: ``<config>/train-00000-of-00003.tar`` and so on; none for none.

        Their ``rows`` are samples; `datasets` does not load them as the config.
        """
        samples, files = _Ahead(pictures), list[PublishedFile]()
        while samples.item is not None:
            path = f"{config}/{len(files):05d}.tar"
            with self.store.temporary(f"{self.folder}/{path}") as local:
                files.append(self._put(local, path, rows=_write_tar(local, samples, self.limits)))
        return self._named(config, ".tar", files)

    def show(self) -> None:
        """Moves everything to where it is seen, the record (which must have been written) last.

        Raises LaionPeopleError when another run has the version now.
        """
        self._check_free()
        there = {path.removeprefix(f"{self.folder}/") for path in self.store.list(self.folder)}
        if there != self._files.keys():
            raise LaionPeopleError(
                "published-meanwhile",
                f"{self.target}: another run has begun to publish this version, or a removal has taken its files: "
                "run it again, alone",
            )
        self.store.move_folder(self.folder, self.target, last=RECORD)

    def _check_free(self) -> None:
        if self.store.exists(f"{self.target}/{RECORD}"):
            raise UsageError(
                "version-exists", f"{self.store.uri}/{self.target} exists, and is never changed: give another --version"
            )

    def _check_ours(self) -> None:
        """The folder of the version is deleted with all that is in it: no file of somebody else may be there."""
        others = (path for path in self.store.list(self.target) if not OURS.fullmatch(path[len(self.target) + 1 :]))
        strange = self.target if self.store.exists(self.target) else next(others, "")
        if strange:
            raise UsageError(
                "version-exists",
                f"{self.store.uri}/{strange} is in the way, and of no publication: move it away, or choose another -o "
                "or --version",
            )

    def _put(self, local: Path, path: str, config: str = "", rows: int = 0) -> PublishedFile:
        entry = describe(path, local)
        self.store.put(local, f"{self.folder}/{path}")
        file = self._files[path] = PublishedFile(path, entry.bytes, entry.sha256, config, rows)
        return file

    def _named(self, config: str, suffix: str, files: list[PublishedFile]) -> list[PublishedFile]:
        """Gives numbered files their names, which tell how many there are."""
        named = []
        for number, file in enumerate(files):
            path = f"{config}/train-{number:05d}-of-{len(files):05d}{suffix}"
            self.store.move(f"{self.folder}/{file.path}", f"{self.folder}/{path}")
            del self._files[file.path]
            self._files[path] = PublishedFile(path, file.bytes, file.sha256, file.config, file.rows)
            named.append(self._files[path])
        return named


class _Ahead(Generic[Item]):
    """An iterator whose next item can be looked at: None at its end."""

    def __init__(self, items: Iterable[Item]):
        self._items = iter(items)
        self.advance()

    def advance(self) -> None:
        self.item = next(self._items, None)


def _groups(schema: pa.Schema, tables: Iterable[pa.Table], size: int) -> Iterator[pa.Table]:
    """The rows of tables in row groups of about ``size`` bytes at most."""
    waiting, have = list[pa.RecordBatch](), 0
    for table in tables:
        weighed = max(1, min(ROWS, size * len(table) // (4 * max(1, table.nbytes))))  # rows at a time
        for batch in table.cast(schema).to_batches(max_chunksize=weighed):
            if waiting and have + batch.nbytes > size:
                yield pa.Table.from_batches(waiting)
                waiting, have = [], 0
            if len(batch):
                waiting.append(batch)
                have += batch.nbytes
    if waiting:
        yield pa.Table.from_batches(waiting)


def _write_parquet(local: Path, schema: pa.Schema, groups: _Ahead[pa.Table], limits: Limits) -> int:
    """Writes row groups until the next might make the file too large; returns the number of rows."""
    rows, most = 0, limits.file - limits.file // 100  # for the footer
    # Chunks that are cut by content let the hub keep once what two versions share:
    # https://huggingface.co/docs/hub/en/datasets-libraries
    with (
        local.open("wb") as sink,
        pq.ParquetWriter(sink, schema, compression="zstd", use_content_defined_chunking=True) as writer,
    ):
        while (group := groups.item) is not None and (not rows or sink.tell() + group.nbytes <= most):
            writer.write_table(group, row_group_size=len(group))
            rows += len(group)
            groups.advance()
    return rows


def _write_tar(local: Path, samples: _Ahead[Picture], limits: Limits) -> int:
    """Writes samples until the next would make the tar too large; returns how many."""
    count = 0
    with tarfile.open(local, "w", format=tarfile.PAX_FORMAT) as tar:
        while (sample := samples.item) is not None and count < limits.pictures:
            key, files = sample
            # A name of more than 100 bytes has a header of its own; tarfile fills up the last record.
            size = sum(len(data) + 4 * tarfile.BLOCKSIZE for data in files.values()) + 2 * tarfile.RECORDSIZE
            if count and tar.offset + size > limits.file:
                break
            for suffix, data in files.items():
                member = tarfile.TarInfo(f"{key}.{suffix}")  # time and owner stay zero: the same rows, the same bytes
                member.size = len(data)
                tar.addfile(member, BytesIO(data))
            count += 1
            samples.advance()
    return count
