"""The question whether the captions of a cluster version are good enough, which people answer in the Airflow UI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from laion_people.errors import LaionPeopleError, coded
from laion_people.language import captions
from laion_people.language.captions import Entry
from laion_people.orchestration.notifications import Notice
from laion_people.orchestration.questions import QuestionOperator, page
from laion_people.storage.layout import cluster_path
from laion_people.storage.store import deployment_uri, open_store

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


class ReviewOperator(QuestionOperator):
    """Waits until a person has approved the captions of a cluster version; skipped in runs that don't ask for a review.

    A notification says that it waits. The answer is kept in the store, in
    ``clusters/<version>/reviews.json``. Fails, without another try, when the answer is no, captions are refused or
    nobody answers for 30 days; cleared, it asks again. It also asks again when Airflow has lost an answer.
    """

    template_fields: Sequence[str] = ("subject", "version")

    def __init__(self, *, version: str, **kwargs: Any):
        super().__init__(
            subject=f"Are the captions of cluster version {version} good?", failures="The review", **kwargs
        )
        self.version = version

    def question(self, context: Any) -> tuple[str, Notice]:
        if not context["params"]["review"]:
            raise AirflowSkipException(coded("nothing-to-do", "this run asks for no review: see its parameter review"))
        counts = _counts(self._entries())
        facts = {
            "DAG": context["ti"].dag_id,
            "Version": self.version,
            "Clusters": f"{counts['clusters']}, of which {counts['reviewed']} are reviewed",
            "Next": f"look at {self._page}, then answer under Required Actions",
        }
        notice = Notice("review", f"Waits for a review: captions of {self.version}", facts, context["ti"].log_url)
        return BODY.format(version=self.version, page=self._page, **counts), notice

    def answered(self, approved: bool) -> Mapping[str, Any]:
        entries = self._entries()
        if approved and (refused := _refused(entries)):
            first = "{}: {}".format(*next(iter(refused.items())))
            raise AirflowFailException(
                coded(
                    "captions-refused",
                    f"captions of {len(refused)} of {len(entries)} clusters are refused: {self._again}. The first is "
                    f"{first}",
                )
            )
        return _counts(entries)

    def rejected(self, by: str) -> str:
        return coded("captions-refused", f"{by} has rejected the captions of {self.version}: {self._again}")

    @property
    def answers_path(self) -> str:
        return cluster_path(self.version, "reviews.json")

    @property
    def _page(self) -> str:
        return page(f"clusters/{self.version}")

    @property
    def _again(self) -> str:
        return f"edit them at {self._page}, then clear this task with its downstream tasks"

    def _entries(self) -> dict[str, Entry]:
        try:
            return captions.read(open_store(deployment_uri()), self.version)
        except LaionPeopleError as error:
            raise AirflowFailException(str(error)) from error


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
