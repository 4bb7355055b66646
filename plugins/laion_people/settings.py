"""Settings: one frozen dataclass, read from environment variables with the prefix ``LAION_PEOPLE_``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from laion_people.errors import UsageError

PREFIX = "LAION_PEOPLE_"


def _setting(default: Any, help: str, choices: tuple[str, ...] = ()) -> Any:
    return field(default=default, metadata={"help": help, "choices": choices})


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that a user may choose. A step's ``params`` names those that decide its output."""

    store: str = _setting("./data", "where data lives: a folder, file:///folder or s3://bucket/prefix")
    profile: str = _setting("packaged", "which models: a file include/models/<profile>.yaml")
    runner: str = _setting("process", "how Airflow runs a step", ("process", "kubernetes"))
    models_dir: str = _setting("~/.cache/laion-people", "cache of weights that are fetched")
    clusters: str = _setting("", "cluster version that assign, compose and caption use; empty: the newest")

    shard_rows: int = _setting(10_000, "metadata rows in a shard")
    shards_per_task: int = _setting(16, "shards that an Airflow task works on; more shards are mapped over more tasks")
    url_timeout: float = _setting(10.0, "seconds for a whole request, redirects included")
    url_max_bytes: int = _setting(20_000_000, "largest body of a response, in bytes")
    url_threads: int = _setting(64, "requests in flight")
    allow_private_addresses: bool = _setting(False, "fetch from loopback, private and link-local addresses too")
    respect_opt_out: bool = _setting(True, "refuse images whose owner says noai, noimageai, noml or TDM-Reservation")
    nsfw_filter: bool = _setting(True, "refuse rows that the metadata flags (NSFW, or punsafe above 0.5)")
    image_size: int = _setting(384, "shortest side of stored images in pixels; never enlarged")
    image_min_size: int = _setting(32, "images whose shorter side is smaller, in pixels, are refused")
    image_max_pixels: int = _setting(100_000_000, "images with more pixels are refused unread (decompression bombs)")
    jpeg_quality: int = _setting(92, "quality of stored JPEG files")

    crop_padding: float = _setting(0.1, "share of a box's width and height added on each side before CLIP sees it")
    threshold: float = _setting(0.3, "a person is in Subset A when the similarity is greater")

    cluster_sample: int = _setting(100_000, "people that a cluster fit looks at, at most")
    pose_clusters: int = _setting(0, "number of pose clusters; 0: chosen by the rule in the docs")
    face_clusters: int = _setting(0, "number of facial-expression clusters; 0: chosen by rule")
    head_clusters: int = _setting(0, "number of head-direction clusters; 0: chosen by rule")
    composites: int = _setting(0, "composed images per shard; 0: one for every four people")
    backgrounds: str = _setting(
        "", "folder of the store with person-free images for Subset B; empty: the partition's own"
    )
    seed: int = _setting(0, "seed of everything that draws")


def from_environment(environ: Mapping[str, str] = os.environ, **overrides: Any) -> Settings:
    """Settings from ``environ``; ``overrides`` that are not None win.

    Raises UsageError for a value of the wrong type, a wrong choice or an unknown LAION_PEOPLE_ variable.
    """
    known = {PREFIX + f.name.upper(): f for f in fields(Settings)}
    unknown = sorted(name for name in environ if name.startswith(PREFIX) and name not in known)
    if unknown:
        raise UsageError(f"unknown setting {unknown[0]}: `bin/laion-people settings` lists those that exist")
    values = {f.name: _parse(name, environ[name], f) for name, f in known.items() if name in environ}
    return Settings(**values | {k: v for k, v in overrides.items() if v is not None})


def describe(settings: Settings) -> str:
    """A table of all settings: variable, value, meaning."""
    rows = [(PREFIX + f.name.upper(), _show(getattr(settings, f.name)), f.metadata) for f in fields(settings)]
    wide, value_wide = max(len(r[0]) for r in rows), max(len(r[1]) for r in rows)
    return "\n".join(
        f"{name:{wide}}  {value:{value_wide}}  {meta['help']}"
        + (f" ({' | '.join(meta['choices'])})" if meta["choices"] else "")
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
    if f.metadata["choices"] and value not in f.metadata["choices"]:
        raise UsageError(f"{name}={text!r}: should be one of {', '.join(f.metadata['choices'])}")
    return value
