"""A removal from its names to its end: recorded, taken out of every file that it concerns, and known to be done."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from laion_people.errors import LaionPeopleError, OutsideError
from laion_people.removal.find import Finder
from laion_people.removal.lock import alone
from laion_people.removal.names import Names
from laion_people.removal.plan import Plan, folder, plan_path, planned, read_plan, unfinished
from laion_people.removal.publications import rewrite_publications
from laion_people.removal.rewrite import ShardRewriter
from laion_people.removal.tables import Scopes, scopes
from laion_people.removal.versions import rewrite_versions
from laion_people.storage import layout
from laion_people.storage.manifestindex import ManifestIndex
from laion_people.storage.removals import Removal, Removed, path_of, read_removals, read_removed
from laion_people.storage.store import Store
from laion_people.storage.totals import planned_shards, write_totals

log = logging.getLogger(__name__)


def plan_removal(store: Store, partitions: Sequence[str], names: Names, by: str, reason: str) -> Plan:
    """What a removal would do; nothing is changed but the index of the store.

    The same names have the same removal: one that was made before is gone on with, or done once more. Raises
    LaionPeopleError for an id that nothing has or had, or a file that is damaged.
    """
    removal_id = names.id()
    removals = read_removals(store)
    before = next((each for each in removals if each.id == removal_id), None)
    removal = before or Removal(id=removal_id, at=_now(), by=by, reason=reason, asked=names.asked())
    found = Finder(store, partitions).find(names, Removed(removals), again=before is not None)
    return planned(store, scopes(store), replace(removal, done=""), names, found)


def remove(store: Store, partitions: Sequence[str], names: Names, by: str, reason: str) -> Plan:
    """Removes what is named; returns what was planned. Waits for other removals, and finishes what was begun: a removal
    that is half done hides what it names."""
    with alone(store) as check:
        _resume(store, check)
        plan = plan_removal(store, partitions, names, by, reason)
        check()
        store.write(plan_path(plan.removal.id), plan.to_json())
        _carry_out(store, plan, check)
    return plan


def resume(store: Store) -> list[Removal]:
    """Finishes the removals of which something is left to do."""
    with alone(store) as check:
        return _resume(store, check)


def _resume(store: Store, check: Callable[[], None]) -> list[Removal]:
    plans = [read_plan(store, each) for each in unfinished(store)]
    return [_carry_out(store, plan, check) for plan in plans if plan]


def _carry_out(store: Store, plan: Plan, check: Callable[[], None]) -> Removal:
    """From the record on no step brings back what is removed; the plan is deleted when nothing is left of it. Raises
    LaionPeopleError for a damaged file when everything else is done."""
    removal, of_store = plan.removal, scopes(store)
    store.write(path_of(removal.id), removal.to_json())
    damaged: list[LaionPeopleError] = []
    rewrite_versions(store, plan.images())  # while assignments tell of people's clusters
    for done, shard in enumerate(plan.shards, 1):
        label = f"{shard.partition} shard {shard.index:05d} ({done} of {len(plan.shards)})"
        log.info("remove %s: %s", removal.id, label)
        check()
        try:
            ShardRewriter(store, of_store, shard, folder(removal.id)).rewrite()
        except OutsideError:
            raise
        except LaionPeopleError as error:  # a damaged file is no reason to leave the others as they are
            log.warning("%s: %s", label, error)
            damaged.append(error)
    for partition in dict.fromkeys(shard.partition for shard in plan.shards):
        _write_sums(store, partition, of_store)
    rewrite_publications(store, read_removed(store), plan.images())
    if damaged:  # the plan stays, and --resume goes on with it
        raise damaged[0]
    removal = replace(removal, done=_now())
    store.write(path_of(removal.id), removal.to_json())
    for path in sorted(store.list(folder(removal.id)), key=lambda path: path == plan_path(removal.id)):
        store.delete(path)
    log.info("removal %s is done", removal.id)
    return removal


def _write_sums(store: Store, partition: str, of_store: Scopes) -> None:
    """Writes the partition manifests and totals anew that there are: one that a step has not finished, or of a scope
    that was not audited last, is left to the audit."""
    index = ManifestIndex(store)
    for step, names in of_store.items():
        for scope in names:
            folder = layout.shard_manifests_folder(step, partition, scope)
            whole, manifest = index.partition(step, partition), index.sum(step, partition, scope)
            named = {shard.manifest.uri.rpartition("/")[0] for shard in whole.shards if shard.manifest} if whole else ()
            if manifest and folder in named:
                index.write_sum(manifest)
                if (shards := planned_shards(store, step, partition)) is not None:
                    write_totals(store, manifest, shards)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
