"""MediaPipe Face Landmarker: 478 landmarks, 52 blendshapes and the head's direction.

https://ai.google.dev/edge/mediapipe/solutions/vision/face_landmarker. Its face detector sees 128 px: small faces need a
head crop. It is cut around the body's keypoints. The detector finds and scores the face in it; the landmarker gets a
closer crop around that face.
"""

from __future__ import annotations

import math
import threading
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import mediapipe
import numpy as np
from mediapipe.python import packet_creator, packet_getter
from mediapipe.tasks.python import BaseOptions, vision

from include.models import Mesh
from include.models.mediapipe_tasks import OneThread, as_mediapipe, hidden
from include.models.regions import Region, square
from include.models.runtime import Pool

CROP = 256  # pixels: the landmark network's input
FACE_PADDINGS = (2.0, 2.5)  # sides of the landmarker's crops, in sides of the detected face; tried one by one
FACE_KEYPOINTS = slice(0, 5)  # nose, eyes, ears
LEFT_SIDE, RIGHT_SIDE, SHOULDERS = [1, 3], [2, 4], [5, 6]  # eye and ear of either side, in COCO-17
MIN_KEYPOINT_SCORE = 0.15
MIN_HEAD = 16.0  # pixels: smaller head crops show no expression
MAX_OFFSET = 0.75  # distance of a face from its place by the keypoints, in its sides; beyond, it is someone else's
FACES = (1, 2)  # that the landmarker looks for, tried one by one: a neighbour's may be in the crop, too
SURE = 0.85  # score from which the landmarker nearly always finds the face at once
MIN_SECOND_DETECTION = 0.1  # of the landmarker's own detector, which only has to locate the known face
MIRRORED = 0.05  # of the head crop's side: the left of a head may lie this far left of its right, by chance
TILTED = math.radians(40)  # the detector finds upright faces, within this angle
OUTPUTS = ("norm_landmarks", "blendshapes", "face_geometry")  # of the landmarker's graph
COORDINATES = attrgetter("x", "y", "z")


@dataclass(frozen=True, slots=True)
class _Face:
    """A detected face: centre x, y and side in pixels of the image, and its score."""

    centre: np.ndarray
    side: float
    score: float


class _Tasks:
    """The detector and the landmarkers of one bundle. For one thread: MediaPipe's tasks can't be shared.

    A landmarker of two faces often takes half as long again, for a second place where there is no face. The first of
    them is what a landmarker of one face finds, so that this one is asked first where it will probably do.
    """

    def __init__(self, bundle: Path, min_detection_score: float, min_presence: float) -> None:
        self.detector = face_detector(bundle, min_detection_score)
        self.landmarkers = [face_landmarker(bundle, min_presence, faces) for faces in FACES]


class _Landmarks(NamedTuple):
    """What the landmarker finds of a face: x, y and z of its landmarks [478, 3], x and y from 0 to 1 in the image;
    blendshapes float32 [52]; the matrix [4, 4] that moves the canonical face to the camera's space."""

    points: np.ndarray
    blendshapes: np.ndarray
    transformation: np.ndarray


class FaceDetector(OneThread, vision.FaceDetector):
    pass


class FaceLandmarker(OneThread, vision.FaceLandmarker):
    """MediaPipe's, which gives its results as arrays, too. ``detect`` makes an object of each landmark: that takes a
    tenth of the networks' time, in Python, for which other threads have to wait."""

    def faces(self, image: mediapipe.Image) -> list[_Landmarks]:
        """What ``detect`` finds, from the same graph."""
        whole = self.convert_to_normalized_rect(None, image, roi_allowed=False)
        inputs = {
            "image_in": packet_creator.create_image(image),
            "norm_rect_in": packet_creator.create_proto(whole.to_pb2()),
        }
        outputs = self._process_image_data(inputs)
        if outputs["norm_landmarks"].is_empty():
            return []
        parts = (packet_getter.get_proto_list(outputs[name]) for name in OUTPUTS)
        return [
            _Landmarks(
                np.array(list(map(COORDINATES, landmarks.landmark))),
                np.array([shape.score for shape in shapes.classification], np.float32),
                _matrix(geometry.pose_transform_matrix),
            )
            for landmarks, shapes, geometry in zip(*parts, strict=True)
        ]


