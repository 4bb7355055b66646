"""The record of a publication, ``releases/<name>/<version>/release.json``: what card, Croissant and pages tell of it.

It is written last of a publication's files, so that one without it is no publication.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from laion_people.errors import LaionPeopleError, MissingError, UsageError
from laion_people.storage.layout import KEY_PART
from laion_people.storage.store import Store

FOLDER, RECORD = "releases", "release.json"
NAME = re.compile(KEY_PART)
VERSION = re.compile(r"(0|[1-9]\d{0,5})\.(0|[1-9]\d{0,5})\.(0|[1-9]\d{0,5})", re.ASCII)  # https://semver.org, no suffix
EDITIONS = {
    "links": "addresses of images, captions, boxes, poses, meshes, facts; the pictures of Subset B",
    "geometry": "poses, meshes, facts and captions, without addresses and pictures",
}


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """A file of a publication: ``path`` in its folder; ``config`` is what `datasets` loads it as ("": nothing)."""

    path: str
    bytes: int
    sha256: str
    config: str = ""
    rows: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """A publication.

    at: ISO 8601, UTC. clusters: the cluster version. options: the settings of `publish` that decided the content.
    files: all but the record, README.md, croissant.json and checksums.sha256. left_out: rows by config and reason.
    columns: name -> Arrow type, by config. numbers: those that the card states, each with the file that it is from
    (``{"value": 143, "source": "manifests/detect/sample/00000.json"}``; see `numbers`). changes: ``version``, ``at``
    and ``text`` for each version so far. replaces: the version of which this one is what stayed. extra: ``run_id``, if
    a run of an Airflow DAG has made it.
    """

    name: str
    version: str
    edition: str
    at: str
    clusters: str
    partitions: tuple[str, ...]
    options: dict[str, Any]
    models: dict[str, str]
    files: tuple[PublishedFile, ...]
    columns: dict[str, dict[str, str]]
    left_out: dict[str, dict[str, int]]
    numbers: dict[str, dict[str, Any]]
    changes: tuple[dict[str, str], ...] = ()
    tombstones: int = 0
    replaces: str = ""
    licence: str = ""
    contact: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    def rows(self, config: str) -> int:
        return sum(file.rows for file in self.files if file.config == config)

    def configs(self) -> list[str]:
        """In the order of the files."""
        return list(dict.fromkeys(file.config for file in self.files if file.config))

    def to_json(self) -> bytes:
        return (json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_json(cls, path: str, data: bytes) -> Self:
        """Raises LaionPeopleError when ``data`` is no such record."""
        try:
            fields = json.loads(data)
            for name in ("partitions", "changes"):
                fields[name] = tuple(fields[name])
            return cls(**fields | {"files": tuple(PublishedFile(**file) for file in fields["files"])})
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise LaionPeopleError(
                "damaged-file", f"{path} is damaged ({error!r}): publish another version, and delete this one's folder"
            ) from error


def folder(name: str, version: str) -> str:
    return f"{FOLDER}/{name}/{version}"


def ordered(version: str) -> tuple[int, ...]:
    """What versions are sorted by."""
    return tuple(map(int, version.split(".")))


def published(store: Store) -> dict[str, list[str]]:
    """The versions of each name that are whole, oldest first."""
    found = {}
    for name in store.folders(FOLDER):
        versions = [v for v in store.folders(f"{FOLDER}/{name}") if VERSION.fullmatch(v)]
        whole = [v for v in versions if store.exists(f"{folder(name, v)}/{RECORD}")]
        if NAME.fullmatch(name) and whole:
            found[name] = sorted(whole, key=ordered)
    return found


def read(store: Store, name: str, version: str) -> Publication | None:
    """None where there is no such publication."""
    path = f"{folder(name, version)}/{RECORD}"
    try:
        return Publication.from_json(path, store.read(path))
    except MissingError:
        return None


def check_edition(store: Store, name: str, edition: str) -> None:
    """Raises UsageError when versions of the name are of another edition: ids, tombstones and configs are its own."""
    versions = published(store).get(name)
    newest = read(store, name, versions[-1]) if versions else None
    if newest and newest.edition != edition:
        raise UsageError(
            "bad-argument",
            f"{name} {newest.version} is of the edition {newest.edition}: give {edition} a release of another name",
        )
