"""label: candidate captions of every cluster, from what its members share; a person may edit and approve them."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from laion_people import facetext, posetext
from laion_people.clusters import Cluster, load_fit
from laion_people.errors import LaionPeopleError
from laion_people.schemas import SCHEMAS
from laion_people.step import Release, ReleaseStep
from laion_people.wordgate import blocked

AGREED = 0.6  # share of the members who must share a fact, of those in whom it can be told
TOLD = 0.5  # share of the members in whom it must be told
MIN_CAPTIONS = 5
CAPTIONS: dict[str, Callable[[Mapping[str, str]], list[str]]] = {
    "pose": posetext.pose_captions,
    "face": facetext.face_captions,
    "head": facetext.head_captions,
}
HEADER = f"""\
# Candidate captions of the clusters of version %s. Edit them as you like: what stands here is never overwritten.
# Set "reviewed: true" on clusters that you have looked at (contact-<cluster>.jpg shows them), then run `label` again,
# which checks the captions and puts them into clusters.parquet. Each cluster needs {MIN_CAPTIONS} different ones;
# words about clothes, colours, age, gender, looks and the like are refused. A cluster deleted here gets new ones.
"""


class Label(ReleaseStep):
    """Writes ``clusters.parquet``, and to ``captions.yaml`` the clusters that it lacks; its rows are the clusters."""

    name = "label"
    summary = "writes several captions for every cluster from geometry, keeping those that a person has edited"
    reads = ("fit",)

    def apply(self, release: Release) -> tuple[int, list[str]]:
        fit = load_fit(release.store.read(release.path("fit.json")))
        clusters = {c.cluster_id: (name, c) for name, kind in fit.kinds.items() for c in kind.clusters}
        path = release.path("captions.yaml")
        text = release.store.read(path).decode() if release.store.exists(path) else HEADER % release.version
        entries = _entries(path, text, clusters)
        missing = {
            cluster_id: {"reviewed": False, "captions": CAPTIONS[kind](agreed(cluster))}
            for cluster_id, (kind, cluster) in sorted(clusters.items())
            if cluster_id not in entries
        }
        if missing:
            text = f"{text.rstrip()}\n{yaml.safe_dump(missing, sort_keys=False, allow_unicode=True, width=200)}"
            release.store.write(path, text.encode())
        release.store.write(release.path("clusters.parquet"), _table(clusters, entries | missing))
        release.rows_in = len(clusters)
        return len(clusters), ["clusters.parquet"]  # captions.yaml is not listed: a person may change it


def agreed(cluster: Cluster) -> dict[str, str]:
    """The facts that a cluster's members share; a wider name where they differ in the narrower ones."""
    wider = {**posetext.WIDER, **facetext.WIDER}
    facts = {}
    for fact, shares in cluster.shares.items():
        told = sum(shares.values())
        if told < TOLD:
            continue
        single_arms = _single_arms(shares) if fact == "arms" else {}
        for names in ({name: {name} for name in shares}, wider.get(fact, {}), single_arms):
            totals = {name: sum(shares.get(member, 0) for member in covered) for name, covered in names.items()}
            common = max(totals, key=totals.__getitem__, default="")
            if common and totals[common] >= AGREED * told:
                facts[fact] = common
                break
    return facts


def _single_arms(pairs: Mapping[str, float]) -> dict[str, set[str]]:
    """What one arm does, whatever the other: arm name -> the pairs that have it."""
    arms = {arm for pair in pairs for arm in pair.split("+")}
    return {arm: {pair for pair in pairs if arm in pair.split("+")} for arm in arms}


def _entries(path: str, text: str, clusters: Collection[str]) -> dict[str, dict[str, Any]]:
    """What the file says of each cluster. Raises LaionPeopleError, naming file and cluster, for what cannot be used."""
    try:
        entries = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise LaionPeopleError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(entries, dict):
        raise LaionPeopleError(f"{path} should name clusters, each with reviewed and captions")
    for cluster_id, entry in entries.items():
        if cluster_id not in clusters:
            raise LaionPeopleError(f"{path}: there is no cluster {cluster_id} in this version")
        if reason := _fault(entry):
            raise LaionPeopleError(f"{path}: {cluster_id} {reason}")
    return entries


def _fault(entry: Any) -> str:
    """What is wrong with the entry of a cluster, or ""."""
    if not isinstance(entry, dict) or set(entry) != {"reviewed", "captions"} or not isinstance(entry["reviewed"], bool):
        return "should have reviewed (true or false) and captions"
    captions = entry["captions"]
    if not isinstance(captions, list) or not all(isinstance(c, str) and c.strip() for c in captions):
        return "should have a list of sentences as captions"
    if len(set(captions)) < max(MIN_CAPTIONS, len(captions)):
        return f"should have {MIN_CAPTIONS} or more captions, all different"
    for caption in captions:
        if found := blocked(caption):
            return f"has the word {found[0]!r} ({found[1]}) in {caption!r}: captions may not speak of that"
    return ""


def _table(clusters: Mapping[str, tuple[str, Cluster]], entries: Mapping[str, dict[str, Any]]) -> bytes:
    rows = [
        {
            "cluster_id": cluster_id,
            "kind": kind,
            "size": cluster.size,
            "medoid_person_id": cluster.medoid_person_id,
            "centroid": cluster.centroid,
            "captions": entries[cluster_id]["captions"],
            "reviewed": entries[cluster_id]["reviewed"],
        }
        for cluster_id, (kind, cluster) in sorted(clusters.items())
    ]
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMAS["clusters"]), file, compression="zstd")
    return file.getvalue()
