"""Takes removed images out of cluster versions: contact sheets, medoids, and the manifests that name those files.

A version stays the fit that it is: centres, ids, sizes and captions are as they were. On the contact sheets there is
nothing but ground where people of the images were, and a medoid becomes the next person of its cluster's sheet who is
left ("" where nobody is). A version of the time before there was sheets.json loses the whole sheets of the clusters
that people of the images are in by its assignments, and of all clusters where there are no assignments to look at;
its medoids have no successors.

All files that others are made from get new sha256, so all manifests that name these are written again. The order makes
a kill harmless: first ``removing.json``, which names the files to be rewritten, then sheets, fit and clusters, then
sheets.json, the manifests of shards with their sums, those of `label` and `cluster`, by whose old sha256 the shards'
are known, and at last removing.json is deleted. What it names is looked at again by whoever comes next.
"""

from __future__ import annotations

import io
import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from laion_people.engine.catalog import RELEASE_STEPS, STEPS
from laion_people.engine.files import LocalFiles
from laion_people.errors import LaionPeopleError, MissingError, OutsideError, check_shortage, coded, one_line
from laion_people.reports.tables import columns
from laion_people.steps.cluster.contactsheets import RECORD, Pictured, blank, record_from_json, record_to_json
from laion_people.steps.label import to_parquet
from laion_people.storage import layout
from laion_people.storage.layout import RELEASE_FILES, PartitionKey, cluster_path, contact_sheet
from laion_people.storage.manifest import FileEntry, ReleaseManifest, ShardManifest
from laion_people.storage.manifestindex import READERS, ManifestIndex
from laion_people.storage.schemas import SCHEMAS
from laion_people.storage.store import Store
from laion_people.storage.totals import write_totals
from laion_people.storage.versions import folders, manifest_of

log = logging.getLogger(__name__)

REMOVING = "removing.json"
FIT, CLUSTERS = RELEASE_FILES["fit"], RELEASE_FILES["clusters"]
SHEET = re.compile(r"contact-(.+)\.jpg")
ASSIGNED = ("pose_cluster", "face_cluster", "head_cluster")  # columns of assignments
UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, RecursionError, pa.ArrowException, LaionPeopleError)


def rewrite_versions(store: Store, images: Collection[str]) -> dict[str, int]:
    """Takes images, given as ``<partition>/<shard>/<key>``, out of all cluster versions; to be called while tables
    still have their people. Returns how many ``pictures`` of people, whole ``sheets`` and ``medoids`` have left.

    A file that is not what its manifest says is rewritten as well, and stays damaged to an audit; what cannot be read
    at all is left, with a warning, but for sheets, which are deleted.
    """
    counts: Counter[str] = Counter()
    for version, names in folders(store).items():
        counts += _Version(store, version, names, frozenset(images)).rewrite()
    return dict(counts)


