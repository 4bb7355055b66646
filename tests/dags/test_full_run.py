"""The DAGs in a real Airflow, with the real worker, on a few images of the built-in sample: from metadata to captions,
then to a publication, and without somebody who wants to be out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.dags.deployment import EXTRACT, IMAGES, PARTITION, Deployment
from tools.demo import DAGS, run_dags, serve_sample
from tools.local_airflow import free_port

PUBLISH, REMOVE = "laion_people_publish", "laion_people_remove"


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


def test_a_person_approves_what_is_published(deployment: Deployment) -> None:
    run_id = deployment.start_run(PUBLISH, release="tiny-people", version="1.0.0")
    asked = deployment.question(PUBLISH, run_id)
    assert asked["subject"] == "Publish tiny-people 1.0.0?"
    assert "would be published of cluster version v0001" in asked["body"]
    assert not (deployment.store / "releases/tiny-people/1.0.0").exists()
    assert deployment.answer(PUBLISH, "approve", run_id, "Approve") == "success"
    (kept,) = json.loads((deployment.store / "releases/tiny-people/approvals.json").read_bytes())
    assert (kept["answer"], kept["by"], kept["run_id"]) == ("Approve", "admin", run_id)
    assert kept["rows"]["people"] == deployment.manifest("detect")["rows"]
    assert published(deployment) == {"1.0.0"}


def test_a_version_that_exists_is_not_published_again(deployment: Deployment) -> None:
    run_id = deployment.start_run(PUBLISH, release="tiny-people", version="1.0.0", approval=False)
    assert deployment.ended(PUBLISH, run_id) == "failed"
    tasks = deployment.tasks(PUBLISH)
    assert (tasks["check"]["state"], tasks["publish"]["state"]) == ("failed", "upstream_failed")
    assert "tiny-people 1.0.0 was published at" in deployment.log(tasks["check"])


def test_who_wants_to_be_out_is_out_and_airflow_repeats_no_address(deployment: Deployment) -> None:
    before = urls(deployment)
    url = before[0]
    run_id = deployment.start_run(REMOVE, reason="asked for by mail", kind="url", secret_names=[url])
    assert deployment.ended(REMOVE, run_id) == "success"
    assert url not in urls(deployment) and set(urls(deployment)) == set(before) - {url}
    (record,) = (json.loads(path.read_bytes()) for path in (deployment.store / "removals").glob("*.json"))
    assert (record["by"], record["reason"], record["asked"]) == ("admin", "asked for by mail", {"url": 1})
    assert record["done"]
    assert not list((deployment.store / "removals").rglob("*.txt"))
    assert published(deployment) == {"1.0.1"}

    repeated = [path for path in (deployment.airflow.home / "logs").rglob("*") if path.is_file() and said(path, url)]
    assert repeated == []
    path = f"/dags/{REMOVE}/dagRuns/{run_id}"
    assert url not in json.dumps(deployment.airflow.request("GET", f"{path}/taskInstances"))
    assert url not in json.dumps(deployment.airflow.request("GET", f"/eventLogs?dag_id={REMOVE}&limit=100"))
    deployment.airflow.request("DELETE", path)  # as docs/removals.md says: the run has kept its form
    assert url not in json.dumps(deployment.airflow.request("GET", f"/dags/{REMOVE}/dagRuns"))


def published(deployment: Deployment) -> set[str]:
    """The versions that are whole."""
    return {path.parent.name for path in (deployment.store / "releases/tiny-people").glob("*/release.json")}


def urls(deployment: Deployment) -> list[str]:
    """The addresses that people are known by, in the order of the tables."""
    paths = sorted((deployment.store / "people").rglob("*.parquet"))
    return [url for path in paths for url in pq.read_table(path, columns=["url"])["url"].to_pylist()]


def said(path: Path, text: str) -> bool:
    return text.encode() in path.read_bytes()
