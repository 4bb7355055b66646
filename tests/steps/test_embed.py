"""What embed promises: one vector of each person and head, of the right part of the right image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from laion_people.engine.step import Row
from laion_people.engine.work import Shard
from laion_people.settings import Settings
from laion_people.steps.embed import Embed
from laion_people.storage.schemas import SCHEMAS
from laion_people.storage.store import LocalStore
from tests.fakes import FakeClip, jpeg, tar_of

PARTITION = "laion2B-en/00042"
FACE = np.c_[np.linspace(40, 60, 478), np.linspace(20, 50, 478), np.zeros(478)].ravel()


class WatchfulClip(FakeClip):
    def __init__(self) -> None:
        self.images: list[tuple[int, int]] = []

    def encode_images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        self.images += [image.shape[:2] for image in images]
        return super().encode_images(images)


def brightness(image: int) -> int:
    return (50 * image + 20) % 250


def embed(folder: Path, faced: Sequence[bool]) -> tuple[list[Row], Shard, WatchfulClip]:
    """Runs the step on two people an image, some of whom have a face mesh."""
    keys = [f"{i // 2:09d}" for i in range(len(faced))]
    pictures = {key: jpeg(brightness(i), (200, 160)) for i, key in enumerate(dict.fromkeys(keys))}
    tar_of(pictures, folder / "images.tar")
    ids = [f"{PARTITION}/00000/{key}/{i % 2}" for i, key in enumerate(keys)]
    size = {"image_width": 200, "image_height": 160, "bbox": [20, 10, 80, 150], "bbox_score": 0.9}
    fields = {"sample_id": 1, "url": "http://x/", "caption": ""} | size
    tables = {
        "people": [{"person_id": d, "key": k} | fields for d, k in zip(ids, keys, strict=True)],
        "mesh": [
            dict.fromkeys(SCHEMAS["mesh"].names) | {"person_id": d, "face_landmarks": FACE if f else None}
            for d, f in zip(ids, faced, strict=True)
        ],
    }
    for name, rows in tables.items():
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMAS[name]), folder / f"{name}.parquet")
    files = {name: folder / f"{name}.parquet" for name in tables} | {"images": folder / "images.tar"}
    clip = WatchfulClip()
    store = LocalStore(folder / "store")
    columns = Embed.entry.reads
    shard = Shard(PARTITION, 0, settings=Settings(), store=store, model=lambda role: clip, files=files, columns=columns)
    return list(Embed().apply(shard)), shard, clip


def test_each_person_has_the_vectors_of_their_own_image(tmp_path: Path) -> None:
    faced = [True, False, False, True, True, True, False]
    rows, shard, _ = embed(tmp_path, faced)
    pa.Table.from_pylist(rows, schema=SCHEMAS["vectors"])
    assert [row["head"] is not None for row in rows] == faced
    for i, row in enumerate(rows):
        [expected] = FakeClip().encode_images([np.full((9, 9, 3), brightness(i // 2))])
        for view in (row["body"], row["head"]):
            if view is not None:
                assert view.dtype == np.float16
                np.testing.assert_allclose(view, expected, atol=1e-3)
    assert shard.rows_in == len(rows) == 7
    assert not shard.rejected


def test_bodies_are_seen_by_their_boxes_and_heads_by_their_meshes(tmp_path: Path) -> None:
    _, _, clip = embed(tmp_path, [True])
    assert clip.images == [
        (160, 72),  # the box, a tenth wider on each side, cut off at the image's border
        (66, 44),  # the mesh, three fifths wider on each side
    ]


@pytest.mark.parametrize("people", [0, 1])
def test_shards_with_few_people_pass(people: int, tmp_path: Path) -> None:
    rows, shard, _ = embed(tmp_path, [False] * people)
    assert len(rows) == shard.rows_in == people
