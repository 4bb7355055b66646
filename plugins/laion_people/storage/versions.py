"""Cluster versions: which there are, what their manifests say, and the number of the next one.

A version is finished when `cluster` has written its manifest, last of all. Its folder ``clusters/<version>`` is never
deleted: people may have edited captions there.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict

from laion_people.errors import LaionPeopleError, MissingError, coded
from laion_people.storage.layout import ClusterVersion, cluster_path, manifest_path, manifests_folder
from laion_people.storage.manifest import ReleaseManifest
from laion_people.storage.store import Store

log = logging.getLogger(__name__)

TAKEN = "taken.json"  # what a version is made from, written first: whoever writes it has taken the version's number
LABELLED = {"captions.yaml", "reviews.json", "clusters.parquet"}  # files of a version that was finished once


def versions(store: Store) -> list[ClusterVersion]:
    """The finished versions, oldest first."""
    folder = manifests_folder("cluster")
    names = (path.removeprefix(f"{folder}/").removesuffix(".json") for path in store.list(folder))
    return sorted(filter(None, map(ClusterVersion.parse, names)), key=lambda version: version.number)


def folders(store: Store) -> dict[ClusterVersion, set[str]]:
    """The names of the files that each version's folder has, oldest first, of unfinished ones too."""
    names: dict[ClusterVersion, set[str]] = defaultdict(set)
    for path in store.list("clusters"):
        _, folder, name = (*path.split("/", 2), "")[:3]
        if version := ClusterVersion.parse(folder):
            names[version].add(name)
    return {version: names[version] for version in sorted(names, key=lambda version: version.number)}


def manifest_of(store: Store, step: str, version: str) -> ReleaseManifest | None:
    """What a step says of a version; None where it has not been run, or, with a warning, where that is damaged."""
    path = manifest_path(step, version)
    try:
        data = store.read(path)  # a store that does not answer is no damage: an older version must not take its place
    except MissingError:
        return None
    try:
        return ReleaseManifest.parse(path, data)
    except LaionPeopleError as error:
        log.warning(coded("damaged-version", "cluster version %s is passed over: %s"), version, error.message)
        return None


def newest(store: Store) -> str:
    """The newest finished version whose manifest is not damaged; "" when there is none."""
    return next((version for version in reversed(versions(store)) if manifest_of(store, "cluster", version)), "")


def take(store: Store, made_from: str, run_id: str) -> str:
    """Takes the next free version for what this run is going to make; of several processes only one gets it.

    A run that is started again after a kill gets the version that it took before.
    """
    taken = json.dumps({"made_from": made_from, "run_id": run_id}).encode()
    finished, started = versions(store), folders(store)
    for version, names in started.items():
        left_over = version not in finished and TAKEN in names and not LABELLED & names
        if left_over and store.read(cluster_path(version, TAKEN)) == taken:
            return version
    last = max((version.number for version in [*finished, *started]), default=0)
    while True:
        last += 1
        version = ClusterVersion.of_number(last)
        path = cluster_path(version, TAKEN)
        if store.update(path, lambda before: taken if before is None else before) == taken:
            return version
