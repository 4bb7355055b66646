"""Claims: which run is at work on a partition, so that no second run of the same DAG works on it.

A claim is an entry in Airflow's state store of the asset that announces the partitions: partition key -> run and time.
Only `claim` writes claims, and nothing removes one: it counts for as long as its run is queued or running.

The first task of a run claims the partition. Airflow executes one such task at a time (max_active_tis_per_dag=1), so
that nothing comes between looking and writing. Each step claims again, because a task of a run that has ended may be
cleared. If two such runs claim at the same moment, one of them stops at its next step.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk.exceptions import AirflowFailException, AirflowRescheduleException, AirflowSkipException

from laion_people.errors import coded
from laion_people.orchestration.tasks import CLUSTERED, METADATA
from laion_people.storage.layout import PartitionKey

log = logging.getLogger(__name__)

EXTRACT = "laion_people_extract"
CAPTION = "laion_people_caption"
ANNOUNCED_BY = {EXTRACT: METADATA, CAPTION: CLUSTERED}  # the asset is among the inlets or outlets of all callers
ACTIVE = ("queued", "running")
POLL = timedelta(minutes=1)


def claim(context: Any) -> None:
    """Claims the run's partition for the run. A key that is not a partition key is left to the task to refuse.

    Raises AirflowFailException when another run is at work on it. A run of the captioning DAG waits instead, since it
    may have been announced for another cluster version: AirflowRescheduleException.
    """
    dag_run = context["dag_run"]
    dag, key, run = dag_run.dag_id, dag_run.partition_key, dag_run.run_id
    if not key or not PartitionKey.pattern.fullmatch(key):
        return
    newest = claim_of(context, key, dag)
    if newest and newest["run"] == run:
        return
    if newest and runs(context, *ACTIVE, run=newest["run"], dag=dag):
        if dag == CAPTION:
            log.info("waiting: run %s is at work on %s", newest["run"], key)
            raise AirflowRescheduleException(datetime.now(UTC) + POLL)
        raise AirflowFailException(
            coded(
                "partition-busy",
                f"run {newest['run']} is at work on {key}, so this run does nothing; if it has to run too, clear this "
                "task when that one has ended",
            )
        )
    context["asset_state_store"][ANNOUNCED_BY[dag]].set(key, {"run": run, "since": datetime.now(UTC).isoformat()})


def skip_unless_planned(context: Any) -> None:
    """For a task that runs whatever became of those before it: raises AirflowSkipException when nothing was begun."""
    if not succeeded(context, "plan", context["dag_run"].run_id, context["dag_run"].dag_id):
        raise AirflowSkipException(coded("partition-busy", "nothing was begun: the task plan says why"))


def skip_while_extracted(context: Any, keys: Iterable[str]) -> None:
    """Raises AirflowSkipException while a run of laion_people_extract works on one of the partitions.

    A run that has announced its collection has done its work, even if Airflow does not yet call it ended.
    """
    for key in keys:
        run = run_at_work(context, key)
        if run and not succeeded(context, "announce", run):
            raise AirflowSkipException(
                coded(
                    "not-yet",
                    f"run {run} of {EXTRACT} is at work on {key}: when it has ended well, it starts a run of this DAG. "
                    "Not to wait for it, trigger this DAG with the partitions as its parameter",
                )
            )


def claim_of(context: Any, key: str, dag: str = EXTRACT) -> dict[str, str] | None:
    """The newest claim of a partition: its ``run`` and the time ``since`` (ISO 8601); None when it never had a run."""
    entry: dict[str, str] | None = context["asset_state_store"][ANNOUNCED_BY[dag]].get(key)
    return entry


def run_at_work(context: Any, key: str) -> str:
    """The run of laion_people_extract that has claimed a partition and is queued or running, or ""."""
    newest = claim_of(context, key)
    return newest["run"] if newest and runs(context, *ACTIVE, run=newest["run"]) else ""


def was_begun(context: Any, key: str) -> bool:
    """Whether a run of laion_people_extract is at work on a partition, or got past its first task.

    A run that ended in its first task, for example because there was no metadata, has begun nothing.
    """
    if not (newest := claim_of(context, key)):
        return False
    return bool(runs(context, *ACTIVE, run=newest["run"])) or succeeded(context, "plan", newest["run"])


def runs(context: Any, *states: str, run: str | None = None, dag: str = EXTRACT) -> int:
    """How many runs of a DAG are in one of these states; with ``run``, 1 or 0 for that one."""
    count: int = context["ti"].get_dr_count(dag, run_ids=None if run is None else [run], states=list(states))
    return count


def succeeded(context: Any, task: str, run: str, dag: str = EXTRACT) -> bool:
    """Whether a task of a run has succeeded."""
    return bool(context["ti"].get_ti_count(dag, task_ids=[task], run_ids=[run], states=["success"]))
