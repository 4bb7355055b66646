"""compose: Subset B, people from several images on a person-free background, with a caption about what they share."""

from __future__ import annotations

import functools
import io
import itertools
import json
import logging
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from include.models import Detections, Detector, Segmenter
from laion_people.engine.catalog import STEPS
from laion_people.engine.step import Row, Step
from laion_people.engine.work import Shard
from laion_people.errors import LaionPeopleError, coded
from laion_people.settings import Settings
from laion_people.steps.compose.collage import canvas, fits, paste
from laion_people.steps.compose.composer import Composer, Composition, People, pools
from laion_people.steps.compose.cutouts import Look, is_dark, is_scene, look_at, with_surroundings
from laion_people.storage.metadata import flagged
from laion_people.vision.batches import timed
from laion_people.vision.images import ImageError, TarImages, decode

log = logging.getLogger(__name__)

PEOPLE_PER_COMPOSITE = 4  # people of a shard for each composed picture, unless `composites` sets a number


class Compose(Step):
    """One row a composed picture. A person who is in none is rejected, with the first reason that applies."""

    entry = STEPS["compose"]
    revision = 3
    reasons: ClassVar[Mapping[str, str]] = {
        "no_background": "the shard has no image that shows a scene, large and wide enough, and in which nobody is",
        "no_cluster": "in no pose, face or head cluster",
        "crowded": "others, or parts of them, are in the cut-out",
        "truncated": "head or shoulders are not seen",
        "too_small": "the box is too low to be pasted sharply",
        "strip": "the cut-out leaves out much of what is seen of the person, or has a shape that people don't have",
        "off_ground": "is seen with the feet, and jumps or is not certain to stand, sit, squat or kneel",
        "dark": "the cut-out is too dark",
        "blurred": "the cut-out would be blurred when pasted",
        "no_matte": "the segmenter does not tell the person from what is behind",
        "unclear": "neither pose, face nor head is seen clearly enough",
        "no_partner": "nobody was found who is certainly alike or certainly different",
        "not_drawn": "enough pictures were made without",
    }

    def params(self, settings: Settings) -> dict[str, Any]:
        names = ("composites", "backgrounds", "cutouts", "jpeg_quality", "seed", "nsfw_filter")
        return {name: getattr(settings, name) for name in names}

    def apply(self, shard: Shard) -> Iterator[Row]:
        people = People(shard)
        shard.rows_in = len(people.ids)
        rng = np.random.default_rng([shard.settings.seed, zlib.crc32(shard.id.encode())])
        images = TarImages(shard.path("images"))
        backgrounds = timed(shard, "decode", _backgrounds(shard, images, people, rng))
        first = next(backgrounds, None)
        if first is None:
            log.warning(
                coded("no-backgrounds", "%s: no image without people is large enough for a background"), shard.id
            )
            shard.reject("no_background", shard.rows_in)
            return
        cutouts = Cutouts(shard, images, people)
        composer = Composer(people, pools(shard, people), rng, cutouts.look)
        count = shard.settings.composites or shard.rows_in // PEOPLE_PER_COMPOSITE
        compositions = itertools.islice(composer, count)
        on_backgrounds = zip(compositions, itertools.chain([first], backgrounds), strict=False)  # backgrounds never end
        for number, (composition, background) in enumerate(on_backgrounds):
            yield _row(shard, people, cutouts, number, composition, *background)
        for reason, rows in composer.unused().items():
            shard.reject(reason, rows)


def _backgrounds(
    shard: Shard, images: TarImages, people: People, rng: np.random.Generator
) -> Iterator[tuple[str, Image.Image]]:
    """Backgrounds in random order, again and again; none if no image is usable."""
    read: Callable[[str], bytes]
    nobody: Callable[[Image.Image], bool]
    if folder := shard.settings.backgrounds:
        names, read, nobody = shard.store.list(folder), shard.store.read, lambda _: True  # their owner says so
        if not names:
            raise LaionPeopleError(
                "bad-setting", f"LAION_PEOPLE_BACKGROUNDS={folder}: there are no files in that folder of the store"
            )
    else:
        names, read = sorted(set(images.keys()) - set(people.keys)), images.read
        nobody = functools.partial(_is_empty_scene, shard)
        if shard.removed:
            removed = shard.removed
            names = [name for name in names if not removed.has_image(images.fields(name), f"{shard.id}/{name}")]
        if shard.settings.nsfw_filter:  # `detect` did not look for people in these
            names = [name for name in names if not flagged(images.fields(name))]
    usable = [names[i] for i in rng.permutation(len(names))]
    tried: set[str] = set()
    while usable:
        for name in list(usable):
            try:
                image = decode(read(name))
            except ImageError as error:
                log.info("%s: %s is no background: %s", shard.id, name, error)
                usable.remove(name)
                continue
            if name in tried or (fits(image) and nobody(image)):
                tried.add(name)
                yield name, image
            else:
                usable.remove(name)


