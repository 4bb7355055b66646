"""caption: Subset C, for each person the candidate captions of their clusters that CLIP finds best."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np

from include.models import Clip
from laion_people.errors import LaionPeopleError
from laion_people.people import matrix
from laion_people.step import Row, Shard, Step
from laion_people.wordgate import blocked

VIEWS = {"pose": "body", "face": "head", "head": "head"}  # kind -> the vector that its captions are compared to


class Caption(Step):
    """One row a person and kind. A kind for which the person has no cluster is rejected.

    The captions' vectors are compared to those that embed has left: of the person for the pose, and of the head for the
    facial expression and the head's direction. So other captions or clusters need no image.
    """

    name = "caption"
    summary = "CLIP chooses each person's caption among the candidates of their clusters"
    reads = ("people", "assignments", "vectors", "clusters")
    writes = "subset_c"
    roles = ("clip",)
    reasons: ClassVar[Mapping[str, str]] = {
        "no_pose_cluster": "too little of the body is seen for a pose cluster",
        "no_face_cluster": "too little of the face is seen for an expression",
        "no_head_cluster": "too little of the head is seen for its direction",
        "far_from_clusters": "what is seen is like no cluster of the release",
        "blocked_word": "the best caption has a word about who the person is",
    }
    revision = 3  # 3: vectors come from embed, in half precision

    def apply(self, shard: Shard) -> Iterator[Row]:
        people = shard.table("people", ["person_id", "url", "bbox"]).to_pylist()
        columns = [f"{kind}_{column}" for kind in VIEWS for column in ("cluster", "distance")]
        assigned = shard.table("assignments", columns).to_pylist()
        candidates = _candidates(shard, {row[f"{kind}_cluster"] for row in assigned for kind in VIEWS})
        views = _views(shard) if candidates else {}
        shard.rows_in = len(people) * len(VIEWS)
        for i, person in enumerate(people):
            for kind, view in VIEWS.items():
                cluster = assigned[i][f"{kind}_cluster"]
                if cluster is None:
                    seen = assigned[i][f"{kind}_distance"] is not None
                    shard.reject("far_from_clusters" if seen else f"no_{kind}_cluster")
                    continue
                choice = _choose(*candidates[cluster], views[view][i])
                if blocked(choice["caption"]):
                    shard.reject("blocked_word")
                else:
                    yield person | {"kind": kind, "cluster_id": cluster} | choice


def _candidates(shard: Shard, wanted: set[str | None]) -> dict[str, tuple[list[str], np.ndarray]]:
    """The captions of each wanted cluster, and their embeddings float32 [captions, dimensions]."""
    clusters = shard.table("clusters", ["cluster_id", "captions"]).to_pylist()
    captions = {row["cluster_id"]: row["captions"] for row in clusters if row["cluster_id"] in wanted}
    if not captions:
        return {}
    clip: Clip = shard.model("clip")
    with shard.clock("model"):
        vectors = clip.encode_texts([text for texts in captions.values() for text in texts])
    ends = np.cumsum([len(texts) for texts in captions.values()])
    return {
        cluster: (texts, vectors[end - len(texts) : end])
        for (cluster, texts), end in zip(captions.items(), ends, strict=True)
    }


def _views(shard: Shard) -> dict[str, np.ndarray]:
    """The vectors of body and head, float32 [people, dimensions], NaN where there is none.

    Raises LaionPeopleError when another model than that of the captions has made them.
    """
    stored = shard.table("vectors", ["body", "head", "clip_model"])
    made_by, wanted = stored["clip_model"].unique().to_pylist(), shard.model("clip").name
    if made_by != [wanted]:
        raise LaionPeopleError(f"{shard.id}: its vectors are of {', '.join(made_by)}, not {wanted}: run `embed` first")
    dimensions = len(stored["body"][0])
    return {name: matrix(stored[name], dimensions) for name in ("body", "head")}


def _choose(captions: list[str], vectors: np.ndarray, image: np.ndarray) -> Row:
    """The best caption for an image vector; the margin over the second best is 0 when there is none."""
    scores = vectors @ image
    best, second = (*np.sort(scores)[::-1][:2], scores.max())[:2]
    return {
        "caption": captions[int(scores.argmax())],
        "clip_score": best,
        "margin": best - second,
        "candidates": captions,
        "scores": scores,
    }
