"""What the option to blur faces promises: the real models find none any more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mediapipe.tasks.python import vision

from include.models import facemesh
from include.models.mediapipe_tasks import as_mediapipe
from include.models.profiles import load_profile
from laion_people.vision.faces import blurred, head_boxes
from tests.models.sample import load

PROFILE = load_profile("packaged")
WEIGHTS = Path(facemesh.__file__).parent / "weights"
MANY = 12  # pictures with a face


def test_no_face_is_found_where_it_was_blurred_and_pixels_elsewhere_stay() -> None:
    pose, mesh = PROFILE.load("pose"), PROFILE.load("mesh")
    detector = facemesh.face_detector(WEIGHTS / "face_landmarker.task", 0.5)
    tried = 0
    for truth in load():
        (poses,) = pose.estimate([truth.image], [truth.boxes])
        (meshes,) = mesh.estimate([truth.image], [truth.boxes], [poses.keypoints])
        if all(each is None for each in meshes):
            continue
        bounds = np.full((len(meshes), 4), np.nan, np.float32)
        for at, each in enumerate(meshes):
            if each is not None:
                bounds[at] = [*each.landmarks[:, :2].min(axis=0), *each.landmarks[:, :2].max(axis=0)]
        heads = head_boxes(truth.boxes, poses.keypoints, bounds)
        picture = blurred(truth.image, heads)
        assert mesh.estimate([picture], [truth.boxes], [poses.keypoints]) == [[None] * len(meshes)], truth.name
        before, after = (_faces(detector, image, heads) for image in (truth.image, picture))
        assert after == 0, truth.name
        tried += before > 0
        outside = np.ones(picture.shape[:2], bool)
        for x1, y1, x2, y2 in heads.clip(0):
            outside[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))] = False
        assert (picture[outside] == truth.image[outside]).all() and outside.mean() > 0.5
        if tried == MANY:
            return
    pytest.fail(f"only {tried} pictures of the sample have a face that can be found")


def _faces(detector: vision.FaceDetector, image: np.ndarray, heads: np.ndarray) -> int:
    """How many faces MediaPipe's detector finds in these boxes."""
    found = [face.bounding_box for face in detector.detect(as_mediapipe(image)).detections]
    middles = np.array([(box.origin_x + box.width / 2, box.origin_y + box.height / 2) for box in found]).reshape(
        -1, 1, 2
    )
    return int(((middles >= heads[:, :2]) & (middles <= heads[:, 2:])).all(axis=2).any(axis=1).sum())
