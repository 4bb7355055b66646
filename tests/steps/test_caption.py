"""What Subset C promises: the best candidate of the person's own cluster, with all scores kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from laion_people.engine.step import Row
from laion_people.engine.work import Shard
from laion_people.errors import LaionPeopleError
from laion_people.settings import Settings
from laion_people.steps.caption import Caption
from laion_people.storage.schemas import SCHEMAS
from laion_people.storage.store import LocalStore
from tests.fakes import FakeClip

PARTITION = "laion2B-en/00042"
UNCHECKED = ""
CAPTIONS = {  # cluster -> caption -> its claims
    "pose-0001": {
        "A person stands.": "base=standing",
        "Someone stands, the left arm down.": "base=standing left_arm=down",
        "Standing, a person has the left arm down.": "base=standing left_arm=down",
        "Someone stands, the left arm raised.": "base=standing left_arm=raised",
        "Someone is on their feet, the left arm down.": "base=on_feet left_arm=down",
        "A person waits.": UNCHECKED,
    },
    "pose-0002": {"A person sits.": "base=sitting", "Someone is sitting.": "base=sitting"},
    "face-0001": {"A person smiles.": "mouth=smiling", "Someone with a smile.": "mouth=smiling"},
    "head-0001": {"The head is turned to the left.": "turn=left", "Somebody looks around.": UNCHECKED},
}
KNOWN = {"sha256": "0f" * 32, "original_width": 1920, "NSFW": "UNLIKELY", "phash": None}  # of each person's image
STANDS = {"base": "standing", "left_arm": "down", "right_arm": "bent", "mouth": "smiling_open", "turn": "far_left"}


class WatchfulClip(FakeClip):
    """Remembers its calls; never gets an image."""

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
    facts: Mapping[str, str] = STANDS,
    captions: Mapping[str, Mapping[str, str]] = CAPTIONS,
    clip_model: str = "fake",
    clip: WatchfulClip | None = None,
    **settings: Any,
) -> tuple[list[Row], Shard, WatchfulClip]:
    """Runs the step on people with these facts, assigned to these pose, face and head clusters."""
    ids = [f"{PARTITION}/00000/{i:09d}/0" for i in range(len(assigned))]
    tables: dict[str, tuple[str, list[dict[str, Any]]]] = {
        "people": ("people", [_person(person_id) for person_id in ids]),
        "facts": ("facts", [_facts(person_id, facts) for person_id in ids]),
        "vectors": ("vectors", [_vectors(d, bool(a[1]), clip_model) for d, a in zip(ids, assigned, strict=True)]),
        "assignments": ("assignments", [_assignment(d, a) for d, a in zip(ids, assigned, strict=True)]),
        "clusters": ("clusters", [_cluster(c, texts) for c, texts in captions.items()]),
    }
    for name, (schema, rows) in tables.items():
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMAS[schema]), folder / f"{name}.parquet")
    files = {name: folder / f"{name}.parquet" for name in tables}
    clip = clip or WatchfulClip()
    store, chosen = LocalStore(folder / "store"), Settings(**settings)
    columns = Caption.entry.reads
    shard = Shard(PARTITION, 0, settings=chosen, store=store, model=lambda role: clip, files=files, columns=columns)
    return list(Caption().apply(shard)), shard, clip


def _person(person_id: str) -> Row:
    row = {"person_id": person_id, "sample_id": 1, "key": "0", "url": "http://x/", "caption": "", "bbox_score": 0.9}
    return row | {"image_width": 200, "image_height": 160, "bbox": [20, 10, 80, 150], **KNOWN}


def _facts(person_id: str, facts: Mapping[str, str]) -> Row:
    listed = [{"name": name, "value": value, "confidence": 0.9} for name, value in facts.items()]
    return {"person_id": person_id, "facts": listed}


def view(person_id: str, name: str) -> np.ndarray:
    """The vector of a person's body or head, before it was stored."""
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


def _cluster(cluster_id: str, captions: Mapping[str, str]) -> Row:
    row = {
        "cluster_id": cluster_id,
        "kind": cluster_id.split("-")[0],
        "size": 1,
        "medoid_person_id": "",
        "centroid": [],
    }
    return row | {
        "captions": [*captions],
        "claims": [stated.split() for stated in captions.values()],
        "reviewed": False,
    }


ALL = ("pose-0001", "face-0001", "head-0001")


def one(folder: Path, cluster: str = "pose-0001", **options: Any) -> Row:
    """The row of a person with only this pose cluster; {} if there is none."""
    rows, _, _ = caption(folder, [(cluster, None, None)], **options)
    return rows[0] if rows else {}


def test_of_candidates_that_say_most_of_what_is_true_the_best_is_the_caption(tmp_path: Path) -> None:
    rows, shard, _ = caption(tmp_path, [ALL, ("pose-0001", None, None), ALL, ALL])
    pa.Table.from_pylist(rows, schema=SCHEMAS["subset_c"])
    assert [r["kind"] for r in rows] == ["pose", "face", "head", "pose", *["pose", "face", "head"] * 2]
    assert all(row.items() >= KNOWN.items() for row in rows)
    compared = {
        "pose-0001": ["Someone stands, the left arm down.", "Standing, a person has the left arm down."],
        "face-0001": ["A person smiles.", "Someone with a smile."],  # laughing people smile
        "head-0001": ["The head is turned to the left."],
    }
    for row in rows:
        assert row["candidates"] == compared[row["cluster_id"]]
        ranked = np.sort(row["scores"])[::-1]
        assert row["caption"] == row["candidates"][int(np.argmax(row["scores"]))]
        assert row["claims"] == CAPTIONS[row["cluster_id"]][row["caption"]].split()
        assert row["clip_score"] == ranked[0]
        assert row["margin"] == (ranked[0] - ranked[1] if len(ranked) > 1 else 0)
        assert row["scores"].dtype == np.float32
        seen = view(row["person_id"], "body" if row["kind"] == "pose" else "the head")
        # half precision has 11 bits: scores of these short vectors differ by about 1e-4
        np.testing.assert_allclose(row["scores"], FakeClip().encode_texts(row["candidates"]) @ seen, atol=1e-3)
    assert shard.rows_in == 12 == len(rows) + sum(shard.rejected.values())
    assert shard.rejected == {"no_face_cluster": 1, "no_head_cluster": 1}


