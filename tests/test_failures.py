"""What a user reads when a step fails: one line with step, shard, rows, reason, and what is to be done."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest

from laion_people import cli
from laion_people.cli import main
from laion_people.engine.runner import Runner
from laion_people.engine.step import Row
from laion_people.engine.work import Shard
from laion_people.settings import Settings
from laion_people.steps.detect import Detect
from laion_people.steps.pose import Pose
from laion_people.steps.registry import STEPS
from laion_people.storage.store import LocalStore
from tests.fakes import FakeModels, image_shard

PARTITION = "laion2B-en/00042"
GO_ON = "what is finished is kept: clear the task, or run the command again, to go on"
WHERE = f"laion-people: pose {PARTITION} shard 00001 (2 of 2), "
Failing = Callable[[BaseException], int]


@pytest.fixture
def failing(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> Failing:
    """Runs pose, which meets an error after three rows of its second shard; returns the exit code."""

    def run(error: BaseException) -> int:
        class Dies(Pose):
            def apply(self, shard: Shard) -> Iterator[Row]:
                for count, row in enumerate(super().apply(shard)):
                    if shard.index == 1 and count == 3:
                        raise error
                    yield row

        runner = Runner(store, Settings(), FakeModels(), {"detect": Detect(), "pose": Dies()})
        for index in (0, 1):
            image_shard(store, PARTITION, index)
        runner.run("detect", PARTITION)
        monkeypatch.setattr(cli, "_runner", lambda args, steps: runner)
        handler = signal.getsignal(signal.SIGTERM)
        try:
            return main(["run", "pose", PARTITION])
        finally:
            signal.signal(signal.SIGTERM, handler)

    return run


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError("disk on fire"), f"OSError: disk on fire [unforeseen]; {GO_ON} (--debug shows where)"),
        (
            MemoryError(),
            "out of memory: give it more, or fewer threads (LAION_PEOPLE_CORES) [out-of-memory]; what is finished is "
            "kept: docs/operations.md has the remedy",
        ),
        (KeyboardInterrupt(), f"stopped [stopped]; {GO_ON}"),
        (
            ValueError("two\nlines,\x1b[31m a colour"),
            f"ValueError: two lines, [31m a colour [unforeseen]; {GO_ON} (--debug shows where)",
        ),
    ],
)
def test_an_error_that_nobody_foresaw_ends_with_shard_rows_reason_and_what_to_do(
    failing: Failing, capsys: pytest.CaptureFixture[str], error: BaseException, says: str
) -> None:
    assert failing(error) == 1
    assert capsys.readouterr().err.splitlines()[-1].partition(" rows in, 3 out: ")[2] == says


def test_the_line_names_the_shard_and_counts_its_rows(
    store: LocalStore, failing: Failing, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(OSError("disk on fire"))
    last = capsys.readouterr().err.splitlines()[-1]
    read = Runner(store, Settings(), FakeModels(), {"detect": Detect()}).sum("detect", PARTITION, [1]).rows
    assert last.startswith(f"{WHERE}{read} rows in, 3 out: OSError: disk on fire [unforeseen]; ")
    assert store.exists(f"manifests/pose/{PARTITION}/00000.json")
    assert not store.exists(f"manifests/pose/{PARTITION}/00001.json")


def test_damaged_input_is_named_with_the_shard_and_the_step_to_run(
    store: LocalStore, failing: Failing, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(OSError())
    store.delete(f"people/{PARTITION}/00001.parquet")
    assert main(["run", "pose", PARTITION]) == 1
    path = f"people/{PARTITION}/00001.parquet"
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == (
        f"{WHERE}0 rows in, 0 out: {path} is missing: run again the step that writes it [missing-file]; "
        "what is finished is kept: docs/operations.md has the remedy"
    )


def test_an_audit_that_finds_faults_ends_with_how_many_and_what_to_do(
    store: LocalStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = Runner(store, Settings(), FakeModels(), STEPS)
    for index in (0, 1):
        image_shard(store, PARTITION, index)
    for step in ("detect", "pose", "mesh", "clip_filter"):
        runner.run(step, PARTITION)
    for index in (0, 1):
        store.delete(f"pose/{PARTITION}/{index:05d}.parquet")
    monkeypatch.setattr(cli, "_runner", lambda args: runner)
    assert main(["audit", PARTITION]) == 1
    first = f"pose {PARTITION} shard 00000: pose/{PARTITION}/00000.parquet is missing [missing-file]"
    lines = capsys.readouterr().err.splitlines()
    assert f"laion-people: {first}" in lines
    assert lines[-1] == (
        f"laion-people: audit {PARTITION}: 2 faults, the first: {first}; "
        "clear the steps that the log names, with their downstream tasks"
    )
