"""What a removal names: addresses, bodies, ids and pictures, given one by one or as lines of a file."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from laion_people.errors import UsageError, one_line
from laion_people.storage.layout import KEY_PART, SHARD_NAME
from laion_people.storage.removals import address

MOST_NAMES = 100_000  # of a removal
MOST_LINE = 1 << 14  # bytes; metadata have no longer addresses
URL = re.compile("[a-z][a-z0-9+.-]*://.", re.IGNORECASE)
KINDS = ("url", "sha256", "sample", "person")
SAMPLE = re.compile(rf"({KEY_PART}/{KEY_PART})/({SHARD_NAME.pattern})/([^/]+)", re.ASCII)
PERSON = re.compile(rf"({KEY_PART}/{KEY_PART}/(?:{SHARD_NAME.pattern})/[^/]+)/\d{{1,6}}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Names:
    """What is to be removed. ``urls`` are as removals know them; ``pictures`` are the hex sha256 of bodies;
    ``samples`` and ``persons`` are ids of this store; ``sample_ids`` are the collection's own. A picture is as near as
    ``bits`` bits of its perceptual hash to one of ``phashes``; with ``keep_out_near`` none so near to what was removed
    may come in."""

    urls: frozenset[str] = frozenset()
    pictures: frozenset[str] = frozenset()
    samples: frozenset[str] = frozenset()
    persons: frozenset[str] = frozenset()
    sample_ids: frozenset[int] = frozenset()
    phashes: frozenset[int] = frozenset()
    bits: int = 0
    keep_out_near: bool = False

    def asked(self) -> dict[str, int]:
        """How many of each kind there are, but for kinds without any."""
        counts = (self.urls, self.pictures, {*self.samples, *self.sample_ids}, self.persons, self.phashes)
        return {kind: len(each) for kind, each in zip((*KINDS, "near"), counts, strict=True) if each}

    def id(self) -> str:
        """Of the removal of just these: the same command finds what it has begun."""
        parts = [sorted(getattr(self, name)) for name in ("urls", "pictures", "samples", "persons", "sample_ids")]
        near = [sorted(self.phashes), self.bits, self.keep_out_near]
        return hashlib.sha256(json.dumps([*parts, *near]).encode(errors="replace")).hexdigest()[:16]


@dataclass(slots=True)
class _Gathered:
    url: set[str] = field(default_factory=set)
    sha256: set[str] = field(default_factory=set)
    sample: set[str] = field(default_factory=set)
    sample_id: set[int] = field(default_factory=set)
    person: set[str] = field(default_factory=set)

    def add(self, kind: str, value: str, where: str) -> None:
        """Raises UsageError for a value that is none of its kind."""
        match kind:
            case "url" if URL.match(value):
                self.url.add(address(value))
            case "sha256" if re.fullmatch("[0-9a-fA-F]{64}", value):
                self.sha256.add(value.lower())
            case "sample" if re.fullmatch(r"-?\d{1,19}", value, re.ASCII):
                self.sample_id.add(int(value))
            case "sample" if SAMPLE.fullmatch(value):
                self.sample.add(value)
            case "person" if PERSON.fullmatch(value):
                self.person.add(value)
            case _:
                raise UsageError("bad-argument", f"{where}{one_line(repr(value), 200)} is no {kind or 'name'}: {FORMS}")


FORMS = (
    "an address begins with http://, a sha256 has 64 hex digits; a sample is COLLECTION/PART/SHARD/KEY, or a number of "
    "the collection; a person is COLLECTION/PART/SHARD/KEY/INDEX"
)


def of_value(kind: str, value: str) -> Names:
    """One name. Raises UsageError when it is none of its kind."""
    gathered = _Gathered()
    gathered.add(kind, value.strip(), "")
    return _names(gathered)


def of_looks(looks: int, bits: int) -> Names:
    """A picture, by its perceptual hash, and all that are within ``bits`` bits of it."""
    return Names(phashes=frozenset({looks}), bits=bits)


def of_file(path: Path) -> Names:
    """The names of a file, one a line, each after its kind (``url http://...``) or alone where that is plain.

    The file may come from anyone. Raises UsageError for the first line that is no name, and when there are none or more
    than MOST_NAMES.
    """
    gathered = _Gathered()
    count = 0
    try:
        with path.open("rb") as file:
            for number in range(1, 2 * MOST_NAMES + 2):  # half of them may be empty or remarks
                line = file.readline(MOST_LINE)
                if not line:
                    break
                where = f"{path}, line {number}: "
                if len(line) == MOST_LINE:
                    raise UsageError("bad-argument", f"{where}it has more than {MOST_LINE:,} bytes")
                kind, value = _parsed(line, where)
                if value:
                    count += 1
                    gathered.add(kind, value, where)
                if count > MOST_NAMES:
                    break
            else:
                count = MOST_NAMES + 1
    except OSError as error:
        raise UsageError("bad-argument", f"{path}: {error.strerror or error}") from error
    if count > MOST_NAMES:
        raise UsageError("bad-argument", f"{path} has more than {MOST_NAMES:,} names: take several files")
    if not count:
        raise UsageError("bad-argument", f"{path} names nothing: a line is `url http://...`, `sha256 ...`, ...")
    return _names(gathered)


def _parsed(line: bytes, where: str) -> tuple[str, str]:
    """Kind and value of a line; "" and "" of an empty one or a remark."""
    try:
        text = line.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise UsageError("bad-argument", f"{where}it is not UTF-8") from error
    if "\0" in text:
        raise UsageError("bad-argument", f"{where}it has a NUL")
    if not text or text.startswith("#"):
        return "", ""
    kind, *value = text.split(maxsplit=1)
    return (kind.lower(), value[0]) if kind.lower() in KINDS and value else (_kind(text), text)


def _kind(value: str) -> str:
    """The kind of a name that is plain without it; "" of none."""
    if re.fullmatch("[0-9a-fA-F]{64}", value):
        return "sha256"
    if URL.match(value):
        return "url"
    return "person" if PERSON.fullmatch(value) else "sample" if SAMPLE.fullmatch(value) else ""


def _names(gathered: _Gathered) -> Names:
    return Names(
        urls=frozenset(gathered.url),
        pictures=frozenset(gathered.sha256),
        samples=frozenset(gathered.sample),
        persons=frozenset(gathered.person),
        sample_ids=frozenset(gathered.sample_id),
    )
