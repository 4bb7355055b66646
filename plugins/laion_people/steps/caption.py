"""caption: Subset C, for each person the true candidate that says most; CLIP chooses between several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from include.models import Clip
from laion_people.engine.catalog import STEPS
from laion_people.engine.step import Row, Step
from laion_people.engine.work import Shard
from laion_people.errors import LaionPeopleError
from laion_people.language.facts import contradicts, read_facts, supports
from laion_people.language.wordgate import blocked
from laion_people.settings import Settings
from laion_people.storage.layout import cluster_path
from laion_people.vision.people import matrix

VIEWS = {"pose": "body", "face": "head", "head": "head"}  # kind -> vector to compare its captions with
BLOCK = 256  # people at a time: their scores with all candidates are in memory
PROFILES = 10_000  # different sets of facts whose true claims are kept in memory


class Caption(Step):
    """One row a person and kind. A kind for which the person has no cluster, or no true caption, is rejected.

    Candidates come from the person's cluster, and the person's own facts must support their claims. CLIP compares only
    those that claim most. Candidates without claims, written by people, are used only when there are no others. The
    captions' vectors are compared with those of `embed`: of the person for the pose, of the head for the facial
    expression and the head's direction. Thus new captions or clusters need no image.
    """

    entry = STEPS["caption"]
    reasons: ClassVar[Mapping[str, str]] = {
        "no_pose_cluster": "too little of the body is seen for a pose cluster",
        "no_face_cluster": "too little of the face is seen for an expression",
        "no_head_cluster": "too little of the head is seen for its direction",
        "far_from_clusters": "what is seen is like no cluster of the release",
        "no_true_caption": "no caption of the cluster is borne out by the person's own facts",
        "below_foil_margin": "CLIP finds a false caption about as good: see min_foil_margin",
        "blocked_word": "the best caption has a word about who the person is",
    }
    revision = 4  # 4: captions are checked against facts

    def params(self, settings: Settings) -> dict[str, Any]:
        return {"min_foil_margin": settings.min_foil_margin}

    def apply(self, shard: Shard) -> Iterator[Row]:
        people = shard.table("people").to_pylist()
        facts = read_facts(shard.table("facts"))
        assigned = shard.table(
            "assignments", [f"{kind}_{field}" for kind in VIEWS for field in ("cluster", "distance")]
        )
        shard.rows_in = len(people) * len(VIEWS)
        assigned = assigned.to_pylist()
        needed = any(row[f"{kind}_cluster"] for row in assigned for kind in VIEWS)
        candidates, views = (_shard_candidates(shard), _view_vectors(shard)) if needed else ({}, {})
        for start in range(0, len(people), BLOCK):
            block = slice(start, start + BLOCK)
            scores = {kind: views[VIEWS[kind]][block] @ listed.vectors.T for kind, listed in candidates.items()}
            for i, person in enumerate(people[block]):
                for kind in VIEWS:
                    cluster = assigned[start + i][f"{kind}_cluster"]
                    if cluster is None:
                        seen = assigned[start + i][f"{kind}_distance"] is not None
                        shard.reject("far_from_clusters" if seen else f"no_{kind}_cluster")
                        continue
                    choice = candidates[kind].choose(cluster, facts[start + i], scores[kind][i])
                    if not choice:
                        shard.reject("no_true_caption")
                    elif _is_mistakable(choice, shard.settings.min_foil_margin):
                        shard.reject("below_foil_margin")
                    elif blocked(choice["caption"]):
                        shard.reject("blocked_word")
                    else:
                        yield person | {"kind": kind, "cluster_id": cluster} | choice


def _is_mistakable(choice: Row, min_foil_margin: float) -> bool:
    return choice["foil_margin"] is not None and choice["foil_margin"] < min_foil_margin


@dataclass(frozen=True, slots=True)
class _Candidates:
    """The candidates of all clusters of one kind.

    vectors: float32 [candidates, dimensions]; states: bool [candidates, claims], the ``claims`` that each states.
    """

    texts: list[str]
    sets: list[tuple[str, ...]]  # the claims of each
    vectors: np.ndarray
    claims: tuple[str, ...]
    states: np.ndarray
    places: dict[str, np.ndarray]  # cluster -> its candidates
    checked: dict[tuple[tuple[str, str], ...], tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def choose(self, cluster: str, facts: Mapping[str, str], scores: np.ndarray) -> Row:
        """The best candidate of a cluster for a person; {} if none is true.

        scores: of all candidates. ``margin`` is the lead over the second best, 0 if there is none. ``foil_margin`` is
        the lead over the best candidate, of any cluster, that the person's facts contradict; None if there is none.
        """
        supported, contradicted = self._check(facts)
        compared = self._most_detailed(self.places[cluster], supported)
        if not len(compared):
            return {}
        ranked = compared[np.argsort(-scores[compared], kind="stable")]
        best = ranked[0]
        foils = scores[self.states[:, contradicted].any(axis=1)]
        return {
            "caption": self.texts[best],
            "claims": list(self.sets[best]),
            "clip_score": scores[best],
            "margin": scores[best] - scores[ranked[1]] if len(ranked) > 1 else 0.0,
            "foil_margin": scores[best] - foils.max() if len(foils) else None,
            "candidates": [self.texts[i] for i in compared],
            "scores": scores[compared],
        }

    def _most_detailed(self, places: np.ndarray, supported: np.ndarray) -> np.ndarray:
        """The candidates that are true and claim most, without those that another one says in narrower words."""
        true = places[~self.states[places][:, ~supported].any(axis=1)]
        count = self.states[true].sum(axis=1)
        most = true[count == count.max(initial=0)]
        sets = {self.sets[i] for i in most}
        implied = {wide for wide in sets for narrower in sets - {wide} if _implies(narrower, wide)}
        return np.array([i for i in most if self.sets[i] not in implied], int)

    def _check(self, facts: Mapping[str, str]) -> tuple[np.ndarray, np.ndarray]:
        """Which of ``claims`` a person's facts support, and which they contradict."""
        profile = tuple(sorted(facts.items()))
        if profile not in self.checked:
            if len(self.checked) == PROFILES:
                self.checked.clear()
            checks = [[check(facts, claim) for claim in self.claims] for check in (supports, contradicts)]
            self.checked[profile] = np.array(checks[0], bool), np.array(checks[1], bool)
        return self.checked[profile]


