"""Boxes and image regions: overlap, letterboxes and square crops, and maps back to pixels of the image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

CV2_LIMIT = 32_767  # longest side of an image for cv2.warpAffine (SHRT_MAX)


def iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of each box with each other box: [n, 4], [m, 4] -> float [n, m]."""
    corner = np.maximum(boxes[:, None, :2], others[None, :, :2])
    opposite = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.clip(opposite - corner, 0, None).prod(-1)
    areas, other_areas = ((b[:, 2:] - b[:, :2]).prod(-1) for b in (boxes, others))
    return shared / np.maximum(areas[:, None] + other_areas[None] - shared, 1e-9)


def covered(boxes: np.ndarray, by: np.ndarray) -> np.ndarray:
    """The share of each box [n, 4] that lies in another box [4]: float [n], 0 for an empty one."""
    corner, opposite = np.maximum(boxes[:, :2], by[:2]), np.minimum(boxes[:, 2:], by[2:])
    return np.clip(opposite - corner, 0, None).prod(1) / np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(1), 1e-9)


def suppress(same: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Non-maximum suppression: the indices to keep, best first; none is the ``same`` (bool [n, n]) as a better one."""
    kept: list[int] = []
    for index in np.argsort(-scores, kind="stable"):
        if not same[index, kept].any():
            kept.append(int(index))
    return np.array(kept, dtype=np.intp)


def clip_boxes(boxes: np.ndarray, image: np.ndarray) -> np.ndarray:
    """The boxes, float32 [n, 4], cut off at the borders of the image."""
    height, width = image.shape[:2]
    return np.clip(boxes, 0, [width, height, width, height]).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Region:
    """Pixels cut from an image, and the affine map [2, 3] from their coordinates back to those of the image."""

    pixels: np.ndarray
    to_image: np.ndarray

    def points_to_image(self, points: np.ndarray) -> np.ndarray:
        """Maps x, y pairs [..., 2] of the region to the image."""
        return points @ self.to_image[:, :2].T + self.to_image[:, 2]

    def boxes_to_image(self, boxes: np.ndarray) -> np.ndarray:
        """Maps boxes [n, 4] of an upright region to the image."""
        return self.points_to_image(boxes.reshape(-1, 2, 2)).reshape(-1, 4)

    @property
    def scale(self) -> float:
        """Pixels of the image per pixel of the region."""
        return float(np.hypot(self.to_image[0, 0], self.to_image[1, 0]))


def letterbox(image: np.ndarray, side: int, multiple: int) -> Region:
    """Scales the longer side to ``side`` and pads with black at the right and the bottom to multiples."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    padded = np.zeros((*(math.ceil(n / multiple) * multiple for n in size[::-1]), 3), np.uint8)
    padded[: size[1], : size[0]] = resized
    return Region(padded, np.array([[width / size[0], 0, 0], [0, height / size[1], 0]], np.float32))


def square(image: np.ndarray, centre: np.ndarray, side: float, pixels: int, angle: float = 0.0) -> Region:
    """Cuts a square around ``centre``, ``side`` image pixels wide, turned by ``angle`` (radians, clockwise on the
    screen), as ``pixels`` x ``pixels``; black where it leaves the image."""
    cos, sin = math.cos(angle) * side / pixels, math.sin(angle) * side / pixels
    linear = np.array([[cos, -sin], [sin, cos]])
    offset = np.asarray(centre) - linear @ [pixels / 2, pixels / 2]
    to_image = np.column_stack([linear, offset]).astype(np.float32)
    near, to_near = image, to_image
    if max(image.shape) >= CV2_LIMIT:
        near, to_near = _near(image, np.asarray(centre), side, to_image)
    cut = cv2.warpAffine(near, to_near, (pixels, pixels), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return Region(cut, to_image)


def _near(image: np.ndarray, centre: np.ndarray, side: float, to_image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The part of a large image that a square can reach (every nth pixel if it is still large), and the map to it."""
    size = np.array(image.shape[1::-1])
    left, top = first = np.clip(centre - side, 0, size - 1).astype(int)
    right, bottom = np.clip(centre + side + 2, first + 1, size).astype(int)
    step = -(-max(right - left, bottom - top) // (CV2_LIMIT - 1))
    return image[top:bottom:step, left:right:step], (to_image - np.column_stack([np.zeros((2, 2)), first])) / step
