"""The task that runs the worker's command line, and what the DAGs decide in Airflow."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import psutil
import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException, AirflowTaskTimeout

from laion_people.errors import GO_ON
from laion_people.orchestration import process
from laion_people.orchestration.process import ProcessOperator
from laion_people.orchestration.releases import announced_version, partitions_of_release, version_of
from laion_people.orchestration.tasks import step_task, worker_task
from tests.dags.conftest import ROOT

RESULT = {
    "manifests": [{"uri": "file:///store/manifests/cluster/v0007.json", "sha256": "0"}],
    "rows": 3,
    "shards": 1,
}
PATHS = f"{ROOT}:{ROOT / 'plugins'}"
STATE = {"extracted": ["a/1", "a/2", "b/1"], "pending": ["b/2", "b/3"]}
HOSTILE = ["$(touch pwned)", "`touch pwned`", "x; touch pwned", "--store=/tmp", "-h", "a/b\ntouch pwned", "'\"&|>pwned"]


@pytest.fixture
def command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A command line that writes its arguments to ``argv.json`` and does what the file ``script`` says."""
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "laion-people"
    command.write_text(
        "#!/usr/bin/env python3\nimport json, sys\njson.dump(sys.argv[1:], open('argv.json', 'w'))\n"
        "exec(open('script').read())\n"
    )
    command.chmod(0o755)
    monkeypatch.setattr(process, "ROOT", tmp_path)
    (tmp_path / "script").write_text(f"print({json.dumps(json.dumps(RESULT))})")
    return tmp_path


def run(task: ProcessOperator) -> Any:
    return task.execute({})


def argv(folder: Path) -> list[str]:
    return json.loads((folder / "argv.json").read_text())


def test_a_step_task_runs_the_step_on_its_shards_and_returns_where_the_manifest_is(command_line: Path) -> None:
    assert run(step_task("detect", partitions="a/1", shards="0-15", clusters="")) == RESULT
    assert argv(command_line) == ["run", "detect", "--shards=0-15", "--", "a/1"]


def test_a_release_step_gets_all_partitions(command_line: Path) -> None:
    run(step_task("label", partitions=["a/1", "a/2"], clusters="v0007"))
    assert argv(command_line) == ["run", "label", "--clusters=v0007", "--", "a/1", "a/2"]


@pytest.mark.parametrize("key", HOSTILE)
def test_a_hostile_key_stays_one_argument(command_line: Path, key: str) -> None:
    run(step_task("assign", partitions=key, shards=key, clusters=key))
    assert argv(command_line) == ["run", "assign", f"--shards={key}", f"--clusters={key}", "--", key]
    assert not list(command_line.rglob("*pwned*"))


@pytest.mark.parametrize("partitions", ["", [""]])
def test_a_run_without_a_key_fails_at_once_and_says_what_to_do(command_line: Path, partitions: Any) -> None:
    with pytest.raises(AirflowFailException, match=r"\[no-partition-key\]$"):
        run(worker_task("plan", "shard-groups", partitions=partitions))
    assert not (command_line / "argv.json").exists()


def test_words_on_stderr_after_the_result_do_not_spoil_it(command_line: Path) -> None:
    with (command_line / "script").open("a") as script:
        script.write("\nprint('a library says goodbye', file=sys.stderr)")
    assert run(worker_task("count", "partitions")) == RESULT


@pytest.mark.parametrize(("code", "retried"), [(1, True), (2, False)])
def test_a_failure_is_raised_with_the_last_words_and_bad_usage_is_not_retried(
    command_line: Path, code: int, retried: bool
) -> None:
    (command_line / "script").write_text(f"print('laion-people: no luck', file=sys.stderr); sys.exit({code})")
    with pytest.raises(AirflowException, match=r"^laion-people: no luck$") as caught:
        run(worker_task("count", "partitions"))
    assert isinstance(caught.value, AirflowFailException) is not retried


def test_parameters_of_a_run_are_single_arguments_and_those_that_are_not_set_are_left_out(command_line: Path) -> None:
    overrides = {"threshold": "0.28", "clusters": "None", "captions": "", "seed": "0; touch pwned"}
    flags = {"force": "True", "retry_failed": "False", "unfinished": True}
    run(step_task("detect", partitions="a/1", overrides=overrides, flags=flags))
    assert argv(command_line) == [
        *("run", "detect", "--set=threshold=0.28", "--set=seed=0; touch pwned", "--force", "--unfinished", "--", "a/1")
    ]
    assert not list(command_line.rglob("*pwned*"))


@pytest.mark.parametrize("text", HOSTILE)
def test_options_of_a_form_are_single_arguments_and_those_that_are_empty_are_left_out(
    command_line: Path, text: str
) -> None:
    values = {"release": "people", "reason": text, "push": ""}
    run(worker_task("publish", "publish", values=values, clusters="v0001", partitions=["a/1", "a/2"]))
    assert argv(command_line) == [
        *("publish", "--clusters=v0001", "--release=people", f"--reason={text}", "--", "a/1", "a/2")
    ]
    assert not list(command_line.rglob("*pwned*"))


