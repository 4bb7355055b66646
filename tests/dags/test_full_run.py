"""The four DAGs in a real Airflow, with the real worker, on a few images of the built-in sample."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.dags.deployment import EXTRACT, IMAGES, PARTITION, Deployment
from tools.demo import DAGS, run_dags, serve_sample
from tools.local_airflow import free_port


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    port = free_port()
    with serve_sample(port):
        deployment = Deployment(tmp_path_factory.mktemp("full"), port)
        try:
            deployment.airflow.start()
            run_dags(deployment.airflow, PARTITION)
            yield deployment
        finally:
            deployment.airflow.stop()


def test_a_partition_goes_from_metadata_to_captions_through_all_dags(deployment: Deployment) -> None:
    for dag, key in zip(DAGS, (None, PARTITION, "tiny", PARTITION), strict=True):
        assert (deployment.run(dag)["state"], deployment.run(dag)["partition_key"]) == ("success", key)
    assert deployment.manifest("download")["rows"] == IMAGES
    people = deployment.manifest("detect")["rows"]
    assert people >= IMAGES / 2
    for step in ("pose", "mesh", "clip_filter", "assign"):
        assert deployment.manifest(step)["rows"] == people
    assert deployment.manifest("label", "v0001")["rows"] == deployment.manifest("cluster", "v0001")["rows"] > 0
    assert deployment.manifest("caption")["rows_in"] > 0


def test_every_task_succeeds_but_the_one_that_nobody_asked_for(deployment: Deployment) -> None:
    for dag in DAGS:
        path = f"/dags/{dag}/dagRuns/{deployment.run(dag)['dag_run_id']}/taskInstances"
        states = {(t["task_id"], t["state"]) for t in deployment.airflow.request("GET", path)["task_instances"]}
        assert {task for task, state in states if state != "success"} <= {"shards.describe", "review", "relabel"}
        assert ("audit", "success") in states or not {task for task, _ in states if task.startswith("shards.")}


def test_tasks_hand_on_where_the_manifest_is_and_never_data(deployment: Deployment) -> None:
    run_id = deployment.run(EXTRACT)["dag_run_id"]
    path = f"/dags/{EXTRACT}/dagRuns/{run_id}/taskInstances/shards.mesh/xcomEntries/return_value?map_index=0"
    value = deployment.airflow.request("GET", path)["value"]
    value = json.loads(value) if isinstance(value, str) else value
    assert set(value) == {"manifests", "rows", "shards"}
    folder = f"{deployment.store.as_uri()}/manifests"
    named = [manifest["uri"] for manifest in value["manifests"]]
    assert named == [f"{folder}/{step}/{PARTITION}/0000{index}.json" for step in ("mesh", "facts") for index in (0, 1)]


def test_a_cleared_task_ends_green_makes_what_is_missing_and_duplicates_nothing(deployment: Deployment) -> None:
    before = deployment.tables()
    (deployment.store / "people" / PARTITION / "00001.parquet").unlink()
    tasks = deployment.clear("shards.detect")
    assert tasks["shards.detect"]["state"] == "success"
    assert "shard 00000 (1 of 2): done before" in deployment.log(tasks["shards.detect"])
    assert deployment.tables() == before


def test_the_audit_turns_a_shard_red_that_is_gone_behind_a_green_task(deployment: Deployment) -> None:
    before = deployment.tables()
    (deployment.store / "pose" / PARTITION / "00001.parquet").unlink()
    tasks = deployment.clear("audit")
    assert tasks["shards.pose"]["state"] == "success"
    assert tasks["audit"]["state"] == "failed"
    assert f"pose {PARTITION} shard 00001: pose/{PARTITION}/00001.parquet is missing" in deployment.log(tasks["audit"])
    deployment.clear("shards.pose")
    assert deployment.clear("audit")["audit"]["state"] == "success"
    assert deployment.tables() == before
