"""`calibrate`: which similarity of a profile's CLIP means what 0.3 means of OpenAI's ViT-B/32, on a store's own people.

A sample of images is drawn; each person is compared, as in clip_filter, with the caption of the image and with those of
all others in the sample. `separation` says what follows.
"""

from __future__ import annotations

import json
import logging
import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from include.models import Clip
from include.models.profiles import Profile, Threshold
from laion_people import __version__
from laion_people.engine.files import LocalFiles
from laion_people.engine.planning import Planner
from laion_people.engine.work import Shard
from laion_people.errors import LaionPeopleError
from laion_people.reports.report import ticks
from laion_people.reports.separation import EDGES, FEWEST_IMAGES, Pairs, Separation, separate
from laion_people.reports.templating import environment
from laion_people.steps.compose.cutouts import SAME_HASH
from laion_people.steps.subset_a import THRESHOLD
from laion_people.vision import phash
from laion_people.vision.images import crop
from laion_people.vision.people import boxes, by_people, rows_by_image

log = logging.getLogger(__name__)

SAME_WORDS = 0.8  # of the different words of two captions, which both have: they are the same caption
COLUMNS = ("key", "url", "caption", "bbox")
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
BINS = 60
FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Sample:
    """The people of some images: their captions, which image each person is of, int [people], and by CLIP the vectors
    of the people, float32 [people, dimensions]. ``same``: images left out, whose picture or caption another has."""

    captions: list[str]
    image: np.ndarray
    vectors: list[np.ndarray]
    same: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was found of a CLIP; ``current`` is the threshold in force, ``basis`` says why this precision is wanted."""

    clip_model: str
    partitions: tuple[str, ...]
    same: int
    pairs: Pairs
    crop_padding: float
    current: float
    basis: str
    found: Separation

    def check(self) -> None:
        """Raises LaionPeopleError where no threshold can be given."""
        found = self.found
        if not found.separates:
            raise LaionPeopleError(
                "no-threshold",
                f"no threshold separates own captions from those of other images: by {self.clip_model} the own caption "
                f"is nearer in {_percent(found.auc)} of cases ({_span(found.auc_interval, _percent)}), as by chance: "
                "take another CLIP, more images (--images, more partitions), or images whose captions speak of them",
            )
        if found.precision <= 0:
            raise LaionPeopleError(
                "no-threshold",
                f"the precision wanted, {self.basis}, cannot be told: in these images no more own captions than others "
                "are above that: give --precision",
            )
        if not found.is_known:
            raise LaionPeopleError(
                "no-threshold",
                f"no threshold of {self.clip_model} surely has a precision of {found.precision:.4g} ({self.basis}) by "
                f"these {self.pairs.images} images: take more (--images, more partitions), or a lower --precision",
            )

    def threshold(self, profile: Profile) -> Threshold:
        """What the profile is to keep, where one is known."""
        return Threshold(
            value=round(self.found.threshold, 4),
            interval=[round(bound, 4) for bound in self.found.threshold_interval],
            precision=float(f"{self.found.precision:.4g}"),
            basis=self.basis,
            clip_model=self.clip_model,
            models=profile.fingerprint("clip"),
            crop_padding=self.crop_padding,
            partitions=list(self.partitions),
            images=self.pairs.images,
            people=self.pairs.people,
            pairs=int(self.pairs.times.sum()),
            date=f"{datetime.now(UTC):%Y-%m-%d}",
            versions={"laion_people": __version__} | {n: version(n) for n in ("open_clip_torch", "torch")},
        )


def calibrate(
    planner: Planner,
    partitions: Sequence[str],
    images: int,
    clips: Sequence[Clip],
    current: float,
    precision: float | None,
) -> Calibration:
    """Compares people with captions by the first of ``clips``, for the precision given, or that which THRESHOLD has for
    the last of them. ``images``: how many to draw, at most; ``current``: the threshold in force.

    Raises LaionPeopleError without images or people, or with too few that differ.
    """
    partitions = sorted(set(partitions))
    sample = draw(planner, partitions, images, clips)
    needed = max(FEWEST_IMAGES, math.ceil(1 / (1 - precision)) if precision else 0)  # fewer tell no such precision
    if len(sample.captions) < needed:
        or_precision = ", or a lower --precision" if needed > FEWEST_IMAGES else ""
        raise LaionPeopleError(
            "too-few-images",
            f"{', '.join(partitions[:3])}: {len(sample.captions)} images with people differ from each other in picture "
            f"and caption, {sample.same} do not: at least {needed} are needed: give more partitions{or_precision}",
        )
    log.info("calibrate: compares %d people with %d captions", len(sample.image), len(sample.captions))
    pairs = [
        Pairs(vectors @ clip.encode_texts(sample.captions).T, sample.image)
        for clip, vectors in zip(clips, sample.vectors, strict=True)
    ]
    basis = "asked for" if precision else f"that of {THRESHOLD} for {clips[-1].name}"
    padding = planner.settings.crop_padding
    found = separate(pairs[0], precision or (pairs[-1], THRESHOLD), current, planner.settings.seed)
    return Calibration(clips[0].name, tuple(partitions), sample.same, pairs[0], padding, current, basis, found)


def draw(planner: Planner, partitions: Sequence[str], most: int, clips: Sequence[Clip]) -> Sample:
    """Draws images with people, as many of each partition, from as few shards as have them, by the settings' seed.

    Of images with one address, one picture or one caption, as far as `_Seen` can tell, only the first is taken: the
    caption of another would be no false one.
    """
    rng, seen, taken = np.random.default_rng(planner.settings.seed), _Seen(), list[_Looked]()
    for partition in partitions:
        wanted = len(taken) + math.ceil(most / len(partitions))
        for index in rng.permutation(planner.planned("clip_filter", partition)).tolist():
            with LocalFiles(planner.store) as files:
                taken += _of_shard(planner, partition, index, files, clips, wanted - len(taken), rng, seen)
            if len(taken) == wanted:
                break
    return Sample(
        [caption for caption, _ in taken],
        np.repeat(np.arange(len(taken)), [len(vectors[0]) for _, vectors in taken]),
        [np.concatenate(of_clip) for of_clip in zip(*(vectors for _, vectors in taken), strict=True)],
        seen.same,
    )


_Looked = tuple[str, list[np.ndarray]]  # an image's caption and, by CLIP, the vectors of its people


class _Seen:
    """What the images of a sample have: addresses, captions by their words, and pictures by their perceptual hashes."""

    def __init__(self) -> None:
        self.same = 0  # images that were not new
        self._addresses: set[str] = set()
        self._captions: list[frozenset[str]] = []
        self._pictures = np.empty((0, 8), np.uint8)

    def is_new(self, url: str, caption: str) -> bool:
        words = frozenset(re.findall(r"\w+", unicodedata.normalize("NFKC", caption).casefold()))
        alike = (len(words & other) >= SAME_WORDS * len(words | other) for other in self._captions)
        if (url and url in self._addresses) or any(alike):
            self.same += 1
            return False
        self._addresses.add(url)
        self._captions.append(words)
        return True

    def is_new_picture(self, image_hash: np.ndarray) -> bool:
        if (np.unpackbits(self._pictures ^ image_hash, axis=1).sum(axis=1) <= SAME_HASH).any():
            self.same += 1
            return False
        self._pictures = np.concatenate([self._pictures, image_hash])
        return True


def _of_shard(
    planner: Planner,
    partition: str,
    index: int,
    files: LocalFiles,
    clips: Sequence[Clip],
    most: int,
    rng: np.random.Generator,
    seen: _Seen,
) -> list[_Looked]:
    """New images of a shard, ``most`` of them at most."""
    inputs = planner.inputs.of_shard(planner.step("clip_filter"), partition, index, files)
    people = pq.read_table(files.verified(inputs["people"]), columns=list(COLUMNS))
    rows, chosen = rows_by_image(people["key"].to_pylist()), set[str]()
    for key in rng.permutation(list(rows)).tolist():
        first = rows[key].start
        if len(chosen) < most and seen.is_new(people["url"][first].as_py(), people["caption"][first].as_py()):
            chosen.add(key)
    if not chosen:
        return []
    people = people.filter(pa.array([key in chosen for key in people["key"].to_pylist()]))
    shard = Shard(
        partition,
        index,
        settings=planner.settings,
        store=planner.store,
        model=planner.models.load,
        files={"images": files.verified(inputs["images"])},
        columns={},
    )
    log.info("calibrate %s: looks at %d people in %d images", shard.id, len(people), len(chosen))
    all_boxes, captions, padding = boxes(people), people["caption"].to_pylist(), planner.settings.crop_padding

    def look(images: list[np.ndarray], rows: list[slice]) -> list[tuple[np.ndarray, list[np.ndarray]]]:
        crops = [crop(image, box, padding) for image, r in zip(images, rows, strict=True) for box in all_boxes[r]]
        ends = np.cumsum([r.stop - r.start for r in rows])[:-1]
        by_clip = [np.split(clip.encode_images(crops), ends) for clip in clips]
        hashes = [phash.bits(image) for image in images]
        return [(of_image, list(vectors)) for of_image, *vectors in zip(hashes, *by_clip, strict=True)]

    looked = by_people(shard, people["key"].to_pylist(), look)
    return [(captions[r.start], vectors) for r, (of_image, vectors) in looked if seen.is_new_picture(of_image)]


def to_yaml(threshold: Threshold) -> str:
    """The lines that a profile keeps a threshold by."""
    return yaml.safe_dump({"threshold": asdict(threshold)}, sort_keys=False, default_flow_style=None, width=110)


def to_json(calibration: Calibration, threshold: Threshold | None) -> str:
    """A calibration for programs; what is not known, or not finite, is null."""
    found, pairs = calibration.found, calibration.pairs
    content = {
        "clip_model": calibration.clip_model,
        "partitions": calibration.partitions,
        "images": pairs.images,
        "same": calibration.same,
        "people": pairs.people,
        "pairs": int(pairs.times.sum()),
        **_summaries(pairs),
        "auc": [found.auc, *found.auc_interval],
        "wanted": {"precision": found.precision, "basis": calibration.basis},
        "at": _rows(calibration),
        "threshold": asdict(threshold) if threshold else None,
    }
    return json.dumps(_finite(content), indent=1)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(of_name) for name, of_name in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _rows(calibration: Calibration) -> dict[str, dict[str, Any]]:
    """What the threshold in force keeps and, where one is known, the calibrated one."""
    found, shares = calibration.found, calibration.pairs.shares()
    thresholds = {"in force": calibration.current} | ({"calibrated": found.threshold} if found.is_known else {})
    rows: dict[str, dict[str, Any]] = {}
    for name, threshold in thresholds.items():
        kept, others, precision = shares.at(threshold)
        rows[name] = {"threshold": round(threshold, 4), "kept": kept, "others": others, "precision": precision}
    rows["in force"]["precision_interval"] = found.current_interval
    if found.is_known:
        rows["calibrated"]["threshold_interval"] = found.threshold_interval
    return rows


def to_text(calibration: Calibration) -> str:
    """A calibration for people."""
    found, pairs = calibration.found, calibration.pairs
    own, others = _summaries(pairs).values()
    lines = [
        f"{calibration.clip_model}: {pairs.people:,} people in {pairs.images:,} images of "
        f"{', '.join(calibration.partitions)}; {calibration.same:,} images with another's picture or caption left out",
        "",
        f"{'similarity':14}{'own caption':>14}{'of other images':>18}",
        f"{'pairs':14}{pairs.own.size:>14,}{pairs.times.sum():>18,}",
        *(f"{name:14}{own[name]:>14.4f}{others[name]:>18.4f}" for name in own),
        "",
        f"the own caption is the nearer one in {_percent(found.auc)} of cases ({_span(found.auc_interval, _percent)})",
        "",
        f"{'threshold':14}{'':8}{'people kept':>14}{'other captions above':>23}   precision, at least (95 % interval)",
    ]
    for name, row in _rows(calibration).items():
        precision = f"{row['precision']:.4f}" if row["kept"] else "nobody is kept"
        if row["kept"] and "precision_interval" in row:
            precision += f" ({_span(row['precision_interval'], '{:.4f}'.format)})"
        if "threshold_interval" in row:
            precision += f"; interval of the threshold: {_span(row['threshold_interval'], '{:.4f}'.format)}"
        lines.append(
            f"{name:14}{row['threshold']:>8.4f}{_percent(row['kept']):>14}{_percent(row['others']):>23}   {precision}"
        )
    return "\n".join(lines)


def _span(interval: tuple[float, float], text: Callable[[float], str]) -> str:
    return " to ".join(map(text, interval))


def write_figure(calibration: Calibration, path: Path) -> None:
    """Draws both distributions and the thresholds as an SVG. Raises LaionPeopleError if it cannot be written."""
    pairs, found = calibration.pairs, calibration.found
    marks = [calibration.current, *(found.threshold_interval if found.is_known else ())]
    low = min(pairs.own.min(), pairs.others.min(), *marks)
    high = max(pairs.own.max(), pairs.others.max(), *marks)
    edges = np.linspace(low, high, BINS + 1)
    heights = {
        "own": np.histogram(pairs.own, edges)[0] / pairs.own.size,
        "others": np.histogram(pairs.others, edges, weights=pairs.times)[0] / pairs.times.sum(),
    }
    figure = (
        environment(FOLDER)
        .get_template("calibration.svg.j2")
        .render(
            calibration=calibration,
            edges=edges.tolist(),
            heights={name: of_one.tolist() for name, of_one in heights.items()},
            most=max(of_one.max() for of_one in heights.values()),
            ticks=ticks(low, high),
        )
    )
    try:
        path.write_text(figure, encoding="utf-8")
    except OSError as error:
        raise LaionPeopleError("cannot-write", f"{path} cannot be written: {error.strerror}") from error


def _summaries(pairs: Pairs) -> dict[str, dict[str, float]]:
    """Mean and quantiles (to four digits) of own and of other pairs."""
    shares = pairs.shares()
    means = {"own": np.average(pairs.own), "others": np.average(pairs.others, weights=pairs.times)}
    above = {"own": shares.own, "others": shares.others}
    return {
        name: {"mean": float(means[name])}
        | {f"{quantile:.0%}": float(EDGES[np.argmax(above[name] <= 1 - quantile)]) for quantile in QUANTILES}
        for name in means
    }


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
