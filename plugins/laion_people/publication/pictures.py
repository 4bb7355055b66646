"""The pictures of a publication: compositions of Subset B as webdataset samples, with faces or without."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from laion_people.errors import LaionPeopleError
from laion_people.vision import faces, people
from laion_people.vision.images import TarImages, decode

Row = Mapping[str, Any]  # of Subset B


class Faces:
    """Where the faces of a shard's people are, by the face mesh, the joints, or at worst the box of each."""

    def __init__(self, persons: pa.Table, pose: pa.Table, mesh: pa.Table):
        """Tables of the shard with bbox, keypoints and face_landmarks, whose rows are the same people."""
        keypoints, meshes = people.matrix(pose["keypoints"], 51).reshape(-1, 17, 3), people.face_boxes(mesh)
        self._rows = {person: row for row, person in enumerate(persons["person_id"].to_pylist())}
        self._boxes = people.boxes(persons)
        self._heads = faces.head_boxes(self._boxes, keypoints, meshes)
        self._seen = faces.are_seen(keypoints, meshes)

    def are_seen(self, composition: Row) -> bool:
        """Whether a face is seen of somebody in a composition."""
        return bool(self._seen[self._of(composition)].any())

    def blurred(self, composition: Row, jpeg: bytes, quality: int) -> bytes:
        """The picture of a composition without faces, packed again."""
        rows = self._of(composition)
        places = np.array([person["bbox"] for person in composition["people"]], np.float32)
        heads = faces.placed(self._heads[rows], self._boxes[rows], places)
        picture = io.BytesIO()
        Image.fromarray(faces.blurred(np.asarray(decode(jpeg)), heads)).save(picture, "JPEG", quality=quality)
        return picture.getvalue()

    def _of(self, composition: Row) -> list[int]:
        return [self._rows[person["person_id"]] for person in composition["people"]]


class Pictures:
    """The pictures of a shard's compositions; ``faces`` are to be blurred if they are given."""

    def __init__(self, tar: Path, faces: Faces | None, quality: int):
        self._images, self._faces, self._quality = TarImages(tar), faces, quality
        self._keys = set(self._images.keys())

    def sample(self, composition: Row) -> dict[str, bytes]:
        """A composition as webdataset has it: the picture, its caption, and its row.

        Raises LaionPeopleError when the tar does not have it.
        """
        key = composition["composite_id"].rpartition("/")[2]
        if key not in self._keys:
            raise LaionPeopleError(
                "mismatched-tables",
                f"{composition['composite_id']} is in a table, and not in the tar beside it: run the audit",
            )
        picture = self._images.read(key)
        if self._faces:
            picture = self._faces.blurred(composition, picture, self._quality)
        fields = json.dumps(composition, ensure_ascii=False)
        return {"jpg": picture, "txt": composition["caption"].encode(), "json": fields.encode()}
