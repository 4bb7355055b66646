"""A shard as large as real ones, under many numbers: what the browsers of people, Subset B and Subset C read."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from laion_people.engine.writing import ROW_GROUP
from laion_people.language import captions
from laion_people.storage.schemas import SCHEMAS
from laion_people.storage.store import LocalStore
from tests.synthetic_store import CLAIMS, OF_PERSON, UPRIGHT

CLUSTERS = 256
KINDS = ("pose", "face", "head")
SIZE = (384, 512)
WORDS = ("portrait", "of", "somebody", "in", "the", "park", "waiting", "bus", "stock", "photo", "vintage", "street")


_FACTS = [
    {"name": name, "value": value, "confidence": 0.9}
    for name, value in (claim.split("=") for claim in (*CLAIMS.values(), "left_arm=down", "right_arm=bent", "nod=up"))
]


def add_big_shards(store: LocalStore, partition: str, version: str, shards: int, people: int = 10_000) -> None:
    """Tables and tars of one shard, which stands under ``shards`` numbers (hard links), and the version's clusters."""
    rng = np.random.default_rng(5)
    ids, keys = _ids(partition, people)
    tables = _tables(rng, ids, keys)
    tables["subset_b"] = _composites(partition, tables["people"], people // 4)
    tables["subset_c"] = _choices(rng, tables["people"])
    for name, table in tables.items():
        folder = f"{name}/{version}" if name in ("assignments", "subset_b", "subset_c") else name
        _write(store, f"{folder}/{partition}/00000.parquet", table)
    _write_tar(store, f"images/{partition}/00000.tar", dict.fromkeys(keys))
    _write_tar(store, f"subset_b/{version}/{partition}/00000.tar", [f"{i:09d}" for i in range(people // 4)])
    _add_clusters(store, version, ids[0])
    for path in [
        p for p in store.list("") if f"/{partition}/00000." in p and not p.startswith(("manifests", "totals"))
    ]:
        for shard in range(1, shards):
            os.link(store.root / path, (store.root / path.replace("/00000.", f"/{shard:05d}.")))


def _ids(partition: str, people: int) -> tuple[list[str], list[str]]:
    keys = [f"{row * 2 // 3:09d}" for row in range(people)]  # one or two people in an image
    numbers = [row * 2 % 3 // 2 if row else 0 for row in range(people)]
    return [f"{partition}/00000/{key}/{number}" for key, number in zip(keys, numbers, strict=True)], keys


def _tables(rng: np.random.Generator, ids: list[str], keys: list[str]) -> dict[str, pa.Table]:
    n = len(ids)
    captions = [" ".join(rng.choice(WORDS, 12)) for _ in ids]
    urls = [f"https://images.example.org/{rng.integers(10**12):x}/{key}.jpg?width=1024" for key in keys]
    box = np.tile([60.0, 40, 300, 500], n).astype(np.float32)
    points = np.c_[UPRIGHT * [240, 460] + [60, 40], np.ones(17)].astype(np.float32)
    keypoints = np.tile(points, (n, 1, 1)) + rng.normal(0, 2, (n, 17, 3)).astype(np.float32) * [1, 1, 0.05]
    seen = np.arange(n) % 3 != 0
    similarity = rng.normal(0.27, 0.05, n).astype(np.float32)
    clusters = {f"{kind}_cluster": [f"{kind}-{i:04d}" for i in rng.integers(0, CLUSTERS, n)] for kind in KINDS}
    people = _table("people", person_id=ids, sample_id=np.arange(n), key=keys, url=urls, caption=captions,
                    image_width=[SIZE[0]] * n, image_height=[SIZE[1]] * n, bbox=_lists(box, 4),
                    bbox_score=rng.uniform(0.3, 1, n))  # fmt: skip
    inside = people.filter(pa.array(similarity > 0.3)).select(SCHEMAS["subset_a"].names[:6])
    distances = {f"{kind}_distance": rng.uniform(0, 1, n) for kind in KINDS}
    return {
        "people": people,
        "subset_a": inside.append_column("threshold", pa.array([0.3] * len(inside), pa.float32())),
        "pose": _table("pose", person_id=ids, keypoints=_lists(keypoints.ravel(), 51), pose_score=[0.8] * n,
                       world_landmarks=_lists(rng.normal(0, 1, n * 99), 99, False)),
        "mesh": _table("mesh", person_id=ids,
                       face_landmarks=_masked(_lists(rng.uniform(140, 220, n * 1434), 1434, False), seen),
                       blendshapes=_masked(_lists(rng.uniform(0, 0.4, n * 52), 52, False), seen),
                       **{f"head_{a}": pa.array(rng.normal(0, 20, n), mask=~seen) for a in ("yaw", "pitch", "roll")},
                       face_score=pa.array(rng.uniform(0.5, 1, n), mask=~seen)),
        "facts": _table("facts", person_id=ids, facts=pa.array([_FACTS] * n, SCHEMAS["facts"].field("facts").type)),
        "clip": _table("clip", person_id=ids, similarity=similarity, clip_model=["made-up"] * n),
        "assignments": _table("assignments", person_id=ids, **clusters, **distances),
    }  # fmt: skip


def _composites(partition: str, people: pa.Table, count: int) -> pa.Table:
    ids, boxes = people["person_id"].to_pylist(), ([20.0, 100, 180, 380], [200.0, 100, 360, 380])
    rows = [
        {
            "composite_id": f"{partition}/00000/{i:09d}",
            "caption": "Two people hold the same pose." if i % 2 else "Two people stand differently.",
            "aspect": KINDS[i % 3],
            "n_people": 2,
            "n_similar": 2 * (i % 2),
            "people": [
                {
                    "person_id": ids[(2 * i + j) % len(ids)],
                    "bbox": boxes[j],
                    "cluster_id": f"{KINDS[i % 3]}-{j:04d}",
                    "claims": [],
                }
                for j in range(2)
            ],
            "background_key": "000000000",
            "width": SIZE[0],
            "height": SIZE[1],
        }
        for i in range(count)
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMAS["subset_b"])


def _choices(rng: np.random.Generator, people: pa.Table) -> pa.Table:
    candidates = {kind: [f"A person shows {kind} {i}, one way or another." for i in range(6)] for kind in KINDS}
    rows = []
    for person in people.select(list(OF_PERSON)).to_pylist():
        for kind in KINDS:
            scores = np.sort(rng.uniform(0.1, 0.4, 6))[::-1].tolist()
            rows.append(
                person
                | {"kind": kind, "cluster_id": f"{kind}-0001", "caption": candidates[kind][0], "scores": scores}
                | {"claims": [CLAIMS[kind]], "foil_margin": None}
                | {"candidates": candidates[kind], "clip_score": scores[0], "margin": scores[0] - scores[1]}
            )
    return pa.Table.from_pylist(rows, schema=SCHEMAS["subset_c"])


def _add_clusters(store: LocalStore, version: str, medoid: str) -> None:
    texts = [f"A person is seen in way {way} of doing a thing." for way in range(6)]
    rows = [
        {
            "cluster_id": f"{kind}-{i:04d}",
            "kind": kind,
            "size": 400 - i,
            "medoid_person_id": medoid,
            "centroid": [0.0] * 27,
            "captions": texts,
            "claims": [[CLAIMS[kind]]] * len(texts),
            "reviewed": False,
        }
        for kind in KINDS
        for i in range(CLUSTERS)
    ]
    _write(store, f"clusters/{version}/clusters.parquet", pa.Table.from_pylist(rows, schema=SCHEMAS["clusters"]))
    entries = {row["cluster_id"]: captions.Entry(tuple(texts), claims=tuple(map(tuple, row["claims"]))) for row in rows}
    captions.put(store, version, entries)
    store.write(f"manifests/cluster/{version}.json", b"{}")


def _table(name: str, **values: Any) -> pa.Table:
    schema = SCHEMAS[name]
    arrays = [values[f.name] if f.name in values else pa.nulls(len(values["person_id"]), f.type) for f in schema]
    return pa.table([pa.array(a).cast(f.type) for a, f in zip(arrays, schema, strict=True)], schema=schema)


def _lists(values: np.ndarray, width: int, fixed: bool = True) -> pa.Array:
    flat = pa.array(values.astype(np.float32))
    if fixed:
        return pa.FixedSizeListArray.from_arrays(flat, width)
    return pa.ListArray.from_arrays(np.arange(0, len(flat) + 1, width, dtype=np.int32), flat)


def _masked(lists: pa.Array, seen: np.ndarray) -> pa.Array:
    return pa.array([row if ok else None for row, ok in zip(lists, seen, strict=True)], lists.type)


def _write(store: LocalStore, path: str, table: pa.Table) -> None:
    with store.writer(path) as local:
        pq.write_table(table, local, row_group_size=ROW_GROUP, compression="zstd")


def _write_tar(store: LocalStore, path: str, keys: Sequence[str] | dict[str, None]) -> None:
    picture = io.BytesIO()
    Image.linear_gradient("L").resize(SIZE).save(picture, "JPEG")
    with store.writer(path) as local, tarfile.open(local, "w") as tar:
        for key in keys:
            for suffix, data in (("jpg", picture.getvalue()), ("txt", b"a caption"), ("json", b"{}")):
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
