"""Drift: partitions whose funnel is unlike that of the others of their collection.

The extract audit writes three numbers of each partition, its statistics, to ``statistics/<partition>.json``. A number
far from the median of the partitions that were made with the same models is flagged: a name server that gave up, a
collection that changed, a model that was swapped. Nothing fails for it; somebody should look.
``notified/<partition>.json`` names the numbers that a notification has been sent of.
"""

from __future__ import annotations

import json
import logging
import random
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import pairwise
from math import inf, isfinite
from statistics import median

from laion_people.errors import LaionPeopleError, coded
from laion_people.reports.tables import columns
from laion_people.storage.manifest import Manifest
from laion_people.storage.manifestindex import ManifestIndex
from laion_people.storage.store import Store

log = logging.getLogger(__name__)

FOLDER, NOTIFIED = "statistics", "notified"
READERS = 16  # files that are read at a time
SAMPLED_SHARDS = 8  # whose similarities are read; a shard has thousands of people
MIN_PARTITIONS = 5  # fewer have no spread to speak of
OUTLYING = 3.5  # modified z-scores, as Iglewicz and Hoaglin advise (How to Detect and Handle Outliers, 1993)
TO_SIGMA = 1.4826  # median absolute deviation to standard deviation (Rousseeuw and Croux, JASA 88, 1993)


@dataclass(frozen=True, slots=True)
class Statistics:
    """The statistics of a partition (None where there is nothing to divide by) and the models that they depend on.

    ``download_success`` is a share of the rows of metadata, ``people_per_image`` counts images without people too,
    ``similarity`` is the mean CLIP similarity of people and caption.
    """

    partition: str
    download_success: float | None
    people_per_image: float | None
    similarity: float | None
    detector: str
    clip: str


@dataclass(frozen=True, slots=True)
class _Comparison:
    """How a statistic is compared with that of other partitions.

    A distance from the median of less than ``band``, a share of it, is never flagged, however alike the others are.
    The bands are ours: what is smaller would not have anybody do a thing. ``lowest`` and ``highest``
    bound what is possible.
    """

    words: str
    format: str
    band: float
    models: str  # the field that must be the same for numbers to be comparable
    advice: str
    lowest: float = 0
    highest: float = inf


COMPARISONS = {
    "download_success": _Comparison(
        "download success",
        ".1%",
        0.1,
        "",
        "see what download rejected; another run may retry passing failures",
        highest=1,
    ),
    "people_per_image": _Comparison("people per image", ".3f", 0.15, "detector", "look at its images and boxes"),
    "similarity": _Comparison("mean similarity", ".4f", 0.05, "clip", "look at its captions and images", -1, 1),
}


def record(store: Store, partition: str) -> Statistics:
    """Computes the statistics of an extracted partition from its manifests and similarities, and stores them.

    Raises LaionPeopleError when a manifest or table is missing or damaged.
    """
    index = ManifestIndex(store)
    detect, clip, download = (index.partition(step, partition) for step in ("detect", "clip_filter", "download"))
    if detect is None or clip is None:
        raise LaionPeopleError("not-extracted", f"{partition} is not extracted")
    statistics = Statistics(
        partition,
        download.rows / download.rows_in if download and download.rows_in else None,
        detect.rows / detect.rows_in if detect.rows_in else None,
        _mean_similarity(store, clip),
        _names(detect),
        _names(clip),
    )
    store.write(f"{FOLDER}/{partition}.json", json.dumps(asdict(statistics), indent=1).encode())
    return statistics


def flags(store: Store) -> dict[str, list[str]]:
    """A sentence for each number that drifts, by partition; partitions without any are left out."""
    return {partition: list(sentences.values()) for partition, sentences in _flagged(_read_all(store)).items()}


def news(store: Store) -> dict[str, list[str]]:
    """The flags that have not been given to a notification before; those given now are noted in the store."""
    flagged = _flagged(_read_all(store))
    notified = {
        path.removeprefix(f"{NOTIFIED}/").removesuffix(".json"): _notified(store, path) for path in store.list(NOTIFIED)
    }
    fresh = {
        partition: [sentence for name, sentence in sentences.items() if name not in (notified.get(partition) or ())]
        for partition, sentences in flagged.items()
    }
    for partition in notified.keys() | flagged.keys():
        if notified.get(partition) != (names := list(flagged.get(partition, ()))):
            store.write(f"{NOTIFIED}/{partition}.json", json.dumps(names).encode())
    return {partition: sentences for partition, sentences in fresh.items() if sentences}


