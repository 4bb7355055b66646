"""Takes images out of the files of one shard, and puts its manifests right: what was made of them is not made again.

The new files of a shard are made first, then ``changes.json`` says what each file was and will be, then they are put in
place, then the manifests. So a process that was killed anywhere is gone on with, and a file that is neither what it was
nor what it was to be is known to be damaged.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from laion_people.engine.audit import COUNTED_IN
from laion_people.engine.contents import contents_of
from laion_people.engine.files import LocalFiles, describe
from laion_people.errors import LaionPeopleError, MissingError
from laion_people.removal.plan import ShardPlan
from laion_people.removal.tables import Scopes, ShardTable, id_columns, leaving, tables_of, write_without
from laion_people.storage import tars
from laion_people.storage.layout import shard_name
from laion_people.storage.manifest import FileEntry, ShardManifest
from laion_people.storage.manifestindex import ManifestIndex
from laion_people.storage.origin import json_object
from laion_people.storage.removals import REMOVED
from laion_people.storage.store import Store


@dataclass(frozen=True, slots=True)
class Change:
    """A file that is replaced: the sha256 that it had, and the file that it will be."""

    before: str
    after: FileEntry


class ShardRewriter:
    """Takes what a plan says out of one shard; ``folder`` is where the removal keeps what it is doing."""

    def __init__(self, store: Store, scopes: Scopes, shard: ShardPlan, folder: str):
        self.store, self.shard = store, shard
        self.index = ManifestIndex(store)
        self.tables = list(tables_of(shard.partition, shard.index, scopes))
        self.manifests = self._read_manifests()
        self._path = f"{folder}/{shard.partition}/{shard_name(shard.index)}.json"
        self._changes: dict[str, Change] = {}

    def rewrite(self) -> None:
        """Does it, unless it is done. Raises LaionPeopleError when a file is damaged."""
        state = self._state()
        if state.get("done"):
            return
        self._changes = {
            uri: Change(each["before"], FileEntry(**each["after"])) for uri, each in state.get("changes", {}).items()
        }
        with LocalFiles(self.store) as files:
            # Images and people last: as long as they are there, what is left can be found by any of its names.
            made = [each for table in reversed(self.tables) for each in self._new_files(table, files)]
            if made:
                self._write_state(done=False)
            for local, entry in made:
                self._changes[entry.uri] = replace(self._changes[entry.uri], after=files.put(local, entry))
            self._write_manifests(files)
        self._write_state(done=True)

    def _state(self) -> dict[str, Any]:
        try:
            return json_object(self.store.read(self._path))
        except MissingError:
            return {}

    def _write_state(self, done: bool) -> None:
        changes = {uri: asdict(change) for uri, change in self._changes.items()}
        self.store.write(self._path, json.dumps({"done": done, "changes": changes}, indent=1).encode())

    def _read_manifests(self) -> dict[ShardTable, ShardManifest]:
        read = self.index.read_all(table.manifest for table in self.tables)
        for error in read.values():
            if isinstance(error, LaionPeopleError):
                raise error
        found = ((table, read.get(table.manifest)) for table in self.tables)
        return {table: manifest for table, manifest in found if isinstance(manifest, ShardManifest)}

    def _new_files(self, table: ShardTable, files: LocalFiles) -> list[tuple[Path, FileEntry]]:
        """The new files of a table that are not in place yet, in the order in which they are to be put there: the table
        last, which says what leaves the others."""
        made = []
        keys: Collection[str] = self.shard.keys
        parquet = self._source(table, table.parquet, files) if table.parquet in self.shard.rows else None
        if parquet:
            ids = pq.read_table(parquet, columns=_there(parquet, id_columns(table.entry)))
            leaves = leaving(table.entry, ids, self.shard.keys)
            new = files.temporary(table.parquet)
            write_without(table.entry, parquet, leaves, new)
            made.append((table.parquet, new))
            if table.entry.tar_key == "composite_id":
                composites = zip(ids["composite_id"].to_pylist(), leaves, strict=True)
                keys = {name.rsplit("/", 1)[-1] for name, leaves_ in composites if leaves_}
            if table.stats and (stats := self._source(table, table.stats, files)):
                counted = files.temporary(table.stats)
                counted.write_bytes(_counted(stats.read_bytes(), new))
                made.insert(0, (table.stats, counted))
        if table.tar and (parquet or table.entry.writes == "images") and (tar := self._source(table, table.tar, files)):
            new = files.temporary(table.tar)
            with tar.open("rb") as source, new.open("wb") as target:
                tars.without(source, tar.stat().st_size, table.tar, keys, target)
            made.insert(-1 if made else 0, (table.tar, new))
        entries = []
        for uri, local in made:
            before, after = files.described(uri), describe(uri, local)
            if before != after:
                self._changes[uri] = Change(before.sha256, after)
                entries.append((local, after))
        return entries

    def _source(self, table: ShardTable, uri: str, files: LocalFiles) -> Path | None:
        """A file as it was before, verified; None where there is none, or it is replaced already."""
        try:
            now = files.described(uri)
        except LaionPeopleError as error:
            if error.code != "missing-file":
                raise
            return None
        change = self._changes.get(uri)
        if change and now.sha256 == change.after.sha256:
            return None
        manifest = self.manifests.get(table)
        recorded = next((file for file in manifest.shard.files() if file.uri == uri), None) if manifest else None
        return files.verified(recorded or now)

    def _write_manifests(self, files: LocalFiles) -> None:
        """Each after those of the tables that it is made from."""
        rows: dict[str, tuple[FileEntry, int]] = {}  # of what steps count: the file, and its rows now
        for table in self.tables:
            manifest = self.manifests.get(table)
            if table.entry.writes == "images" and not manifest and table.tar in self._changes:
                after = self._changes[table.tar].after
                with files.verified(after).open("rb") as tar:
                    rows["images"] = after, sum(1 for _ in tars.Contents(table.tar, ()).walk(tar, after.bytes))
            if not manifest:
                continue
            new = self._with_changes(table, manifest, files)
            new = self._counted_in(table, new, rows)
            if new.to_json() != manifest.to_json():
                self.index.write(table.manifest, new)
            rows[table.entry.writes] = new.shard.files()[0], new.rows

    def _with_changes(self, table: ShardTable, manifest: ShardManifest, files: LocalFiles) -> ShardManifest:
        """A manifest of the files and inputs as they are now. An input that was out of date already stays so."""
        inputs = tuple(self._now(file) for file in manifest.inputs)
        if not any(file.uri in self._changes for file in manifest.shard.files()):
            return replace(manifest, inputs=inputs)
        main, *sidecars = (self._now(file) for file in manifest.shard.files())
        local = {f".{file.uri.rpartition('.')[2]}": files.verified(file) for file in (main, *sidecars)}
        contents = contents_of(table.entry, local)
        rows = (contents.samples or 0) if table.entry.outcomes else contents.rows
        rejected = contents.rejected if table.entry.outcomes else manifest.rejected
        assert rejected is not None
        others = sum(n for reason, n in rejected.items() if reason != REMOVED)
        removed = max(0, manifest.rows_in - contents.used - others)
        shard = replace(
            manifest.shard,
            rows=rows,
            bytes=main.bytes,
            sha256=main.sha256,
            tag=main.tag,
            sidecars=tuple(sidecars),
            made_sha256=manifest.shard.made_sha256 or manifest.shard.sha256,
        )
        return replace(
            manifest,
            inputs=inputs,
            shards=(shard,),
            rows=rows,
            rejected=dict(sorted({**rejected, REMOVED: removed}.items())) if removed else rejected,
            contents=contents,
        )

    def _now(self, file: FileEntry) -> FileEntry:
        """A file that a manifest names as it is now."""
        change = self._changes.get(file.uri)
        return self._tagged(change.after) if change and file.sha256 in (change.before, change.after.sha256) else file

    def _tagged(self, file: FileEntry) -> FileEntry:
        """With the tag that it has in the store."""
        return file if file.tag else replace(file, tag=self.store.tag(file.uri))

    def _counted_in(
        self, table: ShardTable, manifest: ShardManifest, rows: Mapping[str, tuple[FileEntry, int]]
    ) -> ShardManifest:
        """With the number of input rows that are gone, if the input that it counts is the one that is there."""
        counted = COUNTED_IN.get(table.entry.amount, "")
        counted = counted if counted in table.entry.reads else table.entry.first_input  # which has the same rows
        file, count = rows.get(counted, (None, 0))
        if file is None or file not in manifest.inputs:
            return manifest
        return replace(manifest, removed_in=max(0, manifest.rows_in - count * table.entry.rows_per_person))


def _there(parquet: Path, names: Sequence[str]) -> list[str]:
    return [name for name in names if name in pq.read_schema(parquet).names]


def _counted(stats: bytes, parquet: Path) -> bytes:
    """img2dataset's summary of a shard, with the counts of its table as it is now; what is no such summary stays."""
    fields = json_object(stats)
    if not fields:
        return stats
    table = pq.read_table(parquet)
    if "status" not in table.column_names:
        return stats
    status = table["status"].to_pylist()
    reasons = table["reason" if "reason" in table.column_names else "error_message"].to_pylist()
    for name, of_status in (
        ("successes", "success"), ("failed_to_download", "failed_to_download"), ("failed_to_resize", "failed_to_resize")
    ):  # fmt: skip
        if name in fields:
            fields[name] = status.count(of_status)
    if "status_dict" in fields:
        counts = Counter(reason or "success" for reason in reasons)
        fields["status_dict"] = {"success": counts.pop("success", 0), **counts}
    return json.dumps(fields, indent=4).encode()
