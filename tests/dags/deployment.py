"""A real Airflow with a store that has a few images of the built-in sample, for tests."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

from tools.demo import SAMPLE, log_path
from tools.local_airflow import ROOT, LocalAirflow, free_port

PARTITION = "tiny/00000"
EXTRACT = "laion_people_extract"
IMAGES = 8
MOST_SECONDS = 300
ENDED = ("success", "failed")

TINY_PART = """
import sys, pyarrow as pa, pyarrow.parquet as pq
source, target, port, count = sys.argv[1:]
rows = [r for r in pq.read_table(source).to_pylist() if (r["URL"] or "").endswith(".jpg") and "/broken" not in r["URL"]]
rows = sorted(rows, key=lambda r: r["URL"])[: int(count)]
rows = [r | {"URL": r["URL"].replace(":18484/", f":{port}/")} for r in rows]
pq.write_table(pa.Table.from_pylist(rows), target)
"""


class Deployment:
    """An Airflow, its store and the run of the extracting DAG; ``environ`` adds to its environment."""

    def __init__(self, folder: Path, image_port: int, environ: Mapping[str, str] | None = None):
        self.store = folder / "store"
        part = self.store / "metadata" / "tiny" / "part-00000-tiny.parquet"
        part.parent.mkdir(parents=True)
        worker = ROOT / ".venv" / "worker" / "bin" / "python"
        arguments = [SAMPLE / "part-00000-sample.parquet", part, str(image_port), str(IMAGES)]
        subprocess.run([worker, "-c", TINY_PART, *arguments], check=True)
        settings = {
            "LAION_PEOPLE_STORE": str(self.store),
            "LAION_PEOPLE_SHARD_ROWS": str(IMAGES // 2),
            "LAION_PEOPLE_ALLOW_PRIVATE_ADDRESSES": "1",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        }
        self.environ = os.environ | settings | dict(environ or {})
        self.airflow = LocalAirflow(folder / "airflow", free_port(), self.environ)

    def run(self, dag: str) -> dict[str, Any]:
        """The DAG's newest run."""
        return self.airflow.request("GET", f"/dags/{dag}/dagRuns?order_by=-run_after")["dag_runs"][0]

    def tasks(self, dag: str) -> dict[str, dict[str, Any]]:
        """The task instances of the DAG's newest run, by task."""
        path = f"/dags/{dag}/dagRuns/{self.run(dag)['dag_run_id']}/taskInstances"
        return {task["task_id"]: task for task in self.airflow.request("GET", path)["task_instances"]}

    def active(self) -> list[dict[str, Any]]:
        """The runs of all DAGs that have not ended."""
        runs = self.airflow.request("GET", "/dags/~/dagRuns?limit=100&order_by=-run_after")["dag_runs"]
        return [run for run in runs if run["state"] in ("queued", "running")]

    def restart_scheduler(self) -> list[str]:
        """Kills the scheduler and the tasks that it runs, as when its container is killed, and starts another.

        Returns the command lines of what was killed.
        """
        (scheduler,) = (p for p in self.airflow.processes() if "scheduler" in " ".join(p.cmdline()))
        killed = []
        for process in [scheduler, *scheduler.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                killed.append(" ".join(process.cmdline()))
                process.kill()
        started = psutil.Process(self.airflow._popen("scheduler").pid)
        pids = json.loads(self.airflow._pid_file.read_text())
        self.airflow._pid_file.write_text(json.dumps(pids | {str(started.pid): started.create_time()}))
        return killed

    def start_run(self, dag: str, partition_key: str | None = None, **conf: Any) -> str:
        """Triggers a run of a DAG with these parameters; returns its id."""
        body = {"logical_date": None, "partition_key": partition_key, "conf": conf}
        return str(self.airflow.request("POST", f"/dags/{dag}/dagRuns", body)["dag_run_id"])

    def question(self, dag: str, run_id: str) -> dict[str, Any]:
        """What a run asks people, as soon as it does."""
        path = f"/dags/{dag}/dagRuns/{run_id}/hitlDetails"
        (detail,) = wait("question", lambda: self.airflow.request("GET", path)["hitl_details"])
        return dict(detail)

    def answer(self, dag: str, task: str, run_id: str, option: str) -> str:
        """Answers at once, later if that answer is lost, and returns the state in which the run ends."""
        path = f"/dags/{dag}/dagRuns/{run_id}"
        delays = chain([0], repeat(5))

        def over() -> bool:
            if self.tasks(dag)[task]["state"] == "awaiting_input":
                time.sleep(next(delays))
                details = f"{path}/taskInstances/{task}/-1/hitlDetails"
                self.airflow.request("PATCH", details, {"chosen_options": [option], "params_input": {}})
            return self.airflow.request("GET", path)["state"] in ENDED

        wait("end", over)
        return self.ended(dag, run_id)

    def ended(self, dag: str, run_id: str) -> str:
        """The state in which a run ends, as soon as it does."""
        path = f"/dags/{dag}/dagRuns/{run_id}"
        run = wait("end", lambda: (r := self.airflow.request("GET", path))["state"] in ENDED and r)
        return str(run["state"])

    def clear(self, task: str, downstream: bool = False) -> dict[str, dict[str, Any]]:
        """Clears a task (with those after it) and returns all tasks when the run has ended again."""
        before = self.tasks(EXTRACT)[task]["try_number"]
        self.start_clear(task, downstream)
        deadline = time.monotonic() + MOST_SECONDS
        while time.monotonic() < deadline:
            now = self.tasks(EXTRACT)
            if now[task]["try_number"] > before and self.run(EXTRACT)["state"] in ("success", "failed"):
                return now
            time.sleep(1)
        raise AssertionError(f"{task} has not ended after {MOST_SECONDS} s: {now[task]}")

    def start_clear(self, task: str, downstream: bool = False, dag: str = EXTRACT, run_id: str = "") -> None:
        """Clears a task of a run (the newest of the DAG), as the UI does."""
        run_id = run_id or self.run(dag)["dag_run_id"]
        body = {"dry_run": False, "only_failed": False, "task_ids": [task], "dag_run_id": run_id}
        body["include_downstream"] = downstream
        self.airflow.request("POST", f"/dags/{dag}/clearTaskInstances", body)

    def log(self, task: dict[str, Any]) -> str:
        return log_path(self.airflow, task).read_text()

    def manifest(self, step: str, name: str = PARTITION) -> dict[str, Any]:
        return json.loads((self.store / "manifests" / step / f"{name}.json").read_bytes())

    def tables(self) -> dict[str, str]:
        """Path -> sha256 of every table and tar of the store."""
        return tables(self.store)


def wait(what: str, look: Callable[[], Any]) -> Any:
    """What ``look`` returns, as soon as that is something."""
    deadline = time.monotonic() + MOST_SECONDS
    while time.monotonic() < deadline:
        if result := look():
            return result
        time.sleep(1)
    raise AssertionError(f"no {what} after {MOST_SECONDS} s")


def tables(store: Path) -> dict[str, str]:
    """Path -> sha256 of every table and tar of a store, but for the times at which images were asked for.

    What a killed process was writing is none.
    """
    files = [p.relative_to(store) for suffix in ("parquet", "tar") for p in sorted(store.rglob(f"*.{suffix}"))]
    return {str(p): hashlib.sha256(content(store, p)).hexdigest() for p in files if p.parts[0] != ".writing"}


def content(store: Path, path: Path) -> bytes:
    if path.parts[0] == "images" and path.suffix == ".parquet":
        return repr(pq.read_table(store / path).drop_columns(["requested_at"]).to_pylist()).encode()
    return (store / path).read_bytes()
