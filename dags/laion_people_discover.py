"""### Finds new partitions

Lists the metadata parts of the store every day and announces those that are new, one key (`laion2B-en/00042`) for each:
`laion_people_extract` then makes one run a key, two at a time. A key is announced once.

To run chosen partitions, or to run them again, trigger this DAG with the keys as the parameter `partitions`.
"""

from __future__ import annotations

from airflow.sdk import DAG, CronTriggerTimetable, Param, task

from laion_people.operators import DAG_DEFAULTS, METADATA, PARTITIONS_SCHEMA, partitions_to_announce, worker_task

with DAG(
    "laion_people_discover",
    schedule=CronTriggerTimetable("0 3 * * *", timezone="UTC"),
    params={"partitions": Param([], description="Keys to run; empty: all that are new", **PARTITIONS_SCHEMA)},
    max_active_runs=1,
    doc_md=__doc__,
    **DAG_DEFAULTS,
):

    @task(outlets=[METADATA], inlets=[METADATA])
    def announce(state, params, outlet_events, inlet_events):
        keys = partitions_to_announce(state, params["partitions"], inlet_events[METADATA])
        outlet_events[METADATA].add_partitions(keys)
        return keys

    announce(worker_task("list_metadata", "partitions").output)
