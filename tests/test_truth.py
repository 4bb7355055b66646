"""`make truth`: compares claims with labels of people, and prints a table."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from laion_people.errors import UsageError
from laion_people.language import facts
from tools import truth
from tools.truth_labels import ARMS, OTHERS, holds

LABEL = {
    "base": "standing|walking",
    "lean": "?",
    "l_upper": "raised",
    "l_dir": "side|front",
    "l_elbow": "straight",
    "l_hand": "above_head",
    "r_upper": "down",
    "r_dir": "none",
    "r_elbow": "bent",
    "r_hand": "?",
    "mouth": "smile",
    "eyes": "covered",
    "turn": "slight_left",
}


@pytest.mark.parametrize(
    ("claim", "is_true"),
    [
        ("left_arm=overhead", True),
        ("left_arm=raised", True),
        ("left_arm=bent", False),
        ("right_arm=bent", True),
        ("right_arm=on_hip", None),  # the hand is not seen
        ("right_arm=out", False),
        ("one_arm=overhead", True),
        ("both_arms=overhead", None),
        ("both_arms=bent", False),
        ("arms=overhead+bent", True),
        ("arms=bent+overhead", True),
        ("arms=down+bent", False),
        ("base=walking", True),
        ("base=on_feet", True),
        ("base=sitting", False),
        ("lean=upright", None),
        ("legs_apart=yes", None),  # the label has no such field
        ("mouth=smiling", True),
        ("mouth=smiling_open", False),
        ("eyes=open", None),
        ("turn=camera", True),  # a slight turn may be called this
        ("turn=right", False),
    ],
)
def test_a_claim_is_true_false_or_not_to_be_told(claim: str, is_true: bool | None) -> None:
    assert holds(LABEL, claim) is is_true


def test_every_fact_that_the_code_can_state_has_a_rule() -> None:
    for names in facts.VALUES.values():
        for name, values in names.items():
            ruled = ARMS if name.endswith("_arm") else OTHERS[name]
            assert set(values) <= set(ruled), name


def test_an_unknown_word_is_no_silent_miss() -> None:
    with pytest.raises(KeyError):
        holds(LABEL, "base=floating")


def test_intervals_are_wilsons() -> None:
    assert truth.rate(83, 100) == "83 of 100, 83 % [74-89]"
    assert truth.rate(0, 0) == "-"


def write(store: Path, table: str, rows: list[dict[str, Any]]) -> None:
    file = store / table / "00000.parquet"
    file.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), file)


def test_facts_captions_and_clusters_are_held_against_the_people_they_are_of(tmp_path: Path) -> None:
    """Two labelled people, one of them detected, and somebody without label."""
    people = [
        {"person_id": "a", "sample_id": 0, "bbox": [10.0, 10.0, 50.0, 90.0]},
        {"person_id": "b", "sample_id": 0, "bbox": [60.0, 10.0, 90.0, 90.0]},
    ]
    write(tmp_path, "people/truth/00000", people)
    facts = [("base", "walking"), ("left_arm", "bent"), ("lean", "forward")]
    fact_list = [{"name": name, "value": value, "confidence": 0.9} for name, value in facts]
    write(tmp_path, "facts/truth/00000", [{"person_id": p, "facts": fact_list} for p in "ab"])
    captions = [
        {
            "person_id": "a",
            "kind": "pose",
            "caption": "Someone walks.",
            "claims": ["base=walking", "left_arm=overhead"],
        },
        {"person_id": "a", "kind": "face", "caption": "A face.", "claims": []},
        {"person_id": "b", "kind": "pose", "caption": "Someone walks.", "claims": ["base=walking"]},
    ]
    write(tmp_path, "subset_c/v0001/truth/00000", captions)
    write(tmp_path, "clusters/v0001", [{"cluster_id": "pose-1", "claims": [[], ["base=sitting"], ["base=walking"]]}])
    member = {"person_id": "a", "pose_cluster": "pose-1", "face_cluster": None, "head_cluster": None}
    write(tmp_path, "assignments/v0001/truth/00000", [member])
    labels = [
        LABEL | {"photo": "0007", "bbox": [11, 11, 50, 90]},
        LABEL | {"photo": 7, "bbox": [200, 10, 250, 90]},
    ]

    measured = truth.compare(labels, {0: "7"}, tmp_path, captions=True)

    assert (measured.labelled, measured.people) == (2, 1)
    assert {key: dict(tally.counts) for key, tally in measured.facts.items() if key in truth.KINDS} == {
        "pose": {True: 1, False: 1, None: 1}
    }
    assert str(measured.captions["pose"]) == truth.rate(2, 2)
    assert measured.claims == {"pose": [2], "face": [0], "head": []}
    assert measured.fitting["pose"].counts == Counter({False: 1})
    assert measured.sentences == Counter({"Someone walks.": 2, "A face.": 1})
    assert measured.false == ["photo 0007: left_arm=bent"]
    printed = truth.table([measured, measured])
    assert truth.rate(1, 2) in printed and "face captions that say nothing" in printed


def test_a_folder_without_labels_or_boxes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no labels"):
        truth.read_labels(tmp_path)
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "1.jpg")
    (tmp_path / "labels.jsonl").write_text(json.dumps({"photo": 1, "box": "two", "bbox": [0, 0, 8, 8]}) + "\n")
    assert truth.read_labels(tmp_path) == []
    (tmp_path / "labels.jsonl").write_text(json.dumps({"photo": 1}) + "\n")
    with pytest.raises(UsageError, match="bbox"):
        truth.read_labels(tmp_path)