def test_a_task_that_is_killed_outright_leaves_no_process(command_line: Path) -> None:
    """Its next try would find the same shards being made."""
    script = "import os, time; open('pid', 'w').write(str(os.getpid())); print(file=sys.stderr, flush=True)"
    (command_line / "script").write_text(f"{script}; time.sleep(60)")
    code = "from pathlib import Path; from laion_people.orchestration import process, tasks; "
    code += "process.ROOT = Path.cwd(); tasks.worker_task('count', 'partitions').execute({})"
    task = subprocess.Popen([sys.executable, "-c", code], cwd=command_line, env=os.environ | {"PYTHONPATH": PATHS})
    pid = command_line / "pid"
    wait_until(lambda: pid.exists() and bool(pid.read_text()))
    worker = psutil.Process(int(pid.read_text()))
    task.kill()
    task.wait()
    wait_until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_killed_task_ends_its_process(command_line: Path) -> None:
    (command_line / "script").write_text("import time; print('started', file=sys.stderr, flush=True); time.sleep(60)")
    task = worker_task("count", "partitions")
    task.log.info = lambda *args: task.on_kill()  # type: ignore[method-assign]
    with pytest.raises(AirflowException):
        run(task)
    assert task.process is not None and task.process.returncode


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("RUNNER", "docker", r"^LAION_PEOPLE_RUNNER='docker'.* process, kubernetes \[bad-setting\]$"),
        ("TRESHOLD", "0.2", r"LAION_PEOPLE_TRESHOLD.*\[unknown-setting\]$"),
    ],
)
def test_a_wrong_setting_is_said_by_the_task_and_not_retried(
    command_line: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(f"LAION_PEOPLE_{name}", value)
    with pytest.raises(AirflowFailException, match=says):
        run(worker_task("count", "partitions"))
    assert not (command_line / "argv.json").exists()


def event(key: str, runs: int, **extra: str) -> SimpleNamespace:
    return SimpleNamespace(partition_key=key, created_dagruns=[object()] * runs, extra=extra)


def test_a_release_is_clustered_once_all_its_partitions_are_extracted() -> None:
    assert partitions_of_release(STATE, "a", []) == ["a/1", "a/2"]
    with pytest.raises(AirflowSkipException, match=r"2 of 3 .* b/2 .*\[not-yet\]$"):
        partitions_of_release(STATE, "b", [])


def test_a_release_may_be_chosen_but_must_be_extracted() -> None:
    assert partitions_of_release(STATE, None, ["b/1", "a/2"]) == ["a/2", "b/1"]
    with pytest.raises(AirflowFailException, match=r"b/2 .*\[not-extracted\]$"):
        partitions_of_release(STATE, None, ["b/1", "b/2"])
    with pytest.raises(AirflowFailException, match=r"c .*\[not-extracted\]$"):
        partitions_of_release(STATE, "c", [])
    with pytest.raises(AirflowFailException, match=r"\[no-partition-key\]$"):
        partitions_of_release(STATE, None, [])


def test_the_cluster_version_goes_from_the_fit_to_the_caption_runs() -> None:
    assert version_of(RESULT) == "v0007"
    assert announced_version({"clustered": [event("a/1", 1, clusters="v0007")]}) == "v0007"
    assert announced_version({}) == ""


def test_a_command_that_is_killed_is_told_with_what_it_was_at(command_line: Path) -> None:
    line = "12:00:00 detect a/1 shard 00007 (3 of 16): starts (new)"
    kill = "import os; os.kill(os.getpid(), 9)"
    (command_line / "script").write_text(f"print({line!r}, file=sys.stderr, flush=True); {kill}")
    words = f": {line} [out-of-memory]; {GO_ON}"
    with pytest.raises(AirflowException, match=f"{re.escape(words)}$"):
        run(step_task("detect", partitions="a/1"))


def test_a_command_that_takes_too_long_is_ended_and_told_with_what_it_was_at(command_line: Path) -> None:
    script = "import time; print('at shard 00007', file=sys.stderr, flush=True); time.sleep(60)"
    (command_line / "script").write_text(script)
    task = step_task("detect", partitions="a/1", hours=0.5)
    task.log.info = Mock(side_effect=AirflowTaskTimeout("Timeout, PID: 1"))  # as the timer does at any time
    words = f"0:30:00: at shard 00007 [time-limit]; {GO_ON}"
    with pytest.raises(AirflowTaskTimeout, match=f"{re.escape(words)}$"):
        run(task)
    assert task.process is not None and task.process.wait(10)


GROUP = {"shards": "0-17", "assign": "", "embed": "", "caption": "0-15,17"}


def test_a_mapped_task_works_on_what_its_step_has_to_make_of_its_group(command_line: Path) -> None:
    run(step_task("caption", partitions="a/1", shards=GROUP))
    assert argv(command_line) == ["run", "caption", "--shards=0-15,17", "--", "a/1"]


def test_a_step_with_nothing_to_make_is_skipped_before_it_starts_unless_it_is_cleared(command_line: Path) -> None:
    task = step_task("embed", partitions="a/1", shards=GROUP)
    with pytest.raises(AirflowSkipException, match=r"\[nothing-to-do\]$"):
        task._pre_execute_hook({"task": task, "ti": SimpleNamespace(try_number=1)})
    task._pre_execute_hook({"task": task, "ti": SimpleNamespace(try_number=2)})
    run(task)
    assert argv(command_line) == ["run", "embed", "--shards=0-17", "--", "a/1"]
    run(step_task("embed", partitions="a/1", shards={"shards": "0-17"}))
    assert argv(command_line) == ["run", "embed", "--shards=0-17", "--", "a/1"]
