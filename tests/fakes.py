"""Fake models and small stores: quick, offline, and the same for the same input."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from include.models import Detections, Mesh, Poses
from laion_people.storage.store import Store

UPRIGHT = np.array(  # COCO-17 of a standing person in a unit box
    [[.5, .08], [.53, .06], [.47, .06], [.57, .07], [.43, .07], [.65, .2], [.35, .2], [.7, .36], [.3, .36], [.72, .5],
     [.28, .5], [.6, .52], [.4, .52], [.6, .75], [.4, .75], [.6, .97], [.4, .97]], np.float32)  # fmt: skip
ARMS = {0: [[.7, .36], [.3, .36], [.72, .5], [.28, .5]],  # hanging
        1: [[.85, .2], [.15, .2], [1, .2], [0, .2]],  # out to the sides
        2: [[.68, .05], [.32, .05], [.66, 0], [.34, 0]]}  # up  # fmt: skip


def _kind(image: np.ndarray) -> int:
    return int(image[:8, :8].mean())


class FakeDetector:
    """As many people (0 to 3), side by side, as the image's corner is bright: one for each 64 of brightness."""

    def detect(self, images: Sequence[np.ndarray]) -> list[Detections]:
        return [self._one(image) for image in images]

    def _one(self, image: np.ndarray) -> Detections:
        height, width = image.shape[:2]
        count = _kind(image) // 64
        edges = np.linspace(0, width, count + 1)
        boxes = np.array([[a + 1, 1, b - 1, height - 1] for a, b in pairwise(edges)], np.float32)
        return Detections(boxes.reshape(-1, 4), np.full(count, 0.9, np.float32))


class FakePose:
    """A standing person in each box, whose arms follow the image's brightness."""

    def estimate(self, images: Sequence[np.ndarray], boxes: Sequence[np.ndarray]) -> list[Poses]:
        return [self._one(image, b) for image, b in zip(images, boxes, strict=True)]

    def _one(self, image: np.ndarray, boxes: np.ndarray) -> Poses:
        points = np.zeros((len(boxes), 17, 3), np.float32)
        for i, (x1, y1, x2, y2) in enumerate(boxes):
            body = UPRIGHT.copy()
            body[7:11] = ARMS[(_kind(image) + i) % 3]
            points[i] = np.c_[body * [x2 - x1, y2 - y1] + [x1, y1], np.full(17, 0.9)]
        return Poses(points, np.full(len(boxes), 0.9, np.float32))


class FakeMesh:
    """A face for every other person, smiling or not by the image's brightness."""

    def estimate(
        self, images: Sequence[np.ndarray], boxes: Sequence[np.ndarray], keypoints: Sequence[np.ndarray]
    ) -> list[list[Mesh | None]]:
        return [[self._one(img, k, i) for i, k in enumerate(ks)] for img, ks in zip(images, keypoints, strict=True)]

    def _one(self, image: np.ndarray, keypoints: np.ndarray, index: int) -> Mesh | None:
        if index % 2:
            return None
        rng = np.random.default_rng(_kind(image))
        angle = np.linspace(0, 2 * np.pi, 478)
        face = np.c_[np.cos(angle), np.sin(angle), 0.1 * np.cos(3 * angle)] * 20 + [*keypoints[0, :2], 0]
        shapes = rng.uniform(0, 0.05, 52)
        shapes[[44, 45]] = _kind(image) % 2 * 0.8  # mouthSmileLeft, mouthSmileRight
        return Mesh(face.astype(np.float32), shapes.astype(np.float32), rng.choice([-30.0, 0, 30]), 0.0, 0.0, 0.9)


class FakeClip:
    """Embeddings that are drawn from the content: brightness of images, words of texts."""

    name = "fake"

    def encode_images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        return _units([_kind(image) // 16 for image in images])

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        return _units([int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) for text in texts])


class FakeCaptioner:
    """Captions that count from a number that the image's brightness and the seed give; one in four is empty."""

    name = "fake captioner"

    def describe(self, images: Sequence[np.ndarray], candidates: int, seed: int) -> list[list[str]]:
        firsts = [(_kind(image) + seed) % 1000 for image in images]
        return [["" if (f + i) % 4 == 3 else f"person number {f + i}" for i in range(candidates)] for f in firsts]

    def vqa_scores(self, images: Sequence[np.ndarray], texts: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """The more surely, the higher the number's last digit."""
        return [np.array([int(text[-1]) / 10 for text in of_one], np.float32) for of_one in texts]


class FakeBystanders:
    """Nobody, but for a face that seems to be in the upper left corner of bright images."""

    def detect(self, images: Sequence[np.ndarray]) -> list[Detections]:
        faces = [[[0, 0, 8, 8]] * (_kind(image) > 250) for image in images]
        return [Detections(np.array(f, np.float32).reshape(-1, 4), np.full(len(f), 0.9, np.float32)) for f in faces]


class FakeMatte:
    """Nearly all of an image, but for its corners (a superellipse)."""

    def mattes(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [self._one(*image.shape[:2]) for image in images]

    def _one(self, height: int, width: int) -> np.ndarray:
        y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
        return (x**4 + y**4 < 1).astype(np.float32)


def _units(seeds: Sequence[int]) -> np.ndarray:
    vectors = np.array([np.random.default_rng(s).normal(size=8) for s in seeds], np.float32).reshape(-1, 8)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class FakeModels:
    """Stands in for a profile; counts what is loaded."""

    KINDS = {  # noqa: RUF012
        "detector": FakeDetector,
        "pose": FakePose,
        "mesh": FakeMesh,
        "clip": FakeClip,
        "captioner": FakeCaptioner,
        "bystanders": FakeBystanders,
        "matte": FakeMatte,
    }

    def __init__(self) -> None:
        self.loaded: list[str] = []

    def fingerprint(self, role: str) -> dict[str, str]:
        return {f"fake-{role}": "0" * 64}

    def params(self, role: str) -> dict[str, str]:
        return {"wrapper": "fake"}

    def model_name(self, role: str) -> str:
        return f"fake-{role}"

    def load(self, role: str) -> object:
        self.loaded.append(role)
        return self.KINDS[role]()


def jpeg(brightness: int, size: tuple[int, int] = (96, 64)) -> bytes:
    """A picture of one brightness with a little texture in the lower right half."""
    pixels = np.full((size[1], size[0], 3), brightness, np.uint8)
    pixels[size[1] // 2 :, size[0] // 2 :, 0] //= 2
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    return file.getvalue()


def tar_of(images: dict[str, bytes], path: Path, **more: dict[str, Any]) -> None:
    """An img2dataset-style shard with these encoded images, and ``more`` fields of some."""
    with tarfile.open(path, "w") as tar:
        for key, data in images.items():
            fields = {"key": key, "url": f"http://example.org/{key}.jpg", "caption": f"picture {key}", "SAMPLE_ID": 1}
            fields |= more.get(key, {})
            for suffix, content in (("jpg", data), ("txt", b"x"), ("json", json.dumps(fields).encode())):
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def image_shard(store: Store, partition: str, index: int, images: int = 12) -> None:
    """Puts a shard made elsewhere into the store: brightness, and so people and poses, differ from image to image."""
    pictures = {f"{index:05d}{i:04d}": jpeg((37 * (i + index * 5) + 20) % 250) for i in range(images)}
    with store.writer(f"images/{partition}/{index:05d}.tar") as path:
        tar_of(pictures, path)
