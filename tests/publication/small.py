"""A small publication made by hand, with random, seeded rows: what a publication's files look like, without a store."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from laion_people.publication.card import card
from laion_people.publication.checksums import CHECKSUMS, checksums
from laion_people.publication.choice import Options
from laion_people.publication.croissant import croissant_json
from laion_people.publication.release import Publication, PublishedFile
from laion_people.storage.schemas import SCHEMAS

TABLES = {"people": "people", "poses": "pose", "meshes": "mesh", "facts": "facts", "clusters": "clusters"}
TABLES |= {subset: subset for subset in ("subset_a", "subset_b", "subset_c", "subset_d")}
ROWS = dict.fromkeys(TABLES, 7) | {"subset_d": 0}


def make_publication(folder: Path, **changes: Any) -> Publication:
    """Writes the tables and tars of a publication; returns its record, with ``changes``."""
    files = [_table(folder, config) for config in TABLES] + [_tar(folder)]
    fields: dict[str, Any] = {
        "name": "people-of-the-sample",
        "version": "1.0.0",
        "edition": "links",
        "at": "2026-11-30T12:00:00+00:00",
        "clusters": "v0001",
        "partitions": ("sample/00000", "sample/00001"),
        "options": Options().to_json(),
        "models": {"movenet-multipose": "0" * 64, "face-landmarker": "1" * 64},
        "files": tuple(files),
        "columns": {config: {f.name: str(f.type) for f in SCHEMAS[TABLES[config]]} for config in TABLES},
        "left_out": {"people": {"minor": 3}, "subset_b": {"face": 1}},
        "numbers": {
            "funnel: rows of metadata": {
                "value": 1200,
                "unit": "images",
                "lost": {},
                "source": "manifests/download/sample/00000.json",
            },
            "funnel: downloaded": {
                "value": 300,
                "unit": "images",
                "lost": {"http_404": 700, "timeout": 200},
                "source": "manifests/download/sample/00000.json",
            },
            "threshold": {"value": 0.3, "source": "manifests/subset_a/sample/00000.json"},
        },
        "licence": "cc-by-4.0",
        "contact": "removals@example.org",
    }
    return Publication(**fields | changes)


def publish_small(root: Path, **changes: Any) -> Publication:
    """Puts a small publication into the store at ``root``, as `publish` does."""
    version = changes.get("version", "1.0.0")
    home = root / "releases" / "people-of-the-sample" / version
    publication = make_publication(home, **changes)
    described = [
        ("README.md", card(publication).encode()),
        ("croissant.json", croissant_json(publication)),
        ("release.json", publication.to_json()),
    ]
    for path, data in described:
        write(home, path, data)
    files = [*publication.files, *(_file(home, path) for path, _ in described)]
    write(home, CHECKSUMS, checksums(files))
    return publication


def write(folder: Path, path: str, data: bytes) -> None:
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(data)


def _file(folder: Path, path: str, config: str = "", rows: int = 0) -> PublishedFile:
    data = (folder / path).read_bytes()
    return PublishedFile(path, len(data), hashlib.sha256(data).hexdigest(), config, rows)


def _table(folder: Path, config: str) -> PublishedFile:
    schema, rng, path = SCHEMAS[TABLES[config]], np.random.default_rng(7), f"{config}/train-00000-of-00001.parquet"
    rows = [{field.name: _value(field, rng, i) for field in schema} for i in range(ROWS[config])]
    (folder / config).mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / path, compression="zstd")
    return _file(folder, path, config, len(rows))


def _value(field: pa.Field, rng: np.random.Generator, row: int) -> Any:
    """A random value; of what may be null every third is. Ids count, so that tables can be joined."""
    if field.nullable and field.name.endswith(("_id", "key")):
        return f"sample/00000/00000/{row:09d}" + "/0" * (field.name == "person_id")
    if field.name == "person_id":
        return f"sample/00000/00000/{row:09d}/0"
    if field.name == "composite_id":
        return f"sample/00000/00000/{row:09d}"
    if field.nullable and row % 3 == 0:
        return None
    return _of_type(field.type, rng)


def _of_type(kind: pa.DataType, rng: np.random.Generator) -> Any:
    if pa.types.is_fixed_size_list(kind):
        return [_of_type(kind.value_type, rng) for _ in range(kind.list_size)]
    if pa.types.is_list(kind):
        return [_of_type(kind.value_type, rng) for _ in range(rng.integers(0, 4))]
    if pa.types.is_struct(kind):
        return {field.name: _of_type(field.type, rng) for field in kind}
    if pa.types.is_string(kind):
        return "".join(rng.choice(list("abc |`<&é人\n"), 8))
    if pa.types.is_boolean(kind):
        return bool(rng.integers(2))
    return int(rng.integers(1, 500)) if pa.types.is_integer(kind) else np.float32(rng.uniform()).item()


def _tar(folder: Path) -> PublishedFile:
    path = "subset_b/train-00000-of-00001.tar"
    with tarfile.open(folder / path, "w") as tar:
        for i in range(ROWS["subset_b"]):
            picture = io.BytesIO()
            Image.new("RGB", (64, 48), (30 * i, 90, 200)).save(picture, "JPEG")
            row = {"composite_id": f"sample/00000/00000/{i:09d}", "n_people": 2}
            members = (("jpg", picture.getvalue()), ("txt", b"Two people."), ("json", json.dumps(row).encode()))
            for suffix, data in members:
                member = tarfile.TarInfo(f"{i:09d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return _file(folder, path, rows=ROWS["subset_b"])
