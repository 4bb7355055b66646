from __future__ import annotations

import logging
import time

import pytest

from laion_people.heartbeat import heartbeat


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records]


def test_a_silent_command_says_that_it_is_alive(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("laion_people_test_silent")
    with caplog.at_level(logging.INFO, log.name), heartbeat(log, 0.1):
        time.sleep(0.45)
    assert lines(caplog)[:2] == ["still at work after 0 s"] * 2
    caplog.clear()
    time.sleep(0.25)
    assert lines(caplog) == []


def test_a_command_that_speaks_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("laion_people_test_busy")
    with caplog.at_level(logging.INFO, log.name), heartbeat(log, 0.8):
        for _ in range(10):
            log.getChild("step").info("a shard")
            time.sleep(0.1)
    assert lines(caplog) == ["a shard"] * 10
