"""What holds for every DAG and task."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from copy import copy, deepcopy
from datetime import timedelta
from importlib.abc import MetaPathFinder
from types import SimpleNamespace

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException, AirflowRescheduleException, ParamValidationError
from airflow.task.priority_strategy import get_airflow_priority_weight_strategies

from laion_people.errors import UsageError
from laion_people.orchestration.claims import ANNOUNCED_BY, skip_unless_planned
from laion_people.orchestration.notifications import RunMade, notify_drift, notify_failure
from laion_people.orchestration.process import ProcessOperator
from laion_people.orchestration.tasks import step_task
from laion_people.settings import from_environment
from laion_people.storage.layout import PartitionKey
from tests.dags.conftest import ROOT
from tools.local_airflow import POOLS

HEAVY = {"torch", "numpy", "pyarrow", "cv2", "PIL", "mediapipe", "sklearn", "open_clip", "mmdet", "mmpose", "boto3"}
DAG_IDS = {
    f"laion_people_{name}" for name in ("discover", "backfill", "extract", "cluster", "caption", "publish", "remove")
}


class NoHeavyImports(MetaPathFinder):
    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] in HEAVY:
            raise ImportError(f"a DAG file imports {name}")


@pytest.fixture(scope="module")
def bag() -> Iterator[DagBag]:
    finder = NoHeavyImports()
    loaded = {name: sys.modules.pop(name) for name in [*sys.modules] if name.partition(".")[0] in HEAVY}
    sys.meta_path.insert(0, finder)
    yield DagBag(ROOT / "dags")
    sys.meta_path.remove(finder)
    sys.modules.update(loaded)  # which other tests hold parts of


@pytest.fixture(params=sorted(DAG_IDS))
def dag(bag: DagBag, request: pytest.FixtureRequest) -> DAG:
    return bag.dags[request.param]


def test_all_dags_are_parsed_without_models_media_or_storage_libraries(bag: DagBag) -> None:
    assert bag.import_errors == {}
    assert set(bag.dags) == DAG_IDS


def test_a_dag_file_is_short_and_reads_nothing_when_it_is_parsed() -> None:
    for path in (ROOT / "dags").glob("*.py"):
        source = path.read_text()
        assert len(source.splitlines()) < 120
        for word in ("Variable", "Connection", "environ", "BashOperator", "subprocess"):
            assert word not in source, f"{path.name}: {word}"


def test_a_dag_says_what_it_is_for(dag: DAG) -> None:
    assert dag.doc_md.startswith("### ")
    assert "laion-people" in dag.tags
    assert dag.catchup is False
    waits = dag.dag_id.removeprefix("laion_people_") in ("cluster", "backfill", "publish")  # for a person, other runs
    assert dag.max_active_runs <= (16 if waits else 2)


def test_a_task_has_an_owner_retries_and_a_time_limit(dag: DAG) -> None:
    for task in dag.tasks:
        assert task.owner == "laion-people"
        assert task.execution_timeout >= timedelta(minutes=10)
        assert task.retries >= (task.task_id != "review")  # a person who doesn't answer isn't asked again
        assert task.retry_exponential_backoff
        assert task.max_retry_delay <= timedelta(hours=1)
        if task.task_id == "audit":  # what is missing doesn't come back by counting again
            assert (task.retries, task.retry_delay) == (1, timedelta(seconds=10))


def test_every_task_notifies_of_its_failure_and_the_extract_audit_of_drift(dag: DAG) -> None:
    for task in dag.tasks:
        assert list(task.on_failure_callback) == [notify_failure]
        notified = [notify_drift] if (dag.dag_id, task.task_id) == ("laion_people_extract", "audit") else []
        assert list(task.on_success_callback) == notified


def test_runs_that_work_for_long_have_a_deadline(dag: DAG) -> None:
    deadlines = [alert.interval for alert in dag.deadline or ()]
    works = dag.dag_id.removeprefix("laion_people_") in ("extract", "cluster", "caption")
    assert deadlines == ([timedelta(hours=48)] if works else [])
    # with Airflow's DAGRUN_QUEUED_AT, nothing of a red run can be cleared (apache/airflow#70368)
    assert all(isinstance(alert.reference, RunMade) for alert in dag.deadline or ())


def test_every_pool_that_a_task_needs_is_made_with_airflow(dag: DAG) -> None:
    assert {task.pool for task in dag.tasks} <= {"default_pool", *POOLS}


def test_consumers_of_announced_keys_are_not_created_paused(bag: DagBag) -> None:
    for dag_id in DAG_IDS - {"laion_people_discover"}:
        assert bag.dags[dag_id].is_paused_upon_creation is False


def test_steps_are_mapped_in_their_order_and_audited_last(bag: DagBag) -> None:
    extract, caption = bag.dags["laion_people_extract"], bag.dags["laion_people_caption"]
    upstream = {t.task_id: t.upstream_task_ids - {"plan"} for t in [*extract.tasks, *caption.tasks]}
    assert upstream["shards.mesh"] == {"shards.pose"}
    assert upstream["shards.pose"] == upstream["shards.clip_filter"] == {"shards.detect"}
    assert upstream["shards.compose"] == {"shards.assign"}
    assert upstream["shards.caption"] == {"shards.assign", "shards.embed"}
    assert extract.get_task("audit").upstream_task_ids == {"shards.mesh", "shards.clip_filter"}
    assert caption.get_task("audit").upstream_task_ids == {"shards.compose", "shards.caption", "shards.describe"}


def weight(bag: DagBag, dag_id: str, task_id: str) -> int:
    """The priority that the scheduler gives a task."""
    task = bag.dags[dag_id].get_task(task_id)
    strategy = get_airflow_priority_weight_strategies()[task.weight_rule]()
    return strategy.get_weight(SimpleNamespace(task=task))


def test_late_steps_of_an_old_run_go_before_early_steps_of_a_new_one(bag: DagBag) -> None:
    extract = [weight(bag, "laion_people_extract", f"shards.{s}") for s in ("download", "detect", "pose", "mesh")]
    assert extract == sorted(set(extract))
    assert weight(bag, "laion_people_extract", "audit") > max(extract)
    assert weight(bag, "laion_people_caption", "shards.caption") > max(extract)


def test_pods_which_take_seconds_to_import_are_left_to_the_kubernetes_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "laion_people.orchestration.pods", raising=False)
    assert isinstance(step_task("detect"), ProcessOperator)
    assert "laion_people.orchestration.pods" not in sys.modules


def test_the_first_task_of_a_partition_run_is_one_that_refuses_a_missing_key(bag: DagBag) -> None:
    for dag_id in ("laion_people_extract", "laion_people_caption"):
        (first,) = bag.dags[dag_id].roots
        assert isinstance(first, ProcessOperator)
        assert first.partitions == "{{ dag_run.partition_key or '' }}"


@pytest.mark.parametrize("dag_id", ANNOUNCED_BY)
def test_every_task_that_makes_something_of_a_partition_has_claimed_it(
    bag: DagBag, dag_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that is cleared, of a run that has ended, while another run is at work."""
    monkeypatch.setenv("LAION_PEOPLE_DESCRIBE", "1")
    dag = bag.dags[dag_id]
    plan = dag.get_task("plan")
    assert plan.max_active_tis_per_dag == 1  # looking and writing are one step
    for task in (plan, *(dag.get_task(f"shards.{step}") for step in STEPS[dag_id])):
        looked_at: list[str] = []
        claims = SimpleNamespace(get=lambda key, seen=looked_at: seen.append(key) or {"run": "other"})
        context = {
            "task": SimpleNamespace(has_nothing_to_make=False),
            "ti": SimpleNamespace(get_dr_count=lambda dag_id, run_ids, states: int(run_ids == ["other"])),
            "dag_run": SimpleNamespace(dag_id=dag_id, run_id="r", partition_key="a/1"),
            "asset_state_store": dict.fromkeys(task.inlets, claims),
        }
        with pytest.raises((AirflowFailException, AirflowRescheduleException)):
            task._pre_execute_hook(context)
        assert (looked_at, task.inlets) == (["a/1"], [ANNOUNCED_BY[dag_id]])


