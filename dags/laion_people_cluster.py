"""### Clusters the people of a release

A run each time that a partition has been extracted; its key is the collection. The gate counts what the store holds and
skips the rest until every partition of the collection is extracted.

| task | reads -> writes | where |
|---|---|---|
| cluster | pose, mesh of the release -> clusters | CPU |
| label | clusters -> captions, clusters | CPU |

`freeze` then announces the partitions, with the cluster version, to `laion_people_caption`. The same people and
parameters give the same version again. To cluster some partitions only, trigger the DAG with them as the parameter
`partitions`.
"""

from __future__ import annotations

from airflow.sdk import DAG, Param, PartitionedAssetTimetable, task

from laion_people.operators import (
    CLUSTERED,
    DAG_DEFAULTS,
    EXTRACTED,
    PARTITIONS_SCHEMA,
    partitions_of_release,
    step_task,
    version_of,
    worker_task,
)

with DAG(
    "laion_people_cluster",
    schedule=PartitionedAssetTimetable(assets=EXTRACTED),
    params={"partitions": Param([], description="Keys to cluster; empty: the collection", **PARTITIONS_SCHEMA)},
    max_active_runs=1,
    is_paused_upon_creation=False,  # a paused DAG loses the keys that are announced to it
    user_defined_macros={"version_of": version_of},
    doc_md=__doc__,
    **DAG_DEFAULTS,
):

    @task
    def gate(state, params, dag_run):
        return partitions_of_release(state, dag_run.partition_key, params["partitions"])

    @task(outlets=[CLUSTERED])
    def freeze(release, fit, outlet_events):
        outlet_events[CLUSTERED].extra = {"clusters": version_of(fit)}
        outlet_events[CLUSTERED].add_partitions(release)

    release = gate(worker_task("count", "partitions").output)
    cluster = step_task("cluster", partitions=release)
    label = step_task("label", partitions=release, clusters="{{ version_of(ti.xcom_pull(task_ids='cluster')) }}")
    cluster >> label >> freeze(release, cluster.output)
