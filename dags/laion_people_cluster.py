"""### Clusters the people of a release

A run each time that a partition has been extracted; its key is the collection. The gate counts what the store holds and
skips the rest until every partition of the collection is extracted.

| task | reads -> writes | where |
|---|---|---|
| cluster | pose, mesh of the release -> clusters | CPU; skipped when the run is given a cluster version |
| label | clusters -> captions, clusters | CPU |
| review | captions -> a person's answer | the UI; skipped unless `review` is on |
| relabel | captions as edited -> clusters | CPU; skipped with review |

`freeze` then announces the partitions, with the cluster version, to `laion_people_caption`. The same people and
parameters give the same version again. **After captions were edited, trigger this DAG with their cluster version**:
nothing is fitted, and Subset C is made again from stored vectors, without a look at any image.
"""

from __future__ import annotations

from airflow.sdk import DAG, Param, PartitionedAssetTimetable, task

from laion_people.notifications import deadline
from laion_people.operators import (
    CLUSTERED,
    DAG_DEFAULTS,
    EXTRACTED,
    FORCE,
    PARTITIONS_SCHEMA,
    dag_settings,
    partitions_of_release,
    partitions_of_version,
    review_by_default,
    skip_when_version_given,
    step_task,
    version_of,
    worker_task,
)
from laion_people.review import ReviewOperator

PARAMS = {
    "clusters": Param(
        None,
        type=["null", "string"],
        pattern="^v[0-9]{4}$",
        title="Cluster version",
        description="A version that exists, for example v0001, to take up edited captions. Empty: fit the clusters.",
    ),
    "partitions": Param(
        [],
        title="Partitions",
        description="For example laion2B-en/00042. Empty: all of the run's collection, or of the cluster version.",
        **PARTITIONS_SCHEMA,
    ),
    "review": Param(review_by_default(), type="boolean", title="Review", description="Wait for a person's approval."),
    "captions": Param(
        None,
        type=["null", "string"],
        pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*\.yaml$",
        title="Other captions",
        description="A file of the store, for example captions/hands.yaml, to take instead of making. Edits stay.",
    ),
    "force": Param(False, type="boolean", title="Force", description="Fit again what was fitted: a new version."),
}
ANY = "none_failed_min_one_success"
VERSION = "{{ params.clusters or version_of(ti.xcom_pull(task_ids='cluster')) }}"

with DAG(
    "laion_people_cluster",
    schedule=PartitionedAssetTimetable(assets=EXTRACTED),
    params=PARAMS,
    max_active_runs=16,  # one that waits for a person holds up no other
    is_paused_upon_creation=False,  # a paused DAG loses the keys that are announced to it
    user_defined_macros={"version_of": version_of},
    deadline=deadline(dag_settings()),
    doc_md=__doc__,
    **DAG_DEFAULTS,
):

    @task
    def gate(state, params, dag_run):
        """Picks the partitions of the release, or skips the rest of the run. Clear it with its downstream tasks.
        Failures: docs/operations.md, "Runs and their parameters"."""
        asked = params["partitions"] or (partitions_of_version(params["clusters"]) if params["clusters"] else [])
        return partitions_of_release(state, dag_run.partition_key, asked)

    @task(outlets=[CLUSTERED], trigger_rule=ANY)
    def freeze(release, version, outlet_events):
        """Announces the partitions with the cluster version: each gets a run of `laion_people_caption`. Clear it to
        announce them again; what is done stays done."""
        outlet_events[CLUSTERED].extra = {"clusters": version}
        outlet_events[CLUSTERED].add_partitions(release)

    release = gate(worker_task("count", "partitions").output)
    cluster = step_task(
        "cluster",
        partitions=release,
        flags=FORCE,
        pre_execute=skip_when_version_given,
        max_active_tis_per_dag=1,  # for it takes the next number as its version
    )
    versioned = {"partitions": release, "clusters": VERSION}
    label = step_task("label", overrides={"captions": "{{ params.captions }}"}, trigger_rule=ANY, **versioned)
    relabel = worker_task("relabel", "run", "label", **versioned)
    frozen = freeze(release, VERSION)
    cluster >> label >> ReviewOperator(task_id="review", version=VERSION) >> relabel >> frozen
    label >> frozen
