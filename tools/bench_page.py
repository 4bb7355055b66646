"""Measures milliseconds to the first byte of the pages in Airflow's UI, on a store like that of large runs.

    .venv/airflow/bin/python -m tools.bench_page        # 128 partitions x 2,000 shards, on this machine's disk
    .venv/airflow/bin/python -m tools.bench_page --delay 30      # each request to the store takes 30 ms, as to a bucket

`cold` is the first request of a process that has just started, one process for each page; `warm` is the median of the
following ones; `cpu` is the server's CPU time for one of them, which a busy machine doesn't change. The time is that of
the whole server, with Airflow's sign-in, middlewares and compression. Run it from the root of the repository.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.client import HTTPConnection as Connection
from pathlib import Path
from typing import Any, BinaryIO

import psutil

from laion_people.storage.store import LocalStore
from tests.dags.web.big_shard import add_big_shards
from tests.dags.web.big_store import add_partitions, add_version
from tools.local_airflow import free_port

ROOT = Path(__file__).resolve().parents[1]
COLLECTION, VERSION = "laion2B-en", "v0001"
PAGES = (
    "/laion-people/",
    "/laion-people/?show=unfinished",
    f"/laion-people/partitions/{COLLECTION}/00000",
    f"/laion-people/partitions/{COLLECTION}/00001",  # unfinished: the page looks up its missing shards
    f"/laion-people/people/{COLLECTION}/00000",
    f"/laion-people/people/{COLLECTION}/00000?shard=1000&page=50",
    f"/laion-people/people/{COLLECTION}/00000?text=bus&subset_a=yes&face=yes&sort=similar",
    f"/laion-people/clusters/{VERSION}",
    f"/laion-people/clusters/{VERSION}/pose-0001",
    f"/laion-people/clusters/{VERSION}/face-0001",
    f"/laion-people/composites/{VERSION}/{COLLECTION}/00000",
    f"/laion-people/captioned/{VERSION}/{COLLECTION}/00000",
)
LISTED = 1000  # files in one answer of a bucket
START_SECONDS = 120


class DistantStore(LocalStore):
    """A folder that answers as slowly as a bucket."""

    seconds = 0.0

    def tags(self, folder: str) -> dict[str, str]:
        listed = super().tags(folder)
        time.sleep(self.seconds * (1 + len(listed) // LISTED))
        return listed

    def open(self, path: str) -> BinaryIO:
        time.sleep(self.seconds)
        return super().open(path)


def serve(port: int, delay: float) -> None:
    """Airflow's API server with the page, in this process."""
    import uvicorn
    from airflow.api_fastapi.app import create_app

    from laion_people.web import source

    DistantStore.seconds = delay
    source._open = cache(lambda uri: DistantStore(Path(uri)))
    uvicorn.run(create_app(apps="core"), port=port, log_level="warning")


@contextmanager
def server(environ: dict[str, str], delay: float) -> Iterator[tuple[Connection, dict[str, str], psutil.Process]]:
    """A fresh server: a connection to it, the headers of a signed-in user, and its process."""
    port = free_port()
    command = [sys.executable, "-m", "tools.bench_page", "--serve", str(port), "--delay", str(delay)]
    process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                connection = Connection("127.0.0.1", port, timeout=60)
                passwords = Path(environ["AIRFLOW_HOME"], "simple_auth_manager_passwords.json.generated")
                login = {"username": "admin", "password": json.loads(passwords.read_text())["admin"]}
                connection.request("POST", "/auth/token", json.dumps(login), {"Content-Type": "application/json"})
                token = json.load(connection.getresponse())["access_token"]
                break
            except (OSError, ValueError):
                assert time.monotonic() < deadline, "the server does not start"
                time.sleep(0.2)
        yield connection, {"Cookie": f"_token={token}", "Accept-Encoding": "gzip"}, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def first_byte(connection: Connection, headers: dict[str, str], page: str) -> tuple[float, int]:
    """Milliseconds to the first byte of a page, and the number of bytes as sent."""
    start = time.perf_counter()
    connection.request("GET", page, headers=headers)
    answer = connection.getresponse()
    milliseconds = 1000 * (time.perf_counter() - start)
    body = answer.read()
    assert answer.status == 200, f"{page}: {answer.status}"
    return milliseconds, len(body)


def measure(environ: dict[str, str], page: str, delay: float, rounds: int) -> dict[str, Any]:
    with server(environ, delay) as (connection, headers, process):
        cold, size = first_byte(connection, headers, page)
        worked = sum(process.cpu_times()[:2])
        warm = [first_byte(connection, headers, page)[0] for _ in range(rounds)]
        cpu = 1000 * (sum(process.cpu_times()[:2]) - worked) / rounds
    return {"page": page, "cold": cold, "warm": statistics.median(warm), "cpu": cpu, "kilobytes": size / 1000}


def make_store(folder: Path, partitions: int, shards: int) -> None:
    store = LocalStore(folder)
    add_partitions(store, COLLECTION, partitions, shards)
    add_version(store, VERSION, [f"{COLLECTION}/{part:05d}" for part in range(partitions)])
    add_big_shards(store, f"{COLLECTION}/00000", VERSION, shards)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--partitions", type=int, default=128)
    parser.add_argument("--shards", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--delay", type=float, default=0, help="milliseconds that each request to the store takes")
    parser.add_argument("--store", type=Path, help="a folder that has the store, or where it is made and left")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)  # the tool starts itself with this
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.delay / 1000)
        return
    with tempfile.TemporaryDirectory() as folder:
        store = options.store or Path(folder) / "store"
        if not store.exists():
            make_store(store, options.partitions, options.shards)
        environ = os.environ | {
            "AIRFLOW_HOME": str(Path(folder) / "airflow"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "LAION_PEOPLE_STORE": str(store),
            "PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}",
        }
        subprocess.run(["airflow", "db", "migrate"], env=environ, check=True, capture_output=True)
        print(f"{'page':82} {'cold':>8} {'warm':>8} {'cpu':>8} ms; kB as sent")
        for page in PAGES:
            measured = measure(environ, page, options.delay, options.rounds)
            print("{page:82} {cold:8.0f} {warm:8.0f} {cpu:8.0f}    {kilobytes:.1f}".format(**measured))


if __name__ == "__main__":
    main()
