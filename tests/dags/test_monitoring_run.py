"""A run with a damaged shard in a real Airflow: who is notified of what, how often, and which metrics are sent."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from laion_people.storage.store import LocalStore
from tests.dags.deployment import EXTRACT, PARTITION, Deployment
from tests.dags.servers import Inbox, Statsd, serving
from tests.fakes import image_shard
from tools.local_airflow import free_port

SECONDS = 600
RETRY_SOON = """
from datetime import timedelta

def task_policy(task):
    task.retry_delay = timedelta(seconds=5)
"""


class Run:
    """What came of it: task instances, notifications by event, and the names of all metrics."""

    def __init__(self, deployment: Deployment, posts: list[dict[str, Any]], metrics: list[str]):
        self.deployment = deployment
        path = f"/dags/{EXTRACT}/dagRuns/{deployment.run(EXTRACT)['dag_run_id']}/taskInstances"
        self.tasks = deployment.airflow.request("GET", path)["task_instances"]
        self.posts, self.metrics = posts, metrics

    def notices(self, event: str) -> list[dict[str, Any]]:
        return [post for post in self.posts if post["event"] == event]

    def states(self, task: str) -> list[str]:
        return [t["state"] for t in sorted(self.tasks, key=lambda t: t["map_index"]) if t["task_id"] == task]


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A run on three shards made elsewhere, the second of which is cut off."""
    with serving(Inbox()) as inbox, serving(Statsd()) as statsd:
        webhook = {"conn_type": "http", "host": f"http://127.0.0.1:{inbox.port}/hook"}
        environ = {
            "AIRFLOW_CONN_LAION_PEOPLE_WEBHOOK": json.dumps(webhook),
            "AIRFLOW__METRICS__STATSD_ON": "True",
            "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
            "AIRFLOW__METRICS__STATSD_PORT": str(statsd.port),
            "LAION_PEOPLE_STATSD": f"127.0.0.1:{statsd.port}",
            "LAION_PEOPLE_DEADLINE_HOURS": "0.005",
            "LAION_PEOPLE_SHARDS_PER_TASK": "1",
        }
        deployment = Deployment(tmp_path_factory.mktemp("monitoring"), free_port(), environ)
        config = deployment.airflow.home / "config"
        config.mkdir(parents=True)
        (config / "airflow_local_settings.py").write_text(RETRY_SOON)
        for index in range(3):
            image_shard(LocalStore(deployment.store), PARTITION, index)
        cut = deployment.store / "images" / PARTITION / "00001.tar"
        cut.write_bytes(cut.read_bytes()[:3000])
        try:
            deployment.airflow.start()
            trigger(deployment)
            yield Run(deployment, [body for _, body in inbox.posts], statsd.metrics)
        finally:
            deployment.airflow.stop()


def trigger(deployment: Deployment) -> None:
    """Starts a run of the partition and waits until it has ended."""
    deadline = time.monotonic() + SECONDS
    while deployment.airflow.request("GET", f"/dags?dag_id_pattern={EXTRACT}")["total_entries"] == 0:
        assert time.monotonic() < deadline, "the DAG is not there"
        time.sleep(2)
    body = {"logical_date": None, "partition_key": PARTITION}
    deployment.airflow.request("POST", f"/dags/{EXTRACT}/dagRuns", body)
    while time.monotonic() < deadline:
        if deployment.run(EXTRACT)["state"] in ("success", "failed"):
            return
        time.sleep(2)
    raise AssertionError(f"the run has not ended after {SECONDS} s: {deployment.tasks(EXTRACT)}")


def test_each_failed_task_is_told_exactly_once_after_its_last_try(damaged: Run) -> None:
    assert damaged.states("shards.detect") == ["success", "failed", "success"]
    assert damaged.states("audit") == ["failed"]
    detect, audit = damaged.notices("failure")
    assert (detect["task"], detect["try"], detect["shards"]) == ("shards.detect (map index 1)", "3 of 3", "1")
    assert (audit["task"], audit["try"]) == ("audit", "2 of 2")
    assert detect["partition"] == audit["partition"] == PARTITION


def test_the_notification_and_the_log_end_with_shard_reason_and_what_to_do(damaged: Run) -> None:
    detect, audit = damaged.notices("failure")
    where = f"laion-people: detect {PARTITION} shard 00001 (1 of 1), "
    assert re.match(re.escape(where) + r"\d+ rows in, \d+ out: .*00001.tar is damaged", detect["reason"])
    task = next(t for t in damaged.tasks if t["task_id"] == "shards.detect" and t["map_index"] == 1)
    assert detect["reason"] in damaged.deployment.log(task)
    assert detect["link"].endswith(f"/runs/{quote(task['dag_run_id'])}/tasks/shards.detect/mapped/1?try_number=3")
    assert re.match(
        rf"laion-people: audit {PARTITION}: \d+ faults, the first: detect {PARTITION} shard 00001: ", audit["reason"]
    )


def test_a_run_that_drags_is_told_once(damaged: Run) -> None:
    [notice] = damaged.notices("deadline")
    assert notice["partition"] == PARTITION
    assert notice["reason"].startswith("not done 0.005 hours after it started")


def test_steps_and_airflow_send_the_metrics_that_the_dashboard_needs(damaged: Run) -> None:
    assert damaged.metrics.count("laion_people.failures.detect") == 3
    assert damaged.metrics.count("laion_people.shards.detect") == 2
    for name in (
        "airflow.pool.open_slots.laion_people_gpu",
        "airflow.pool.running_slots.laion_people_gpu",
        "airflow.pool.queued_slots.laion_people_gpu",
        f"airflow.dagrun.duration.failed.{EXTRACT}",
        f"airflow.ti.finish.{EXTRACT}.shards__detect.failed",
        f"airflow.dag.{EXTRACT}.shards__detect.duration",
        "airflow.deadline_alerts.deadline_missed",
        "airflow.dag_processing.import_errors",
    ):
        assert name in damaged.metrics
