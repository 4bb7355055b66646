"""Compares RTMPose with mmpose's own inference, on the same seeded weights."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from include.models import Poses, rtmpose
from include.models.errors import ModelUsageError
from include.models.rtmpose import RTMPose
from include.models.runtime import Pool
from tests.models import seeded

import torch  # isort: skip
from mmpose.apis import inference_topdown  # isort: skip

BODY = "body_2d_keypoint/rtmpose/coco/rtmpose-t_8xb256-420e_coco-256x192.py"
WHOLE_BODY = "wholebody_2d_keypoint/rtmpose/ubody/rtmpose-t_8xb64-270e_coco-ubody-wholebody-256x192.py"
HALPE = "body_2d_keypoint/rtmpose/body8/rtmpose-t_8xb1024-700e_body8-halpe26-256x192.py"
SIZE = (192, 256)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.nn.Module, Path]:
    return seeded.pose(BODY, tmp_path_factory.mktemp("rtmpose"))


@pytest.fixture(scope="module")
def ours(theirs) -> RTMPose:
    return open_ours(theirs[1])


def open_ours(weights: Path, config: str = BODY, *, flip: bool = True, precision: str = "fp32") -> RTMPose:
    return RTMPose(weights, config=config, flip_test=flip, precision=precision, device="cpu", batch_size=5)


def images() -> list[np.ndarray]:
    return [seeded.photo("004.jpg"), seeded.photo("010.jpg")[:, :150], seeded.photo("020.jpg")]


def boxes() -> list[np.ndarray]:
    """Boxes of all shapes, some partly outside; none in the second image."""
    rng = np.random.default_rng(0)
    corners = rng.uniform(-40, 250, (6, 2))
    drawn = np.concatenate([corners, corners + rng.uniform(8, 300, (6, 2))], 1).astype(np.float32)
    return [drawn[:4], drawn[:0], drawn[4:]]


def expected(model: torch.nn.Module, image: np.ndarray, people: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    samples = inference_topdown(model, np.ascontiguousarray(image[:, :, ::-1]), people)
    instances = [sample.pred_instances for sample in samples]
    return np.concatenate([i.keypoints for i in instances]), np.concatenate([i.keypoint_scores for i in instances])


def assert_equal(keypoints: np.ndarray, points: np.ndarray, scores: np.ndarray) -> None:
    np.testing.assert_allclose(keypoints[:, :, :2], points, atol=0.5)
    np.testing.assert_allclose(keypoints[:, :, 2], scores.clip(0, 1), atol=1e-3)


@pytest.mark.parametrize("flip", [False, True], ids=["once", "mirrored too"])
def test_keypoints_and_scores_are_those_of_inference_topdown(theirs, flip: bool):
    model, weights = theirs
    model.test_cfg["flip_test"] = flip
    estimated = open_ours(weights, flip=flip).estimate(images(), boxes())
    for image, people, poses in zip(images(), boxes(), estimated, strict=True):
        if len(people):
            points, scores = expected(model, image, people)
            assert_equal(poses.keypoints, points, scores)
            assert points.std(0).min() > 1 and scores.std() > 0.01  # the weights tell people apart
        assert poses.keypoints.shape == (len(people), 17, 3) and poses.extra is None


def test_mirroring_matters_in_these_tests(theirs, ours):
    once = open_ours(theirs[1], flip=False).estimate(images(), boxes())
    assert np.abs(once[0].keypoints - ours.estimate(images(), boxes())[0].keypoints).max() > 5


@pytest.mark.parametrize(("config", "keypoints"), [(WHOLE_BODY, 133), (HALPE, 26)], ids=["whole body", "halpe"])
def test_a_model_of_more_keypoints_gives_the_body_and_the_whole_body_the_rest(tmp_path: Path, config, keypoints):
    model, weights = seeded.pose(config, tmp_path)
    poses = open_ours(weights, config).estimate(images(), boxes())
    model.test_cfg["flip_test"] = True
    points, scores = expected(model, images()[0], boxes()[0])
    assert points.shape[1] == keypoints
    assert_equal(poses[0].keypoints, points[:, :17], scores[:, :17])
    if keypoints == 133:
        assert_equal(poses[0].extra, points[:, 17:], scores[:, 17:])
        assert poses[1].extra.shape == (0, 116, 3) and poses[2].extra.shape == (2, 116, 3)
    else:
        assert poses[0].extra is None


def test_scores_beyond_0_and_1_are_decoded_as_mmpose_does_and_cut_off():
    from mmpose.codecs.utils import get_simcc_maximum

    rng = np.random.default_rng(0)
    x, y = (rng.normal(0.3, 0.5, (4, 17, n)).astype(np.float32) for n in (6, 8))
    points, scores = rtmpose.decode(torch.from_numpy(x), torch.from_numpy(y), 2.0)
    theirs, their_scores = get_simcc_maximum(x, y)
    assert (their_scores < 0).any() and (their_scores > 1).any()
    np.testing.assert_allclose(points.numpy(), theirs / 2)
    np.testing.assert_allclose(scores.numpy(), their_scores.clip(0, 1))


def test_what_is_found_is_typed_and_scored_from_0_to_1(ours):
    for poses in ours.estimate(images(), boxes()):
        assert poses.keypoints.dtype == poses.scores.dtype == np.float32
        assert (poses.keypoints[:, :, 2] >= 0).all() and (poses.keypoints[:, :, 2] <= 1).all()
        np.testing.assert_allclose(poses.scores, poses.keypoints[:, :, 2].mean(1), atol=1e-6)


def test_people_of_many_images_in_batches_are_as_each_alone(ours):
    estimated = ours.estimate(images(), boxes())
    for image, people, poses in zip(images(), boxes(), estimated, strict=True):
        for box, keypoints in zip(people, poses.keypoints, strict=True):
            np.testing.assert_allclose(ours.estimate([image], [box[None]])[0].keypoints[0], keypoints, atol=1e-3)


def test_no_people_no_poses(ours):
    assert ours.estimate([], []) == []
    assert [p.keypoints.shape for p in ours.estimate(images(), [np.empty((0, 4), np.float32)] * 3)] == [(0, 17, 3)] * 3


def test_boxes_of_no_area_and_images_of_any_size_give_numbers(ours):
    flat = np.array([[20, 20, 20, 20], [5, 9, 5, 60], [0, 0, 0, 0], [-9, -9, -9, -9]], np.float32)
    sizes = [(1, 1), (64, 64), (1, 40_000), (40_000, 2), (5000, 4000)]
    for size in sizes:
        whole = np.array([[0, 0, size[1], size[0]]], np.float32)
        poses = ours.estimate([np.full((*size, 3), 90, np.uint8)], [np.concatenate([flat, whole])])[0]
        assert np.isfinite(poses.keypoints).all()


def test_running_out_of_memory_halves_the_batch_and_changes_nothing(theirs, monkeypatch: pytest.MonkeyPatch):
    model, wanted = open_ours(theirs[1], precision="bf16"), open_ours(theirs[1], precision="bf16")
    layers = model._network._layers

    def limited(inputs: torch.Tensor) -> tuple:
        if len(inputs) > 2 * 2:  # two people, each mirrored too
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return layers(inputs)

    monkeypatch.setattr(model._network, "_layers", limited)
    wanted._network._batches.size = 2
    for poses, people in zip(model.estimate(images(), boxes()), wanted.estimate(images(), boxes()), strict=True):
        np.testing.assert_allclose(poses.keypoints, people.keypoints, atol=1e-3)


def test_two_threads_at_once_get_what_one_gets(ours):
    alone = ours.estimate(images(), boxes())

    def again(_: int) -> list[Poses]:
        return ours.estimate(images(), boxes())

    with ThreadPoolExecutor(2) as pool:
        for together in pool.map(again, range(4)):
            for poses, wanted in zip(together, alone, strict=True):
                np.testing.assert_array_equal(poses.keypoints, wanted.keypoints)


def test_bf16_finds_nearly_the_same(theirs, ours):
    keypoints, wanted = (
        m.estimate(images(), boxes())[0].keypoints for m in (open_ours(theirs[1], precision="bf16"), ours)
    )
    sides = (boxes()[0][:, 2:] - boxes()[0][:, :2]).max(1)
    apart = np.linalg.norm(keypoints[:, :, :2] - wanted[:, :, :2], axis=2) / sides[:, None]
    assert np.median(apart) < 0.02


def test_the_crops_of_a_gpu_are_those_of_cv2():
    photo = seeded.photo("004.jpg")
    pictures = [*images(), photo[:1], np.tile(photo, (10, 8, 1))]
    which = np.array([0, 0, 1, 2, 2, 3, 4, 4])
    people = np.concatenate([boxes()[0], boxes()[2], [[0, 0, 90, 1], [300, 900, 2000, 3000]]]).astype(np.float32)
    centres, scales = rtmpose.regions(people, 1.25, SIZE)
    cut = rtmpose.crops_on_device(pictures, which, centres, scales, SIZE, torch.device("cpu"), Pool(2)).numpy()
    wanted = [rtmpose.crop(pictures[i], c, s, SIZE) for i, c, s in zip(which, centres, scales, strict=True)]
    assert np.abs(cut - wanted).max() <= 2
    assert np.std(wanted, axis=(1, 2, 3)).max() > 50 and sum(crop.any() for crop in wanted) >= 6


def test_models_of_another_kind_are_refused(theirs):
    for config in (
        "body_2d_keypoint/rtmpose/mpii/rtmpose-m_8xb64-210e_mpii-256x256.py",
        "body_2d_keypoint/topdown_heatmap/coco/td-hm_hrnet-w32_8xb64-210e_coco-256x192.py",
    ):
        with pytest.raises(ModelUsageError, match=r"\[bad-profile\]$"):
            open_ours(theirs[1], config)
