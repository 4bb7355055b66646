"""An Airflow on this machine: what its user is told."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from laion_people.demo import serve_sample
from laion_people.errors import UsageError
from laion_people.local_airflow import LocalAirflow


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_taken_port_is_named_before_anything_is_started(tmp_path: Path, taken_port: int) -> None:
    with pytest.raises(UsageError, match=f"port {taken_port} is taken: stop what uses it, or set AIRFLOW__API__PORT"):
        LocalAirflow(tmp_path / "home", taken_port).start()
    assert not (tmp_path / "home").exists()


def test_the_demo_says_which_port_its_images_need(taken_port: int) -> None:
    with (
        pytest.raises(UsageError, match=f"port {taken_port}, which the sample is served on, is taken"),
        serve_sample(taken_port),
    ):
        pass


def test_stopping_what_does_not_run_is_no_error(tmp_path: Path) -> None:
    LocalAirflow(tmp_path, 1).stop()
    (tmp_path / "pids.json").write_text('{"999999999": 0.0, "1": 0.0}')  # gone; another process with a pid used again
    assert LocalAirflow(tmp_path, 1).processes() == []
    LocalAirflow(tmp_path, 1).stop()
