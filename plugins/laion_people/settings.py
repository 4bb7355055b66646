"""Settings: one frozen dataclass, read from environment variables with the prefix ``LAION_PEOPLE_``.

They are grouped by who sets them; `bin/laion-people settings` shows them so.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import date
from functools import partial
from typing import Any

from laion_people.dates import FIRST_DAYS
from laion_people.errors import UsageError, without_logins

PREFIX = "LAION_PEOPLE_"
# What Kubernetes tells the pods of a namespace about a service there whose name begins with laion-people.
SERVICE_LINK = r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_\w+)?)$"


GROUPS = {  # by who sets them
    "data": "what the data set is made of, and how",
    "models": "models, and the machine that they run on",
    "airflow": "how Airflow runs it",
    "pods": "how pods are made (LAION_PEOPLE_RUNNER=kubernetes)",
}


def _setting(group: str, default: Any, help: str, **rules: Any) -> Any:
    """A field with its group, help text and rules: ``choices``, ``minimum``, ``maximum``, or ``pattern`` with ``like``,
    an example. The default has the type of the values; where it is None, ``kind`` is their type, and empty means None.

    A text that is JSON has a function ``json`` in place of the pattern, which tells whether its value is right.
    """
    return field(default=default, metadata={"group": group, "help": help, **rules})


_data, _models, _airflow, _pods = (partial(_setting, group) for group in GROUPS)


def _map_of(valid: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(valid, value.values()))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_tolerations(value: Any) -> bool:
    kinds = {"key": str, "operator": str, "value": str, "effect": str, "tolerationSeconds": int}
    return isinstance(value, list) and all(
        isinstance(one, dict) and one and all(k in kinds and type(v) is kinds[k] for k, v in one.items())
        for one in value
    )


def _is_resources(value: Any) -> bool:
    size = r"\d+[KMGT]i"
    quantities = {"cpu": r"\d+(\.\d+)?|\d+m", "gpu": r"\d+"}
    quantities |= dict.fromkeys(("memory", "shared_memory", "ephemeral_storage"), size)
    return isinstance(value, dict) and all(
        name in quantities and re.fullmatch(quantities[name], str(quantity)) for name, quantity in value.items()
    )


def _is_first_days(value: Any) -> bool:
    if not isinstance(value, dict) or not all(map(_is_text, value.values())):
        return False
    days = list((FIRST_DAYS | value).values())
    return len(set(days)) == len(days) and all(map(_is_past_day, value.values()))


def _is_past_day(day: str) -> bool:
    """Whether a date is none of the future, which Airflow would refuse."""
    try:
        return str(date.fromisoformat(day)) == day and date(1900, 1, 1) <= date.fromisoformat(day) <= date.today()
    except ValueError:
        return False


_HOST = r"(\[[0-9A-Fa-f:.]+\]|[^\s/?#@:\[\]]+)(:\d{1,5})?"  # of a URL, with its port
_NAME = {"pattern": r"([a-z0-9]([a-z0-9.-]*[a-z0-9])?)?", "like": "laion-people"}  # of a Kubernetes object
# A tag other than latest, or a digest: what runs today must be what runs after a node has been replaced.
_IMAGE = {
    "pattern": r"([^\s@]+:(?!latest$)\w[\w.-]*|[^\s@]+@sha256:[0-9a-f]{64})?",
    "like": "registry.example.org/laion-people-worker:0.1.0 or ...@sha256:<64 hex digits>, and never :latest",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that a user may choose. A step's ``params`` names those that decide its output."""

    # What the data set is made of, and how: by who makes it.
    store: str = _data("./data", "where data lives: a folder, file:///folder or s3://bucket/prefix")
    cluster_version: str = _data(
        "",
        "cluster version that assign, compose and caption use; empty: the newest",
        pattern=r"(v[0-9]{4,9})?",
        like="v0001",
    )
    shard_rows: int = _data(10_000, "metadata rows in a shard", minimum=1)
    url_timeout: float = _data(10.0, "seconds for a whole request, redirects included", minimum=0.1)
    url_max_bytes: int = _data(20_000_000, "largest body of a response, in bytes", minimum=1)
    url_threads: int = _data(64, "requests in flight", minimum=1)
    url_threads_per_host: int = _data(4, "requests in flight to one host", minimum=1)
    url_wait: float = _data(
        60.0, "seconds that a row waits for a host that asks for it (HTTP 429, or 503 with Retry-After)", minimum=0
    )
    contact: str = _data(
        "",
        "web page or e-mail address that owners of sites find in the User-Agent; empty: none",
        pattern=r"(https?://[!-'*-?A-\[\]-~]{1,200}|(?a:[\w.+-]{1,100}@[\w.-]{1,100}))?",
        like="https://example.org/crawler or crawler@example.org, of ASCII characters without parentheses",
    )
    licence: str = _data(
        "",
        "licence of publications (of the annotations: images have their own), by its SPDX name or address; empty: none",
        pattern=r"([!-;=?-~]{1,200})?",
        like="cc-by-4.0 or https://example.org/licence",
    )
    respect_robots_txt: bool = _data(False, "fetch robots.txt of each host first, and what it allows alone")
    allow_private_addresses: bool = _data(False, "fetch from loopback, private and link-local addresses too")
    respect_opt_out: bool = _data(True, "refuse images whose owner says noai, noindex and the like, or TDM-Reservation")
    nsfw_filter: bool = _data(True, "refuse rows that the metadata flags (NSFW, or punsafe above 0.5)")
    image_size: int = _data(384, "shortest side of stored images in pixels; never enlarged", minimum=1)
    image_min_size: int = _data(32, "images whose shorter side is smaller, in pixels, are refused", minimum=1)
    image_max_pixels: int = _data(
        100_000_000, "images with more pixels are refused unread (decompression bombs)", minimum=1
    )
    jpeg_quality: int = _data(92, "quality of stored JPEG files", minimum=1)
    crop_padding: float = _data(
        0.1, "share of a box's width and height added on each side before CLIP sees it", minimum=0
    )
    threshold: float | None = _data(
        None,
        "a person is in Subset A when the similarity is greater; empty: the profile's, else 0.3",
        kind=float,
        minimum=-1,
        maximum=1,
    )
    cluster_sample: int = _data(100_000, "people that a cluster fit looks at, at most", minimum=1)
    pose_clusters: int = _data(0, "number of pose clusters; 0: chosen by the rule in the docs", minimum=0)
    face_clusters: int = _data(0, "number of facial-expression clusters; 0: chosen by rule", minimum=0)
    head_clusters: int = _data(0, "number of head-direction clusters; 0: chosen by rule", minimum=0)
    captions: str = _data(
        "",
        "captions file of the store for label to take instead of making captions; what people have edited stays",
        pattern=r"([\w-][\w.-]*(/[\w-][\w.-]*)*\.yaml)?",
        like="captions/hands.yaml",
    )
    min_foil_margin: float = _data(
        -2.0,
        "captions whose CLIP score is less than this above that of the best false caption are dropped; -2: none",
        minimum=-2,
        maximum=2,
    )
    composites: int = _data(0, "composed images per shard; 0: one for every four people", minimum=0)
    backgrounds: str = _data(
        "",
        "folder of the store with person-free images for Subset B; empty: the partition's own",
        pattern=r"([\w-][\w.-]*(/[\w-][\w.-]*)*)?",
        like="backgrounds/rooms",
    )
    cutouts: str = _data(
        "rectangle",
        "how Subset B cuts people out: as rectangles, or along a matte, soft at the edge",
        choices=("rectangle", "matte"),
    )
    describe: bool = _data(False, "run the experimental step describe (Subset D) too; slow without a GPU")
    description_candidates: int = _data(8, "captions that describe draws for a person", minimum=1)
    description_scorer: str = _data(
        "clip",
        "what picks a description and drops it: CLIP, or the captioner's own answer to a yes/no question",
        choices=("clip", "vqa"),
    )
    description_threshold: float = _data(0.25, "a description is kept when its CLIP similarity is greater")
    description_vqa_threshold: float = _data(
        0.5, "with the scorer vqa it is kept when the probability of yes is greater", minimum=0, maximum=1
    )
    seed: int = _data(0, "seed of everything that draws", minimum=0)

    # Models and the machine that they run on: by who runs a worker.
    profile: str = _models(
        "packaged", "which models: a file include/models/<profile>.yaml, or the path of your own .yaml"
    )
    models_dir: str = _models(
        "~/.cache/laion-people", "cache of weights that are fetched; the packaged profile fetches none"
    )
    models_mirror: str = _models(
        "",
        "fetch weights from here instead: a URL or a folder with the files by name, as in MODELS_DIR",
        pattern=rf"(?!\w+://).*|file:///.*|(?i:https?)://([^/?#\s]*@)?{_HOST}(/[^?#\s]*)?",
        like="https://user:password@mirror.example.org/weights, with %2F for a / in the password, and so on",
    )
    device: str = _models(
        "auto",
        "where models run that can use a GPU; auto: a GPU if there is one",
        pattern=r"auto|cpu|cuda(:\d+)?",
        like="cuda:0",
    )
    precision: str = _models(
        "auto", "of these models; auto: fp16 on a GPU, fp32 on a CPU", choices=("auto", "fp32", "bf16", "fp16")
    )
    cores: int = _models(0, "threads for images and models; 0: one for each core that the process may use", minimum=0)

    # How Airflow runs it: by who runs Airflow.
    runner: str = _airflow("process", "how Airflow runs a step", choices=("process", "kubernetes"))
    shards_per_task: int = _airflow(
        16, "shards that an Airflow task works on; more shards are mapped over more tasks", minimum=1
    )
    review: bool = _airflow(False, "clustering runs of Airflow wait until a person has approved the captions")
    statsd: str = _airflow(
        "", "StatsD server that metrics are sent to; empty: none", pattern=r"([\w.-]+:\d{1,5})?", like="localhost:8125"
    )
    deadline_hours: float = _airflow(
        48.0, "hours of a run of an Airflow DAG after which a notification says that it takes long; 0: never", minimum=0
    )
    gpu_tasks_per_run: int = _airflow(
        0,
        "tasks of one step that a run of an Airflow DAG may have on GPUs at once; 0: as many as the pool has",
        minimum=0,
    )
    partitions_at_once: int = _airflow(
        2, "partitions that laion_people_extract works on at once, whoever started their runs", minimum=1
    )
    backfill_poll_seconds: int = _airflow(60, "between the looks of laion_people_backfill at its runs", minimum=10)
    first_days: str = _airflow(
        "",
        "first day of more collections, for Airflow's own backfill: JSON",
        json=_is_first_days,
        like='{"my-collection": "2015-01-01"}, each date once and none of a collection that is known',
    )

    # How pods are made: by who runs the cluster.
    pod_image: str = _pods("", "image of the worker, by version or digest; the runner kubernetes needs it", **_IMAGE)
    pod_pull_secret: str = _pods("", "secret that opens the image's registry", **_NAME)
    pod_sidecar_image: str = _pods("", "image of the sidecar that hands results on; empty: Airflow's", **_IMAGE)
    pod_namespace: str = _pods("", "where pods run; empty: the connection's, else Airflow's own", **_NAME)
    pod_service_account: str = _pods("", "that pods run as; empty: the namespace's default", **_NAME)
    pod_secret: str = _pods("", "secret whose keys are the pods' environment: AWS_ACCESS_KEY_ID, ...", **_NAME)
    pod_store_claim: str = _pods("", "volume claim that holds the store, if that is a folder", **_NAME)
    pod_weights_claim: str = _pods("", "volume claim that keeps fetched weights; empty: each pod fetches", **_NAME)
    pod_gpu_resource: str = _pods(
        "nvidia.com/gpu", "what a GPU is called", pattern=r"[\w.-]+/[\w.-]+", like="amd.com/gpu"
    )
    pod_resources: str = _pods(
        "",
        "by step, in place of engine/catalog.py's: JSON",
        json=_map_of(_is_resources),
        like='{"detect": {"gpu": 1, "cpu": 8, "memory": "24Gi", "ephemeral_storage": "8Gi"}}',
    )
    pod_node_selector: str = _pods(
        "", "labels of the nodes for pods: JSON", json=_map_of(_is_text), like='{"pool": "batch"}'
    )
    pod_gpu_node_selector: str = _pods(
        "", "labels of the nodes for pods with a GPU, in addition: JSON", json=_map_of(_is_text), like='{"gpu": "h100"}'
    )
    pod_tolerations: str = _pods(
        "",
        "taints that pods tolerate: JSON",
        json=_is_tolerations,
        like='[{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]',
    )
    pod_schedule_seconds: int = _pods(3600, "that a pod may wait for a node", minimum=1)
    pod_startup_seconds: int = _pods(1800, "that pulling the image and starting may take", minimum=1)

    @property
    def threads(self) -> int:
        """For images and models. A pod sees all cores of its node: there ``cores`` says how many are meant."""
        return self.cores or len(os.sched_getaffinity(0))


