"""The perceptual hash of a picture: nearly the same for pictures that look the same, whatever their size and format.

OpenCV's ``img_hash.pHash``, which has no parameters: the picture is shrunk to 32 x 32 pixels (bilinear) and made grey;
of its DCT the 8 x 8 lowest frequencies are compared with their mean (the constant counts as 0). After Zauner,
Implementation and Benchmarking of Perceptual Image Hash Functions, 2010, section 3.2.1.
"""

from __future__ import annotations

import numpy as np


def bits(pixels: np.ndarray) -> np.ndarray:
    """The hash as uint8 [1, 8], of RGB pixels uint8 [height, width, 3].

    OpenCV takes channels for BGR, which is left so: red and blue weigh as blue and red do. Python's lock is released.
    """
    import cv2

    return cv2.img_hash.pHash(np.ascontiguousarray(pixels))


def text(pixels: np.ndarray) -> str:
    """The hash as tables have it: 16 hex digits."""
    return bits(pixels).tobytes().hex()
