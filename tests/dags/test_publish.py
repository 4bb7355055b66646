"""What a run of laion_people_publish decides in Airflow: what the form means, and who may let it pass."""

from __future__ import annotations

import json
from copy import deepcopy
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, ParamValidationError

from laion_people.orchestration import publishing
from laion_people.orchestration.publishing import FORM, ApprovalOperator, announce, planned
from laion_people.publication.release import RECORD, Publication, PublishedFile, folder
from laion_people.storage.layout import manifest_path
from laion_people.storage.manifest import Manifest
from laion_people.storage.store import LocalStore
from tests.dags.conftest import ROOT
from tests.synthetic_store import VERSION, make_store

PARTITION = "demo/00000"
FILLED = {"release": "laion-people", "version": "1.0.0", "partitions": [PARTITION]}


@pytest.fixture
def store(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> LocalStore:
    """A store with one captioned partition, which the settings name."""
    monkeypatch.setenv("LAION_PEOPLE_STORE", str(tmp_path))
    store = LocalStore(tmp_path)
    make_store(store, PARTITION)
    return store


def context(**filled: Any) -> dict[str, Any]:
    """What a task of a run is given, whose form is filled in so."""
    params = {name: param.value for name, param in FORM.items()} | FILLED | filled
    ti = SimpleNamespace(dag_id="laion_people_publish", log_url="http://localhost/log")
    return {"params": params, "run_id": "manual", "ti": ti}


def published(store: LocalStore, version: str) -> None:
    maps: dict[str, Any] = {name: {} for name in ("models", "columns", "left_out", "numbers")}
    record = Publication(
        name="laion-people",
        version=version,
        edition="geometry",
        at="2026-11-30T20:00:00+00:00",
        clusters="v0007",
        partitions=("a/00000", "a/00001"),
        options={"pictures": False, "faces": "keep"},
        files=(PublishedFile("poses/train-00000-of-00001.parquet", 100, "0" * 64, "poses", 1234),),
        **maps,
    )
    store.write(f"{folder('laion-people', version)}/{RECORD}", record.to_json())


def test_the_form_means_partitions_whose_rows_are_counted(store: LocalStore) -> None:
    plan = planned(context())
    made = {step: Manifest.from_json(store.read(manifest_path(step, PARTITION))) for step in ("detect", "caption")}
    assert (plan["clusters"], plan["partitions"], plan["published"]) == (VERSION, [PARTITION], [])
    assert plan["rows"]["people"] == made["detect"].rows > 0
    assert plan["rows"]["subset_c"] == made["caption"].rows > 0
    assert (plan["edition"], plan["pictures"], plan["faces"], plan["push"]) == ("links", True, "keep", None)


def test_an_empty_form_means_all_partitions_that_have_captions(store: LocalStore) -> None:
    store.write(f"manifests/caption/{VERSION}/demo/00000/00000.json", b"")
    store.write(f"manifests/caption/{VERSION}/other/00007/00000.json", b"")
    store.write("manifests/caption/v0002/later/00000/00000.json", b"")
    assert planned(context(partitions=[]))["partitions"] == [PARTITION, "other/00007"]


def test_a_version_that_exists_ends_in_one_line(store: LocalStore) -> None:
    published(store, "1.0.0")
    message = r"^laion-people 1.0.0 was published at 2026-11-30\S+, .* with another version, .*\[version-exists\]$"
    with pytest.raises(AirflowFailException, match=message):
        planned(context())
    assert planned(context(version="1.0.1", edition="geometry"))["published"] == ["1.0.0"]


def test_a_name_of_another_edition_is_refused_before_anybody_is_asked(store: LocalStore) -> None:
    published(store, "1.0.0")
    with pytest.raises(
        AirflowFailException, match=r"^laion-people 1.0.0 is of the edition geometry: .*\[bad-argument\]$"
    ):
        planned(context(version="1.1.0"))


def test_a_version_that_exists_can_be_uploaded_as_it_is(store: LocalStore) -> None:
    published(store, "1.0.0")
    plan = planned(context(push="laion/people", clusters="v0001", partitions=[PARTITION]))
    assert (plan["clusters"], plan["partitions"]) == ("v0007", ["a/00000", "a/00001"])
    assert (plan["edition"], plan["pictures"], plan["rows"]) == ("geometry", False, {"poses": 1234})
    task = ApprovalOperator(task_id="approve", release="laion-people", version="1.0.0", plan=plan)
    body, _ = task.question(context())
    assert "**laion-people 1.0.0** would be uploaded, as it was published of cluster version v0007" in body
    assert "| 2 | 1,234 |" in body and "it is uploaded as it is" in body


@pytest.mark.parametrize(
    ("filled", "code"),
    [
        ({"partitions": ["demo/00009"]}, "unknown-partition"),
        ({"clusters": "v0009"}, "unknown-version"),
        ({"partitions": []}, "nothing-to-publish"),
    ],
)
def test_what_cannot_be_published_is_said_before_anybody_is_asked(
    store: LocalStore, filled: dict[str, Any], code: str
) -> None:
    with pytest.raises(AirflowFailException, match=rf"\[{code}\]$"):
        planned(context(**filled))


def approval(store: LocalStore) -> ApprovalOperator:
    plan = planned(context(push="laion/people"))
    return ApprovalOperator(task_id="approve", release="laion-people", version="1.0.0", plan=plan)


def respond(task: ApprovalOperator, option: str) -> Any:
    """What the task does when Zoë has answered."""
    event = {"chosen_options": [option], "params_input": {}, "responded_at": datetime(2026, 11, 30, tzinfo=UTC)}
    return task.execute_complete({"run_id": "manual"}, event | {"responded_by_user": {"id": "7", "name": "Zoë"}})


def test_the_question_tells_what_would_be_published(store: LocalStore) -> None:
    task = approval(store)
    body, notice = task.question(context())
    people = task.plan["rows"]["people"]
    assert "**laion-people 1.0.0** would be published of cluster version v0001, in the edition links" in body
    assert f"| 1 | {people:,} |" in body and "Uploaded to: laion/people" in body
    assert body.count("|---|---|---|---|---|---|\n") == 1  # a column for the partitions, and for each table
    assert (notice.event, notice.title) == ("review", "Waits for an approval: laion-people 1.0.0")
    assert f"people {people:,}" in notice.facts["Rows"]


def test_an_answer_is_kept_with_name_and_time_and_a_no_publishes_nothing(store: LocalStore) -> None:
    task = approval(store)
    respond(task, "Approve")
    with pytest.raises(AirflowFailException, match=r"^Zoë .* laion-people 1.0.0: .*\[not-approved\]$"):
        respond(task, "Reject")
    approved, rejected = json.loads(store.read("releases/laion-people/approvals.json"))
    said = {"answer": "Approve", "by": "Zoë", "at": "2026-11-30T00:00:00+00:00", "run_id": "manual"}
    assert approved == said | {"version": "1.0.0"} | task.plan
    assert rejected == approved | {"answer": "Reject"}


def test_an_approval_can_be_left_out_only_where_no_reviews_are_asked_for(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = approval(store)
    assert task.question(context())
    with pytest.raises(AirflowSkipException, match=r"\[nothing-to-do\]$"):
        task.question(context(approval=False))
    monkeypatch.setenv("LAION_PEOPLE_REVIEW", "1")
    assert task.question(context(approval=False))


def test_what_was_published_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "send", sent := Mock())
    made = {"publication": "file:///store/releases/laion-people/1.0.0", "rows": {"people": 1430, "subset_a": 50}}
    announce(context(), made)
    ((notice,), _) = sent.call_args
    assert (notice.event, notice.title) == ("publication", "Published: laion-people 1.0.0")
    assert notice.facts["Rows"] == "people 1,430, subset_a 50"
    assert notice.facts["Next"] == "look at /laion-people/releases/laion-people/1.0.0"


@pytest.fixture(scope="module")
def dag() -> DAG:
    return DagBag(ROOT / "dags").dags["laion_people_publish"]


@pytest.mark.parametrize(
    "filled",
    [
        {"release": "../x"},
        {"release": ""},
        {"release": None},
        {"release": "a\n"},
        {"version": "1.0"},
        {"version": "1.0.0-rc.1"},
        {"version": "01.0.0"},
        {"version": None},
        {"edition": "everything"},
        {"faces": "swap"},
        {"push": "laion"},
        {"push": "a/b; touch x"},
        {"push": "--x/y"},
        {"clusters": "v1"},
        {"approval": "no"},
        {"pictures": 1},
    ],
)
def test_parameters_that_make_no_sense_are_refused_by_the_form(dag: DAG, filled: dict[str, Any]) -> None:
    params = deepcopy(dag.params)
    params.update(FILLED)
    params.validate()
    with pytest.raises(ParamValidationError):
        params.update(filled)
        params.validate()


def test_a_run_without_a_name_or_a_version_does_not_start(dag: DAG) -> None:
    with pytest.raises(ParamValidationError):
        deepcopy(dag.params).validate()
