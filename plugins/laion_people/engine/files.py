"""Local copies of files of the store: fetched once, and known to be what a manifest says."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from laion_people.errors import LaionPeopleError, MissingError
from laion_people.storage.manifest import FileEntry
from laion_people.storage.store import Placed, Store


class LocalFiles:
    """Local copies of files, shared by everything in the block and removed at its end."""

    def __init__(self, store: Store):
        self.store = store
        self._held = ExitStack()
        self._files: dict[str, tuple[FileEntry, Path]] = {}  # by path in the store

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.__exit__(kind, error, trace)

    def described(self, uri: str, tag: str = "") -> FileEntry:
        """The record of a file that nobody has recorded, by its content."""
        if uri not in self._files:
            try:
                path = self._held.enter_context(self.store.local(uri))
            except MissingError as error:
                raise LaionPeopleError(
                    "missing-file", f"{uri} is missing: run again the step that writes it"
                ) from error
            self._files[uri] = describe(uri, path, tag), path
        return self._files[uri][0]

    def verified(self, entry: FileEntry) -> Path:
        """A file as it was recorded. Raises LaionPeopleError when it is missing, or another."""
        if self.described(entry.uri) != entry:
            raise LaionPeopleError("damaged-file", f"{entry.uri} is damaged: run again the step that writes it")
        return self._files[entry.uri][1]

    def temporary(self, uri: str) -> Path:
        """A temporary file for what is to be `put` under this path."""
        return self._held.enter_context(self.store.temporary(uri))

    def put(self, local: Path, entry: FileEntry) -> FileEntry:
        """Puts a temporary file into the store; returns its record with the tag."""
        placed: Placed = self.store.put(local, entry.uri)
        recorded = FileEntry(entry.uri, entry.bytes, entry.sha256, placed.tag)
        self._files[entry.uri] = recorded, placed.local
        return recorded


def describe(uri: str, path: Path, tag: str = "") -> FileEntry:
    """The record of a local file that is, or will be, ``uri`` in the store."""
    with path.open("rb") as file:
        return FileEntry(uri, path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest(), tag)
