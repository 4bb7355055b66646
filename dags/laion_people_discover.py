"""### Finds new partitions

Lists the metadata parts of the store every day and announces those that are not extracted and that no run has begun,
one key (`laion2B-en/00042`) for each: `laion_people_extract` then makes one run a key, two at a time. A run that ended
in its first task, for want of metadata as it may be, has begun nothing.

The store is the truth: what was announced to a paused DAG, and lost, is found again. While `laion_people_extract` is
paused, or runs of it are queued, nothing is announced; a later run of this DAG does it.

To run chosen partitions, or to run them again, use `laion_people_backfill`; or trigger this DAG with the keys as the
parameter `partitions`, which announces them all at once.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, CronTriggerTimetable, Param, get_current_context, task

from laion_people.orchestration.backfill import partitions_to_announce
from laion_people.orchestration.tasks import DAG_DEFAULTS, METADATA, PARTITIONS_SCHEMA, worker_task

with DAG(
    "laion_people_discover",
    # by default a new Airflow begins with a run until 10 % of the interval, 2.4 hours, have passed, though its docs say
    # it waits: see CronTriggerTimetable._calc_first_run in Airflow 3.3
    schedule=CronTriggerTimetable("0 3 * * *", timezone="UTC", run_immediately=timedelta(0)),
    params={
        "partitions": Param(
            [],
            title="Partitions",
            description="Keys to announce, one on each line, for example laion2B-en/00042; empty: all that are new",
            **PARTITIONS_SCHEMA,
        )
    },
    max_active_runs=1,
    doc_md=__doc__,
    **DAG_DEFAULTS,
):

    @task(outlets=[METADATA])
    def announce(state, params, outlet_events):
        """Announces new partitions, or those asked for, each of which gets a run. Clear it at any time: none that has a
        run is announced. Failures: docs/operations.md, "Runs and their parameters"."""
        keys = partitions_to_announce(get_current_context(), state, params["partitions"])
        outlet_events[METADATA].add_partitions(keys)
        return keys

    announce(worker_task("list_metadata", "partitions").output)
