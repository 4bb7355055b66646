"""Draws boxes, skeletons and face meshes over images, for people who look at results."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]

# COCO's person skeleton (https://cocodataset.org/#keypoints-eval), keypoints counted from 0. Colours of the edges: the
# person's left is orange, right is blue, head and trunk are green.
LEFT, RIGHT, MIDDLE = (255, 159, 28), (46, 134, 255), (46, 196, 96)
SKELETON = (
    *((a, b, LEFT) for a, b in ((5, 7), (7, 9), (11, 13), (13, 15), (1, 3))),
    *((a, b, RIGHT) for a, b in ((6, 8), (8, 10), (12, 14), (14, 16), (2, 4))),
    *((a, b, MIDDLE) for a, b in ((5, 6), (11, 12), (5, 11), (6, 12), (0, 1), (0, 2), (3, 5), (4, 6))),
)
# Outlines of the 478-point face mesh: oval, outer and inner lips, eyes, brows, irises, bridge of the nose
# (mediapipe.python.solutions.face_mesh_connections, Apache-2.0).
FACE_OUTLINES = (
    (10, 109, 67, 103, 54, 21, 162, 127, 234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152),
    (152, 377, 400, 378, 379, 365, 397, 288, 361, 323, 454, 356, 389, 251, 284, 332, 297, 338, 10),
    (0, 37, 39, 40, 185, 61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0),
    (13, 82, 81, 80, 191, 78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13),
    (249, 263, 466, 388, 387, 386, 385, 384, 398, 362, 382, 381, 380, 374, 373, 390, 249),
    (7, 33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7),
    (276, 283, 282, 295, 285),
    (300, 293, 334, 296, 336),
    (46, 53, 52, 65, 55),
    (70, 63, 105, 66, 107),
    (474, 477, 476, 475, 474),
    (469, 470, 471, 472, 469),
    (168, 6, 197, 195, 5, 4),
)
BOX, MESH = (255, 77, 109), (125, 235, 255)
KEYPOINT_SCORE = 0.2  # below it, keypoints are guesses of hidden joints and not drawn
OVERSAMPLING = 2  # Pillow draws lines without antialiasing: we draw larger, then reduce


def annotate(
    image: np.ndarray,
    boxes: np.ndarray,
    keypoints: np.ndarray | None = None,
    meshes: Sequence[np.ndarray | None] = (),
    *,
    colours: Sequence[Colour] = (BOX,),
    size: int = 480,
) -> Image.Image:
    """People drawn over their image, whose longer side becomes ``size`` pixels.

    image: uint8 RGB [height, width, 3]; boxes: float32 [people, 4], x1, y1, x2, y2; keypoints: float32 [people, 17, 3],
    COCO-17 x, y, score; meshes: for each person float32 [478, 3] or None. All are in pixels of the image. ``colours``
    are those of the boxes, and repeat.
    """
    height, width = image.shape[:2]
    scale = size / max(width, height)
    large = round(width * scale * OVERSAMPLING), round(height * scale * OVERSAMPLING)
    canvas = Image.fromarray(image).resize(large, Image.Resampling.BICUBIC)
    draw, scale = ImageDraw.Draw(canvas, "RGBA"), scale * OVERSAMPLING
    for box, colour in zip(boxes * scale, cycle(colours), strict=False):
        x1, y1, x2, y2 = (float(v) for v in box)
        draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour, width=2 * OVERSAMPLING)
    for mesh in meshes:
        if mesh is not None:
            _draw_mesh(draw, mesh[:, :2] * scale)
    for person in () if keypoints is None else keypoints:
        _draw_skeleton(draw, person[:, :2] * scale, person[:, 2] >= KEYPOINT_SCORE)
    return canvas.resize((large[0] // OVERSAMPLING, large[1] // OVERSAMPLING), Image.Resampling.BOX)


def _draw_skeleton(draw: ImageDraw.ImageDraw, points: np.ndarray, seen: np.ndarray) -> None:
    if not seen.any():
        return
    size = float(np.ptp(points[seen], axis=0).max())
    thick = round(OVERSAMPLING * min(max(size / 200, 0.5), 2))  # small people would vanish under thick lines
    for a, b, colour in SKELETON:
        if seen[a] and seen[b]:
            draw.line((*points[a], *points[b]), fill=(0, 0, 0, 110), width=thick + OVERSAMPLING)
            draw.line((*points[a], *points[b]), fill=colour, width=thick)
    for x, y in points[seen]:
        draw.ellipse((x - thick, y - thick, x + thick, y + thick), fill="white", outline=(0, 0, 0, 160))


def _draw_mesh(draw: ImageDraw.ImageDraw, points: np.ndarray) -> None:
    for outline in FACE_OUTLINES:
        draw.line([tuple(points[i]) for i in outline], fill=(*MESH, 220), width=OVERSAMPLING, joint="curve")
    for x, y in points:
        draw.point((x, y), fill=(*MESH, 150))