def _flagged(all_statistics: Mapping[str, Statistics]) -> dict[str, dict[str, str]]:
    """A sentence for each number that drifts, by partition and name of the number."""
    sentences: dict[str, dict[str, str]] = defaultdict(dict)
    for name, comparison in COMPARISONS.items():
        peers: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)  # by collection and models
        for partition, statistics in all_statistics.items():
            if (value := getattr(statistics, name)) is not None:
                models = getattr(statistics, comparison.models, "")
                peers[partition.split("/")[0], models][partition] = value
        for (collection, _), values in peers.items():
            for partition, sentence in _outliers(comparison, collection, values).items():
                sentences[partition][name] = sentence
    return dict(sorted(sentences.items()))


def _outliers(comparison: _Comparison, collection: str, values: Mapping[str, float]) -> dict[str, str]:
    """A sentence for each value that is further from the median than its band and OUTLYING robust deviations."""
    if len(values) < MIN_PARTITIONS:
        return {}
    middle = median(values.values())
    deviation = TO_SIGMA * median(abs(value - middle) for value in values.values())
    most = max(OUTLYING * deviation, comparison.band * abs(middle))
    ends = max(middle - most, comparison.lowest), min(middle + most, comparison.highest)
    usual, low, high = (f"{value:{comparison.format}}" for value in (middle, *ends))
    return {
        partition: f"{comparison.words} is {value:{comparison.format}}, usual for the {len(values)} partitions of "
        f"{collection} is {low} to {high} (median {usual}): {comparison.advice}"
        for partition, value in values.items()
        if abs(value - middle) > most
    }


def _mean_similarity(store: Store, clip: Manifest) -> float | None:
    """Over the people of up to SAMPLED_SHARDS shards, one drawn from each of as many equal stretches."""
    count = min(SAMPLED_SHARDS, len(clip.shards))
    draw = random.Random(clip.partition)  # noqa: S311 - the same shards each time
    edges = [i * len(clip.shards) // count for i in range(count + 1)] if count else []
    drawn = [clip.shards[draw.randrange(first, last)] for first, last in pairwise(edges)]
    with ThreadPoolExecutor(READERS) as pool:
        tables = list(pool.map(lambda shard: columns(store, shard.uri, ["similarity"]), drawn))
    people = sum(table.num_rows for table in tables)
    return sum(float(t["similarity"].to_numpy().sum(dtype="float64")) for t in tables) / people if people else None


def _read_all(store: Store) -> dict[str, Statistics]:
    """The statistics of all partitions, by partition."""
    tags = store.tags(FOLDER)
    with ThreadPoolExecutor(READERS) as pool:
        read = pool.map(lambda item: _read(store, *item), tags.items())
        return {statistics.partition: statistics for statistics in read if statistics}


@lru_cache(maxsize=4096)  # a page asks for all of them each time that it is opened
def _read(store: Store, path: str, tag: str) -> Statistics | None:
    """The statistics in a file with this tag; None, said once, for a damaged one, which is no reason to fail."""
    try:
        fields = json.loads(store.read(path))
        statistics = Statistics(**{name: fields[name] for name in Statistics.__slots__})
        if not all(isinstance(text, str) for text in (statistics.partition, statistics.detector, statistics.clip)):
            raise TypeError("a name is no text")
        if not all(isfinite(value) for name in COMPARISONS if (value := getattr(statistics, name)) is not None):
            raise ValueError("a number is none")
        return statistics
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        log.warning(coded("damaged-sums", "%s is damaged (%r): audit its partition again"), path, error)
        return None


def _notified(store: Store, path: str) -> list[str] | None:
    """The names of the numbers that were notified of; None for a damaged file: better to notify twice than never."""
    try:
        names = json.loads(store.read(path))
        return [name for name in COMPARISONS if name in names]
    except (ValueError, TypeError, RecursionError) as error:
        log.warning(coded("damaged-record", "%s is damaged (%r): its partition's drift is told again"), path, error)
        return None


def _names(manifest: Manifest) -> str:
    """The models that a step ran with, by name and checksum: numbers are compared only where they are the same."""
    return " ".join(f"{name}:{sha256[:12]}" for name, sha256 in sorted(manifest.models.items()))
