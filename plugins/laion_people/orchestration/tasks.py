"""What the DAGs are made of: the assets that link them, their defaults and parameters, and their tasks.

This runs in the Airflow environment, which has no models: ``bin/laion-people``, in the worker's environment or in the
worker's image, does all work on images.
"""

from __future__ import annotations

from dataclasses import fields
from datetime import timedelta
from functools import partial
from typing import Any

from airflow.sdk import Asset, BaseOperator, Param
from airflow.sdk.exceptions import AirflowSkipException

from laion_people.engine.catalog import STEPS
from laion_people.errors import UsageError, coded
from laion_people.orchestration.notifications import notify_drift, notify_failure
from laion_people.orchestration.process import ProcessOperator
from laion_people.orchestration.taskdocs import task_doc
from laion_people.settings import Settings, from_environment
from laion_people.storage.layout import ClusterVersion, PartitionKey

METADATA = Asset("laion_people_metadata")  # partitions: collection/part, to be extracted
EXTRACTED = Asset("laion_people_extracted")  # partitions: the collection of a part that has been extracted
CLUSTERED = Asset("laion_people_clustered")  # partitions: collection/part, to be captioned

PARTITION = "{{ dag_run.partition_key or '' }}"

POOLS = {"gpu": "laion_people_gpu", "network": "laion_people_network"}  # by what a step waits for

# Every task is idempotent: a shard that is done is left as it is, so any task may be cleared or run twice.
# There is no start_date: with one, a cron DAG that is unpaused starts a run for the time that has passed.
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


def whole(pattern: str) -> str:
    """A regular expression for a parameter: JSON Schema looks for it anywhere in a text, here all of it has to match.

    Airflow looks with Python, for which ``$`` also stands before a newline at the end; hence the last bracket.
    """
    return rf"^(?:{pattern})$(?!\n)"


def _pattern_of_setting(name: str) -> str:
    (rules,) = (field.metadata for field in fields(Settings) if field.name == name)
    return str(rules["pattern"])


# What parameters take; null is what leaves a field of the form empty.
PARTITIONS_SCHEMA: dict[str, Any] = {
    "type": "array",
    "items": {"type": "string", "pattern": whole(PartitionKey.pattern.pattern)},
    "uniqueItems": True,
}
VERSION_SCHEMA: dict[str, Any] = {"type": ["null", "string"], "pattern": whole(ClusterVersion.pattern.pattern)}
CAPTIONS_SCHEMA: dict[str, Any] = {"type": ["null", "string"], "pattern": whole(_pattern_of_setting("captions"))}

# Parameters of a run that works on one partition, and what its tasks take from them. The form opens with those that
# have no section.
ONLY_FAILED_PARAM: dict[str, Param] = {
    "only_failed_shards": Param(
        False,
        type="boolean",
        title="Only failed shards",
        description="Work on those shards alone that are not finished and valid in every step. Quicker where few of "
        "many have failed; the result is the same.",
    ),
}
FORCE_PARAM: dict[str, Param] = {
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
UNLESS_FORCED = {"skip_finished": "{{ not params.force }}"}


def worker_task(task_id: str, *command: str, **options: Any) -> BaseOperator:
    """A task that runs ``bin/laion-people`` with this command, as a process or as a pod (LAION_PEOPLE_RUNNER)."""
    step = command[1] if command[0] == "run" else ""
    options = {"doc_md": task_doc(task_id, step)} | options | {"task_id": task_id, "command": command}
    try:
        settings = from_environment()
        if settings.gpu_tasks_per_run and options.get("pool") == POOLS["gpu"]:
            options["max_active_tis_per_dagrun"] = settings.gpu_tasks_per_run
        if settings.runner == "kubernetes":
            from laion_people.orchestration.pods import pod_task  # which takes seconds

            return pod_task(settings, **options)
    except UsageError as error:
        options["fault"] = str(error)
    return ProcessOperator(**options)


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
        options["map_index_template"] = "shards {{ task.chosen_shards | string | truncate(200) }}"  # a column of 250
        options["trigger_rule"] = "none_failed"  # what was skipped was done before
        options["pre_execute"] = partial(_skip_when_made, options.get("pre_execute"))
    if entry.optional:
        options["pre_execute"] = partial(_skip_unless_on, entry.optional, options.get("pre_execute"))
    return worker_task(step, "run", step, **options)


def audit_task(stage: str, **options: Any) -> BaseOperator:
    """The task that recounts the run's partition, also when some of its shards have failed, so as to name them all; or,
    as stage ``cluster``, the cluster version; or, as ``removals``, that looks for what was removed.

    It is tried again once, soon, because a pod or worker may be lost; what is missing doesn't come back by counting
    again. Airflow's rules that want a success as well would skip it whenever `describe` is skipped.
    """
    options = {"partitions": PARTITION, "execution_timeout": timedelta(hours=12), "trigger_rule": "all_done"} | options
    options |= {"retries": 1, "retry_delay": timedelta(seconds=10)}
    if stage == "extract":
        options["on_success_callback"] = notify_drift
    if stage in ("cluster", "removals"):
        options["doc_md"] = task_doc(f"audit_{stage}")
    return worker_task("audit", "audit", "--stage", stage, **options)


def dag_settings() -> Settings:
    """The settings as far as they shape the DAGs themselves; the defaults where one is wrong, which every task says."""
    try:
        return from_environment()
    except UsageError:
        return Settings()


def _skip_when_made(pre_execute: Any, context: Any) -> None:
    """The ``pre_execute`` of a mapped task: skips it when its step has nothing to make in its group of shards, unless
    somebody has cleared it; then the one that it has besides, if any."""
    if context["task"].has_nothing_to_make and context["ti"].try_number == 1:
        raise AirflowSkipException(coded("nothing-to-do", "every shard of this group was made before"))
    if pre_execute:
        pre_execute(context)


def _skip_unless_on(setting: str, pre_execute: Any, context: Any) -> None:
    """The ``pre_execute`` of a task that a setting turns on, and then the one that it has besides, if any."""
    if not getattr(from_environment(), setting):
        raise AirflowSkipException(
            coded("experimental", f"{setting} is experimental: LAION_PEOPLE_{setting.upper()}=1 turns it on")
        )
    if pre_execute:
        pre_execute(context)
