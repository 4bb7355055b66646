"""compose: Subset B, people from several images on a person-free background, with a caption about what they share."""

from __future__ import annotations

import io
import itertools
import json
import logging
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from laion_people.batches import timed
from laion_people.collage import canvas, fits, paste
from laion_people.composer import Composer, Composition, People, pools
from laion_people.errors import LaionPeopleError
from laion_people.images import ImageError, TarImages, decode
from laion_people.metadata import flagged
from laion_people.settings import Settings
from laion_people.step import Row, Shard, Step

log = logging.getLogger(__name__)

PEOPLE_PER_COMPOSITE = 4  # people of a shard for each composed picture, unless `composites` says how many


class Compose(Step):
    """One row a composed picture. A person who is in none is rejected, under the first reason that keeps them out."""

    name = "compose"
    summary = "pastes people on person-free backgrounds, with captions about what they share"
    reads = ("images", "people", "pose", "mesh", "assignments", "fit")
    writes = "subset_b"
    tar = True
    tar_key = "composite_id"
    reasons: ClassVar[Mapping[str, str]] = {
        "no_background": "the shard has no image without people that is large enough",
        "no_cluster": "in no pose, face or head cluster",
        "crowded": "boxes of others cover more than a tenth of the cut-out",
        "truncated": "head or shoulders are not seen",
        "too_small": "the box is too low to be pasted sharply",
        "unclear": "neither pose, face nor head is seen clearly enough",
        "no_partner": "nobody was found who is certainly alike or certainly different",
        "not_drawn": "enough pictures were made without",
    }

    def params(self, settings: Settings) -> dict[str, Any]:
        names = ("composites", "backgrounds", "jpeg_quality", "seed", "nsfw_filter")
        return {name: getattr(settings, name) for name in names}

    def apply(self, shard: Shard) -> Iterator[Row]:
        people = People(shard)
        shard.rows_in = len(people.ids)
        rng = np.random.default_rng([shard.settings.seed, zlib.crc32(shard.id.encode())])
        images = TarImages(shard.path("images"))
        backgrounds = timed(shard, "decode", _backgrounds(shard, images, people, rng))
        first = next(backgrounds, None)
        if first is None:
            log.warning("%s: no image without people is large enough for a background", shard.id)
            shard.reject("no_background", shard.rows_in)
            return
        composer = Composer(people, pools(shard, people), rng)
        count = shard.settings.composites or shard.rows_in // PEOPLE_PER_COMPOSITE
        compositions = itertools.islice(composer, count)
        on_backgrounds = zip(compositions, itertools.chain([first], backgrounds), strict=False)  # there is no last one
        for number, (composition, background) in enumerate(on_backgrounds):
            yield _row(shard, people, images, number, composition, *background)
        for reason, rows in composer.unused().items():
            shard.reject(reason, rows)


def _backgrounds(
    shard: Shard, images: TarImages, people: People, rng: np.random.Generator
) -> Iterator[tuple[str, Image.Image]]:
    """Backgrounds in random order, again and again; none when no image will do."""
    read: Callable[[str], bytes]
    if folder := shard.settings.backgrounds:
        names, read = shard.store.list(folder), shard.store.read
        if not names:
            raise LaionPeopleError(f"LAION_PEOPLE_BACKGROUNDS={folder}: there are no files in that folder of the store")
    else:
        names, read = sorted(set(images.keys()) - set(people.keys)), images.read
        if shard.settings.nsfw_filter:  # `detect` has looked for nobody in these
            names = [name for name in names if not flagged(images.fields(name))]
    usable = [names[i] for i in rng.permutation(len(names))]
    while usable:
        for name in list(usable):
            try:
                image = decode(read(name))
            except ImageError as error:
                log.info("%s: %s is no background: %s", shard.id, name, error)
                usable.remove(name)
                continue
            if fits(image):
                yield name, image
            else:
                usable.remove(name)


def _row(
    shard: Shard,
    people: People,
    images: TarImages,
    number: int,
    composition: Composition,
    key: str,
    background: Image.Image,
) -> Row:
    rows, places = composition.people, composition.places
    with shard.clock("decode"):
        cutouts = [_person(shard, images, people.keys[r]).crop(people.cutouts[r].tolist()) for r in rows]
    picture = canvas(background, composition.width)
    paste(picture, cutouts, places)
    row = {
        "composite_id": f"{shard.id}/{number:05d}",
        "caption": composition.caption,
        "aspect": composition.aspect,
        "n_people": len(rows),
        "n_similar": composition.n_similar,
        "people": [
            {
                "person_id": people.ids[r],
                "bbox": _pasted(people.boxes[r], people.cutouts[r], place),
                "cluster_id": cluster,
            }
            for r, place, cluster in zip(rows, places, composition.clusters, strict=True)
        ],
        "background_key": key,
        "width": picture.width,
        "height": picture.height,
    }
    return row | {"files": _files(row, picture, shard.settings.jpeg_quality)}


def _person(shard: Shard, images: TarImages, key: str) -> Image.Image:
    try:
        return decode(images.read(key), limited=False)
    except ImageError as error:
        raise LaionPeopleError(f"{shard.id}/{key} can no longer be decoded ({error}): run `detect` again") from error


def _pasted(box: np.ndarray, cutout: np.ndarray, place: np.ndarray) -> list[float]:
    """Where a person's box comes to lie, when the pixels ``cutout`` are pasted into ``place``."""
    scale = (place[2:] - place[:2]) / (cutout[2:] - cutout[:2])
    corners = place[:2] + (box.reshape(2, 2) - cutout[:2]) * scale
    return np.clip(corners, place[:2], place[2:]).ravel().tolist()


def _files(row: Row, picture: Image.Image, quality: int) -> dict[str, bytes]:
    """The picture, its caption and the row, as img2dataset lays out a sample."""
    jpeg = io.BytesIO()
    picture.save(jpeg, "JPEG", quality=quality)
    fields = {"key": row["composite_id"].rsplit("/", 1)[-1], "status": "success", **row}
    return {"jpg": jpeg.getvalue(), "txt": row["caption"].encode(), "json": json.dumps(fields).encode()}
