"""Leases: which run of laion_people_extract is at work on a partition, so that no second one starts.

A lease is an entry of Airflow's state store of the asset METADATA: partition key -> run and time of its claim. Nothing
gives it back: it holds for as long as its run is queued or running. `claim` alone writes leases, before the first task
of the run, of which Airflow lets one execute at a time (max_active_tis_per_dag=1): looking and writing are one step.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from laion_people.operators import METADATA, PARTITIONS_SCHEMA

EXTRACT = "laion_people_extract"
ACTIVE = ("queued", "running")


def claim(context: Any) -> None:
    """Takes the lease of the run's partition. Raises AirflowFailException when another run is at work on it.

    The same run takes it again as often as its first task is tried or cleared. What is wrong with a key that is none is
    left to the task to say.
    """
    key, run = context["dag_run"].partition_key, context["dag_run"].run_id
    if not key or not re.fullmatch(PARTITIONS_SCHEMA["items"]["pattern"], key):
        return
    other = run_at_work(context, key)
    if other not in ("", run):
        raise AirflowFailException(
            f"run {other} is at work on {key}, so this run does nothing; if it has to run too, clear this task when "
            "that one has ended"
        )
    context["asset_state_store"][METADATA].set(key, {"run": run, "since": datetime.now(UTC).isoformat()})


def skip_unless_claimed(context: Any) -> None:
    """For a task that runs whatever became of those before it: raises AirflowSkipException when nothing was begun."""
    run = context["dag_run"].run_id
    if not context["ti"].get_ti_count(EXTRACT, task_ids=["plan"], run_ids=[run], states=["success"]):
        raise AirflowSkipException("nothing was begun: the task plan says why")


def lease(context: Any, key: str) -> dict[str, str] | None:
    """The newest claim of a partition: its ``run`` and the time ``since`` (ISO 8601); None when it never had a run.

    Callers have METADATA among their inlets or outlets.
    """
    found: dict[str, str] | None = context["asset_state_store"][METADATA].get(key)
    return found


def run_at_work(context: Any, key: str) -> str:
    """The run that has the lease of a partition and is queued or running, or ""."""
    claimed = lease(context, key)
    return claimed["run"] if claimed and runs(context, *ACTIVE, run=claimed["run"]) else ""


def runs(context: Any, *states: str, run: str | None = None) -> int:
    """How many runs of laion_people_extract, or whether this one, are in one of these states."""
    count: int = context["ti"].get_dr_count(EXTRACT, run_ids=None if run is None else [run], states=list(states))
    return count
