"""MoveNet MultiPose Lightning: boxes and COCO-17 keypoints of up to six people in one pass.

Model card: https://storage.googleapis.com/movenet/MoveNet.MultiPose%20Model%20Card.pdf. Six is a limit of the graph,
but small people are missed even in smaller groups. Therefore `MoveNetDetector` also uses NanoDet, and takes a second,
closer look at people whom only one of them saw. MultiPose often gives a strip for a portrait, and a person for an
animal: NanoDet corrects this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from include.models import Detections, Poses
from include.models.blazepose import BlazePose
from include.models.nanodet import NanoDet
from include.models.regions import clip_boxes, covered, iou, letterbox, square, suppress
from include.models.runtime import Pool, open_session
from include.models.skeletons import one_person, with_heads

STRIDE = 32  # width and height of the input are multiples of this (model card)
CROP_SIDE = 256  # the size that the model was made for (model card)
LIKELY_SCORE = 0.2  # above, a candidate's score no longer matters: the best fit to the box is the person
CERTAIN_SCORE, SEEN_SCORE = 0.25, 0.15  # of MultiPose and of NanoDet: either is enough for a person
INSIDE = 0.8  # share of the strip
WHOLE_SCORE = 0.6  # of NanoDet's person around a strip: 23 of 23 portraits have at least this
SECOND_LOOK_PADDING = 1.5  # with some surroundings: NanoDet's boxes of small people are often too small


@dataclass(frozen=True, slots=True)
class People:
    """People in one image: boxes [n, 4] and keypoints [n, 17, 3] (x, y, score) in pixels of the image, scores [n]."""

    boxes: np.ndarray
    scores: np.ndarray
    keypoints: np.ndarray

    def __getitem__(self, chosen: np.ndarray | slice) -> People:
        return People(self.boxes[chosen], self.scores[chosen], self.keypoints[chosen])

    def __add__(self, more: People) -> People:
        return People(*(np.concatenate([getattr(p, n) for p in (self, more)]) for n in self.__slots__))


class MultiPose:
    """The network: always six candidates an image, best first, even if unlikely."""

    def __init__(self, path: Path) -> None:
        self._session = open_session(path)
        self._input = self._session.get_inputs()[0].name

    def people(self, image: np.ndarray, side: int) -> People:
        """The people in the image, with its longer side scaled to ``side``."""
        region = letterbox(image, side, STRIDE)
        height, width = region.pixels.shape[:2]
        # Per person 17 x (y, x, score), then ymin, xmin, ymax, xmax, score; coordinates as fractions of the input.
        rows = self._session.run(None, {self._input: region.pixels[None].astype(np.int32)})[0][0]
        keypoints = rows[:, :51].reshape(-1, 17, 3)[:, :, [1, 0, 2]]
        keypoints[:, :, :2] = region.points_to_image(keypoints[:, :, :2] * [width, height])
        boxes = region.boxes_to_image(rows[:, [52, 51, 54, 53]] * [width, height, width, height])
        return People(boxes, rows[:, 55], keypoints)

    def closest(self, image: np.ndarray, box: np.ndarray, padding: float) -> tuple[People, float]:
        """Looks at a square around the box. Returns the person who fits the box best (as People of one), and the IoU.

        There are always six candidates. Unlikely ones may fit by chance and count less.
        """
        region = square(image, (box[:2] + box[2:]) / 2, max(box[2:] - box[:2]) * padding, CROP_SIDE)
        people = self.people(region.pixels, CROP_SIDE)
        boxes = clip_boxes(region.boxes_to_image(people.boxes), image)
        overlaps = iou(box[None], boxes)[0]
        best = int((overlaps * np.minimum(people.scores / LIKELY_SCORE, 1)).argmax())
        keypoints = people.keypoints[best : best + 1]
        keypoints[:, :, :2] = region.points_to_image(keypoints[:, :, :2])
        return People(boxes[best : best + 1], people.scores[best : best + 1], keypoints), float(overlaps[best])


def is_person(score: np.ndarray, person: np.ndarray, animal: np.ndarray) -> np.ndarray:
    """Which boxes hold people, by MultiPose's score and by NanoDet's for a person and for an animal: bool [n].

    A box is no person if NanoDet's score for an animal is higher than both scores for a person. If MultiPose is not
    sure, NanoDet must see the person, too. With this rule 2 of 105 pictures without people show a person, instead of
    22; of some 740 people it loses 3 (docs/models.md).
    """
    return (np.maximum(score, person) >= animal) & ((score >= CERTAIN_SCORE) | (person >= SEEN_SCORE))


class MoveNetDetector:
    """Person boxes that MultiPose proposes and NanoDet decides on.

    If MultiPose is not sure of a candidate, or only NanoDet saw it, there is a second look at a square around the box.
    Among boxes with the same face or body, it keeps the one with the best score of both networks together. For a
    portrait that is the whole head and shoulders, not the strip from ear to ear that MultiPose often gives, since its
    boxes only hold its keypoints.
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

        side: longer side of the image in MultiPose's first look; score: MultiPose score of a person who needs no second
        look; candidate_score and nanodet_score: MultiPose and NanoDet scores worth a second look; second_look_score,
        second_look_iou: the least score there, and IoU with the candidate's box; overlap: IoU from which two boxes are
        one person; min_side: shortest side of a box in pixels; threads: default all cores.
        """
        self._multipose, self._nanodet, self._pool = MultiPose(multipose), NanoDet(nanodet), Pool(threads)
        self._side, self._score, self._candidate_score = side, score, candidate_score
        self._nanodet_score, self._overlap, self._min_side = nanodet_score, overlap, min_side
        self._second_look_score, self._second_look_iou = second_look_score, second_look_iou

    def detect(self, images: Sequence[np.ndarray]) -> list[Detections]:
        return self._pool.map(self._detect, images)

    def _detect(self, image: np.ndarray) -> Detections:
        proposed, objects = self._multipose.people(image, self._side), self._nanodet.objects(image)
        proposed = replace(proposed, boxes=clip_boxes(proposed.boxes, image))
        people = proposed[proposed.scores >= self._score]
        unsure = proposed[(proposed.scores < self._score) & (proposed.scores >= self._candidate_score)]
        seen, surely = objects.people(self._nanodet_score)
        candidates = np.concatenate([unsure.boxes, clip_boxes(seen, image)])
        whole = np.concatenate([np.zeros(len(unsure.boxes), bool), surely >= WHOLE_SCORE])
        for candidate, is_whole in zip(candidates, whole, strict=True):
            if iou(candidate[None], people.boxes).max(initial=0) < self._overlap:
                people += self._second_look(image, candidate, is_whole)
        same = one_person(people.keypoints) | (iou(people.boxes, people.boxes) > self._overlap)
        person, _ = objects.names(people.boxes)
        people = people[suppress(same, people.scores + person)]
        people = people[np.argsort(-people.scores, kind="stable")]
        boxes = clip_boxes(with_heads(people.boxes, people.keypoints), image)
        kept = is_person(people.scores, *objects.names(boxes))
        kept &= (boxes[:, 2:] - boxes[:, :2]).min(1, initial=np.inf) >= self._min_side
        return Detections(boxes[kept], people.scores[kept].astype(np.float32))

    def _second_look(self, image: np.ndarray, candidate: np.ndarray, whole: bool) -> People:
        """The person in a closer look, or nobody. ``whole``: the box is surely a whole person; it replaces a strip."""
        person, overlap = self._multipose.closest(image, candidate, SECOND_LOOK_PADDING)
        if person.scores[0] < self._second_look_score:
            return person[:0]
        if overlap >= self._second_look_iou:
            return person
        if whole and covered(person.boxes, candidate)[0] >= INSIDE:
            return replace(person, boxes=candidate[None])
        return person[:0]


class MoveNetPose:
    """COCO-17 keypoints from MultiPose on a square around each box, 3D landmarks from BlazePose."""

    def __init__(self, multipose: Path, blazepose: Path, *, padding: float, threads: int | None = None) -> None:
        """padding: side of the square, in long sides of the box; threads: default all cores."""
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
