"""Reads many rectangles from many images of different sizes at once, on a GPU: resizes and crops without a loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True, slots=True)
class Pixels:
    """Images on a device, one after another: colours uint8 [pixels, 3]; starts, widths, heights: int64 [images]."""

    colours: torch.Tensor
    starts: torch.Tensor
    widths: torch.Tensor
    heights: torch.Tensor


def on_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """A copy of the array on the device; the caller doesn't wait for it."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def upload(images: Sequence[np.ndarray], device: torch.device) -> Pixels:
    """Copies uint8 images [height, width, 3] in a single transfer."""
    sizes = np.array([image.shape[:2] for image in images], np.int64).reshape(-1, 2)
    ends = sizes.prod(1).cumsum()
    colours = torch.empty((int(sizes.prod(1).sum()), 3), dtype=torch.uint8, pin_memory=device.type == "cuda")
    for image, end in zip(images, ends, strict=True):
        rows = image.reshape(-1, 3)
        colours.numpy()[end - len(rows) : end] = rows
    starts, heights, widths = on_device(np.stack([ends - sizes.prod(1), *sizes.T]), device)
    return Pixels(colours.to(device, non_blocking=True), starts, widths, heights)


def bilinear(
    pixels: Pixels, image: torch.Tensor, columns: torch.Tensor, rows: torch.Tensor, *, black_outside: bool
) -> torch.Tensor:
    """Upright rectangles, float32 [n, height, width, 3] in whole levels 0 to 255, interpolated between four pixels.

    image: int64 [n], the image of each; columns: float [n, width] and rows: float [n, height], positions in pixels; the
    first one's centre is 0. Outside of the image it is black, or as the nearest pixel.
    """
    start, width, height = pixels.starts[image], pixels.widths[image], pixels.heights[image]
    total = torch.zeros((*rows.shape, columns.shape[1], 3), device=rows.device)
    for y, y_weight in _neighbours(rows, height, black_outside):
        for x, x_weight in _neighbours(columns, width, black_outside):
            colours = pixels.colours[(start[:, None] + y * width[:, None])[:, :, None] + x[:, None, :]]
            total += colours * (y_weight[:, :, None] * x_weight[:, None, :])[..., None]
    return total.round_()


def _neighbours(
    at: torch.Tensor, size: torch.Tensor, black_outside: bool
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The pixels before and after each position ``at`` (int64 [n, m]), and their weights (float [n, m])."""
    before = at.floor()
    for pixel, weight in ((before.long(), 1 - (at - before)), (before.long() + 1, at - before)):
        inside = torch.minimum(pixel.clamp(min=0), size[:, None] - 1)
        yield inside, weight * (pixel == inside) if black_outside else weight
