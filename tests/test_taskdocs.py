"""The documentation of tasks, made without the libraries of the steps, says what the steps and the plan say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from laion_people.engine.catalog import FOLLOWERS, STEPS
from laion_people.orchestration import taskdocs
from laion_people.reports import capacity
from laion_people.settings import Settings
from tests.said import ROOT

TASKS = [name for name in STEPS if name not in FOLLOWERS]


@pytest.mark.parametrize("profile", taskdocs.PROFILES)
def test_costs_are_those_of_the_plan(profile: str) -> None:
    settings = replace(Settings(), profile=profile, describe=True, cluster_sample=10_000_000)
    rates = capacity.read_rates(capacity.RATES, profile)
    planned = capacity.estimate({"a/1": taskdocs.SHARD_ROWS}, settings, rates)
    for cost in planned.steps:
        if cost.step in TASKS and cost.step != "cluster":  # whose cost is that of its whole sample
            for device, hours in (("gpu", cost.gpu_hours), ("cpu", cost.cpu_hours)):
                assert (taskdocs.seconds(cost.step, profile, device) or 0) / 3600 == pytest.approx(hours)
            if cost.table:
                assert f"{cost.table} {taskdocs.size(cost.bytes)}" in taskdocs.step_doc(cost.step)


def test_the_defaults_that_costs_are_given_for_are_those_of_the_settings() -> None:
    assert (Settings().shard_rows, Settings().cluster_sample) == (taskdocs.SHARD_ROWS, taskdocs.CLUSTER_SAMPLE)


def test_headings_that_tasks_name_are_in_the_runbook() -> None:
    headings = re.findall(r"^## (.*)$", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
    texts = [*map(taskdocs.step_doc, TASKS), *taskdocs.OTHERS.values()]
    for text in texts:
        named = re.findall(r'"([^"]+)"', text.split("docs/operations.md")[1])
        assert named and set(named) <= set(headings), text


def test_documentation_is_made_without_the_libraries_of_the_steps() -> None:
    heavy = "{'numpy', 'pyarrow', 'torch', 'PIL', 'boto3'}"
    module = "laion_people.orchestration.taskdocs"
    code = f"import sys, {module} as t; t.step_doc('detect'); sys.exit(bool({heavy} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"PYTHONPATH": "plugins"}).returncode
        == 0
    )
