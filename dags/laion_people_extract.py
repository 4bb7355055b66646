"""### Extracts the people of one partition

A run for each partition that `laion_people_discover` announces; or trigger it with a partition key.

| task | reads -> writes | where |
|---|---|---|
| download | metadata -> images | network |
| detect | images -> people | GPU |
| pose | images, people -> pose | GPU |
| mesh | images, people, pose -> mesh | CPU |
| clip_filter | images, people -> clip, subset_a | GPU |

Each step is mapped over groups of shards. The audit then recounts every shard, whatever the tasks say. All tasks are
idempotent: clear any of them, and only what is missing or damaged is made again.
"""

from __future__ import annotations

from airflow.sdk import DAG, PartitionedAssetTimetable, task, task_group

from laion_people.operators import (
    DAG_DEFAULTS,
    EXTRACTED,
    GPU_POOL,
    METADATA,
    NETWORK_POOL,
    PARTITION,
    audit_task,
    step_task,
    worker_task,
)

with DAG(
    "laion_people_extract",
    schedule=PartitionedAssetTimetable(assets=METADATA),
    max_active_runs=2,
    is_paused_upon_creation=False,  # a paused DAG loses the keys that are announced to it
    doc_md=__doc__,
    **DAG_DEFAULTS,
):
    plan = worker_task("plan", "shard-groups", "--stage", "extract", partitions=PARTITION)

    @task_group
    def shards(group):
        download = step_task("download", shards=group, pool=NETWORK_POOL)
        detect = step_task("detect", shards=group, pool=GPU_POOL)
        pose = step_task("pose", shards=group, pool=GPU_POOL)
        mesh = step_task("mesh", shards=group)
        clip_filter = step_task("clip_filter", shards=group, pool=GPU_POOL)
        download >> detect >> [pose, clip_filter]
        pose >> mesh

    audit = audit_task("extract")

    @task(outlets=[EXTRACTED])
    def announce(dag_run, outlet_events):
        outlet_events[EXTRACTED].add_partitions([dag_run.partition_key.partition("/")[0]])

    shards.expand(group=plan.output) >> audit >> announce()
