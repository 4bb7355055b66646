"""The built-in sample at the stored size, and a comparison of detected people with the truth."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from include.models import COCO_KEYPOINTS, Detections
from include.models.regions import iou

SAMPLE = Path(__file__).parents[2] / "include" / "sample"
STORED_SIDE = 384  # shortest side of stored images, the default of LAION_PEOPLE_IMAGE_SIZE


@dataclass(frozen=True, slots=True)
class Truth:
    """The truth of one image: its pixels, boxes [n, 4] and joints [n, 17, 3] (x, y, visible) in pixels, and the other
    facts of each person as in truth.json."""

    name: str
    image: np.ndarray
    boxes: np.ndarray
    joints: np.ndarray
    people: list[dict[str, Any]]


def load(folder: Path = SAMPLE) -> list[Truth]:
    return [_read(folder, entry) for entry in json.loads((folder / "truth.json").read_text())["images"]]


def _read(folder: Path, entry: dict[str, Any]) -> Truth:
    pixels = np.array(Image.open(folder / entry["file"]).convert("RGB"))
    height, width = pixels.shape[:2]
    scale = min(1.0, STORED_SIDE / min(height, width))
    pixels = cv2.resize(pixels, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
    people = entry["people"]
    boxes = np.array([person["bbox"] for person in people], np.float32).reshape(-1, 4) * scale
    joints = np.array([[person["joints"][name] for name in COCO_KEYPOINTS] for person in people]).reshape(-1, 17, 3)
    return Truth(entry["file"], pixels, boxes, joints * [scale, scale, 1], people)


def match(truth: Truth, detections: Detections, overlap: float = 0.5) -> dict[int, int]:
    """True person -> detected person, one to one, best overlap first, with at least this IoU."""
    overlaps = iou(truth.boxes, detections.boxes)
    pairs: dict[int, int] = {}
    for flat in np.argsort(-overlaps, axis=None):
        person, index = np.unravel_index(flat, overlaps.shape)
        if overlaps[person, index] < overlap:
            break
        if person not in pairs and index not in pairs.values():
            pairs[int(person)] = int(index)
    return pairs
