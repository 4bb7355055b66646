"""cluster: a frozen fit of pose, face and head clusters on a sample of a release, with contact sheets."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from laion_people.engine.catalog import STEPS
from laion_people.engine.step import ReleaseStep
from laion_people.engine.work import Release
from laion_people.errors import LaionPeopleError, OutsideError, coded
from laion_people.language.facts import read_facts
from laion_people.settings import Settings
from laion_people.steps.cluster.clusters import FEATURE_SPACES, Fit, read_fit
from laion_people.steps.cluster.contactsheets import Place, pick, write_sheets
from laion_people.steps.cluster.fitting import fit_cluster_set
from laion_people.storage.layout import ClusterVersion
from laion_people.storage.versions import LABELLED, folders, versions

log = logging.getLogger(__name__)


class Cluster(ReleaseStep):
    """Writes ``fit.json``, one contact sheet a cluster, and who is where on these; its rows are the clusters.

    Reads shards in random order until the sample is full: memory and time don't grow with the release.
    """

    entry = STEPS["cluster"]
    reasons: ClassVar[Mapping[str, str]] = {
        "not_sampled": "the sample was full",
        "too_little_seen": "neither a pose, a facial expression nor the head's direction can be told",
    }

    def params(self, settings: Settings) -> dict[str, Any]:
        return {n: getattr(settings, n) for n in ("cluster_sample", *(f"{k}_clusters" for k in FEATURE_SPACES), "seed")}

    def apply(self, release: Release) -> tuple[int, list[str]]:
        places, features, facts = _sample(release)
        ids = [place.person_id for place in places]
        previous = _previous(release)
        cluster_sets, sheets = {}, {}
        for name, space in FEATURE_SPACES.items():
            k = getattr(release.settings, f"{name}_clusters")
            seed = release.settings.seed
            cluster_sets[name], labels = fit_cluster_set(name, space, features[name], ids, k, seed, previous, facts)
            _, distances = cluster_sets[name].nearest(features[name])
            for index, cluster in enumerate(cluster_sets[name].clusters):
                members = pick(np.flatnonzero(labels == index), distances)
                sheets[cluster.cluster_id] = [places[member] for member in members]
        if not sheets:
            raise LaionPeopleError(
                "nobody-to-cluster", f"cluster: none of {len(ids)} people shows enough of a body or a face"
            )
        release.store.write(release.path("fit.json"), Fit(release.version, cluster_sets).to_json())
        return len(sheets), ["fit.json", *write_sheets(release, sheets)]


def _sample(release: Release) -> tuple[list[Place], dict[str, np.ndarray], list[dict[str, str]]]:
    """The places of the sample's people, their features by feature space, and facts. Counts the rows it reads."""
    size, rng = release.settings.cluster_sample, np.random.default_rng(release.settings.seed)
    columns = {
        table: sorted({c for space in FEATURE_SPACES.values() for c in getattr(space, f"{table}_columns")})
        for table in ("pose", "mesh")
    }
    places: list[Place] = []
    facts: list[dict[str, str]] = []
    features: dict[str, list[np.ndarray]] = {name: [] for name in FEATURE_SPACES}
    for shard in rng.permutation(len(release.shards)):
        if len(places) >= size:
            break
        partition, index = release.shards[shard]
        pose = release.table("pose", partition, index, ["person_id", *columns["pose"]])
        mesh = release.table("mesh", partition, index, columns["mesh"])
        release.rows_in += len(pose)
        rows = np.sort(rng.permutation(len(pose))[: size - len(places)])
        seen = np.zeros(len(rows), bool)
        for name, space in FEATURE_SPACES.items():
            shown = space.extract(pose, mesh)[rows]
            features[name].append(shown)
            seen |= space.part(shown) != ""
        release.rejected += Counter(not_sampled=len(pose) - len(rows), too_little_seen=int((~seen).sum()))
        ids = pose["person_id"].take(rows).to_pylist()
        places += [Place(person, partition, index, int(row)) for person, row in zip(ids, rows, strict=True)]
        facts += read_facts(release.table("facts", partition, index).take(rows))
    return places, {name: np.concatenate(blocks) for name, blocks in features.items()}, facts


def _previous(release: Release) -> Fit | None:
    """The newest fit before this one, whose ids are kept. Its version is finished, or people have edited it.

    A fit that cannot be read is skipped with a warning; clusters that no other fit has get new ids.
    """
    finished = versions(release.store)
    for version, names in reversed(folders(release.store).items()):
        if version.number >= ClusterVersion(release.version).number or "fit.json" not in names:
            continue
        if version in finished or names & LABELLED:
            try:
                return read_fit(release.store, version)
            except OutsideError:
                raise
            except LaionPeopleError as error:
                log.warning(
                    coded("damaged-version", "%s: %s is passed over: %s"), release.version, version, error.message
                )
    return None
