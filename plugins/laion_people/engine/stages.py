"""The steps of a stage, as a partition needs them, and how far partitions and their shards are."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from laion_people.engine.catalog import CLUSTERS, PARTITION_STEPS, STEPS, steps_of
from laion_people.engine.planning import Planner
from laion_people.errors import LaionPeopleError, OutsideError
from laion_people.storage import layout, metadata
from laion_people.storage.manifestindex import READERS
from laion_people.storage.origin import made_elsewhere
from laion_people.storage.store import Store
from laion_people.storage.totals import Totals, TotalsReader

log = logging.getLogger(__name__)


def stage_steps(planner: Planner, partition: str, stage: str) -> tuple[str, ...]:
    """The steps of a stage in their order: none makes images for a partition whose images were made elsewhere, and an
    optional one is among them if the settings ask for it."""
    elsewhere = any(entry.writes == "images" for entry in steps_of(stage)) and made_elsewhere(planner.store, partition)
    return tuple(
        entry.name
        for entry in steps_of(stage)
        if not (elsewhere and entry.writes == "images")
        and (not entry.optional or getattr(planner.settings, entry.optional))
    )


def unfinished(planner: Planner, partition: str, stage: str) -> dict[str, list[int]]:
    """The shards that each step of a stage would still make, or work on once more, if all were run in order.

    A step that always follows another counts with that one.
    """
    planner.index.forget()
    steps = stage_steps(planner, partition, stage)
    planned = planner.planned(steps[0], partition)
    for step in steps:
        planner.index.prepare(step, partition, planner.scope(STEPS[step].writes))
    task = {follower: step for step in steps for follower in STEPS[step].followed_by}
    to_make: dict[str, set[int]] = {step: set() for step in steps if step not in task}
    for index in planned:
        stale: set[str] = set()  # tables that will be other ones
        for step in steps:
            entry = STEPS[step]
            if stale & set(entry.reads) or planner.unfinished(step, partition, index):
                stale.add(entry.writes)
                to_make[task.get(step, step)].add(index)
    return {step: sorted(shards) for step, shards in to_make.items()}


def progress(planner: Planner) -> dict[str, list[str]]:
    """The store's partitions by state: ``extracted`` (every shard of every step counted), ``begun`` or ``pending``."""
    totals = TotalsReader(planner.store).read()
    begun = begun_partitions(planner.store)

    def state(partition: str) -> str:
        if _is_extracted(planner, partition, totals.get(partition, {})):
            return "extracted"
        return "begun" if partition in begun else "pending"

    partitions = list(metadata.partitions(planner.store))
    with ThreadPoolExecutor(READERS) as pool:
        states = list(pool.map(state, partitions))
    return {
        name: [partition for partition, its in zip(partitions, states, strict=True) if its == name]
        for name in ("extracted", "begun", "pending")
    }


def _is_extracted(planner: Planner, partition: str, totals: Mapping[str, Totals]) -> bool:
    done = {step: sums.planned for step, sums in totals.items() if sums.done}
    wanted = {entry.name for entry in steps_of("extract") if entry.writes != "images" and not entry.optional}
    if not wanted <= done.keys():  # the answer for most, without a look at the images
        return False
    steps = stage_steps(planner, partition, "extract")
    try:
        planned = len(planner.planned(steps[0], partition))
    except OutsideError:
        raise
    except LaionPeopleError as error:  # which is no reason to stop the others
        log.warning("%s does not count as extracted: %s", partition, error)
        return False
    return all(done.get(step) == planned for step in steps)


def begun_partitions(store: Store) -> set[str]:
    """The partitions of which some step of the first stage has made a shard."""
    steps = [entry.name for entry in steps_of("extract")]
    return {key for partitions in begun(store, steps).values() for key in partitions}


def begun(store: Store, steps: Sequence[str] = PARTITION_STEPS) -> dict[str, dict[str, str]]:
    """The partitions of which each step has made a shard: step -> partition -> scope (of cluster versions the newest).

    Costs a few requests for each step and collection, however many partitions there are.
    """
    with ThreadPoolExecutor(READERS) as pool:
        return dict(zip(steps, pool.map(partial(_begun, store), steps), strict=True))


def _begun(store: Store, step: str) -> dict[str, str]:
    folder, scopes = layout.manifests_folder(step), [""]
    if STEPS[step].scope:
        scopes = list(store.folders(folder))
        if STEPS[step].scope == CLUSTERS:
            versions = filter(None, map(layout.ClusterVersion.parse, scopes))
            scopes = [str(version) for version in sorted(versions, key=lambda version: version.number)[-1:]]
    partitions: dict[str, str] = {}
    for scope in scopes:
        inside = f"{folder}/{scope}" if scope else folder
        for collection in store.folders(inside):
            for part in store.folders(f"{inside}/{collection}"):
                if layout.PartitionKey.pattern.fullmatch(f"{collection}/{part}"):
                    partitions[f"{collection}/{part}"] = scope
    return partitions
