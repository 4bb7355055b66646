"""BlazePose GHUM full: 33 landmarks of one person in metres, from a square around the hips.

Model card: https://storage.googleapis.com/mediapipe-assets/Model%20Card%20BlazePose%20GHUM%203D.pdf
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from include.models.regions import square
from include.models.runtime import open_session

SIDE = 256
PADDING = 1.25  # size of the square, in sizes of the circle around the body, as in MediaPipe's pose graph
MIN_KEYPOINT_SCORE = 0.15
MIN_PRESENCE = 0.5  # MediaPipe's own default
LANDMARKS = 33  # the network gives six more, auxiliary ones
TORSOS_PER_RADIUS = 1.75  # from hips to toes, in torso lengths: a hidden leg doesn't shrink the square
SHOULDERS, HIPS = [5, 6], [11, 12]  # in COCO-17


class BlazePose:
    """The network; safe to use from many threads."""

    def __init__(self, path: Path) -> None:
        self._session = open_session(path)
        self._input = self._session.get_inputs()[0].name

    def world(self, image: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
        """World landmarks float32 [33, 3] of the person with these COCO-17 keypoints [17, 3]: metres around the middle
        of the hips, x to the image's right, y down, z away from the camera; NaN where the network sees no body.
        """
        shoulders, hips = keypoints[SHOULDERS, :2].mean(0), keypoints[HIPS, :2].mean(0)
        torso = shoulders - hips
        seen = keypoints[keypoints[:, 2] >= MIN_KEYPOINT_SCORE, :2]
        reach = np.linalg.norm(seen - hips, axis=1).max(initial=1)
        radius = max(reach, TORSOS_PER_RADIUS * math.hypot(*torso))
        angle = math.atan2(torso[0], -torso[1])  # clockwise on the screen; the network wants the body upright
        region = square(image, hips, 2 * PADDING * radius, SIDE, angle)
        outputs = self._session.run(None, {self._input: region.pixels[None].astype(np.float32) / 255})
        _, presence, world = (output.ravel() for output in outputs)
        if presence[0] < MIN_PRESENCE:
            return np.full((LANDMARKS, 3), np.nan, np.float32)
        turned = world.reshape(-1, 3)[:LANDMARKS].copy()
        rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        turned[:, :2] = turned[:, :2] @ rotation.T
        return turned.astype(np.float32)
