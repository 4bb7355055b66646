"""Which partitions get a run, and that a second one does nothing: decided from the store's state and Airflow's."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG
from airflow.sdk.definitions.param import ParamsDict
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSkipException,
    ParamValidationError,
)

from laion_people.orchestration import backfill
from laion_people.orchestration.claims import CAPTION, EXTRACT, claim, run_at_work, skip_unless_planned
from laion_people.orchestration.tasks import CLUSTERED, METADATA
from tests.dags.conftest import ROOT

STATE = {
    "extracted": ["a/00000", "a/00001"],
    "begun": ["a/00002", "a/00003"],
    "pending": ["a/00004", "a/named", "b/00000"],
}


class FakeAirflow:
    """What the tasks ask Airflow for: claims, states of runs, ended tasks of a backfill; and the context of one."""

    dag_id = "laion_people_backfill"

    def __init__(self, **runs: str):
        self.runs = runs  # of laion_people_extract: run -> state
        self.caption_runs: dict[str, str] = {}
        self.claims: dict[str, Any] = {}
        self.caption_claims: dict[str, Any] = {}
        self.tasks: dict[tuple[str, str, str], list[str]] = {}  # DAG, run, task -> states of its instances
        self.states: dict[str, str] = {}
        self.paused = False
        self.waits_since: datetime | None = None

    def has(self, run: str, key: str) -> None:
        self.claims[key] = {"run": run, "since": "2026-01-01T00:00:00+00:00"}

    def context(
        self, run: str = "r", key: str | None = None, index: int = -1, dag: str = EXTRACT, **form: Any
    ) -> dict[str, Any]:
        self.run_id, self.map_index = run, index
        stores = {METADATA: self.claims, CLUSTERED: self.caption_claims}
        return {
            "ti": self,
            "dag_run": SimpleNamespace(dag_id=dag, run_id=run, partition_key=key),
            "asset_state_store": {a: SimpleNamespace(get=s.get, set=s.__setitem__) for a, s in stores.items()},
            "params": filled_in(form),
        }

    def get_dr_count(self, dag_id: str, run_ids: list[str] | None = None, states: Any = None) -> int:
        runs = {EXTRACT: self.runs, CAPTION: self.caption_runs}[dag_id]
        return sum(state in states for run, state in runs.items() if run_ids is None or run in run_ids)

    def get_ti_count(self, dag_id: str, *, task_ids: list[str], run_ids: list[str], states: Sequence[str]) -> int:
        (task,), (run,) = task_ids, run_ids
        return sum(state in states for state in self.tasks.get((dag_id, run, task), ()))

    def get_task_states(self, dag_id: str, **asked: Any) -> dict[str, dict[str, str]]:
        return {self.run_id: self.states}

    def get_dag(self, dag_id: str) -> SimpleNamespace:
        return SimpleNamespace(is_paused=self.paused)

    def get_first_reschedule_date(self, context: Any) -> datetime | None:
        return self.waits_since


def filled_in(form: dict[str, Any]) -> dict[str, Any]:
    params = ParamsDict(deepcopy(backfill.FORM))
    params.update(form)
    return params.validate()


@pytest.fixture
def airflow() -> FakeAirflow:
    return FakeAirflow(old="failed", busy="running")


def chosen(airflow: FakeAirflow, **form: Any) -> list[str]:
    return backfill.partitions_to_backfill(airflow.context(**form), STATE)


def test_a_run_claims_its_partition_and_may_do_so_again(airflow: FakeAirflow) -> None:
    airflow.runs["r"] = "running"
    for _ in range(2):
        claim(airflow.context("r", "a/00002"))
        assert run_at_work(airflow.context(), "a/00002") == "r"
    airflow.runs["r"] = "failed"
    assert run_at_work(airflow.context(), "a/00002") == ""


@pytest.mark.parametrize("state", ["queued", "running"])
def test_a_second_run_of_a_partition_does_nothing_and_names_the_first(airflow: FakeAirflow, state: str) -> None:
    airflow.runs["busy"] = state
    airflow.has("busy", "a/00002")
    with pytest.raises(AirflowFailException, match=r"run busy .* a/00002.*\[partition-busy\]$"):
        claim(airflow.context("r", "a/00002"))
    assert airflow.claims["a/00002"]["run"] == "busy"
    claim(airflow.context("r", "a/00003"))


def test_a_claim_that_stands_is_not_written_again(airflow: FakeAirflow) -> None:
    """Every step claims: a write of each would be one that the claim of another run may be lost under."""
    airflow.has("r", "a/00002")
    claim(airflow.context("r", "a/00002"))
    assert airflow.claims["a/00002"]["since"] == "2026-01-01T00:00:00+00:00"


def test_caption_runs_have_claims_of_their_own(airflow: FakeAirflow) -> None:
    airflow.has("busy", "a/00002")
    airflow.caption_runs["c"] = "running"
    claim(airflow.context("c", "a/00002", dag=CAPTION))
    with pytest.raises(AirflowRescheduleException):  # it may be for another cluster version, so it waits
        claim(airflow.context("d", "a/00002", dag=CAPTION))
    assert airflow.caption_claims["a/00002"]["run"] == "c"
    airflow.caption_runs["c"] = "failed"
    claim(airflow.context("d", "a/00002", dag=CAPTION))
    assert (airflow.caption_claims["a/00002"]["run"], airflow.claims["a/00002"]["run"]) == ("d", "busy")


@pytest.mark.parametrize("holder", ["old", "deleted"])
def test_a_run_that_has_ended_or_is_gone_holds_nothing(airflow: FakeAirflow, holder: str) -> None:
    airflow.has(holder, "a/00002")
    claim(airflow.context("r", "a/00002"))
    assert airflow.claims["a/00002"]["run"] == "r"


@pytest.mark.parametrize("key", [None, "", "no slash", "../../etc/passwd", "a/b\n", "a/" + "b" * 101])
def test_a_key_that_is_none_is_left_to_the_first_task_to_refuse(airflow: FakeAirflow, key: str | None) -> None:
    claim(airflow.context("r", key))
    assert airflow.claims == {}


@pytest.mark.parametrize("dag", [EXTRACT, CAPTION])
def test_nothing_is_recounted_when_nothing_was_begun(airflow: FakeAirflow, dag: str) -> None:
    other = CAPTION if dag == EXTRACT else EXTRACT
    airflow.tasks = {(other, "r", "plan"): ["success"], (dag, "s", "plan"): ["success"], (dag, "r", "plan"): ["failed"]}
    with pytest.raises(AirflowSkipException, match=r"\[partition-busy\]$"):
        skip_unless_planned(airflow.context(dag=dag))
    airflow.tasks[dag, "r", "plan"] = ["success"]
    skip_unless_planned(airflow.context(dag=dag))


def test_discover_announces_what_is_not_extracted_and_that_no_run_has_begun(airflow: FakeAirflow) -> None:
    airflow.tasks[EXTRACT, "old", "plan"] = ["success"]
    airflow.has("old", "a/00003")
    airflow.has("busy", "a/00004")
    keys = backfill.partitions_to_announce(airflow.context(), STATE, [])
    assert keys == ["a/00002", "a/named", "b/00000"]
    for key in keys:
        airflow.has("old", key)
    with pytest.raises(AirflowSkipException, match=r"\[nothing-to-do\]$"):
        backfill.partitions_to_announce(airflow.context(), STATE, [])


@pytest.mark.parametrize("plan", [["failed"], []])
def test_discover_announces_a_partition_again_whose_run_ended_in_its_first_task(
    airflow: FakeAirflow, plan: list[str]
) -> None:
    """As one does that is started before the metadata of its partition is there."""
    airflow.has("old", "a/00004")
    airflow.tasks[EXTRACT, "old", "plan"] = plan
    assert "a/00004" in backfill.partitions_to_announce(airflow.context(), STATE, [])


def test_discover_announces_nothing_to_a_paused_dag_which_would_lose_it(airflow: FakeAirflow) -> None:
    airflow.paused = True
    with pytest.raises(AirflowSkipException, match=r" 5 .*\[extract-paused\]$"):
        backfill.partitions_to_announce(airflow.context(), STATE, [])
    with pytest.raises(AirflowFailException, match=r"^laion_people_extract .*\[extract-paused\]$"):
        backfill.partitions_to_announce(airflow.context(), STATE, ["a/00000"])


def test_discover_announces_nothing_anew_while_runs_are_queued_which_may_be_of_the_same_keys(
    airflow: FakeAirflow,
) -> None:
    airflow.runs |= {"q1": "queued", "q2": "queued"}
    with pytest.raises(AirflowSkipException, match=r"^2 .* laion_people_extract .*\[not-yet\]$"):
        backfill.partitions_to_announce(airflow.context(), STATE, [])
    assert backfill.partitions_to_announce(airflow.context(), STATE, ["b/00000"]) == ["b/00000"]


def test_discover_announces_what_is_asked_for_again_unless_a_run_is_at_work_on_it(airflow: FakeAirflow) -> None:
    airflow.has("old", "a/00000")
    airflow.has("busy", "a/00002")
    assert backfill.partitions_to_announce(airflow.context(), STATE, ["a/00002", "a/00000"]) == ["a/00000"]
    with pytest.raises(AirflowSkipException, match=r"\[nothing-to-do\]$"):
        backfill.partitions_to_announce(airflow.context(), STATE, ["a/00002"])
    with pytest.raises(AirflowFailException, match=r"c/9.*\[unknown-partition\]$"):
        backfill.partitions_to_announce(airflow.context(), STATE, ["c/9"])


def test_a_backfill_takes_a_range_or_a_list(airflow: FakeAirflow) -> None:
    assert chosen(airflow, collection="a", which="all") == [*STATE["extracted"], *STATE["begun"], "a/00004", "a/named"]
    assert chosen(airflow, collection="a", first=1, last=2, which="all") == ["a/00001", "a/00002"]
    assert chosen(airflow, collection="a", first=3, which="all") == ["a/00003", "a/00004"]
    assert chosen(airflow, collection="a", last=0, which="all") == ["a/00000"]
    assert chosen(airflow, partitions=["b/00000", "a/named"], which="all") == ["b/00000", "a/named"]


def test_a_backfill_takes_what_is_missing_what_has_failed_or_all(airflow: FakeAirflow) -> None:
    airflow.has("old", "a/00001")  # extracted by a later one
    airflow.has("old", "a/00004")  # failed before its first shard
    assert chosen(airflow, collection="a", which="missing") == ["a/00002", "a/00003", "a/00004", "a/named"]
    assert chosen(airflow, collection="a", which="failed") == ["a/00002", "a/00003", "a/00004"]
    with pytest.raises(AirflowSkipException, match=r"failed .*\[nothing-to-do\]$"):
        chosen(airflow, collection="b", which="failed")


@pytest.mark.parametrize("which", ["missing", "failed", "all"])
def test_a_backfill_leaves_out_what_a_run_is_at_work_on(airflow: FakeAirflow, which: str) -> None:
    airflow.has("busy", "a/00002")
    assert chosen(airflow, partitions=["a/00002", "a/00003"], which=which) == ["a/00003"]


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ({"which": "all"}, ""),
        ({"collection": "a", "partitions": ["b/00000"]}, ""),
        ({"collection": "c"}, " c; .* a, b "),
        ({"collection": "a", "first": 5}, " a .* 5 .* 99999; .* a/00000 .* a/named "),
        ({"collection": "a", "first": 4, "last": 3}, " a .* 4 .* 3; "),
        ({"partitions": ["a/00009"]}, " a/00009: "),
    ],
)
def test_a_form_that_makes_no_sense_is_refused_with_a_sentence(
    airflow: FakeAirflow, form: dict[str, Any], says: str
) -> None:
    with pytest.raises(AirflowFailException, match=rf"{says}.*\[unknown-partition\]$"):
        chosen(airflow, **form)


@pytest.mark.parametrize(
    "form",
    [
        {"collection": ""},
        {"collection": "a/../b"},
        {"collection": "$(id)"},
        {"first": -1},
        {"last": 100_000},
        {"first": "1"},
        {"partitions": ["a"]},
        {"partitions": ["a/1", "a/1"]},
        {"which": "some"},
        {"at_once": 0},
        {"at_once": 3},  # the DAG's own limit is 2
    ],
)
def test_the_form_refuses_values_that_no_partition_can_have(airflow: FakeAirflow, form: dict[str, Any]) -> None:
    with pytest.raises(ParamValidationError):
        airflow.context(**form)


@pytest.mark.parametrize("at_once", [1, 2])
def test_never_more_are_under_way_than_asked_for_and_each_gets_its_turn(airflow: FakeAirflow, at_once: int) -> None:
    for ended in range(20):
        airflow.tasks[airflow.dag_id, "b", "parts.finish"] = ["success"] * ended + ["running"] * (20 - ended)
        started = []
        for index in range(20):
            context = airflow.context("b", index=index, at_once=at_once)
            try:
                assert backfill.start(context, f"a/{index:05d}") is None
                started.append(index)
            except AirflowRescheduleException as wait:
                turns = (wait.reschedule_date - datetime.now(UTC)) / backfill.POLL
                assert turns == pytest.approx(index - ended - at_once + 1, abs=0.1)
        assert len(started) == min(ended + at_once, 20)


def test_a_turn_waits_while_the_extracting_dag_is_paused(airflow: FakeAirflow) -> None:
    airflow.paused = True
    with pytest.raises(AirflowRescheduleException):
        backfill.start(airflow.context("b", index=0, at_once=1), "a/00002")


def test_a_key_that_another_run_is_at_work_on_is_not_announced_but_waited_for(airflow: FakeAirflow) -> None:
    airflow.has("busy", "a/00002")
    context = airflow.context("b", index=0, at_once=1)
    with pytest.raises(AirflowSkipException, match=r"run busy .* a/00002.*\[partition-busy\]$"):
        backfill.start(context, "a/00002")
    with pytest.raises(AirflowRescheduleException):
        backfill.finish(context, "a/00002", None)
    airflow.runs["busy"] = "success"
    assert backfill.finish(context, "a/00002", None) == "busy"


def test_a_key_is_finished_when_the_run_that_claimed_it_since_has_ended(airflow: FakeAirflow) -> None:
    airflow.has("old", "a/00002")
    context = airflow.context("b", index=0, at_once=1)
    before = backfill.start(context, "a/00002")
    with pytest.raises(AirflowRescheduleException):  # no run has claimed it yet
        backfill.finish(context, "a/00002", before)
    airflow.runs["new"] = "running"
    claim(airflow.context("new", "a/00002"))
    with pytest.raises(AirflowRescheduleException):
        backfill.finish(context, "a/00002", before)
    airflow.runs["new"] = "success"
    assert backfill.finish(context, "a/00002", before) == "new"
    airflow.runs["new"] = "failed"
    with pytest.raises(AirflowFailException, match=r"^a/00002: run new .*\[run-failed\]$"):
        backfill.finish(context, "a/00002", before)


def test_an_announcement_that_no_run_was_made_of_is_given_up_with_a_sentence(airflow: FakeAirflow) -> None:
    context = airflow.context("b", index=0, at_once=1)
    airflow.waits_since = datetime.now(UTC) - backfill.PATIENCE - timedelta(seconds=1)
    with pytest.raises(AirflowRescheduleException):  # runs are running: it may wait for them
        backfill.finish(context, "a/00002", None)
    airflow.runs.clear()
    with pytest.raises(AirflowFailException, match=r"a/00002.*\[extract-paused\]$"):
        backfill.finish(context, "a/00002", None)


def test_the_report_names_the_partitions_that_failed(airflow: FakeAirflow) -> None:
    airflow.states = {"parts.finish_0": "success", "parts.finish_1": "failed", "parts.finish_2": "upstream_failed"}
    context = airflow.context("b")
    with pytest.raises(AirflowFailException, match=r"^2 of 3 .* a/00003, a/00004\. .*\[run-failed\]$"):
        backfill.report(context, ["a/00002", "a/00003", "a/00004"])
    airflow.states = dict.fromkeys(airflow.states, "success")
    assert backfill.report(context, ["a/00002", "a/00003", "a/00004"]) == {"partitions": 3}


@pytest.fixture(scope="module")
def cluster_dag() -> DAG:
    return DagBag(ROOT / "dags" / "laion_people_cluster.py").dags["laion_people_cluster"]


def gated(dag: DAG, airflow: FakeAirflow, **params: Any) -> list[str]:
    """What the gate of a run for collection a lets pass, all partitions of which are extracted."""
    context = airflow.context("r", "a") | {"params": {"clusters": None, "partitions": []} | params}
    return dag.get_task("gate").python_callable({"extracted": ["a/00000", "a/00001"]}, **context)


def test_extracting_a_release_again_clusters_it_once_after_its_last_partition(
    cluster_dag: DAG, airflow: FakeAirflow
) -> None:
    airflow.runs |= {"first": "running", "last": "running"}
    airflow.has("first", "a/00000")
    airflow.has("last", "a/00001")
    airflow.tasks[EXTRACT, "first", "announce"] = ["success"]
    with pytest.raises(AirflowSkipException, match=r"^run last .* a/00001: .*\[not-yet\]$"):
        gated(cluster_dag, airflow)
    assert gated(cluster_dag, airflow, partitions=["a/00000"]) == ["a/00000"]  # which a person asks for
    airflow.tasks[EXTRACT, "last", "announce"] = ["success"]  # though Airflow hasn't ended the run yet
    assert gated(cluster_dag, airflow) == ["a/00000", "a/00001"]


def test_the_gate_does_not_wait_for_runs_that_have_ended_or_of_other_releases(
    cluster_dag: DAG, airflow: FakeAirflow
) -> None:
    airflow.has("old", "a/00001")
    airflow.has("busy", "b/00000")
    assert gated(cluster_dag, airflow) == ["a/00000", "a/00001"]
