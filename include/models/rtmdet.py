"""RTMDet (https://arxiv.org/abs/2212.07784) of mmdet: boxes of people.

Gives the same as mmdet's ``inference_detector`` for the class person: on a CPU each thread takes another image, on a
GPU images are prepared and seen in batches, and only people are decoded. The limits on boxes per level and image count
only people; in mmdet they count all classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from include.models import Detections
from include.models.errors import ModelUsageError
from include.models.networks import Graph, Network
from include.models.openmmlab import Normalise, build, load_weights, nms, read_config
from include.models.pixels import bilinear, on_device, upload
from include.models.placement import Placement, place
from include.models.regions import clip_boxes
from include.models.runtime import Pool

PERSON = 0  # index of the class in COCO-80, and in a detector of people only
CPU_BATCH = 2  # with more, a layer's output no longer fits into a CPU's cache
LARGE = 4_000_000  # pixels; larger images are made smaller before they go to a GPU


class RTMDet:
    """Detector; safe to use from many threads."""

    def __init__(
        self,
        weights: Path,
        *,
        config: str,
        score: float,
        precision: str,
        device: str = "auto",
        batch_size: int = 32,
        threads: int | None = None,
    ) -> None:
        """Opens the model.

        weights: the checkpoint's state_dict, .safetensors; config: path below mmdet's configs
        (``rtmdet/rtmdet_m_8xb32-300e_coco.py``), or one of mmpose's detectors of people alone
        (``mmpose/demo/mmdetection_cfg/rtmdet_m_640-8xb32_coco-person.py``); score: a person's must be higher;
        precision, device: as in ``placement.place``; batch_size: images a pass, on a GPU; threads: default all cores.
        """
        settings = read_config("mmdet", config)
        self._side, self._padding = _canvas(config, settings.test_dataloader.dataset.pipeline)
        self._placement, self._pool = place(device, precision), Pool(threads)
        torch.set_num_threads(self._pool.threads)
        self._normalise = Normalise(settings.model.data_preprocessor, self._placement)
        model = build("mmdet", settings)
        load_weights(model, weights)
        batch_size = batch_size if self._placement.on_gpu else min(batch_size, CPU_BATCH)
        head = _people_only(model, self._placement).bbox_head
        shape = 3, self._side, self._side
        layers = Layers(model, distances=not self._placement.as_graph)
        self._network = Network(layers, self._placement, shape, batch_size, self._pool)
        self._distances = [
            Graph(Distances(head, level), (head.in_channels, 8, 8), any_size=True)
            for level in range(len(head.rtm_reg) if self._placement.as_graph else 0)
        ]
        self._reach = head.stacked_convs  # of a distance in each direction, in points: the layers are 3 x 3
        self._score, self._test = score, settings.model.test_cfg
        strides = settings.model.bbox_head.anchor_generator.strides
        self._points = _points(self._side, strides).to(self._placement.device)

    def detect(self, images: Sequence[np.ndarray]) -> list[Detections]:
        return [detections for batch in self._network.map(self._detect, images) for detections in batch]

    @torch.inference_mode()
    def _detect(self, images: Sequence[np.ndarray]) -> list[Detections]:
        levels = self._network(self._prepared(images))
        scores, others = [level.sigmoid() for level in levels[: len(levels) // 2]], levels[len(levels) // 2 :]
        if self._placement.as_graph:
            others = [self._where_likely(*level) for level in zip(self._distances, scores, others, strict=True)]
        return self._decode(scores, others, images)

    def _where_likely(self, graph: Graph, scores: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """A level's distances, from the least part of its features that all of an image's likely points need.

        Elsewhere they are 0, or wrong: nobody reads them. A tenth of the work of an image that shows nobody is saved.
        """
        distances = torch.zeros(1, 4, *scores.shape[2:])
        points = (scores[0, 0] > self._score).nonzero()
        if len(points):
            top, left = (points.amin(0) - self._reach).clamp(min=0).tolist()
            bottom, right = (points.amax(0) + self._reach + 1).tolist()
            part = features[:, :, top:bottom, left:right]
            distances[:, :, top:bottom, left:right] = graph(part.contiguous())[0]
        return distances

    def _prepared(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        if self._placement.on_gpu:
            device = self._placement.device
            return self._normalise(letterboxes_on_device(images, self._side, self._padding, device, self._pool))
        inputs = torch.empty(len(images), 3, self._side, self._side)

        def prepare(image: np.ndarray, out: np.ndarray) -> None:
            self._normalise.into(letterbox(image, self._side, self._padding), out)

        self._pool.map(prepare, images, inputs.numpy())
        return inputs

    def _decode(
        self, scores: Sequence[torch.Tensor], distances: Sequence[torch.Tensor], images: Sequence[np.ndarray]
    ) -> list[Detections]:
        """scores: of people [images, 1, rows, columns] a level; distances: pixels from each point to left, top,
        right, bottom [images, 4, rows, columns] a level."""
        likely = torch.cat([self._best(level.flatten(1)) for level in scores], 1)
        image, point = (likely > self._score).nonzero(as_tuple=True)
        sides = torch.cat([level.flatten(2) for level in distances], 2)[image, :, point]
        centre = self._points[point]
        boxes = torch.cat([centre - sides[:, :2], centre + sides[:, 2:]], 1).clamp_(0, self._side)
        candidates = torch.cat([boxes, likely[image, point, None], image[:, None]], 1).double()
        candidates = candidates[(boxes[:, 2:] > boxes[:, :2]).all(1)]
        # One suppression for all images: each image's boxes are moved to a place of their own. Doubles keep this exact.
        apart = candidates[:, :4] + candidates[:, 5:] * (self._side + 1)
        kept = candidates[nms(apart, candidates[:, 4].contiguous(), self._test.nms.iou_threshold)].cpu().numpy()
        return [self._people(kept[kept[:, 5] == i, :5], images[i]) for i in range(len(images))]

    def _best(self, scores: torch.Tensor) -> torch.Tensor:
        """A level's scores [images, points]; all but the best ``nms_pre`` (of the config) become 0."""
        if scores.shape[1] <= self._test.nms_pre:
            return scores
        return scores * (scores >= scores.topk(self._test.nms_pre, 1).values[:, -1:])

    def _people(self, rows: np.ndarray, image: np.ndarray) -> Detections:
        """rows: boxes in pixels of the letterbox, and scores, float64 [n, 5], best first."""
        height, width = image.shape[:2]
        new_width, new_height = fitted(image, self._side)
        rows = rows[: self._test.max_per_img]
        boxes = clip_boxes(rows[:, :4] * np.tile([width / new_width, height / new_height], 2), image)
        seen = (boxes[:, 2:] > boxes[:, :2]).all(1)  # others lie in the padding
        return Detections(boxes[seen], rows[seen, 4].astype(np.float32))