@pytest.mark.parametrize(
    ("facts", "texts"),
    [
        ({"base": "standing"}, ["A person stands."]),
        ({"base": "standing", "left_arm": "overhead"}, ["Someone stands, the left arm raised."]),
        ({"base": "walking", "left_arm": "down"}, ["Someone is on their feet, the left arm down."]),
        ({"base": "sitting"}, ["A person waits."]),  # no other one is true, and this one is not checked
        ({}, ["A person waits."]),
    ],
)
def test_what_a_person_s_own_facts_do_not_bear_out_is_not_said(
    tmp_path: Path, facts: dict[str, str], texts: list[str]
) -> None:
    row = one(tmp_path, facts=facts)
    assert (row["candidates"], row["margin"]) == (texts, 0)


def test_claims_of_people_about_one_arm_or_the_other_are_checked(tmp_path: Path) -> None:
    by_hand = {"pose-0001": {"One arm up, one down.": "arms=overhead+down", "An arm is up.": "one_arm=raised"}}
    facts = {"left_arm": "down", "right_arm": "overhead"}
    assert one(tmp_path, facts=facts, captions=by_hand)["candidates"] == [*by_hand["pose-0001"]]
    assert one(tmp_path, facts={"right_arm": "raised"}, captions=by_hand)["candidates"] == ["An arm is up."]


def test_whom_no_candidate_fits_is_rejected(tmp_path: Path) -> None:
    rows, shard, _ = caption(tmp_path, [("pose-0002", "face-0001", None)])
    assert [row["kind"] for row in rows] == ["face"]
    assert shard.rejected == {"no_true_caption": 1, "no_head_cluster": 1}


def test_the_foil_margin_is_over_the_best_candidate_of_any_cluster_that_is_false_of_the_person(tmp_path: Path) -> None:
    row = one(tmp_path)
    foils = [*CAPTIONS["pose-0002"], "Someone stands, the left arm raised."]
    scores = FakeClip().encode_texts(foils) @ view(row["person_id"], "body")
    assert row["foil_margin"] == pytest.approx(row["clip_score"] - scores.max(), abs=1e-3)
    assert one(tmp_path, facts={"right_arm": "bent"})["foil_margin"] is None


def test_captions_below_the_foil_margin_that_somebody_wants_are_dropped(tmp_path: Path) -> None:
    margin = one(tmp_path)["foil_margin"]
    for wanted, kept in ((margin - 0.01, 1), (margin + 0.01, 0)):
        rows, shard, _ = caption(tmp_path, [("pose-0001", None, None)], min_foil_margin=wanted)
        assert (len(rows), shard.rejected["below_foil_margin"]) == (kept, 1 - kept)
    unknown = caption(tmp_path, [("pose-0001", None, None)], facts={"right_arm": "bent"}, min_foil_margin=2.0)
    assert len(unknown[0]) == 1  # there is no foil


def test_each_candidate_is_embedded_once_for_all_shards_of_a_run_and_only_if_somebody_needs_it(tmp_path: Path) -> None:
    _, _, clip = caption(tmp_path, [("pose-0001", None, None)] * 40)
    caption(tmp_path, [ALL] * 3, clip=clip)
    assert sorted(clip.texts) == sorted(text for texts in CAPTIONS.values() for text in texts)
    _, _, clip = caption(tmp_path, [(None, None, None)])
    assert clip.texts == []


def test_other_captions_are_embedded_again(tmp_path: Path) -> None:
    _, _, clip = caption(tmp_path, [ALL])
    row = one(tmp_path, clip=clip, captions=CAPTIONS | {"pose-0001": {"A person is up.": "base=on_feet"}})
    assert row["caption"] == "A person is up."


def test_a_caption_with_a_blocked_word_is_refused(tmp_path: Path) -> None:
    spoilt = CAPTIONS | {"face-0001": {"A young woman smiles.": "mouth=smiling"}}
    rows, shard, _ = caption(tmp_path, [ALL], captions=spoilt)
    assert [r["kind"] for r in rows] == ["pose", "head"]
    assert shard.rejected == {"blocked_word": 1}


def test_clusters_without_claims_are_refused_with_what_to_run(tmp_path: Path) -> None:
    _, shard, _ = caption(tmp_path, [ALL])
    clusters = pq.read_table(shard.path("clusters"))
    pq.write_table(clusters.drop_columns(["claims"]), shard.path("clusters"))
    with pytest.raises(LaionPeopleError, match=r"without claims: run `facts`, `cluster` and `label` for a new"):
        list(Caption().apply(shard))


@pytest.mark.parametrize("people", [0, 1, 5])
def test_people_without_any_cluster_are_all_rejected(people: int, tmp_path: Path) -> None:
    rows, shard, _ = caption(tmp_path, [(None, None, None)] * people)
    assert rows == []
    assert shard.rows_in == 3 * people == sum(shard.rejected.values())


def test_vectors_of_another_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LaionPeopleError, match=r"vectors are of ViT-L-14, not fake: run `embed` first"):
        caption(tmp_path, [ALL], clip_model="ViT-L-14")
