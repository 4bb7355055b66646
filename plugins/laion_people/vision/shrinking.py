"""Shrinks images by area averaging: each pixel becomes the mean of the part of the image that it covers.

The pixels of OpenCV's INTER_AREA, in two fifths of the time. For sizes that are no whole fractions OpenCV has no vector
code, and that is a third of the work of a download. Numba compiles it when the module is imported, in two seconds.
"""

from __future__ import annotations

import cv2
import numba
import numpy as np
from numba import float32, int32, int64, uint8

PIXELS = numba.types.Array(uint8, 2, "C", readonly=True)  # of Pillow's images; others may be written to
LEAST = 1e-3  # of a pixel: OpenCV leaves out what is less


def shrunk(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """image: uint8 [height, width, 3]; size: width and height, neither larger than the image's. Other threads go on.

    Means are OpenCV's but for the order of summing: where one is a half but for 0.00001, it may be rounded otherwise.
    """
    height, width = image.shape[:2]
    if not width % size[0] and not height % size[1]:
        return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    target = np.empty((size[1], 3 * size[0]), np.uint8)
    _average(np.ascontiguousarray(image).reshape(height, 3 * width), target)
    return target.reshape(size[1], size[0], 3)


@numba.njit(numba.types.Tuple((int32[::1], float32[:, ::1]))(int64, int64), nogil=True)
def _covered(length: int, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """The first pixel that each of the ``wanted`` ones covers, and its shares of this and the next ones [wanted, n].

    Exactly OpenCV's: means of few bits are halves often, and a share's last bit decides how they are rounded.
    """
    scale = 1 / (wanted / length)
    most = min(int(np.ceil(scale)) + 1, length)
    firsts, shares = np.empty(wanted, np.int32), np.zeros((wanted, most), np.float32)
    for i in range(wanted):
        start, end = i * scale, i * scale + scale
        covered = min(scale, length - start)
        last = min(int(np.floor(end)), length - 1)
        whole = min(int(np.ceil(start)), last)  # the first one that is covered wholly
        first = firsts[i] = min(max(whole - 1, 0), length - most)
        if whole - start > LEAST:
            shares[i, whole - 1 - first] = (whole - start) / covered
        for pixel in range(whole, last):
            shares[i, pixel - first] = 1 / covered
        if end - last > LEAST:
            shares[i, last - first] = min(end - last, covered, 1) / covered
    return firsts, shares


@numba.njit(numba.void(PIXELS, uint8[:, ::1]), nogil=True)
def _average(image: np.ndarray, target: np.ndarray) -> None:
    """Rows first: that is where processors can work on many values at a time. Colours lie side by side in a row.

    Indices without a sign are quicker: others may count from the end.
    """
    tops, row_shares = _covered(len(image), len(target))
    lefts, column_shares = _covered(image.shape[1] // 3, target.shape[1] // 3)
    row, means = np.empty(image.shape[1], np.float32), np.empty(target.shape[1], np.float32)
    for y in range(len(target)):
        row[:] = 0
        for k in range(row_shares.shape[1]):
            share = row_shares[y, k]
            if share > 0:
                source = image[tops[y] + k]
                for i in range(len(row)):
                    row[i] += share * np.float32(source[i])
        for x in range(len(lefts)):
            red = green = blue = np.float32(0)
            for k in range(column_shares.shape[1]):
                share, at = column_shares[x, k], np.uintp(3 * (lefts[x] + k))
                red += share * row[at]
                green += share * row[at + np.uintp(1)]
                blue += share * row[at + np.uintp(2)]
            at = np.uintp(3 * x)
            means[at], means[at + np.uintp(1)], means[at + np.uintp(2)] = red, green, blue
        for i in range(len(means)):
            target[y, i] = np.uint8(np.int32(np.rint(means[i])))
