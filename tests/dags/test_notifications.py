"""Who is notified of what when a task fails, a run drags or a partition drifts: with real servers, and hostile text."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk._shared.secrets_masker import redact
from airflow.sdk.exceptions import AirflowException

from laion_people.errors import GO_ON
from laion_people.orchestration import notifications
from laion_people.orchestration.notifications import deadline, notify_deadline, notify_drift, notify_failure
from laion_people.settings import Settings
from tests.dags.servers import Inbox, Mailbox, serving

REASON = "laion-people: detect laion2B-en/00042 shard 00007 (3 of 16), 1,234 rows in, 803 out: OSError: disk on fire"
HOSTILE = (
    "<!channel> <https://evil.example|click> *bold* <img src=x onerror=alert(1)> {{ 7 * 7 }}\r\n"
    "Bcc: x@evil.example\r\n\x1b[31m"
)
LOG_URL = "http://localhost:8080/dags/laion_people_extract/runs/a/tasks/shards.detect/mapped/4?try_number=3"


@dataclass
class Servers:
    slack: Inbox
    mailbox: Mailbox
    webhook: Inbox


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    """Three servers and the connections that lead to them."""
    with serving(Inbox()) as slack, serving(Mailbox()) as mailbox, serving(Inbox()) as webhook:
        extra = {"to": ["team@example.org", "night@example.org"], "from_email": "airflow@example.org"}
        connections = {
            "slack": {"conn_type": "slackwebhook", "password": f"http://127.0.0.1:{slack.port}/services/T0/B0/X"},
            "smtp": {
                "conn_type": "smtp",
                "host": "127.0.0.1",
                "port": mailbox.port,
                "extra": extra | {"disable_tls": True, "disable_ssl": True, "retry_limit": 0},
            },
            "webhook": {"conn_type": "http", "host": f"http://127.0.0.1:{webhook.port}/hooks/people"},
        }
        for name, connection in connections.items():
            monkeypatch.setenv(f"AIRFLOW_CONN_LAION_PEOPLE_{name.upper()}", json.dumps(connection))
        yield Servers(slack, mailbox, webhook)


def test_the_address_of_a_webhook_which_is_its_password_is_masked_in_logs(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"http://127.0.0.1:{servers.webhook.port}/hooks/T0KEN?key=S3CRET"
    monkeypatch.setenv("AIRFLOW_CONN_LAION_PEOPLE_WEBHOOK", json.dumps({"conn_type": "http", "host": address}))
    notify_failure(failed())
    for quoted in (f"404 for {address}", "Max retries exceeded with url: /hooks/T0KEN?key=S3CRET (refused)"):
        assert not re.search("T0KEN|S3CRET", str(redact(quoted)))


def failed(
    reason: object = AirflowException(f"{REASON}; {GO_ON} (--debug shows where)"), **task: Any
) -> dict[str, Any]:
    """The context of a task without a try left."""
    of_task = {"task_id": "shards.detect", "dag_id": "laion_people_extract", "map_index": 4, "try_number": 3}
    ti = SimpleNamespace(**of_task | {"max_tries": 2, "log_url": LOG_URL} | task)
    run = SimpleNamespace(partition_key="laion2B-en/00042", run_id="a")
    return {"ti": ti, "dag_run": run, "task": SimpleNamespace(chosen_shards="64-79"), "exception": reason}


def slack_text(servers: Servers) -> str:
    [(path, body)] = servers.slack.posts
    assert path == "/services/T0/B0/X"
    [section] = body["blocks"][0]["elements"]
    assert {element["type"] for element in section["elements"]} == {"text", "link"}
    return "".join(element["text"] for element in section["elements"])


def mail(servers: Servers) -> tuple[str, str]:
    """Subject and body of the one mail."""
    [message] = servers.mailbox.mails
    [part] = message.iter_parts()
    return message["Subject"], part.get_content()


def test_a_failure_is_told_to_all_three_with_shards_reason_next_step_and_log(servers: Servers) -> None:
    notify_failure(failed())
    [(path, body)] = servers.webhook.posts
    assert path == "/hooks/people"
    assert body == {
        "event": "failure",
        "title": "Failed: shards.detect of laion2B-en/00042",
        "dag": "laion_people_extract",
        "partition": "laion2B-en/00042",
        "task": "shards.detect (map index 4)",
        "shards": "64-79",
        "try": "3 of 3",
        "reason": REASON,
        "next": "mend what the reason names, then clear the task; what is finished is kept; "
        "reasons and remedies are in docs/operations.md",
        "link": LOG_URL,
    }
    subject, content = mail(servers)
    assert subject == "[laion-people] Failed: shards.detect of laion2B-en/00042"
    assert servers.mailbox.mails[0]["From"] == "airflow@example.org"
    assert [re.findall("<(.*)>", line)[0].lower() for line in servers.mailbox.recipients] == [
        "team@example.org",
        "night@example.org",
    ]
    for text in (slack_text(servers), content):
        for word in (
            "laion2B-en/00042",
            "shards.detect (map index 4)",
            "64-79",
            "3 of 3",
            "disk on fire",
            "clear the task",
        ):
            assert word in text
    assert f"href='{LOG_URL}'" in content


def test_text_of_others_is_shown_and_never_obeyed(servers: Servers) -> None:
    notify_failure(failed(AirflowException(HOSTILE), task_id=HOSTILE))
    body = servers.slack.posts[0][1]
    assert "<" not in body["text"] and "&lt;!channel&gt;" in body["text"] and body["mrkdwn"] is False
    assert "<!channel> <https://evil.example|click> *bold*" in slack_text(servers)  # as text, which is not parsed
    message = servers.mailbox.mails[0]
    assert sorted(message.keys()) == ["Content-Type", "Date", "From", "MIME-Version", "Subject", "To"]
    assert "evil.example" not in message["To"] and len(servers.mailbox.recipients) == 2
    _, content = mail(servers)
    assert "<img" not in content and "&lt;img src=x onerror=alert(1)&gt;" in content
    for text in (slack_text(servers), content, servers.webhook.posts[0][1]["reason"]):
        assert "{{ 7 * 7 }}" in text
        assert "\x1b" not in text and "\r" not in text


def test_a_very_long_reason_is_cut(servers: Servers) -> None:
    notify_failure(failed(AirflowException("x" * 100_000)))
    assert len(servers.webhook.posts[0][1]["reason"]) == 1000
    assert len(json.dumps(servers.slack.posts[0][1])) < 4000


def test_a_task_that_is_not_mapped_and_a_killed_one_are_told_too(servers: Servers) -> None:
    context = failed(None, task_id="audit", map_index=-1, try_number=1, max_tries=0)
    del context["dag_run"], context["task"]
    notify_failure(context)
    body = servers.webhook.posts[0][1]
    assert body["reason"] == "not known: the task was ended from outside"
    assert body["task"] == "audit" and body["try"] == "1 of 1" and body.keys() & {"shards", "partition"} == set()
    assert body["next"].startswith("clear the steps that the reason names, with their downstream tasks;")


def test_nothing_is_sent_or_logged_where_no_connection_is_set(caplog: pytest.LogCaptureFixture) -> None:
    notify_failure(failed())
    assert caplog.records == []


def test_a_channel_that_fails_is_one_line_in_the_log_and_stops_no_other(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    servers.slack.status = 500
    nobody = {"conn_type": "smtp", "host": "127.0.0.1", "port": 1}
    monkeypatch.setenv("AIRFLOW_CONN_LAION_PEOPLE_SMTP", json.dumps(nobody))
    with caplog.at_level(logging.ERROR, "laion_people"):
        notify_failure(failed())
    lines = [r.getMessage() for r in caplog.records if r.name == "laion_people.orchestration.notifications"]
    assert len(lines) == 2 and not any("\n" in line for line in lines)
    assert lines[0].startswith("no notification by laion_people_slack: ")
    assert lines[1].startswith("no notification by laion_people_smtp: ValueError: no recipients: put ")
    assert len(servers.webhook.posts) == 1


def run(started: datetime | None) -> dict[str, Any]:
    start = started.isoformat() if started else None
    dag_run = {"dag_id": "laion_people_extract", "dag_run_id": "asset__2026-11-23T06:00:00+00:00_x"}
    return {"dag_run": dag_run | {"partition_key": "laion2B-en/00042", "start_date": start, "state": "running"}}


def drags(
    monkeypatch: pytest.MonkeyPatch, started: datetime | None, states: list[str], hours: float = 48.0
) -> list[float]:
    """Lets the deadline of a run pass that is found in these states, one after the other; returns how long it slept."""
    slept: list[float] = []
    left = iter(states)

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(notifications, "_state", lambda dag_id, run_id: next(left))
    monkeypatch.setattr(notifications.asyncio, "sleep", sleep)
    asyncio.run(notify_deadline(hours, run(started)))
    return slept


def test_a_run_that_drags_is_told_with_the_way_to_it(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    assert drags(monkeypatch, datetime.now(UTC) - timedelta(hours=49), ["running"]) == []
    body = servers.webhook.posts[0][1]
    assert (body["event"], body["partition"]) == ("deadline", "laion2B-en/00042")
    assert body["title"] == "Takes long: laion2B-en/00042 in laion_people_extract"
    assert body["reason"] == "not done 48 hours after it started (LAION_PEOPLE_DEADLINE_HOURS)"
    assert body["link"].endswith("/dags/laion_people_extract/runs/asset__2026-11-23T06%3A00%3A00%2B00%3A00_x")
    assert len(servers.slack.posts) == len(servers.mailbox.mails) == 1


def test_the_time_of_a_run_that_had_to_wait_its_turn_begins_when_it_starts(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept = drags(monkeypatch, None, ["queued", "queued", "running", "running"])
    assert slept == [60, 60, pytest.approx(48 * 3600, abs=60)]
    assert len(servers.webhook.posts) == 1
    slept = drags(monkeypatch, datetime.now(UTC) - timedelta(hours=40), ["running", "success"])
    assert slept == [pytest.approx(8 * 3600, abs=60)]
    assert len(servers.webhook.posts) == 1


def test_a_run_that_ended_meanwhile_does_not_drag(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    drags(monkeypatch, datetime.now(UTC) - timedelta(hours=49), ["failed"])
    assert servers.webhook.posts == []


def test_no_deadline_is_set_for_zero_hours() -> None:
    assert deadline(Settings(deadline_hours=0)) is None
    alert = deadline(Settings(deadline_hours=36))
    assert alert and alert.interval == timedelta(hours=36)
    assert alert.callback.path == "laion_people.orchestration.notifications.notify_deadline"


def statistics(folder: Path, part: int, success: float) -> None:
    path = folder / "statistics" / "c" / f"{part:05d}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = {"download_success": success, "people_per_image": 0.5, "similarity": 0.3}
    path.write_text(json.dumps({"partition": f"c/{part:05d}", "detector": "", "clip": "", "told": []} | numbers))


def test_a_partition_that_drifts_is_told_once(
    servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAION_PEOPLE_STORE", str(tmp_path))
    for part in range(7):
        statistics(tmp_path, part, 0.3 if part == 2 else 0.6)
    for _ in range(2):
        notify_drift(failed(task_id="audit"))
    [(_, body)] = servers.webhook.posts
    assert (body["event"], body["partition"]) == ("drift", "c/00002")
    assert body["unusual"].startswith("download success is 30.0%, usual for the 7 partitions of c is 54.0% to 66.0%")


def test_drift_that_cannot_be_read_fails_nothing(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LAION_PEOPLE_STORE", "ftp://nowhere")
    notify_drift(failed(task_id="audit"))
    assert "nobody is notified of drift: store 'ftp://nowhere'" in caplog.text and "[bad-setting]" in caplog.text
    assert servers.webhook.posts == []
