"""label: captions of what a cluster's members share, and people's edits, which survive a new fit."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from laion_people.engine.runner import Runner
from laion_people.engine.work import Release
from laion_people.errors import LaionPeopleError
from laion_people.language import captions, phrases
from laion_people.language.captions import Entry
from laion_people.language.facts import VALUES
from laion_people.language.factsets import MOST, FactSet
from laion_people.settings import Settings
from laion_people.steps.cluster.clusters import FEATURE_SPACES, Cluster, ClusterSet, Fit
from laion_people.steps.label import Label
from laion_people.steps.registry import STEPS
from laion_people.storage.store import LocalStore
from tests.fakes import FakeClip, FakeModels, image_shard

SENTENCES = tuple(f"A person holds pose number {i}." for i in range(5))
UP, OUT, DOWN = (
    (
        FactSet((f"left_arm={arm}", f"right_arm={arm}"), 0.9),
        FactSet(("base=standing", f"left_arm={arm}", f"right_arm={arm}"), 0.4),
        FactSet(("base=standing",), 0.5),
    )
    for arm in ("overhead", "out", "down")
)
SMILING, TURNED = (FactSet(("mouth=smiling",), 0.8),), (FactSet(("turn=left",), 0.8),)


def fit(store: LocalStore, version: str, **sets: tuple[FactSet, ...]) -> None:
    """A fit with these sets of facts for pose clusters (pose_0001, ...), one cluster of faces and one of heads."""
    facts = {"face-0001": SMILING, "head-0001": TURNED} | {
        name.replace("_", "-"): fact_sets for name, fact_sets in sets.items()
    }
    cluster_sets = {}
    for name, space in FEATURE_SPACES.items():
        part, centroid = "whole body" if name == "pose" else "face", np.zeros(len(space.names), np.float32)
        clusters = [
            Cluster(c, part, 7, f"{c}/0", centroid, fact_sets) for c, fact_sets in facts.items() if c.startswith(name)
        ]
        cluster_sets[name] = ClusterSet(space, tuple(clusters), 0.1, 0.5)
    store.write(f"clusters/{version}/fit.json", Fit(version, cluster_sets).to_json())


def label(store: LocalStore, version: str, given: str = "") -> dict[str, dict[str, Any]]:
    """Runs the step; returns the rows of clusters.parquet."""
    settings = replace(Settings(), captions=given)
    release = Release(
        version, [], settings=settings, store=store, local=lambda *_: nullcontext(Path()), shards=[], columns={}
    )
    assert Label().apply(release) == (release.rows_in, ["clusters.parquet"])
    table = pq.read_table(io.BytesIO(store.read(f"clusters/{version}/clusters.parquet")))
    return {row["cluster_id"]: row for row in table.to_pylist()}


def edit(store: LocalStore, version: str, cluster_id: str, texts: Sequence[str] = SENTENCES, by: str = "anna") -> None:
    tag = captions.read(store, version)[cluster_id].tag
    captions.edit(store, version, cluster_id, texts, reviewed=True, by=by, tag=tag)


@pytest.fixture
def labelled(store: LocalStore) -> LocalStore:
    fit(store, "v0001", pose_0001=OUT, pose_0002=UP)
    label(store, "v0001")
    return store


def test_every_cluster_has_five_or_more_captions_in_both_files(labelled: LocalStore) -> None:
    table, entries = label(labelled, "v0001"), captions.read(labelled, "v0001")
    assert list(table) == list(entries) == ["face-0001", "head-0001", "pose-0001", "pose-0002"]
    for cluster_id, row in table.items():
        assert row["captions"] == list(entries[cluster_id].captions) and len(set(row["captions"])) >= 5
        assert row["claims"] == [list(claims) for claims in entries[cluster_id].claims]
        assert row["reviewed"] is False and row["kind"] == cluster_id.split("-")[0]


def test_every_set_of_facts_has_captions_that_state_it_the_first_set_first(labelled: LocalStore) -> None:
    row = label(labelled, "v0001")["pose-0001"]
    assert list(dict.fromkeys(map(tuple, row["claims"]))) == [fact_set.claims for fact_set in OUT]
    for fact_set in OUT:
        said = [
            text for text, claims in zip(row["captions"], row["claims"], strict=True) if claims == [*fact_set.claims]
        ]
        assert len(said) >= 2 and set(said) <= set(phrases.sentences(fact_set.facts))


def test_a_cluster_whose_members_share_nothing_has_no_captions_and_says_so(store: LocalStore) -> None:
    fit(store, "v0001", pose_0001=())
    assert label(store, "v0001")["pose-0001"]["captions"] == []
    assert captions.read(store, "v0001")["pose-0001"].note.startswith("members have nothing in common")
    edit(store, "v0001", "pose-0001")
    assert label(store, "v0001")["pose-0001"]["captions"] == list(SENTENCES)


def test_however_many_sets_there_are_a_cluster_has_fifty_captions_at_most(store: LocalStore) -> None:
    values = [(base, lean) for base in VALUES["pose"]["base"][:8] for lean in ("upright", "forward")]
    fit(store, "v0001", pose_0001=tuple(FactSet((f"base={base}", f"lean={lean}"), 0.1) for base, lean in values))
    row = label(store, "v0001")["pose-0001"]
    assert 45 <= len(row["captions"]) <= 50 and len(set(map(tuple, row["claims"]))) == len(values) == MOST


def test_a_claim_that_nobody_knows_is_refused(labelled: LocalStore) -> None:
    captions.put(labelled, "v0001", {"pose-0001": Entry(SENTENCES, claims=(("mood=happy",),) * 5)})
    with pytest.raises(LaionPeopleError, match=r"captions.yaml: pose-0001: 'mood=happy' is no claim"):
        label(labelled, "v0001")


def test_an_edit_survives_and_goes_into_the_table(labelled: LocalStore) -> None:
    edit(labelled, "v0001", "pose-0001")
    text = labelled.read("clusters/v0001/captions.yaml")
    row = label(labelled, "v0001")["pose-0001"]
    assert (row["captions"], row["reviewed"]) == (list(SENTENCES), True)
    assert labelled.read("clusters/v0001/captions.yaml") == text


def test_a_cluster_that_is_deleted_from_the_file_is_captioned_anew_and_the_rest_stays(labelled: LocalStore) -> None:
    path = "clusters/v0001/captions.yaml"
    made = captions.read(labelled, "v0001")["pose-0001"]
    edit(labelled, "v0001", "pose-0001")
    text = labelled.read(path).decode()
    labelled.write(path, (text[: text.index("pose-0001:")] + text[text.index("pose-0002:") :] + "# mine\n").encode())
    shortened = labelled.read(path).decode()
    label(labelled, "v0001")
    assert captions.read(labelled, "v0001")["pose-0001"] == made
    assert labelled.read(path).decode().startswith(shortened)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["A tall person.", *SENTENCES], r"pose-0001: 'A tall person.' has the word 'tall' \(body shape\)"),
        (SENTENCES[:4], "pose-0001: there should be 5 or more captions"),
    ],
)
def test_captions_that_somebody_has_spoilt_by_hand_are_refused(
    labelled: LocalStore, texts: Sequence[str], message: str
) -> None:
    captions.put(labelled, "v0001", {"pose-0001": Entry(tuple(texts))})
    with pytest.raises(LaionPeopleError, match=f"^clusters/v0001/captions.yaml: {message}"):
        label(labelled, "v0001")


def test_a_cluster_that_the_version_lacks_is_refused(labelled: LocalStore) -> None:
    captions.put(labelled, "v0001", {"pose-9999": Entry(SENTENCES)})
    with pytest.raises(LaionPeopleError, match=r"captions.yaml: there is no cluster pose-9999 in this version"):
        label(labelled, "v0001")


def test_a_new_fit_takes_over_what_people_have_said_of_clusters_that_live_on(labelled: LocalStore) -> None:
    edit(labelled, "v0001", "pose-0001")
    before = captions.read(labelled, "v0001")
    fit(labelled, "v0002", pose_0001=OUT, pose_0003=UP)
    row = label(labelled, "v0002")["pose-0001"]
    assert (row["captions"], row["reviewed"]) == (list(SENTENCES), True)
    after = captions.read(labelled, "v0002")
    assert after["pose-0001"] == replace(before["pose-0001"], note="from v0001")
    assert (after["pose-0001"].by, after["pose-0001"].at) == ("anna", before["pose-0001"].at)
    assert after["pose-0003"].by == "" and after["pose-0003"].claims == before["pose-0002"].claims  # made
    assert captions.read(labelled, "v0001") == before


def test_captions_of_a_cluster_whose_members_share_other_things_now_are_to_be_reviewed_again(
    labelled: LocalStore,
) -> None:
    edit(labelled, "v0001", "pose-0001")
    fit(labelled, "v0002", pose_0001=DOWN)
    entry = replace(captions.read(labelled, "v0001")["pose-0001"], reviewed=False)
    for version in ("v0002", "v0003"):  # still known, though nobody has looked at it
        fit(labelled, version, pose_0001=DOWN)
        assert label(labelled, version)["pose-0001"]["reviewed"] is False
        note = "from v0001, where its members had other things in common"
        assert captions.read(labelled, version)["pose-0001"] == replace(entry, note=note)
    edit(labelled, "v0003", "pose-0001")
    assert captions.read(labelled, "v0003")["pose-0001"].note == ""


def test_of_several_earlier_versions_the_newest_with_an_edit_counts(labelled: LocalStore) -> None:
    edit(labelled, "v0001", "pose-0001", by="anna")
    for version, cluster_id in (("v0002", "pose-0002"), ("v0003", "pose-0001")):
        fit(labelled, version, pose_0001=OUT, pose_0002=UP)
        label(labelled, version)
        edit(labelled, version, cluster_id, by=f"{version}'s")
    fit(labelled, "v0004", pose_0001=OUT, pose_0002=UP)
    label(labelled, "v0004")
    entries = captions.read(labelled, "v0004")
    assert (entries["pose-0001"].by, entries["pose-0002"].by) == ("v0003's", "v0002's")


def test_captions_that_nobody_has_touched_are_made_anew_in_a_new_version_with_other_wordings(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(store, "v0001", pose_0001=OUT, pose_0002=UP)
    with monkeypatch.context() as earlier:
        earlier.setattr(phrases, "captions", lambda _, most, seed: [f"Earlier {seed}: {i}." for i in range(most)])
        label(store, "v0001")
    edit(store, "v0001", "pose-0002")
    fit(store, "v0002", pose_0001=OUT, pose_0002=UP)
    rows = label(store, "v0002")
    assert not any(text.startswith("Earlier") for text in rows["pose-0001"]["captions"])
    assert rows["pose-0002"]["captions"] == list(SENTENCES)


def test_an_edit_by_hand_without_a_name_is_taken_over_too(labelled: LocalStore) -> None:
    captions.put(labelled, "v0001", {"pose-0001": Entry(SENTENCES), "pose-0002": Entry(SENTENCES)})
    fit(labelled, "v0002", pose_0001=OUT)
    assert label(labelled, "v0002")["pose-0001"]["captions"] == list(SENTENCES)


def test_claims_that_somebody_has_changed_by_hand_are_taken_over_too(labelled: LocalStore) -> None:
    made = captions.read(labelled, "v0001")["pose-0001"]
    claims = (("base=on_feet",), *made.claims[1:])
    captions.put(labelled, "v0001", {"pose-0001": replace(made, claims=claims)})
    fit(labelled, "v0002", pose_0001=OUT)
    assert label(labelled, "v0002")["pose-0001"]["claims"] == [list(stated) for stated in claims]


def test_another_captions_file_replaces_what_was_made_and_not_what_people_have_said(labelled: LocalStore) -> None:
    others = [f"Somebody holds pose number {i}." for i in range(5)]
    given = {c: {"reviewed": False, "captions": others} for c in ("pose-0001", "pose-0002")}
    labelled.write("captions/other.yaml", yaml.safe_dump(given).encode())
    edit(labelled, "v0001", "pose-0001")
    for _ in range(2):
        table = label(labelled, "v0001", "captions/other.yaml")
        assert table["pose-0001"]["captions"] == list(SENTENCES)
        assert table["pose-0002"]["captions"] == others
    assert captions.read(labelled, "v0001")["pose-0002"].note == "from captions/other.yaml"
    assert label(labelled, "v0001")["pose-0002"]["captions"] == others


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"^captions/other.yaml is missing: the setting captions should name"),
        ("pose-0009: {reviewed: true, captions: [a]}", r"^captions/other.yaml: there is no cluster pose-0009"),
        (
            "pose-0001: {reviewed: true, captions: [a]}",
            r"^captions/other.yaml: pose-0001: there should be 5 or more captions",
        ),
    ],
)
def test_another_captions_file_that_cannot_be_used_is_refused(
    labelled: LocalStore, text: str | None, message: str
) -> None:
    before = captions.read(labelled, "v0001")
    if text:
        labelled.write("captions/other.yaml", text.encode())
    with pytest.raises(LaionPeopleError, match=message):
        label(labelled, "v0001", "captions/other.yaml")
    assert captions.read(labelled, "v0001") == before


def test_an_edit_makes_subset_c_again_and_nothing_else_and_clip_sees_no_image(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    partition, stage = "laion2B-en/00042", ("assign", "compose", "embed", "caption")
    image_shard(store, partition, 0)
    runner = Runner(store, Settings(), FakeModels(), STEPS)
    for step in ("detect", "pose", "mesh"):
        runner.run(step, partition)
    for step in ("cluster", "label"):
        runner.run_release(step, [partition])
    before = {step: runner.run(step, partition) for step in stage}
    cluster_id = next(row["cluster_id"] for row in subset_c(store))
    edit(store, "v0001", cluster_id)
    monkeypatch.delattr(FakeClip, "encode_images")
    later = Runner(store, Settings(), FakeModels(), STEPS)
    later.run_release("label", [partition])
    after = {step: later.run(step, partition) for step in stage}
    assert {step for step in stage if after[step].run_id != before[step].run_id} == {"caption"}
    assert {row["caption"] for row in subset_c(store) if row["cluster_id"] == cluster_id} <= set(SENTENCES)


def subset_c(store: LocalStore) -> list[dict[str, Any]]:
    return [row for path in store.list("subset_c") for row in pq.read_table(store.root / path).to_pylist()]
