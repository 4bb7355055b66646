"""MediaPipe's tasks in the thread that calls them, against MediaPipe's own classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mediapipe.tasks.python.vision.core.base_vision_task_api import BaseVisionTaskApi

from include.models import facemesh
from include.models.mediapipe_tasks import OneThread
from include.models.profiles import load_profile
from tests.models.sample import load

PROFILE = load_profile("packaged")
BUNDLE = Path(facemesh.__file__).parent / "weights" / "face_landmarker.task"


def threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def test_a_task_starts_no_threads_where_mediapipes_own_would(monkeypatch: pytest.MonkeyPatch):
    before = threads()
    tasks = [facemesh.face_detector(BUNDLE, 0.5), facemesh.face_landmarker(BUNDLE, 0.5, 2)]
    assert threads() == before
    monkeypatch.setattr(OneThread, "__init__", BaseVisionTaskApi.__init__)
    tasks.append(facemesh.face_detector(BUNDLE, 0.5))
    assert threads() > before


def test_mattes_meshes_and_faces_are_those_of_mediapipes_own_classes(monkeypatch: pytest.MonkeyPatch):
    some = load()[:8]
    images, boxes, joints = zip(*((t.image, t.boxes.astype(np.float32), t.joints) for t in some), strict=True)

    def results() -> list[np.ndarray]:
        people = [m for found in PROFILE.load("mesh").estimate(images, boxes, joints) for m in found if m is not None]
        nobody = [np.concatenate([d.boxes.ravel(), d.scores]) for d in PROFILE.load("bystanders").detect(images)]
        return [*PROFILE.load("matte").mattes(images), *nobody, *(m.landmarks for m in people)]

    found = results()
    monkeypatch.setattr(OneThread, "__init__", BaseVisionTaskApi.__init__)
    for one, other in zip(found, results(), strict=True):
        np.testing.assert_array_equal(one, other)
