"""The extracting DAG as pods, in a real Airflow on a cluster where things go wrong: see fake_kubernetes.py.

One run meets a pod that fails, one that vanishes and a scheduler that dies in the middle of a third.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.dags.deployment import EXTRACT, IMAGES, PARTITION, Deployment
from tests.dags.fake_kubernetes import FAIL, LIE, VANISH, WAIT, FakeKubernetes
from tools.demo import serve_sample
from tools.local_airflow import ROOT, free_port

STEPS = ("download", "detect", "pose", "mesh", "clip_filter")
MOST_SECONDS = 600
SETTINGS = {
    "LAION_PEOPLE_RUNNER": "kubernetes",
    "LAION_PEOPLE_POD_IMAGE": "registry.example.org/laion-people-worker:0.1.0",
    "LAION_PEOPLE_POD_STORE_CLAIM": "store",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "20",
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "600",
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeKubernetes]:
    with FakeKubernetes(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, cluster: FakeKubernetes) -> Iterator[Deployment]:
    port = free_port()
    with serve_sample(port):
        folder = tmp_path_factory.mktemp("kubernetes")
        (folder / "dags").mkdir()
        shutil.copy(ROOT / "dags" / f"{EXTRACT}.py", folder / "dags")
        dags = {"AIRFLOW__CORE__DAGS_FOLDER": str(folder / "dags")}
        deployment = Deployment(folder, port, cluster.environ | SETTINGS | dags)
        try:
            deployment.airflow.start()
            cluster.fate("detect", FAIL)
            cluster.fate("clip_filter", VANISH)
            cluster.fate("mesh", WAIT)
            run_extraction(deployment, cluster)
            yield deployment
        finally:
            deployment.airflow.stop()


def run_extraction(deployment: Deployment, cluster: FakeKubernetes) -> None:
    """Runs the DAG to its end; tries at once again what waits for its retry, and kills the scheduler under a pod."""
    airflow, start = deployment.airflow, time.monotonic()
    while not airflow.request("GET", "/dags")["total_entries"]:
        time.sleep(1)
    airflow.request("POST", f"/dags/{EXTRACT}/dagRuns", {"logical_date": None, "partition_key": PARTITION})
    restarted = False
    while deployment.run(EXTRACT)["state"] not in ("success", "failed"):
        assert time.monotonic() - start < MOST_SECONDS, deployment.tasks(EXTRACT)
        tasks = deployment.tasks(EXTRACT)
        for name in (name for name, task in tasks.items() if task["state"] == "up_for_retry"):
            deployment.start_clear(name)
        if cluster.pods_of("mesh") and not restarted:
            deployment.restart_scheduler()
            restarted = True
        if tasks.get("shards.mesh", {}).get("try_number", 0) > 1 and tasks["shards.mesh"]["state"] == "running":
            cluster.release()
        time.sleep(1)


def first_attempt(task: dict[str, Any]) -> dict[str, Any]:
    return task | {"try_number": 1}


def test_the_whole_extraction_runs_in_pods_and_passes_the_audit(
    deployment: Deployment, cluster: FakeKubernetes
) -> None:
    assert (deployment.run(EXTRACT)["state"], deployment.run(EXTRACT)["partition_key"]) == ("success", PARTITION)
    for task in ("plan", *STEPS, "audit"):
        assert cluster.pods_of(task), task
    assert deployment.manifest("download")["rows"] == IMAGES
    people = deployment.manifest("detect")["rows"]
    assert people >= IMAGES / 2
    for step in ("pose", "mesh", "clip_filter"):
        assert deployment.manifest(step)["rows"] == people  # each once, whatever became of pods and scheduler
        assert deployment.manifest(step)["run_id"] == deployment.run(EXTRACT)["dag_run_id"]


def test_a_pod_that_fails_says_why_and_is_tried_again(deployment: Deployment, cluster: FakeKubernetes) -> None:
    task = deployment.tasks(EXTRACT)["shards.detect"]
    assert (task["state"], task["try_number"], len(cluster.pods_of("detect"))) == ("success", 2, 2)
    assert '"AirflowException","exc_value":"laion-people: no luck"' in deployment.log(first_attempt(task))


def test_a_pod_that_vanishes_does_not_leave_its_task_green(deployment: Deployment, cluster: FakeKubernetes) -> None:
    task = deployment.tasks(EXTRACT)["shards.clip_filter"]
    assert (task["state"], len(cluster.pods_of("clip_filter"))) == ("success", 2)
    assert "is gone: it was deleted, or lost with its node" in deployment.log(first_attempt(task))


def test_a_scheduler_that_dies_finds_its_pod_again(deployment: Deployment, cluster: FakeKubernetes) -> None:
    task = deployment.tasks(EXTRACT)["shards.mesh"]
    assert (task["state"], len(cluster.pods_of("mesh"))) == ("success", 1)
    assert task["try_number"] > 1
    assert "Reconnecting to pod" in deployment.log(task)


def test_a_pod_that_is_green_with_nothing_written_turns_the_run_red(
    deployment: Deployment, cluster: FakeKubernetes
) -> None:
    (deployment.store / "clip" / PARTITION / "00001.parquet").unlink()
    cluster.fate("clip_filter", LIE)
    assert deployment.clear("shards.clip_filter")["shards.clip_filter"]["state"] == "success"
    tasks = deployment.clear("audit", downstream=True)
    assert (tasks["audit"]["state"], deployment.run(EXTRACT)["state"]) == ("failed", "failed")
    fault = f"clip_filter {PARTITION} shard 00001: clip/{PARTITION}/00001.parquet is missing"
    assert fault in deployment.log(tasks["audit"])
