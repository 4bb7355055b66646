"""A small finished store of two partitions: one is fetched by `download`, the other's images were made elsewhere."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from laion_people.engine.audit import audit
from laion_people.engine.runner import Runner
from laion_people.engine.step import Row
from laion_people.engine.work import Shard
from laion_people.settings import Settings
from laion_people.steps.compose.step import Compose, _files
from laion_people.steps.download import fetch
from laion_people.steps.download.step import Download
from laion_people.steps.registry import STEPS
from laion_people.storage.store import Store
from laion_people.vision.images import TarImages, decode
from tests.fakes import FakeModels, tar_of
from tests.kill_driver import NOON

FETCHED, ELSEWHERE = "sample/00000", "other/00001"
PARTITIONS = (FETCHED, ELSEWHERE)
SHARDS, ROWS = 3, 10
TWIN = 25  # a picture of FETCHED that is the same as TWIN_OF, at another address
TWIN_OF = 4
TABLES = (
    "images", "people", "pose", "mesh", "facts", "clip", "subset_a", "clusters", "assignments", "subset_b", "vectors",
    "subset_c", "subset_d",
)  # fmt: skip
STAGES = ("extract", "caption")
EXTRACT = ("download", "detect", "pose", "mesh", "clip_filter")
CAPTION = ("assign", "compose", "embed", "caption", "describe")


@cache
def body(number: int) -> bytes:
    """The picture of an address ``/<number>.jpg``: of every fourth a scene without people, else of one person or two.
    The fakes go by the brightness of the upper left corner."""
    number = TWIN_OF if number == TWIN else number
    rng = np.random.default_rng(number)
    if number % 4 == 0 and number != TWIN_OF:
        pixels = rng.integers(40, 160, (21, 32, 3), np.uint8)
        picture = Image.fromarray(pixels).resize((640, 420), Image.Resampling.BICUBIC)
        corner = 20
    else:
        pixels = rng.integers(0, 256, (42, 30), np.uint8)
        picture = Image.fromarray(pixels).convert("RGB").resize((300, 420), Image.Resampling.NEAREST)
        corner = (72, 73, 74, 141, 142, 143)[number % 6]
    picture.paste((corner, corner, corner), (0, 0, 24, 24))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    return file.getvalue()


def body_sha256(number: int) -> str:
    return sha256(body(number)).hexdigest()


class Pictures(BaseHTTPRequestHandler):
    asked: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/robots.txt":
            self.send_error(404)
            return
        data = body(int(self.path.strip("/").removesuffix(".jpg")))
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None: ...


@contextmanager
def picture_server() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pictures)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class Pairs(Compose):
    """Composes two people after each other on the images without people, whether or not they are alike."""

    def apply(self, shard: Shard) -> Iterator[Row]:
        people, images = shard.table("people").to_pylist(), TarImages(shard.path("images"))
        shard.rows_in = len(people)
        grounds = sorted(set(images.keys()) - {person["key"] for person in people})
        for number in range(len(people) // 2 if grounds else 0):
            pair, ground = people[2 * number : 2 * number + 2], grounds[number % len(grounds)]
            picture = decode(images.read(ground))
            for place, person in enumerate(pair):
                picture.paste(decode(images.read(person["key"])).crop((10, 10, 90, 90)), (100 * place, 50))
            row = {
                "composite_id": f"{shard.id}/{number:05d}", "caption": "Two people.", "aspect": "pose", "n_people": 2,
                "n_similar": 0, "background_key": ground, "width": picture.width, "height": picture.height,
                "people": [
                    {"person_id": p["person_id"], "bbox": [0.0, 0, 9, 9], "cluster_id": "pose-0000", "claims": []}
                    for p in pair
                ],
            }  # fmt: skip
            yield row | {"files": _files(row, picture, 90)}
        shard.reject("not_drawn", len(people) % 2 if grounds else len(people))


SETTINGS = Settings(
    allow_private_addresses=True, shard_rows=ROWS, describe=True, threshold=-1.0, min_foil_margin=-1.0, composites=6,
    image_size=512,
)  # fmt: skip


def runner(store: Store, models: FakeModels | None = None, retry_failed: bool = False, clusters: str = "") -> Runner:
    steps = STEPS | {"compose": Pairs(), "download": Download(retry_failed)}
    return Runner(store, replace(SETTINGS, cluster_version=clusters), models or FakeModels(), steps)


def fill(store: Store, server: str) -> None:
    """Makes the store: every step on both partitions."""
    with store.writer("metadata/sample/part-00000-x.parquet") as path:
        urls = [f"{server}/{i}.jpg" for i in range(SHARDS * ROWS)]
        pq.write_table(pa.table({"URL": urls, "TEXT": [f"picture {i}" for i in range(len(urls))]}), path)
    for index in range(SHARDS):
        import_shard(store, index)
    works = runner(store)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetch, "utc_now", lambda: NOON)
        for partition in PARTITIONS:
            for step in EXTRACT[partition == ELSEWHERE :]:
                works.run(step, partition)
    for step in ("cluster", "label"):
        works.run_release(step, PARTITIONS)
    for partition in PARTITIONS:
        for step in CAPTION:
            works.run(step, partition)


def import_shard(store: Store, index: int) -> None:
    """A shard as img2dataset makes it, with the fields that it writes."""
    numbers = range(100 + index * ROWS, 100 + (index + 1) * ROWS)
    pictures = {f"{index:05d}{i % ROWS:04d}": body(i) for i in numbers}
    more = {
        key: {"url": elsewhere_url(i), "SAMPLE_ID": 1000 + i, "sha256": body_sha256(i), "status": "success"}
        for key, i in zip(pictures, numbers, strict=True)
    }
    with store.writer(f"images/{ELSEWHERE}/{index:05d}.tar") as path:
        tar_of(pictures, path, **more)
    rows = [
        {"url": fields["url"], "caption": f"picture {key}", "key": key, "status": "success", "error_message": None}
        | {"width": 300, "height": 420, "sha256": fields["sha256"]}
        for key, fields in more.items()
    ]
    gone = {"url": gone_url(index), "key": f"{index:05d}9999", "status": "failed_to_download"}
    rows.append(dict.fromkeys(rows[0]) | gone | {"error_message": f"HTTP Error 404: {gone_url(index)}"})
    with store.writer(f"images/{ELSEWHERE}/{index:05d}.parquet") as path:
        pq.write_table(pa.Table.from_pylist(rows), path)
    counts: dict[str, Any] = {"count": ROWS + 1, "successes": ROWS, "failed_to_download": 1, "failed_to_resize": 0}
    counts["status_dict"] = {"success": ROWS, rows[-1]["error_message"]: 1}
    store.write(f"images/{ELSEWHERE}/{index:05d}_stats.json", json.dumps(counts, indent=4).encode())


def gone_url(index: int) -> str:
    """Of a picture that img2dataset could not fetch."""
    return f"http://elsewhere.example/gone-{index}.jpg"


def elsewhere_url(number: int) -> str:
    return f"http://elsewhere.example/{number}.jpg"


def faults(store: Store, clusters: str = "") -> list[str]:
    """What the audits of both partitions find."""
    return [
        fault
        for partition in PARTITIONS
        for stage in STAGES
        for fault in audit(runner(store, clusters=clusters), partition, stage, deep=True)
    ]


def run_all(store: Store, models: FakeModels | None = None) -> None:
    """Every step of partitions once more."""
    works = runner(store, models)
    for partition in PARTITIONS:
        for step in (*EXTRACT[partition == ELSEWHERE :], *CAPTION):
            works.run(step, partition)


def content(root: Path) -> dict[str, bytes]:
    """All files of a store."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
