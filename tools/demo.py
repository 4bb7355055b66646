"""`make demo`: the four DAGs on the built-in sample, in a real Airflow of its own, from metadata to report.

Everything that it makes is under ``.demo``; a second demo finds its shards done. The sample's images are served on
loopback, so that the download is a real one. Runs in the Airflow environment.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from laion_people.errors import LaionPeopleError, UsageError
from tools.local_airflow import ROOT, LocalAirflow, free_port

SAMPLE = ROOT / "include" / "sample"
PART = "part-00000-sample.parquet"
PARTITION = "sample/00000"
IMAGE_PORT = 18484  # the sample's metadata names it
SHARD_ROWS = 60  # so that there is more than one shard
DAGS = ("laion_people_discover", "laion_people_extract", "laion_people_cluster", "laion_people_caption")
FINISHED = ("success", "failed", "skipped", "upstream_failed", "up_for_retry")
MOST_SECONDS = 20 * 60
IDLE_SECONDS = 120  # with nothing to run: the chain is broken


def main() -> int:
    """Returns the exit code: 0 when every task has succeeded."""
    folder = ROOT / ".demo"
    environ = os.environ | {
        "LAION_PEOPLE_STORE": (folder / "store").as_uri(),
        "LAION_PEOPLE_SHARD_ROWS": str(SHARD_ROWS),
        "LAION_PEOPLE_SHARDS_PER_TASK": "1",
        "LAION_PEOPLE_ALLOW_PRIVATE_ADDRESSES": "1",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
    }
    part = folder / "store" / "metadata" / "sample" / PART
    part.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(SAMPLE / PART, part)
    airflow = LocalAirflow(folder / "airflow", free_port(), environ)
    start = time.monotonic()
    for stop in (signal.SIGINT, signal.SIGTERM):  # a shell's background jobs ignore SIGINT
        signal.signal(stop, signal.default_int_handler)
    try:
        with serve_sample():
            print("Starting Airflow, which takes half a minute ...", flush=True)
            airflow.start()
            print(f"{airflow.url} shows the runs (user admin, password in {airflow.password_file})", flush=True)
            run_dags(airflow)
    except LaionPeopleError as error:
        print(f"demo: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("demo: stopped; run it again to go on", file=sys.stderr)
        return 1
    finally:
        airflow.stop()
    print(f"All tasks have succeeded after {_clock(start)}.\n", flush=True)
    command = ROOT / "bin" / "laion-people"
    for arguments in (["status"], ["report", "-o", str(folder / "report")]):
        if code := subprocess.run([command, *arguments], env=environ, cwd=ROOT).returncode:
            return code
    return 0


@contextmanager
def serve_sample(port: int = IMAGE_PORT, host: str = "127.0.0.1") -> Iterator[None]:
    """Serves the sample on a port, of loopback alone by default. Raises UsageError when the port is taken."""
    try:
        server = _ImageServer((host, port), partial(_ImageHandler, directory=str(SAMPLE)))
    except OSError as error:
        raise UsageError(
            "port-taken", f"port {port}, which the sample is served on, is taken: {error.strerror}"
        ) from error
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield
        finally:
            server.shutdown()


def run_dags(airflow: LocalAirflow, partition: str = PARTITION) -> None:
    """Has one partition go through all DAGs and prints each task as it ends.

    Raises LaionPeopleError when a task fails (it isn't tried again: what fails here fails every time), when nothing is
    left to run before the last DAG has run, or for time.
    """
    start, idle_since = time.monotonic(), time.monotonic()
    while not set(DAGS) <= {dag["dag_id"] for dag in airflow.request("GET", "/dags")["dags"]}:
        time.sleep(1)
    since = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    airflow.request("POST", f"/dags/{DAGS[0]}/dagRuns", {"logical_date": None, "conf": {"partitions": [partition]}})
    seen: set[tuple[Any, ...]] = set()
    while True:
        runs = airflow.request("GET", f"/dags/~/dagRuns?run_after_gte={since}&limit=100")["dag_runs"]
        tasks = airflow.request("GET", f"/dags/~/dagRuns/~/taskInstances?run_after_gte={since}&limit=1000")
        for task in sorted(tasks["task_instances"], key=lambda t: t["end_date"] or ""):
            key = (task["id"], task["try_number"], task["state"])
            if task["state"] in FINISHED and key not in seen:
                seen.add(key)
                print(f"{_clock(start):>6}  {_describe(task)}", flush=True)
            if task["state"] in ("failed", "up_for_retry"):
                raise LaionPeopleError("demo-failed", f"{task['task_id']} has failed: see {log_path(airflow, task)}")
        if all(run["state"] == "success" for run in runs) and any(run["dag_id"] == DAGS[-1] for run in runs):
            return
        if any(run["state"] in ("running", "queued") for run in runs):
            idle_since = time.monotonic()
        if time.monotonic() - idle_since > IDLE_SECONDS:
            raise LaionPeopleError("demo-failed", f"no run of {DAGS[-1]} has started: see {airflow.home}/scheduler.log")
        if time.monotonic() - start > MOST_SECONDS:
            raise LaionPeopleError(
                "demo-failed", f"not done after {MOST_SECONDS // 60} minutes: see {airflow.home}/logs"
            )
        time.sleep(1)


def _describe(task: dict[str, Any]) -> str:
    name = task["task_id"].removeprefix("shards.")
    dag = task["dag_id"].removeprefix("laion_people_")
    group = task["rendered_map_index"] or ""
    return f"{dag:9} {name:14} {group:12} {task['state']:16} {task['duration'] or 0:6.1f} s"


def log_path(airflow: LocalAirflow, task: dict[str, Any]) -> Path:
    """The log of a task's newest attempt; ``task`` as the REST API gives it."""
    folder = airflow.home / "logs" / f"dag_id={task['dag_id']}" / f"run_id={task['dag_run_id']}"
    folder /= f"task_id={task['task_id']}"
    if task["map_index"] >= 0:
        folder /= f"map_index={task['map_index']}"
    return folder / f"attempt={task['try_number']}.log"


def _clock(start: float) -> str:
    minutes, seconds = divmod(int(time.monotonic() - start), 60)
    return f"{minutes}:{seconds:02}"


class _ImageServer(ThreadingHTTPServer):
    request_queue_size = 256  # the default, 5, drops most of the connections that a download opens at once


class _ImageHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        """Requests are what the download reports on."""


if __name__ == "__main__":
    sys.exit(main())
