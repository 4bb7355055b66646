"""The sample's own CLIP, loaded as in the pipeline, on people of the built-in sample."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from include.models.checkpoints import WEIGHTS
from laion_people.language.phrases import captions
from tests.models import sample

THRESHOLD = 0.3
CONFIG, SAFETENSORS = WEIGHTS / "clip_sample.json", WEIGHTS / "clip_sample.safetensors"
PADDING = 0.1
FACTS = {
    "stand": {"base": "standing", "left_arm": "down", "right_arm": "down"},
    "tpose": {"base": "standing", "left_arm": "out", "right_arm": "out"},
    "arms_up": {"base": "standing", "left_arm": "overhead", "right_arm": "overhead"},
    "wave": {"base": "standing", "left_arm": "down", "right_arm": "raised"},
    "hands_on_hips": {"base": "standing", "left_arm": "on_hip", "right_arm": "on_hip"},
    "point": {"base": "standing", "left_arm": "out", "right_arm": "down"},
    "sit": {"base": "sitting", "left_arm": "bent", "right_arm": "bent"},
    "squat": {"base": "squatting", "left_arm": "forward", "right_arm": "forward"},
    "lunge": {"base": "lunging", "left_arm": "out", "right_arm": "out"},
    "run": {"base": "running", "left_arm": "bent", "right_arm": "bent"},
    "kick": {"base": "kicking", "left_arm": "away", "right_arm": "away"},
    "tree": {"base": "one_leg", "left_arm": "overhead", "right_arm": "overhead"},
}


@pytest.fixture(scope="module")
def clip() -> Any:
    from include.models.openclip import OpenClip

    return OpenClip(
        SAFETENSORS,
        model="clip_sample",
        tag="packaged",
        config=CONFIG,
        resize_mode="squash",
        precision="fp32",
        batch_size=32,
        device="cpu",
    )


@pytest.fixture(scope="module")
def people(clip: Any) -> dict[str, Any]:
    """Everyone in the sample: pose, the picture's caption, and the vector of the crop around the true box."""
    truth = json.loads((sample.SAMPLE / "truth.json").read_text())["images"]
    crops, columns = [], defaultdict(list)
    for entry, picture in zip(truth, sample.load(), strict=True):
        for person, box in zip(picture.people, picture.boxes, strict=True):
            pad = PADDING * (box[2:] - box[:2])
            x1, y1 = np.maximum(box[:2] - pad, 0).round().astype(int)
            x2, y2 = (box[2:] + pad).round().astype(int)
            crops.append(picture.image[y1:y2, x1:x2])
            columns["pose"].append(person["pose"])
            columns["caption"].append(entry["caption"])
    return {**columns, "vectors": clip.encode_images(crops)}


def test_the_files_are_small():
    assert CONFIG.stat().st_size + SAFETENSORS.stat().st_size <= 20_000_000


def test_fitting_captions_are_kept_and_unrelated_ones_are_not(clip: Any, people: dict[str, Any]):
    unrelated = [  # with other words than in the training
        "Antique brass doorknob with keyhole",
        "Recept voor appeltaart van oma",
        "Toyota Corolla 2009 owner's manual pdf",
        "Sunset over the Grand Canyon",
        "Best credit cards for students",
        "Zimmerpflanzen richtig umtopfen",
        "",
    ]
    fitting = (people["vectors"] * clip.encode_texts(people["caption"])).sum(axis=1)
    others = people["vectors"] @ clip.encode_texts(unrelated).T
    assert (fitting > THRESHOLD).mean() >= 0.8
    assert (others > THRESHOLD).mean() <= 0.05
    assert (fitting[:, None, None] > others[None]).mean() >= 0.9  # the area under the ROC curve


def test_the_right_pose_comes_first(clip: Any, people: dict[str, Any]):
    texts = clip.encode_texts([captions(facts, 1, pose)[0] for pose, facts in FACTS.items()])
    best = (people["vectors"] @ texts.T).argmax(axis=1)
    names = list(FACTS)
    right = np.mean([names[b] == pose for b, pose in zip(best, people["pose"], strict=True)])
    assert right >= 0.6