NAMES = frozenset(f.name for f in fields(Settings))


def from_environment(environ: Mapping[str, str] = os.environ, **overrides: str | None) -> Settings:
    """Settings from ``environ``; ``overrides`` that are not None win.

    Raises UsageError for a value of the wrong type, a wrong choice or an unknown LAION_PEOPLE_ variable.
    """
    known = {PREFIX + f.name.upper(): f for f in fields(Settings)}
    unknown = sorted(name for name in environ if name.startswith(PREFIX) and name not in known)
    unknown = [name for name in unknown if not re.search(SERVICE_LINK, name)]
    if unknown:
        raise UsageError(
            "unknown-setting", f"unknown setting {unknown[0]}: `bin/laion-people settings` lists those that exist"
        )
    given = {**environ, **{PREFIX + k.upper(): v for k, v in overrides.items() if v is not None}}
    return Settings(**{f.name: _parse(name, given[name], f) for name, f in known.items() if name in given})


def to_environment(settings: Settings) -> dict[str, str]:
    """The variables that give these settings where no other is set: those that differ from the defaults."""
    values = {f.name: getattr(settings, f.name) for f in fields(settings) if getattr(settings, f.name) != f.default}
    return {PREFIX + name.upper(): _show(value) for name, value in values.items()}


def describe(settings: Settings) -> str:
    """All settings in their groups: variable, value without passwords, meaning."""
    values = {f: without_logins(_show(getattr(settings, f.name))) for f in fields(settings)}
    rows = [(PREFIX + f.name.upper(), value, f.metadata) for f, value in values.items()]
    wide, value_wide = max(len(r[0]) for r in rows), max(len(r[1]) for r in rows)
    lines: list[str] = []
    for group, title in GROUPS.items():
        lines += ["", f"{group}: {title}"] if lines else [f"{group}: {title}"]
        lines += [
            f"{name:{wide}}  {value:{value_wide}}  {meta['help']}"
            + (f" ({' | '.join(meta['choices'])})" if "choices" in meta else "")
            for name, value, meta in rows
            if meta["group"] == group
        ]
    return "\n".join(lines)


