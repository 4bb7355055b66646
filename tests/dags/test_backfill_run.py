"""Discover, backfill and Airflow's own backfill in a real Airflow: 20 new parts, two at a time, none twice.

The DAG that they start has the real one's id, schedule, first task and end, and between them a task that does nothing
but wait or fail when a test asks for it: twenty real extractions would take half an hour.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tools.demo import log_path
from tools.local_airflow import ROOT, LocalAirflow, free_port

EXTRACT, DISCOVER, BACKFILL = "laion_people_extract", "laion_people_discover", "laion_people_backfill"
KEYS = [f"new/{part:05d}" for part in range(20)]
MOST_SECONDS = 400
PARTS = """
import pathlib, sys, pyarrow as pa, pyarrow.parquet as pq
for part in range(20):
    table = pa.table({"url": [f"http://example.org/{part}.jpg"], "caption": ["a person"]})
    pq.write_table(table, pathlib.Path(sys.argv[1]) / f"part-{part:05d}-new.parquet")
"""
STAND_IN = """
import os, time
from pathlib import Path
from airflow.sdk import DAG, task
from airflow.sdk.exceptions import AirflowFailException
from laion_people.dates import first_days
from laion_people.orchestration.claims import claim, skip_unless_planned
from laion_people.orchestration.tasks import DAG_DEFAULTS, EXTRACTED, METADATA, PARTITION, dag_settings, worker_task
from laion_people.orchestration.timetables import PartitionDates, PartitionTimetable

dates = PartitionDates(first_days(dag_settings().first_days))
with DAG("laion_people_extract", schedule=PartitionTimetable(assets=METADATA, default_partition_mapper=dates),
         max_active_runs=dag_settings().partitions_at_once, **DAG_DEFAULTS):
    plan = worker_task("plan", "shard-groups", "--stage", "extract", partitions=PARTITION, pre_execute=claim,
                       inlets=[METADATA], max_active_tis_per_dag=1)

    @task(pre_execute=claim, inlets=[METADATA])
    def work(dag_run):
        orders = Path(os.environ["ORDERS"])
        part = dag_run.partition_key.partition("/")[2]
        while (orders / f"hold-{part}").exists():
            time.sleep(0.5)
        if (orders / f"fail-{part}").exists():
            raise AirflowFailException("a test asked for it")

    @task(trigger_rule="all_done", pre_execute=skip_unless_planned)
    def audit(): ...

    @task(outlets=[EXTRACTED])
    def announce(dag_run, outlet_events):
        outlet_events[EXTRACTED].add_partitions([dag_run.partition_key.partition("/")[0]])

    worked, audited = work(), audit()
    plan >> worked >> audited
    [plan, worked, audited] >> announce()
