"""Leases: which run is at work on a partition, so that no second one of the same DAG works on it.

A lease is an entry of Airflow's state store of the asset that announces the partitions: partition key -> run and time
of its claim. Nothing gives it back: it holds for as long as its run is queued or running. `claim` alone writes leases.
Before the first task of a run, of which Airflow lets one execute at a time (max_active_tis_per_dag=1), looking and
writing are one step. Before each step it claims again, for a run that has ended may have tasks of it cleared; of two
such runs that do so in the same moment, one ends at its next step.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk.exceptions import AirflowFailException, AirflowRescheduleException, AirflowSkipException

from laion_people.orchestration.tasks import CLUSTERED, METADATA, PARTITIONS_SCHEMA

log = logging.getLogger(__name__)

EXTRACT = "laion_people_extract"
CAPTION = "laion_people_caption"
ANNOUNCED_BY = {EXTRACT: METADATA, CAPTION: CLUSTERED}  # the asset is among the inlets or outlets of all callers
ACTIVE = ("queued", "running")
POLL = timedelta(minutes=1)


def claim(context: Any) -> None:
    """Takes the lease of the run's partition. Raises AirflowFailException when another run is at work on it; a run of
    the captioning DAG, which may have been announced for another cluster version, waits for that one to end.

    What is wrong with a key that is none is left to the task to say.
    """
    dag_run = context["dag_run"]
    dag, key, run = dag_run.dag_id, dag_run.partition_key, dag_run.run_id
    if not key or not re.fullmatch(PARTITIONS_SCHEMA["items"]["pattern"], key):
        return
    claimed = lease(context, key, dag)
    if claimed and claimed["run"] == run:
        return
    if claimed and runs(context, *ACTIVE, run=claimed["run"], dag=dag):
        if dag == CAPTION:
            log.info("waiting: run %s is at work on %s", claimed["run"], key)
            raise AirflowRescheduleException(datetime.now(UTC) + POLL)
        raise AirflowFailException(
            f"run {claimed['run']} is at work on {key}, so this run does nothing; if it has to run too, clear this "
            "task when that one has ended"
        )
    context["asset_state_store"][ANNOUNCED_BY[dag]].set(key, {"run": run, "since": datetime.now(UTC).isoformat()})


def skip_unless_planned(context: Any) -> None:
    """For a task that runs whatever became of those before it: raises AirflowSkipException when nothing was begun."""
    if not succeeded(context, "plan", context["dag_run"].run_id, context["dag_run"].dag_id):
        raise AirflowSkipException("nothing was begun: the task plan says why")


def skip_while_extracted(context: Any, keys: Iterable[str]) -> None:
    """Raises AirflowSkipException while a run of laion_people_extract works on one of the partitions.

    A run that has announced its collection works no more, though it may not have ended: what it started may ask.
    """
    for key in keys:
        run = run_at_work(context, key)
        if run and not succeeded(context, "announce", run):
            raise AirflowSkipException(
                f"run {run} of {EXTRACT} is at work on {key}: when it has ended well, it starts a run of this DAG. Not "
                "to wait for it, trigger this DAG with the partitions as its parameter"
            )


def lease(context: Any, key: str, dag: str = EXTRACT) -> dict[str, str] | None:
    """The newest claim of a partition: its ``run`` and the time ``since`` (ISO 8601); None when it never had a run."""
    found: dict[str, str] | None = context["asset_state_store"][ANNOUNCED_BY[dag]].get(key)
    return found


def run_at_work(context: Any, key: str) -> str:
    """The run of laion_people_extract that has the lease of a partition and is queued or running, or ""."""
    claimed = lease(context, key)
    return claimed["run"] if claimed and runs(context, *ACTIVE, run=claimed["run"]) else ""


def was_begun(context: Any, key: str) -> bool:
    """Whether a run of laion_people_extract is at work on a partition, or got past its first task.

    One that ended there, for want of metadata as it may be, has done nothing.
    """
    if not (claimed := lease(context, key)):
        return False
    return bool(runs(context, *ACTIVE, run=claimed["run"])) or succeeded(context, "plan", claimed["run"])


def runs(context: Any, *states: str, run: str | None = None, dag: str = EXTRACT) -> int:
    """How many runs of a DAG, or whether this one, are in one of these states."""
    count: int = context["ti"].get_dr_count(dag, run_ids=None if run is None else [run], states=list(states))
    return count


def succeeded(context: Any, task: str, run: str, dag: str = EXTRACT) -> bool:
    """Whether a task of a run has succeeded."""
    return bool(context["ti"].get_ti_count(dag, task_ids=[task], run_ids=[run], states=["success"]))
