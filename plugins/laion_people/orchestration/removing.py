"""What a run of laion_people_remove takes out: its form, the request that it hands to `remove`, and runs at work.

What is to be removed may be the address of somebody's picture. It goes from the form to the command by a file of the
store, the request, which is deleted as soon as the command has ended: the arguments of tasks stand in Airflow's
database, in lists of processes and in the specifications of pods.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import Param
from airflow.sdk.exceptions import AirflowFailException, AirflowRescheduleException, AirflowSkipException

from laion_people.errors import LaionPeopleError, coded
from laion_people.orchestration.claims import ACTIVE, CAPTION, EXTRACT, claim_of
from laion_people.orchestration.tasks import whole
from laion_people.removal import names
from laion_people.storage.removals import digest, request_path
from laion_people.storage.store import deployment_uri, open_store

log = logging.getLogger(__name__)

POLL = timedelta(minutes=5)
WRITERS = {"laion_people_cluster": ["cluster", "label", "relabel"], "laion_people_publish": ["publish"]}
KINDS = {
    "url": "url: the address of an image",
    "sha256": "sha256: of an image as it was fetched, 64 hex digits",
    "sample": "sample: laion2B-en/00042/00007/000070012, or LAION's number of it",
    "person": "person: laion2B-en/00042/00007/000070012/0",
}
FORM = {
    "reason": Param(
        None,
        type="string",
        pattern=whole(r"[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]*"),
        maxLength=500,
        title="Reason",
        description="Why, in a few words, for example: asked for by mail, ticket 1234. It is kept for good: no names.",
    ),
    "kind": Param(
        "url",
        type="string",
        enum=list(KINDS),
        values_display=KINDS,
        title="What is named",
        description="Whatever is named, its image goes with everybody in it, and so does every copy of the same file. "
        "Pictures that only look alike: bin/laion-people remove --near PICTURE.",
    ),
    # Airflow masks what is called secret in its audit log (and logs), but not in the run's own page
    "secret_names": Param(
        None,
        type="array",
        items={"type": "string", "pattern": whole(r"[^\x00-\x1f\x7f]{1,8000}")},
        minItems=1,
        maxItems=10_000,
        uniqueItems=True,
        title="Names",
        description="One on each line. They stay in this run's configuration: delete the run when it is done.",
    ),
    "dry_run": Param(
        False,
        type="boolean",
        title="Only look",
        description="Says what would go, and removes nothing.",
    ),
}


def ask(context: Any) -> str:
    """Leaves what the form names as a request in the store; returns the request's id."""
    kind, given, request = context["params"]["kind"], context["params"]["secret_names"], _request(context)
    _check(kind, given)
    lines = [f"{kind} {name}\n" for name in given]
    try:
        open_store(deployment_uri()).write(request_path(request), "".join(lines).encode())
    except LaionPeopleError as error:
        raise AirflowFailException(str(error)) from error
    return request


def at_work(context: Any) -> dict[str, list[str]]:
    """The runs of extract and caption, by DAG, that are at work on any partition.

    What they had read before the removal, they may still write after it. Raises AirflowSkipException when nothing was
    removed. METADATA and CLUSTERED are inlets of the task.
    """
    if context["params"]["dry_run"]:
        raise AirflowSkipException(coded("nothing-to-do", "this run has only looked: nothing was removed"))
    from laion_people.storage import metadata  # and Arrow with it

    try:
        store = open_store(deployment_uri())
        elsewhere = [f"{name}/{part}" for name in store.folders("images") for part in store.folders(f"images/{name}")]
        keys = sorted({*metadata.partitions(store), *elsewhere})
    except LaionPeopleError as error:
        raise AirflowFailException(str(error)) from error
    found: dict[str, list[str]] = {}
    for dag in (EXTRACT, CAPTION):
        claims = filter(None, (claim_of(context, key, dag) for key in keys))
        found[dag] = [run for run in dict.fromkeys(claim["run"] for claim in claims) if _active(context, dag, [run])]
    log.info("runs at work: %s", ", ".join(run for of_dag in found.values() for run in of_dag) or "none")
    return found


def settle(context: Any, found: Mapping[str, Sequence[str]]) -> None:
    """Waits until the runs that were at work have ended, and no task that writes clusters or publications is running.

    Raises AirflowRescheduleException to wait.
    """
    waiting = [f"{count} of {dag}" for dag, those in found.items() if (count := _active(context, dag, those))]
    for dag, tasks in WRITERS.items():
        if context["ti"].get_ti_count(dag, task_ids=tasks, states=["running"]):
            waiting.append(dag)
    if waiting:
        log.info("waiting for runs that began before the removal: %s", ", ".join(waiting))
        raise AirflowRescheduleException(datetime.now(UTC) + POLL)


def forget(context: Any) -> None:
    """Deletes the request."""
    try:
        open_store(deployment_uri()).delete(request_path(_request(context)))
    except LaionPeopleError as error:
        raise AirflowFailException(str(error)) from error


def _check(kind: str, given: Sequence[str]) -> None:
    """Raises AirflowFailException for the first that is no such name: the command would quote it in the task's log."""
    for number, name in enumerate(given, 1):
        try:
            names.of_value(kind, name)
        except LaionPeopleError:
            message = f"line {number} of the form is no {kind}: {names.FORMS}"
            raise AirflowFailException(coded("bad-argument", message)) from None  # which quotes it, too


def _request(context: Any) -> str:
    """The id of the run's request: safe in a path, the same at every try."""
    return digest(context["run_id"])[:16]


def _active(context: Any, dag: str, those: Sequence[str]) -> int:
    """How many of these runs have not ended."""
    return int(context["ti"].get_dr_count(dag, run_ids=list(those), states=list(ACTIVE))) if those else 0
