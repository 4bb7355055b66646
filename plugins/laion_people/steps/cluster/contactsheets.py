"""Contact sheets: what the people of each cluster look like, and who is where on each sheet.

``sheets.json`` says the latter, so that somebody who wants to be out of the data can be taken off a sheet.
"""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf, log
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from laion_people.engine.work import Release
from laion_people.errors import LaionPeopleError, check_shortage, one_line
from laion_people.storage.layout import contact_sheet
from laion_people.vision.images import ImageError, TarImages, crop, decode
from laion_people.vision.people import boxes, face_boxes

PICTURES = 12  # of a sheet at most
WIDTH, GAP = 960, 4  # of a sheet, and between its pictures, in pixels
USUAL = 170  # height of a row in pixels
LOWEST, HIGHEST = 60, 360  # what it may be for the sake of the width; a single wide picture may be lower
SLIMMEST = 1 / 24  # width to height, or height to width, of a picture; of slimmer ones the middle is shown
GROUND = (148, 153, 160)  # between the pictures: a grey that is neither light nor dark
PADDING = {"pose": 0.05, "face": 0.5, "head": 0.5}  # share of the box that is shown around it
QUALITY = 85
RECORD = "sheets.json"  # who is where on each sheet: written before the sheets
MOST_PIXELS = 1 << 25  # of a sheet that is opened again
EDGE = 16  # pixels on which a JPEG of half as many colours spreads what is beside them


class Place(NamedTuple):
    """Where a person is in the store."""

    person_id: str
    partition: str
    shard: int
    row: int


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a picture is on a sheet, in pixels."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Pictured(Slot):
    """A person's picture on a sheet."""

    person_id: str


