"""What configs and columns of a publication mean: for the card, the Croissant file and the docs."""

from __future__ import annotations

import re
from dataclasses import dataclass

CONFIGS = {  # what a row is
    "people": "a person found in an image: where it is, and what is known of the image",
    "poses": "the body pose of a person",
    "meshes": "the face mesh of a person and the angles of the head; nulls where no face is seen",
    "facts": "what pose and mesh of a person say in words, each fact with a confidence",
    "subset_a": "a person whom the image's own caption fits, by CLIP",
    "subset_b": "a composed picture of two to four people from different images, with a caption on how alike they are",
    "subset_c": "a caption of a person's pose, facial expression or head position",
    "subset_d": "a free description of a person by a captioning model (experimental)",
    "clusters": "a cluster of poses, facial expressions or head positions, with its captions",
}

COLUMNS = {
    "person_id": "collection/part/shard/image key/number of the person in the image",
    "sample_id": "LAION's number of the image; collections of their own may repeat it",
    "key": "the image's key in its shard",
    "url": "where the image was; it may be gone, or another one by now",
    "caption": "the text: the collection's alt text (people, subset_a), or one made for the person or picture",
    "bbox": "box of the person: x1, y1, x2, y2 in pixels of the stored image (image_width by image_height)",
    "bbox_normalized": "the same box as shares (0 to 1) of the upright image's width and height",
    "bbox_score": "the detector's score of the box, 0 to 1",
    "image_width": "width of the stored image in pixels, by which bbox and landmarks are measured",
    "image_height": "height of the stored image in pixels",
    "original_width": "width in pixels of the image as it was downloaded, turned upright (EXIF)",
    "original_height": "height in pixels of the image as it was downloaded, turned upright (EXIF)",
    "sha256": "hex sha256 of the file as it was downloaded, before it was stored in another size",
    "phash": "perceptual hash (OpenCV's PHash) of the stored picture, 16 hex digits; near-equal pictures differ in "
    "few bits",
    "NSFW": "the collection's flag: UNLIKELY, UNSURE or NSFW",
    "LICENSE": "the collection's licence field; mostly ? (unknown)",
    "punsafe": "the collection's probability that the image is unsafe, 0 to 1",
    "pwatermark": "the collection's probability that the image has a watermark, 0 to 1",
    "x_robots_tag": "the X-Robots-Tag header of the answer that brought the image",
    "tdm_reservation": "the TDM-Reservation header of that answer",
    "robots_txt": "what robots.txt of the site said of the image when it was downloaded, where it was asked for",
    "keypoints": "17 joints in COCO's order, each x, y in pixels of the stored image and a score (0 to 1): 51 numbers",
    "pose_score": "the mean certainty of the pose, 0 to 1",
    "world_landmarks": "33 joints in BlazePose's order, each x, y, z in metres around the hips: right, down, away "
    "from the camera",
    "extra_keypoints": "joints 18 to 133 of COCO-WholeBody (feet, face, hands), each x, y in pixels and a score",
    "face_landmarks": "478 points of the face in MediaPipe's order, each x, y, z in pixels of the stored image",
    "blendshapes": "52 coefficients of the expression in MediaPipe's order, 0 to 1",
    "head_yaw": "head turned to the picture's right (positive) or left, in degrees",
    "head_pitch": "head lifted (positive) or lowered, in degrees",
    "head_roll": "top of the head leaned to the picture's right (positive) or left, in degrees",
    "face_score": "the certainty that the mesh lies on a face, 0 to 1; below 0.7 half of the angles were wrong",
    "facts": "each with name, value and confidence (0 to 1), for example left_arm, overhead, 0.9; left and right "
    "are the person's own",
    "similarity": "CLIP's cosine similarity of the person's cut-out and the caption, -1 to 1",
    "clip_model": "the CLIP that the similarity is of; those of two models cannot be compared",
    "threshold": "the similarity or probability above which a row was kept",
    "cluster_id": "the row's cluster in the config clusters",
    "kind": "pose, face or head",
    "size": "how many people of the fitted sample the cluster has",
    "medoid_person_id": "the person in the middle of the cluster",
    "centroid": "the middle of the cluster in the space that it was fitted in",
    "captions": "the captions that fit the cluster",
    "claims": "facts that a caption states, as name=value; of each caption where there are several",
    "reviewed": "whether a person has looked at the cluster's captions",
    "composite_id": "the picture's name: collection/part/shard/key, and the key of its files in the tars",
    "aspect": "in what the people are or are not alike: pose, face or head",
    "n_people": "how many people were put into the picture",
    "n_similar": "how many of them are alike; 0: none",
    "people": "from left to right: person_id, bbox in pixels of the picture, cluster_id, and claims (facts that the "
    "caption states)",
    "background_key": "which image without people the background is",
    "width": "of the picture, in pixels",
    "height": "of the picture, in pixels",
    "clip_score": "CLIP's cosine similarity of the cut-out and the caption, -1 to 1",
    "margin": "its lead over the second best candidate; 0 where there was one only",
    "foil_margin": "its lead over the best caption that is false of the person; below 0 something is doubtful; "
    "null: none known",
    "candidates": "the captions that were compared",
    "scores": "their cosine similarities, in the same order",
    "captioner": "the model that wrote the description",
    "vqa_score": "the captioner's own probability that the caption is right, 0 to 1, where it was asked",
    "vqa_scores": "that of each candidate, in the same order",
}

