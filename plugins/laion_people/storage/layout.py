"""Where everything lies in a store: its identifiers and paths.

Paths are relative to the store. ``scope`` is what a step's output belongs to beside its partition: nothing (""), a
cluster version, or a captioner.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Self

from laion_people.errors import UsageError

KEY_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
RELEASE_FILES = {"fit": "fit.json", "clusters": "clusters.parquet"}  # below clusters/<version>


class PartitionKey(str):
    """``<collection>/<part>``, safe in paths and URIs."""

    __slots__ = ()
    pattern = re.compile(f"{KEY_PART}/{KEY_PART}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises UsageError for a text that is no partition key."""
        if not cls.pattern.fullmatch(text):
            raise UsageError("bad-partition-key", f"partition {text!r}: should look like laion2B-en/00042")
        return cls(text)

    @property
    def collection(self) -> str:
        return self.partition("/")[0]


class ClusterVersion(str):
    """``v0001``: the name of a frozen fit of clusters."""

    __slots__ = ()
    pattern = re.compile(r"v[0-9]{4,9}")

    @classmethod
    def of_number(cls, number: int) -> Self:
        return cls(f"v{number:04d}")

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """None for a text that is no cluster version."""
        return cls(text) if cls.pattern.fullmatch(text) else None

    @property
    def number(self) -> int:
        return int(self[1:])


SHARD_NAME = re.compile(r"\d{5}|[1-9]\d{5,8}", re.ASCII)  # as `shard_name` writes it


def shard_name(index: int) -> str:
    """``00007``."""
    return f"{index:05d}"


def parse_shard(name: str) -> int | None:
    """The index of a shard by its name; None for another name."""
    return int(name) if SHARD_NAME.fullmatch(name) else None


def shards_in(paths: Iterable[str], folder: str, suffix: str) -> dict[int, str]:
    """The files of a folder that are called as shards are (``00007.tar``), by shard; not those of folders in it."""
    shards = {}
    for path in paths:
        if path.endswith(suffix):
            index = parse_shard(path.removeprefix(f"{folder}/").removesuffix(suffix))
            if index is not None:
                shards[index] = path
    return shards


def table_folder(table: str, partition: str, scope: str = "") -> str:
    """The folder of a partition's shards of a table (or of ``images``)."""
    return "/".join(filter(None, (table, scope, partition)))


def shard_stem(table: str, partition: str, index: int, scope: str = "") -> str:
    """Where the files of a shard lie, but for the ends of their names (.parquet, .tar, ...)."""
    return f"{table_folder(table, partition, scope)}/{shard_name(index)}"


def shard_file(table: str, partition: str, index: int, scope: str = "") -> str:
    """The main file of a shard: the tar of ``images``, the Parquet file of every table."""
    return f"{shard_stem(table, partition, index, scope)}.{'tar' if table == 'images' else 'parquet'}"


def manifests_folder(step: str) -> str:
    """The folder of all manifests of a step."""
    return f"manifests/{step}"


def manifest_path(step: str, partition: str) -> str:
    """A partition manifest, or, with a cluster version for the partition, a release manifest.

    Of a step whose output has a scope, it is that of the scope that was audited last.
    """
    return f"{manifests_folder(step)}/{partition}.json"


def shard_manifests_folder(step: str, partition: str, scope: str = "") -> str:
    return "/".join(filter(None, ("manifests", step, scope, partition)))


def shard_manifest_path(step: str, partition: str, index: int, scope: str = "") -> str:
    return f"{shard_manifests_folder(step, partition, scope)}/{shard_name(index)}.json"


def totals_path(step: str, partition: str) -> str:
    return f"totals/{step}/{partition}.json"


def clusters_folder(version: str) -> str:
    return f"clusters/{version}"


def cluster_path(version: str, name: str) -> str:
    """A file of a cluster version."""
    return f"{clusters_folder(version)}/{name}"


def contact_sheet(cluster_id: str) -> str:
    """The name of a cluster's contact sheet in the folder of its version."""
    return f"contact-{cluster_id}.jpg"
