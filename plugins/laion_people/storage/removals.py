"""Removals: images, with everybody in them, that must be in no table, picture or publication, and never come back.

A removal is kept as ``removals/<id>.json``: who asked for it, when, why, and digests of what it names. No address, id
or picture can be read out of it, so that a store can be searched for what was removed. What is still to be done for it
lies beside it until it is done (``removal/``).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import string
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Self
from urllib.parse import quote

from laion_people.errors import LaionPeopleError
from laion_people.storage.store import Store

FOLDER = "removals"
READERS = 16
FRESH_SECONDS = 10.0  # for which what was read of the store counts
REMOVED = "removed"  # the reason under which each step counts rows that are removed
PHASH = re.compile("[0-9a-f]{16}")
HTTP = re.compile(r"(https?)://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
PORTS = {"http": ":80", "https": ":443"}
LONGEST_HOST = 253
BREAKS = re.compile(r"[\t\r\n]")  # which browsers take out of addresses
ESCAPE = re.compile("%([0-9a-fA-F]{2})")
UNRESERVED = frozenset(string.ascii_letters + string.digits + "-._~")  # the same quoted or not (RFC 3986, 2.3)
PATH = re.compile(rf"{FOLDER}/(?!lock\.)[^/]+\.json")  # lock.json says who is at work


def digest(text: str) -> str:
    """What a removal keeps of a text: hex sha256."""
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()


def address(url: str) -> str:
    """A URL as removals know it: one text for all ways of writing what is the same request (letters of scheme and host,
    port, fragment, quoting). What is no HTTP address is only trimmed."""
    match = HTTP.fullmatch(BREAKS.sub("", url.strip()))
    if not match:
        return url.strip()
    scheme, (user, at, host) = match[1].lower(), match[2].rpartition("@")
    host = host.lower().removesuffix(PORTS[scheme])
    if not host.isascii() and len(host) <= LONGEST_HOST:
        with suppress(UnicodeError):  # of a host that cannot be: nobody ever fetched anything there
            host = host.encode("idna").decode()
    target = quote(match[3].partition("#")[0], safe=string.punctuation, errors="replace")
    target = ESCAPE.sub(_plain, target)
    return f"{scheme}://{user}{at}{host}{target if target.startswith('/') else f'/{target}'}"


def _plain(escape: re.Match[str]) -> str:
    """The character that is quoted, if it need not be."""
    character = chr(int(escape[1], 16))
    return character if character in UNRESERVED else escape[0].upper()


def removed_row(columns: Iterable[str], key: Any) -> dict[str, Any]:
    """The row of a removed image in a table of images (img2dataset's has no ``reason``): nothing but its key, and that
    it was removed."""
    names = list(columns)
    said = {"key": key, "status": "failed_to_download", "reason" if "reason" in names else "error_message": REMOVED}
    return {name: said.get(name) for name in names}


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
        return bool(url and self._urls) and digest(address(url or "")) in self._urls

    def has_picture(self, sha256: str | None, phash: str | None = None) -> bool:
        """Whether the picture of a body with this hex sha256, or (16 hex digits) a near-equal one, was removed."""
        if sha256 and self._pictures and digest(sha256.lower()) in self._pictures:
            return True
        if not (phash and self._near and PHASH.fullmatch(phash)):
            return False
        return any((int(phash, 16) ^ each).bit_count() <= near for each, near in self._near)

    def has_image(self, fields: Mapping[str, Any], sample: str) -> bool:
        """Whether the image of a sample was removed, by its json, which may come from anyone; where that has neither
        address nor body, by its id."""
        url, sha256, phash = (v if isinstance(v := fields.get(n), str) else None for n in ("url", "sha256", "phash"))
        nameless = not url and not sha256 and self.has_sample(sample)
        return nameless or self.has_url(url) or self.has_picture(sha256, phash)

    def has_sample(self, sample: str) -> bool:
        return bool(self._samples) and digest(sample) in self._samples

    def has_person(self, person_id: str) -> bool:
        return bool(self._persons) and digest(person_id) in self._persons


def path_of(removal_id: str) -> str:
    return f"{FOLDER}/{removal_id}.json"


def request_path(request: str) -> str:
    """Names that a removal was asked for by, a line each (``url https://...``), for as long as they are needed."""
    return f"{FOLDER}/requests/{request}.txt"


class RemovalsReader:
    """The removals of a store; what has not changed since the last reading is not read again."""

    def __init__(self, store: Store):
        self.store = store
        self._read: dict[str, tuple[str, Removal]] = {}  # path -> tag, removal
        self._removed, self._looked = Removed([]), -math.inf

    def removals(self) -> list[Removal]:
        """All removals, oldest first. Raises LaionPeopleError for a damaged one."""
        tags = {path: tag for path, tag in self.store.tags(FOLDER).items() if PATH.fullmatch(path)}
        stale = [path for path, tag in tags.items() if path not in self._read or self._read[path][0] != tag]
        with ThreadPoolExecutor(READERS) as pool:
            fresh = dict(zip(stale, pool.map(self.store.read, stale), strict=True))
        read = {p: Removal.from_json(p, fresh[p]) if p in fresh else self._read[p][1] for p in tags}
        self._read = {path: (tags[path], removal) for path, removal in read.items()}
        return sorted(read.values(), key=lambda removal: (removal.at, removal.id))

    def read(self) -> Removed:
        """What they name together, as it was FRESH_SECONDS ago at most: shards that are done in less look once."""
        if time.monotonic() - self._looked > FRESH_SECONDS:
            looked, removals = time.monotonic(), self.removals()
            if tuple(removals) != self._removed.removals:
                self._removed = Removed(removals)
            self._looked = looked
        return self._removed


def read_removals(store: Store) -> list[Removal]:
    """All removals, oldest first. Raises LaionPeopleError for a damaged one."""
    return RemovalsReader(store).removals()


def read_removed(store: Store) -> Removed:
    return RemovalsReader(store).read()
