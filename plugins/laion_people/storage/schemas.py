"""The Parquet schemas of every table that steps write: the data contract in Arrow's words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

text, f32, i32 = pa.string(), pa.float32(), pa.int32()
box = pa.list_(f32, 4)  # x1, y1, x2, y2 in pixels of the stored image
texts = pa.list_(text)
# What is known of the image that a person was found in, called as in tables of images; null where nothing is, and in
# files of before these columns.
of_image = {
    "sha256_": text,  # of the body as it was fetched
    "original_width_": i32,
    "original_height_": i32,
    "phash_": text,
    "NSFW_": text,
    "LICENSE_": text,
    "punsafe_": f32,
    "pwatermark_": f32,
    "x_robots_tag_": text,
    "tdm_reservation_": text,
    "robots_txt_": text,
}


def _schema(**columns: pa.DataType) -> pa.Schema:
    """Required columns; a name that ends in ``_`` is nullable and loses the underscore."""
    return pa.schema([pa.field(n.rstrip("_"), t, nullable=n.endswith("_")) for n, t in columns.items()])


SCHEMAS: dict[str, pa.Schema] = {
    "people": _schema(
        person_id=text,
        sample_id=pa.int64(),
        key=text,
        url=text,
        caption=text,
        image_width=i32,
        image_height=i32,
        bbox=box,
        bbox_score=f32,
        **of_image,
    ),
    "pose": _schema(
        person_id=text,
        keypoints=pa.list_(f32, 51),  # COCO-17: x, y in pixels, score
        pose_score=f32,
        world_landmarks_=pa.list_(f32),  # BlazePose 33: x, y, z in metres around the hips
        extra_keypoints_=pa.list_(f32),  # COCO-WholeBody 18 to 133 (feet, face, hands): x, y in pixels, score
    ),
    "mesh": _schema(
        person_id=text,
        face_landmarks_=pa.list_(f32),  # 478: x, y, z in pixels
        blendshapes_=pa.list_(f32),  # 52
        head_yaw_=f32,  # degrees
        head_pitch_=f32,
        head_roll_=f32,
        face_score_=f32,
    ),
    "facts": _schema(
        person_id=text,
        facts=pa.list_(pa.struct([pa.field("name", text), pa.field("value", text), pa.field("confidence", f32)])),
    ),
    "clip": _schema(person_id=text, similarity=f32, clip_model=text),
    "subset_a": _schema(
        person_id=text,
        sample_id=pa.int64(),
        url=text,
        caption=text,
        bbox=box,
        bbox_score=f32,
        image_width=i32,
        image_height=i32,
        similarity=f32,
        clip_model=text,
        threshold=f32,
        **of_image,
    ),
    "clusters": _schema(
        cluster_id=text,
        kind=text,
        size=pa.int64(),
        medoid_person_id=text,
        centroid=pa.list_(f32),
        captions=texts,
        claims=pa.list_(texts),  # of each caption
        reviewed=pa.bool_(),
    ),
    "assignments": _schema(
        person_id=text,
        pose_cluster_=text,
        pose_distance_=f32,
        face_cluster_=text,
        face_distance_=f32,
        head_cluster_=text,
        head_distance_=f32,
    ),
    "subset_b": _schema(
        composite_id=text,
        caption=text,
        aspect=text,
        n_people=i32,
        n_similar=i32,
        people=pa.list_(  # from left to right; claims: what the caption says of each
            pa.struct([("person_id", text), ("bbox", box), ("cluster_id", text), ("claims", texts)])
        ),
        background_key=text,
        width=i32,
        height=i32,
    ),
    "vectors": _schema(person_id=text, body=pa.list_(pa.float16()), head_=pa.list_(pa.float16()), clip_model=text),
    "subset_c": _schema(
        person_id=text,
        sample_id=pa.int64(),
        url=text,
        bbox=box,
        image_width=i32,
        image_height=i32,
        caption=text,
        claims=texts,
        kind=text,
        cluster_id=text,
        clip_score=f32,
        margin=f32,
        foil_margin_=f32,
        candidates=texts,
        scores=pa.list_(f32),
        **of_image,
    ),
    "subset_d": _schema(
        person_id=text,
        sample_id=pa.int64(),
        url=text,
        bbox=box,
        image_width=i32,
        image_height=i32,
        caption=text,
        captioner=text,
        similarity=f32,
        candidates=texts,
        scores=pa.list_(f32),
        clip_model=text,
        threshold=f32,
        vqa_score_=f32,
        vqa_scores_=pa.list_(f32),  # of the candidates
        **of_image,
    ),
}


def read_table(path: Path, name: str, columns: Sequence[str] = ()) -> pa.Table:
    """Columns of a table, or all. What a file of an earlier version lacks is null where the schema allows that."""
    schema, there = SCHEMAS[name], pq.read_schema(path).names
    later = [f for f in schema if f.nullable and f.name not in there and f.name in (columns or schema.names)]
    lacking = {field.name for field in later}
    table = pq.read_table(path, columns=[c for c in columns if c not in lacking] if columns else None)
    for field in later:
        table = table.append_column(field, pa.nulls(len(table), field.type))
    return table.select(columns) if columns else table