def pick(members: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """The members that stand for a cluster: the medoid first, then evenly from near its centre to far from it."""
    nearest = members[np.argsort(distances[members], kind="stable")]
    return nearest[np.unique(np.linspace(0, len(nearest) - 1, min(len(nearest), PICTURES)).round().astype(int))]


def write_sheets(release: Release, sheets: Mapping[str, Sequence[Place]]) -> list[str]:
    """Writes sheets.json, and ``contact-<cluster_id>.jpg`` for each cluster id and its people; returns the names of
    the files. Who is killed in between leaves no sheet that sheets.json does not tell of.

    Raises LaionPeopleError when a person's image cannot be read.
    """
    wanted: dict[tuple[str, int], list[tuple[str, int, int]]] = defaultdict(list)
    for cluster_id, places in sheets.items():
        for slot, place in enumerate(places):
            wanted[place.partition, place.shard].append((cluster_id, slot, place.row))
    pictures: dict[str, dict[int, Image.Image]] = defaultdict(dict)
    for (partition, index), people in sorted(wanted.items()):
        for cluster_id, slot, pixels in _cut_out(release, partition, index, people):
            pictures[cluster_id][slot] = Image.fromarray(pixels)
    in_order = {
        contact_sheet(c): [by_slot[slot] for slot in sorted(by_slot)] for c, by_slot in sorted(pictures.items())
    }
    slots = {name: arrange([picture.width / picture.height for picture in each]) for name, each in in_order.items()}
    ids = {contact_sheet(cluster_id): [place.person_id for place in places] for cluster_id, places in sheets.items()}
    record = {
        name: [Pictured(**asdict(slot), person_id=person) for slot, person in zip(slots[name], ids[name], strict=True)]
        for name in in_order
    }
    release.store.write(release.path(RECORD), record_to_json(record))
    for name, each in in_order.items():
        release.store.write(release.path(name), _sheet(each, slots[name]))
    return [*in_order, RECORD]


def record_to_json(record: Mapping[str, Sequence[Pictured]]) -> bytes:
    """The content of sheets.json: people by the name of their sheet, the medoid first."""
    return (json.dumps({n: [asdict(p) for p in people] for n, people in record.items()}, indent=1) + "\n").encode()


def record_from_json(path: str, data: bytes) -> dict[str, list[Pictured]]:
    """Raises LaionPeopleError, naming the file, when ``data`` is no such content."""
    try:
        record = {name: [Pictured(**person) for person in people] for name, people in json.loads(data).items()}
        for person in (person for people in record.values() for person in people):
            place = (person.left, person.top, person.width, person.height)
            if not isinstance(person.person_id, str) or not all(type(n) is int and abs(n) <= 1 << 16 for n in place):
                raise ValueError(f"{person} is nowhere")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise LaionPeopleError(
            "damaged-version", f"{path} is damaged ({one_line(repr(error), 200)}): run `cluster` with force"
        ) from error
    return record


def blank(sheet: bytes, slots: Sequence[Slot]) -> bytes:
    """The JPEG of a sheet with the ground's colour where these pictures were; the same bytes where that is done.

    Raises LaionPeopleError when ``sheet`` is no such picture.
    """
    try:
        with Image.open(io.BytesIO(sheet), formats=["JPEG"]) as file:
            if file.width * file.height > MOST_PIXELS:
                raise ValueError(f"it has {file.width} x {file.height} pixels")
            picture = file.convert("RGB")
    except Exception as error:  # a damaged file: Pillow may raise anything
        check_shortage(error)
        raise LaionPeopleError("damaged-file", f"is no contact sheet ({one_line(repr(error), 200)})") from error
    if all(_is_blank(picture, slot) for slot in slots):
        return sheet
    for slot in slots:  # with the gap around it, into which a JPEG spreads it
        box = (slot.left - GAP, slot.top - GAP, slot.left + slot.width + GAP, slot.top + slot.height + GAP)
        picture.paste(GROUND, box)
    return _jpeg(picture)


def _is_blank(picture: Image.Image, slot: Slot) -> bool:
    """Whether there is nothing but ground, as far as the pictures around have no part in it."""
    pixels = np.asarray(picture, np.int16)[slot.top : slot.top + slot.height, slot.left : slot.left + slot.width]
    inside = pixels[EDGE:-EDGE, EDGE:-EDGE]
    return inside.size > 0 and int(abs(inside - GROUND).max()) <= 2


def _cut_out(
    release: Release, partition: str, index: int, people: Sequence[tuple[str, int, int]]
) -> Iterator[tuple[str, int, np.ndarray]]:
    """Cluster id, slot and pixels of people of a shard, who are given as cluster id, slot and row."""
    table = release.table("people", partition, index)
    whole, faces = boxes(table), face_boxes(release.table("mesh", partition, index, ["face_landmarks"]))
    with release.local("images", partition, index) as path:
        images = TarImages(path)
        for cluster_id, slot, row in people:
            key = table["key"][row].as_py()
            kind = cluster_id.split("-")[0]
            try:
                image = np.asarray(decode(images.read(key), limited=False))
            except ImageError as error:
                raise LaionPeopleError(
                    "images-changed", f"{partition}/{index:05d}/{key}: {error}; run `detect` again"
                ) from error
            yield cluster_id, slot, crop(image, (whole if kind == "pose" else faces)[row], PADDING[kind])


def arrange(shapes: Sequence[float]) -> list[Slot]:
    """Pictures with these ratios of width to height in rows as wide as the sheet, from left to right and down.

    The pictures of a row are equally high, and keep their shape but for what rounding to pixels takes. A row that would
    be higher than HIGHEST to fill the width is HIGHEST, and in the middle.
    """
    shapes = [min(max(shape, SLIMMEST), 1 / SLIMMEST) for shape in shapes]
    slots: list[Slot] = []
    top = 0
    for row in _rows(shapes):
        height = min(_height(row), HIGHEST)
        left = (WIDTH - height * sum(row) - GAP * (len(row) - 1)) / 2
        for shape in row:
            right = left + height * shape
            slots.append(Slot(round(left), top, round(right) - round(left), round(height)))
            left = right + GAP
        top += round(height) + GAP
    return slots


def _rows(shapes: Sequence[float]) -> list[Sequence[float]]:
    """The shapes in rows, of all ways to break them that whose heights are the nearest to USUAL, as ratios.

    Only a row of a single picture may be lower than LOWEST.
    """
    best: list[tuple[float, list[Sequence[float]]]] = [(0.0, [])]  # of the first 0, 1, ... shapes: how far, rows
    for stop in range(1, len(shapes) + 1):
        far, rows = inf, best[0][1]
        for start in range(stop):
            row = shapes[start:stop]
            if len(row) > 1 and _height(row) < LOWEST:
                continue
            sum_of_both = best[start][0] + log(_height(row) / USUAL) ** 2
            if sum_of_both < far:
                far, rows = sum_of_both, [*best[start][1], row]
        best.append((far, rows))
    return best[-1][1]


def _height(row: Sequence[float]) -> float:
    """The height in pixels at which the pictures of a row fill the width."""
    return (WIDTH - GAP * (len(row) - 1)) / sum(row)


def _sheet(pictures: Sequence[Image.Image], slots: Sequence[Slot]) -> bytes:
    """A JPEG with the pictures in their places, the first at the upper left."""
    sheet = Image.new("RGB", (WIDTH, slots[-1].top + slots[-1].height), GROUND)
    for picture, slot in zip(pictures, slots, strict=True):
        size = slot.width, slot.height
        sheet.paste(ImageOps.fit(picture, size, Image.Resampling.LANCZOS), (slot.left, slot.top))
    return _jpeg(sheet)


def _jpeg(sheet: Image.Image) -> bytes:
    file = io.BytesIO()
    sheet.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
