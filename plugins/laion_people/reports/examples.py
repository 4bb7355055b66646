"""Examples for the report: pictures of people, captions, clusters and composed images, chosen to be varied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from laion_people.errors import LaionPeopleError
from laion_people.reports.figures import Figure, composite_figure, person_marks
from laion_people.reports.pictures import data_uri, picture, shrunk, tar_images
from laion_people.reports.tables import columns, take
from laion_people.reports.views import (
    CHOICE_COLUMNS,
    COMPOSITE_COLUMNS,
    KINDS,
    Choice,
    Cluster,
    choice_of,
    clusters_of,
    clusters_path,
    composite_of,
    facts_of,
    sheet_path,
)
from laion_people.steps.embed import HEAD_PADDING
from laion_people.storage.layout import shard_file
from laion_people.storage.manifest import Manifest
from laion_people.storage.store import Store
from laion_people.vision.images import crop, decode
from laion_people.vision.people import boxes, face_boxes, rows_by_image

T = TypeVar("T")
LARGE, SMALL, SHEET = 480, 240, 720  # longer sides of pictures in pixels
CAPTION_LETTERS = 400  # of longer captions the beginning is shown
CANDIDATE_IMAGES = 2_000  # images of a shard that are looked through for the gallery


@dataclass(frozen=True, slots=True)
class Example:
    """A picture with its caption, a tag and notes; of Subset C with the choice of the caption."""

    figure: Figure
    caption: str
    tag: str
    notes: tuple[str, ...] = ()
    choice: Choice | None = None


class ShardExamples:
    """Examples of one shard, as far as the steps in ``done`` (manifests of its partition) have been run on it.

    ``limits`` says how many there are at most of each kind: gallery, captioned (accepted, and as many refused), chosen,
    composed. Images are read from the shard's tar once, and only those that are shown are decoded. Raises
    LaionPeopleError when a file is missing or damaged, or a table is of other people.
    """

    def __init__(
        self, store: Store, partition: str, index: int, done: Mapping[str, Manifest], limits: Mapping[str, int]
    ):
        self.store, self.limits = store, limits
        self.files = {step: s.files() for step, manifest in done.items() for s in manifest.shards if s.index == index}
        self.params = {step: manifest.params for step, manifest in done.items()}
        people = columns(store, self._path("detect"), ["person_id", "key", "caption", "bbox"])
        self.ids, self.keys, self.captions = (people[n].to_pylist() for n in ("person_id", "key", "caption"))
        self.boxes = boxes(people)
        self.spans = rows_by_image(self.keys)
        self._gallery = _diverse(self._features(), limits["gallery"])
        self._accepted, self._refused = self._accepted_and_refused()
        self._chosen = self._chosen_rows()
        rows = (*self._accepted, *self._refused, *(row for row, _ in self._chosen))
        shown = {*self._gallery, *(self.keys[row] for row in rows)}
        self.images = dict(tar_images(store, shard_file("images", partition, index), shown))

    def gallery(self) -> list[Example]:
        """Images with boxes, skeletons and meshes, chosen to hold many different clusters and numbers of people."""
        rows = [row for key in self._gallery for row in self._rows(key)]
        people = {row: {"person_id": self.ids[row], "bbox": self.boxes[row].tolist()} for row in rows}
        for step, column in (("mesh", "face_landmarks"), ("pose", "keypoints")):
            if step in self.files:
                for row, values in zip(rows, self._of_people(step, [column], rows)[column].to_pylist(), strict=True):
                    people[row][column] = values
        return [self._with_people(key, [people[row] for row in self._rows(key)]) for key in self._gallery]

    def accepted(self) -> list[Example]:
        """People of Subset A, at even steps from the highest similarity to the lowest."""
        return [self._captioned(row, similarity) for row, similarity in self._accepted.items()]

    def refused(self) -> list[Example]:
        """People whose similarity is too low, at even steps from the highest to the lowest."""
        return [self._captioned(row, similarity) for row, similarity in self._refused.items()]

    def chosen(self) -> list[Example]:
        """Rows of Subset C of each kind, at even steps from the clearest choice to the closest."""
        rows = [row for row, _ in self._chosen]
        if not rows:
            return []
        facts: list[Any] = [None] * len(rows)
        if "facts" in self.files:
            facts = self._of_people("facts", ["facts"], rows)["facts"].to_pylist()
        heads = face_boxes(self._of_people("mesh", ["face_landmarks"], rows))
        examples = []
        for (row, stored), stored_facts, head in zip(self._chosen, facts, heads, strict=True):
            known = facts_of(self._path("facts"), stored_facts) if stored_facts is not None else None
            choice = choice_of(self._path("caption"), stored, known)
            if choice.kind == "pose":
                figure = self._crop(row, self.boxes[row], self.params["embed"]["crop_padding"], "A person")
            else:
                figure = self._crop(row, head, HEAD_PADDING, "A head")
            numbers = {"clip score": choice.clip_score, "margin": choice.margin, "foil margin": choice.foil_margin}
            notes = tuple(f"{name} {n:.3f}" for name, n in numbers.items() if n is not None)
            examples.append(Example(figure, choice.caption, choice.cluster_id, notes, choice))
        return examples

    def composed(self) -> list[Example]:
        """Composed images of each aspect; the boxes of people of one cluster have one colour."""
        if "compose" not in self.files:
            return []
        table = columns(self.store, self._path("compose"), COMPOSITE_COLUMNS)
        picked = {
            row["composite_id"].rsplit("/", 1)[-1]: row
            for kind in KINDS
            for row in spread(table.filter(pc.field("aspect") == kind).to_pylist(), self.limits["composed"] // 3)
        }
        tar = next(file.uri for file in self.files["compose"] if file.uri.endswith(".tar"))
        return [_composed(picked[key], image) for key, image in tar_images(self.store, tar, picked)]

    def _rows(self, key: str) -> range:
        """The rows of an image's people."""
        return range(self.spans[key].start, self.spans[key].stop)

    def _path(self, step: str) -> str:
        """The table that a step has written for the shard."""
        return next(file.uri for file in self.files[step] if file.uri.endswith(".parquet"))

    def _of_people(self, step: str, names: Sequence[str], rows: Sequence[int] | None = None) -> pa.Table:
        """Columns of a table that has a row for each person, in their order: of some people, or of all."""
        path = self._path(step)
        count = len(columns(self.store, path, ["person_id"]))
        if count != len(self.ids):
            raise LaionPeopleError(
                "mismatched-tables", f"{path} has {count} rows for {len(self.ids)} people: run `{step}` again"
            )
        return columns(self.store, path, names) if rows is None else take(self.store, path, rows, names)

    def _features(self) -> dict[str, set[Any]]:
        """For each image: its number of people, the clusters that they are in, and where (copies of an image agree)."""
        rows: list[dict[str, Any]] = [{} for _ in self.ids]
        if "assign" in self.files:
            rows = self._of_people("assign", [f"{kind}_cluster" for kind in KINDS]).to_pylist()
        places = [tuple(place) for place in (self.boxes // 32).tolist()]
        return {
            key: {len(rows[span]), *(c for row in rows[span] for c in row.values() if c is not None), *places[span]}
            for key, span in islice(self.spans.items(), CANDIDATE_IMAGES)
        }

    def _accepted_and_refused(self) -> tuple[dict[int, float], dict[int, float]]:
        """Rows with their similarity, the highest first; one person an image."""
        if not {"clip_filter", "subset_a"} <= self.files.keys():
            return {}, {}
        similarity = self._of_people("clip_filter", ["similarity"])["similarity"].to_pylist()
        threshold = self.params["subset_a"]["threshold"]
        ranked = sorted(
            ({self.keys[row]: row for row in range(len(self.ids))}).values(), key=lambda row: -similarity[row]
        )
        sides = [[r for r in ranked if (similarity[r] > threshold) == side] for side in (True, False)]
        accepted, refused = ({r: similarity[r] for r in spread(s, self.limits["captioned"])} for s in sides)
        return accepted, refused

    def _chosen_rows(self) -> list[tuple[int, dict[str, Any]]]:
        """People's rows with their rows of Subset C."""
        if not {"caption", "mesh", "embed"} <= self.files.keys():  # mesh and embed say where the picture is cut out
            return []
        row_of = {person_id: row for row, person_id in enumerate(self.ids)}
        choices = columns(self.store, self._path("caption"), CHOICE_COLUMNS).to_pylist()
        known = (choice for choice in choices if choice["person_id"] in row_of)
        ranked = sorted(known, key=lambda choice: -choice["margin"])
        by_kind = [[choice for choice in ranked if choice["kind"] == kind] for kind in KINDS]
        return [(row_of[c["person_id"]], c) for same in by_kind for c in spread(same, self.limits["chosen"] // 3)]

    def _with_people(self, key: str, people: Sequence[Mapping[str, Any]]) -> Example:
        """An image with what was found of its people drawn over."""
        meshes = sum(bool(person.get("face_landmarks")) for person in people)
        notes = _number(len(people), "person", "people"), _number(meshes, "face mesh", "face meshes")
        label = f"Image with {notes[0]}, boxes, skeletons and {notes[1]} drawn over it"
        marks = [mark for person in people for mark in person_marks(person)]
        height, width = self.images[key].shape[:2]
        source = data_uri(shrunk(Image.fromarray(self.images[key]), LARGE))
        figure = Figure(source, width, height, label, marks=marks)
        return Example(figure, shorten(self.captions[self.spans[key].start]), key, notes)

    def _captioned(self, row: int, similarity: float) -> Example:
        figure = self._crop(row, self.boxes[row], self.params["clip_filter"]["crop_padding"], "A person")
        return Example(figure, shorten(self.captions[row]), f"{similarity:.3f}")

    def _crop(self, row: int, box: np.ndarray, padding: float, what: str) -> Figure:
        """A part of a person's image, as CLIP sees it."""
        pixels = crop(self.images[self.keys[row]], box, padding)
        return picture(Image.fromarray(pixels), f"{what}, cut out of an image", SMALL)


def largest_clusters(store: Store, version: str, limit: int) -> list[tuple[Cluster, Figure | None]]:
    """The largest clusters of each kind of a version, as far as they have been labelled, with their contact sheets."""
    if not store.exists(clusters_path(version)):
        return []
    clusters = clusters_of(store, version)
    largest = [c for kind in KINDS for c in [c for c in clusters if c.kind == kind][:limit]]
    return [(cluster, _sheet(store, version, cluster.cluster_id)) for cluster in largest]


def _sheet(store: Store, version: str, cluster_id: str) -> Figure | None:
    """The contact sheet of a cluster; None when there is none."""
    path = sheet_path(version, cluster_id)
    if not store.exists(path):
        return None
    return picture(decode(store.read(path)), f"Members of cluster {cluster_id}", SHEET)


def shorten(caption: str) -> str:
    """The first CAPTION_LETTERS of a caption."""
    return caption if len(caption) <= CAPTION_LETTERS else caption[:CAPTION_LETTERS] + "…"


def spread(items: Sequence[T], limit: int) -> list[T]:
    """At most ``limit`` items at even steps, the first and the last among them."""
    if len(items) <= limit:
        return list(items)
    return [items[round(i * (len(items) - 1) / max(1, limit - 1))] for i in range(limit)]


def _diverse(features: Mapping[str, set[Any]], limit: int) -> list[str]:
    """Keys chosen one by one, each for the features that those before it lack; crowds are not preferred."""
    left, seen, chosen = dict(features), set[Any](), list[str]()
    while left and len(chosen) < limit:
        key = max(left, key=lambda k: len(left[k] - seen) / len(left[k]))
        if not left[key] - seen and seen:
            seen = set()
            continue
        chosen.append(key)
        seen |= left.pop(key)
    return chosen


def _composed(row: Mapping[str, Any], image: np.ndarray) -> Example:
    """A composed image with boxes around its people."""
    composite = composite_of(row)
    figure = composite_figure(composite, data_uri(shrunk(Image.fromarray(image), LARGE)))
    clusters = dict.fromkeys(member.cluster_id for member in composite.members)
    notes = (_number(len(composite.members), "person", "people"), f"{composite.n_similar} similar", *clusters)
    return Example(figure, composite.caption, composite.aspect, notes)


def _number(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"
