"""Finds whatever may be a person, even in doubt: for pictures, and parts of pictures, that must show nobody."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from include.models import Detections
from include.models.facemesh import face_detector
from include.models.mediapipe_tasks import as_mediapipe
from include.models.nanodet import NanoDet
from include.models.regions import clip_boxes
from include.models.runtime import Pool


class Bystanders:
    """A Detector that prefers false alarms to a missed person: NanoDet at a low score, and faces.

    It is used where a detector has found nobody, or nobody else. Nearly all small, half-hidden, painted and sculpted
    people, of whom the detector is not sure, have a score here. Many chairs and animals have one, too; each costs a
    background.
    """

    def __init__(
        self, nanodet: Path, landmarker: Path, *, nanodet_score: float, face_score: float, threads: int | None = None
    ) -> None:
        """landmarker: the bundle with the face detector; threads: default all cores."""
        self._nanodet, self._nanodet_score = NanoDet(nanodet), nanodet_score
        self._landmarker, self._face_score = landmarker, face_score
        self._pool, self._local = Pool(threads), threading.local()

    def detect(self, images: Sequence[np.ndarray]) -> list[Detections]:
        return self._pool.map(self._detect, images)

    def _detect(self, image: np.ndarray) -> Detections:
        people, people_scores = self._nanodet.objects(image).people(self._nanodet_score)
        faces, face_scores = self._faces(image)
        boxes, scores = np.concatenate([people, faces]), np.concatenate([people_scores, face_scores])
        order = np.argsort(-scores, kind="stable")
        return Detections(clip_boxes(boxes[order], image), scores[order])

    def _faces(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not hasattr(self._local, "detector"):  # MediaPipe's tasks can't be shared between threads
            self._local.detector = face_detector(self._landmarker, self._face_score)
        faces = self._local.detector.detect(as_mediapipe(image)).detections
        corners = [(face.bounding_box.origin_x, face.bounding_box.origin_y) for face in faces]
        sizes = [(face.bounding_box.width, face.bounding_box.height) for face in faces]
        boxes = np.array([(x, y, x + w, y + h) for (x, y), (w, h) in zip(corners, sizes, strict=True)], np.float32)
        return boxes.reshape(-1, 4), np.array([face.categories[0].score for face in faces], np.float32)
