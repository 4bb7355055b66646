"""label: candidate captions of every cluster, from facts that members share. People may edit and approve them."""

from __future__ import annotations

import io
import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from laion_people.engine.catalog import STEPS
from laion_people.engine.step import ReleaseStep
from laion_people.engine.work import Release
from laion_people.errors import LaionPeopleError, OutsideError, coded
from laion_people.language import captions, phrases
from laion_people.language.captions import Entry
from laion_people.language.factsets import FactSet
from laion_people.settings import Settings
from laion_people.steps.cluster.clusters import Cluster, Fit, read_fit
from laion_people.storage.layout import ClusterVersion
from laion_people.storage.schemas import SCHEMAS
from laion_people.storage.store import Store
from laion_people.storage.versions import folders

log = logging.getLogger(__name__)

WORDINGS, SINGLE_FACT_WORDINGS = 10, 2  # captions of a set of facts, at most; of a single fact (few need them)
NOTHING = "members have nothing in common that captions can say: with no captions, nobody gets one from here"


class Label(ReleaseStep):
    """Writes ``clusters.parquet``, and adds missing clusters to ``captions.yaml``; its rows are the clusters.

    A new version takes over what people wrote for clusters that live on in it. The setting ``captions`` (a file of the
    store like captions.yaml) may give captions for other clusters. The rest get captions made from facts.
    """

    entry = STEPS["label"]

    def params(self, settings: Settings) -> dict[str, Any]:
        return {"captions": settings.captions}

    def apply(self, release: Release) -> tuple[int, list[str]]:
        clusters = _clusters(read_fit(release.store, release.version))
        path = captions.captions_path(release.version)
        before = captions.read_file(release.store, path) if release.store.exists(path) else {}
        written = before or _inherited(release.store, release.version, clusters)
        given = _given_entries(release.store, release.settings.captions)
        _check(release.settings.captions, given, clusters)
        made = {cluster_id: made_entry(clusters[cluster_id][1]) for cluster_id in sorted(clusters)}
        kept = {cluster_id: entry for cluster_id, entry in written.items() if entry.signed or cluster_id not in given}
        entries = made | given | kept
        if new := {cluster_id: entry for cluster_id, entry in entries.items() if entry != before.get(cluster_id)}:
            # Before the check: people can correct them in the file.
            captions.put(release.store, release.version, new, seen=before)
            entries = captions.read(release.store, release.version)
        _check(path, entries, clusters)
        release.store.write(release.path("clusters.parquet"), to_parquet(_rows(clusters, entries)))
        release.rows_in = len(clusters)
        return len(clusters), ["clusters.parquet"]  # captions.yaml is not listed: a person may change it


def _check(path: str, entries: Mapping[str, Entry], clusters: Collection[str]) -> None:
    """Raises LaionPeopleError for an entry without a cluster and for captions with a fault."""
    for fault in entry_faults(path, entries, clusters):
        raise fault


def entry_faults(path: str, entries: Mapping[str, Entry], clusters: Collection[str]) -> Iterator[LaionPeopleError]:
    """What is wrong with the entries of a captions file: entries without a cluster, and captions with a fault."""
    for cluster_id, entry in entries.items():
        if cluster_id not in clusters:
            yield LaionPeopleError("unknown-cluster", f"{path}: there is no cluster {cluster_id} in this version")
        elif reason := captions.fault(entry.captions, entry.claims):
            yield LaionPeopleError("bad-caption", f"{path}: {cluster_id}: {reason}")


def _clusters(fit: Fit) -> dict[str, tuple[str, Cluster]]:
    """The clusters of a fit by id, each with its kind (pose, face or head)."""
    return {
        cluster.cluster_id: (name, cluster)
        for name, cluster_set in fit.cluster_sets.items()
        for cluster in cluster_set.clusters
    }


