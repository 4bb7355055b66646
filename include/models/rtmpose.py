"""RTMPose (https://arxiv.org/abs/2303.07399) of mmpose: COCO-17 keypoints, or the 133 of COCO-WholeBody.

Gives the same as mmpose's ``inference_topdown``: on a CPU each thread takes another person, on a GPU people of many
images are cut out, seen and decoded in batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from include.models import COCO_KEYPOINTS, Poses
from include.models.errors import ModelUsageError
from include.models.networks import Network
from include.models.openmmlab import Normalise, build, load_weights, read_config
from include.models.pixels import Pixels, bilinear, on_device, upload
from include.models.placement import place
from include.models.regions import CV2_LIMIT
from include.models.runtime import Pool

from mmpose.apis.inference import dataset_meta_from_config  # isort: skip

BODY = len(COCO_KEYPOINTS)
WHOLE_BODY = 133
HALPE = 26  # Halpe's keypoints begin with those of COCO (https://github.com/Fang-Haoshu/Halpe-FullBody)
LARGE = 4_000_000  # pixels; from larger images, people are cut out before these go to a GPU


class RTMPose:
    """Pose estimator; safe to use from many threads."""

    def __init__(
        self,
        weights: Path,
        *,
        config: str,
        flip_test: bool,
        precision: str,
        device: str = "auto",
        batch_size: int = 64,
        threads: int | None = None,
    ) -> None:
        """Opens the model.

        weights: the checkpoint's state_dict, .safetensors; config: path below mmpose's configs, of a model of 17, 26 or
        133 keypoints (of 26 the first 17 are kept); flip_test: whether each person is also seen mirrored, which takes
        twice as long; precision, device: as in ``placement.place``; batch_size: people a pass, in half precision or on
        a GPU; threads: default all cores.
        """
        settings = read_config("mmpose", config)
        codec, keypoints = settings.model.head.get("decoder", {}), settings.model.head.get("out_channels")
        if codec.get("type") != "SimCCLabel" or codec.get("use_dark") or keypoints not in (BODY, HALPE, WHOLE_BODY):
            raise ModelUsageError(
                "bad-profile", f"{config}: should be an RTMPose model of {BODY}, {HALPE} or {WHOLE_BODY} keypoints"
            )
        self._size, self._split = tuple(codec["input_size"]), codec["simcc_split_ratio"]
        self._padding = _padding(config, settings.test_dataloader.dataset.pipeline)
        self._whole_body = keypoints == WHOLE_BODY
        self._placement, self._pool = place(device, precision), Pool(threads)
        mirrored = dataset_meta_from_config(settings)["flip_indices"]
        self._mirrored = torch.tensor(mirrored, device=self._placement.device) if flip_test else None
        torch.set_num_threads(self._pool.threads)
        self._normalise = Normalise(settings.model.data_preprocessor, self._placement)
        model = build("mmpose", settings)
        load_weights(model, weights)
        model.to(self._placement.device, self._placement.dtype, memory_format=torch.channels_last)
        model.head.float()  # it is small, and a position is the maximum of hundreds of nearly equal values
        self._network = Network(Layers(model), self._placement, (3, *self._size[::-1]), batch_size, self._pool)

    def estimate(self, images: Sequence[np.ndarray], boxes: Sequence[np.ndarray]) -> list[Poses]:
        counts = [len(its_boxes) for its_boxes in boxes]
        owners = np.repeat(np.arange(len(images)), counts)
        flat = np.concatenate([np.empty((0, 4), np.float32), *boxes]).astype(np.float32)

        def estimate(people: Sequence[int]) -> np.ndarray:
            present, which = np.unique(owners[people], return_inverse=True)
            return self._estimate([images[i] for i in present], which, flat[people])

        everyone = list(self._network.map(estimate, range(len(flat))))
        keypoints = np.concatenate(everyone) if everyone else np.empty((0, WHOLE_BODY, 3), np.float32)
        return [self._poses(people) for people in np.split(keypoints, np.cumsum(counts)[:-1])] if counts else []

    def _poses(self, keypoints: np.ndarray) -> Poses:
        body = keypoints[:, :BODY]
        return Poses(body, body[:, :, 2].mean(1), extra=keypoints[:, BODY:] if self._whole_body else None)

    @torch.inference_mode()
    def _estimate(self, images: Sequence[np.ndarray], which: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """Keypoints float32 [people, keypoints, 3] in pixels of the image; ``which`` is each person's image."""
        centres, scales = regions(boxes, self._padding, self._size)
        x, y = self._forward(self._prepared(images, which, centres, scales))
        points, scores = decode(x, y, self._split)
        on_image = points.cpu().numpy() / np.array(self._size, np.float32) * scales[:, None]
        on_image += (centres - scales / 2)[:, None]
        return np.concatenate([on_image, scores.cpu().numpy()[:, :, None]], 2)

    def _prepared(
        self, images: Sequence[np.ndarray], which: np.ndarray, centres: np.ndarray, scales: np.ndarray
    ) -> torch.Tensor:
        if self._placement.on_gpu:
            device = self._placement.device
            return self._normalise(crops_on_device(images, which, centres, scales, self._size, device, self._pool))
        inputs = torch.empty(len(which), 3, *self._size[::-1])

        def prepare(image: int, centre: np.ndarray, scale: np.ndarray, out: np.ndarray) -> None:
            self._normalise.into(crop(images[image], centre, scale, self._size), out)

        self._pool.map(prepare, which, centres, scales, inputs.numpy())
        return inputs

    def _forward(self, inputs: torch.Tensor) -> Sequence[torch.Tensor]:
        """Scores of each column [people, keypoints, columns] and of each row [people, keypoints, rows]."""
        if self._mirrored is None:
            return self._network(inputs)
        both = self._network(torch.cat([inputs, inputs.flip(-1)]))
        (x, x_mirrored), (y, y_mirrored) = (values.chunk(2) for values in both)
        return (x + x_mirrored[:, self._mirrored].flip(-1)) / 2, (y + y_mirrored[:, self._mirrored]) / 2


