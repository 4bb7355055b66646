"""Where the faces of people are, and pictures without them.

Faces are not looked for: the face mesh and the pose of each person say where they are. So a face of whom neither
`detect` nor a mesh knows, as on a poster, stays.
"""

from __future__ import annotations

import numpy as np

from laion_people.vision.geometry import SEEN

HEAD, SHOULDERS = slice(0, 5), [5, 6]  # COCO-17: nose, eyes, ears
AROUND_MESH = 0.3  # of the mesh's size on each side: it ends at the hairline, and left of the ears
AROUND_HEAD = 2.0  # sizes of a head: keypoints of lying and bent people lie far off its middle
CELLS = 1  # that the shorter side of a face is reduced to: of 4, a detector still makes a face, of 2 now and then
BLUR = 8  # pixels of a cell while it is blurred, by half of that


def head_boxes(boxes: np.ndarray, keypoints: np.ndarray, meshes: np.ndarray) -> np.ndarray:
    """What has to be covered lest a face be seen: float32 [people, 4], in pixels of the image.

    boxes: [people, 4]; keypoints: [people, 17, 3]; meshes: [people, 4], the bounds of face meshes, NaN without one
    (`people.face_boxes`). Without a mesh it is the head by its keypoints, and without these the upper part of the box:
    as high as the box is wide, or a third of its height if that is more.
    """
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    upper = boxes.astype(np.float32)
    upper[:, 3] = boxes[:, 1] + np.minimum(height, np.maximum(width, height / 3))
    heads = _heads(keypoints, height)
    heads = np.where(np.isnan(heads), upper, heads)
    margin = AROUND_MESH * (meshes[:, 2:] - meshes[:, :2])
    around = np.concatenate([meshes[:, :2] - margin, meshes[:, 2:] + margin], axis=1)
    return np.where(np.isnan(around), heads, around).astype(np.float32)


def _heads(keypoints: np.ndarray, heights: np.ndarray) -> np.ndarray:
    """Squares around the heads, NaN where no keypoint of one is seen; sizes as `include.models.facemesh` takes them."""
    points = np.where(keypoints[:, HEAD, 2:] >= SEEN, keypoints[:, HEAD, :2], np.nan)
    seen = ~np.isnan(points[..., 0])
    some = seen.any(axis=1)
    centres, spreads = np.full((len(points), 2), np.nan), np.zeros(len(points))
    centres[some] = np.nanmean(points[some], axis=1)
    spreads[some] = (np.nanmax(points[some], axis=1) - np.nanmin(points[some], axis=1)).max(axis=1, initial=0)
    left, right = (keypoints[:, joint] for joint in SHOULDERS)
    across = np.linalg.norm(left[:, :2] - right[:, :2], axis=1)
    across[(left[:, 2] < SEEN) | (right[:, 2] < SEEN)] = 0
    half = AROUND_HEAD / 2 * np.max([0.11 * heights, 0.45 * across, 1.6 * spreads], axis=0)
    return np.concatenate([centres - half[:, None], centres + half[:, None]], axis=1)


def placed(parts: np.ndarray, boxes: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Where parts of people come to lie in a composed picture: float32 [people, 4], in its pixels.

    parts, boxes: [people, 4] in pixels of each person's image; places: [people, 4], the ``bbox`` of each there.
    """
    size = np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-6)
    scale = np.tile((places[:, 2:] - places[:, :2]) / size, 2)
    return ((parts - np.tile(boxes[:, :2], 2)) * scale + np.tile(places[:, :2], 2)).astype(np.float32)


def are_seen(keypoints: np.ndarray, meshes: np.ndarray) -> np.ndarray:
    """Whether a face may be seen of each person: bool [people]; the nose and an eye are enough. See `head_boxes`."""
    seen = keypoints[..., 2] >= SEEN
    return ~np.isnan(meshes).any(axis=1) | (seen[:, 0] & seen[:, 1:3].any(axis=1))


def blurred(pixels: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """A picture, uint8 [height, width, 3], with these boxes [n, 4] blurred so far that no features are left.

    A box is averaged to a few grey cells (CELLS), which are blurred into each other: nothing is left to be sharpened.
    In colour a detector still made faces of heads, by shape and skin. Of 231 faces in pictures of the sample and of
    `include/truth` none gets a mesh any more; where MediaPipe's detector had found 175, it takes 1 patch for a face.
    Pixels outside of the boxes stay what they are.
    """
    import cv2

    height, width = pixels.shape[:2]
    picture = pixels.copy()
    for box in boxes:
        x1, y1 = np.floor(np.clip(box[:2], 0, [width, height])).astype(int)
        x2, y2 = np.ceil(np.clip(box[2:], 0, [width, height])).astype(int)
        if x1 >= x2 or y1 >= y2:
            continue
        face = picture[y1:y2, x1:x2]
        cell = min(face.shape[:2]) / CELLS
        cells = max(1, round((x2 - x1) / cell)), max(1, round((y2 - y1) / cell))
        means = cv2.cvtColor(cv2.resize(face, cells, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
        coarse = np.repeat(np.repeat(means, BLUR, axis=0), BLUR, axis=1)
        soft = cv2.GaussianBlur(coarse, (0, 0), BLUR / 2, borderType=cv2.BORDER_REPLICATE)
        picture[y1:y2, x1:x2] = cv2.resize(soft, face.shape[1::-1], interpolation=cv2.INTER_LINEAR)[..., None]
    return picture
