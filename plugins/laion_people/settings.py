"""Settings: one frozen dataclass, read from environment variables with the prefix ``LAION_PEOPLE_``."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from laion_people.errors import UsageError

PREFIX = "LAION_PEOPLE_"


def _setting(default: Any, help: str, **rules: Any) -> Any:
    """A field with its help text and rules: ``choices``, ``minimum``, or ``pattern`` with ``like``, an example."""
    return field(default=default, metadata={"help": help, **rules})


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that a user may choose. A step's ``params`` names those that decide its output."""

    store: str = _setting("./data", "where data lives: a folder, file:///folder or s3://bucket/prefix")
    profile: str = _setting("packaged", "which models: a file include/models/<profile>.yaml")
    runner: str = _setting("process", "how Airflow runs a step", choices=("process", "kubernetes"))
    models_dir: str = _setting(
        "~/.cache/laion-people", "cache of weights that are fetched; the packaged profile fetches none"
    )
    clusters: str = _setting(
        "",
        "cluster version that assign, compose and caption use; empty: the newest",
        pattern=r"(v\d{4})?",
        like="v0001",
    )

    shard_rows: int = _setting(10_000, "metadata rows in a shard", minimum=1)
    shards_per_task: int = _setting(
        16, "shards that an Airflow task works on; more shards are mapped over more tasks", minimum=1
    )
    url_timeout: float = _setting(10.0, "seconds for a whole request, redirects included", minimum=0.1)
    url_max_bytes: int = _setting(20_000_000, "largest body of a response, in bytes", minimum=1)
    url_threads: int = _setting(64, "requests in flight", minimum=1)
    allow_private_addresses: bool = _setting(False, "fetch from loopback, private and link-local addresses too")
    respect_opt_out: bool = _setting(True, "refuse images whose owner says noai, noimageai, noml or TDM-Reservation")
    nsfw_filter: bool = _setting(True, "refuse rows that the metadata flags (NSFW, or punsafe above 0.5)")
    image_size: int = _setting(384, "shortest side of stored images in pixels; never enlarged", minimum=1)
    image_min_size: int = _setting(32, "images whose shorter side is smaller, in pixels, are refused", minimum=1)
    image_max_pixels: int = _setting(
        100_000_000, "images with more pixels are refused unread (decompression bombs)", minimum=1
    )
    jpeg_quality: int = _setting(92, "quality of stored JPEG files", minimum=1)

    crop_padding: float = _setting(
        0.1, "share of a box's width and height added on each side before CLIP sees it", minimum=0
    )
    threshold: float = _setting(0.3, "a person is in Subset A when the similarity is greater")

    cluster_sample: int = _setting(100_000, "people that a cluster fit looks at, at most", minimum=1)
    pose_clusters: int = _setting(0, "number of pose clusters; 0: chosen by the rule in the docs", minimum=0)
    face_clusters: int = _setting(0, "number of facial-expression clusters; 0: chosen by rule", minimum=0)
    head_clusters: int = _setting(0, "number of head-direction clusters; 0: chosen by rule", minimum=0)
    composites: int = _setting(0, "composed images per shard; 0: one for every four people", minimum=0)
    backgrounds: str = _setting(
        "",
        "folder of the store with person-free images for Subset B; empty: the partition's own",
        pattern=r"([\w-][\w.-]*(/[\w-][\w.-]*)*)?",
        like="backgrounds/rooms",
    )
    seed: int = _setting(0, "seed of everything that draws", minimum=0)


def from_environment(environ: Mapping[str, str] = os.environ, **overrides: str | None) -> Settings:
    """Settings from ``environ``; ``overrides`` that are not None win.

    Raises UsageError for a value of the wrong type, a wrong choice or an unknown LAION_PEOPLE_ variable.
    """
    known = {PREFIX + f.name.upper(): f for f in fields(Settings)}
    unknown = sorted(name for name in environ if name.startswith(PREFIX) and name not in known)
    if unknown:
        raise UsageError(f"unknown setting {unknown[0]}: `bin/laion-people settings` lists those that exist")
    given = {**environ, **{PREFIX + k.upper(): v for k, v in overrides.items() if v is not None}}
    return Settings(**{f.name: _parse(name, given[name], f) for name, f in known.items() if name in given})


def describe(settings: Settings) -> str:
    """A table of all settings: variable, value, meaning."""
    rows = [(PREFIX + f.name.upper(), _show(getattr(settings, f.name)), f.metadata) for f in fields(settings)]
    wide, value_wide = max(len(r[0]) for r in rows), max(len(r[1]) for r in rows)
    return "\n".join(
        f"{name:{wide}}  {value:{value_wide}}  {meta['help']}"
        + (f" ({' | '.join(meta['choices'])})" if "choices" in meta else "")
        for name, value, meta in rows
    )


def _show(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def _parse(name: str, text: str, f: Any) -> Any:
    kind = type(f.default)
    try:
        if kind is bool:
            return {"0": False, "1": True}[text]
        value = kind(text)
    except (KeyError, ValueError):
        wanted = {bool: "0 or 1", int: "a whole number", float: "a number"}[kind]
        raise UsageError(f"{name}={text!r}: should be {wanted}") from None
    rules = f.metadata
    if kind is float and not math.isfinite(value):
        raise UsageError(f"{name}={text!r}: should be a number")
    if "minimum" in rules and value < rules["minimum"]:
        raise UsageError(f"{name}={text!r}: should be at least {rules['minimum']}")
    if "choices" in rules and value not in rules["choices"]:
        raise UsageError(f"{name}={text!r}: should be one of {', '.join(rules['choices'])}")
    if "pattern" in rules and not re.fullmatch(rules["pattern"], value):
        raise UsageError(f"{name}={text!r}: should look like {rules['like']}")
    return value
