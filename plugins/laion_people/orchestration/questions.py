"""Questions that a run waits with, which people answer in the Airflow UI."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from airflow.providers.standard.exceptions import HITLTimeoutError
from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowFailException

from laion_people.errors import LaionPeopleError, coded
from laion_people.orchestration.notifications import Notice, send
from laion_people.storage import answers
from laion_people.storage.store import deployment_uri, open_store

APPROVE, REJECT = "Approve", "Reject"
PATIENCE = timedelta(days=30)


class QuestionOperator(HITLOperator):
    """Waits until a person has approved something, and keeps every answer in the store.

    A notification says that it waits. Fails, without another try, when the answer is no or nobody answers for 30 days;
    cleared, it asks again. It also asks again when Airflow has lost an answer.

    ``failures`` names the heading of the runbook.
    """

    def __init__(self, *, failures: str, **kwargs: Any):
        super().__init__(
            doc_md=f'{inspect.getdoc(type(self))}\n\nFailures: docs/operations.md, "{failures}".',
            options=[APPROVE, REJECT],
            response_timeout=PATIENCE,
            # Airflow loses an answer that comes within seconds of the question, before the scheduler has heard that the
            # asking process ended, and takes the task for failed (https://github.com/apache/airflow/issues/71172).
            retries=3,
            retry_delay=timedelta(seconds=1),
            **kwargs,
        )

    @abstractmethod
    def question(self, context: Any) -> tuple[str, Notice]:
        """What is asked, as Markdown, and the notification that it is. Raises AirflowSkipException when nothing is."""

    @abstractmethod
    def answered(self, approved: bool) -> Mapping[str, Any]:
        """What is kept with an answer. Raises AirflowFailException for one that cannot be given."""

    @abstractmethod
    def rejected(self, by: str) -> str:
        """The message of a run that ``by`` has rejected, with its code."""

    @property
    @abstractmethod
    def answers_path(self) -> str:
        """Where the store keeps the answers."""

    def execute(self, context: Any) -> Any:
        self.body, notice = self.question(context)
        send(notice)
        return super().execute(context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        try:
            answer = super().execute_complete(context, event)
        except HITLTimeoutError as error:
            message = f"nobody has answered for {PATIENCE.days} days: clear this task, and it asks again"
            raise AirflowFailException(coded("no-answer", message)) from error
        (option,), user = answer["chosen_options"], answer["responded_by_user"] or {}
        by, at = user.get("name") or user.get("id") or "somebody", answer["responded_at"].isoformat(timespec="seconds")
        kept = {"answer": option, "by": by, "at": at, "run_id": context["run_id"], **self.answered(option == APPROVE)}
        try:
            answers.keep(open_store(deployment_uri()), self.answers_path, kept)
        except LaionPeopleError as error:
            raise AirflowFailException(str(error)) from error
        if option == REJECT:
            raise AirflowFailException(self.rejected(by))
        return answer


def page(path: str) -> str:
    """The path of one of our pages in Airflow's UI."""
    return f"{urlsplit(conf.get('api', 'base_url', fallback='')).path.rstrip('/')}/laion-people/{path}"