class Layers(torch.nn.Module):
    """The model without preparation and decoding: logits of each level, and then its distances, or else its features,
    from which ``Distances`` are computed."""

    def __init__(self, model: Any, distances: bool) -> None:
        super().__init__()
        self._model, self._whole = model, distances

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        features = self._model.extract_feat(inputs)
        logits, distances = self._model.bbox_head(features)
        return (*logits, *(distances if self._whole else features))  # what a graph doesn't give, it doesn't compute


class Distances(torch.nn.Module):
    """The distances of one level, from its features."""

    def __init__(self, head: Any, level: int) -> None:
        super().__init__()
        self._head, self._level = head, level

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor]:
        return (self._head([features] * len(self._head.rtm_reg))[1][self._level],)


def _canvas(config: str, pipeline: list[dict]) -> tuple[int, int]:
    """The side of the square into which the config's test pipeline fits images, and the grey of the rest."""
    steps = {step["type"]: step for step in pipeline}
    resize, pad = steps.get("Resize", {}), steps.get("Pad", {})
    if not resize.get("keep_ratio") or resize["scale"] != pad.get("size") or len({*resize["scale"]}) != 1:
        raise ModelUsageError(
            "bad-profile", f"{config}: RTMDet's configs resize images to a square and pad them; this one doesn't"
        )
    return resize["scale"][0], pad["pad_val"]["img"][0]


def _people_only(model: Any, placement: Placement) -> Any:
    """Moves the model to its place. Its last layers give only the class person, in float32: in half precision, a
    distance of 640 pixels would be off by several."""
    model = model.to(placement.device, placement.dtype, memory_format=torch.channels_last)
    for conv in (*model.bbox_head.rtm_cls, *model.bbox_head.rtm_reg):
        conv.float().register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
    for conv in model.bbox_head.rtm_cls:
        conv.weight.data, conv.bias.data = (p.data[PERSON : PERSON + 1] for p in (conv.weight, conv.bias))
    return model


def _points(side: int, strides: Sequence[int]) -> torch.Tensor:
    """The points, x, y, from which distances are measured: float32 [points, 2], level by level, row by row."""
    levels = [torch.arange(0, side, stride, dtype=torch.float32) for stride in strides]
    return torch.cat([torch.stack(torch.meshgrid(at, at, indexing="xy"), -1).flatten(0, 1) for at in levels])


def fitted(image: np.ndarray, side: int) -> tuple[int, int]:
    """Width and height of the image with its longer side scaled to ``side``, rounded as mmcv does."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    return max(1, int(width * scale + 0.5)), max(1, int(height * scale + 0.5))


def letterbox(image: np.ndarray, side: int, padding: int) -> np.ndarray:
    """The image, uint8 [side, side, 3], in the upper left corner of a square."""
    canvas = np.full((side, side, 3), padding, np.uint8)
    width, height = fitted(image, side)
    canvas[:height, :width] = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return canvas


def letterboxes_on_device(
    images: Sequence[np.ndarray], side: int, padding: int, device: torch.device, pool: Pool
) -> torch.Tensor:
    """As ``letterbox``, all at once: float32 [images, side, side, 3]. Threads make large images smaller first."""
    sizes = np.array([fitted(image, side) for image in images])

    def smaller(image: np.ndarray, size: np.ndarray) -> np.ndarray:
        large = image.shape[0] * image.shape[1] > LARGE
        return cv2.resize(image, size.tolist(), interpolation=cv2.INTER_LINEAR) if large else image

    pixels = upload(pool.map(smaller, images, sizes), device)
    width, height = on_device(np.ascontiguousarray(sizes.T), device)
    centres = torch.arange(side, device=device) + 0.5
    columns = centres * (pixels.widths / width)[:, None] - 0.5
    rows = centres * (pixels.heights / height)[:, None] - 0.5
    read = bilinear(pixels, torch.arange(len(images), device=device), columns, rows, black_outside=False)
    inside = (centres < height[:, None])[:, :, None] & (centres < width[:, None])[:, None, :]
    return torch.where(inside[..., None], read, padding)
