"""What people read about the DAGs: in the UI, and in DAGs.md."""

from __future__ import annotations

import re
from collections import defaultdict
from difflib import unified_diff

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG

from laion_people.engine.catalog import FOLLOWERS, STEPS
from tests.dags.conftest import ROOT
from tools.dag_docs import COMMAND, FILE, reference
from tools.dag_docs import _links as links


@pytest.fixture(scope="module")
def dags() -> dict[str, DAG]:
    return DagBag(ROOT / "dags").dags


@pytest.fixture(scope="module")
def written() -> str:
    return reference()


def test_the_reference_is_what_the_dags_say(written: str) -> None:
    changes = "\n".join(
        unified_diff(FILE.read_text().splitlines(), written.splitlines(), "DAGs.md", "the DAGs", lineterm="")
    )
    if changes:
        pytest.fail(f"DAGs.md is out of date; write it anew: {COMMAND}\n{changes}", pytrace=False)


def test_the_reference_is_the_same_bytes_whatever_the_settings(written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAION_PEOPLE_GPU_TASKS_PER_RUN", "3")
    assert reference() == written


def test_every_task_says_in_the_ui_what_it_is_for(dags: dict[str, DAG]) -> None:
    silent = [f"{dag_id}.{task.task_id}" for dag_id, dag in dags.items() for task in dag.tasks if not task.doc_md]
    assert silent == []


def test_a_step_says_what_it_reads_writes_and_costs_and_how_to_run_it_again(dags: dict[str, DAG]) -> None:
    shown = {task.task_id.removeprefix("shards."): task.doc_md for dag in dags.values() for task in dag.tasks}
    for step in STEPS.keys() - FOLLOWERS:
        for word in ("reads", "writes", "runs on", "a pod asks for", "**Cleared.**", "docs/operations.md"):
            assert word in shown[step], step


def test_every_task_and_parameter_is_in_the_reference(written: str, dags: dict[str, DAG]) -> None:
    for dag_id, dag in dags.items():
        chapter = re.search(rf"^## `{dag_id}`$(.*?)(?=^## |\Z)", written, re.DOTALL | re.MULTILINE)
        assert chapter, dag_id
        for task in dag.tasks:
            assert f"#### `{task.task_id}`" in chapter[1]
        for name in dag.params:
            assert f"| `{name}` |" in chapter[1]


def test_dependencies_are_drawn(written: str) -> None:
    assert "laion_people_discover -->|laion_people_metadata| laion_people_extract" in written
    assert "t_shards_detect --> t_shards_pose" in written


def test_the_architecture_says_which_task_announces_an_asset_and_which_dag_that_starts(dags: dict[str, DAG]) -> None:
    lines = (ROOT / "docs" / "architecture.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    said = {asset.strip("`"): (set(tasks.split(", ")), dag_id) for asset, _, tasks, dag_id in cells}
    announced: dict[str, set[str]] = defaultdict(set)
    for dag_id, dag in dags.items():
        for task in dag.tasks:
            for asset in task.outlets:
                announced[asset.name].add(f"`{task.task_id}` of `{dag_id}`")
    started = {asset: f"`{dag_id}`" for _, asset, dag_id in links(dags.values())}
    assert said == {asset: (tasks, started[asset]) for asset, tasks in announced.items()}


def test_links_lead_to_headings_of_the_runbook(written: str) -> None:
    headings = re.findall(r"^#+ (.*)$", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    linked = set(re.findall(r"\(docs/operations\.md#([^)]+)\)", written))
    assert linked and linked <= anchors
