"""MediaPipe's selfie segmenter: how much of each pixel is a person.

https://ai.google.dev/edge/mediapipe/solutions/vision/image_segmenter#selfie-model. It sees 256 x 256 pixels and is made
for people near a camera. A guided filter (He et al., https://doi.org/10.1109/TPAMI.2012.213) moves its edges to those
of the image.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from mediapipe.tasks.python import BaseOptions, vision

from include.models.mediapipe_tasks import OneThread, as_mediapipe, hidden
from include.models.regions import square
from include.models.runtime import Pool

SIDE = 256  # pixels: the network's input
RADIUS, EPSILON = 3, 1e-3  # of the guided filter: cells of the mask; variance of an image without edges (0 to 1)
DOUBT = 0.3, 0.7  # of the mask: above, a person is solid; between, at the edge only, partly transparent


class ImageSegmenter(OneThread, vision.ImageSegmenter):
    pass


class SelfieSegmenter:
    """Mattes of people who fill an image."""

    def __init__(self, weights: Path, *, threads: int | None = None) -> None:
        """threads: default all cores."""
        self._weights, self._pool, self._local = weights, Pool(threads), threading.local()

    def mattes(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        return self._pool.map(self._matte, images)

    def _matte(self, image: np.ndarray) -> np.ndarray:
        if not hasattr(self._local, "segmenter"):  # MediaPipe's tasks can't be shared between threads
            self._local.segmenter = self._open()
        height, width = image.shape[:2]
        side = max(height, width)
        region = square(image, np.array([width / 2, height / 2]), side, SIDE)
        mask = self._local.segmenter.segment(as_mediapipe(region.pixels)).confidence_masks[0].numpy_view()
        whole = cv2.resize(np.array(mask), (side, side), interpolation=cv2.INTER_LINEAR)
        top, left = (side - height) // 2, (side - width) // 2
        coarse = _without_doubt(whole[top : top + height, left : left + width])
        radius = max(1, round(RADIUS * side / SIDE))
        fine = cv2.ximgproc.guidedFilter(image.astype(np.float32) / 255, coarse, radius, EPSILON)
        return _without_doubt(fine)

    def _open(self) -> ImageSegmenter:
        with hidden():
            segmenter = ImageSegmenter.create_from_options(
                vision.ImageSegmenterOptions(
                    base_options=BaseOptions(model_asset_path=str(self._weights)), output_confidence_masks=True
                )
            )
            segmenter.segment(as_mediapipe(np.zeros((SIDE, SIDE, 3), np.uint8)))
        return segmenter


def _without_doubt(mask: np.ndarray) -> np.ndarray:
    low, high = DOUBT
    return np.clip((mask - low) / (high - low), 0, 1)
