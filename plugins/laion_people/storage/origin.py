"""Whose the images of a partition are: those that `download` has made, or another program, such as img2dataset."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from laion_people.storage.layout import manifest_path, shard_manifests_folder, table_folder
from laion_people.storage.store import Store

MADE_BY = "laion-people"
DOWNLOAD = "download"  # the step that writes images
# What img2dataset leaves, in any of its formats, and a shard's own files: 00000.tar, 00000.parquet, 00000_stats.json.
PICTURES = re.compile(
    r".*(\.(tar|parquet|tfrecord|jpe?g|png|webp|gif|bmp|tiff?|avif)(\.\w+)?|_stats\.json)", re.IGNORECASE
)
SHARD_FILE = re.compile(r"(\d{5,})(\.tar|\.parquet|_stats\.json)")


def made_elsewhere(store: Store, partition: str) -> bool:
    """Whether detect is to read a partition's images as another program, such as img2dataset, has made them."""
    if has_manifests(store, partition):
        return False
    return any(re.fullmatch(r"\d+\.tar", path.rsplit("/", 1)[-1]) for path in foreign_files(store, partition))


def foreign_files(store: Store, partition: str) -> Iterator[str]:
    """Files with pictures below ``images/<partition>`` that download has not written.

    Its own belong to a shard that has a manifest, is in the partition manifest, or whose ``_stats.json``, written
    before the shard's other files, says so.
    """
    folder = table_folder("images", partition)
    manifests = {path.rsplit("/", 1)[-1] for path in store.list(shard_manifests_folder(DOWNLOAD, partition))}

    @cache
    def summed() -> set[str]:
        shards = read_object(store, manifest_path(DOWNLOAD, partition)).get("shards")
        return {str(s.get("uri")) for s in shards if isinstance(s, dict)} if isinstance(shards, list) else set()

    @cache
    def is_ours(shard: str) -> bool:
        base = f"{folder}/{shard}"
        made_by = None if f"{shard}.json" in manifests else read_object(store, f"{base}_stats.json").get("made_by")
        return f"{shard}.json" in manifests or made_by == MADE_BY or f"{base}.tar" in summed()

    for path in store.list(folder):
        name = path.removeprefix(f"{folder}/")
        shard = SHARD_FILE.fullmatch(name)
        if not (shard and is_ours(shard[1])) and PICTURES.fullmatch(name) and "/." not in f"/{name}":
            yield path


def has_manifests(store: Store, partition: str) -> bool:
    """Whether `download` has begun with a partition."""
    return store.exists(manifest_path(DOWNLOAD, partition)) or bool(
        store.list(shard_manifests_folder(DOWNLOAD, partition))
    )


def read_object(store: Store, path: str) -> dict[str, Any]:
    """The fields of a JSON object of the store; none when it is missing or damaged."""
    return json_object(store.read(path)) if store.exists(path) else {}


def json_object(data: bytes) -> dict[str, Any]:
    """The fields of a JSON object; none when it is something else or damaged."""
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}
