"""### Composes and captions the people of one partition

A run for each partition that `laion_people_cluster` announces, with the cluster version of the announcement; or trigger
it with a partition key, and with a version as the parameter `clusters` if it should not be the newest. A run that finds
another at work on its partition ends at once.

| task | reads -> writes | where |
|---|---|---|
| assign | pose, mesh, clusters -> assignments | CPU |
| compose | images, assignments -> subset_b | CPU |
| embed | images, people, mesh -> vectors | GPU |
| caption | people, assignments, vectors, clusters -> subset_c | CPU |
| describe (experimental) | images, people -> subset_d | GPU; skipped unless `LAION_PEOPLE_DESCRIBE=1` |

Each step is mapped over groups of shards, as far as it has something to make there: after captions were edited, only
`caption` has. The audit then recounts every shard, whatever the tasks say. All tasks are idempotent: clear any of them,
and only what is missing or damaged is made again.
"""

from __future__ import annotations

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Param, PartitionedAssetTimetable, task_group

from laion_people.orchestration.claims import claim, skip_unless_planned
from laion_people.orchestration.notifications import deadline
from laion_people.orchestration.releases import announced_version
from laion_people.orchestration.tasks import (
    CLUSTERED,
    DAG_DEFAULTS,
    FORCE_PARAM,
    PARTITION,
    UNLESS_FORCED,
    VERSION_SCHEMA,
    audit_task,
    dag_settings,
    step_task,
    worker_task,
)

PARAMS = FORCE_PARAM | {
    "clusters": Param(
        None,
        title="Cluster version",
        description="For example v0001. Empty: the one announced to this run, or the newest if it is started by hand.",
        **VERSION_SCHEMA,
    ),
}
CHOSEN = "{{ params.clusters or announced_version(triggering_asset_events) }}"
CLAIM = {"pre_execute": claim, "inlets": [CLUSTERED]}

with DAG(
    "laion_people_caption",
    schedule=PartitionedAssetTimetable(assets=CLUSTERED),
    params=PARAMS,
    max_active_runs=2,
    is_paused_upon_creation=False,  # a paused DAG loses the keys that are announced to it
    user_defined_macros={"announced_version": announced_version},
    deadline=deadline(dag_settings()),
    doc_md=__doc__,
    **DAG_DEFAULTS,
):
    plan = worker_task(
        "plan",
        "shard-groups",
        "--stage",
        "caption",
        partitions=PARTITION,
        clusters=CHOSEN,
        flags=UNLESS_FORCED,
        priority_weight=10,  # handed on downstream: a partition's last stage goes before the first stages of others
        max_active_tis_per_dag=1,  # so that two runs never claim at the same time
        **CLAIM,
    )

    @task_group
    def shards(group):
        assign, compose, embed, caption, _ = (
            step_task(step, shards=group, clusters=CHOSEN, **CLAIM)
            for step in ("assign", "compose", "embed", "caption", "describe")
        )
        assign >> compose
        [assign, embed] >> caption

    audit = audit_task("caption", clusters=CHOSEN, pre_execute=skip_unless_planned)
    done = EmptyOperator(
        task_id="done",  # or a run whose audit is skipped would look as if it had ended well
        doc_md="Ends the run, whose state is its own: failed unless `plan` and `audit` have succeeded.",
    )
    shards.expand(group=plan.output) >> audit
    [plan, audit] >> done
