"""Which partitions get a run of laion_people_extract: those that discover finds, and those that a backfill asks for.

This is decided from what the store has (``state``, which ``bin/laion-people partitions`` prints) and from the runs and
claims that Airflow has at that moment. It is never decided from asset events: a paused DAG loses them, and Airflow
3.3.2 can't list them while a run that they made is queued (https://github.com/apache/airflow/issues/71360).
``context`` is the task's; METADATA is among its inlets or outlets.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

from airflow.sdk import Param
from airflow.sdk.exceptions import AirflowFailException, AirflowRescheduleException, AirflowSkipException

from laion_people.dates import FIRST_DAYS
from laion_people.errors import coded
from laion_people.orchestration.claims import ACTIVE, EXTRACT, claim_of, run_at_work, runs, was_begun
from laion_people.orchestration.tasks import PARTITIONS_SCHEMA, dag_settings, whole
from laion_people.storage.layout import KEY_PART

log = logging.getLogger(__name__)

LIMIT = dag_settings().partitions_at_once
POLL = timedelta(seconds=dag_settings().backfill_poll_seconds)
PATIENCE = 5 * POLL  # how long a key waits for its run while no run of any key is queued or running
ENDED = ["success", "failed", "upstream_failed", "skipped", "removed"]
START, FINISH = "parts.start", "parts.finish"

WHICH = {
    "missing": "missing: all that are not extracted",
    "failed": "failed: only those that a run has begun and not finished",
    "all": "all: also those that are extracted; shards that are done are left as they are",
}
FORM = {  # Airflow opens those that have no section; null is what makes a field optional
    "collection": Param(
        None,
        type=["null", "string"],
        pattern=whole(KEY_PART),
        examples=list(FIRST_DAYS),
        title="Collection",
        description="A folder of metadata/ in the store, for example laion2B-en",
    ),
    "first": Param(
        None,
        type=["null", "integer"],
        minimum=0,
        maximum=99_999,
        title="From part",
        description="A number: 42 is laion2B-en/00042. Empty: from the first",
    ),
    "last": Param(
        None,
        type=["null", "integer"],
        minimum=0,
        maximum=99_999,
        title="To part",
        description="The last one, included. Empty: to the end",
    ),
    "which": Param(
        "missing",
        type="string",
        enum=list(WHICH),
        values_display=WHICH,
        title="Which of them",
        description="Partitions that a run is at work on are always left out.",
    ),
    "at_once": Param(
        min(2, LIMIT),
        type="integer",
        minimum=1,
        maximum=LIMIT,
        title="How many at once",
        description=f"At most {LIMIT}: {EXTRACT} works on no more at a time, whoever started its runs. "
        "The setting LAION_PEOPLE_PARTITIONS_AT_ONCE changes that.",
    ),
    "partitions": Param(
        [],
        title="Partitions",
        description="One key on each line, for example laion2B-en/00042. Leave the collection empty then.",
        section="A list in place of a collection",
        **PARTITIONS_SCHEMA,
    ),
}


def partitions_to_announce(context: Any, state: Mapping[str, list[str]], asked: Sequence[str]) -> list[str]:
    """The keys that discover announces: those asked for, else those that are not extracted and that no run has
    begun.

    Raises AirflowSkipException when there are none, and when new ones have to wait: a paused DAG would lose them, and
    while runs are queued, some of them may already be for these keys.
    """
    _check_known(state, asked)
    keys = _without_runs_at_work(context, asked)
    if not asked:
        keys = [key for name in ("begun", "pending") for key in state[name] if not was_begun(context, key)]
    if not keys:
        raise AirflowSkipException(
            coded("nothing-to-do", "no new partitions" if not asked else "runs are at work on all of them")
        )
    if context["ti"].get_dag(EXTRACT).is_paused:
        error = AirflowFailException if asked else AirflowSkipException
        raise error(
            coded(
                "extract-paused",
                f"{EXTRACT} is paused: unpause it, then clear this task; until then {len(keys)} partitions wait",
            )
        )
    if not asked and (queued := runs(context, "queued")):
        raise AirflowSkipException(
            coded(
                "not-yet",
                f"{queued} runs of {EXTRACT} are queued: a later run of this DAG announces the "
                f"{len(keys)} new partitions",
            )
        )
    return sorted(keys)


def partitions_to_backfill(context: Any, state: Mapping[str, list[str]]) -> list[str]:
    """The keys that the form of a backfill means, without those that a run is at work on.

    Raises AirflowFailException for a form that makes no sense, AirflowSkipException when nothing is left to do.
    """
    form = context["params"]
    keys = _asked(state, form)
    extracted = set(state["extracted"])
    if form["which"] != "all":
        keys = [key for key in keys if key not in extracted]
    if form["which"] == "failed":
        begun = set(state["begun"])
        keys = [key for key in keys if key in begun or claim_of(context, key)]
    keys = _without_runs_at_work(context, keys)
    if not keys:
        raise AirflowSkipException(
            coded("nothing-to-do", f"nothing to do: none of the partitions is {form['which']} and without a run")
        )
    log.info("%d partitions, %d at once: %s", len(keys), form["at_once"], ", ".join(keys))
    return keys


def start(context: Any, key: str) -> dict[str, str] | None:
    """Waits until it is a key's turn to be announced; returns the claim that it had before.

    The key at index i has its turn when more than i - `at_once` keys of this backfill have ended. So no more than
    `at_once` are ever under way, whatever is killed, cleared or late.

    Raises AirflowRescheduleException to wait, AirflowSkipException when another run is at work on the key by now.
    """
    ti = context["ti"]
    ended = ti.get_ti_count(ti.dag_id, task_ids=[FINISH], run_ids=[ti.run_id], states=ENDED)
    if (ahead := ti.map_index - ended - context["params"]["at_once"] + 1) > 0:
        _wait(f"{ahead} before {key} have to end first", ahead)
    if ti.get_dag(EXTRACT).is_paused:
        _wait(f"{EXTRACT} is paused: unpause it to go on")
    if run := run_at_work(context, key):
        raise AirflowSkipException(
            coded("partition-busy", f"run {run} of {EXTRACT} is at work on {key}: this backfill waits for that one")
        )
    return claim_of(context, key)


def finish(context: Any, key: str, before: dict[str, str] | None) -> str:
    """Waits until the run of a key has ended; returns its id. ``before`` is what `start` returned.

    Raises AirflowFailException when the run has failed, or none was made of the announcement.
    """
    newest = claim_of(context, key)
    if newest is None or newest == before:
        begun = context["ti"].get_first_reschedule_date(context)
        if begun and datetime.now(UTC) - begun > PATIENCE and not runs(context, *ACTIVE):
            raise AirflowFailException(
                coded(
                    "extract-paused",
                    f"no run of {EXTRACT} was made of {key}, or it ended before its first task: look at that DAG, "
                    f"which may have been paused; then clear the task {START} of {key}",
                )
            )
        _wait(
            f"{key} is announced; of {EXTRACT}, {runs(context, 'running')} runs are running (at most {LIMIT}: "
            f"LAION_PEOPLE_PARTITIONS_AT_ONCE) and {runs(context, 'queued')} are queued"
        )
    run = newest["run"]
    if runs(context, *ACTIVE, run=run):
        _wait(f"run {run} is at work on {key}")
    if not runs(context, "success", run=run):
        raise AirflowFailException(
            coded(
                "run-failed",
                f"{key}: run {run} of {EXTRACT} has failed; its red tasks say what to do. When it has ended well, "
                f"clear this task; to run the partition anew instead, clear {START} of {key}",
            )
        )
    return run


def report(context: Any, keys: Sequence[str]) -> dict[str, int]:
    """What became of a backfill; raises AirflowFailException with the keys of those that failed."""
    ti = context["ti"]
    states = ti.get_task_states(ti.dag_id, task_ids=[FINISH], run_ids=[ti.run_id])[ti.run_id]
    failed = [key for index, key in enumerate(keys) if states[f"{FINISH}_{index}"] != "success"]
    if failed:
        raise AirflowFailException(
            coded(
                "run-failed",
                f"{len(failed)} of {len(keys)} partitions have failed: {', '.join(failed)}. The log of {FINISH} says "
                "of each what to do; or start a backfill of those that failed",
            )
        )
    return {"partitions": len(keys)}


def _asked(state: Mapping[str, list[str]], form: Mapping[str, Any]) -> list[str]:
    """The keys of the form's list or range."""
    collection, first, last = form["collection"], form["first"], form["last"]
    if bool(collection) == bool(form["partitions"]):
        raise AirflowFailException(coded("unknown-partition", "choose a collection or list partitions, one of the two"))
    if form["partitions"]:
        _check_known(state, form["partitions"])
        return list(form["partitions"])
    keys = sorted(key for keys in state.values() for key in keys if key.startswith(f"{collection}/"))
    if not keys:
        known = sorted({key.partition("/")[0] for keys in state.values() for key in keys})
        raise AirflowFailException(
            coded("unknown-partition", f"no metadata of {collection}; there is: {', '.join(known) or 'none'}")
        )
    if (first, last) != (None, None):
        low, high = first or 0, 99_999 if last is None else last
        numbered = [key for key in keys if key.rpartition("/")[2].isdecimal()]
        chosen = [key for key in numbered if low <= int(key.rpartition("/")[2]) <= high]
        if not chosen:
            raise AirflowFailException(
                coded(
                    "unknown-partition",
                    f"no metadata of {collection} from part {low} to {high}; there is {keys[0]} to {keys[-1]}",
                )
            )
        return chosen
    return keys


def _check_known(state: Mapping[str, list[str]], asked: Iterable[str]) -> None:
    if unknown := sorted(set(asked) - {key for keys in state.values() for key in keys}):
        raise AirflowFailException(
            coded(
                "unknown-partition",
                f"no metadata for partition {unknown[0]}: put its part under metadata/ of the store",
            )
        )


def _without_runs_at_work(context: Any, keys: Iterable[str]) -> list[str]:
    left = []
    for key in keys:
        if run := run_at_work(context, key):
            log.info("%s is left out: run %s is at work on it", key, run)
        else:
            left.append(key)
    return left


def _wait(reason: str, times: int = 1) -> NoReturn:
    log.info("waiting: %s", reason)
    raise AirflowRescheduleException(datetime.now(UTC) + times * POLL)
