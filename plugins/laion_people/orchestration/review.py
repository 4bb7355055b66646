"""The question whether the captions of a cluster version are good enough, which people answer in the Airflow UI."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from airflow.providers.standard.exceptions import HITLTimeoutError
from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from laion_people.errors import LaionPeopleError, coded
from laion_people.language import captions
from laion_people.language.captions import Entry
from laion_people.orchestration.notifications import Notice, send
from laion_people.storage.layout import cluster_path
from laion_people.storage.store import Store, deployment_uri, open_store

APPROVE, REJECT = "Approve", "Reject"
PATIENCE = timedelta(days=30)
BODY = """\
Look at the [clusters of {version}]({page}): each has a contact sheet and the captions that CLIP will choose from for
its people. Keep what holds for everybody on the sheet; edit, remove or add the rest, and mark what you have reviewed.

| clusters | reviewed | edited by people | without captions | with captions that are refused |
|---|---|---|---|---|
| {clusters} | {reviewed} | {edited} | {empty} | {refused} |

Nobody gets a caption from a cluster that has none: its members have nothing in common that could be said.

**Approve** puts the captions, as they are then, into Subset C. **Reject** fails this run: after further edits, clear
this task with its downstream tasks, and it asks again.
"""


class ReviewOperator(HITLOperator):
    """Waits until a person has approved the captions of a cluster version; skipped in runs that don't ask for a review.

    A notification says that it waits. The answer is kept in the store, in
    ``clusters/<version>/reviews.json``. Fails, without another try, when the answer is no, captions are refused or
    nobody answers for 30 days; cleared, it asks again. It also asks again when Airflow has lost an answer.
    """

    template_fields: Sequence[str] = ("subject", "version")

    def __init__(self, *, version: str, **kwargs: Any):
        super().__init__(
            doc_md=f'{inspect.getdoc(type(self))}\n\nFailures: docs/operations.md, "The review".',
            subject=f"Are the captions of cluster version {version} good?",
            options=[APPROVE, REJECT],
            response_timeout=PATIENCE,
            # Airflow loses an answer that comes within seconds of the question, before the scheduler has heard that the
            # asking process ended, and takes the task for failed (https://github.com/apache/airflow/issues/71172).
            retries=3,
            retry_delay=timedelta(seconds=1),
            **kwargs,
        )
        self.version = version

    def execute(self, context: Any) -> Any:
        if not context["params"]["review"]:
            raise AirflowSkipException(coded("nothing-to-do", "this run asks for no review: see its parameter review"))
        counts = _counts(self._entries())
        self.body = BODY.format(version=self.version, page=_page(self.version), **counts)
        facts = {
            "DAG": context["ti"].dag_id,
            "Version": self.version,
            "Clusters": f"{counts['clusters']}, of which {counts['reviewed']} are reviewed",
            "Next": f"look at {_page(self.version)}, then answer under Required Actions",
        }
        send(Notice("review", f"Waits for a review: captions of {self.version}", facts, context["ti"].log_url))
        return super().execute(context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        try:
            answer = super().execute_complete(context, event)
        except HITLTimeoutError as error:
            message = f"nobody has answered for {PATIENCE.days} days: clear this task, and it asks again"
            raise AirflowFailException(coded("no-answer", message)) from error
        (option,), user = answer["chosen_options"], answer["responded_by_user"] or {}
        entries = self._entries()
        again = f"edit them at {_page(self.version)}, then clear this task with its downstream tasks"
        if option == APPROVE and (refused := _refused(entries)):
            first = "{}: {}".format(*next(iter(refused.items())))
            raise AirflowFailException(
                coded(
                    "captions-refused",
                    f"captions of {len(refused)} of {len(entries)} clusters are refused: {again}. The first is {first}",
                )
            )
        by, at = user.get("name") or user.get("id") or "somebody", answer["responded_at"].isoformat(timespec="seconds")
        kept = {"answer": option, "by": by, "at": at, "run_id": context["run_id"], **_counts(entries)}
        _keep(open_store(deployment_uri()), cluster_path(self.version, "reviews.json"), kept)
        if option == REJECT:
            raise AirflowFailException(
                coded("captions-refused", f"{by} has rejected the captions of {self.version}: {again}")
            )
        return answer

    def _entries(self) -> dict[str, Entry]:
        try:
            return captions.read(open_store(deployment_uri()), self.version)
        except LaionPeopleError as error:
            raise AirflowFailException(str(error)) from error


def _page(version: str) -> str:
    """Path of the page on which a version's captions are edited."""
    return f"{urlsplit(conf.get('api', 'base_url', fallback='')).path.rstrip('/')}/laion-people/clusters/{version}"


def _counts(entries: Mapping[str, Entry]) -> dict[str, int]:
    return {
        "clusters": len(entries),
        "reviewed": sum(entry.reviewed for entry in entries.values()),
        "edited": sum(bool(entry.by) for entry in entries.values()),
        "empty": sum(not entry.captions for entry in entries.values()),
        "refused": len(_refused(entries)),
    }


def _refused(entries: Mapping[str, Entry]) -> dict[str, str]:
    """The clusters whose captions cannot be used, each with the reason."""
    reasons = {cluster_id: captions.fault(entry.captions, entry.claims) for cluster_id, entry in entries.items()}
    return {cluster_id: reason for cluster_id, reason in reasons.items() if reason}


def _keep(store: Store, path: str, answer: Mapping[str, Any]) -> None:
    """Adds an answer to those in the file. A damaged file is left as it is, since it holds what people have said."""

    def with_answer(before: bytes | None) -> bytes:
        answers = captions.answers(path, b"[]" if before is None else before)
        return json.dumps([*answers, answer], indent=1, ensure_ascii=False).encode()

    try:
        store.update(path, with_answer)
    except LaionPeopleError as error:
        raise AirflowFailException(str(error)) from error
