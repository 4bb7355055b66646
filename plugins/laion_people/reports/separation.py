"""How well a CLIP tells people's own captions from those of other images, and the threshold that follows.

Of *own* pairs (a person and the caption of the image) some do not fit; what those score is seen on *other* pairs (a
person and the caption of a person in another image), of which none should fit. Since at most all own pairs are such, of
those above a threshold t

    precision(t) >= 1 - others(t) / own(t)

fit, where own(t) and others(t) are the shares of the pairs above t. This is how proteomics counts false matches by
decoys (Elias and Gygi, https://doi.org/10.1038/nmeth1019), in the two-groups model (Efron,
https://doi.org/10.1214/07-STS236) with all of the prior on the null. Which share of the own pairs fits is the images'
doing, not the CLIP's: two CLIPs whose bounds are equal on the same pairs have equal precisions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

EDGES = (np.arange(-10_000, 10_001) / 10_000).astype(np.float32)  # thresholds that are tried: four digits
FEWEST_IMAGES = (
    30  # fewer clusters make bootstrap intervals too short (Cameron and Miller, doi.org/10.3368/jhr.50.2.317)
)
FEWEST_KEPT = 10  # images above a threshold, without which its shares are too uncertain to choose it
RESAMPLES = 500
LEVEL = 0.95  # of intervals

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Shares:
    """At each threshold of EDGES the shares of own and of other pairs above it, and how many images have a person kept,
    float64 [EDGES]; ``auc``: how often an own pair is above another."""

    own: np.ndarray
    others: np.ndarray
    images: np.ndarray
    auc: float

    @property
    def precision(self) -> np.ndarray:
        """The lower bound, float64 [EDGES]; -inf where nobody is kept."""
        return 1 - np.divide(self.others, self.own, out=np.full(len(EDGES), np.inf), where=self.own > 0)

    def at(self, threshold: float) -> tuple[float, float, float]:
        """Shares of own and of other pairs above a threshold (or the next of EDGES), and the precision, -inf where
        nobody is kept."""
        edge = min(int(np.searchsorted(EDGES, np.float32(threshold))), len(EDGES) - 1)
        return float(self.own[edge]), float(self.others[edge]), float(self.precision[edge])

    def threshold(self, precision: float) -> float:
        """The lowest threshold with this precision; inf where no threshold that keeps FEWEST_KEPT images has it."""
        reached = np.flatnonzero((self.precision >= precision) & (self.images >= FEWEST_KEPT))
        return float(EDGES[reached[0]]) if len(reached) else math.inf


class Pairs:
    """The similarities of people with their own captions and with those of people in other images.

    similarities: float32 [people, images], with each image's caption; image: int [people], which one is their own.
    ``own``: float32 [people]; ``others``: float32 [people * (images - 1)], each with the number of people who have that
    caption, ``times``: captions of many count as often as they do in ``own``.
    """

    def __init__(self, similarities: np.ndarray, image: np.ndarray):
        self.people, self.images = similarities.shape
        mine = np.zeros(similarities.shape, bool)
        mine[np.arange(self.people), image] = True
        self._image, self._crowd = image, np.bincount(image, minlength=self.images)
        self.own, self.others = similarities[mine], similarities[~mine]
        self.times = np.broadcast_to(self._crowd, similarities.shape)[~mine]
        self._own = np.searchsorted(EDGES, self.own)  # how many thresholds each is above
        self._others = np.searchsorted(EDGES, similarities)
        self._others[mine] = len(EDGES) + 1  # counted, and left out
        self._best = np.zeros(self.images, np.intp)
        np.maximum.at(self._best, image, self._own)

    def shares(self, weights: np.ndarray | None = None) -> Shares:
        """``weights``: int [images], how often each image counts, with its people and its caption; default once."""
        weights = np.ones(self.images, np.intp) if weights is None else weights
        of_people = weights[self._image]
        rows, columns = np.flatnonzero(of_people), np.flatnonzero(weights)
        bins = self._others[np.ix_(rows, columns)]
        of_pairs = np.outer(of_people[rows], (weights * self._crowd)[columns]).astype(float)
        own = _counts(self._own, of_people)
        others = _counts(bins.ravel(), of_pairs.ravel())
        below = np.cumsum(others) - others / 2  # ties count half
        auc = float(own @ below / (own.sum() * others.sum())) if others.any() else math.nan
        return Shares(_above(own) / own.sum(), _above(others) / others.sum(), _above(_counts(self._best, weights)), auc)


@dataclass(frozen=True, slots=True)
class Separation:
    """A threshold for a CLIP (inf: none reaches the precision) with the precision that it was chosen for, the AUC, and
    their intervals, and that of the precision of the threshold in force."""

    threshold: float
    threshold_interval: Interval
    precision: float
    auc: float
    auc_interval: Interval
    current_interval: Interval

    @property
    def separates(self) -> bool:
        """Whether own captions are surely nearer than others: without that, a threshold would be chance."""
        return self.auc_interval[0] > 0.5

    @property
    def is_known(self) -> bool:
        """Whether a threshold reaches the precision, in the whole interval."""
        return self.separates and math.isfinite(self.threshold) and math.isfinite(self.threshold_interval[1])


def separate(pairs: Pairs, wanted: float | tuple[Pairs, float], current: float, seed: int) -> Separation:
    """Finds the lowest threshold with the ``wanted`` precision: a number, or that which a threshold has for another
    CLIP on the same pairs. ``current`` is the threshold in force.

    Intervals are percentiles of the bootstrap over images: a resample has whole images, with all their people and
    their captions, so that both sides of a pair vary. They are widened to the estimate where that lies outside.
    """

    def once(weights: np.ndarray | None) -> tuple[float, float, float, float]:
        shares = pairs.shares(weights)
        if isinstance(wanted, float):
            precision = wanted
        else:
            reference, threshold = wanted
            precision = (shares if reference is pairs else reference.shares(weights)).at(threshold)[2]
            precision = min(precision, 1 - 1 / pairs.images)  # more cannot be known from so many images
        if precision <= 0:
            chosen = math.inf
        elif not isinstance(wanted, float) and wanted[0] is pairs:
            chosen = wanted[1]
        else:
            chosen = shares.threshold(precision)
        return chosen, precision, shares.auc, shares.at(current)[2]

    rng, even = np.random.default_rng(seed), np.full(pairs.images, 1 / pairs.images)
    threshold, precision, auc, at_current = once(None)
    resampled = np.array([once(rng.multinomial(pairs.images, even)) for _ in range(RESAMPLES)])
    return Separation(
        threshold,
        _interval(resampled[:, 0], threshold),
        precision,
        auc,
        _interval(resampled[:, 2], auc),
        _interval(resampled[:, 3], at_current),
    )


def _counts(bins: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The weight of what is above so many thresholds (0 to all of them), float64 [EDGES + 1]."""
    return np.bincount(bins, weights, len(EDGES) + 2)[: len(EDGES) + 1]


def _above(counts: np.ndarray) -> np.ndarray:
    return counts[::-1].cumsum()[::-1][1:]


def _interval(values: Sequence[float] | np.ndarray, estimate: float) -> Interval:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(values, [tail, 1 - tail], method="inverted_cdf")  # no mean of a number and infinity
    return float(min(low, estimate)), float(max(high, estimate))
