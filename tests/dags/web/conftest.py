"""The page in Airflow's own API server, with its real sign-in, on stores that are made up."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import uvicorn
from airflow.api_fastapi.app import create_app
from airflow.models.dagrun import DagRun
from airflow.utils.db import upgradedb
from airflow.utils.session import create_session
from fastapi import FastAPI
from fastapi.testclient import TestClient
from playwright.sync_api import Browser, sync_playwright
from sqlalchemy import delete

from laion_people.storage.store import LocalStore
from tools.local_airflow import free_port

USERS = {"vera": "viewer", "ulla": "user", "otto": "op", "ada": "admin"}  # name -> role
SignedIn = Callable[[str], TestClient]
AddRun = Callable[[str, str, str | None, str], None]


@pytest.fixture(scope="package")
def airflow() -> Iterator[FastAPI]:
    """Airflow's API server with its plugins and USERS, on an empty database."""
    with pytest.MonkeyPatch.context() as patch:
        users = ",".join(f"{name}:{role}" for name, role in USERS.items())
        patch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS", users)
        patch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", "x" * 64)
        patch.setenv("AIRFLOW__API__SECRET_KEY", "y" * 64)
        upgradedb()
        yield create_app(apps="core")


@pytest.fixture(scope="module")
def server(airflow: FastAPI) -> Iterator[str]:
    """Address on loopback at which Airflow's API server answers browsers."""
    server = uvicorn.Server(uvicorn.Config(airflow, port=free_port(), log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server does not start"
        time.sleep(0.05)
    yield f"http://localhost:{server.config.port}"
    server.should_exit = True
    thread.join(30)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    executable = shutil.which("chromium")
    assert executable, "chromium is not installed: `apt-get install chromium`, as .ci/run does"
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])


@pytest.fixture
def anonymous(airflow: FastAPI) -> TestClient:
    return TestClient(airflow, follow_redirects=False)


@pytest.fixture(scope="package")
def signed_in(airflow: FastAPI) -> SignedIn:
    """A client that one of USERS has signed in with, as a browser: by password, for a cookie."""
    passwords = json.loads(Path(os.environ["AIRFLOW_HOME"], "simple_auth_manager_passwords.json.generated").read_text())

    def sign_in(name: str) -> TestClient:
        client = TestClient(airflow, follow_redirects=False, raise_server_exceptions=False)
        answer = client.post("/auth/token", json={"username": name, "password": passwords[name]})
        client.cookies.set("_token", answer.json()["access_token"])
        return client

    return sign_in


@pytest.fixture
def client(signed_in: SignedIn, store: LocalStore) -> TestClient:
    """A viewer's client, on an empty store."""
    return signed_in("vera")


@pytest.fixture
def add_run(airflow: FastAPI) -> Iterator[AddRun]:
    """Adds a run to Airflow's database: DAG, run id, partition key, state. They are gone when the test has ended."""
    added = []

    def add(dag_id: str, run_id: str, partition: str | None, state: str) -> None:
        now = datetime.now(UTC)
        with create_session() as session:
            run = DagRun(dag_id, run_id, run_type="manual", state=state, partition_key=partition, run_after=now)
            session.add(run)
        added.append(run_id)

    yield add
    with create_session() as session:
        session.execute(delete(DagRun).where(DagRun.run_id.in_(added)))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalStore:
    """An empty store, which the page reads."""
    store = LocalStore(tmp_path / "store")
    monkeypatch.setenv("LAION_PEOPLE_STORE", store.uri)
    return store