class Layers(torch.nn.Module):
    """The model without preparation and decoding."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._model = model

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self._model.head(tuple(level.float() for level in self._model.extract_feat(inputs)))


def _padding(config: str, pipeline: list[dict]) -> float:
    """The size of the region that the config's test pipeline sees, in sizes of the box."""
    steps = {step["type"]: step for step in pipeline}
    affine, box = steps.get("TopdownAffine"), steps.get("GetBBoxCenterScale")
    if affine is None or affine.get("use_udp") or box is None:
        raise ModelUsageError(
            "bad-profile", f"{config}: RTMPose's configs cut people out by TopdownAffine; this one doesn't"
        )
    return box.get("padding", 1.25)


def regions(boxes: np.ndarray, padding: float, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The region around each box, in the proportions of ``size``, width and height: centres and scales, float32 [n, 2].

    As mmpose's GetBBoxCenterScale and TopdownAffine do; but an empty box counts as one pixel.
    """
    aspect = size[0] / size[1]
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 1) * np.float32(padding)
    width = np.maximum(sides[:, 0], sides[:, 1] * np.float32(aspect))
    return (boxes[:, :2] + boxes[:, 2:]) / 2, np.stack([width, width / np.float32(aspect)], 1)


def crop(image: np.ndarray, centre: np.ndarray, scale: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The region as uint8 [height, width, 3] of ``size``; black where it leaves the image."""
    if max(image.shape) >= CV2_LIMIT:
        crops = _crops(upload([image], torch.device("cpu")), np.zeros(1, np.int64), centre[None], scale[None], size)
        return crops[0].to(torch.uint8).numpy()
    step = float(scale[0]) / size[0]
    to_image = np.array([[step, 0, 0], [0, step, 0]])
    to_image[:, 2] = centre - np.array(size) / 2 * step
    return cv2.warpAffine(image, to_image, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


def crops_on_device(
    images: Sequence[np.ndarray],
    which: np.ndarray,
    centres: np.ndarray,
    scales: np.ndarray,
    size: tuple[int, int],
    device: torch.device,
    pool: Pool,
) -> torch.Tensor:
    """As ``crop``, all at once: float32 [people, height, width, 3]. Threads cut people out of large images first."""
    large = np.array([image.shape[0] * image.shape[1] > LARGE for image in images])
    cut = np.flatnonzero(large[which])
    sources = [image for image, is_large in zip(images, large, strict=True) if not is_large]
    sources += pool.map(lambda i: crop(images[int(which[i])], centres[i], scales[i], size), cut.tolist())
    source = (np.cumsum(~large) - 1)[which]
    source[cut] = len(sources) - len(cut) + np.arange(len(cut))
    centres, scales = centres.copy(), scales.copy()
    centres[cut], scales[cut] = np.array(size) / 2, size
    return _crops(upload(sources, device), source, centres, scales, size)


def _crops(
    pixels: Pixels, source: np.ndarray, centres: np.ndarray, scales: np.ndarray, size: tuple[int, int]
) -> torch.Tensor:
    device = pixels.colours.device
    step = scales[:, :1].astype(np.float64) / size[0]
    origin = centres - np.array(size) / 2 * step
    # cv2.warpAffine computes positions in 1/1024 of a pixel and rounds them to 1/32.
    columns, rows = (
        np.floor((np.rint(np.arange(side) * step * 1024) + np.rint(start[:, None] * 1024) + 16) / 32) / 32
        for side, start in zip(size, origin.T, strict=True)
    )
    at = (on_device(positions.astype(np.float32), device) for positions in (columns, rows))
    return bilinear(pixels, on_device(source, device), *at, black_outside=True)


def decode(x: torch.Tensor, y: torch.Tensor, split: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions float32 [people, keypoints, 2] in pixels of the crop, and scores float32 [people, keypoints].

    x, y: scores of each column and row (SimCC, https://arxiv.org/abs/2107.03332), ``split`` a pixel. As in mmpose, the
    lower of the two scores counts, and a keypoint without a positive score in columns or rows goes into the corner. The
    scores are trained to peak at 1 but are not bounded: they are clipped to 0 to 1.
    """
    (x_score, column), (y_score, row) = x.max(-1), y.max(-1)
    score = torch.minimum(x_score, y_score)
    points = torch.stack([column, row], -1).float()
    points[score <= 0] = -1
    return points / split, score.clamp(0, 1)
