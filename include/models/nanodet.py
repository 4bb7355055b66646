"""NanoDet-m 416: COCO-80 object boxes, of which only people are used.

Preprocessing and decoding follow https://github.com/RangiLyu/nanodet (config nanodet-m-416.yml, nanodet_head.py): each
side of a box is a distance from a grid point, given as a distribution over 0 to 10 strides.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from include.models.regions import letterbox, suppress
from include.models.runtime import open_session

SIDE = 416
STRIDES = (8, 16, 32)
MEAN = np.array([123.675, 116.28, 103.53], np.float32)  # of red, green, blue; the network takes BGR
SCALE = 1 / np.array([58.395, 57.12, 57.375], np.float32)
DISTANCES = np.arange(11, dtype=np.float32)
PERSON = 0  # index of the class in COCO-80
OVERLAP = 0.6  # of non-maximum suppression, as in the config


class NanoDet:
    """The network; safe to use from many threads."""

    def __init__(self, path: Path) -> None:
        self._session = open_session(path)
        self._input = self._session.get_inputs()[0].name

    def people(self, image: np.ndarray, score: float) -> tuple[np.ndarray, np.ndarray]:
        """Boxes float32 [n, 4] in pixels of the image (not clipped) of at least this score, and scores float32 [n]."""
        region = letterbox(image, SIDE, SIDE)
        tensor = ((region.pixels - MEAN) * SCALE)[:, :, ::-1].transpose(2, 0, 1)
        by_shape = {output.shape[1:]: output[0] for output in self._session.run(None, {self._input: tensor[None]})}
        boxes, scores = [], []
        for stride in STRIDES:
            cells = SIDE // stride
            points = cells * cells
            likely = np.flatnonzero(by_shape[points, 80][:, PERSON] >= score)
            weights = np.exp(by_shape[points, 4 * len(DISTANCES)][likely].reshape(-1, 4, len(DISTANCES)))
            left, top, right, bottom = (weights @ DISTANCES / weights.sum(-1)).T * stride
            row, column = np.divmod(likely, cells)
            x, y = (column + 0.5) * stride, (row + 0.5) * stride
            boxes.append(np.stack([x - left, y - top, x + right, y + bottom], axis=1))
            scores.append(by_shape[points, 80][likely, PERSON])
        all_boxes = region.boxes_to_image(np.concatenate(boxes)).astype(np.float32)
        all_scores = np.concatenate(scores)
        kept = suppress(all_boxes, all_scores, OVERLAP)
        return all_boxes[kept], all_scores[kept]
