"""What Subset C promises: the best candidate of the person's own cluster, with all scores kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from laion_people.errors import LaionPeopleError
from laion_people.schemas import SCHEMAS
from laion_people.settings import Settings
from laion_people.step import Row, Shard
from laion_people.steps.caption import Caption
from laion_people.store import LocalStore
from tests.fakes import FakeClip

PARTITION = "laion2B-en/00042"
CAPTIONS = {
    "pose-0001": ["A person stands.", "Someone is standing.", "A person is upright."],
    "pose-0002": ["A person sits.", "Someone is sitting."],
    "face-0001": ["A person smiles.", "Someone with a smile."],
    "head-0001": ["The head is turned to the left."],
}


class WatchfulClip(FakeClip):
    """Remembers what it is asked; looks at no image."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def encode_images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        raise AssertionError("captions are chosen without images")

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        self.texts += texts
        return super().encode_texts(texts)


def caption(
    folder: Path,
    assigned: Sequence[tuple[str | None, ...]],
    captions: dict[str, list[str]] = CAPTIONS,
    clip_model: str = "fake",
) -> tuple[list[Row], Shard, WatchfulClip]:
    """Runs the step on a shard of people who are assigned to these pose, face and head clusters."""
    ids = [f"{PARTITION}/00000/{i:09d}/0" for i in range(len(assigned))]
    tables: dict[str, tuple[str, list[dict[str, Any]]]] = {
        "people": ("people", [_person(person_id) for person_id in ids]),
        "vectors": ("vectors", [_vectors(d, bool(a[1]), clip_model) for d, a in zip(ids, assigned, strict=True)]),
        "assignments": ("assignments", [_assignment(d, a) for d, a in zip(ids, assigned, strict=True)]),
        "clusters": ("clusters", [_cluster(c, texts) for c, texts in captions.items()]),
    }
    for name, (schema, rows) in tables.items():
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMAS[schema]), folder / f"{name}.parquet")
    files = {name: folder / f"{name}.parquet" for name in tables}
    clip = WatchfulClip()
    shard = Shard(
        PARTITION, 0, settings=Settings(), store=LocalStore(folder / "store"), model=lambda role: clip, files=files
    )
    return list(Caption().apply(shard)), shard, clip


def _person(person_id: str) -> Row:
    row = {"person_id": person_id, "sample_id": 1, "key": "0", "url": "http://x/", "caption": "", "bbox_score": 0.9}
    return row | {"image_width": 200, "image_height": 160, "bbox": [20, 10, 80, 150]}


def view(person_id: str, name: str) -> np.ndarray:
    """The stored vector of a person's body or head, as it was before it was stored."""
    vector = np.random.default_rng([int(person_id.split("/")[-2]), len(name)]).normal(size=8)
    return vector / np.linalg.norm(vector)


def _vectors(person_id: str, faced: bool, clip_model: str) -> Row:
    body, head = (view(person_id, name).astype(np.float16) for name in ("body", "the head"))
    return {"person_id": person_id, "body": body, "head": head if faced else None, "clip_model": clip_model}


def _assignment(person_id: str, clusters: Sequence[str | None]) -> Row:
    row: Row = {"person_id": person_id}
    for kind, cluster in zip(("pose", "face", "head"), clusters, strict=True):
        row |= {f"{kind}_cluster": cluster, f"{kind}_distance": 0.1 if cluster else None}
    return row


def _cluster(cluster_id: str, captions: list[str]) -> Row:
    row = {
        "cluster_id": cluster_id,
        "kind": cluster_id.split("-")[0],
        "size": 1,
        "medoid_person_id": "",
        "centroid": [],
    }
    return row | {"captions": captions, "reviewed": False}


ALL = ("pose-0001", "face-0001", "head-0001")


def test_the_best_candidate_of_the_cluster_is_the_caption(tmp_path: Path) -> None:
    rows, shard, _ = caption(tmp_path, [ALL, ("pose-0002", None, None), ALL, ALL])
    pa.Table.from_pylist(rows, schema=SCHEMAS["subset_c"])
    assert [r["kind"] for r in rows] == ["pose", "face", "head", "pose", *["pose", "face", "head"] * 2]
    for row in rows:
        assert row["candidates"] == CAPTIONS[row["cluster_id"]]
        ranked = np.sort(row["scores"])[::-1]
        assert row["caption"] == row["candidates"][int(np.argmax(row["scores"]))]
        assert row["clip_score"] == ranked[0]
        assert row["margin"] == (ranked[0] - ranked[1] if len(ranked) > 1 else 0)
        assert row["scores"].dtype == np.float32
        seen = view(row["person_id"], "body" if row["kind"] == "pose" else "the head")
        # half precision has 11 bits: a score moves by some 1e-4 of these short vectors
        np.testing.assert_allclose(row["scores"], FakeClip().encode_texts(row["candidates"]) @ seen, atol=1e-3)
    assert shard.rows_in == 12 == len(rows) + sum(shard.rejected.values())
    assert shard.rejected == {"no_face_cluster": 1, "no_head_cluster": 1}


def test_each_candidate_is_embedded_once_and_only_if_somebody_needs_it(tmp_path: Path) -> None:
    _, _, clip = caption(tmp_path, [("pose-0001", None, None)] * 40)
    assert clip.texts == CAPTIONS["pose-0001"]


def test_a_caption_with_a_blocked_word_is_refused(tmp_path: Path) -> None:
    rows, shard, _ = caption(tmp_path, [ALL], CAPTIONS | {"face-0001": ["A young woman smiles."]})
    assert [r["kind"] for r in rows] == ["pose", "head"]
    assert shard.rejected == {"blocked_word": 1}


@pytest.mark.parametrize("people", [0, 1, 5])
def test_people_without_any_cluster_are_all_rejected(people: int, tmp_path: Path) -> None:
    rows, shard, _ = caption(tmp_path, [(None, None, None)] * people)
    assert rows == []
    assert shard.rows_in == 3 * people == sum(shard.rejected.values())


def test_vectors_of_another_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LaionPeopleError, match=r"vectors are of ViT-L-14, not fake: run `embed` first"):
        caption(tmp_path, [ALL], clip_model="ViT-L-14")