def _is_empty_scene(shard: Shard, image: Image.Image) -> bool:
    """Whether an image shows a scene, and nothing that may be a person, not even a small, half-hidden or painted one:
    `detect` only says that there is no certain person."""
    if is_dark(image) or not is_scene(image):
        return False
    (bystanders,) = shard.model("bystanders").detect([np.asarray(image)])
    return not len(bystanders.boxes)


class Cutouts:
    """The cut-outs of a shard's people, by their rows."""

    def __init__(self, shard: Shard, images: TarImages, people: People):
        self._shard, self._images, self._people = shard, images, people
        self._bystanders: Detector = shard.model("bystanders")
        self._segmenter: Segmenter = shard.model("matte")
        self._image = functools.lru_cache(maxsize=8)(self._decoded)  # people are inspected right before they are pasted

    def look(self, row: int) -> Look:
        """Inspects the cut-out."""
        cutout, image = self._rectangle(row), self._image(self._people.keys[row])
        wider = with_surroundings(self._people.cutouts[row], image.size)
        with self._shard.timed("model"):
            (seen,) = self._bystanders.detect([np.asarray(image.crop(wider.tolist()))])
        bystanders = Detections(seen.boxes + np.tile(wider[:2], 2), seen.scores)
        return look_at(image, self._people.cutouts[row], self._people.joints(row), bystanders, self._matte(cutout))

    def pixels(self, row: int) -> Image.Image:
        """The rectangle around the person: RGB, or RGBA with a matte."""
        cutout = self._rectangle(row)
        if self._shard.settings.cutouts == "matte":
            cutout.putalpha(Image.fromarray(np.uint8(255 * self._matte(cutout))))
        return cutout

    def _matte(self, cutout: Image.Image) -> np.ndarray:
        with self._shard.timed("model"):
            return self._segmenter.mattes([np.asarray(cutout)])[0]

    def _rectangle(self, row: int) -> Image.Image:
        with self._shard.timed("decode"):
            return self._image(self._people.keys[row]).crop(self._people.cutouts[row].tolist())

    def _decoded(self, key: str) -> Image.Image:
        try:
            return decode(self._images.read(key), limited=False)
        except ImageError as error:
            message = f"{self._shard.id}/{key} can no longer be decoded ({error}): run `detect` again"
            raise LaionPeopleError("images-changed", message) from error


def _row(
    shard: Shard,
    people: People,
    cutouts: Cutouts,
    number: int,
    composition: Composition,
    key: str,
    background: Image.Image,
) -> Row:
    rows, places, caption = composition.people, composition.places, composition.caption
    picture = canvas(background, composition.width)
    paste(picture, [cutouts.pixels(r) for r in rows], places)
    row = {
        "composite_id": f"{shard.id}/{number:05d}",
        "caption": caption.text,
        "aspect": composition.aspect,
        "n_people": len(rows),
        "n_similar": composition.n_similar,
        "people": [
            {
                "person_id": people.ids[r],
                "bbox": _pasted(people.boxes[r], people.cutouts[r], place),
                "cluster_id": cluster,
                "claims": list(claims),
            }
            for r, place, cluster, claims in zip(rows, places, composition.clusters, caption.claims, strict=True)
        ],
        "background_key": key,
        "width": picture.width,
        "height": picture.height,
    }
    return row | {"files": _files(row, picture, shard.settings.jpeg_quality)}


def _pasted(box: np.ndarray, cutout: np.ndarray, place: np.ndarray) -> list[float]:
    """The person's box in the picture, after the pixels ``cutout`` are pasted into ``place``."""
    scale = (place[2:] - place[:2]) / (cutout[2:] - cutout[:2])
    corners = place[:2] + (box.reshape(2, 2) - cutout[:2]) * scale
    return np.clip(corners, place[:2], place[2:]).ravel().tolist()


def _files(row: Row, picture: Image.Image, quality: int) -> dict[str, bytes]:
    """The picture, its caption and the row, in img2dataset's layout of a sample."""
    jpeg = io.BytesIO()
    picture.save(jpeg, "JPEG", quality=quality)
    fields = {"key": row["composite_id"].rsplit("/", 1)[-1], "status": "success", **row}
    return {"jpg": jpeg.getvalue(), "txt": row["caption"].encode(), "json": json.dumps(fields).encode()}