def _implies(claims: tuple[str, ...], others: tuple[str, ...]) -> bool:
    facts = dict(claim.split("=", 1) for claim in claims)
    return all(claim in claims or supports(facts, claim) for claim in others)


def _shard_candidates(shard: Shard) -> dict[str, _Candidates]:
    """The candidates of the cluster version by kind. Raises LaionPeopleError if a release without claims made them."""
    path = shard.path("clusters")
    if "claims" not in pq.read_schema(path).names:
        raise LaionPeopleError(
            "old-version",
            f"{cluster_path(shard.settings.cluster_version, 'clusters.parquet')} is of an earlier release, without "
            "claims: "
            "run `facts`, `cluster` and `label` for a new version",
        )
    clip = shard.model("clip")
    with shard.timed("model"):
        return _table_candidates(path.read_bytes(), clip)


@lru_cache(maxsize=1)
def _table_candidates(table: bytes, clip: Clip) -> dict[str, _Candidates]:
    """The candidates of a table of clusters by kind; cached, since all shards of a run have the same table."""
    rows = pq.read_table(pa.BufferReader(table), columns=["cluster_id", "kind", "captions", "claims"]).to_pylist()
    candidates = {}
    for kind in VIEWS:
        of_kind = [row for row in rows if row["kind"] == kind]
        texts = [text for row in of_kind for text in row["captions"]]
        sets = [tuple(claims) for row in of_kind for claims in row["claims"]]
        unique = list(dict.fromkeys(texts))
        index = {text: i for i, text in enumerate(unique)}
        claims = tuple(sorted({claim for stated in sets for claim in stated}))
        ends = np.cumsum([len(row["captions"]) for row in of_kind], dtype=int)
        candidates[kind] = _Candidates(
            texts=texts,
            sets=sets,
            vectors=clip.encode_texts(unique)[[index[text] for text in texts]],
            claims=claims,
            states=np.array([[claim in stated for claim in claims] for stated in sets], bool).reshape(
                len(sets), len(claims)
            ),
            places={
                row["cluster_id"]: np.arange(end - len(row["captions"]), end)
                for row, end in zip(of_kind, ends, strict=True)
            },
        )
    return candidates


def _view_vectors(shard: Shard) -> dict[str, np.ndarray]:
    """The vectors of body and head, float32 [people, dimensions], NaN where there is none.

    Raises LaionPeopleError if they were not made by the captions' model.
    """
    stored = shard.table("vectors")
    made_by, wanted = stored["clip_model"].unique().to_pylist(), shard.model("clip").name
    if made_by != [wanted]:
        raise LaionPeopleError(
            "other-vectors", f"{shard.id}: its vectors are of {', '.join(made_by)}, not {wanted}: run `embed` first"
        )
    dimensions = len(stored["body"][0])
    return {name: matrix(stored[name], dimensions) for name in ("body", "head")}
