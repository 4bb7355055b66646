"""### Extracts chosen partitions, some at a time

Trigger it and fill in the form: a collection with the first and last part, or a list of partitions; which of them; how
many at once. Each partition is a column of the two mapped tasks:

| task | does |
|---|---|
| list_metadata | lists the partitions of the store by state |
| choose | those that the form means and that no run is at work on |
| parts.start | waits for its turn, then announces the partition: `laion_people_extract` makes a run of it |
| parts.finish | waits until that run has ended; fails when it has failed |
| report | names the partitions that have failed |

A partition that fails keeps no other from being extracted. To go on with it, follow what the log of its `finish` says.
Every task may be cleared or killed: no partition is announced twice by it, and none that a run is at work on.
"""

from __future__ import annotations

from airflow.sdk import DAG, get_current_context, task, task_group

from laion_people.orchestration import backfill
from laion_people.orchestration.tasks import DAG_DEFAULTS, METADATA, worker_task

# Airflow fails a waiting task now and then when it is about to look again, which costs a try
# (https://github.com/apache/airflow/issues/71172). What is really wrong is not tried again.
WAITS = {"retries": 100, "retry_exponential_backoff": 1, "map_index_template": "{{ task.op_kwargs['key'] }}"}

with DAG(
    "laion_people_backfill",
    schedule=None,
    params=backfill.FORM,
    is_paused_upon_creation=False,  # it does nothing by itself
    doc_md=__doc__,
    **DAG_DEFAULTS,
):

    @task(inlets=[METADATA])
    def choose(state):
        """Checks the form and picks the partitions. Seconds. Failures: docs/operations.md, "A backfill"."""
        return backfill.partitions_to_backfill(get_current_context(), state)

    @task(outlets=[METADATA], **WAITS)
    def start(key, outlet_events):
        """Waits for its turn, then announces the partition. Clear it to have the partition run again.
        Failures: docs/operations.md, "A backfill"."""
        before = backfill.start(get_current_context(), key)
        outlet_events[METADATA].add_partitions([key])
        return before

    @task(inlets=[METADATA], trigger_rule="none_failed", **WAITS)
    def finish(key, before):
        """Waits until the partition's run has ended. Clear it when that run, having failed, has ended well.
        Failures: docs/operations.md, "A backfill"."""
        return backfill.finish(get_current_context(), key, before)

    @task(trigger_rule="all_done_min_one_success")
    def report(keys):
        """Names partitions that have failed. Clear it to look again. Failures: docs/operations.md, "A backfill"."""
        return backfill.report(get_current_context(), keys)

    @task_group
    def parts(key):
        finish(key=key, before=start(key=key))

    keys = choose(worker_task("list_metadata", "partitions").output)
    parts.expand(key=keys) >> report(keys)
