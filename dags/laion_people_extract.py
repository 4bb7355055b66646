"""### Extracts the people of one partition

A run for each partition that `laion_people_discover` or `laion_people_backfill` announces; or trigger it with a
partition key. A run that finds another at work on its partition ends at once.

| task | reads -> writes | where |
|---|---|---|
| download | metadata -> images | network |
| detect | images -> people | GPU |
| pose | images, people -> pose | GPU |
| mesh | images, people, pose -> mesh, facts | CPU |
| clip_filter | images, people -> clip, subset_a | GPU |

Each step is mapped over groups of shards. The audit then recounts every shard, whatever the tasks say. All tasks are
idempotent: clear any of them, and only what is missing or damaged is made again.
"""

from __future__ import annotations

from airflow.sdk import DAG, Param, task, task_group

from laion_people.dates import first_days
from laion_people.orchestration.claims import claim, skip_unless_planned
from laion_people.orchestration.notifications import deadline
from laion_people.orchestration.tasks import (
    DAG_DEFAULTS,
    EXTRACTED,
    FLAGS,
    FORCE_PARAM,
    METADATA,
    ONLY_FAILED,
    ONLY_FAILED_PARAM,
    OVERRIDES,
    PARTITION,
    audit_task,
    dag_settings,
    step_task,
    worker_task,
)
from laion_people.orchestration.timetables import PartitionDates, PartitionTimetable

PARAMS = (
    ONLY_FAILED_PARAM
    | FORCE_PARAM
    | {
        "retry_failed_rows": Param(
            False,
            type="boolean",
            title="Retry failed rows",
            description="Download rows again that failed for a reason that may pass, such as a timeout, and no others.",
        ),
        "threshold": Param(
            None,
            type=["null", "number"],
            minimum=-1,
            maximum=1,
            title="Threshold of Subset A",
            description="Similarity above which a person is in Subset A, for this run alone; no model runs for it. "
            "Empty: LAION_PEOPLE_THRESHOLD, else the profile's; a later run without this parameter goes back to that.",
        ),
    }
)
CLAIM = {"pre_execute": claim, "inlets": [METADATA]}

with DAG(
    "laion_people_extract",
    schedule=PartitionTimetable(
        assets=METADATA, default_partition_mapper=PartitionDates(first_days(dag_settings().first_days))
    ),
    params=PARAMS,
    max_active_runs=dag_settings().partitions_at_once,
    is_paused_upon_creation=False,  # a paused DAG loses the keys that are announced to it
    deadline=deadline(dag_settings()),
    doc_md=__doc__,
    **DAG_DEFAULTS,
):
    plan = worker_task(
        "plan",
        "shard-groups",
        "--stage",
        "extract",
        partitions=PARTITION,
        overrides=OVERRIDES,
        flags=ONLY_FAILED | FLAGS,
        max_active_tis_per_dag=1,  # so that two runs never claim at the same time
        **CLAIM,
    )

    @task_group
    def shards(group):
        download, detect, pose, mesh, clip_filter = (
            step_task(step, shards=group, **CLAIM) for step in ("download", "detect", "pose", "mesh", "clip_filter")
        )
        download >> detect >> [pose, clip_filter]
        pose >> mesh

    audit = audit_task("extract", overrides=OVERRIDES, pre_execute=skip_unless_planned)

    @task(outlets=[EXTRACTED])
    def announce(dag_run, outlet_events):
        """Announces the collection: `laion_people_cluster` looks whether it is extracted. Clear it at any time."""
        outlet_events[EXTRACTED].add_partitions([dag_run.partition_key.partition("/")[0]])

    shards.expand(group=plan.output) >> audit
    [plan, audit] >> announce()
