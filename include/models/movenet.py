"""MoveNet MultiPose Lightning: boxes and COCO-17 keypoints of up to six people in one pass.

Model card: https://storage.googleapis.com/movenet/MoveNet.MultiPose%20Model%20Card.pdf. Six is a limit of the graph,
and small people are missed well before: so `MoveNetDetector` also asks NanoDet, and takes a second, closer look at
people whom only one of them saw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from include.models import Detections, Poses
from include.models.blazepose import BlazePose
from include.models.nanodet import NanoDet
from include.models.regions import clip_boxes, iou, letterbox, square, suppress
from include.models.runtime import Pool, open_session

STRIDE = 32  # width and height of the input are multiples of this (model card)
CROP_SIDE = 256  # what the model was made for (model card)
SECOND_LOOK_PADDING = 1.5  # some surroundings, for NanoDet's boxes of small people are often too small


@dataclass(frozen=True, slots=True)
class People:
    """People in one image: boxes [n, 4] and keypoints [n, 17, 3] (x, y, score) in pixels of the image, scores [n]."""

    boxes: np.ndarray
    scores: np.ndarray
    keypoints: np.ndarray


class MultiPose:
    """The network: six candidates an image, best first, however unlikely."""

    def __init__(self, path: Path) -> None:
        self._session = open_session(path)
        self._input = self._session.get_inputs()[0].name

    def people(self, image: np.ndarray, side: int) -> People:
        """Looks at the image with its longer side scaled to ``side``."""
        region = letterbox(image, side, STRIDE)
        height, width = region.pixels.shape[:2]
        # Per person 17 x (y, x, score), then ymin, xmin, ymax, xmax, score; coordinates as fractions of the input.
        rows = self._session.run(None, {self._input: region.pixels[None].astype(np.int32)})[0][0]
        keypoints = rows[:, :51].reshape(-1, 17, 3)[:, :, [1, 0, 2]]
        keypoints[:, :, :2] = region.points_to_image(keypoints[:, :, :2] * [width, height])
        boxes = region.boxes_to_image(rows[:, [52, 51, 54, 53]] * [width, height, width, height])
        return People(boxes, rows[:, 55], keypoints)

    def closest(self, image: np.ndarray, box: np.ndarray, padding: float) -> tuple[People, float]:
        """Looks at a square around the box; gives the person (as People of one) who fits the box best, and the IoU."""
        region = square(image, (box[:2] + box[2:]) / 2, max(box[2:] - box[:2]) * padding, CROP_SIDE)
        people = self.people(region.pixels, CROP_SIDE)
        boxes = clip_boxes(region.boxes_to_image(people.boxes), image)
        overlaps = iou(box[None], boxes)[0]
        best = int(overlaps.argmax())
        keypoints = people.keypoints[best : best + 1]
        keypoints[:, :, :2] = region.points_to_image(keypoints[:, :, :2])
        return People(boxes[best : best + 1], people.scores[best : best + 1], keypoints), float(overlaps[best])


class MoveNetDetector:
    """Person boxes from MultiPose and, for crowds and small people, from NanoDet where MultiPose confirms them.

    A candidate whom MultiPose is not sure of, or whom only NanoDet saw, gets a second look at a square around the box.
    On photographs that tells people (scores of 0.15 and more) from chairs, bears and bags (below 0.03) well.
    """

    def __init__(
        self,
        multipose: Path,
        nanodet: Path,
        *,
        side: int,
        score: float,
        candidate_score: float,
        nanodet_score: float,
        second_look_score: float,
        second_look_iou: float,
        overlap: float,
        min_side: float,
        threads: int | None = None,
    ) -> None:
        """Sets the thresholds.

        side: longer side of the image as MultiPose sees it first; score: MultiPose score of a person who needs no
        second look; candidate_score and nanodet_score: MultiPose and NanoDet scores worth a second look;
        second_look_score, second_look_iou: what it must give, the IoU being with the candidate's box; overlap: IoU
        from which two boxes are one person; min_side: shortest side of a box in pixels; threads: default all cores.
        """
        self._multipose, self._nanodet, self._pool = MultiPose(multipose), NanoDet(nanodet), Pool(threads)
        self._side, self._score, self._candidate_score = side, score, candidate_score
        self._nanodet_score, self._overlap, self._min_side = nanodet_score, overlap, min_side
        self._second_look_score, self._second_look_iou = second_look_score, second_look_iou

    def detect(self, images: Sequence[np.ndarray]) -> list[Detections]:
        return self._pool.map(self._detect, images)

    def _detect(self, image: np.ndarray) -> Detections:
        people = self._multipose.people(image, self._side)
        boxes, scores = clip_boxes(people.boxes, image), people.scores
        sure = scores >= self._score
        others, _ = self._nanodet.people(image, self._nanodet_score)
        candidates = np.concatenate([boxes[~sure & (scores >= self._candidate_score)], clip_boxes(others, image)])
        boxes, scores = boxes[sure], scores[sure]
        for candidate in candidates:
            if iou(candidate[None], boxes).max(initial=0) >= self._overlap:
                continue
            person, overlap = self._multipose.closest(image, candidate, SECOND_LOOK_PADDING)
            if person.scores[0] >= self._second_look_score and overlap >= self._second_look_iou:
                boxes = np.concatenate([boxes, person.boxes])
                scores = np.concatenate([scores, person.scores])
        large = (boxes[:, 2:] - boxes[:, :2]).min(1, initial=np.inf) >= self._min_side
        boxes, scores = boxes[large], scores[large]
        kept = suppress(boxes, scores, self._overlap)
        return Detections(boxes[kept], scores[kept].astype(np.float32))


class MoveNetPose:
    """COCO-17 keypoints from MultiPose on a square around each box, 3D landmarks from BlazePose."""

    def __init__(self, multipose: Path, blazepose: Path, *, padding: float, threads: int | None = None) -> None:
        """padding: side of the square looked at, in long sides of the box; threads: default all cores."""
        self._multipose, self._blazepose, self._pool = MultiPose(multipose), BlazePose(blazepose), Pool(threads)
        self._padding = padding

    def estimate(self, images: Sequence[np.ndarray], boxes: Sequence[np.ndarray]) -> list[Poses]:
        people = [(image, box) for image, its_boxes in zip(images, boxes, strict=True) for box in its_boxes]
        estimates = iter(self._pool.map(self._estimate, *zip(*people, strict=True)) if people else [])
        return [_stack([next(estimates) for _ in its_boxes]) for its_boxes in boxes]

    def _estimate(self, image: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        person, _ = self._multipose.closest(image, box, self._padding)
        return person.keypoints[0], self._blazepose.world(image, person.keypoints[0])


def _stack(people: list[tuple[np.ndarray, np.ndarray]]) -> Poses:
    keypoints = np.array([keypoints for keypoints, _ in people], np.float32).reshape(-1, 17, 3)
    world = np.array([world for _, world in people], np.float32).reshape(-1, 33, 3)
    return Poses(keypoints, keypoints[:, :, 2].mean(1), world)
