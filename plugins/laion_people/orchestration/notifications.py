"""Notifies people of a failed task, a run that takes long, a partition that is unlike others.

They go to each of the Airflow connections in CHANNELS that exists, and nowhere if none does. The providers' hooks send
them; their notifiers would render our texts as Jinja templates, and these quote URLs, captions and servers.
"""

from __future__ import annotations

import asyncio
import html
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlsplit

from airflow.sdk import AsyncCallback, BaseHook, DeadlineAlert
from airflow.sdk.configuration import conf
from airflow.sdk.definitions.deadline import BaseDeadlineReference
from airflow.sdk.exceptions import AirflowNotFoundException
from airflow.sdk.log import mask_secret

from laion_people.errors import KEPT, LaionPeopleError, coded, one_line
from laion_people.settings import Settings

log = logging.getLogger(__name__)

SECONDS = 10  # a server may take so long to answer
POLL_SECONDS = 60.0
RUNBOOK = "reasons and remedies are in docs/operations.md"


@dataclass(frozen=True, slots=True)
class Notice:
    """A notification: a title of one line, lines of ``facts`` (name -> text), and a link to a page of Airflow's UI.

    Texts may quote what others wrote; each is made one line without control characters, and shortened.
    """

    event: str  # failure, deadline, drift, review or publication
    title: str
    facts: Mapping[str, str]
    link: str

    def lines(self) -> list[tuple[str, str]]:
        return [(name, one_line(text)) for name, text in self.facts.items() if text]


def notify_failure(context: Mapping[str, Any]) -> None:
    """The on_failure_callback of every task, which Airflow calls when there is no try left."""
    ti = context["ti"]
    partition = getattr(context.get("dag_run"), "partition_key", None) or ""
    mapped = f" (map index {ti.map_index})" if ti.map_index is not None and ti.map_index >= 0 else ""
    reason = str(context.get("exception") or "not known: the task was ended from outside")
    clear = "mend what the reason names, then clear the task"
    if ti.task_id == "audit":
        clear = "clear the steps that the reason names, with their downstream tasks"
    facts = {
        "DAG": ti.dag_id,
        "Partition": partition,
        "Task": ti.task_id + mapped,
        "Shards": str(getattr(context.get("task"), "chosen_shards", None) or ""),
        "Try": f"{ti.try_number} of {max(ti.try_number, ti.max_tries + 1)}",
        "Reason": reason.partition(f"; {KEPT}")[0],
        "Next": f"{clear}; what is finished is kept; {RUNBOOK}",
    }
    send(Notice("failure", f"Failed: {ti.task_id} of {partition or ti.dag_id}", facts, ti.log_url))


def notify_drift(context: Mapping[str, Any]) -> None:
    """The on_success_callback of the extract audit: notifies of partitions that drift, of each once. Never fails."""
    from laion_people.reports import drift
    from laion_people.storage.store import deployment_uri, open_store

    try:
        news = drift.news(open_store(deployment_uri()))
    except LaionPeopleError as error:
        log.warning("nobody is notified of drift: %s", error)
        return
    ti = context["ti"]
    for partition, sentences in news.items():
        facts = {"DAG": ti.dag_id, "Partition": partition, "Unusual": "; ".join(sentences)}
        send(Notice("drift", f"Unlike the others of its collection: {partition}", facts, ti.log_url))


class RunMade(BaseDeadlineReference):
    """The time at which a run was made, from which its deadline is counted.

    With Airflow's own DAGRUN_QUEUED_AT, tasks of a run that goes on or has failed cannot be cleared
    (https://github.com/apache/airflow/issues/70368).
    """

    def _evaluate_with(self, *, session: Any, **_: Any) -> datetime:
        return datetime.now(UTC)


def deadline(settings: Settings) -> DeadlineAlert | None:
    """The alert of a DAG whose runs should be done within LAION_PEOPLE_DEADLINE_HOURS; None when that is 0."""
    if not settings.deadline_hours:
        return None
    limit = timedelta(hours=settings.deadline_hours)
    # In the triggerer: the KubernetesExecutor runs no callbacks (supports_callbacks of Airflow 3.3's executors).
    callback = AsyncCallback(notify_deadline, {"hours": settings.deadline_hours})
    return DeadlineAlert(RunMade(), limit, callback, name="not done in time")