@pytest.mark.parametrize("dag_id", ANNOUNCED_BY)
def test_a_run_that_could_not_begin_is_not_audited_and_has_failed(bag: DagBag, dag_id: str) -> None:
    dag = bag.dags[dag_id]
    assert dag.get_task("audit")._pre_execute_hook is skip_unless_planned
    (last,) = dag.leaves
    assert {"plan", "audit"} <= last.upstream_task_ids and last.trigger_rule == "all_success"


def words(bag: DagBag, dag_id: str, task_id: str, **given: object) -> list[str]:
    """The command line of a task (but for its shards) in a run of partition a/1 with these parameters."""
    dag = bag.dags[dag_id]
    task = copy(dag.get_task(task_id))
    context = {"params": {name: param.value for name, param in dag.params.items()} | given}
    context |= {"triggering_asset_events": {}, "dag_run": SimpleNamespace(partition_key="a/1")}
    task.shards = None
    for field in ("partitions", "clusters", "overrides", "flags"):
        setattr(task, field, task.render_template(getattr(task, field), context, dag.get_template_env()))
    return task.command_line()


STEPS = {
    "laion_people_extract": ("download", "detect", "pose", "mesh", "clip_filter"),
    "laion_people_caption": ("assign", "compose", "embed", "caption", "describe"),
}


@pytest.mark.parametrize(("dag_id", "step"), [(dag_id, step) for dag_id, steps in STEPS.items() for step in steps])
def test_force_reaches_every_step_and_is_off_in_runs_that_nobody_starts(bag: DagBag, dag_id: str, step: str) -> None:
    assert words(bag, dag_id, f"shards.{step}") == ["run", step, "--", "a/1"]
    assert words(bag, dag_id, f"shards.{step}", force=True) == ["run", step, "--force", "--", "a/1"]


