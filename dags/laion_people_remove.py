"""### Removes images, with everybody in them

Trigger it and fill in the form: why, and what: addresses, checksums, samples or persons, one on each line. They leave
every table, picture, cluster version and publication, and never come back. docs/removals.md says what to do before and
after; a run can take long where partitions are being worked on, and has removed everything long before it ends.

| task | reads -> writes | where |
|---|---|---|
| ask | the form -> the request, in the store | Airflow |
| remove | the request, the index -> the removal, and all files concerned | CPU |
| forget | deletes the request | Airflow |
| at_work | claims -> the runs that are at work on partitions | Airflow |
| settle | waits for these runs: what they had read before the removal, they may still write | Airflow |
| audit | every file of the store -> nothing | CPU |

Nothing can be taken back. With *only look*, `remove` says what would go, and the run ends there. The form's values stay
in this run's configuration, for those who may see it: delete the run when it is done.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, get_current_context, task

from laion_people.orchestration import removing
from laion_people.orchestration.tasks import CLUSTERED, DAG_DEFAULTS, METADATA, audit_task, worker_task

# Airflow fails a waiting task now and then when it is about to look again, which costs a try
# (https://github.com/apache/airflow/issues/71172).
WAITS = {"retries": 100, "retry_exponential_backoff": 1}

with DAG(
    "laion_people_remove",
    schedule=None,
    params=removing.FORM,
    max_active_runs=1,  # each rewrites what it finds
    is_paused_upon_creation=False,  # it does nothing by itself
    doc_md=__doc__,
    **DAG_DEFAULTS,
):

    @task
    def ask():
        """Leaves what the form names in the store, where `remove` reads it. Seconds. Clear it with its downstream tasks
        to remove the same again. Failures: docs/operations.md, "Removals"."""
        return removing.ask(get_current_context())

    @task(trigger_rule="all_done")
    def forget():
        """Deletes what `ask` has left, whatever became of `remove`. Failures: docs/operations.md, "Removals"."""
        removing.forget(get_current_context())

    @task(inlets=[METADATA, CLUSTERED])
    def at_work():
        """Looks which runs are at work on partitions. Skips the rest where nothing was removed.
        Failures: docs/operations.md, "Removals"."""
        return removing.at_work(get_current_context())

    @task(**WAITS)
    def settle(found):
        """Waits until those runs have ended. Mark it as a success not to wait: the audit then says what they have
        written. Failures: docs/operations.md, "Removals"."""
        removing.settle(get_current_context(), found)

    request = ask()
    remove = worker_task(
        "remove",
        "remove",
        values={
            "request": request,
            "reason": "{{ params.reason }}",
            "by": "{{ dag_run.triggering_user_name or 'Airflow' }}",
        },
        flags={"dry_run": "{{ params.dry_run }}"},
        execution_timeout=timedelta(hours=12),
    )
    audit = audit_task("removals", partitions=None, trigger_rule="all_success", execution_timeout=timedelta(days=7))
    found = at_work()
    remove >> found >> settle(found) >> audit
    remove >> forget() >> audit  # which would find the request
