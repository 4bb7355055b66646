"""What a run of laion_people_publish is to publish: its form, the question whether it may, and the news that it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from airflow.sdk import Param
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from laion_people.engine.catalog import STEPS
from laion_people.errors import LaionPeopleError, coded
from laion_people.orchestration.notifications import Notice, send
from laion_people.orchestration.questions import QuestionOperator, page
from laion_people.orchestration.tasks import PARTITIONS_SCHEMA, VERSION_SCHEMA, whole
from laion_people.publication import release
from laion_people.publication.release import Publication
from laion_people.settings import from_environment
from laion_people.storage.layout import KEY_PART
from laion_people.storage.store import Store, deployment_uri, open_store
from laion_people.storage.totals import TotalsReader

LIMIT = timedelta(hours=48)  # of the task that reads every table, and uploads
REPOSITORY = r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}"  # https://huggingface.co/docs/hub/repositories
FACES = {
    "keep": "keep: as they are",
    "blur": "blur: made unrecognisable in these pictures",
    "drop": "drop: pictures with a face are left out",
}
FORM = {
    "release": Param(
        None,
        type="string",
        pattern=whole(KEY_PART),
        title="Name",
        description="What the data set is called, for example laion-people. Its versions share the name.",
    ),
    "version": Param(
        None,
        type="string",
        pattern=whole(release.VERSION.pattern),
        title="Version",
        description="For example 1.2.0 (https://semver.org). One that exists is never changed, and can be uploaded.",
    ),
    "clusters": Param(
        None,
        title="Cluster version",
        description="For example v0001. Empty: the newest.",
        **VERSION_SCHEMA,
    ),
    "edition": Param(
        "links",
        type="string",
        enum=list(release.EDITIONS),
        values_display={name: f"{name}: {content}" for name, content in release.EDITIONS.items()},
        title="Edition",
        description="What is handed out of images.",
    ),
    "pictures": Param(
        True,
        type="boolean",
        title="Pictures of Subset B",
        description="Its composed pictures are in it, as webdataset. The only pixels that a publication has.",
    ),
    "faces": Param(
        "keep",
        type="string",
        enum=list(FACES),
        values_display=FACES,
        title="Faces in these pictures",
        description="What becomes of them. Goes with the edition links.",
    ),
    "partitions": Param(
        [],
        title="Partitions",
        description="One key on each line, for example laion2B-en/00042. Empty: all that have captions of that cluster "
        "version.",
        **PARTITIONS_SCHEMA,
    ),
    "push": Param(
        None,
        type=["null", "string"],
        pattern=whole(REPOSITORY),
        title="Upload to",
        description="A data set's repository on the hub, for example laion/laion-people, which the workers' HF_TOKEN "
        "may write to. Empty: it stays in the store.",
    ),
    "approval": Param(
        True,
        type="boolean",
        title="Approval",
        description="Wait for a person's approval. Where LAION_PEOPLE_REVIEW=1 asks for reviews, this cannot be turned "
        "off.",
    ),
}
COUNTED = ("detect", "subset_a", "compose", "caption", "describe")
BODY = """\
**{release} {version}** would be {done} of cluster version {clusters}, in the edition {edition}: {content}.

| partitions | {tables} |
|---|{lines}
| {partitions} | {rows} |

Pictures of Subset B: {pictures}. Uploaded to: {push}. Versions of this name so far: {published}.

{remark}

