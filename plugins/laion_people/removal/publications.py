"""Takes removed images out of publications: a new patch version without them, and no version that has them.

Of the versions of a name that hold something removed, the newest is followed by a patch version without those rows and
with a list of tombstones, digests of the ids that have left: by these, who has a copy can take them out of it, too.
Then all that hold something are deleted, the record of each first, so that none is half there. Who is killed, and goes
on, finds the patch version by what it replaces. What is still being written, or was left half-moved or half-deleted by
a process that was killed, is deleted, too: it may hold anything.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from laion_people.engine.files import LocalFiles
from laion_people.errors import LaionPeopleError, MissingError, OutsideError
from laion_people.publication import release
from laion_people.publication.build import KEY, TOMBSTONES
from laion_people.publication.release import Publication, PublishedFile
from laion_people.publication.rewriting import rewritten
from laion_people.publication.tables import Pseudonyms
from laion_people.publication.writing import STAGING
from laion_people.storage import removals
from laion_people.storage.manifest import FileEntry
from laion_people.storage.removals import Removed, digest
from laion_people.storage.store import Store

log = logging.getLogger(__name__)

ROWS = 4096  # that are in memory at a time
MOST_PEOPLE = 1000  # of an image, whose pseudonyms are looked for
NAMING = ("person_id", "url", "sha256", "phash")  # columns that tell whose image a row is of
COMPOSED = ("composite_id", "people", "background_key")
SCHEMA = pa.schema([("digest", pa.string()), ("kind", pa.string()), ("removed_at", pa.string())])
LAST = ("subset_b", "clusters")  # configs that name people of others


def rewrite_publications(store: Store, removed: Removed, images: Collection[str] = ()) -> dict[str, int]:
    """Takes out of the store's publications what was removed. Returns how many were made anew (``publications``) and
    how many versions were ``deleted``.

    images: ``<partition>/<shard>/<key>`` of those that leave now: in an edition whose ids lead nobody back they are
    found by these alone. Raises LaionPeopleError for a publication that is damaged.
    """
    counts: Counter[str] = Counter()
    damaged: list[LaionPeopleError] = []
    _delete_unfinished(store)
    for name, versions in release.published(store).items():
        try:
            counts += _rewrite(store, name, versions, removed, images)
        except OutsideError:
            raise
        except LaionPeopleError as error:  # which is no reason to leave the others as they are
            log.warning("%s", error)
            damaged.append(error)
    if damaged:
        raise damaged[0]
    return dict(counts)


def _rewrite(
    store: Store, name: str, versions: Sequence[str], removed: Removed, images: Collection[str]
) -> Counter[str]:
    """Takes what was removed out of the publications of a name."""
    counts: Counter[str] = Counter()
    read = [publication for v in versions if (publication := release.read(store, name, v))]
    holding = {each.version: found for each in read if (found := _Search(store, each, removed, images).found())}
    if holding:
        last = [each for each in read if each.version in holding][-1]
        if not any(each.replaces == last.version for each in read if each.version not in holding):
            _make_anew(store, last, holding[last.version], removed, _next_version(last, read))
            counts["publications"] += 1
    for version in holding:  # the last at last: a patch version is known by it
        store.delete_folder(release.folder(name, version), first=release.RECORD)
        log.info("deleted %s %s, which holds what was removed", name, version)
        counts["deleted"] += 1
    return counts


@dataclass
class Found:
    """What is to leave a publication: ids as it has them, and of images those that are known."""

    persons: set[str] = field(default_factory=set)
    images: set[str] = field(default_factory=set)
    compositions: set[str] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.persons or self.images or self.compositions)

    def has(self, person_id: str | None) -> bool:
        return bool(person_id) and (person_id in self.persons or image_of(str(person_id)) in self.images)


def image_of(person_id: str) -> str:
    """``<partition>/<shard>/<key>``; "" of an id that leads nobody back."""
    return person_id.rpartition("/")[0]


class _Search:
    """Looks in a publication for what was removed."""

    def __init__(self, store: Store, publication: Publication, removed: Removed, images: Collection[str]):
        self.store, self.publication, self.removed = store, publication, removed
        self.images = frozenset(images)
        self.pseudonyms: set[str] = set()
        if publication.edition == "geometry" and store.exists(KEY):
            key = Pseudonyms(store.read(KEY))
            self.pseudonyms = {key.of(f"{image}/{index}") for image in images for index in range(MOST_PEOPLE)}

    def found(self) -> Found:
        found = Found()
        for config in sorted(self.publication.configs(), key=LAST.__contains__):
            for table in _tables(self.store, self.publication, config, (*NAMING, *COMPOSED, "medoid_person_id")):
                for row in table.to_pylist():
                    self._look(row, found)
        return found

    def _look(self, row: dict[str, Any], found: Found) -> None:
        person, composition = row.get("person_id"), row.get("composite_id")
        if person and (found.has(person) or self._is_removed(person, row)):
            found.persons.add(person)
            found.images |= {image_of(person)} - {""}
        elif composition:
            background = f"{image_of(composition)}/{row['background_key']}"
            if self._is_image(background):
                found.images.add(background)
            gone = {
                p["person_id"] for p in row["people"] if found.has(p["person_id"]) or self._is_person(p["person_id"])
            }
            if gone or background in found.images:
                found.compositions.add(composition)
                found.persons |= gone
                found.images |= set(map(image_of, gone)) - {""}
        elif (medoid := row.get("medoid_person_id")) and self._is_person(medoid):
            found.persons.add(medoid)

    def _is_removed(self, person: str, row: dict[str, Any]) -> bool:
        removed = self.removed
        return (
            self._is_person(person)
            or removed.has_url(row.get("url"))
            or removed.has_picture(row.get("sha256"), row.get("phash"))
        )

    def _is_person(self, person: str) -> bool:
        if image := image_of(person):
            return self._is_image(image) or self.removed.has_person(person)
        return person in self.pseudonyms

    def _is_image(self, image: str) -> bool:
        return image in self.images or self.removed.has_sample(image)


def _make_anew(store: Store, old: Publication, found: Found, removed: Removed, version: str) -> None:
    """Publishes ``version``, which is ``old`` without what was found."""

    def stays(config: str, table: pa.Table) -> list[bool]:
        if "medoid_person_id" in table.column_names:
            return [True] * len(table)
        if "composite_id" in table.column_names:
            return [composition not in found.compositions for composition in table["composite_id"].to_pylist()]
        return [not found.has(person) for person in table["person_id"].to_pylist()]

    def changed(config: str, table: pa.Table) -> pa.Table:
        """Clusters whose medoid leaves name nobody instead: others of their sheets may not be in a publication."""
        if "medoid_person_id" not in table.column_names:
            return table
        at = table.schema.get_field_index("medoid_person_id")
        medoids = [None if found.has(medoid) else medoid for medoid in table["medoid_person_id"].to_pylist()]
        return table.set_column(at, table.schema.field(at), pa.array(medoids, pa.string()))

    images = f"{len(found.images)} images with " if found.images else ""
    text = f"removed: {images}{len(found.persons)} persons, and whatever shows them"
    tombstones = _tombstones(store, old, found, removed)
    rewritten(store, old, version, stays, removals.REMOVED, text, tombstones, changed)
    log.info("published %s %s in the place of %s", old.name, version, old.version)


def _next_version(old: Publication, known: Sequence[Publication]) -> str:
    """The next patch version after all that there are or were."""
    versions = {each.version for each in known} | {change["version"] for each in known for change in each.changes}
    major, minor, _ = release.ordered(old.version)
    numbers = [release.ordered(v) for v in versions if release.VERSION.fullmatch(v)]
    return f"{major}.{minor}.{max(n[2] for n in numbers if n[:2] == (major, minor)) + 1}"


def _delete_unfinished(store: Store) -> None:
    """Deletes what is no publication, or none yet."""
    store.delete_folder(STAGING)
    for name in store.folders(release.FOLDER):
        for version in store.folders(f"{release.FOLDER}/{name}"):
            path = release.folder(name, version)
            if release.VERSION.fullmatch(version) and not store.exists(f"{path}/{release.RECORD}"):
                store.delete_folder(path)


def _tombstones(store: Store, publication: Publication, found: Found, removed: Removed) -> pa.Table:
    """Digests of what leaves a publication, and of what has left those before."""
    rows: dict[tuple[str, str], str] = {}
    for file in publication.files:
        if file.path == TOMBSTONES:
            with _local(store, publication, file) as path:
                rows = {(row["digest"], row["kind"]): row["removed_at"] for row in pq.read_table(path).to_pylist()}
    dates = {each: r.at for r in removed.removals for each in (*r.persons, *r.samples)}
    latest = max((r.at for r in removed.removals), default="")
    for kind, ids in (("person", found.persons), ("sample", found.images)):
        for each in map(digest, ids):
            rows.setdefault((each, kind), dates.get(each, latest))
    listed = [{"digest": each, "kind": kind, "removed_at": at} for (each, kind), at in sorted(rows.items())]
    return pa.Table.from_pylist(listed, schema=SCHEMA)


def _tables(store: Store, publication: Publication, config: str, columns: Sequence[str] = ()) -> Iterator[pa.Table]:
    """The rows of a config piece by piece: those of some columns that it has, or all."""
    for published in publication.files:
        if published.config != config:
            continue
        with _local(store, publication, published) as path, pq.ParquetFile(path) as file:
            names = [name for name in columns if name in file.schema_arrow.names] if columns else None
            for batch in file.iter_batches(ROWS, columns=names, use_threads=False):
                yield pa.Table.from_batches([batch])


@contextmanager
def _local(store: Store, publication: Publication, file: PublishedFile) -> Iterator[Path]:
    """A file of a publication as it was published. Raises LaionPeopleError when it is missing, or another."""
    uri = f"{release.folder(publication.name, publication.version)}/{file.path}"
    with LocalFiles(store) as files:
        try:
            path = files.verified(FileEntry(uri, file.bytes, file.sha256))
        except LaionPeopleError as error:
            if isinstance(error, OutsideError) and not isinstance(error, MissingError):
                raise
            raise LaionPeopleError(
                "damaged-file",
                f"{uri} is not what was published: restore it, or delete the folder of {publication.name} "
                f"{publication.version}, then go on with the removal",
            ) from error
        yield path
