"""A small finished store with random, seeded content: every table, manifest and picture that the report reads."""

from __future__ import annotations

import dataclasses
import io
import json
import tarfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from include.models.profiles import load_profile
from laion_people.storage.layout import manifest_path, totals_path
from laion_people.storage.manifest import FileEntry, Manifest, ShardEntry
from laion_people.storage.schemas import SCHEMAS
from laion_people.storage.store import Store
from laion_people.storage.totals import write_totals
from tests.fakes import UPRIGHT

VERSION = "v0001"
THRESHOLD = 0.3
CLAIMS = {"pose": "base=standing", "face": "mouth=relaxed", "head": "turn=camera"}
OF_PERSON = ("person_id", "sample_id", "url", "bbox", "image_width", "image_height")  # columns of Subset C, too
Row = dict[str, Any]


def make_store(store: Store, partition: str = "demo/00000", images: int = 30, captions: Sequence[str] = ()) -> None:
    """Fills a store with one finished partition of one shard; ``captions`` are used for images again and again."""
    Maker(store, partition, images, captions or [f"a person in picture {i}" for i in range(images)]).make()


def change_manifest(store: Store, step: str, partition: str, **fields: Any) -> None:
    """Replaces fields of a partition's manifest."""
    path = manifest_path(step, partition)
    changed = dataclasses.replace(Manifest.from_json(store.read(path)), **fields)
    store.write(path, changed.to_json())
    write_totals(store, changed, planned=max(1, len(changed.shards)))


def forget(store: Store, step: str, partition: str = "demo/00000") -> None:
    """As if a step had never been run on a partition, though its tables stay."""
    store.delete(manifest_path(step, partition))
    store.delete(totals_path(step, partition))


