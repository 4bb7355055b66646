"""### Clusters the people of a release

A run each time that a partition has been extracted; its key is the collection. The gate skips the rest until the store
has every partition of the collection extracted and no run of `laion_people_extract` is at work on one.

| task | reads -> writes | where |
|---|---|---|
| cluster | pose, mesh of the release -> clusters | CPU; skipped when the run is given a cluster version |
| label | clusters -> captions, clusters | CPU |
| review | captions -> a person's answer | the UI; skipped unless `review` is on |
| relabel | captions as edited -> clusters | CPU; skipped with review |
| audit | clusters -> nothing | CPU |

`announce` then announces the partitions, with the cluster version, to `laion_people_caption`. The same people and
parameters give the same version again. **After captions were edited, trigger this DAG with their cluster version**:
nothing is fitted, and Subset C is made again from stored vectors, without a look at any image.
"""

from __future__ import annotations

from airflow.sdk import DAG, Param, PartitionedAssetTimetable, task

from laion_people.orchestration.claims import skip_while_extracted
from laion_people.orchestration.notifications import deadline
from laion_people.orchestration.releases import (
    partitions_of_release,
    partitions_of_version,
    skip_when_version_given,
    version_of,
)
from laion_people.orchestration.review import ReviewOperator
from laion_people.orchestration.tasks import (
    CAPTIONS_SCHEMA,
    CLUSTERED,
    DAG_DEFAULTS,
    EXTRACTED,
    METADATA,
    PARTITIONS_SCHEMA,
    VERSION_SCHEMA,
    audit_task,
    dag_settings,
    step_task,
    worker_task,
)

PARAMS = {
    "clusters": Param(
        None,
        title="Cluster version",
        description="A version that exists, for example v0001, to take up edited captions. Empty: fit the clusters.",
        **VERSION_SCHEMA,
    ),
    "partitions": Param(
        [],
        title="Partitions",
        description="For example laion2B-en/00042. Empty: all of the run's collection, or of the cluster version.",
        **PARTITIONS_SCHEMA,
    ),
    "review": Param(dag_settings().review, type="boolean", title="Review", description="Wait for a person's approval."),
    "captions": Param(
        None,
        title="Other captions",
        description="A file of the store, for example captions/hands.yaml, to take instead of making. Edits stay.",
        **CAPTIONS_SCHEMA,
    ),
    "force": Param(False, type="boolean", title="Force", description="Fit again what was fitted: a new version."),
}
ANY = "none_failed_min_one_success"
CHOSEN = "{{ params.clusters or version_of(ti.xcom_pull(task_ids='cluster')) }}"

with DAG(
    "laion_people_cluster",
    schedule=PartitionedAssetTimetable(assets=EXTRACTED),
    params=PARAMS,
    max_active_runs=16,  # counts those that wait for a person: each announcement of a release may make one
    is_paused_upon_creation=False,  # a paused DAG loses the keys that are announced to it
    user_defined_macros={"version_of": version_of},
    deadline=deadline(dag_settings()),
    doc_md=__doc__,
    **DAG_DEFAULTS,
):

    @task(inlets=[METADATA])
    def gate(state, **context):
        """Picks the partitions of the release, or skips the rest of the run. Clear it with its downstream tasks.
        Failures: docs/operations.md, "Runs and their parameters"."""
        params = context["params"]
        asked = params["partitions"] or (partitions_of_version(params["clusters"]) if params["clusters"] else [])
        release = partitions_of_release(state, context["dag_run"].partition_key, asked)
        if not asked:
            skip_while_extracted(context, release)
        return release

    @task(outlets=[CLUSTERED])
    def announce(release, version, outlet_events):
        """Announces the partitions with the cluster version: each gets a run of `laion_people_caption`. Clear it to
        announce them again; what is done stays done."""
        outlet_events[CLUSTERED].extra = {"clusters": version}
        outlet_events[CLUSTERED].add_partitions(release)

    release = gate(worker_task("count", "partitions").output)
    cluster = step_task(
        "cluster",
        partitions=release,
        pre_execute=skip_when_version_given,
        max_active_tis_per_dag=1,  # two would fit the same people twice
    )
    versioned = {
        "partitions": release,
        "clusters": CHOSEN,
        "overrides": {"captions": "{{ params.captions }}"},
        "max_active_tis_per_dag": 1,  # of each: of two that write clusters.parquet at once, the later one is right
    }
    label = step_task("label", trigger_rule=ANY, **versioned)
    relabel = worker_task("relabel", "run", "label", **versioned)
    audit = audit_task("cluster", partitions=release, clusters=CHOSEN, trigger_rule=ANY)
    cluster >> label >> ReviewOperator(task_id="review", version=CHOSEN) >> relabel >> audit
    label >> audit >> announce(release, CHOSEN)
