"""The models behind the steps: protocols, wrappers and profiles.

A wrapper takes and gives NumPy arrays, in batches: a step never knows which framework runs behind it. Images
are uint8 RGB arrays of shape [height, width, 3]; boxes are float32 x1, y1, x2, y2 in pixels of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # the errors of models are read where there is no NumPy
    import numpy as np

# The order of a pose's keypoints (COCO); left and right are the person's own.
_KEYPOINTS = """
nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow right_elbow left_wrist
right_wrist left_hip right_hip left_knee right_knee left_ankle right_ankle
"""
COCO_KEYPOINTS = tuple(_KEYPOINTS.split())

# The order of a mesh's blendshapes, MediaPipe's: _neutral, then ARKit's without tongueOut.
_SHAPES = """
_neutral browDownLeft browDownRight browInnerUp browOuterUpLeft browOuterUpRight cheekPuff cheekSquintLeft
cheekSquintRight eyeBlinkLeft eyeBlinkRight eyeLookDownLeft eyeLookDownRight eyeLookInLeft eyeLookInRight
eyeLookOutLeft eyeLookOutRight eyeLookUpLeft eyeLookUpRight eyeSquintLeft eyeSquintRight eyeWideLeft
eyeWideRight jawForward jawLeft jawOpen jawRight mouthClose mouthDimpleLeft mouthDimpleRight mouthFrownLeft
mouthFrownRight mouthFunnel mouthLeft mouthLowerDownLeft mouthLowerDownRight mouthPressLeft mouthPressRight
mouthPucker mouthRight mouthRollLower mouthRollUpper mouthShrugLower mouthShrugUpper mouthSmileLeft
mouthSmileRight mouthStretchLeft mouthStretchRight mouthUpperUpLeft mouthUpperUpRight noseSneerLeft
noseSneerRight
"""
BLENDSHAPES = tuple(_SHAPES.split())


@dataclass(frozen=True, slots=True)
class Detections:
    """People found in one image, best first.

    boxes: float32 [people, 4], clipped to the image; scores: float32 [people], 0 to 1.
    """

    boxes: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True, slots=True)
class Poses:
    """Body poses of the people of one image, in the order of the boxes given.

    keypoints: float32 [people, 17, 3], ``COCO_KEYPOINTS``, x and y in pixels of the image (also when outside of it) and
    a score from 0 to 1; scores: float32 [people], mean keypoint score; world: float32 [people, 33, 3], BlazePose
    landmarks in metres around the middle of the hips (x to the image's right, y down, z away from the camera; NaN for a
    person without a body by the model), or None if the model gives no depth; extra: float32 [people, 116, 3],
    keypoints 18 to 133 of COCO-WholeBody (6 of the feet, 68 of the face, 21 of each hand), as ``keypoints``, or None
    if the model knows the body only.
    """

    keypoints: np.ndarray
    scores: np.ndarray
    world: np.ndarray | None = None
    extra: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Mesh:
    """The face mesh of one person.

    landmarks: float32 [478, 3], MediaPipe topology, x, y and z in pixels of the image; blendshapes: float32 [52], 0 to
    1, in the order of ``BLENDSHAPES``; yaw, pitch, roll: degrees, seen from the camera: positive yaw turns the face
    to the image's right, positive pitch lifts it, positive roll tilts its top to the image's right; score: 0 to 1.
    """

    landmarks: np.ndarray
    blendshapes: np.ndarray
    yaw: float
    pitch: float
    roll: float
    score: float


class Detector(Protocol):
    """Finds people."""

    def detect(self, images: Sequence[np.ndarray]) -> list[Detections]: ...


class PoseEstimator(Protocol):
    """Estimates the pose of each person; ``boxes`` has one float32 [people, 4] array an image."""

    def estimate(self, images: Sequence[np.ndarray], boxes: Sequence[np.ndarray]) -> list[Poses]: ...


class MeshEstimator(Protocol):
    """Fits a face mesh to each person with a visible face, which it finds by the keypoints (as in ``Poses``)."""

    def estimate(
        self, images: Sequence[np.ndarray], boxes: Sequence[np.ndarray], keypoints: Sequence[np.ndarray]
    ) -> list[list[Mesh | None]]: ...


class Segmenter(Protocol):
    """Separates people from the background: for each image float32 [height, width], the share of a person, 0 to 1."""

    def mattes(self, images: Sequence[np.ndarray]) -> list[np.ndarray]: ...


class Clip(Protocol):
    """Embeds images and texts in one space. Rows are float32 unit vectors: a dot product is the similarity.

    ``name``: the model's name, written with every similarity (``ViT-B-32-quickgelu/openai``).
    """

    name: str

    def encode_images(self, images: Sequence[np.ndarray]) -> np.ndarray: ...

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray: ...


class Captioner(Protocol):
    """Describes images in words. ``name``: the model's name, written with every caption.

    ``describe`` gives ``candidates`` captions an image, drawn with ``seed``: the same input and seed give the same.
    """

    name: str

    def describe(self, images: Sequence[np.ndarray], candidates: int, seed: int) -> list[list[str]]: ...


class QuestionedCaptioner(Captioner, Protocol):
    """A captioner that answers questions, too.

    ``vqa_scores`` gives, for each image and each of its texts, the probability that it says yes when it is asked
    whether the image shows the text: float32 [texts] (VQAScore, https://arxiv.org/abs/2404.01291).
    """

    def vqa_scores(self, images: Sequence[np.ndarray], texts: Sequence[Sequence[str]]) -> list[np.ndarray]: ...