"""


class Fixture:
    def __init__(self, folder: Path):
        self.metadata, dags = folder / "store" / "metadata" / "new", folder / "dags"
        self.orders = folder / "orders"
        for path in (self.metadata, dags, self.orders):
            path.mkdir(parents=True)
        subprocess.run([ROOT / ".venv" / "worker" / "bin" / "python", "-c", PARTS, self.metadata], check=True)
        for dag in (DISCOVER, BACKFILL):
            shutil.copy(ROOT / "dags" / f"{dag}.py", dags)
        (dags / f"{EXTRACT}.py").write_text(STAND_IN)
        self.environ = os.environ | {
            "ORDERS": str(self.orders),
            "LAION_PEOPLE_STORE": str(folder / "store"),
            "LAION_PEOPLE_BACKFILL_POLL_SECONDS": "10",
            "LAION_PEOPLE_FIRST_DAYS": '{"new": "2020-01-01"}',
            "AIRFLOW_HOME": str(folder / "airflow"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__PARALLELISM": "4",
        }
        self.airflow = LocalAirflow(folder / "airflow", free_port(), self.environ)

    def command(self, *arguments: str) -> str:
        """Runs an Airflow command as a person does; returns what it prints."""
        command = [ROOT / "bin" / "airflow-env", "airflow", *arguments]
        done = subprocess.run(command, env=self.environ, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def trigger(self, dag: str, key: str | None = None, **conf: Any) -> str:
        body = {"logical_date": None, "conf": conf, "partition_key": key}
        return self.airflow.request("POST", f"/dags/{dag}/dagRuns", body)["dag_run_id"]

    def clear(self, dag: str, run: str, task: str) -> None:
        """Clears a task with those after it."""
        body = {"dry_run": False, "only_failed": False, "task_ids": [task], "dag_run_id": run}
        self.airflow.request("POST", f"/dags/{dag}/clearTaskInstances", body | {"include_downstream": True})

    def runs(self, dag: str = EXTRACT, after: int = 0) -> list[dict[str, Any]]:
        """The runs of a DAG in the order that they were made, without the first ``after``."""
        runs = self.airflow.request("GET", f"/dags/{dag}/dagRuns?order_by=id&limit=1000")["dag_runs"]
        return runs[after:]

    def tasks(self, dag: str, run: str) -> dict[str, dict[str, Any]]:
        path = f"/dags/{dag}/dagRuns/{run}/taskInstances?limit=1000"
        tasks = self.airflow.request("GET", path)["task_instances"]
        return {f"{t['task_id']} {t['rendered_map_index'] or ''}".strip(): t for t in tasks}

    def log(self, dag: str, run: str, task: str) -> str:
        return log_path(self.airflow, self.tasks(dag, run)[task]).read_text()

    def pause(self, paused: bool) -> None:
        self.airflow.request("PATCH", f"/dags/{EXTRACT}", {"is_paused": paused})

    def ended(self, dag: str, run: str) -> dict[str, Any]:
        return until(lambda: next(r for r in self.runs(dag) if r["dag_run_id"] == run and has_ended(r)))


def has_ended(run: dict[str, Any]) -> bool:
    return run["state"] in ("success", "failed")


def until(look: Callable[[], Any]) -> Any:
    """What ``look`` returns when it is something."""
    deadline = time.monotonic() + MOST_SECONDS
    while time.monotonic() < deadline:
        try:
            if result := look():
                return result
        except StopIteration:
            pass
        time.sleep(1)
    raise AssertionError(f"not so after {MOST_SECONDS} s")


def at_once(runs: list[dict[str, Any]]) -> int:
    """The largest number of runs that ran at a time."""
    moments = sorted([(r["start_date"], 1) for r in runs] + [(r["end_date"], -1) for r in runs])
    running = [sum(step for _, step in moments[: i + 1]) for i in range(len(moments))]
    return max(running)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fixture]:
    here = Fixture(tmp_path_factory.mktemp("backfill"))
    try:
        here.airflow.start()
        until(lambda: here.airflow.request("GET", "/dags")["total_entries"] == 3)
        yield here
    finally:
        here.airflow.stop()


def test_a_paused_dag_loses_nothing_and_20_new_parts_run_two_at_a_time_once_each(here: Fixture) -> None:
    here.pause(True)
    run = here.ended(DISCOVER, here.trigger(DISCOVER))["dag_run_id"]
    assert here.tasks(DISCOVER, run)["announce"]["state"] == "skipped"
    assert "laion_people_extract is paused: unpause it" in here.log(DISCOVER, run, "announce")
    asset = here.airflow.request("GET", "/assets?name_pattern=laion_people_metadata")["assets"][0]["id"]
    here.airflow.request("POST", "/assets/events", {"asset_id": asset, "partition_key": KEYS[7]})  # which is lost
    here.pause(False)
    assert here.runs() == []

    run = here.trigger(DISCOVER)
    until(lambda: len(here.runs()) == 20)
    again = here.ended(DISCOVER, here.trigger(DISCOVER))["dag_run_id"]
    assert "runs of laion_people_extract are queued: a later run" in here.log(DISCOVER, again, "announce")
    runs = until(lambda: (runs := here.runs()) and all(map(has_ended, runs)) and runs)
    assert sorted(r["partition_key"] for r in runs) == KEYS
    assert {r["state"] for r in runs} == {"success"}
    assert at_once(runs) == 2
    again = here.ended(DISCOVER, here.trigger(DISCOVER))["dag_run_id"]
    assert "no new partitions" in here.log(DISCOVER, again, "announce")


@pytest.mark.parametrize(("key", "says"), [(None, "[no-partition-key]"), ("new/00099", "[unknown-partition]")])
def test_a_run_without_a_key_or_metadata_fails_in_its_first_task_and_runs_nothing_else(
    here: Fixture, key: str | None, says: str
) -> None:
    run = here.ended(EXTRACT, here.trigger(EXTRACT, key))
    assert run["state"] == "failed"
    assert says in here.log(EXTRACT, run["dag_run_id"], "plan")
    states = {name: task["state"] for name, task in here.tasks(EXTRACT, run["dag_run_id"]).items()}
    upstream = "upstream_failed"
    assert states == {"plan": "failed", "work": upstream, "audit": "skipped", "announce": upstream}


def test_a_partition_whose_run_came_before_its_metadata_is_found(here: Fixture) -> None:
    before = len(here.runs())
    shutil.copy(here.metadata / "part-00000-new.parquet", here.metadata / "part-00099-new.parquet")
    here.trigger(DISCOVER)
    (made,) = until(lambda: (made := here.runs(after=before)) and all(map(has_ended, made)) and made)
    assert (made["partition_key"], made["state"]) == ("new/00099", "success")


def test_a_partition_in_flight_is_not_started_twice(here: Fixture) -> None:
    (here.orders / "hold-00003").touch()
    first = here.trigger(EXTRACT, KEYS[3])
    until(lambda: here.tasks(EXTRACT, first)["work"]["state"] == "running")
    second = here.ended(EXTRACT, here.trigger(EXTRACT, KEYS[3]))
    assert second["state"] == "failed"
    assert f"run {first} is at work on {KEYS[3]}" in here.log(EXTRACT, second["dag_run_id"], "plan")
    assert here.tasks(EXTRACT, second["dag_run_id"])["audit"]["state"] == "skipped"
    old = next(r["dag_run_id"] for r in here.runs() if r["partition_key"] == KEYS[3])
    here.clear(EXTRACT, old, "work")
    assert here.ended(EXTRACT, old)["state"] == "failed"
    assert f"run {first} is at work on {KEYS[3]}" in here.log(EXTRACT, old, "work")
    before = len(here.runs())

    (here.orders / "fail-00005").touch()
    conf = {"collection": "new", "first": 3, "last": 6, "which": "all"}
    here.command("dags", "trigger", BACKFILL, "--conf", json.dumps(conf), "--run-id", "by-hand")
    until(lambda: here.tasks(BACKFILL, "by-hand")["choose"]["state"] == "success")
    (here.orders / "hold-00003").unlink()
    assert here.ended(BACKFILL, "by-hand")["state"] == "failed"
    assert here.ended(EXTRACT, first)["state"] == "success"
    made = here.runs(after=before)
    assert {r["partition_key"]: r["state"] for r in made} == {KEYS[4]: "success", KEYS[5]: "failed", KEYS[6]: "success"}
    assert len(made) == 3 and at_once(made) <= 2
    tasks = here.tasks(BACKFILL, "by-hand")
    assert tasks[f"parts.finish {KEYS[5]}"]["state"] == "failed"
    assert f"{KEYS[3]} is left out: run {first} is at work on it" in here.log(BACKFILL, "by-hand", "choose")
    assert f"1 of 3 partitions have failed: {KEYS[5]}" in here.log(BACKFILL, "by-hand", "report")


def test_airflows_own_backfill_makes_runs_of_a_range_of_parts_and_of_no_other_dates(here: Fixture) -> None:
    def backfill(first: str, last: str, reprocess: str) -> dict[str, str]:
        before = len(here.runs())
        options = {"dag-id": EXTRACT, "from-date": first, "to-date": last, "reprocess-behavior": reprocess}
        options["max-active-runs"] = "2"
        here.command("backfill", "create", *(f"--{name}={value}" for name, value in options.items()))
        path = f"/backfills?dag_id={EXTRACT}"  # Airflow takes no other before it has closed one
        until(lambda: all(b["completed_at"] for b in here.airflow.request("GET", path)["backfills"]))
        made = here.runs(after=before)
        assert all(r["run_type"] == "backfill" for r in made) and (not made or at_once(made) <= 2)
        return {r["partition_key"]: r["state"] for r in made}

    assert backfill("2020-01-02", "2020-01-20", "none") == {}  # discover's runs have these dates
    (here.orders / "fail-00005").unlink()
    assert backfill("2020-01-05", "2020-01-10", "failed") == {KEYS[5]: "success"}
    expected = {KEYS[18]: "success", KEYS[19]: "success"}
    assert backfill("2020-01-19", "2020-03-01", "completed") == expected  # no metadata: no run
    assert Counter(r["partition_key"] for r in here.runs() if r["run_type"] == "backfill") == {
        KEYS[5]: 1,
        KEYS[18]: 1,
        KEYS[19]: 1,
    }
