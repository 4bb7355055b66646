"""Turns images into the input of an OpenCLIP model: resized, cropped or padded, and normalised, a batch at a time.

On the CPU, images are resized one by one and the batch is normalised as one. On a GPU, images are uploaded as they are,
and two matrix products, one along each side, resize the whole batch. Both give the same result as open_clip's own
transform of the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from include.models.pixels import on_device
from include.models.placement import Placement
from include.models.runtime import Pool

# On a GPU, images of similar size are padded to the largest and resized together. At most: images, and their pixels.
CHUNK, CHUNK_PIXELS = 64, 16_000_000
SLIVER = 6  # if a whole resized image has this many times the model's pixels, only the kept part is computed
LARGE = 4_000_000  # pixels; threads resize larger images before they go to a GPU


@dataclass(frozen=True, slots=True)
class Side:
    """One side of an image: ``size`` pixels are resized to ``resized``; of these, ``kept`` are used, from ``start`` on.

    A negative ``start`` is the number of padding pixels before; as many, or one more, are behind.
    """

    size: int
    resized: int
    start: int
    kept: int

    @property
    def span(self) -> tuple[int, int]:
        """Where the resized pixels begin and end among the kept ones; outside is padding."""
        return max(0, -self.start), min(self.kept, self.resized - self.start)

    @property
    def box(self) -> tuple[float, float]:
        """The part of the image that becomes the span, in its own pixels."""
        begin, end = self.span
        return (self.start + begin) * self.size / self.resized, (self.start + end) * self.size / self.resized

    def needed(self, support: int) -> slice:
        """The pixels that the span needs; ``support`` is half the width of the filter."""
        reach = support * max(1, self.size / self.resized) + 1
        return slice(max(0, int(self.box[0] - reach)), min(self.size, int(self.box[1] + reach) + 1))


class Preprocessing:
    """The transform of one model; ``config`` is what open_clip keeps as a model's ``visual.preprocess_cfg``."""

    def __init__(self, config: Mapping[str, Any], placement: Placement, pool: Pool) -> None:
        size = config["size"]
        self.height, self.width = (size, size) if isinstance(size, int) else tuple[int, int](size)
        self.mode = config["resize_mode"]
        square = self.height == self.width  # else open_clip's transform has one filter for `shortest`
        self._bilinear = config["interpolation"] == "bilinear" and (square or self.mode != "shortest")
        self._filter = Image.Resampling.BILINEAR if self._bilinear else Image.Resampling.BICUBIC
        self._support = 1 if self._bilinear else 2
        mean, std = (torch.tensor(config[name], device=placement.device).view(3, 1, 1) for name in ("mean", "std"))
        self._scale, self._offset = 1 / (255 * std), -mean / std
        self._placement, self._pool = placement, pool

    def __call__(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """The model's input [images, 3, height, width] in its dtype and on its device, from uint8 RGB arrays."""
        pixels = (self.resize_on_device if self._placement.on_gpu else self.resize_on_cpu)(images)
        return pixels.mul_(self._scale).add_(self._offset).to(self._placement.dtype)

    def sides(self, height: int, width: int) -> tuple[Side, Side]:
        """How the two sides of an image are resized and cropped: for square inputs as torchvision's Resize and
        CenterCrop do, else as open_clip's ResizeKeepRatio and CenterCropOrPad do (open_clip/transform.py)."""
        if self.mode == "squash":
            resized = self.height, self.width
        elif self.mode == "shortest" and self.height == self.width:
            long = int(self.height * max(height, width) / min(height, width))
            resized = (self.height, long) if height < width else (long, self.height)
        else:
            ratio = (max if self.mode == "longest" else min)(height / self.height, width / self.width)
            resized = max(1, round(height / ratio)), max(1, round(width / ratio))
        return (
            Side(height, resized[0], _start(resized[0], self.height), self.height),
            Side(width, resized[1], _start(resized[1], self.width), self.width),
        )

    def resize(self, image: np.ndarray) -> np.ndarray:
        """One image, uint8 [height, width, 3] of the model.

        torch's antialiased filters for bytes equal Pillow's to a level or two, at four times the speed. But they also
        compute the part that is cropped off: slivers are left to Pillow.
        """
        vertical, horizontal = self.sides(*image.shape[:2])
        (top, bottom), (left, right) = vertical.span, horizontal.span
        if vertical.resized * horizontal.resized > SLIVER * self.height * self.width:
            part = self._part(image, vertical, horizontal)
        else:
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]  # a copy, since images may be read-only
            mode = "bilinear" if self._bilinear else "bicubic"
            size = vertical.resized, horizontal.resized
            resized = interpolate(pixels, size, mode=mode, antialias=True, align_corners=False)[0].permute(1, 2, 0)
            first, left_most = vertical.start, horizontal.start
            part = resized[top + first : bottom + first, left + left_most : right + left_most].numpy()
        if part.shape[:2] == (self.height, self.width):
            return part
        padded = np.zeros((self.height, self.width, 3), np.uint8)
        padded[top:bottom, left:right] = part
        return padded

    def _part(self, image: np.ndarray, vertical: Side, horizontal: Side) -> np.ndarray:
        """The kept part of the resized image, uint8 [height, width, 3]; the rest is not computed."""
        (top, bottom), (left, right) = vertical.span, horizontal.span
        (y1, y2), (x1, x2) = vertical.box, horizontal.box
        rows, columns = vertical.needed(self._support), horizontal.needed(self._support)
        part, width = Image.fromarray(image[rows, columns]), right - left
        if vertical.size * horizontal.size > (y2 - y1) * (x2 - x1):
            # Rows before columns, as Pillow does for the whole image; for a part, Pillow may change the order.
            box = (x1 - columns.start, 0, x2 - columns.start, part.height)
            part = part.resize((width, part.height), self._filter, box)
        part = part.resize((width, bottom - top), self._filter, (0, y1 - rows.start, part.width, y2 - rows.start))
        return np.asarray(part)

    def resize_on_cpu(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """All images, float32 [images, 3, height, width] with whole values from 0 to 255, channels last."""
        return torch.from_numpy(np.stack([self.resize(image) for image in images])).permute(0, 3, 1, 2).float()

    def resize_on_device(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """All images, float32 [images, 3, height, width] with whole values from 0 to 255, computed on the device.

        They differ from Pillow's by rounding; if Pillow squashes an image, it may take the sides in another order.
        """

        def smaller(image: np.ndarray) -> np.ndarray:
            return self.resize(image) if image.shape[0] * image.shape[1] > LARGE else image

        images = self._pool.map(smaller, images)
        chunks = list(_chunks([image.shape[:2] for image in images]))
        resized = torch.cat([self._resize_chunk([images[i] for i in chunk]) for chunk in chunks])
        return resized[on_device(np.argsort(np.concatenate(chunks)), resized.device)]

    def _resize_chunk(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
        # Memory beyond an image stays unwritten: its weights are zero.
        packed = torch.empty((len(images), height, width, 3), dtype=torch.uint8, pin_memory=self._placement.on_gpu)
        for place, image in zip(packed.numpy(), images, strict=True):
            place[: image.shape[0], : image.shape[1]] = image
        pixels = packed.to(self._placement.device, non_blocking=True).permute(0, 3, 1, 2).float()
        vertical, horizontal = zip(*(self.sides(*image.shape[:2]) for image in images), strict=True)
        # As Pillow does: first along the rows, rounded to whole values, and then along the columns.
        pixels = pixels.flatten(1, 2) @ self._weights(horizontal, width).transpose(1, 2)
        pixels = pixels.round_().clamp_(0, 255).unflatten(1, (3, height))
        pixels = self._weights(vertical, height)[:, None] @ pixels
        return pixels.round_().clamp_(0, 255)

    def _weights(self, sides: Sequence[Side], longest: int) -> torch.Tensor:
        """Weights float32 [images, kept, longest]: how much each pixel counts for each resized one.

        Pillow's antialiased filters (Resample.c): if an image gets smaller, the kernel is as wide as a resized pixel.
        At the borders, weights are scaled to a sum of one.
        """
        numbers = np.array([[s.size / s.resized, s.start, s.size, *s.span] for s in sides], np.float32)
        scale, start, size, begin, end = on_device(numbers, self._placement.device).T[:, :, None, None]
        kept = torch.arange(sides[0].kept, device=scale.device)[:, None]
        position = torch.arange(longest, device=scale.device) + 0.5
        distance = (position - (kept + start + 0.5) * scale) / scale.clamp(min=1)
        weights = (_bilinear if self._bilinear else _bicubic)(distance.abs()) * (position < size)
        weights /= weights.sum(-1, keepdim=True).clamp(min=1e-6)
        return weights * ((kept >= begin) & (kept < end))


def _chunks(sizes: Sequence[tuple[int, ...]]) -> Iterator[list[int]]:
    """The places of images to resize together: those of similar size. ``sizes``: height and width of each."""
    chunk: list[int] = []
    height = width = 0
    for place in sorted(range(len(sizes)), key=sizes.__getitem__):
        height, width = max(height, sizes[place][0]), max(width, sizes[place][1])
        if chunk and (len(chunk) == CHUNK or (len(chunk) + 1) * height * width > CHUNK_PIXELS):
            yield chunk
            chunk, (height, width) = [], sizes[place]
        chunk.append(place)
    if chunk:
        yield chunk


def _start(resized: int, kept: int) -> int:
    return round((resized - kept) / 2) if resized >= kept else -((kept - resized) // 2)


def _bilinear(distance: torch.Tensor) -> torch.Tensor:
    return (1 - distance).clamp(min=0)


def _bicubic(x: torch.Tensor) -> torch.Tensor:
    """Keys' cubic convolution with a = -0.5, as in Pillow (https://doi.org/10.1109/TASSP.1981.1163711)."""
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0))
