"""Runs that are killed, cleared and started again, in a real Airflow on PostgreSQL: nothing is lost or made twice."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import zip_longest
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow.parquet as pq
import pytest

from tests.dags.deployment import EXTRACT, IMAGES, PARTITION, Deployment, tables
from tests.dags.postgres import postgres
from tools.demo import DAGS, SAMPLE
from tools.local_airflow import ROOT

DISCOVER, _, CLUSTER, CAPTION = DAGS
MADE = ("images", "people", "pose", "mesh", "clip", "subset_a")  # by the extracting DAG
MOST_SECONDS = 900
SETTINGS = {
    "PYTHONHASHSEED": "2",
    "LAION_PEOPLE_URL_TIMEOUT": str(MOST_SECONDS),
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "20",
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "600",
}


class Images(ThreadingHTTPServer):
    """Serves the sample; requests for the paths in ``held`` wait until they are let go."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), partial(ImageHandler, directory=str(SAMPLE)))
        self.held: set[str] = set()
        self.reached, self.let_go = threading.Event(), threading.Event()


class ImageHandler(SimpleHTTPRequestHandler):
    server: Images

    def do_GET(self) -> None:
        if self.path in self.server.held:
            self.server.reached.set()
            self.server.let_go.wait(MOST_SECONDS)
        super().do_GET()

    def log_message(self, *args: Any) -> None:
        """Requests are what the download reports on."""


