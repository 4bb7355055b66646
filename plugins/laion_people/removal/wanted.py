"""What must not be found any more: the addresses, bodies, ids and looks that removals have recorded digests of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from copy import copy
from typing import Any, Self

import numpy as np

from laion_people.storage.removals import Removal, address, digest

NEAR = 3  # bits of 64 by which a picture that is compressed once more often differs from itself
SHA256 = re.compile("[0-9a-fA-F]{64}")
PHASH = re.compile("[0-9a-f]{16}")
IN_PERSON = 4  # slashes of a person's id: <collection>/<part>/<shard>/<key>/<index>
WORDS = (  # addresses may have brackets, what is around them, too
    re.compile(r"\S+"),
    re.compile(r"[^\s\"'`<>()\[\]{}|,;]+"),
    re.compile(r"https?://[^\s\"'<>\\]+", re.IGNORECASE),
)
SEVERAL = re.compile(r"[\s\"'`<>()\[\]{}|,;]")  # a text with one of these may be several words
AROUND = "\"'`<>()[]{},;:.!?*|"  # of a word: not part of it


class Wanted:
    """What some removals have taken out. Methods say what of it something is, "" for nothing."""

    def __init__(self, removals: Iterable[Removal]):
        self._digests: dict[str, str] = {}
        phashes: dict[int, int] = {}
        for removal in removals:
            for digests, what in (
                (removal.urls, "the address of a removed image"),
                (removal.pictures, "the sha256 of a removed picture"),
                (removal.samples, "the id of a removed image"),
                (removal.persons, "the id of a removed person"),
            ):
                self._digests |= dict.fromkeys(digests, f"{what} (removal {removal.id})")
            for phash in map(_bits, removal.phashes):
                phashes[phash] = max(removal.near, phashes.get(phash, -1))
        phashes.pop(0, None)  # of pictures of one colour, which look like nobody
        self._phashes = np.fromiter(phashes, np.uint64, len(phashes))
        self._near = np.fromiter(phashes.values(), np.int64, len(phashes))

    def with_ids(self, digests: Iterable[str]) -> Self:
        """All that, and what a publication's tombstones are digests of."""
        wider = copy(self)
        wider._digests = dict.fromkeys(digests, "an id which the publication lists as removed") | self._digests
        return wider

    @property
    def has_looks(self) -> bool:
        """Whether pictures are to be looked at."""
        return len(self._phashes) > 0

    def sample(self, sample: str) -> str:
        """By the id of an image, ``<partition>/<shard>/<key>``."""
        return self._digests.get(digest(sample), "")

    def text(self, text: str) -> str:
        """By a text that is an address, a sha256 or an id, or has such among its words."""
        if what := self._whole(text):
            return what
        if not SEVERAL.search(text):
            return ""
        return next((what for word in words(text) if (what := self._whole(word))), "")

    def strings(self, value: Any) -> Iterator[str]:
        """By all texts of a JSON value, names of fields included."""
        waiting = [value]
        while waiting:
            match waiting.pop():
                case str(text):
                    if what := self.text(text):
                        yield what
                case dict(fields):
                    waiting += [*fields, *fields.values()]
                case list(items):
                    waiting += items

    def looks(self, phash: str, of_its_own: bool) -> str:
        """By a perceptual hash: as near as the removal asks for. A picture that has no address and body ``of_its_own``
        is a removed one, too, where compressing it once more makes the difference."""
        apart = self._apart(phash)
        near = np.flatnonzero(apart <= (self._near if of_its_own else np.maximum(self._near, NEAR)))
        return "" if not len(near) else f"the looks of a removed picture ({apart[near].min()} of 64 bits differ)"

    def nearly_looks(self, phash: str) -> bool:
        """Whether a picture may be a removed one, though near ones were not asked for."""
        return bool((self._apart(phash) <= NEAR).any())

    def is_of_its_own(self, fields: Any) -> bool:
        """Whether the json of an image has an address or a body's sha256 that was not removed: of another file, that
        only looks the same, such as the next frame of a video."""
        if not isinstance(fields, dict):
            return False
        names = [fields.get("url"), fields.get("sha256")]
        return any(names) and not any(isinstance(name, str) and self.text(name) for name in names)

    def _whole(self, text: str) -> str:
        what = self._digests.get(digest(text))
        if not what and (text.strip() != text or SHA256.fullmatch(text)):
            what = self._digests.get(digest(text.strip().lower() if SHA256.fullmatch(text) else text.strip()))
        if not what and "://" in text:
            what = self._digests.get(digest(address(text)))
        if not what and text.count("/") == IN_PERSON:
            what = self.sample(text.rpartition("/")[0])
        return what or ""

    def _apart(self, phash: str) -> np.ndarray:
        """How many bits each hash is from this one: int [hashes], 64 for what is no hash or of one colour."""
        bits = _bits(phash)
        if not bits:
            return np.full(len(self._phashes), 64)
        different = self._phashes ^ np.uint64(bits)
        return np.unpackbits(different.view(np.uint8).reshape(-1, 8), axis=1).sum(axis=1)


def words(text: str) -> Iterator[str]:
    """The words of a text, with and without what is around them."""
    for pattern in WORDS:
        for match in pattern.finditer(text):
            word = match[0].lstrip(AROUND)
            yield from {match[0], word}
            while word and word[-1] in AROUND:
                word = word[:-1]
                yield word


def _bits(phash: str) -> int:
    return int(phash, 16) if PHASH.fullmatch(phash) else 0
