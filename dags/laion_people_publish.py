"""### Publishes a version of the data set

Trigger it and fill in the form. What is published lies in the store under `releases/<name>/<version>`, whole or not at
all, with a card, Parquet files, checksums and, unless they are left out, the pictures of Subset B.

| task | reads -> writes | where |
|---|---|---|
| check | the form, totals -> nothing | Airflow |
| approve | what would be in it -> a person's answer | the UI; skipped where the run asks for none |
| publish | all tables, removals -> the publication, the hub | CPU |
| announce | the publication -> a notification | Airflow |

A version is never changed: a run for one that exists uploads it, where the form says whereto, or fails in its first
task. A removal makes a new patch version by itself; run this DAG to upload it.
"""

from __future__ import annotations

from airflow.sdk import DAG, get_current_context, task

from laion_people.orchestration import publishing
from laion_people.orchestration.tasks import DAG_DEFAULTS, worker_task

NAMED = {"release": "{{ params.release }}", "version": "{{ params.version }}"}

with DAG(
    "laion_people_publish",
    schedule=None,
    params=publishing.FORM,
    max_active_runs=16,  # counts those that wait for a person
    is_paused_upon_creation=False,  # it does nothing by itself
    doc_md=__doc__,
    **DAG_DEFAULTS,
):

    @task(multiple_outputs=True)
    def check():
        """Checks the form, and counts what would be published. Seconds. Clear it at any time.
        Failures: docs/operations.md, "Publications"."""
        return publishing.planned(get_current_context())

    @task
    def announce(made):
        """Notifies of what was published. Clear it to notify again. Failures: docs/operations.md, "Publications"."""
        publishing.announce(get_current_context(), made)

    plan = check()
    publish = worker_task(
        "publish",
        "publish",
        clusters=plan["clusters"],
        partitions=plan["partitions"],
        values=NAMED
        | {"edition": "{{ params.edition }}", "faces": "{{ params.faces }}", "push": "{{ params.push or '' }}"},
        flags={"no_pictures": "{{ not params.pictures }}"},
        trigger_rule="none_failed",  # an approval that nobody asked for is skipped
        execution_timeout=publishing.LIMIT,
        max_active_tis_per_dag=1,  # two of one name would not know of each other
    )
    publishing.ApprovalOperator(task_id="approve", plan=plan, **NAMED) >> publish
    announce(publish.output)
