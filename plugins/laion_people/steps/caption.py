"""caption: Subset C, for each person the candidate captions of their clusters that CLIP finds best."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from include.models import Clip
from laion_people.images import crop
from laion_people.people import boxes, by_people, face_boxes
from laion_people.settings import Settings
from laion_people.step import Row, Shard, Step
from laion_people.wordgate import blocked

KINDS = ("pose", "face", "head")
HEAD_PADDING = 0.6  # share of the face mesh's width and height on each side: the whole head with a little around it


class Caption(Step):
    """One row a person and kind. A kind for which the person has no cluster is rejected.

    CLIP sees the person for the pose, and the head (around the face mesh) for the facial expression and the head's
    direction.
    """

    name = "caption"
    summary = "CLIP chooses each person's caption among the candidates of their clusters"
    reads = ("images", "people", "mesh", "assignments", "clusters")
    writes = "subset_c"
    roles = ("clip",)
    gpu = True
    revision = 2  # 2: crops are resized by torch

    def params(self, settings: Settings) -> dict[str, Any]:
        return {"crop_padding": settings.crop_padding}

    def apply(self, shard: Shard) -> Iterator[Row]:
        people = shard.table("people", ["person_id", "key", "url", "bbox"])
        columns = {name: people[name].to_pylist() for name in ("person_id", "url", "bbox")}
        head = face_boxes(shard.table("mesh", ["face_landmarks"]))
        views = {
            "pose": (boxes(people), shard.settings.crop_padding),
            "face": (head, HEAD_PADDING),
            "head": (head, HEAD_PADDING),
        }
        assigned = shard.table("assignments", [f"{kind}_cluster" for kind in KINDS]).to_pylist()
        clip = shard.model("clip")
        candidates = _candidates(shard, clip, {cluster for row in assigned for cluster in row.values()})
        shard.rows_in = len(assigned) * len(KINDS)
        for kind in KINDS:
            shard.reject(f"no_{kind}_cluster", sum(row[f"{kind}_cluster"] is None for row in assigned))

        def wanted(rows: slice) -> list[tuple[int, str]]:
            return [(i, kind) for i in range(rows.start, rows.stop) for kind in KINDS if assigned[i][f"{kind}_cluster"]]

        def look(images: list[np.ndarray], rows: list[slice]) -> list[np.ndarray]:
            views_of = [wanted(r) for r in rows]
            crops = [
                crop(image, views[kind][0][i], views[kind][1])
                for image, its_views in zip(images, views_of, strict=True)
                for i, kind in its_views
            ]
            return np.split(clip.encode_images(crops), np.cumsum([len(v) for v in views_of])[:-1])

        for rows, vectors in by_people(shard, people["key"].to_pylist(), look):
            for (i, kind), vector in zip(wanted(rows), vectors, strict=True):
                cluster = assigned[i][f"{kind}_cluster"]
                choice = _choose(*candidates[cluster], vector)
                if blocked(choice["caption"]):
                    shard.reject("blocked_word")
                else:
                    person = {name: column[i] for name, column in columns.items()}
                    yield person | {"kind": kind, "cluster_id": cluster} | choice


def _candidates(shard: Shard, clip: Clip, wanted: set[str | None]) -> dict[str, tuple[list[str], np.ndarray]]:
    """The captions of each wanted cluster, and their embeddings [captions, dimensions]."""
    clusters = shard.table("clusters", ["cluster_id", "captions"]).to_pylist()
    captions = {row["cluster_id"]: row["captions"] for row in clusters if row["cluster_id"] in wanted}
    with shard.clock("model"):
        vectors = clip.encode_texts([text for texts in captions.values() for text in texts])
    ends = np.cumsum([len(texts) for texts in captions.values()])
    return {
        cluster: (texts, vectors[end - len(texts) : end])
        for (cluster, texts), end in zip(captions.items(), ends, strict=True)
    }


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