def test_the_plan_leaves_finished_shards_out_when_asked_to(bag: DagBag) -> None:
    assert "--unfinished" not in words(bag, "laion_people_extract", "plan")
    assert "--unfinished" in words(bag, "laion_people_extract", "plan", only_failed_shards=True)


def test_a_caption_run_has_something_to_do_only_where_something_is_to_be_made(bag: DagBag) -> None:
    assert "--skip-finished" in words(bag, "laion_people_caption", "plan")
    assert "--skip-finished" not in words(bag, "laion_people_caption", "plan", force=True)


@pytest.mark.parametrize("threshold", [0.28, 0, -1])
def test_another_threshold_is_that_of_the_plan_and_the_audit_too(bag: DagBag, threshold: float) -> None:
    for task_id in ("plan", "shards.clip_filter", "audit"):
        assert not [word for word in words(bag, "laion_people_extract", task_id) if word.startswith("--set")]
        assert f"--set=threshold={threshold}" in words(bag, "laion_people_extract", task_id, threshold=threshold)


def test_failed_rows_are_retried_in_shards_that_count_as_unfinished(bag: DagBag) -> None:
    for task_id in ("plan", "shards.download"):
        assert "--retry-failed" not in words(bag, "laion_people_extract", task_id)
        assert "--retry-failed" in words(bag, "laion_people_extract", task_id, retry_failed_rows=True)


def test_another_cluster_version_is_that_of_all_tasks_that_work_with_one(bag: DagBag) -> None:
    steps = [f"shards.{step}" for step in STEPS["laion_people_caption"] if step not in ("embed", "describe")]
    for task_id in ("plan", *steps, "audit"):
        assert "--clusters=v0003" in words(bag, "laion_people_caption", task_id, clusters="v0003"), task_id


@pytest.mark.parametrize(
    ("dag_id", "name", "value"),
    [
        ("laion_people_extract", "threshold", 1.01),
        ("laion_people_extract", "threshold", "0.2"),
        ("laion_people_extract", "force", "yes"),
        ("laion_people_extract", "only_failed_shards", None),
        ("laion_people_caption", "clusters", "newest"),
        ("laion_people_caption", "clusters", "v0001; touch x"),
        ("laion_people_caption", "clusters", "v0001\n--force"),
        ("laion_people_caption", "clusters", "v0001\n"),
    ],
)
def test_a_run_with_a_wrong_parameter_is_refused(bag: DagBag, dag_id: str, name: str, value: object) -> None:
    params = deepcopy(bag.dags[dag_id].params)
    with pytest.raises(ParamValidationError):
        params[name] = value


def accepts(bag: DagBag, dag_id: str, name: str, value: object) -> bool:
    params = deepcopy(bag.dags[f"laion_people_{dag_id}"].params)
    try:
        params[name] = value
    except ParamValidationError:
        return False
    return True


LONG, TOO_LONG = "a" * 100, "a" * 101
PARTS = [
    "a",
    "laion2B-en",
    "00042",
    "a.b_c-d",
    "0",
    LONG,
    TOO_LONG,
    "",
    ".a",
    "-a",
    "a b",
    "é",
    "a\n",
    "\na",
    "..",
    "a/b",
]
KEYS = [f"{collection}/{part}" for collection in PARTS for part in PARTS] + PARTS


def test_forms_take_the_partition_keys_that_the_worker_takes_and_no_others(bag: DagBag) -> None:
    valid = {key for key in KEYS if PartitionKey.pattern.fullmatch(key)}
    assert {f"{LONG}/{LONG}", "laion2B-en/00042", "a/b"} <= valid < set(KEYS)
    for dag_id in ("discover", "backfill", "cluster", "publish"):
        assert {key for key in KEYS if accepts(bag, dag_id, "partitions", [key])} == valid


def test_the_form_of_a_backfill_takes_collections_that_a_partition_can_have(bag: DagBag) -> None:
    valid = [part for part in PARTS if PartitionKey.pattern.fullmatch(f"{part}/00042")]
    assert [part for part in PARTS if accepts(bag, "backfill", "collection", part)] == valid


@pytest.mark.parametrize(
    ("value", "valid"),
    [
        ("captions/hands.yaml", True),
        ("légendes.yaml", True),
        ("", True),  # as if it were not given
        ("captions.yaml\n", False),
        ("../captions.yaml", False),
        ("/captions.yaml", False),
        ("captions.yml", False),
        ("a.yaml; touch x", False),
    ],
)
def test_other_captions_are_what_the_setting_may_be(bag: DagBag, value: str, valid: bool) -> None:
    assert accepts(bag, "cluster", "captions", value) is valid
    if valid:
        assert from_environment({}, captions=value).captions == value
    else:
        with pytest.raises(UsageError):
            from_environment({}, captions=value)


def test_every_parameter_has_a_title_and_says_what_it_does(dag: DAG) -> None:
    for param in dict(dag.params.items()).values():
        assert param.schema["title"] and param.description
