"""Inspects the pixels of people drawn for Subset B: whether a cut-out can be shown, alone or with another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from include.models import Detections
from laion_people.steps.compose.collage import enlarged
from laion_people.vision import phash

STRANGER = 0.2  # score of a bystander: from here on, a box without a joint of the person is somebody else
DARK = 90  # of 255: a tenth of a picture should have more luma; dark skin and black clothes have lights, too
BLURRED = 0.45  # Crété's measure, 0 to 1, at the size of the largest picture; a blur by 2 of its pixels gives 0.64
SAME_HASH = 10  # of 64 bits; Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010
SAME_COLOURS = 0.8  # share of common colours: one person on the same day, at the same place
MATTED = 0.85  # a matte must cover this share of a person's joints: two of 17 may be hands at its edge
UNATTACHED = 0.002  # share of a cut-out that may be a person without connection to a joint of the one we cut out
FLAT = 1 / 3  # share of one colour in a background: documents, charts and things on white have more, scenes less
COLOURLESS = 3  # mean chroma (CIELAB) of a background: on a grey photograph anybody sees that people are pasted
BINS = (4, 16, 16)  # of lightness and colour (CIELAB)


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen of a cut-out: why it cannot be shown ("" if nothing speaks against it), and how to recognise it.

    hashes: of the image and of the cut-out, uint8 [2, 8]; colours: float32 [bins], shares of the cut-out.
    """

    unfit: str
    hashes: np.ndarray
    colours: np.ndarray

    def may_be_same(self, other: Look) -> bool:
        """Whether two cut-outs may show one person: the perceptual hashes of the images or the cut-outs are alike, or
        the colours are (histogram intersection; Swain and Ballard, https://doi.org/10.1007/BF00130487)."""
        bits = np.unpackbits(self.hashes ^ other.hashes, axis=1).sum(axis=1)
        return bool(bits.min() <= SAME_HASH or np.minimum(self.colours, other.colours).sum() > SAME_COLOURS)


def look_at(
    image: Image.Image, cutout: np.ndarray, joints: np.ndarray, bystanders: Detections, matte: np.ndarray
) -> Look:
    """Inspects the rectangle ``cutout`` of an image.

    joints: [n, 2], the person's visible joints, in pixels of the image; bystanders: what may be a person in and around
    the cut-out, in pixels of the image; matte: float32 [height, width] of the cut-out.
    """
    import cv2

    person = image.crop(cutout.tolist())
    others = strangers(bystanders, joints) & _overlap(bystanders.boxes, cutout)
    joints = joints - cutout[:2]
    luma = person.convert("L")
    sharp = np.asarray(luma.resize(enlarged(person.size), Image.Resampling.LANCZOS))
    faults = [
        bool(others.any()) or unattached(matte, joints) > UNATTACHED,
        is_dark(person),
        bool(blur(sharp) > BLURRED),
        not covers_joints(matte, joints),
    ]
    unfit = str(np.select(faults, ["crowded", "dark", "blurred", "no_matte"], ""))
    hashes = np.concatenate([phash.bits(np.asarray(picture)) for picture in (image, person)])
    lab = cv2.cvtColor(np.asarray(person), cv2.COLOR_RGB2LAB)
    colours = cv2.calcHist([lab], [0, 1, 2], None, BINS, [0, 256] * 3).ravel()
    return Look(unfit, hashes, colours / colours.sum())


def is_dark(picture: Image.Image) -> bool:
    """Whether hardly any part of a picture is light."""
    return bool(np.percentile(np.asarray(picture.convert("L")), 90) < DARK)


def is_scene(picture: Image.Image) -> bool:
    """Whether a picture may show a place: in colour, with many colours."""
    import cv2

    lab = cv2.cvtColor(np.asarray(picture), cv2.COLOR_RGB2LAB)
    bins = cv2.calcHist([lab], [0, 1, 2], None, (16, 16, 16), [0, 256] * 3)
    chroma = np.linalg.norm(lab[..., 1:].astype(np.float32) - 128, axis=-1)
    return bool(bins.max() <= FLAT * bins.sum() and chroma.mean() >= COLOURLESS)


def with_surroundings(cutout: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A cut-out, widened on each side by half its width and a quarter of its height, inside an image of ``size``: a
    detector doesn't recognise people by an arm or a shoulder that reaches into the cut-out."""
    width, height = cutout[2:] - cutout[:2]
    wider = cutout + np.array([-width // 2, -height // 4, width // 2, height // 4])
    return np.clip(wider, 0, [*size, *size])


def unattached(matte: np.ndarray, joints: np.ndarray) -> float:
    """The share of a cut-out that its matte [height, width] calls a person, but that touches none of the joints."""
    import cv2

    height, width = matte.shape
    _, labels = cv2.connectedComponents((matte > 0.5).astype(np.uint8))
    x, y = np.clip(joints, 0, [width - 1, height - 1]).astype(int).T
    return float((~np.isin(labels, [0, *labels[y, x]])).mean())


def _overlap(boxes: np.ndarray, cutout: np.ndarray) -> np.ndarray:
    return (np.minimum(boxes[:, 2:], cutout[2:]) > np.maximum(boxes[:, :2], cutout[:2])).all(axis=1)


def covers_joints(matte: np.ndarray, joints: np.ndarray) -> bool:
    """Whether a matte [height, width], 0 to 1, covers the person with these joints [n, 2], in its pixels."""
    height, width = matte.shape
    x, y = np.clip(joints, 0, [width - 1, height - 1]).astype(int).T
    return bool((matte[y, x] > 0.5).mean() >= MATTED)


def strangers(bystanders: Detections, joints: np.ndarray) -> np.ndarray:
    """Which bystanders are somebody else than the person with these joints [n, 2]: bool [bystanders].

    A box that holds a joint is the person, or a part. Thus, if two people hug, only the face shows the second one.
    """
    corner, opposite = bystanders.boxes[:, None, :2], bystanders.boxes[:, None, 2:]
    own = ((joints >= corner) & (joints <= opposite)).all(axis=2).any(axis=1)
    return (bystanders.scores >= STRANGER) & ~own


def blur(luma: np.ndarray) -> float:
    """How blurred an image [height, width] is, 0 to 1, in its more blurred direction.

    The share of differences between neighbours that remains after a strong blur: Crété et al., The blur effect, 2007
    (https://doi.org/10.1117/12.702790), as in scikit-image's ``blur_effect``.
    """
    import cv2

    sharp, blurs = luma.astype(np.float32), []
    for axis, size in enumerate([(1, 11), (11, 1)]):
        before, after = (abs(np.diff(image, axis=axis)) for image in (sharp, cv2.blur(sharp, size)))
        blurs.append(1 - np.maximum(before - after, 0).sum() / max(before.sum(), 1e-9))
    return float(max(blurs))
