"""Compares RTMDet with mmdet's own inference, on the same seeded weights."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from include.models import Detections, rtmdet
from include.models.errors import ModelError, ModelUsageError
from include.models.regions import iou
from include.models.rtmdet import RTMDet
from include.models.runtime import Pool
from tests.models import seeded

import torch  # isort: skip
from mmdet.apis import inference_detector  # isort: skip
from mmengine.registry import DefaultScope  # isort: skip

CONFIG = "rtmdet/rtmdet_tiny_8xb32-300e_coco.py"
EXPONENTIAL = "rtmdet/rtmdet_l_8xb32-300e_coco.py"  # larger models give logarithms of distances
SCORE = 0.2


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.nn.Module, Path]:
    return seeded.detector(CONFIG, tmp_path_factory.mktemp("rtmdet"))


@pytest.fixture(scope="module")
def ours(theirs) -> RTMDet:
    return open_ours(theirs[1])


def open_ours(weights: Path, precision: str = "fp32", batch_size: int = 4) -> RTMDet:
    return RTMDet(weights, config=CONFIG, score=SCORE, precision=precision, device="cpu", batch_size=batch_size)


def images() -> list[np.ndarray]:
    """Wide, tall, small, and large."""
    first, second = seeded.photo("004.jpg"), seeded.photo("010.jpg")
    return [first, second[:, :150], first[50:90, 30:100], np.tile(second, (4, 5, 1))]


def expected(model: torch.nn.Module, image: np.ndarray) -> Detections:
    with DefaultScope.overwrite_default_scope("mmdet"):
        instances = inference_detector(model, np.ascontiguousarray(image[:, :, ::-1])).pred_instances.numpy()
    people = (instances.labels == 0) & (instances.scores > SCORE)
    height, width = image.shape[:2]
    boxes = instances.bboxes[people].clip(0, [width, height, width, height])
    seen = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return Detections(boxes[seen], instances.scores[people][seen])


def assert_equal(detections: Detections, wanted: Detections, pixels: float = 0.5, score: float = 1e-3) -> None:
    """The same people; two with nearly equal scores may have changed places."""
    np.testing.assert_allclose(detections.scores, wanted.scores, atol=score)
    apart = np.abs(detections.boxes[:, None] - wanted.boxes[None]).max(2)
    nearest = linear_sum_assignment(apart)[1]
    np.testing.assert_allclose(detections.boxes, wanted.boxes[nearest], atol=pixels)
    np.testing.assert_allclose(detections.scores, wanted.scores[nearest], atol=score)


def test_boxes_and_scores_are_those_of_inference_detector(theirs, ours):
    wanted = [expected(theirs[0], image) for image in images()]
    assert sum(len(people.boxes) for people in wanted) > 100
    for detections, people in zip(ours.detect(images()), wanted, strict=True):
        assert_equal(detections, people)


@pytest.mark.parametrize(
    ("config", "side", "nms_pre"),
    [
        ("rtmdet_m_640-8xb32_coco-person.py", 640, 1000),
        ("rtmdet_nano_320-8xb32_coco-person.py", 320, 1000),
        ("rtmdet_nano_320-8xb32_coco-person.py", 320, 30),  # fewer than the likely points of a level
    ],
)
def test_a_detector_of_people_alone_gives_what_inference_detector_gives(
    config: str, side: int, nms_pre: int, tmp_path: Path
):
    config = f"mmpose/demo/mmdetection_cfg/{config}"
    model, weights = seeded.detector(config, tmp_path, side)
    alone = RTMDet(weights, config=config, score=SCORE, precision="fp32", device="cpu")
    assert model.bbox_head.num_classes == 1 and model.bbox_head.test_cfg.nms_pre == alone._test.nms_pre == 1000
    model.bbox_head.test_cfg.nms_pre = alone._test.nms_pre = nms_pre
    (detections,) = alone.detect(images()[1:2])
    assert len(detections.boxes) > 5
    assert_equal(detections, expected(model, images()[1]))


def test_suppression_matters_in_these_tests(ours, monkeypatch: pytest.MonkeyPatch):
    kept = ours.detect(images()[:2])
    monkeypatch.setattr(rtmdet, "nms", lambda boxes, scores, overlap: scores.argsort(descending=True))
    for few, many in zip(kept, ours.detect(images()[:2]), strict=True):
        assert len(many.boxes) > 1.2 * len(few.boxes)


def test_what_is_found_is_typed_sorted_and_inside_the_image(ours):
    for image, detections in zip(images(), ours.detect(images()), strict=True):
        height, width = image.shape[:2]
        assert detections.boxes.dtype == detections.scores.dtype == np.float32
        assert (
            (np.diff(detections.scores) <= 0).all()
            and (detections.scores > SCORE).all()
            and (detections.scores <= 1).all()
        )
        assert (detections.boxes >= 0).all() and (detections.boxes <= [width, height, width, height]).all()
        assert (detections.boxes[:, 2:] > detections.boxes[:, :2]).all()


@pytest.mark.parametrize("value", [None, 0, 255], ids=["noise", "black", "white"])
def test_the_layers_give_what_those_of_mmdet_give(theirs, ours, value: int | None):
    inputs = torch.randn(1, 3, 640, 640, generator=torch.Generator().manual_seed(0))
    if value is not None:
        ours._normalise.into(np.full((640, 640, 3), value, np.uint8), inputs[0].numpy())
    with torch.inference_mode():
        scores, distances = theirs[0](inputs, mode="tensor")
    levels = ours._network(inputs)
    given = [graph(level)[0] for graph, level in zip(ours._distances, levels[len(scores) :], strict=True)]
    for level, wanted in zip(
        [*levels[: len(scores)], *given], [*(classes[:, :1] for classes in scores), *distances], strict=True
    ):
        torch.testing.assert_close(level, wanted, atol=1e-4 * float(wanted.abs().max()), rtol=0)


@pytest.mark.parametrize(
    "likely",
    [[], [(0, 0)], [(79, 79)], [(0, 79), (79, 0)], [(40, 3)], [(20, 30), (22, 60), (51, 33)]],
    ids=["none", "corner", "other corner", "all", "edge", "inside"],
)
def test_distances_of_likely_points_are_those_of_the_whole_image(ours, likely: list[tuple[int, int]]):
    features = torch.randn(1, 96, 80, 80, generator=torch.Generator().manual_seed(0))
    scores = torch.full((1, 1, 80, 80), SCORE)
    graph = ours._distances[0]
    for row, column in likely:
        scores[0, 0, row, column] = SCORE + 0.1
    part, whole = ours._where_likely(graph, scores, features), graph(features)[0]
    assert part.shape == whole.shape
    assert torch.count_nonzero(part) == 0 or likely
    for row, column in likely:
        torch.testing.assert_close(part[..., row, column], whole[..., row, column], atol=1e-4, rtol=1e-5)


def test_a_batch_of_mixed_sizes_gives_what_single_images_give(ours):
    many = [*images(), images()[0]]
    for image, detections in zip(many, ours.detect(many), strict=True):
        assert_equal(detections, ours.detect([image])[0], 1e-2, 1e-4)


def test_images_of_any_size(ours):
    sizes = [(1, 1), (1, 3000), (3000, 1), (2, 40_000), (5000, 4000)]
    detections = ours.detect([np.full((*size, 3), 90, np.uint8) for size in sizes])
    assert len(detections) == len(sizes) and all(f.boxes.shape == (len(f.scores), 4) for f in detections)


def test_no_images_no_detections(ours):
    assert ours.detect([]) == []


def test_running_out_of_memory_halves_the_batch_and_changes_nothing(theirs, monkeypatch: pytest.MonkeyPatch):
    model, singly = (open_ours(theirs[1], "bf16", batch_size) for batch_size in (2, 1))
    layers = model._network._layers

    def limited(inputs: torch.Tensor) -> tuple:
        if len(inputs) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")
        return layers(inputs)

    monkeypatch.setattr(model._network, "_layers", limited)
    for detections, wanted in zip(model.detect(images()[:3]), singly.detect(images()[:3]), strict=True):
        assert_equal(detections, wanted, 1e-2, 1e-4)


def test_two_threads_at_once_get_what_one_gets(ours):
    alone = ours.detect(images()[:2])
    with ThreadPoolExecutor(2) as pool:
        for together in pool.map(ours.detect, [images()[:2]] * 3):
            for detections, wanted in zip(together, alone, strict=True):
                np.testing.assert_array_equal(detections.boxes, wanted.boxes)


def test_bf16_finds_nearly_the_same(theirs, ours):
    detections, wanted = (model.detect(images()[:2]) for model in (open_ours(theirs[1], "bf16"), ours))
    for half, full in zip(detections, wanted, strict=True):
        sure = full.boxes[full.scores > SCORE + 0.1]
        assert len(sure) and np.median(iou(sure, half.boxes).max(1)) > 0.9


def test_the_letterbox_of_a_gpu_is_that_of_cv2():
    photo = seeded.photo("004.jpg")
    pictures = [*images(), photo[:1], photo[:, :1], photo[:1, :1], np.tile(photo, (10, 8, 1))]
    prepared = rtmdet.letterboxes_on_device(pictures, 640, 114, torch.device("cpu"), Pool(2)).numpy()
    for image, pixels in zip(pictures, prepared, strict=True):
        assert np.abs(pixels - rtmdet.letterbox(image, 640, 114)).max() <= 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("neck.out_convs.0.bn.bias"), r"1 missing \(neck.out_convs.0.bn.bias"),
        (lambda state: state.update({"ema.step": torch.ones(1)}), r"1 unexpected \(ema.step"),
        (lambda state: state.update({"backbone.stem.0.conv.weight": torch.ones(1)}), "1 of another shape"),
    ],
    ids=["missing", "unexpected", "shape"],
)
def test_weights_of_another_model_are_told_in_one_line(theirs, tmp_path: Path, change: Callable, message: str):
    state = {name: tensor.clone() for name, tensor in theirs[0].state_dict().items()}
    change(state)
    seeded.save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match=message) as error:
        open_ours(tmp_path / "other.safetensors")
    assert "\n" not in str(error.value)


def test_the_preprocessors_statistics_in_a_checkpoint_do_no_harm(theirs, ours, tmp_path: Path):
    state = {name: tensor.clone() for name, tensor in theirs[0].state_dict().items()}
    state["data_preprocessor.mean"] = torch.zeros(3, 1, 1)
    seeded.save_file(state, tmp_path / "older.safetensors")
    detections = open_ours(tmp_path / "older.safetensors").detect(images()[:1])[0]
    np.testing.assert_array_equal(detections.boxes, ours.detect(images()[:1])[0].boxes)


def test_a_damaged_file_is_told_in_one_line(tmp_path: Path):
    (tmp_path / "damaged.safetensors").write_bytes(b"not tensors")
    with pytest.raises(ModelError, match=r"\[wrong-weights\]$"):
        open_ours(tmp_path / "damaged.safetensors")


def test_a_config_of_another_kind_is_refused(theirs):
    with pytest.raises(ModelUsageError, match=r"\[bad-profile\]$"):
        RTMDet(theirs[1], config="yolox/yolox_s_8xb8-300e_coco.py", score=SCORE, precision="fp32")
