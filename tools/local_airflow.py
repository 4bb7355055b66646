"""An Airflow on this machine: its four processes, on SQLite, and its REST API.

For `make up`, `make demo` and the tests; runs in the Airflow environment (``bin/airflow-env``) but imports no Airflow.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import psutil

from laion_people.errors import LaionPeopleError, UsageError

ROOT = Path(__file__).resolve().parents[1]
COMPONENTS = {  # and their options: log servers would listen on all addresses, and the API server reads files
    "api-server": (),
    "scheduler": ("--skip-serve-logs",),
    "dag-processor": (),
    "triggerer": ("--skip-serve-logs",),
}
HEALTH = ("metadatabase", "scheduler", "dag_processor", "triggerer")
START_SECONDS = 180
ANSWER_SECONDS = 90  # longer than the 60 that Airflow waits for SQLite (`bin/airflow-env`): its own answer says more
STOP_SECONDS = 10
QUEUED_SECONDS = 300  # LocalExecutor is handed a task only when it has a worker for it: it starts in seconds
AIRFLOWS = ("airflow*", "*.log", "*.json*")  # files of a home, which may hold others
MARK = "LOCAL_AIRFLOW"  # in the environment of all that an Airflow has started: its home
GPUS = len(list(Path("/dev").glob("nvidia[0-9]*")))
POOLS = {  # name -> tasks at a time
    "laion_people_gpu": GPUS or os.cpu_count(),
    "laion_people_network": 4,  # each with its own LAION_PEOPLE_URL_THREADS
}


class LocalAirflow:
    """Airflow in the folder ``home`` with its UI and API on ``port``; ``environ`` adds to the environment."""

    def __init__(self, home: Path, port: int, environ: Mapping[str, str] | None = None):
        self.home, self.port = home, port
        self.url = f"http://127.0.0.1:{port}"
        self.password_file = home / "simple_auth_manager_passwords.json.generated"
        self._environ = (
            os.environ
            | dict(environ or {})
            | {
                "AIRFLOW_HOME": str(home),
                "AIRFLOW__API__PORT": str(port),
                MARK: str(home.resolve()),
                "SPT_NOENV": "1",  # setproctitle would write its titles over the environment that `ps` and we look at
            }
        )
        self._pid_file = home / "pids.json"
        self._token = ""

    def start(self) -> None:
        """Starts what is not running and waits until it is healthy. Raises LaionPeopleError, with the log's name, or
        when one that runs has left tasks in its queue."""
        if len(self.processes()) == len(COMPONENTS):
            self._check_queue()
            return
        self.stop()
        if not port_is_free(self.port):
            raise UsageError("port-taken", f"port {self.port} is taken: stop what uses it, or set AIRFLOW__API__PORT")
        self._close_home()
        if self._popen("db", "migrate").wait():
            raise LaionPeopleError("airflow-down", f"the Airflow database cannot be made: see {self._log('db')}")
        started = {name: self._popen(name, *options) for name, options in COMPONENTS.items()}
        pids = {p.pid: psutil.Process(p.pid).create_time() for p in started.values()}
        self._pid_file.touch(mode=0o600)
        self._pid_file.write_text(json.dumps(pids))
        deadline = time.monotonic() + START_SECONDS
        while not self._healthy():
            for name, process in started.items():
                if process.poll() is not None:
                    self.stop()
                    raise LaionPeopleError("airflow-down", f"Airflow's {name} has ended: see {self._log(name)}")
            if time.monotonic() > deadline:
                self.stop()
                raise LaionPeopleError(
                    "airflow-down", f"Airflow is not healthy after {START_SECONDS} s: see {self.home}/*.log"
                )
            time.sleep(1)
        self._make_pools()

    def processes(self) -> list[psutil.Process]:
        """The components that run, as their pid file names them."""
        processes, pids = [], {}
        with suppress(FileNotFoundError, ValueError):  # a disk was full: `stop` finds them by their mark
            pids = json.loads(self._pid_file.read_text())
        for pid, created in pids.items():
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(int(pid))
                if process.create_time() == created and process.status() != psutil.STATUS_ZOMBIE:
                    processes.append(process)
        return processes

    def stop(self) -> None:
        """Ends the components and all that they have started, also what a component that was killed has left behind."""
        tree = {*self._marked(), *self.processes()}
        for process in tree:
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        for process in psutil.wait_procs(tree, STOP_SECONDS)[1]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(tree, STOP_SECONDS)
        self._pid_file.unlink(missing_ok=True)

    def _marked(self) -> list[psutil.Process]:
        """The processes of this user that this Airflow has started: workers of a scheduler that is gone are nobody's
        children, but their environment is what they were started with."""
        processes = []
        for process in psutil.process_iter():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied, OSError):
                ours = process.uids().real == os.getuid() and process.pid != os.getpid()
                if ours and process.environ().get(MARK) == self._environ[MARK]:
                    processes.append(process)
        return processes

    def _close_home(self) -> None:
        """Makes the home, or closes one that is there, to others: its password file and its logs make one admin."""
        try:
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.home.chmod(0o700)
        except OSError as error:
            raise LaionPeopleError(
                "cannot-write", f"{self.home} cannot be closed to other users: {error.strerror}"
            ) from error
        made = [self.home / "logs", *(path for name in AIRFLOWS for path in self.home.glob(name))]
        for path in (path for top in made for path in (top, *top.rglob("*"))):
            with suppress(FileNotFoundError):
                if not path.is_symlink() and path.stat().st_mode & 0o077:
                    path.chmod(path.stat().st_mode & 0o700)

    def _check_queue(self) -> None:
        """Raises LaionPeopleError when the executor has left tasks in its queue.

        An idle worker that is killed keeps the queue's lock: no other ever gets a task, and Airflow waits for ever
        (https://github.com/python/cpython/issues/87971).
        """
        tasks = self.request("GET", "/dags/~/dagRuns/~/taskInstances?state=queued&limit=1000")["task_instances"]
        ages = [time.time() - datetime.fromisoformat(task["queued_when"]).timestamp() for task in tasks]
        if ages and max(ages) > QUEUED_SECONDS:
            raise LaionPeopleError(
                "stuck-queue",
                f"Airflow runs, but the scheduler's workers take no tasks: {len(ages)} queued, the oldest for "
                f"{max(ages) / 60:.0f} minutes: make down && make up",
            )

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """Calls the REST API (``/dags``); returns the JSON of the answer. Raises LaionPeopleError for a refusal."""
        if not self._token:
            password = json.loads(self.password_file.read_text())["admin"]
            login = {"username": "admin", "password": password}
            self._token = self._call("POST", "/auth/token", login)["access_token"]
        return self._call(method, f"/api/v2{path}", body)

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"Content-Type": "application/json"} | (
            {"Authorization": f"Bearer {self._token}"} if self._token else {}
        )
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as response:
                return json.loads(response.read() or b"null")
        except HTTPError as error:
            raise LaionPeopleError(
                "airflow-down", f"{method} {path}: {error.code} {error.read().decode()[:500]}"
            ) from error
        except OSError as error:
            raise LaionPeopleError(
                "airflow-down", f"Airflow does not answer ({error}): see {self._log('api-server')}"
            ) from error

    def _healthy(self) -> bool:
        try:
            health = self._call("GET", "/api/v2/monitor/health")
        except LaionPeopleError:
            return False
        return all(health[part]["status"] == "healthy" for part in HEALTH)

    def _make_pools(self) -> None:
        existing = {pool["name"] for pool in self.request("GET", "/pools")["pools"]}
        for name in POOLS.keys() - existing:
            self.request("POST", "/pools", {"name": name, "slots": POOLS[name], "include_deferred": False})

    def _popen(self, *command: str) -> subprocess.Popen[bytes]:
        log_file = self._log(command[0])
        log_file.touch(mode=0o600)
        with log_file.open("wb") as log:
            return subprocess.Popen(
                [str(ROOT / "bin" / "airflow-env"), "airflow", *command],
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _log(self, component: str) -> Path:
        return self.home / f"{component}.log"


def port_is_free(port: int) -> bool:
    """Whether nothing listens on a loopback port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def free_port() -> int:
    """A loopback port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main(command: str) -> int:
    """``up`` or ``down``: the Airflow of AIRFLOW_HOME."""
    airflow = LocalAirflow(Path(os.environ["AIRFLOW_HOME"]), int(os.environ["AIRFLOW__API__PORT"]))
    try:
        if command == "up":
            airflow.start()
            print(f"Airflow runs: {airflow.url} (user admin, password in {airflow.password_file})")
        else:
            airflow.stop()
            print("Airflow is stopped")
    except LaionPeopleError as error:
        print(f"airflow: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