def _matrix(data: Any) -> np.ndarray:
    """The matrix of a ``MatrixData``, which may hold it by rows or by columns."""
    by_rows = data.layout == type(data).ROW_MAJOR
    return np.array(data.packed_data).reshape(data.rows, data.cols, order="C" if by_rows else "F")


def landmarker_options(bundle: Path, min_presence: float, faces: int) -> vision.FaceLandmarkerOptions:
    """Of the landmarker for up to so many faces."""
    return vision.FaceLandmarkerOptions(
        base_options=BaseOptions(model_asset_path=str(bundle)),
        num_faces=faces,
        min_face_detection_confidence=MIN_SECOND_DETECTION,
        min_face_presence_confidence=min_presence,
        output_face_blendshapes=True,
        output_facial_transformation_matrixes=True,
    )


def detector_options(bundle: Path, min_score: float) -> vision.FaceDetectorOptions:
    """Of the face detector in the landmarker's bundle."""
    with zipfile.ZipFile(bundle) as archive:
        weights = archive.read("face_detector.tflite")
    base = BaseOptions(model_asset_buffer=weights)
    return vision.FaceDetectorOptions(base_options=base, min_detection_confidence=min_score)


def face_landmarker(bundle: Path, min_presence: float, faces: int) -> FaceLandmarker:
    """A landmarker, for one thread."""
    with hidden():
        landmarker = FaceLandmarker.create_from_options(landmarker_options(bundle, min_presence, faces))
        landmarker.detect(as_mediapipe(np.zeros((CROP, CROP, 3), np.uint8)))
    return landmarker


def face_detector(bundle: Path, min_score: float) -> FaceDetector:
    """A detector, for one thread."""
    with hidden():
        detector = FaceDetector.create_from_options(detector_options(bundle, min_score))
        detector.detect(as_mediapipe(np.zeros((CROP, CROP, 3), np.uint8)))
    return detector


class FaceMesh:
    """Finds the face of each person and fits the mesh."""

    def __init__(
        self, landmarker: Path, *, min_detection_score: float, min_presence: float, threads: int | None = None
    ) -> None:
        """min_detection_score: of the face detector; min_presence: of the landmark network; threads: default all."""
        self._options = landmarker, min_detection_score, min_presence
        self._pool = Pool(threads)
        self._local = threading.local()

    def estimate(
        self, images: Sequence[np.ndarray], boxes: Sequence[np.ndarray], keypoints: Sequence[np.ndarray]
    ) -> list[list[Mesh | None]]:
        people = [
            (image, box, body)
            for image, its_boxes, bodies in zip(images, boxes, keypoints, strict=True)
            for box, body in zip(its_boxes, bodies, strict=True)
        ]
        meshes = iter(self._pool.map(self._estimate, *zip(*people, strict=True)) if people else [])
        return [[next(meshes) for _ in its_boxes] for its_boxes in boxes]

    def _estimate(self, image: np.ndarray, box: np.ndarray, body: np.ndarray) -> Mesh | None:
        if not hasattr(self._local, "tasks"):
            self._local.tasks = _Tasks(*self._options)
        centre, side = _head(box, body)
        if side < MIN_HEAD:
            return None
        for angle in _angles(body, side):
            face = self._find(image, centre, side, angle)
            if face is not None:
                return self._fit(image, face, angle)
        return None

    def _find(self, image: np.ndarray, centre: np.ndarray, side: float, angle: float) -> _Face | None:
        """The face nearest to the centre of the head crop, if any is near."""
        region = square(image, centre, side, CROP, angle)
        faces = []
        for detection in self._local.tasks.detector.detect(as_mediapipe(region.pixels)).detections:
            box = detection.bounding_box
            middle = np.array([box.origin_x + box.width / 2, box.origin_y + box.height / 2])
            faces.append(
                _Face(region.points_to_image(middle), box.width * region.scale, float(detection.categories[0].score))
            )
        nearest = min(faces, key=lambda face: math.dist(face.centre, centre), default=None)
        return nearest if nearest and math.dist(nearest.centre, centre) <= MAX_OFFSET * nearest.side else None

    def _fit(self, image: np.ndarray, face: _Face, angle: float) -> Mesh | None:
        """The mesh of the face, or None if the landmarker sees none. For small faces, a second crop often helps."""
        sure = face.score >= SURE
        for padding in FACE_PADDINGS:
            region = square(image, face.centre, padding * face.side, CROP, angle)
            for landmarker in self._local.tasks.landmarkers[0 if sure else -1 :]:
                mesh = _mesh(landmarker.faces(as_mediapipe(region.pixels)), region, face, angle)
                if mesh is not None:
                    return mesh
            sure = False  # where nothing was found at once, a landmarker of one face finds a quarter
        return None