class Maker:
    def __init__(self, store: Store, partition: str, images: int, captions: Sequence[str]):
        self.store, self.partition = store, partition
        self.rng = np.random.default_rng(7)
        self.people: list[Row] = []
        self.pictures: dict[str, bytes] = {}
        for i in range(images):
            self._image(f"00000{i:04d}", i % 4, captions[i % len(captions)])

    def make(self) -> None:
        images = len(self.pictures)
        without = sum(not any(p["key"] == key for p in self.people) for key in self.pictures)
        people = len(self.people)
        self._metadata(images + 9)
        self._tar(f"images/{self.partition}/00000.tar", self.pictures)
        lost = {"http_404": 5, "timed_out": 3, "not_an_image": 1}
        self._manifest("download", self.partition, [f"images/{self.partition}/00000.tar"], images, images + 9, lost)
        self._table("detect", "people", self.people, images, {"no_people": without})
        self._table("pose", "pose", [self._pose(p) for p in self.people], people)
        self._table("mesh", "mesh", [self._mesh(p, i) for i, p in enumerate(self.people)], people)
        self._table("facts", "facts", [self._facts(p, i) for i, p in enumerate(self.people)], people)
        clip = [
            {"person_id": p["person_id"], "similarity": float(self.rng.normal(0.27, 0.06)), "clip_model": "tiny"}
            for p in self.people
        ]
        models = dict.fromkeys(load_profile("packaged").roles["clip"].checkpoints.values(), "0" * 64)
        self._table("clip_filter", "clip", clip, people, params={"crop_padding": 0.1}, models=models)
        self._subset_a(clip)
        self._clusters()
        assigned = [self._assigned(p, i) for i, p in enumerate(self.people)]
        self._table("assign", f"assignments/{VERSION}", assigned, people)
        self._subset_b(assigned)
        self._vectors()
        self._subset_c(assigned)

    def _image(self, key: str, count: int, caption: str) -> None:
        width, height = 384, (300, 512)[count % 2]
        picture = Image.new("RGB", (width, height), tuple(int(v) for v in self.rng.integers(60, 200, 3)))
        draw = ImageDraw.Draw(picture)
        for index in range(count):
            left = index * width / count
            box = [left + 8, 20.0, left + width / count - 8, height - 10.0]
            draw.ellipse(box, fill=tuple(int(v) for v in self.rng.integers(0, 255, 3)))
            self.people.append(
                {
                    "person_id": f"{self.partition}/00000/{key}/{index}",
                    "sample_id": int(key),
                    "key": key,
                    "url": f"http://example.org/{key}.jpg",
                    "caption": caption,
                    "image_width": width,
                    "image_height": height,
                    "bbox": box,
                    "bbox_score": 0.9,
                }
            )
        self.pictures[key] = _jpeg(picture)

    def _pose(self, person: Row) -> Row:
        x1, y1, x2, y2 = person["bbox"]
        points = UPRIGHT * [x2 - x1, y2 - y1] + [x1, y1] + self.rng.normal(0, 3, (17, 2))
        keypoints = np.c_[points, self.rng.uniform(0.1, 1, 17)].ravel()
        return {"person_id": person["person_id"], "keypoints": keypoints, "pose_score": 0.8, "world_landmarks": None}

    def _mesh(self, person: Row, i: int) -> Row:
        names = ("face_landmarks", "blendshapes", "head_yaw", "head_pitch", "head_roll", "face_score")
        if i % 3 == 0:
            return {"person_id": person["person_id"], **dict.fromkeys(names)}
        x1, y1, x2, _ = person["bbox"]
        angle = np.linspace(0, 2 * np.pi, 478)
        face = np.c_[np.cos(angle) * 12 + (x1 + x2) / 2, np.sin(angle) * 15 + y1 + 25, 0 * angle]
        values = (face.ravel(), np.zeros(52), 0, 0, 0, 0.9)
        return {"person_id": person["person_id"], **dict(zip(names, values, strict=True))}

    def _facts(self, person: Row, i: int) -> Row:
        told = [CLAIMS[kind].split("=") for kind in (CLAIMS if i % 3 else ("pose",))]  # as far as there is a mesh
        facts = [{"name": name, "value": value, "confidence": 0.9} for name, value in told]
        return {"person_id": person["person_id"], "facts": facts}

    def _subset_a(self, clip: Sequence[Row]) -> None:
        columns = ("person_id", "sample_id", "url", "caption", "bbox", "bbox_score", "image_width", "image_height")
        kept = [
            {k: p[k] for k in columns} | c | {"threshold": THRESHOLD}
            for p, c in zip(self.people, clip, strict=True)
            if c["similarity"] > THRESHOLD
        ]
        refused = {"below_threshold": len(clip) - len(kept)}
        self._table("subset_a", "subset_a", kept, len(clip), refused, params={"threshold": THRESHOLD})

    def _clusters(self) -> None:
        rows = []
        for kind in ("pose", "face", "head"):
            for i in range(4):
                cluster_id = f"{kind}-{i:04d}"
                captions = [f"A person shows {kind} number {i}, said in the way {way}." for way in range(5)]
                claims = [[CLAIMS[kind]]] * 4 + [[]]  # a person has written the last
                rows.append(
                    {
                        "cluster_id": cluster_id,
                        "kind": kind,
                        "size": 40 - 7 * i,
                        "medoid_person_id": f"{self.partition}/00000/000000001/0",
                        "centroid": [0.0, 1.0],
                        "captions": captions,
                        "claims": claims,
                        "reviewed": i == 0,
                    }
                )
                sheet = Image.effect_noise((960, 320), 60).convert("RGB")
                self.store.write(f"clusters/{VERSION}/contact-{cluster_id}.jpg", _jpeg(sheet))
        self._write(f"clusters/{VERSION}/clusters.parquet", "clusters", rows)
        part = {"people": 118, "k": 4, "silhouette": 0.41, "two_seeds": {"adjusted_rand": 0.93}}
        of_kind = {"near": 0.3, "far": 0.9, "parts": {"whole body": part}}
        fit = {
            "kinds": {
                kind: of_kind | {"clusters": [{"size": r["size"]} for r in rows if r["kind"] == kind]}
                for kind in ("pose", "face", "head")
            }
        }
        self.store.write(f"clusters/{VERSION}/fit.json", json.dumps(fit).encode())
        for step, main in (("cluster", "fit.json"), ("label", "clusters.parquet")):
            self._manifest(step, VERSION, [f"clusters/{VERSION}/{main}"], len(rows), len(self.people))

    def _assigned(self, person: Row, i: int) -> Row:
        row: Row = {"person_id": person["person_id"]}
        for kind, seen in (("pose", True), ("face", i % 3 != 0), ("head", i % 3 != 0)):
            row[f"{kind}_cluster"] = f"{kind}-{i % 4:04d}" if seen else None
            row[f"{kind}_distance"] = 0.2 if seen else None
        return row

    def _subset_b(self, assigned: Sequence[Row]) -> None:
        rows, pictures = [], {}
        for i, aspect in enumerate((("pose", "face", "head") * 3)[: max(0, len(assigned) - 1)]):
            key = f"00000{i:04d}"
            people = [
                {
                    "person_id": a["person_id"],
                    "bbox": [30.0 + 150 * n, 40, 150 + 150 * n, 280],
                    "cluster_id": c,
                    "claims": [],
                }
                for n, a, c in zip(
                    (0, 1), assigned[i : i + 2], (f"{aspect}-0000", f"{aspect}-000{i % 2}"), strict=False
                )
            ]
            row = {
                "composite_id": f"{self.partition}/00000/{key}",
                "caption": "Two people hold the same pose." if i % 2 == 0 else "Two people differ.",
                "aspect": aspect,
                "n_people": 2,
                "n_similar": 0 if i % 2 else 2,
                "people": people,
                "background_key": "000000000",
                "width": 400,
                "height": 300,
            }
            rows.append(row)
            pictures[key] = _jpeg(Image.effect_noise((400, 300), 40).convert("RGB"))
        base = f"subset_b/{VERSION}/{self.partition}/00000"
        self._tar(f"{base}.tar", pictures)
        self._write(f"{base}.parquet", "subset_b", rows)
        files, lost = [f"{base}.parquet", f"{base}.tar"], {"no_similar_people": 3}
        self._manifest("compose", self.partition, files, len(rows), len(self.people), lost)

    def _vectors(self) -> None:
        rows = [
            {"person_id": p["person_id"], "body": [1.0, 0.0], "head": None if i % 3 == 0 else [0.0, 1.0]}
            for i, p in enumerate(self.people)
        ]
        rows = [row | {"clip_model": "tiny"} for row in rows]
        self._table("embed", "vectors", rows, len(rows), params={"crop_padding": 0.1})

    def _subset_c(self, assigned: Sequence[Row]) -> None:
        rows = []
        for person, a in zip(self.people, assigned, strict=True):
            for kind in ("pose", "face", "head"):
                if a[f"{kind}_cluster"]:
                    scores = sorted(self.rng.uniform(0.1, 0.4, 5), reverse=True)
                    candidates = [f"A person, {kind} candidate {n}." for n in range(5)]
                    rows.append(
                        {
                            **{name: person[name] for name in OF_PERSON},
                            "caption": candidates[0],
                            "claims": [CLAIMS[kind]],
                            "kind": kind,
                            "cluster_id": a[f"{kind}_cluster"],
                            "clip_score": scores[0],
                            "margin": scores[0] - scores[1],
                            "foil_margin": scores[0] - 0.2,
                            "candidates": candidates,
                            "scores": scores,
                        }
                    )
        lost = {"no_face_cluster": 14, "no_head_cluster": 14, "blocked_word": 2}
        self._table("caption", f"subset_c/{VERSION}", rows, 3 * len(self.people), lost)

    def _metadata(self, rows: int) -> None:
        collection, part = self.partition.split("/")
        with self.store.writer(f"metadata/{collection}/{part}.parquet") as path:
            urls = [f"http://example.org/{i}" for i in range(rows)]
            pq.write_table(pa.table({"URL": urls, "TEXT": ["x"] * rows}), path)

    def _tar(self, path: str, pictures: dict[str, bytes]) -> None:
        with self.store.writer(path) as local, tarfile.open(local, "w") as tar:
            for key, data in pictures.items():
                for suffix, content in (("jpg", data), ("json", b"{}")):
                    member = tarfile.TarInfo(f"{key}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))

    def _table(
        self,
        step: str,
        folder: str,
        rows: list[Row],
        rows_in: int,
        rejected: dict[str, int] | None = None,
        params: Row | None = None,
        models: dict[str, str] | None = None,
    ) -> None:
        path = f"{folder}/{self.partition}/00000.parquet"
        self._write(path, folder.split("/")[0], rows)
        self._manifest(step, self.partition, [path], len(rows), rows_in, rejected, params, models)

    def _manifest(
        self,
        step: str,
        partition: str,
        files: Sequence[str],
        rows: int,
        rows_in: int,
        rejected: dict[str, int] | None = None,
        params: Row | None = None,
        models: dict[str, str] | None = None,
    ) -> None:
        main, *sidecars = (FileEntry(f, self.store.size(f), self.store.sha256(f)) for f in files)
        parts = self.rng.uniform(0.2, 3, 4).round(3).tolist()
        manifest = Manifest(
            step=step,
            partition=partition,
            run_id="test",
            params=params or {},
            inputs=(),
            models=models or {},
            shards=(ShardEntry(0, main.uri, rows, main.bytes, main.sha256, tuple(sidecars)),),
            rows_in=rows_in,
            rows=rows,
            rejected=rejected or {},
            seconds=round(sum(parts), 3),
            timings=dict(zip(("model", "decode", "write"), parts, strict=False)),
        )
        self.store.write(manifest_path(step, partition), manifest.to_json())
        write_totals(self.store, manifest, planned=1)

    def _write(self, path: str, table: str, rows: list[Row]) -> None:
        with self.store.writer(path) as local:
            pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMAS[table]), local)


def _jpeg(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return file.getvalue()