def made_entry(cluster: Cluster) -> Entry:
    """The candidates made for a cluster: several wordings of each of its fact sets, in the order of the sets.

    A cluster whose members share no facts gets none, and a note that says so.
    """
    if not cluster.fact_sets:
        return Entry((), note=NOTHING).as_made()
    few = sum(_is_single(fact_set) for fact_set in cluster.fact_sets[1:])
    most = (captions.MOST - SINGLE_FACT_WORDINGS * few) // (len(cluster.fact_sets) - few)
    claims_by_text: dict[str, tuple[str, ...]] = {}
    for n, fact_set in enumerate(cluster.fact_sets):
        count = SINGLE_FACT_WORDINGS if n and _is_single(fact_set) else min(WORDINGS, most)
        for text in phrases.captions(fact_set.facts, count, f"{cluster.cluster_id} {' '.join(fact_set.claims)}"):
            claims_by_text.setdefault(text, fact_set.claims)
    return Entry(tuple(claims_by_text), claims=tuple(claims_by_text.values())).as_made()


def _is_single(fact_set: FactSet) -> bool:
    return len(fact_set.claims) == 1


def _given_entries(store: Store, source: str) -> dict[str, Entry]:
    """The entries of a captions file of the store; their notes say where they are from."""
    if not source:
        return {}
    if not store.exists(source):
        raise LaionPeopleError(
            "bad-setting", f"{source} is missing: the setting captions should name a captions file of the store"
        )
    entries = captions.read_file(store, source)
    return {cluster_id: replace(entry, note=entry.note or f"from {source}") for cluster_id, entry in entries.items()}


def _inherited(store: Store, version: str, clusters: Mapping[str, tuple[str, Cluster]]) -> dict[str, Entry]:
    """What people wrote for clusters that live on (see `fitting`), from the newest earlier version that has it.

    Members change from fit to fit. If they no longer share the same facts, the entry must be reviewed again.
    """
    taken: dict[str, Entry] = {}
    for earlier, names in reversed(folders(store).items()):
        if earlier.number >= ClusterVersion(version).number or "captions.yaml" not in names:
            continue
        try:
            before = _clusters(read_fit(store, earlier))
        except OutsideError:
            raise
        except LaionPeopleError as error:  # ids cannot live on from there, either
            log.warning(
                coded("damaged-version", "%s: captions of %s are not taken over: %s"), version, earlier, error.message
            )
            continue
        for cluster_id, entry in captions.read(store, earlier).items():
            if cluster_id in taken or cluster_id not in clusters or cluster_id not in before:
                continue
            was, now = before[cluster_id][1], clusters[cluster_id][1]
            if not entry.signed and entry.made == entry.words:
                continue
            same = [fact_set.claims for fact_set in was.fact_sets[:1]] == [
                fact_set.claims for fact_set in now.fact_sets[:1]
            ]
            note = f"from {earlier}" if same else f"from {earlier}, where its members had other things in common"
            taken[cluster_id] = replace(
                entry, reviewed=entry.reviewed and same, note=entry.note if same and entry.note else note, made=""
            )
    return taken


def to_parquet(rows: list[dict[str, Any]], schema: pa.Schema = SCHEMAS["clusters"]) -> bytes:
    """clusters.parquet: the same rows are the same bytes."""
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), file, compression="zstd")
    return file.getvalue()


def _rows(clusters: Mapping[str, tuple[str, Cluster]], entries: Mapping[str, Entry]) -> list[dict[str, Any]]:
    return [
        {
            "cluster_id": cluster_id,
            "kind": kind,
            "size": cluster.size,
            "medoid_person_id": cluster.medoid_person_id,
            "centroid": cluster.centroid,
            "captions": list(entries[cluster_id].captions),
            "claims": [list(claims) for claims in entries[cluster_id].claims],
            "reviewed": entries[cluster_id].reviewed,
        }
        for cluster_id, (kind, cluster) in sorted(clusters.items())
    ]
