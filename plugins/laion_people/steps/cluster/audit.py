"""The audit of a cluster version: what cluster, label and the people who edited captions left in the store."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from typing import Any

import pyarrow.parquet as pq

from laion_people.engine.catalog import RELEASE_STEPS, STEPS
from laion_people.engine.files import LocalFiles
from laion_people.engine.runner import Runner
from laion_people.errors import LaionPeopleError, OutsideError, check_shortage, coded, one_line
from laion_people.language import captions
from laion_people.language.captions import Entry
from laion_people.steps.cluster.clusters import Cluster, load_fit
from laion_people.steps.cluster.contactsheets import RECORD
from laion_people.steps.label import entry_faults
from laion_people.storage import answers
from laion_people.storage.layout import RELEASE_FILES, cluster_path, clusters_folder, contact_sheet, manifest_path
from laion_people.storage.manifest import Manifest, ReleaseManifest
from laion_people.storage.store import Store
from laion_people.storage.totals import write_totals
from laion_people.storage.versions import LABELLED, TAKEN, folders, versions

log = logging.getLogger(__name__)

COMPARED = ("cluster_id", "kind", "size", "medoid_person_id")  # columns of clusters.parquet that are the fit's


def newest_version(store: Store) -> str:
    """The newest version that was finished once, whether its manifest is whole, damaged or lost.

    Raises LaionPeopleError when there is none.
    """
    finished = [*versions(store), *(version for version, names in folders(store).items() if names & LABELLED)]
    if not finished:
        raise LaionPeopleError("unknown-version", "there is no cluster version to audit: run `cluster` first")
    return max(finished, key=lambda version: version.number)


def audit_release(runner: Runner, version: str, deep: bool = False) -> list[str]:
    """Recounts a cluster version; returns one line for each fault, with step, version and reason.

    That people have edited captions since `label` ran is no fault, and is logged. Without a fault the totals are
    written, where they are not there already.
    """
    store = runner.store
    manifests: dict[str, Manifest] = {}
    faults = []
    for step in RELEASE_STEPS:
        path = manifest_path(step, version)
        if not store.exists(path):
            faults.append(coded("missing-file", f"{step} {version}: {path} is missing: run `{step}` again"))
            continue
        try:
            manifests[step] = ReleaseManifest.parse(path, store.read(path))
        except OutsideError:
            raise
        except LaionPeopleError as error:
            faults.append(f"{step} {version}: {error}")
            continue
        of_manifest = _manifest_faults(runner, manifests[step], step, version, deep)
        faults += [f"{step} {version}: {fault}" for fault in of_manifest]
    if not faults:
        faults += [f"{step} {version}: {fault}" for step, fault in _content_faults(store, version, manifests)]
    for manifest in manifests.values():
        if not faults:
            write_totals(store, manifest, planned=1)
    return faults


def _manifest_faults(runner: Runner, manifest: Manifest, step: str, version: str, deep: bool) -> Iterator[str]:
    """What is wrong with the manifest of a release step, and each file of it that is not whole."""
    folder = cluster_path(version, "")
    files = [file for shard in manifest.shards for file in shard.files()]
    main = [(shard.index, shard.uri) for shard in manifest.shards]
    if main != [(0, folder + RELEASE_FILES[STEPS[step].writes])] or not all(
        file.uri.startswith(folder) for file in files
    ):
        yield coded("damaged-version", f"its manifest names other files than its own: run `{step}` again")
        return
    if unknown := sorted(manifest.rejected.keys() - runner.steps[step].reasons.keys()):
        yield coded("wrong-manifest", f"its manifest has rows rejected as {unknown[0]}, which is no reason of `{step}`")
    tags = runner.store.tags(clusters_folder(version))
    for file in files:
        if file.uri not in tags:
            yield coded("missing-file", f"{file.uri} is missing")
        elif not deep and file.tag and file.tag == tags[file.uri]:
            continue
        else:
            with LocalFiles(runner.store) as local:
                if local.described(file.uri) != file:
                    yield coded("damaged-file", f"{file.uri} is damaged")


def _content_faults(store: Store, version: str, manifests: dict[str, Manifest]) -> Iterator[tuple[str, str]]:
    """Step and reason of what does not fit together in files that are whole, and of what people have written."""
    fitted, labelled = manifests["cluster"], manifests["label"]
    try:
        fit = load_fit(store.read(fitted.shards[0].uri))
    except LaionPeopleError as error:
        yield "cluster", str(error.at(fitted.shards[0].uri))
        return
    clusters = {c.cluster_id: (name, c) for name, cluster_set in fit.cluster_sets.items() for c in cluster_set.clusters}
    if fit.version != version or len(clusters) != fitted.rows or fitted.shards[0].rows != fitted.rows:
        yield (
            "cluster",
            coded(
                "damaged-version",
                f"its fit is {fit.version} of {len(clusters)} clusters, its manifest has {fitted.rows}",
            ),
        )
    sheets = {cluster_path(version, contact_sheet(cluster_id)) for cluster_id in clusters}
    beside = {cluster_path(version, name) for name in (TAKEN, RECORD)}  # which older versions lack
    listed = {file.uri for file in fitted.shards[0].sidecars} - beside
    unlisted = {sheet for sheet in sheets - listed if store.exists(sheet)}  # of others, a removal took the sheet
    if other := sorted(unlisted | (listed - sheets)):
        yield (
            "cluster",
            coded("damaged-version", f"{other[0]} is not in its manifest, or of no cluster: run `cluster` again"),
        )
    if fitted.shards[0].sha256 not in {file.sha256 for file in labelled.inputs}:
        yield "label", coded("outdated-labels", "was made from another fit: run `label` again")
    try:
        rows = pq.read_table(io.BytesIO(store.read(labelled.shards[0].uri))).to_pylist()
        taken = {row["cluster_id"]: _labelled(row) for row in rows}
        stated = sorted(tuple(row[name] for name in COMPARED) for row in rows)
    except Exception as error:  # it is what its manifest says, and no table of clusters
        check_shortage(error)
        yield "label", coded("damaged-file", f"{labelled.shards[0].uri} is damaged ({one_line(repr(error))})")
        return
    of_fit = sorted(_compared(*cluster) for cluster in clusters.values())
    if stated != of_fit or not len(rows) == labelled.rows == labelled.rows_in:
        yield (
            "label",
            coded(
                "outdated-labels", f"its {len(rows)} clusters are not the {len(clusters)} of the fit: run `label` again"
            ),
        )
    yield from (("label", str(fault)) for fault in entry_faults(labelled.shards[0].uri, taken, clusters))
    yield from (("label", fault) for fault in _caption_faults(store, version, clusters, taken))
    yield from (("review", fault) for fault in _review_faults(store, cluster_path(version, "reviews.json")))


def _labelled(row: dict[str, Any]) -> Entry:
    return Entry(tuple(row["captions"]), row["reviewed"], claims=tuple(map(tuple, row["claims"])))


def _compared(kind: str, cluster: Cluster) -> tuple[Any, ...]:
    return cluster.cluster_id, kind, cluster.size, cluster.medoid_person_id


def _caption_faults(store: Store, version: str, clusters: dict[str, Any], taken: dict[str, Entry]) -> Iterator[str]:
    """What is wrong with captions.yaml; ``taken`` is what `label` has taken from it, by cluster."""
    path = captions.captions_path(version)
    try:
        entries = captions.read(store, version)
    except LaionPeopleError as error:
        yield str(error)
        return
    yield from map(str, entry_faults(path, entries, clusters))
    now = {name: Entry(entry.captions, entry.reviewed, claims=entry.claims) for name, entry in entries.items()}
    if edited := [cluster_id for cluster_id in taken if now.get(cluster_id) != taken[cluster_id]]:
        log.info(
            "%s: %d of %d clusters, the first is %s, were edited since `label` ran: run it again to take that up",
            path, len(edited), len(clusters), edited[0],
        )  # fmt: skip


def _review_faults(store: Store, path: str) -> Iterator[str]:
    """What is wrong with the answers of those who reviewed the captions, if there are any."""
    try:
        answers.parse(path, store.read(path) if store.exists(path) else b"[]")
    except LaionPeopleError as error:
        yield str(error)
