"""What Subset B needs from small models: is anybody else there, and which pixels are the person?"""

from __future__ import annotations

import numpy as np
import pytest

from include.models.profiles import available, load_profile
from include.models.regions import iou
from tests.models.sample import Truth, load

PROFILE = load_profile("packaged")


@pytest.fixture(scope="module")
def pictures() -> list[Truth]:
    return load()


def test_every_profile_has_them() -> None:
    assert all({"bystanders", "matte"} <= load_profile(name).roles.keys() for name in available())


def test_bystanders_are_found_in_every_picture_of_people_and_small_or_cut_off_ones_too(pictures: list[Truth]) -> None:
    bystanders = PROFILE.load("bystanders")
    people = [truth.image for truth in pictures if len(truth.boxes)][:24]
    halves = [image[image.shape[0] // 2 :] for image in people]
    framed = [np.pad(image[::4, ::4], ((150, 0), (150, 150), (0, 0)), constant_values=120) for image in people]
    shares = [np.mean([len(d.boxes) > 0 for d in bystanders.detect(images)]) for images in (people, halves, framed)]
    assert shares[0] == 1 and min(shares[1:]) > 0.85


def test_bystanders_leave_backgrounds(pictures: list[Truth]) -> None:
    flat = np.full((300, 400, 3), 120, np.uint8)
    empty = [flat, *(truth.image for truth in pictures if not len(truth.boxes))]
    kept = [not len(detections.boxes) for detections in PROFILE.load("bystanders").detect(empty)]
    assert kept[0] and sum(kept) >= 3


def test_bystanders_lie_in_the_image_best_first(pictures: list[Truth]) -> None:
    images = [truth.image for truth in pictures[:6]]
    for image, detections in zip(images, PROFILE.load("bystanders").detect(images), strict=True):
        height, width = image.shape[:2]
        assert (detections.boxes >= 0).all() and (detections.boxes <= [width, height, width, height]).all()
        assert (
            np.diff(detections.scores) <= 0
        ).all() and detections.boxes.dtype == detections.scores.dtype == np.float32


def test_mattes_cover_people_and_leave_out_what_is_around_them(pictures: list[Truth]) -> None:
    cuts = []
    for truth in pictures:
        alone = (iou(truth.boxes, truth.boxes).sum(axis=1) < 1.01) if len(truth.boxes) else []
        for box, joints in zip(truth.boxes[alone], truth.joints[alone], strict=True):
            x1, y1, x2, y2 = (max(int(v), 0) for v in box)
            if y2 - y1 > 150:
                cuts.append((truth.image[y1:y2, x1:x2], joints[joints[:, 2] > 0, :2] - [x1, y1]))
    cuts = cuts[:20]
    mattes = PROFILE.load("matte").mattes([image for image, _ in cuts])
    covered, corners = [], []
    for (image, joints), matte in zip(cuts, mattes, strict=True):
        assert matte.shape == image.shape[:2] and matte.dtype == np.float32 and 0 <= matte.min() <= matte.max() <= 1
        x, y = np.clip(joints, 0, [matte.shape[1] - 1, matte.shape[0] - 1]).astype(int).T
        covered.append((matte[y, x] > 0.5).mean())
        corners.append(np.mean([matte[0, 0], matte[0, -1]]))
    assert np.median(covered) > 0.9 and np.median(corners) < 0.1