async def notify_deadline(hours: float, context: Mapping[str, Any]) -> None:
    """Notifies that a run has been at work for longer than ``hours``.

    Airflow counts from when a run is made; here the time begins when it starts, so that waiting in the queue is free.
    """
    run = context["dag_run"]
    dag_id, run_id = run["dag_id"], run["dag_run_id"]
    while (state := await asyncio.to_thread(_state, dag_id, run_id)) == "queued":
        await asyncio.sleep(POLL_SECONDS)
    begun = datetime.fromisoformat(run["start_date"]) if run["start_date"] else datetime.now(UTC)
    left = (begun + timedelta(hours=hours) - datetime.now(UTC)).total_seconds()
    if left > 0:
        await asyncio.sleep(left)
        state = await asyncio.to_thread(_state, dag_id, run_id)
    if state != "running":
        return
    partition = run.get("partition_key") or ""
    facts = {
        "DAG": dag_id,
        "Partition": partition,
        "Run": run_id,
        "Reason": f"not done {hours:g} hours after it started (LAION_PEOPLE_DEADLINE_HOURS)",
        "Next": "see which task holds it up: one that waits for a slot of its pool or for a person, that is tried "
        f"again and again, or hangs; {RUNBOOK}",
    }
    link = f"{conf.get('api', 'base_url', fallback='').rstrip('/')}/dags/{dag_id}/runs/{quote(run_id, safe='')}"
    await asyncio.to_thread(send, Notice("deadline", f"Takes long: {partition or run_id} in {dag_id}", facts, link))


def send(notice: Notice) -> None:
    """Hands a notice to each connection that exists; one that fails is logged in one line and stops no other."""
    for connection, channel in CHANNELS.items():
        try:
            BaseHook.get_connection(connection)
        except AirflowNotFoundException:
            continue
        try:
            channel(connection, notice)
        except Exception as error:  # of any library: the task's own failure is what matters
            log.error(
                coded("not-notified", "no notification by %s: %s: %s"),
                connection,
                type(error).__name__,
                one_line(error),
            )


def _to_slack(connection: str, notice: Notice) -> None:
    """Rich text, in which Slack parses nothing; of the plain text that stands in for it, mentions and links are escaped
    (https://docs.slack.dev/messaging/formatting-message-text#escaping)."""
    from airflow.providers.slack.hooks.slack_webhook import SlackWebhookHook

    def text(words: str, **style: bool) -> dict[str, Any]:
        return {"type": "text", "text": words} | ({"style": style} if style else {})

    elements = [text(one_line(notice.title), bold=True)]
    for name, words in notice.lines():
        elements += [text(f"\n{name}: ", bold=True), text(words)]
    elements += [text("\n"), {"type": "link", "url": notice.link, "text": "Open in Airflow"}]
    blocks = [{"type": "rich_text", "elements": [{"type": "rich_text_section", "elements": elements}]}]
    plain = html.escape(one_line(notice.title), quote=False)
    SlackWebhookHook(slack_webhook_conn_id=connection, timeout=SECONDS).send(
        text=plain, blocks=blocks, mrkdwn=False, unfurl_links=False, unfurl_media=False
    )


def _by_mail(connection: str, notice: Notice) -> None:
    """To the addresses ``to`` in the connection's extra. Raises ValueError when there are none."""
    from airflow.providers.smtp.hooks.smtp import SmtpHook

    to = BaseHook.get_connection(connection).extra_dejson.get("to")
    if not to:
        raise ValueError('no recipients: put {"to": "team@example.org", "from_email": ...} in its extra')
    rows = "".join(f"<tr><th align=left>{html.escape(n)}</th><td>{html.escape(t)}</td></tr>" for n, t in notice.lines())
    body = f"<table>{rows}</table><p><a href='{html.escape(notice.link)}'>Open in Airflow</a></p>"
    with SmtpHook(smtp_conn_id=connection) as hook:
        hook.send_email_smtp(to=to, subject=one_line(f"[laion-people] {notice.title}", 200), html_content=body)


def _to_webhook(connection: str, notice: Notice) -> None:
    from airflow.providers.http.hooks.http import HttpHook

    address = urlsplit(BaseHook.get_connection(connection).host or "")
    for secret in (address.geturl(), address._replace(scheme="", netloc="").geturl()):
        mask_secret(secret)  # a webhook's address is its password, and errors quote it
    body = {"event": notice.event, "title": one_line(notice.title), "link": notice.link}
    body |= {name.lower(): text for name, text in notice.lines()}
    HttpHook(method="POST", http_conn_id=connection).run(json=body, extra_options={"timeout": SECONDS})


def _state(dag_id: str, run_id: str) -> str:
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    return RuntimeTaskInstance.get_dagrun_state(dag_id, run_id)


CHANNELS: dict[str, Callable[[str, Notice], None]] = {
    "laion_people_slack": _to_slack,
    "laion_people_smtp": _by_mail,
    "laion_people_webhook": _to_webhook,
}
