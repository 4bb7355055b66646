"""Removals: images, with everybody in them, that must be in no table, picture or publication, and never come back.

A removal is kept as ``removals/<id>.json``: who asked for it, when, why, and digests of what it names. No address, id
or picture can be read out of it, so that a store can be searched for what was removed. What is still to be done for it
lies beside it until it is done (``removal/``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from laion_people.errors import LaionPeopleError
from laion_people.storage.store import Store

FOLDER = "removals"
READERS = 16


def digest(text: str) -> str:
    """What a removal keeps of a text: hex sha256."""
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """A removal.

    at, done: ISO 8601, UTC; ``done`` is "" until nothing of it is left. asked: how many of each kind were asked for
    (url, sha256, sample, person, near). urls: digests of addresses. pictures: digests of the hex sha256 of bodies as
    they were fetched. samples, persons: digests of ids (``<partition>/<shard>/<key>``, and with ``/<index>``). phashes:
    16 hex digits each, for the proof; up to ``near`` bits from one of them a picture counts as the same (-1: not asked
    for). rows: removed rows by table.
    """

    id: str
    at: str
    by: str
    reason: str
    asked: dict[str, int]
    urls: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()
    samples: tuple[str, ...] = ()
    persons: tuple[str, ...] = ()
    phashes: tuple[str, ...] = ()
    near: int = -1
    rows: dict[str, int] = field(default_factory=dict)
    done: str = ""

    def to_json(self) -> bytes:
        return (json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_json(cls, path: str, data: bytes) -> Self:
        """Raises LaionPeopleError when ``data`` is no such record."""
        try:
            fields: dict[str, Any] = json.loads(data)
            for name in ("urls", "pictures", "samples", "persons", "phashes"):
                fields[name] = tuple(fields[name])
            return cls(**fields)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise LaionPeopleError(
                "damaged-removal", f"{path} is damaged ({error!r}): nothing is made until it is restored"
            ) from error


class Removed:
    """What all removals name together."""

    def __init__(self, removals: Iterable[Removal]):
        self.removals = tuple(removals)
        self._urls = {each for r in self.removals for each in r.urls}
        self._pictures = {each for r in self.removals for each in r.pictures}
        self._samples = {each for r in self.removals for each in r.samples}
        self._persons = {each for r in self.removals for each in r.persons}
        self._near = [(int(each, 16), r.near) for r in self.removals if r.near >= 0 for each in r.phashes]

    def __bool__(self) -> bool:
        return bool(self.removals)

    def has_url(self, url: str | None) -> bool:
        return bool(url and self._urls) and digest(url) in self._urls

    def has_picture(self, sha256: str | None, phash: str | None = None) -> bool:
        """Whether the picture of a body with this hex sha256, or (16 hex digits) a near-equal one, was removed."""
        if sha256 and self._pictures and digest(sha256) in self._pictures:
            return True
        return bool(phash and self._near) and any((int(phash, 16) ^ p).bit_count() <= near for p, near in self._near)

    def has_sample(self, sample: str) -> bool:
        return bool(self._samples) and digest(sample) in self._samples

    def has_person(self, person_id: str) -> bool:
        return bool(self._persons) and digest(person_id) in self._persons


def path_of(removal_id: str) -> str:
    return f"{FOLDER}/{removal_id}.json"


def read_removals(store: Store) -> list[Removal]:
    """All removals, oldest first. Raises LaionPeopleError for a damaged one."""
    paths = [path for path in store.list(FOLDER) if path.count("/") == 1 and path.endswith(".json")]
    with ThreadPoolExecutor(READERS) as pool:
        return [Removal.from_json(path, data) for path, data in zip(paths, pool.map(store.read, paths), strict=True)]


def read_removed(store: Store) -> Removed:
    return Removed(read_removals(store))
