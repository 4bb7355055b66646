"""Contact sheets: what the people of each cluster look like."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageOps

from laion_people.engine.work import Release
from laion_people.errors import LaionPeopleError
from laion_people.vision.images import ImageError, TarImages, crop, decode
from laion_people.vision.people import boxes, face_boxes

TILE = 160  # pixels
COLUMNS, ROWS = 6, 2
PADDING = {"pose": 0.05, "face": 0.5, "head": 0.5}  # share of the box that is shown around it
QUALITY = 85

Place = tuple[str, int, int]  # partition, shard, row: where a person is


def pick(members: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """The members that stand for a cluster: the medoid first, then evenly from near its centre to far from it."""
    nearest = members[np.argsort(distances[members], kind="stable")]
    return nearest[np.unique(np.linspace(0, len(nearest) - 1, min(len(nearest), COLUMNS * ROWS)).round().astype(int))]


def write_sheets(release: Release, sheets: Mapping[str, Sequence[Place]]) -> list[str]:
    """Writes ``contact-<cluster_id>.jpg`` for each cluster id and its people; returns the names of the files."""
    wanted: dict[tuple[str, int], list[tuple[str, int, int]]] = defaultdict(list)
    for cluster_id, places in sheets.items():
        for slot, (partition, index, row) in enumerate(places):
            wanted[partition, index].append((cluster_id, slot, row))
    tiles: dict[str, dict[int, Image.Image]] = defaultdict(dict)
    for (partition, index), people in sorted(wanted.items()):
        table = release.table("people", partition, index, ["key", "bbox"])
        mesh = release.table("mesh", partition, index, ["face_landmarks"])
        whole, faces = boxes(table), face_boxes(mesh)
        with release.local("images", partition, index) as path:
            images = TarImages(path)
            for cluster_id, slot, row in people:
                key = table["key"][row].as_py()
                kind = cluster_id.split("-")[0]
                box = whole[row] if kind == "pose" else faces[row]
                try:
                    image = np.asarray(decode(images.read(key), limited=False))
                except ImageError as error:
                    raise LaionPeopleError(f"{partition}/{index:05d}/{key}: {error}; run `detect` again") from error
                tiles[cluster_id][slot] = _tile(crop(image, box, PADDING[kind]))
    names = []
    for cluster_id, pictures in sorted(tiles.items()):
        names.append(f"contact-{cluster_id}.jpg")
        release.store.write(release.path(names[-1]), _sheet([pictures[slot] for slot in sorted(pictures)]))
    return names


def _tile(pixels: np.ndarray) -> Image.Image:
    return ImageOps.pad(Image.fromarray(pixels), (TILE, TILE), Image.Resampling.LANCZOS, color="white")


def _sheet(tiles: Sequence[Image.Image]) -> bytes:
    """A JPEG with the tiles in rows; short rows are filled with white."""
    rows = -(-len(tiles) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * TILE, rows * TILE), "white")
    for slot, tile in enumerate(tiles):
        sheet.paste(tile, (slot % COLUMNS * TILE, slot // COLUMNS * TILE))
    file = io.BytesIO()
    sheet.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