FIELDS = {  # of columns that hold structs
    **{name: COLUMNS[name] for name in ("person_id", "cluster_id", "claims")},
    "bbox": "box of the person in pixels of the picture: x1, y1, x2, y2",
    "name": "of the fact, for example left_arm",
    "value": "for example overhead",
    "confidence": "0 to 1; 0.5 is at the edge of the rule",
}
OWN_IDS = {  # what is otherwise in the edition geometry, whose ids lead back to nothing
    "person_id": "this publication's own id of the person, the same in all its tables",
    "medoid_person_id": "the person in the middle of the cluster, if she is in the publication",
}


def meaning(column: str, edition: str) -> str:
    """What a column means, in an edition; "" for one of another version of the software."""
    return (OWN_IDS if edition == "geometry" else {}).get(column) or COLUMNS.get(column, "")


@dataclass(frozen=True, slots=True)
class ColumnType:
    """The type of a column: ``kind``, or structs of ``fields``; where ``shape`` has sizes (-1: any), arrays of it."""

    kind: str
    shape: tuple[int, ...] = ()
    fields: tuple[tuple[str, ColumnType], ...] = ()


LIST = re.compile(r"(?:large_)?list<\w+: (.*?)(?: not null)?>", re.DOTALL)
FIXED = re.compile(r"fixed_size_list<\w+: (.*?)(?: not null)?>\[(\d+)\]", re.DOTALL)
STRUCT = re.compile(r"struct<(.*)>", re.DOTALL)


def parse_type(text: str) -> ColumnType:
    """Arrow's own words for a type (``fixed_size_list<item: float>[4]``), taken apart."""
    if match := LIST.fullmatch(text):
        return _array(-1, parse_type(match[1]))
    if match := FIXED.fullmatch(text):
        return _array(int(match[2]), parse_type(match[1]))
    if match := STRUCT.fullmatch(text):
        fields = (part.removesuffix(" not null").partition(": ") for part in _parts(match[1]))
        return ColumnType("struct", fields=tuple((name, parse_type(kind)) for name, _, kind in fields))
    return ColumnType(text)


def _array(size: int, of: ColumnType) -> ColumnType:
    return ColumnType(of.kind, (size, *of.shape), of.fields)


def _parts(text: str) -> list[str]:
    """``text`` at its commas, but for those in brackets."""
    depth, parts = 0, [""]
    for letter in text:
        depth += (letter == "<") - (letter == ">")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]
