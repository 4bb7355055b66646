"""An Airflow on this machine: what it says to its user."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from io import BytesIO
from pathlib import Path

import psutil
import pytest
from airflow.utils.sqlalchemy import UtcDateTime
from sqlalchemy import Column, MetaData, String, Table, create_engine

from laion_people.errors import LaionPeopleError, UsageError
from tools import local_airflow
from tools.demo import serve_sample
from tools.local_airflow import COMPONENTS, MARK, ROOT, LocalAirflow


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_taken_port_is_named_before_anything_is_started(tmp_path: Path, taken_port: int) -> None:
    with pytest.raises(UsageError, match=rf"port {taken_port} .*\[port-taken\]$"):
        LocalAirflow(tmp_path / "home", taken_port).start()
    assert not (tmp_path / "home").exists()


def test_the_demo_says_which_port_its_images_need(taken_port: int) -> None:
    with (
        pytest.raises(UsageError, match=rf"port {taken_port}, .*\[port-taken\]$"),
        serve_sample(taken_port),
    ):
        pass


def test_stopping_what_does_not_run_is_no_error(tmp_path: Path) -> None:
    LocalAirflow(tmp_path, 1).stop()
    (tmp_path / "pids.json").write_text('{"999999999": 0.0, "1": 0.0}')  # gone; another process with a pid used again
    assert LocalAirflow(tmp_path, 1).processes() == []
    LocalAirflow(tmp_path, 1).stop()
    (tmp_path / "pids.json").write_text("")  # the disk was full
    assert LocalAirflow(tmp_path, 1).processes() == []
    LocalAirflow(tmp_path, 1).stop()


def test_what_a_killed_scheduler_leaves_is_ended_and_nothing_else(tmp_path: Path) -> None:
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    homes = {"ours": tmp_path / "home", "of another": tmp_path / "home2"}
    left = {name: subprocess.Popen(sleep, env=os.environ | {MARK: str(home)}) for name, home in homes.items()}
    plain = subprocess.Popen(sleep)
    try:
        LocalAirflow(homes["ours"], 1).stop()
        assert not psutil.pid_exists(left["ours"].pid)
        assert left["of another"].poll() is None and plain.poll() is None
    finally:
        for process in (*left.values(), plain):
            process.kill()
            process.wait()


def test_a_home_is_closed_to_other_users_and_so_is_one_that_was_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    for name in ("airflow.db", "simple_auth_manager_passwords.json.generated", "logs/dag_id=a/a.log", "notes.txt"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("x")
        (home / name).chmod(0o644)
    (home / "logs" / "latest").symlink_to(tmp_path)
    airflow = LocalAirflow(home, 1)
    monkeypatch.setattr(local_airflow, "port_is_free", lambda _: True)
    monkeypatch.setattr(airflow, "_popen", lambda *_: subprocess.Popen(["false"]))
    with pytest.raises(LaionPeopleError, match=r"\[airflow-down\]$"):
        airflow.start()
    paths = [home, *(path for path in home.rglob("*") if not path.is_symlink())]
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in paths}
    assert {name for name, mode in modes.items() if mode & 0o077} == {"notes.txt"}, "which is not Airflow's"
    assert (modes["home"], modes["dag_id=a"], modes["airflow.db"]) == (0o700, 0o700, 0o600)


def test_what_airflow_writes_is_closed_and_what_its_tasks_write_is_as_the_user_has_it(tmp_path: Path) -> None:
    command = [ROOT / "bin" / "airflow-env", "bash", "-c", "umask; echo $TASK_UMASK"]
    environ = os.environ | {"AIRFLOW_HOME": str(tmp_path)}
    assert subprocess.run(command, env=environ, capture_output=True, umask=0o002).stdout.split() == [b"0077", b"0002"]


@pytest.mark.parametrize(("minutes", "healthy"), [(1, True), (9, False)])
def test_an_airflow_whose_workers_take_no_tasks_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minutes: int, healthy: bool
) -> None:
    airflow = LocalAirflow(tmp_path, 1)
    queued = {"queued_when": (datetime.now(UTC) - timedelta(minutes=minutes)).isoformat().replace("+00:00", "Z")}
    monkeypatch.setattr(airflow, "processes", lambda: list(COMPONENTS))
    monkeypatch.setattr(airflow, "request", lambda *_: {"task_instances": [queued]})
    with nullcontext() if healthy else pytest.raises(LaionPeopleError, match=r" 1 .* 9 minutes: .*\[stuck-queue\]$"):
        airflow.start()


@pytest.mark.parametrize(("minutes", "status"), [(1, "healthy"), (9, "its workers leave 1 tasks queued: restart it")])
def test_a_scheduler_in_a_container_is_unhealthy_when_its_workers_take_no_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], minutes: int, status: str
) -> None:
    database = f"sqlite:///{tmp_path / 'airflow.db'}"
    table = Table("task_instance", MetaData(), Column("state", String), Column("queued_dttm", UtcDateTime))
    table.create(engine := create_engine(database))
    with engine.begin() as connection:
        queued = {"state": "queued", "queued_dttm": datetime.now(UTC) - timedelta(minutes=minutes)}
        connection.execute(table.insert(), [queued, queued | {"state": "running"}])
    loader = SourceFileLoader("health", str(ROOT / "docker" / "health"))
    loader.exec_module(health := module_from_spec(spec_from_loader("health", loader)))
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", database)
    monkeypatch.setattr(health, "urlopen", lambda *_, **__: BytesIO(b'{"scheduler": {"status": "healthy"}}'))
    assert health.main("scheduler") == (status != "healthy")
    assert capsys.readouterr().out == f"{status}\n"
