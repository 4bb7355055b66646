"""NanoDet-m 416: boxes of COCO's 80 kinds of objects, of which people and animals are used.

Preprocessing and decoding follow https://github.com/RangiLyu/nanodet (config nanodet-m-416.yml, nanodet_head.py): each
side of a box is a distance from a grid point, given as a distribution over 0 to 10 strides.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from include.models.regions import iou, letterbox, suppress
from include.models.runtime import open_session

SIDE = 416
STRIDES = (8, 16, 32)
MEAN = np.array([123.675, 116.28, 103.53], np.float32)  # of red, green, blue; the network takes BGR
SCALE = 1 / np.array([58.395, 57.12, 57.375], np.float32)
DISTANCES = np.arange(11, dtype=np.float32)
CLASSES = 80  # of COCO
PERSON = 0  # index of the class
ANIMALS = slice(14, 24)  # bird to giraffe
LIKELY = 0.1  # lower scores decide nothing
SAME = 0.5  # IoU from which NanoDet's object is the one in a box
OVERLAP = 0.6  # of non-maximum suppression, as in the config


@dataclass(frozen=True, slots=True)
class Objects:
    """NanoDet's raw output for an image: boxes [n, 4], many of the same thing, and scores [n, 80] by class."""

    boxes: np.ndarray
    scores: np.ndarray

    def people(self, score: float) -> tuple[np.ndarray, np.ndarray]:
        """Boxes float32 [m, 4] and scores [m] of people with at least this score, one box each."""
        likely = self.scores[:, PERSON] >= score
        boxes, scores = self.boxes[likely], self.scores[likely, PERSON]
        kept = suppress(iou(boxes, boxes) > OVERLAP, scores)
        return boxes[kept], scores[kept]

    def names(self, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores [m] for a person and for an animal in each box [m, 4]: the best of the objects that fill it.

        Animals only: bicycles, chairs and screens also fill the boxes of people who use them or appear on them.
        """
        there = iou(boxes, self.boxes) >= SAME
        best = np.where(there[:, :, None], self.scores[None], 0).max(1, initial=0)
        return best[:, PERSON], best[:, ANIMALS].max(1)


class NanoDet:
    """The network; safe to use from many threads."""

    def __init__(self, path: Path) -> None:
        self._session = open_session(path)
        self._input = self._session.get_inputs()[0].name

    def objects(self, image: np.ndarray) -> Objects:
        """Every possible object, person or not, in pixels of the image (not clipped)."""
        region = letterbox(image, SIDE, SIDE)
        tensor = ((region.pixels - MEAN) * SCALE)[:, :, ::-1].transpose(2, 0, 1)
        by_shape = {output.shape[1:]: output[0] for output in self._session.run(None, {self._input: tensor[None]})}
        boxes, scores = [], []
        for stride in STRIDES:
            cells = SIDE // stride
            points = cells * cells
            likely = np.flatnonzero(by_shape[points, CLASSES].max(1) >= LIKELY)
            weights = np.exp(by_shape[points, 4 * len(DISTANCES)][likely].reshape(-1, 4, len(DISTANCES)))
            left, top, right, bottom = (weights @ DISTANCES / weights.sum(-1)).T * stride
            row, column = np.divmod(likely, cells)
            x, y = (column + 0.5) * stride, (row + 0.5) * stride
            boxes.append(np.stack([x - left, y - top, x + right, y + bottom], axis=1))
            scores.append(by_shape[points, CLASSES][likely])
        return Objects(region.boxes_to_image(np.concatenate(boxes)).astype(np.float32), np.concatenate(scores))