**Approve** does it. **Reject** fails this run, and nothing is published or uploaded.
"""

ANEW = """\
These are the rows that the store has. What is published is less: images that were removed, or that speak of minors, are
left out."""
AGAIN = "This version exists: it is uploaded as it is, whatever the form says of its content."


def planned(context: Any) -> dict[str, Any]:
    """What the form means: the cluster version, the partitions, and the rows that the store has of them, by table. Of a
    version that exists, which can only be uploaded, it is what that version has.

    Raises AirflowFailException for a version that exists and is not to be uploaded, for a name whose versions are of
    another edition, and where there is nothing to publish.
    """
    params = context["params"]
    name, version = params["release"], params["version"]
    try:
        store = open_store(deployment_uri())
        known = {"push": params["push"], "published": release.published(store).get(name, [])}
        if before := release.read(store, name, version):
            return known | _as_published(before, params["push"])
        release.check_edition(store, name, params["edition"])
        return known | _as_chosen(store, params)
    except LaionPeopleError as error:
        raise AirflowFailException(str(error)) from error


def _as_published(before: Publication, push: str | None) -> dict[str, Any]:
    if not push:
        raise AirflowFailException(
            coded(
                "version-exists",
                f"{before.name} {before.version} was published at {before.at}, and what is published never changes: "
                "trigger this DAG with another version, or say where this one is to be uploaded",
            )
        )
    return {
        "edition": before.edition,
        **{option: before.options[option] for option in ("pictures", "faces")},
        "clusters": before.clusters,
        "partitions": list(before.partitions),
        "rows": {config: before.rows(config) for config in before.configs()},
    }


def _as_chosen(store: Store, params: Mapping[str, Any]) -> dict[str, Any]:
    from laion_people.publication.sources import chosen_partitions, chosen_version  # and Arrow with it

    clusters = chosen_version(store, params["clusters"] or from_environment().cluster_version)
    partitions = chosen_partitions(store, clusters, params["partitions"])
    totals = TotalsReader(store).read()
    counts = {
        STEPS[step].writes: sum(totals[key][step].rows for key in partitions if step in totals.get(key, ()))
        for step in COUNTED
    }
    chosen = {option: params[option] for option in ("edition", "pictures", "faces")}
    return chosen | {"clusters": clusters, "partitions": partitions, "rows": counts}


class ApprovalOperator(QuestionOperator):
    """Waits until a person has approved a publication; skipped in runs that don't ask for it.

    A notification says that it waits. The answer is kept in the store, in ``releases/<name>/approvals.json``. Fails,
    without another try, when the answer is no or nobody answers for 30 days; cleared, it asks again. It also asks again
    when Airflow has lost an answer.
    """

    template_fields: Sequence[str] = ("subject", "release", "version", "plan")

    def __init__(self, *, release: str, version: str, plan: Any, **kwargs: Any):
        super().__init__(subject=f"Publish {release} {version}?", failures="Publications", **kwargs)
        self.release, self.version, self.plan = release, version, plan

    def question(self, context: Any) -> tuple[str, Notice]:
        if not (context["params"]["approval"] or from_environment().review):
            raise AirflowSkipException(
                coded("nothing-to-do", "this run asks for no approval: see its parameter approval")
            )
        plan, rows = self.plan, self.plan["rows"]
        exists = self.version in plan["published"]
        body = BODY.format(
            done="uploaded, as it was published" if exists else "published",
            remark=AGAIN if exists else ANEW,
            release=self.release,
            version=self.version,
            clusters=plan["clusters"],
            edition=plan["edition"],
            content=release.EDITIONS[plan["edition"]],
            tables=" | ".join(rows),
            lines="---|" * len(rows),
            partitions=len(plan["partitions"]),
            rows=" | ".join(f"{count:,}" for count in rows.values()),
            pictures="left out" if plan["edition"] == "geometry" or not plan["pictures"] else f"faces {plan['faces']}",
            push=plan["push"] or "nowhere",
            published=", ".join(plan["published"]) or "none",
        )
        facts = {
            "DAG": context["ti"].dag_id,
            "Publication": f"{self.release} {self.version}",
            "Rows": _counts(rows),
            "Next": "answer under Required Actions",
        }
        title = f"Waits for an approval: {self.release} {self.version}"
        return body, Notice("review", title, facts, context["ti"].log_url)

    def answered(self, approved: bool) -> Mapping[str, Any]:
        return {"version": self.version} | self.plan

    def rejected(self, by: str) -> str:
        return coded(
            "not-approved",
            f"{by} has rejected {self.release} {self.version}: nothing is published; clear this task with its "
            "downstream tasks to ask again",
        )

    @property
    def answers_path(self) -> str:
        return f"{release.FOLDER}/{self.release}/approvals.json"


def announce(context: Any, made: Mapping[str, Any]) -> None:
    """Notifies of what was published; ``made`` is the result of `publish`."""
    name, version = context["params"]["release"], context["params"]["version"]
    facts = {
        "DAG": context["ti"].dag_id,
        "Publication": made["publication"],
        "Rows": _counts(made["rows"]),
        "Next": f"look at {page(f'releases/{name}/{version}')}",
    }
    send(Notice("publication", f"Published: {name} {version}", facts, context["ti"].log_url))


def _counts(rows: Mapping[str, int]) -> str:
    return ", ".join(f"{table} {count:,}" for table, count in rows.items())
