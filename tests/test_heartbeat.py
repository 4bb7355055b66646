from __future__ import annotations

import logging
import re
import time

import pytest

from laion_people.engine.heartbeat import heartbeat


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records]


def test_a_silent_command_says_that_it_is_alive(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("laion_people_test_silent")
    with caplog.at_level(logging.INFO, log.name), heartbeat(log, 0.1):
        while len(lines(caplog)) < 2:
            time.sleep(0.01)
    assert all(re.fullmatch(r"still at work after \d+ s", line) for line in lines(caplog))
    caplog.clear()
    time.sleep(0.25)
    assert lines(caplog) == []


def test_a_command_that_speaks_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("laion_people_test_busy")
    with caplog.at_level(logging.INFO, log.name), heartbeat(log, 5):
        for _ in range(11):
            log.getChild("step").info("a shard")
            time.sleep(0.5)
    assert lines(caplog) == ["a shard"] * 11
