"""Training examples of the sample's CLIP: the fit of texts to pictures."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tools import clip_examples as examples

LABEL = {
    "shown": "whole",
    "view": "front|three_quarter",
    "base": "standing",
    "legs_apart": "?",
    "lean": "upright",
    "l_upper": "raised",
    "l_dir": "side",
    "l_elbow": "straight",
    "l_hand": "above_head",
    "r_upper": "down",
    "r_dir": "none",
    "r_elbow": "straight",
    "r_hand": "at_side",
    "mouth": "smile",
    "brows": "?",
    "eyes": "open",
    "turn": "slight_left",
    "nod": "level",
    "tilt": "right",
}


def view(tmp_path: Any, kind: str) -> examples.View:
    Image.new("RGBA", (40, 60), (200, 100, 50, 255)).save(tmp_path / "0000-0.png")
    known = {
        "file": "0000-0.png",
        "kind": kind,
        "identity": "ada",
        "gender": "female",
        "pose": "wave",
        "head_direction": "left",
        "label": LABEL,
        "frame": "whole",
        "face": [10, 10, 20, 30],
    }
    return examples._view(tmp_path, known)


def relation(to: examples.View, *claims: str) -> int:
    return int(examples.relations([to], [examples.Text("", claims)])[0, 0])


@pytest.mark.parametrize(
    ("kind", "claims", "stands"),
    [
        ("body", ("base=standing", "left_arm=overhead"), examples.FITS),
        ("body", ("base=on_feet",), examples.FITS),
        ("body", ("base=standing", "right_arm=overhead"), examples.DIFFERS),
        ("body", ("base=standing", "legs_apart=yes"), examples.UNKNOWN),
        ("body", ("legs_apart=yes", "base=sitting"), examples.DIFFERS),  # partly false is false
        ("body", ("view=side",), examples.UNKNOWN),  # a label allows it, but it is not the best word
        ("body", ("mouth=smiling",), examples.UNKNOWN),  # too small to be seen
        ("head", ("mouth=smiling", "eyes=open"), examples.FITS),
        ("head", ("mouth=open",), examples.DIFFERS),
        ("head", ("tilt=right", "turn=slight_left"), examples.FITS),
        ("head", ("base=standing",), examples.UNKNOWN),
    ],
)
def test_a_text_fits_what_its_claims_are_true_of(
    tmp_path: Any, kind: str, claims: tuple[str, ...], stands: int
) -> None:
    assert relation(view(tmp_path, kind), *claims) == stands


def test_sides_change_places_in_the_mirror(tmp_path: Any) -> None:
    body, head = (examples.mirrored(view(tmp_path, kind)) for kind in ("body", "head"))
    assert relation(body, "right_arm=overhead", "left_arm=down") == examples.FITS
    assert relation(body, "left_arm=overhead") == examples.DIFFERS
    assert relation(head, "tilt=left", "turn=slight_right") == examples.FITS
    assert head.box == (20, 10, 30, 30)
    assert np.array_equal(examples.mirrored(head).held, view(tmp_path, "head").held)


@pytest.mark.parametrize(("kind", "facts_kind"), [("body", "pose"), ("head", "face"), ("head", "head")])
def test_foils_are_false_and_speak_of_the_same(tmp_path: Any, kind: str, facts_kind: str) -> None:
    rng, one = random.Random(0), view(tmp_path, kind)
    for _ in range(50):
        facts = examples.true_facts(one, facts_kind, rng)
        foil = examples.false_facts(one, facts_kind, facts, rng)
        true, false = examples.claims_texts([facts, foil], rng)
        assert examples.relations([one], [true, false]).tolist() == [[examples.FITS, examples.DIFFERS]]
        assert set(facts) <= set(foil) or len(foil) == 1
        assert true.text and false.text


def test_unrelated_captions_fit_nobody(tmp_path: Any) -> None:
    rng = random.Random(0)
    texts = [examples.foreign_text(rng, ["stone", "river"]) for _ in range(20)]
    assert set(examples.relations([view(tmp_path, "body")], texts).ravel()) == {examples.DIFFERS}


@pytest.mark.parametrize("kind", ["body", "head"])
def test_crops_are_padded_as_the_pipeline_pads(tmp_path: Any, kind: str) -> None:
    painter = examples.Painter([], 96)
    crop = painter.paint(view(tmp_path, kind), random.Random(0), plain=True)
    width, height = (40, 60) if kind == "body" else (10, 20)
    assert painter.paint(view(tmp_path, kind), random.Random(0)).size == (96, 96)
    assert crop.width / crop.height == pytest.approx(width / height, rel=0.05)