@dataclass
class Interrupted:
    """A deployment whose first extracting run was killed in the middle of its download, and has then ended."""

    deployment: Deployment
    killed: list[str]  # command lines
    undisturbed: dict[str, str]  # path -> sha256 of the tables that the same steps make when nobody interrupts them
    first: dict[str, str]  # DAG -> id of its first run


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Interrupted]:
    folder = tmp_path_factory.mktemp("rerun")
    with Images() as images, postgres() as url:
        threading.Thread(target=images.serve_forever, daemon=True).start()
        database = {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": url}
        deployment = Deployment(folder, images.server_port, SETTINGS | database)
        reference = start_reference(deployment, folder / "undisturbed")
        try:
            deployment.airflow.start()
            assert reference.wait(MOST_SECONDS) == 0
            undisturbed = tables(folder / "undisturbed")
            killed = kill_in_the_middle(deployment, images)
            settle(deployment, caption_runs=1)
            first = {dag: deployment.run(dag)["dag_run_id"] for dag in (EXTRACT, CLUSTER, CAPTION)}
            yield Interrupted(deployment, killed, undisturbed, first)
        finally:
            reference.kill()
            deployment.airflow.stop()
            images.let_go.set()
            images.shutdown()


def start_reference(deployment: Deployment, store: Path) -> subprocess.Popen[bytes]:
    """Runs every step without Airflow on a copy of the metadata."""
    part = next((deployment.store / "metadata").rglob("*.parquet"))
    copy = store / part.relative_to(deployment.store)
    copy.parent.mkdir(parents=True)
    copy.write_bytes(part.read_bytes())
    command = [ROOT / "bin" / "laion-people", "pipeline", PARTITION, "--store", str(store)]
    environ = deployment.environ | {"PYTHONHASHSEED": "1"}  # the order of sets must not show
    return subprocess.Popen(command, env=environ, cwd=ROOT)


def kill_in_the_middle(deployment: Deployment, images: Images) -> list[str]:
    """Starts the chain of DAGs; kills scheduler and tasks when one shard is downloaded and the other half done."""
    airflow = deployment.airflow
    urls = pq.read_table(next((deployment.store / "metadata").rglob("*.parquet")))["URL"].to_pylist()
    images.held = {urlsplit(url).path for url in urls[IMAGES // 2 + 1 :]}
    wait_until(lambda: airflow.request("GET", "/dags")["total_entries"] >= len(DAGS))
    conf = {"logical_date": None, "conf": {"partitions": [PARTITION]}}
    airflow.request("POST", f"/dags/{DISCOVER}/dagRuns", conf)
    manifests = deployment.store / "manifests" / "download" / PARTITION
    wait_until(lambda: images.reached.is_set() and (manifests / "00000.json").exists())
    assert not (manifests / "00001.json").exists()
    killed = deployment.restart_scheduler()
    images.let_go.set()
    return killed


def settle(deployment: Deployment, caption_runs: int) -> None:
    """Waits until so many runs of the last DAG were made and every run has ended; tries failed tasks again at once."""
    path = f"/dags/{CAPTION}/dagRuns"

    def settled() -> bool:
        for run in deployment.active():
            for task in instances(deployment, run["dag_id"], run["dag_run_id"]):
                if task["state"] == "up_for_retry":
                    deployment.start_clear(task["task_id"], dag=run["dag_id"], run_id=run["dag_run_id"])
        made = deployment.airflow.request("GET", path)["total_entries"]
        return made >= caption_runs and not deployment.active()

    wait_until(settled)
    runs = deployment.airflow.request("GET", "/dags/~/dagRuns?limit=100")["dag_runs"]
    assert {run["state"] for run in runs} == {"success"}, runs


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + MOST_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(1)


def instances(deployment: Deployment, dag: str, run_id: str) -> list[dict[str, Any]]:
    """The task instances of a run, mapped ones each."""
    path = f"/dags/{dag}/dagRuns/{run_id}/taskInstances?limit=200"
    tasks: list[dict[str, Any]] = deployment.airflow.request("GET", path)["task_instances"]
    return tasks


def written(deployment: Deployment, *folders: str) -> dict[str, int]:
    """When (ns) each file below these folders was written."""
    files = [p for folder in folders for p in (deployment.store / folder).rglob("*") if p.is_file()]
    return {str(p): p.stat().st_mtime_ns for p in files}


def trigger(deployment: Deployment, **params: Any) -> list[dict[str, Any]]:
    """Runs the extracting DAG on the partition; returns its task instances when it has ended well."""
    conf = {"logical_date": None, "partition_key": PARTITION, "conf": params}
    run = deployment.airflow.request("POST", f"/dags/{EXTRACT}/dagRuns", conf)
    wait_until(lambda: not deployment.active())
    assert deployment.run(EXTRACT)["state"] == "success"
    return instances(deployment, EXTRACT, run["dag_run_id"])


def test_a_run_whose_scheduler_and_worker_are_killed_ends_green_with_the_same_tables(interrupted: Interrupted) -> None:
    deployment = interrupted.deployment
    assert any("laion_people.cli run download" in command for command in interrupted.killed)
    assert any("supervisor" in command or "scheduler" in command for command in interrupted.killed)
    run = instances(deployment, EXTRACT, interrupted.first[EXTRACT])
    (download,) = (task for task in run if task["task_id"] == "shards.download")
    assert download["try_number"] > 1
    assert "shard 00000 (1 of 2): done before" in deployment.log(download)
    assert "shard 00001 (2 of 2): starts (new)" in deployment.log(download)
    assert deployment.tables() == interrupted.undisturbed
    assert deployment.manifest("download")["rows"] == IMAGES


def test_a_cleared_task_makes_the_missing_shards_alone_and_all_dags_follow(interrupted: Interrupted) -> None:
    deployment = interrupted.deployment
    for table in MADE:
        for file in (deployment.store / table / PARTITION).glob("00001*"):
            file.unlink()
    before = written(deployment, *MADE)
    deployment.start_clear("shards.download", downstream=True, run_id=interrupted.first[EXTRACT])
    settle(deployment, caption_runs=2)
    assert deployment.tables() == interrupted.undisturbed
    after = written(deployment, *MADE)
    assert {path: after[path] for path in before} == before
    assert len(deployment.airflow.request("GET", f"/dags/{CLUSTER}/dagRuns")["dag_runs"]) == 2


def test_each_task_may_be_cleared_and_nothing_is_lost_or_made_twice(interrupted: Interrupted) -> None:
    deployment, first = interrupted.deployment, interrupted.first
    shards = written(deployment, *MADE, "assignments", "subset_b", "subset_c")
    tasks = {dag: sorted({task["task_id"] for task in instances(deployment, dag, first[dag])}) for dag in first}
    tasks[EXTRACT].remove("announce")  # which was cleared with download
    for group in zip_longest(*tasks.values()):  # the first task of each DAG, the second of each, ...
        cleared = {dag: task for dag, task in zip(tasks, group, strict=True) if task}
        for dag, task in cleared.items():
            deployment.start_clear(task, dag=dag, run_id=first[dag])
        wait_until(lambda: not deployment.active())
        for dag, task in cleared.items():
            states = {t["state"] for t in instances(deployment, dag, first[dag]) if t["task_id"] == task}
            assert states <= {"success", "skipped"}, (dag, task, states)
    settle(deployment, caption_runs=3)  # the cluster DAG has announced the partition again
    assert deployment.tables() == interrupted.undisturbed
    assert written(deployment, *MADE, "assignments", "subset_b", "subset_c") == shards


def test_another_threshold_makes_subset_a_again_and_nothing_else(interrupted: Interrupted) -> None:
    deployment = interrupted.deployment
    deployment.airflow.request("PATCH", f"/dags/{CLUSTER}", {"is_paused": True})  # which has nothing to do with it
    rest = written(deployment, *(table for table in MADE if table != "subset_a"))
    assert deployment.manifest("subset_a")["rows"] > 0
    tasks = trigger(deployment, threshold=1, only_failed_shards=True)
    assert [t["rendered_map_index"] for t in tasks if t["task_id"] == "shards.clip_filter"] == ["shards 0-1"]
    assert deployment.manifest("subset_a")["rows"] == 0
    assert deployment.manifest("subset_a")["params"]["threshold"] == 1
    assert written(deployment, *(table for table in MADE if table != "subset_a")) == rest


def test_a_run_for_failed_shards_that_finds_none_ends_at_once_and_says_so(interrupted: Interrupted) -> None:
    deployment = interrupted.deployment
    tasks = {task["task_id"]: task for task in trigger(deployment, threshold=1, only_failed_shards=True)}
    assert tasks["shards.detect"]["state"] == "skipped"
    assert tasks["audit"]["state"] == "success"
    assert "nothing to do: every shard is done" in deployment.log(tasks["plan"])
