"""The page of a partition: its funnel with what was lost and why, its steps, its runs, its missing shards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import takewhile
from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from laion_people.engine.catalog import PARTITION_STAGES, PARTITION_STEPS, steps_of
from laion_people.errors import coded
from laion_people.reports.funnel import bars, made_elsewhere, stages_of
from laion_people.storage.manifestindex import ManifestIndex
from laion_people.storage.store import Store
from laion_people.storage.totals import Totals
from laion_people.web import source
from laion_people.web.addresses import Partition
from laion_people.web.auth import DAGS
from laion_people.web.pages import render
from laion_people.web.reasons import MEANINGS

MOST_RANGES = 60  # of missing shards that are listed

router = APIRouter()


@router.get("/partitions/{collection}/{part}")
def partition(request: Request, key: Partition) -> HTMLResponse:
    """All about one partition. 404 when the store has neither metadata nor results of it."""
    state, store = source.state(), source.store()
    totals, keys = state.totals, state.partitions
    if key not in keys:
        raise HTTPException(
            404, coded("no-such-page", f"There is no partition {key} in {store.uri}: look for it among all partitions.")
        )
    steps = {name: totals[key][name] for name in PARTITION_STEPS if name in totals.get(key, {})}
    runs = source.runs_of(key, {step.run_id for step in steps.values()})
    at = keys.index(key)
    return render(
        request,
        "partition.html.j2",
        key=key,
        before=keys[at - 1] if at else "",
        after=keys[at + 1] if at + 1 < len(keys) else "",
        steps=steps,
        so_far=state.so_far.get(key, {}),
        stages={stage: [entry.name for entry in steps_of(stage)] for stage in PARTITION_STAGES},
        bars=bars(list(stages_of(steps, made_elsewhere(steps), meshes=None))),
        meanings=MEANINGS,
        missing={step: missing for step in steps if (missing := missing_shards(store, steps, step))},
        runs=[run for run in runs if run.partition == key],
        run_of={run.run_id: run for run in runs},
        flags=state.flags.get(key, ()),
        versions=state.versions,
    )


@router.get("/runs/{dag_id}/{run_id}")
def of_run(request: Request, dag_id: str, run_id: Annotated[str, Path(max_length=250)]) -> RedirectResponse:
    """From a run in Airflow's UI to its partition, or to the partitions of its collection."""
    key = source.partition_of(dag_id, run_id) if dag_id in DAGS else None
    if not key:
        raise HTTPException(
            404,
            coded("no-such-page", "This run has no partition: the runs of laion_people_extract and _caption have one."),
        )
    root = request.scope["root_path"]
    return RedirectResponse(f"{root}/partitions/{key}" if "/" in key else f"{root}/?collection={key}", 303)


def missing_shards(store: Store, steps: Mapping[str, Totals], step: str) -> str:
    """The shards that an unfinished step has still to make, as ranges; empty when none is, or it is not known which.

    They are compared with those of the last finished step before it; without one, shards are numbered from 0.
    """
    totals = steps[step]
    if totals.done:
        return ""
    before = [steps[s] for s in takewhile(lambda s: s != step, steps) if steps[s].done]
    planned = _shards(store, before[-1]) if before else frozenset(range(totals.planned))
    missing = planned - _shards(store, totals)
    if len(missing) != totals.planned - totals.shards:  # images made elsewhere have gaps in their numbers
        return ""
    listed = ranges(missing)
    more = len(listed) - MOST_RANGES
    return ", ".join(listed[:MOST_RANGES]) + (f" and {more} more" if more > 0 else "")


def ranges(numbers: Iterable[int]) -> list[str]:
    """Numbers as the command line's ``--shards`` takes them: 0, 3-5."""
    runs: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number - 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return [f"{first}-{last}" if last > first else str(first) for first, last in runs]


def _shards(store: Store, totals: Totals) -> frozenset[int]:
    return _read_shards(store, totals.step, totals.partition, totals.ended, totals.shards)


@lru_cache(maxsize=64)  # a manifest of 2,000 shards is a megabyte: it is read again when it has changed
def _read_shards(store: Store, step: str, partition: str, ended: str, shards: int) -> frozenset[int]:
    manifest = ManifestIndex(store).partition(step, partition)
    return frozenset(shard.index for shard in manifest.shards) if manifest else frozenset()
