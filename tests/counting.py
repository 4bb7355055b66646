"""A store that counts the requests that a bucket would get."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from laion_people.storage.store import AHEAD, LocalStore, Placed

PAGE = 1000  # keys of a list in one answer


class CountingStore(LocalStore):
    """``requests`` counts by kind (get, put, head, list, delete); ``paths`` has the kind and path of each."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.paths: list[tuple[str, str]] = []

    @property
    def requests(self) -> Counter[str]:
        return Counter(kind for kind, _ in self.paths)

    def _count(self, kind: str, path: str, times: int = 1) -> None:
        self.paths += [(kind, path)] * times

    def exists(self, path: str) -> bool:
        self._count("head", path)
        return super().exists(path)

    def size(self, path: str) -> int:
        self._count("head", path)
        return super().size(path)

    def tag(self, path: str) -> str:
        self._count("head", path)
        return super().tag(path)

    def list(self, folder: str) -> list[str]:
        listed = super().list(folder)
        self._count("list", folder, 1 + len(listed) // PAGE)
        return listed

    def tags(self, folder: str) -> dict[str, str]:
        listed = super().tags(folder)
        self._count("list", folder, 1 + len(listed) // PAGE)
        return listed

    def folders(self, folder: str) -> Sequence[str]:
        self._count("list", folder)
        return super().folders(folder)

    def open(self, path: str, ahead: int = AHEAD) -> BinaryIO:
        self._count("get", path, 2)  # its end, and what is read of it
        return super().open(path, ahead)

    def part(self, path: str, start: int, stop: int) -> bytes:
        self._count("get", path)
        with (self.root / path).open("rb") as file:
            file.seek(start)
            return file.read(stop - start)

    def delete(self, path: str) -> None:
        self._count("delete", path)
        super().delete(path)

    def update(self, path: str, change: Callable[[bytes | None], bytes]) -> bytes:
        self._count("head", path)
        self._count("get", path)
        return super().update(path, change)

    @contextmanager
    def local(self, path: str) -> Iterator[Path]:
        self._count("get", path)
        with self._errors(path):
            (self.root / path).open("rb").close()
        yield self.root / path

    def _pieces(self, path: str) -> Iterator[bytes]:
        self._count("get", path)
        with self._errors(path):
            yield (self.root / path).read_bytes()

    def put(self, local: Path, path: str) -> Placed:
        self._count("put", path)
        return super().put(local, path)
