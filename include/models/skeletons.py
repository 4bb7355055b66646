"""What COCO-17 keypoints say about boxes: where a head ends, and which skeletons belong to one person."""

from __future__ import annotations

import numpy as np

HEAD, BODY = slice(0, 5), slice(5, 17)  # nose, eyes and ears; shoulders to ankles
SURE = 0.2  # least score of a keypoint: MIN_CROP_KEYPOINT_SCORE of https://www.tensorflow.org/hub/tutorials/movenet
HEAD_RADIUS = 1.0  # head widths, from the middle of the keypoints: the top of the hair is at 0.6 to 1.0 in the sample
ONE_FACE = 0.5  # head widths between the middles of two faces: if nearer, one would hide the other
ONE_BODY = 0.1  # of the body's length, half the width of the shoulders: two people cannot be so close


def with_heads(boxes: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
    """The boxes [n, 4], larger if they cut off the head of keypoints [n, 17, 3] (x, y, score)."""
    head = _sure(keypoints[:, HEAD])
    width = _extent(head)[:, None]
    centre = np.nansum(head, 1) / np.maximum((~np.isnan(head)).sum(1), 1)
    top_left = np.minimum(boxes[:, :2], centre - HEAD_RADIUS * width)
    bottom_right = np.maximum(boxes[:, 2:], centre + HEAD_RADIUS * width)
    return np.where(width > 0, np.hstack([top_left, bottom_right]), boxes)


def one_person(keypoints: np.ndarray) -> np.ndarray:
    """Which pairs of skeletons [n, 17, 3] (x, y, score) have the same face or body: bool [n, n]."""
    return _coincide(keypoints[:, HEAD], ONE_FACE) | _coincide(keypoints[:, BODY], ONE_BODY)


def _coincide(keypoints: np.ndarray, share: float) -> np.ndarray:
    """Whether the points that two people both show are, on average, closer than a share of the larger one's extent."""
    points = _sure(keypoints)
    extent = _extent(points)
    apart = np.linalg.norm(points[:, None] - points[None], axis=-1)
    shown = (~np.isnan(apart)).sum(-1)
    near = np.nansum(apart, -1) < share * np.maximum(extent[:, None], extent[None]) * shown
    return near & (shown >= 2)


def _sure(keypoints: np.ndarray) -> np.ndarray:
    """x, y of keypoints [n, k, 3]: [n, k, 2], NaN if the score is low."""
    return np.where(keypoints[:, :, 2:] >= SURE, keypoints[:, :, :2], np.nan)


def _extent(points: np.ndarray) -> np.ndarray:
    """The largest distance between two points of each person: [n, k, 2] -> [n], 0 where fewer than two are sure."""
    return np.nan_to_num(np.linalg.norm(points[:, :, None] - points[:, None], axis=-1)).max((1, 2), initial=0)