class _Version:
    """A cluster version that images leave; ``names`` are the files of its folder.

    ``begun``: the files that a rewriting which was killed was about to rewrite. ``changed``: new contents by name, in
    the order of writing; None deletes.
    """

    def __init__(self, store: Store, version: str, names: set[str], images: frozenset[str]):
        self.store, self.version, self.names, self.images = store, version, names, images
        self.counts: Counter[str] = Counter()
        self.begun: list[str] = self._parsed(REMOVING, lambda data: list(map(str, json.loads(data)))) or []
        self.sheets = self._parsed(RECORD, partial(record_from_json, self._path(RECORD)))
        self.changed = self._sheets_without_record() if self.sheets is None else self._blanked_sheets()
        for name, change in (
            (FIT, self._changed_fit),
            (CLUSTERS, self._changed_clusters),
            (RECORD, self._changed_record),
        ):
            if data := self._parsed(name, change):
                self.changed[name] = data

    def rewrite(self) -> Counter[str]:
        """Returns what has left."""
        if not self.changed and not self.begun:
            return self.counts
        recorded = {file.uri: file for m in self.manifests for shard in m.shards for file in shard.files()}
        ours = {*self.begun, *(name for name in self.changed if self._is_as_recorded(recorded.get(self._path(name))))}
        self.store.write(self._path(REMOVING), json.dumps(sorted(ours)).encode())
        for name, data in self.changed.items():
            if data is None:
                self.store.delete(self._path(name))
            else:
                self.store.write(self._path(name), data)
        now = self._described(self._path(name) for name in ours)
        renamed = {old: now[old.uri] for old in recorded.values() if old.uri in now and now[old.uri] != old}
        _rename_inputs(self.store, self.version, renamed)
        lost = {self._path(name) for name in ours if SHEET.fullmatch(name)} - now.keys()
        for manifest in sorted(self.manifests, key=lambda m: m.step == "cluster"):  # last: it knows the old sha256
            _record(self.store, manifest, renamed, lost)
        self.store.delete(self._path(REMOVING))
        log.info("%s: removed %s", self.version, ", ".join(f"{n} {what}" for what, n in self.counts.items()))
        return self.counts

    @cached_property
    def manifests(self) -> list[ReleaseManifest]:
        """Those of its steps that can be read."""
        return [m for step in RELEASE_STEPS if (m := manifest_of(self.store, step, self.version))]

    def _path(self, name: str) -> str:
        return cluster_path(self.version, name)

    def _is_gone(self, person_id: str) -> bool:
        return person_id.rpartition("/")[0] in self.images

    def _parsed(self, name: str, parse: Callable[[bytes], Any]) -> Any:
        """What a file of the version holds; None where there is none, or, with a warning, one that cannot be read."""
        if name not in self.names:
            return None
        data = self.store.read(self._path(name))
        try:
            return parse(data)
        except UNREADABLE as error:
            check_shortage(error)
            reason = one_line(repr(error), 200)
            log.warning(coded("damaged-version", "%s is left as it is: %s"), self._path(name), reason)
            return None

    def _left(self, name: str) -> list[Pictured]:
        """The people of a sheet who stay on it."""
        return [person for person in (self.sheets or {}).get(name, []) if not self._is_gone(person.person_id)]

    def _blanked_sheets(self) -> dict[str, bytes | None]:
        """The sheets without the people who leave."""
        changed: dict[str, bytes | None] = {}
        for name, people in self.sheets.items():
            gone = [person for person in people if self._is_gone(person.person_id)]
            self.counts["pictures"] += len(gone)
            if not gone or name not in self.names or not SHEET.fullmatch(name):
                continue
            try:
                changed[name] = blank(self.store.read(self._path(name)), gone)
            except OutsideError:
                raise
            except LaionPeopleError as error:
                log.warning("%s is deleted: it %s", self._path(name), error)
                changed[name] = None
        return changed

    def _sheets_without_record(self) -> dict[str, bytes | None]:
        """The sheets that must go where nothing says who is on them."""
        sheets = {match[1]: name for name in sorted(self.names) if (match := SHEET.fullmatch(name))}
        shards = sorted({image.rpartition("/")[0] for image in self.images}) if sheets else []
        with ThreadPoolExecutor(READERS) as pool:
            of_shards = list(pool.map(self._clusters_of, shards))
        clusters = set().union(*(sheets.keys() if known is None else known for known in of_shards))
        lost = [name for cluster, name in sheets.items() if cluster in clusters]
        self.counts["sheets"] += len(lost)
        return dict.fromkeys(lost)

    def _clusters_of(self, shard: str) -> set[str] | None:
        """The clusters of the people who leave a shard (``<partition>/<shard>``); None where that is not known."""
        partition, _, index = shard.rpartition("/")
        if not all(partition in m.params.get("partitions", [partition]) for m in self.manifests):
            return set()
        path = layout.shard_file("assignments", partition, int(index), self.version)
        try:
            rows = columns(self.store, path, ["person_id", *ASSIGNED]).to_pylist()
        except MissingError:
            return None
        except OutsideError:
            raise
        except LaionPeopleError as error:
            log.warning("%s loses all its contact sheets: %s", self.version, error)
            return None
        return {row[kind] for row in rows if self._is_gone(row["person_id"]) for kind in ASSIGNED} - {None}

    def _changed_fit(self, data: bytes) -> bytes | None:
        """The fit with other medoids; None where it stays as it is. Nothing else of it changes a digit."""
        fit = json.loads(data)
        clusters = [cluster for kind in fit["kinds"].values() for cluster in kind["clusters"]]
        gone = [cluster for cluster in clusters if self._is_gone(cluster.get("medoid_person_id", ""))]
        for cluster in gone:
            cluster["medoid_person_id"] = self._successor(cluster["cluster_id"])
        self.counts["medoids"] += len(gone)
        return (json.dumps(fit, indent=1, allow_nan=False) + "\n").encode() if gone else None

    def _changed_clusters(self, data: bytes) -> bytes | None:
        """The table of clusters with other medoids, as `label` would write it; None where it stays as it is."""
        table = pq.read_table(io.BytesIO(data))
        rows = table.to_pylist()
        gone = [row for row in rows if self._is_gone(row["medoid_person_id"])]
        for row in gone:
            row["medoid_person_id"] = self._successor(row["cluster_id"])
        schema = SCHEMAS["clusters"] if table.schema.equals(SCHEMAS["clusters"]) else table.schema
        return to_parquet(rows, schema) if gone else None

    def _successor(self, cluster_id: str) -> str:
        """The person nearest to a cluster's centre, of those on its sheet who stay."""
        left = self._left(contact_sheet(cluster_id))
        return left[0].person_id if left else ""

    def _changed_record(self, data: bytes) -> bytes | None:
        left = {name: self._left(name) for name in self.sheets or {}}
        return record_to_json(left) if self.sheets and left != self.sheets else None

    def _is_as_recorded(self, file: FileEntry | None) -> bool:
        if file is None:
            return False
        return bool(file.tag and self.store.tag(file.uri) == file.tag) or self.store.sha256(file.uri) == file.sha256

    def _described(self, paths: Iterable[str]) -> dict[str, FileEntry]:
        """The records of the files that are there."""
        tags = self.store.tags(layout.clusters_folder(self.version))
        with LocalFiles(self.store) as local:
            return {path: local.described(path, tags[path]) for path in paths if path in tags}