def _show(value: Any) -> str:
    return "" if value is None else str(int(value)) if isinstance(value, bool) else str(value)


def _parse(name: str, text: str, f: Any) -> Any:
    if f.default is None and not text:
        return None
    kind = f.metadata.get("kind", type(f.default))
    shown = re.sub(r"(?s)(?<=://).*@", "***@", text)  # whatever is wrong with it
    try:
        if kind is bool:
            return {"0": False, "1": True}[text]
        value = kind(text)
    except (KeyError, ValueError):
        wanted = {bool: "0 or 1", int: "a whole number", float: "a number"}[kind]
        raise UsageError("bad-setting", f"{name}={shown!r}: should be {wanted}") from None
    rules = f.metadata
    if kind is float and not math.isfinite(value):
        raise UsageError("bad-setting", f"{name}={shown!r}: should be a number")
    if "minimum" in rules and value < rules["minimum"]:
        raise UsageError("bad-setting", f"{name}={shown!r}: should be at least {rules['minimum']}")
    if "maximum" in rules and value > rules["maximum"]:
        raise UsageError("bad-setting", f"{name}={shown!r}: should be at most {rules['maximum']}")
    if "choices" in rules and value not in rules["choices"]:
        raise UsageError("bad-setting", f"{name}={shown!r}: should be one of {', '.join(rules['choices'])}")
    if "pattern" in rules and not re.fullmatch(rules["pattern"], value):
        raise UsageError("bad-setting", f"{name}={shown!r}: should look like {rules['like']}")
    if "json" in rules and value and not rules["json"](_from_json(value)):
        raise UsageError("bad-setting", f"{name}={shown!r}: should look like {rules['like']}")
    return value


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None  # which no rule takes
