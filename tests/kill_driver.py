"""Runs one step with fake, slow models: what test_kill.py starts and kills."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from laion_people.engine.runner import Runner
from laion_people.engine.step import ReleaseStep, Row, Step
from laion_people.engine.work import Shard
from laion_people.settings import Settings
from laion_people.steps.download import fetch
from laion_people.steps.registry import STEPS
from laion_people.storage.store import LocalStore
from tests.fakes import FakeModels

NOON = "2026-01-31T12:00:00Z"  # when all requests were sent: the time is kept with each row


def slow(step: Step, seconds: float) -> Step:
    """The step, with a pause after each row."""

    def apply(shard: Shard) -> Iterator[Row]:
        for row in type(step).apply(step, shard):
            yield row
            time.sleep(seconds)

    step.apply = apply  # type: ignore[method-assign]
    return step


def main(store: str, name: str, partition: str, seconds: float) -> None:
    fetch.utc_now = lambda: NOON
    steps: dict[str, Any] = dict(STEPS)
    settings = Settings(allow_private_addresses=True, shard_rows=10)
    if seconds and isinstance(steps[name], Step):
        steps[name] = slow(steps[name], seconds)
    runner = Runner(LocalStore(Path(store)), settings, FakeModels(), steps, run_id="one run, tried again")
    if isinstance(steps[name], ReleaseStep):
        runner.run_release(name, [partition])
    else:
        runner.run(name, partition)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]))