def _record(store: Store, manifest: ReleaseManifest, renamed: Mapping[FileEntry, FileEntry], lost: set[str]) -> None:
    """Writes the manifest of a release step, and its totals, with the new records of files, and without lost ones."""
    shard = manifest.shards[0]
    main, *others = (renamed.get(file, file) for file in shard.files() if file.uri not in lost)
    entry = replace(shard, bytes=main.bytes, sha256=main.sha256, tag=main.tag, sidecars=tuple(others))
    inputs = tuple(renamed.get(file, file) for file in manifest.inputs)
    changed = replace(manifest, shards=(entry,), inputs=inputs)
    if changed != manifest:
        store.write(layout.manifest_path(manifest.step, manifest.partition), changed.to_json())
    write_totals(store, changed, planned=1)


def _rename_inputs(store: Store, version: str, renamed: Mapping[FileEntry, FileEntry]) -> None:
    """Has the manifests of shards that were made from these files of a version name the new ones, and their sums, too.

    Reads nothing but manifests, and only those of steps that read a file which has another sha256 now.
    """
    uris = {file.uri for file in renamed}
    names = {name for name, file in RELEASE_FILES.items() if cluster_path(version, file) in uris}
    for entry in STEPS.values():
        if entry.is_release or not names & entry.reads.keys():
            continue
        folder = f"{layout.manifests_folder(entry.name)}/{version}"
        wanted = re.compile(
            rf"{re.escape(folder)}/({PartitionKey.pattern.pattern})/(?:{layout.SHARD_NAME.pattern})\.json"
        )
        matches = map(wanted.fullmatch, store.list(folder))
        for partition in sorted({match[1] for match in matches if match}):
            _rename_inputs_of(ManifestIndex(store), entry.name, partition, version, renamed)


def _rename_inputs_of(
    index: ManifestIndex, step: str, partition: str, version: str, renamed: Mapping[FileEntry, FileEntry]
) -> None:
    def rename(path: str, manifest: ShardManifest | LaionPeopleError) -> bool:
        """Whether the manifest is whole."""
        if isinstance(manifest, LaionPeopleError):
            log.warning("%s is left as it is: %s", path, manifest)
            return False
        inputs = tuple(renamed.get(file, file) for file in manifest.inputs)
        if inputs != manifest.inputs:
            index.write(path, replace(manifest, inputs=inputs))
        return True

    manifests = index.read_all(index.paths(step, partition, version).values())
    with ThreadPoolExecutor(READERS) as pool:
        whole = all(list(pool.map(rename, manifests.keys(), manifests.values())))
    summed = index.partition(step, partition)
    inside = f"{layout.shard_manifests_folder(step, partition, version)}/"
    current = summed and all(shard.manifest and shard.manifest.uri.startswith(inside) for shard in summed.shards)
    if whole and current and (again := index.sum(step, partition, version)):
        index.write_sum(again)
