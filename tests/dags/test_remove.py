"""What a run of laion_people_remove does in Airflow: it hands on what the form names, and waits before it proves."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSkipException,
    ParamValidationError,
)

from laion_people.orchestration import removing
from laion_people.orchestration.claims import CAPTION, EXTRACT
from laion_people.orchestration.tasks import CLUSTERED, METADATA
from laion_people.storage.layout import PartitionKey
from laion_people.storage.store import LocalStore
from tests.dags.conftest import ROOT

URL = "https://example.org/somebody.jpg"
FILLED = {"reason": "asked for by mail", "secret_names": [URL]}
NUMBER, SHA = "00007/000070012", "0a" * 32


class FakeAirflow:
    """What the tasks ask Airflow for: the runs of each DAG by state, the running tasks, and who has claimed what."""

    dag_id = "laion_people_remove"

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, str]] = {EXTRACT: {}, CAPTION: {}}  # DAG -> run -> state
        self.claims: dict[str, dict[str, Any]] = {EXTRACT: {}, CAPTION: {}}  # DAG -> partition -> claim
        self.running: set[tuple[str, str]] = set()  # DAG, task

    def works(self, dag: str, run: str, key: str, state: str = "running") -> None:
        self.runs[dag][run] = state
        self.claims[dag][key] = {"run": run, "since": "2026-01-01T00:00:00+00:00"}

    def context(self, run: str = "manual__1", **filled: Any) -> dict[str, Any]:
        stores = {METADATA: self.claims[EXTRACT], CLUSTERED: self.claims[CAPTION]}
        params = {name: param.value for name, param in removing.FORM.items()} | FILLED | filled
        states = {asset: SimpleNamespace(get=claims.get) for asset, claims in stores.items()}
        return {"ti": self, "run_id": run, "params": params, "asset_state_store": states}

    def get_dr_count(self, dag_id: str, run_ids: list[str], states: list[str]) -> int:
        return sum(self.runs[dag_id].get(run) in states for run in run_ids)

    def get_ti_count(self, dag_id: str, task_ids: list[str], states: list[str]) -> int:
        assert states == ["running"]
        return sum((dag_id, task) in self.running for task in task_ids)


@pytest.fixture
def airflow() -> FakeAirflow:
    return FakeAirflow()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalStore:
    """A store with metadata of one partition, and images of another that were made elsewhere."""
    monkeypatch.setenv("LAION_PEOPLE_STORE", str(tmp_path))
    store = LocalStore(tmp_path)
    store.write("metadata/a/part-00000-x.parquet", b"")
    store.write("images/mine/00000/00000.tar", b"")
    return store


def test_the_names_of_the_form_wait_in_the_store_until_they_are_forgotten(
    store: LocalStore, airflow: FakeAirflow
) -> None:
    request = removing.ask(airflow.context(secret_names=[URL, "https://example.org/ü?a=b c"]))
    written = store.read(f"removals/requests/{request}.txt").decode()
    assert written == f"url {URL}\nurl https://example.org/ü?a=b c\n"
    assert removing.ask(airflow.context()) == request  # of another try
    assert removing.ask(airflow.context(run="manual__2")) != request
    removing.forget(airflow.context())
    removing.forget(airflow.context())
    assert len(store.list("removals")) == 1  # of the other run


@pytest.mark.parametrize("run", ["../../etc", "manual__2026-11-30T20:00:00+00:00", "ü\n"])
def test_a_run_of_any_name_has_a_request_in_its_folder(store: LocalStore, airflow: FakeAirflow, run: str) -> None:
    removing.ask(airflow.context(run=run))
    (path,) = store.list("removals")
    assert PartitionKey.pattern.fullmatch(path.removeprefix("removals/"))


@pytest.mark.parametrize(
    ("kind", "name", "right"),
    [
        ("url", URL, True),
        ("url", "somebody", False),
        ("sha256", SHA, True),
        ("sha256", SHA[:-1], False),
        ("sample", f"a/00000/{NUMBER}", True),
        ("sample", "1234567890123", True),
        ("sample", "../etc/00000/x", False),
        ("person", f"a/00000/{NUMBER}/0", True),
        ("person", f"a/00000/{NUMBER}", False),
    ],
)
def test_what_is_no_such_name_is_refused_without_being_repeated(
    store: LocalStore, airflow: FakeAirflow, kind: str, name: str, right: bool
) -> None:
    context = airflow.context(kind=kind, secret_names=[name])
    if right:
        assert removing.ask(context)
        return
    with pytest.raises(AirflowFailException, match=rf"^line 1 of the form is no {kind}: .*\[bad-argument\]$") as caught:
        removing.ask(context)
    assert name not in str(caught.value) and caught.value.__suppress_context__
    assert not store.list("removals")


def test_nobody_is_waited_for_where_nobody_is_at_work(store: LocalStore, airflow: FakeAirflow) -> None:
    airflow.works(EXTRACT, "old", "a/00000", "success")
    found = removing.at_work(airflow.context())
    assert found == {EXTRACT: [], CAPTION: []}
    removing.settle(airflow.context(), found)


def test_the_proof_waits_for_runs_that_began_before_the_removal_and_for_no_others(
    store: LocalStore, airflow: FakeAirflow
) -> None:
    airflow.works(EXTRACT, "one", "a/00000")
    airflow.works(CAPTION, "two", "mine/00000", "queued")
    found = removing.at_work(airflow.context())
    assert found == {EXTRACT: ["one"], CAPTION: ["two"]}
    airflow.works(EXTRACT, "later", "mine/00000")
    for dag, run, state in ((EXTRACT, "one", "failed"), (CAPTION, "two", "success")):
        with pytest.raises(AirflowRescheduleException):
            removing.settle(airflow.context(), found)
        airflow.runs[dag][run] = state
    removing.settle(airflow.context(), found)


@pytest.mark.parametrize("writer", [("laion_people_cluster", "label"), ("laion_people_publish", "publish")])
def test_the_proof_waits_for_clusters_and_publications_that_are_being_made(
    store: LocalStore, airflow: FakeAirflow, writer: tuple[str, str]
) -> None:
    airflow.running.add(writer)
    with pytest.raises(AirflowRescheduleException):
        removing.settle(airflow.context(), {})
    airflow.running = {("laion_people_cluster", "review")}  # which waits for a person
    removing.settle(airflow.context(), {})


def test_tasks_that_are_waited_for_exist() -> None:
    dags = DagBag(ROOT / "dags").dags
    for dag, tasks in removing.WRITERS.items():
        assert set(tasks) <= set(dags[dag].task_dict)


def test_a_run_that_only_looks_proves_nothing(store: LocalStore, airflow: FakeAirflow) -> None:
    with pytest.raises(AirflowSkipException, match=r"\[nothing-to-do\]$"):
        removing.at_work(airflow.context(dry_run=True))


@pytest.fixture(scope="module")
def dag() -> DAG:
    return DagBag(ROOT / "dags").dags["laion_people_remove"]


@pytest.mark.parametrize(
    "filled",
    [
        {"reason": ""},
        {"reason": "  "},
        {"reason": None},
        {"reason": "a\nb"},
        {"reason": "a" * 501},
        {"kind": "name"},
        {"secret_names": []},
        {"secret_names": None},
        {"secret_names": URL},
        {"secret_names": [f"{URL}\nurl https://example.org/another"]},
        {"secret_names": ["\n"]},
        {"dry_run": "no"},
    ],
)
def test_parameters_that_make_no_sense_are_refused_by_the_form(dag: DAG, filled: dict[str, Any]) -> None:
    params = deepcopy(dag.params)
    params.update(FILLED)
    params.validate()
    with pytest.raises(ParamValidationError):
        params.update(filled)
        params.validate()


def test_no_task_is_given_a_name_as_an_argument(dag: DAG) -> None:
    templates = {name: getattr(task, name, None) for task in dag.tasks for name in task.template_fields}
    assert "secret_names" not in repr(templates)
    remove = dag.get_task("remove")
    assert set(remove.values) == {"request", "reason", "by"}
