"""Cut-outs that may be shown: sharp, bright, of one person, and not twice."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from include.models import Detections
from laion_people.steps.compose.cutouts import (
    BLURRED,
    UNATTACHED,
    blur,
    covers_joints,
    is_dark,
    is_scene,
    look_at,
    strangers,
    unattached,
    with_surroundings,
)

NOBODY = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
JOINTS = np.array([[50.0, 40], [50, 200]])


def photograph(seed: int) -> Image.Image:
    """Shapes of all sizes, as in photographs."""
    rng = np.random.default_rng(seed)
    layers = [Image.fromarray(rng.integers(0, 256, (n * 3, n * 2, 3), np.uint8)) for n in (2, 5, 12, 40)]
    tint = rng.uniform(0.5, 1.3, 3)
    mean = np.mean([layer.resize((200, 300)) for layer in layers], axis=0)
    return Image.fromarray(np.clip(mean * tint, 0, 255).astype(np.uint8))


def whole(cutout: tuple[int, ...]) -> np.ndarray:
    return np.ones((cutout[3] - cutout[1], cutout[2] - cutout[0]), np.float32)


def seen(image: Image.Image, cutout: tuple[int, ...] = (20, 20, 180, 280)) -> object:
    return look_at(image, np.array(cutout), JOINTS, NOBODY, whole(cutout))


def test_more_blur_is_measured_as_more_whatever_its_direction() -> None:
    luma = np.asarray(photograph(1).convert("L").resize((400, 600)), np.float32)
    sigmas = [blur(cv2.GaussianBlur(luma, (0, 0), sigma)) for sigma in (1, 2, 4, 8)]
    assert sigmas == sorted(sigmas) and sigmas[0] > blur(luma)
    for kernel in ((31, 1), (1, 31)):  # a camera that moved
        assert blur(cv2.blur(luma, kernel)) > BLURRED


def test_contrast_is_not_sharpness() -> None:
    luma = np.asarray(photograph(1).convert("L"), np.float32)
    assert blur(luma) == pytest.approx(blur(128 + luma / 4), abs=1e-3)


def test_people_in_black_are_not_dark_if_there_is_light_on_them() -> None:
    image = photograph(2)
    suit = image.copy()
    suit.paste((5, 5, 8), (20, 60, 180, 280))
    assert seen(image).unfit == seen(suit).unfit == ""
    assert seen(ImageEnhance.Brightness(image).enhance(0.3)).unfit == "dark"


def test_boxes_that_hold_none_of_the_person_s_joints_are_strangers() -> None:
    boxes = np.array([[0, 0, 100, 220], [45, 35, 55, 45], [120, 10, 150, 60], [120, 10, 150, 60]], np.float32)
    bystanders = Detections(boxes, np.array([0.9, 0.5, 0.3, 0.1], np.float32))
    assert strangers(bystanders, JOINTS).tolist() == [False, False, True, False]
    assert not strangers(NOBODY, JOINTS).any()


def test_a_picture_is_known_again_whoever_saved_it() -> None:
    image = photograph(3)
    smaller = image.resize((150, 225))
    known = seen(image)
    assert known.may_be_same(look_at(smaller, np.array([15, 15, 135, 210]), JOINTS, NOBODY, whole((15, 15, 135, 210))))
    assert known.may_be_same(seen(ImageEnhance.Brightness(image).enhance(0.8)))
    assert known.may_be_same(seen(image.filter(ImageFilter.SHARPEN), (24, 30, 170, 270)))
    assert not any(known.may_be_same(seen(photograph(seed))) for seed in range(10, 30))


def test_a_matte_must_cover_the_joints_but_for_a_hand() -> None:
    matte = np.zeros((100, 100), np.float32)
    matte[:, :50] = 1
    joints = np.array([[10.0, y] for y in range(0, 100, 5)])
    assert covers_joints(matte, joints)
    joints[0] = 90, -3
    assert covers_joints(matte, joints)
    joints[:5, 0] = 90
    assert not covers_joints(matte, joints)


def test_pieces_of_people_that_hang_together_with_no_joint_are_others() -> None:
    matte = np.zeros((300, 200), np.float32)
    matte[20:250, 30:80] = 1
    assert unattached(matte, JOINTS) == 0
    matte[100:140, 190:] = 1  # an elbow at the edge
    assert unattached(matte, JOINTS) > UNATTACHED
    matte[100:120, 30:] = 1  # it is the person's own
    assert unattached(matte, JOINTS) == 0


def test_around_a_cutout_is_looked_for_others_within_the_image() -> None:
    assert with_surroundings(np.array([100, 100, 200, 300]), (400, 400)).tolist() == [50, 50, 250, 350]
    assert with_surroundings(np.array([10, 10, 200, 300]), (220, 310)).tolist() == [0, 0, 220, 310]


def test_documents_and_grey_pictures_are_no_scenes() -> None:
    place = photograph(4)
    assert is_scene(place)
    assert not is_scene(place.convert("L").convert("RGB"))
    place.paste("white", (0, 0, 200, 120))
    assert not is_scene(place)


def test_a_picture_with_lights_is_not_dark() -> None:
    night = Image.new("RGB", (100, 100), (10, 10, 10))
    assert is_dark(night)
    night.paste((200, 200, 200), (0, 0, 100, 20))
    assert not is_dark(night)
