"""People in the clustering DAG: the review that a run waits for, and edits after it, in a real Airflow."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from copy import deepcopy
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, ParamValidationError

from laion_people.language import captions
from laion_people.language.captions import Entry
from laion_people.orchestration.releases import partitions_of_version
from laion_people.orchestration.review import ReviewOperator
from laion_people.storage.manifest import Manifest
from laion_people.storage.store import LocalStore
from tests.dags.conftest import ROOT
from tests.dags.deployment import PARTITION, Deployment, wait
from tools.demo import serve_sample
from tools.local_airflow import free_port

CLUSTER, CAPTION = "laion_people_cluster", "laion_people_caption"
EXTRACTION = ("download", "detect", "pose", "mesh", "clip_filter")
SENTENCES = [f"A person in pose number {number}." for number in ("one", "two", "three", "four", "five")]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """An Airflow whose partition has been extracted, and whose cluster runs ask for a review."""
    port = free_port()
    with serve_sample(port):
        deployment = Deployment(tmp_path_factory.mktemp("review"), port, {"LAION_PEOPLE_REVIEW": "1"})
        for step in EXTRACTION:
            command = [ROOT / "bin" / "laion-people", "run", step, PARTITION]
            subprocess.run(command, check=True, env=deployment.environ, capture_output=True)
    try:
        deployment.airflow.start()
        yield deployment
    finally:
        deployment.airflow.stop()


def start(deployment: Deployment, **conf: Any) -> str:
    """Starts a cluster run of the collection; returns its id."""
    return deployment.start_run(CLUSTER, "tiny", **conf)


def answer(deployment: Deployment, run_id: str, option: str) -> str:
    """The state in which the run ends."""
    return deployment.answer(CLUSTER, "review", run_id, option)


def captioned(deployment: Deployment, runs: int) -> None:
    """Waits until so many runs of the caption DAG have succeeded."""
    path = f"/dags/{CAPTION}/dagRuns?state=success"
    wait("captions", lambda: deployment.airflow.request("GET", path)["total_entries"] == runs)


def edit(deployment: Deployment, cluster_id: str, texts: list[str]) -> None:
    store = LocalStore(deployment.store)
    entry = captions.read(store, "v0001")[cluster_id]
    captions.edit(store, "v0001", cluster_id, texts, reviewed=True, by="anna", tag=entry.tag)


def rows(deployment: Deployment, folder: str) -> list[dict[str, Any]]:
    return [
        row
        for path in sorted((deployment.store / folder).rglob("*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]


def candidates(deployment: Deployment) -> set[tuple[str, ...]]:
    """What Subset C chose from for the people of the cluster that is edited."""
    return {tuple(r["candidates"]) for r in rows(deployment, "subset_c/v0001") if r["cluster_id"] == "pose-0001"}


def untouched(deployment: Deployment) -> dict[str, str]:
    """The run that made each shard of the steps that an edit is no concern of."""
    manifests = deployment.store / "manifests"
    paths = [p for step in ("assign", "compose", "embed") for p in sorted((manifests / step).rglob("0000?.json"))]
    return {str(p): json.loads(p.read_bytes())["run_id"] for p in paths if p.parent.name == "00000"}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalStore:
    """A store with captions of two clusters, which the settings name."""
    monkeypatch.setenv("LAION_PEOPLE_STORE", str(tmp_path))
    store = LocalStore(tmp_path)
    captions.put(
        store, "v0001", {"pose-0001": Entry(tuple(SENTENCES), True, "anna"), "pose-0002": Entry(tuple(SENTENCES))}
    )
    return store


def respond(option: str) -> Any:
    """What the task does when Zoë has answered."""
    event = {"chosen_options": [option], "params_input": {}, "responded_at": datetime(2026, 11, 23, tzinfo=UTC)}
    event["responded_by_user"] = {"id": "7", "name": "Zoë"}
    task = ReviewOperator(task_id="review", version="v0001")
    return task.execute_complete({"run_id": "manual"}, event)


def test_an_answer_is_kept_with_name_and_time(store: LocalStore) -> None:
    respond("Approve")
    with pytest.raises(AirflowFailException, match=r"^Zoë .* v0001: .*\[captions-refused\]$"):
        respond("Reject")
    approved, rejected = json.loads(store.read("clusters/v0001/reviews.json"))
    assert approved == {
        "answer": "Approve",
        "by": "Zoë",
        "at": "2026-11-23T00:00:00+00:00",
        "run_id": "manual",
        "clusters": 2,
        "reviewed": 1,
        "edited": 1,
        "empty": 0,
        "refused": 0,
    }
    assert rejected == approved | {"answer": "Reject"}


def test_captions_that_are_refused_cannot_be_approved(store: LocalStore) -> None:
    captions.put(store, "v0001", {"pose-0002": Entry(("A tall person.", *SENTENCES))})
    message = r" 1 of 2 .* pose-0002: 'A tall person.' .* 'tall' .*\[captions-refused\]$"
    with pytest.raises(AirflowFailException, match=message):
        respond("Approve")
    store.write("clusters/v0001/captions.yaml", b"pose-0002: [")
    with pytest.raises(AirflowFailException, match=r"captions.yaml .*\[captions-file\]$"):
        respond("Approve")
    assert not store.exists("clusters/v0001/reviews.json")


@pytest.mark.parametrize("damaged", [b"", b"[{", b'{"answer": "Approve"}', b'"Approve"', b"[1]", b"[" * 100_000])
def test_answers_that_cannot_be_read_are_not_written_over(store: LocalStore, damaged: bytes) -> None:
    store.write("clusters/v0001/reviews.json", damaged)
    with pytest.raises(AirflowFailException, match=r"^clusters/v0001/reviews.json .*\[damaged-reviews\]$"):
        respond("Approve")
    assert store.read("clusters/v0001/reviews.json") == damaged


def test_nobodys_answer_fails_without_another_try(store: LocalStore) -> None:
    task = ReviewOperator(task_id="review", version="v0001")
    with pytest.raises(AirflowFailException, match=r" 30 days: .*\[no-answer\]$"):
        task.execute_complete({"run_id": "manual"}, {"error": "late", "error_type": "timeout"})


def test_a_run_that_asks_for_no_review_goes_on_without(store: LocalStore) -> None:
    with pytest.raises(AirflowSkipException, match=r"\[nothing-to-do\]$"):
        ReviewOperator(task_id="review", version="v0001").execute({"params": {"review": False}})


def test_a_cluster_version_stands_for_the_partitions_that_it_was_fitted_on(store: LocalStore) -> None:
    manifest = Manifest(
        step="cluster", partition="v0001", run_id="run", params={"partitions": [PARTITION, "tiny/00001"]}, inputs=()
    )
    store.write("manifests/cluster/v0001.json", manifest.to_json())
    assert partitions_of_version("v0001") == [PARTITION, "tiny/00001"]
    with pytest.raises(AirflowFailException, match=r"v0002: .*\[unknown-version\]$"):
        partitions_of_version("v0002")


@pytest.fixture(scope="module")
def dag() -> DAG:
    return DagBag(ROOT / "dags").dags[CLUSTER]


@pytest.mark.parametrize(
    "conf",
    [
        {"clusters": "../v0001"},
        {"clusters": "v1"},
        {"captions": "/etc/passwd.yaml"},
        {"captions": "captions/../../a.yaml"},
        {"captions": "captions/a.json"},
        {"partitions": ["tiny"]},
        {"partitions": "tiny/00000"},
        {"review": "yes"},
        {"force": 1},
    ],
)
def test_parameters_that_make_no_sense_are_refused_by_the_form(dag: DAG, conf: dict[str, Any]) -> None:
    with pytest.raises(ParamValidationError):
        deepcopy(dag.params).update(conf)


def test_a_run_waits_for_a_person_and_takes_up_what_she_edits(deployment: Deployment) -> None:
    run_id = start(deployment)
    asked = deployment.question(CLUSTER, run_id)
    assert asked["subject"] == "Are the captions of cluster version v0001 good?"
    assert asked["options"] == ["Approve", "Reject"]
    assert "(/laion-people/clusters/v0001)" in asked["body"]
    assert f"| {deployment.manifest('label', 'v0001')['rows']} | 0 | 0 |" in asked["body"]
    assert not (deployment.store / "subset_c").exists()
    edit(deployment, "pose-0001", SENTENCES)
    assert answer(deployment, run_id, "Approve") == "success"
    (kept,) = json.loads((deployment.store / "clusters/v0001/reviews.json").read_bytes())
    assert (kept["answer"], kept["by"], kept["reviewed"], kept["run_id"]) == ("Approve", "admin", 1, run_id)
    captioned(deployment, 1)
    (row,) = [r for r in rows(deployment, "clusters/v0001") if r["cluster_id"] == "pose-0001"]
    assert (row["captions"], row["reviewed"]) == (SENTENCES, True)
    assert candidates(deployment) == {tuple(SENTENCES)}


def test_edits_after_that_are_taken_up_by_a_run_with_the_version_and_no_image_is_read(deployment: Deployment) -> None:
    before = untouched(deployment)
    others = [*SENTENCES[1:], "A person in the last pose."]
    edit(deployment, "pose-0001", others)
    images = {path: path.read_bytes() for path in (deployment.store / "images").rglob("*.tar")}
    for path in images:
        path.write_bytes(b"whoever reads this would say that it is damaged")
    assert deployment.ended(CLUSTER, start(deployment, clusters="v0001", review=False)) == "success"
    captioned(deployment, 2)
    for path, data in images.items():
        path.write_bytes(data)
    states = {name: task["state"] for name, task in deployment.tasks(CLUSTER).items()}
    assert {name for name, state in states.items() if state == "skipped"} == {"cluster", "review", "relabel"}
    assert candidates(deployment) == {tuple(others)}
    assert untouched(deployment) == before


def test_a_no_fails_the_run_in_a_sentence_and_clearing_the_task_asks_again(deployment: Deployment) -> None:
    run_id = start(deployment, clusters="v0001")
    assert answer(deployment, run_id, "Reject") == "failed"
    task = deployment.tasks(CLUSTER)["review"]
    assert "admin has rejected the captions of v0001: edit them at /laion-people/clusters/v0001" in deployment.log(task)
    deployment.start_clear("review", downstream=True, dag=CLUSTER, run_id=run_id)
    assert answer(deployment, run_id, "Approve") == "success"
    answers = json.loads((deployment.store / "clusters/v0001/reviews.json").read_bytes())
    # One that Airflow has lost once it was kept is asked for, and kept, again.
    assert [kept for kept, _ in groupby(kept["answer"] for kept in answers)] == ["Approve", "Reject", "Approve"]