def _mesh(found: list[_Landmarks], region: Region, face: _Face, angle: float) -> Mesh | None:
    """The mesh of the first that is near the face; others are a neighbour's."""
    for points, blendshapes, transformation in found:
        mesh = points * CROP
        landmarks = np.column_stack([region.points_to_image(mesh[:, :2]), mesh[:, 2] * region.scale])
        if math.dist(landmarks[:, :2].mean(0), face.centre) <= MAX_OFFSET / 2 * face.side:
            return Mesh(
                landmarks.astype(np.float32), blendshapes, *head_angles(transformation[:3, :3], angle), face.score
            )
    return None


def head_angles(rotation: np.ndarray, angle: float = 0.0) -> tuple[float, float, float]:
    """Yaw, pitch and roll in degrees, as in ``Mesh``, of a face in a crop turned clockwise by ``angle``.

    ``rotation`` [3, 3] turns the canonical face into the camera's space, x to the right, y up, z towards the camera
    (MediaPipe's geometry pipeline). It is decomposed into a roll, then a pitch, then a yaw of the head.
    """
    cos, sin = math.cos(angle), math.sin(angle)
    turned = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]]) @ rotation
    turned /= np.linalg.norm(turned, axis=0)
    yaw = math.atan2(turned[0, 2], turned[2, 2])
    pitch = math.asin(np.clip(turned[1, 2], -1, 1))
    roll = -math.atan2(turned[1, 0], turned[1, 1])
    return math.degrees(yaw), math.degrees(pitch), math.degrees(roll)


def _head(box: np.ndarray, body: np.ndarray) -> tuple[np.ndarray, float]:
    """Centre and side, in pixels, of a square around the head."""
    points = body[FACE_KEYPOINTS]
    points = points[points[:, 2] >= MIN_KEYPOINT_SCORE, :2]
    shoulders = math.dist(*body[SHOULDERS, :2])
    width, height = box[2:] - box[:2]
    if len(points) < 2:  # the place of a standing person's head
        return np.array([box[0] + width / 2, box[1] + 0.15 * height]), float(0.5 * min(width, height))
    spread = np.ptp(points, axis=0).max()
    return points.mean(0), float(2.3 * max(0.11 * height, 0.45 * shoulders, 1.6 * spread))


def _angles(body: np.ndarray, side: float) -> Iterator[float]:
    """Angles, clockwise on the screen, by which to turn the head crop in search of the face.

    Upright comes first, unless the person's left eye and ear lie left of the right ones: that is the back of a head,
    where the detector sometimes sees faces. Then comes the angle of eyes and ears, if it is far from upright. It is
    left out if it is upside down against the shoulders: that, too, is the back of a head.
    """
    across = body[LEFT_SIDE, :2].mean(0) - body[RIGHT_SIDE, :2].mean(0)
    if across[0] > -MIRRORED * side:
        yield 0.0
    angle = math.atan2(across[1], across[0])
    up = math.sin(angle), -math.cos(angle)
    if abs(angle) > TILTED and (body[FACE_KEYPOINTS, :2].mean(0) - body[SHOULDERS, :2].mean(0)) @ up > 0:
        yield angle
