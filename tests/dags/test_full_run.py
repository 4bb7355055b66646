"""The four DAGs in a real Airflow, with the real worker, on a few images of the built-in sample."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from laion_people.demo import DAGS, SAMPLE, log_path, run_dags, serve_sample
from laion_people.local_airflow import ROOT, LocalAirflow, free_port

PARTITION = "tiny/00000"
EXTRACT = "laion_people_extract"
IMAGES = 8
MOST_SECONDS = 120

TINY_PART = """
import sys, pyarrow as pa, pyarrow.parquet as pq
source, target, port, count = sys.argv[1:]
rows = [r for r in pq.read_table(source).to_pylist() if (r["URL"] or "").endswith(".jpg") and "/broken" not in r["URL"]]
rows = sorted(rows, key=lambda r: r["URL"])[: int(count)]
rows = [r | {"URL": r["URL"].replace(":18484/", f":{port}/")} for r in rows]
pq.write_table(pa.Table.from_pylist(rows), target)
"""


class Deployment:
    """An Airflow, its store and the run of the extracting DAG."""

    def __init__(self, folder: Path, image_port: int):
        self.store = folder / "store"
        part = self.store / "metadata" / "tiny" / "part-00000-tiny.parquet"
        part.parent.mkdir(parents=True)
        worker = ROOT / ".venv" / "worker" / "bin" / "python"
        arguments = [SAMPLE / "part-00000-sample.parquet", part, str(image_port), str(IMAGES)]
        subprocess.run([worker, "-c", TINY_PART, *arguments], check=True)
        environ = {
            "LAION_PEOPLE_STORE": str(self.store),
            "LAION_PEOPLE_SHARD_ROWS": str(IMAGES // 2),
            "LAION_PEOPLE_ALLOW_PRIVATE_ADDRESSES": "1",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        }
        self.airflow = LocalAirflow(folder / "airflow", free_port(), os.environ | environ)

    def run(self, dag: str) -> dict[str, Any]:
        """The DAG's newest run."""
        return self.airflow.request("GET", f"/dags/{dag}/dagRuns?order_by=-run_after")["dag_runs"][0]

    def tasks(self, dag: str) -> dict[str, dict[str, Any]]:
        """The task instances of the DAG's newest run, by task."""
        path = f"/dags/{dag}/dagRuns/{self.run(dag)['dag_run_id']}/taskInstances"
        return {task["task_id"]: task for task in self.airflow.request("GET", path)["task_instances"]}

    def clear(self, task: str) -> dict[str, dict[str, Any]]:
        """Clears a task of the extracting run, as the UI does, and returns all tasks when the run has ended again."""
        before = self.tasks(EXTRACT)[task]["try_number"]
        run_id = self.run(EXTRACT)["dag_run_id"]
        body = {"dry_run": False, "only_failed": False, "task_ids": [task], "dag_run_id": run_id}
        self.airflow.request("POST", f"/dags/{EXTRACT}/clearTaskInstances", body)
        deadline = time.monotonic() + MOST_SECONDS
        while time.monotonic() < deadline:
            now = self.tasks(EXTRACT)
            if now[task]["try_number"] > before and self.run(EXTRACT)["state"] in ("success", "failed"):
                return now
            time.sleep(1)
        raise AssertionError(f"{task} has not ended after {MOST_SECONDS} s: {now[task]}")

    def log(self, task: dict[str, Any]) -> str:
        return log_path(self.airflow, task).read_text()

    def manifest(self, step: str, name: str = PARTITION) -> dict[str, Any]:
        return json.loads((self.store / "manifests" / step / f"{name}.json").read_bytes())

    def tables(self) -> dict[str, str]:
        """Path -> sha256 of every table of the partition."""
        return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(self.store.rglob("0000?.parquet"))}


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


def test_tasks_hand_on_where_the_manifest_is_and_never_data(deployment: Deployment) -> None:
    run_id = deployment.run(EXTRACT)["dag_run_id"]
    path = f"/dags/{EXTRACT}/dagRuns/{run_id}/taskInstances/shards.mesh/xcomEntries/return_value?map_index=0"
    value = deployment.airflow.request("GET", path)["value"]
    value = json.loads(value) if isinstance(value, str) else value
    assert set(value) == {"manifest", "sha256", "rows", "shards"}
    assert value["manifest"] == f"{deployment.store.as_uri()}/manifests/mesh/{PARTITION}.json"


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
