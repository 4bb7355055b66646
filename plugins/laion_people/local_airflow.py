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
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import psutil

from laion_people.errors import LaionPeopleError, UsageError

ROOT = Path(__file__).resolve().parents[2]
COMPONENTS = ("api-server", "scheduler", "dag-processor", "triggerer")
HEALTH = ("metadatabase", "scheduler", "dag_processor", "triggerer")
START_SECONDS = 180
STOP_SECONDS = 10
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
                "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
                "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
            }
        )
        self._pid_file = home / "pids.json"
        self._token = ""

    def start(self) -> None:
        """Starts what is not running and waits until it is healthy. Raises LaionPeopleError, with the log's name."""
        if len(self.processes()) == len(COMPONENTS):
            return
        self.stop()
        if not port_is_free(self.port):
            raise UsageError(f"port {self.port} is taken: stop what uses it, or set AIRFLOW__API__PORT")
        self.home.mkdir(parents=True, exist_ok=True)
        if self._popen("db", "migrate").wait():
            raise LaionPeopleError(f"the Airflow database cannot be made: see {self._log('db')}")
        started = {name: self._popen(name) for name in COMPONENTS}
        pids = {p.pid: psutil.Process(p.pid).create_time() for p in started.values()}
        self._pid_file.write_text(json.dumps(pids))
        deadline = time.monotonic() + START_SECONDS
        while not self._healthy():
            for name, process in started.items():
                if process.poll() is not None:
                    self.stop()
                    raise LaionPeopleError(f"Airflow's {name} has ended: see {self._log(name)}")
            if time.monotonic() > deadline:
                self.stop()
                raise LaionPeopleError(f"Airflow is not healthy after {START_SECONDS} s: see {self.home}/*.log")
            time.sleep(1)
        self._make_pools()

    def processes(self) -> list[psutil.Process]:
        """The components that run, as their pid file names them."""
        found = []
        pids = json.loads(self._pid_file.read_text()) if self._pid_file.exists() else {}
        for pid, created in pids.items():
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(int(pid))
                if process.create_time() == created and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def stop(self) -> None:
        """Ends the components and every task that they run."""
        tree = []
        for component in self.processes():
            with suppress(psutil.NoSuchProcess):
                tree += [component, *component.children(recursive=True)]
        for process in tree:
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        for process in psutil.wait_procs(tree, STOP_SECONDS)[1]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(tree, STOP_SECONDS)
        self._pid_file.unlink(missing_ok=True)

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
        request = urllib.request.Request(self.url + path, data, headers, method=method)  # noqa: S310 - always http
        try:
            with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
                return json.loads(response.read() or b"null")
        except HTTPError as error:
            raise LaionPeopleError(f"{method} {path}: {error.code} {error.read().decode()[:500]}") from error
        except OSError as error:
            raise LaionPeopleError(f"Airflow does not answer ({error}): see {self._log('api-server')}") from error

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
        with self._log(command[0]).open("wb") as log:
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
