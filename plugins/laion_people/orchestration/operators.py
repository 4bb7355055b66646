"""What the DAGs are made of: the assets that link them, and the task that runs the worker's command line.

The modules that import Airflow run in the Airflow environment, which has no models: all work on images is left to
``bin/laion-people`` in the worker's environment, or in the worker's image.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from airflow.sdk import Asset, BaseOperator, Param
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
    AirflowTaskTimeout,
)

from laion_people.engine.catalog import STEPS
from laion_people.errors import GO_ON, UsageError
from laion_people.orchestration.notifications import notify_drift, notify_failure
from laion_people.orchestration.taskdocs import task_doc
from laion_people.settings import Settings, from_environment
from laion_people.storage.store import deployment_uri, open_store
from laion_people.storage.versions import manifest_of

ROOT = Path(__file__).resolve().parents[3]

METADATA = Asset("laion_people_metadata")  # partitions: collection/part, to be extracted
EXTRACTED = Asset("laion_people_extracted")  # partitions: the collection of a part that has been extracted
CLUSTERED = Asset("laion_people_clustered")  # partitions: collection/part, to be captioned

PARTITION = "{{ dag_run.partition_key or '' }}"
TEMPLATED = ("partitions", "shards", "clusters", "overrides", "flags")  # of a task, whether a process or a pod

POOLS = {"gpu": "laion_people_gpu", "network": "laion_people_network"}  # by what a step waits for

# Every task is idempotent: a shard that is done is left as it is, so any task may be cleared or run twice.
# No start_date: with one, unpausing a cron DAG starts a run for the time that has passed.
DAG_DEFAULTS: dict[str, Any] = {
    "catchup": False,
    "tags": ["laion-people"],
    "default_args": {
        "owner": "laion-people",
        "retries": 2,
        "retry_delay": timedelta(minutes=1),
        "retry_exponential_backoff": 2.0,
        "max_retry_delay": timedelta(minutes=30),
        "execution_timeout": timedelta(hours=1),
        "weight_rule": "upstream",  # late steps of an old run go before early steps of a new one
        "on_failure_callback": notify_failure,
    },
}

PARTITIONS_SCHEMA: dict[str, Any] = {
    "type": "array",
    "items": {"type": "string", "pattern": r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$"},
    "uniqueItems": True,
}

# Parameters of a run that works on one partition, and what its tasks take from them. The form opens with those that
# have no section.
RERUN_PARAMS: dict[str, Param] = {
    "only_failed_shards": Param(
        False,
        type="boolean",
        title="Only failed shards",
        description="Work on those shards alone that are not finished and valid in every step. Quicker where few of "
        "many have failed; the result is the same.",
    ),
    "force": Param(
        False,
        type="boolean",
        title="Force",
        description="Make shards again that are done, which costs as much as the first time. What is damaged, or made "
        "with other settings or models, is made again without it.",
        section="Make everything again",
    ),
}
# What a task takes of them, by the names that the catalog gives its options.
FORCE = {"force": "{{ params.force }}"}
FLAGS = {"retry_failed": "{{ params.retry_failed_rows }}"}
OVERRIDES = {"threshold": "{{ params.threshold }}"}
ONLY_FAILED = {"unfinished": "{{ params.only_failed_shards }}"}
# A task that is killed outright can stop nothing: its next try would find the same shards being made.
DIES_WITH_TASK = ("setpriv", "--pdeathsig", "TERM")


class WorkerOperator(BaseOperator):
    """Runs ``bin/laion-people`` in the worker's environment and returns the JSON that it prints last.

    ``arguments`` are the DAG author's. ``partitions`` (a key, or a list of keys), ``shards``, ``clusters``, and the
    values of ``overrides`` (settings by name) and ``flags`` (on or off, by name) may come from a run's
    key, parameters or another task: they are passed as single arguments, never through a shell. ``fault`` is what is
    wrong with the settings: a task can say so, a DAG that cannot be parsed is only gone.

    Raises AirflowFailException, which is not retried, for bad usage; AirflowException with the command's last words
    when it fails.
    """

    template_fields: Sequence[str] = TEMPLATED

    def __init__(
        self,
        *,
        arguments: Sequence[str],
        partitions: Any = None,
        shards: Any = None,
        clusters: Any = None,
        overrides: Any = None,
        flags: Any = None,
        fault: str = "",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.arguments, self.partitions, self.shards, self.clusters = arguments, partitions, shards, clusters
        self.overrides, self.flags = overrides, flags
        self.fault = fault
        self.process: subprocess.Popen[str] | None = None

    def execute(self, context: Any) -> Any:
        if self.fault:
            raise AirflowFailException(self.fault)
        command = command_line(self, self.arguments)
        with tempfile.TemporaryFile("w+") as output:
            self.process = subprocess.Popen(
                [*DIES_WITH_TASK, ROOT / "bin" / "laion-people", *command],
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.PIPE,
                text=True,
                errors="backslashreplace",
                umask=int(os.environ.get("TASK_UMASK", "-1"), 8),  # bin/airflow-env closes Airflow's files, not these
            )
            last_words = ""
            try:
                for line in self.process.stderr or ():
                    last_words = line.rstrip()
                    self.log.info("%s", last_words)
                code = self.process.wait()
            except AirflowTaskTimeout:
                limit = f"not done within its time limit of {self.execution_timeout}"
                raise AirflowTaskTimeout(f"{limit}: {last_words}; {GO_ON}") from None
            finally:
                self.on_kill()
            output.seek(0)
            lines = output.read().splitlines()
        if code < 0:  # it said nothing more
            killed = f"killed by {signal.Signals(-code).name}, most likely for lack of memory"
            raise AirflowException(f"{killed}: {last_words}; {GO_ON}")
        if code:
            raise (AirflowFailException if code == UsageError.exit_code else AirflowException)(last_words)
        return json.loads(lines[-1])

    def on_kill(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()


def command_line(task: Any, arguments: Sequence[str], **options: Any) -> list[str]:
    """The arguments of ``bin/laion-people`` for a task (of either kind) whose templates are rendered.

    A parameter that a template renders is text: an override "None" or "" is left out, a flag is on when it is "True".
    """
    partitions = task.partitions
    keys = list(partitions or ()) if isinstance(partitions, (list, tuple, type(None))) else [partitions]
    if partitions is not None and not all(keys):
        raise AirflowFailException(
            "this run has no partition key: trigger the DAG with Advanced options > Partition Key, for example "
            "laion2B-en/00042, or trigger laion_people_discover with the partitions as its parameter"
        )
    options = {"shards": task.shards, "clusters": task.clusters} | options
    return [
        *arguments,
        *(f"--{name}={value}" for name, value in options.items() if value),
        *(f"--set={name}={value}" for name, value in (task.overrides or {}).items() if str(value) not in ("None", "")),
        *(f"--{name.replace('_', '-')}" for name, on in (task.flags or {}).items() if str(on) == "True"),
        *(["--"] if keys else []),
        *map(str, keys),
    ]


def worker_task(task_id: str, *arguments: str, **options: Any) -> BaseOperator:
    """A task that runs ``bin/laion-people`` with these arguments, as a process or as a pod (LAION_PEOPLE_RUNNER)."""
    step = arguments[1] if arguments[0] == "run" else ""
    options = {"doc_md": task_doc(task_id, step)} | options | {"task_id": task_id, "arguments": arguments}
    try:
        settings = from_environment()
        if settings.gpu_tasks_per_run and options.get("pool") == POOLS["gpu"]:
            options["max_active_tis_per_dagrun"] = settings.gpu_tasks_per_run
        if settings.runner == "kubernetes":
            from laion_people.orchestration.pods import pod_task  # which takes seconds

            return pod_task(settings, **options)
    except UsageError as error:
        options["fault"] = str(error)
    return WorkerOperator(**options)


def step_task(step: str, *, clusters: Any = None, hours: float = 12, **options: Any) -> BaseOperator:
    """The task of a step, for the run's partition unless ``partitions`` are given; ``hours`` is its time limit.

    What it takes of the run's parameters, and the pool that it waits in, follow from its entry in the catalog.
    Mapped over groups of shards (``shards``), it shows the group as its name in the UI.
    """
    entry = STEPS[step]
    options = {
        "partitions": PARTITION,
        "execution_timeout": timedelta(hours=hours),
        "flags": FORCE | {name: FLAGS[name] for name in entry.options if name in FLAGS},
        "overrides": {name: OVERRIDES[name] for name in entry.options if name in OVERRIDES},
    } | options
    if entry.pool:
        options["pool"] = POOLS[entry.pool]
    if clusters and entry.versioned:
        options["clusters"] = clusters
    if "shards" in options:
        options["map_index_template"] = "shards {{ task.shards | string | truncate(200) }}"  # a column of 250
    if entry.optional:
        options["pre_execute"] = partial(_skip_unless_on, setting=entry.optional, then=options.get("pre_execute"))
    return worker_task(step, "run", step, **options)


def audit_task(stage: str, **options: Any) -> BaseOperator:
    """The task that recounts the run's partition, also when some of its shards have failed, so as to name them all; or,
    as stage ``cluster``, the cluster version.

    It is tried again once, soon, for the sake of a pod or worker that is lost: what is missing doesn't come back by
    counting again. Airflow's rules that want a success as well would skip it whenever `describe` is skipped.
    """
    options = {"partitions": PARTITION, "execution_timeout": timedelta(hours=12), "trigger_rule": "all_done"} | options
    options |= {"retries": 1, "retry_delay": timedelta(seconds=10)}
    if stage == "extract":
        options["on_success_callback"] = notify_drift
    if stage == "cluster":
        options["doc_md"] = task_doc("audit_release")
    return worker_task("audit", "audit", "--stage", stage, **options)


def partitions_of_release(state: Mapping[str, list[str]], collection: str | None, asked: Sequence[str]) -> list[str]:
    """The partitions to cluster together: those asked for, else all of the collection once they are extracted."""
    if not asked and not collection:
        raise AirflowFailException(
            "this run has no release: trigger the DAG with a collection as its partition key, for example laion2B-en, "
            "or with the partitions as its parameter"
        )
    known = [key for keys in state.values() for key in keys]
    release = sorted(asked or (key for key in known if key.startswith(f"{collection}/")))
    waiting = sorted(set(release) - set(state["extracted"]))
    if not release or (asked and waiting):
        name = waiting[0] if waiting else collection
        raise AirflowFailException(f"{name} is not extracted: run laion_people_extract first")
    if waiting:
        raise AirflowSkipException(f"{len(waiting)} of {len(release)} partitions wait for extraction: {waiting[0]} ...")
    return release


def partitions_of_version(version: str) -> list[str]:
    """The partitions that a cluster version was fitted on."""
    manifest = manifest_of(open_store(deployment_uri()), "cluster", version)
    if manifest is None:
        raise AirflowFailException(f"there is no cluster version {version}: leave the parameter empty to fit a new one")
    return list(manifest.params["partitions"])


def skip_when_version_given(context: Any) -> None:
    """For the task that fits clusters (``pre_execute``)."""
    if context["params"]["clusters"]:
        raise AirflowSkipException("this run was given a cluster version: nothing is fitted")


def version_of(result: Mapping[str, Any]) -> str:
    """The cluster version that the result of the cluster step speaks of."""
    match = re.fullmatch(r".*/([^/]+)\.json", result["manifest"])
    assert match, result
    return match[1]


def announced_version(triggering_asset_events: Mapping[Any, Sequence[Any]]) -> str:
    """The cluster version that the event which started a run was sent for; empty (the newest) for other runs."""
    events = [event for events in triggering_asset_events.values() for event in events]
    return str(events[-1].extra.get("clusters", "")) if events else ""


def dag_settings() -> Settings:
    """The settings as far as they shape the DAGs themselves; with a fault, which every task tells, the defaults."""
    try:
        return from_environment()
    except UsageError:
        return Settings()


def _skip_unless_on(context: Any, setting: str, then: Any) -> None:
    if not getattr(from_environment(), setting):
        raise AirflowSkipException(f"{setting} is experimental: LAION_PEOPLE_{setting.upper()}=1 turns it on")
    if then:
        then(context)
