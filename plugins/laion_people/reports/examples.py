"""Examples for the report: pictures of people, captions, clusters and composed images, chosen to be varied."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from laion_people.errors import LaionPeopleError
from laion_people.language.facts import Fact, explained
from laion_people.reports.funnel import read_table
from laion_people.steps.embed import HEAD_PADDING
from laion_people.storage.manifest import Manifest
from laion_people.storage.store import Store
from laion_people.vision.drawing import Colour, annotate
from laion_people.vision.images import ImageError, crop, decode, samples
from laion_people.vision.people import boxes, face_boxes, matrix, rows_by_image

T = TypeVar("T")
LARGE, SMALL, SHEET = 480, 240, 720  # longer sides of pictures in pixels
CAPTION_LETTERS = 400  # of longer captions the beginning is shown
CANDIDATE_IMAGES = 2_000  # images of a shard that are looked through for the gallery
# One colour for each cluster of a composed image (Okabe and Ito's palette, which colour-blind people can tell apart).
CLUSTER_COLOURS: tuple[Colour, ...] = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (204, 121, 167))
ASPECTS = ("pose", "face", "head")


@dataclass(frozen=True, slots=True)
class Picture:
    """An image of the page: data URI, size in pixels, and what it shows in words."""

    src: str
    width: int
    height: int
    alt: str


@dataclass(frozen=True, slots=True)
class Example:
    """A picture with its caption, a tag and notes. ``options``: candidate captions with scores, the best first.

    ``claims``: what the caption claims, with the facts that bear each out, None where facts are not known.
    """

    picture: Picture
    caption: str
    tag: str
    facts: tuple[str, ...] = ()
    options: tuple[tuple[str, float], ...] = ()
    claims: tuple[tuple[str, list[Fact] | None], ...] = ()


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster with its contact sheet, if there is one."""

    id: str
    kind: str
    size: int
    captions: tuple[str, ...]
    reviewed: bool
    picture: Picture | None


class ShardExamples:
    """Examples of one shard, as far as the steps in ``done`` (manifests of its partition) have been run on it.

    ``limits`` says how many there are at most of each kind: gallery, captioned (accepted, and as many refused), chosen,
    composed. Images are read from the shard's tar once, and only those that are shown are decoded.
    """

    def __init__(
        self, store: Store, partition: str, index: int, done: Mapping[str, Manifest], limits: Mapping[str, int]
    ):
        self.store, self.limits = store, limits
        self.files = {step: s.files() for step, manifest in done.items() for s in manifest.shards if s.index == index}
        self.params = {step: manifest.params for step, manifest in done.items()}
        people = self._table("detect", ["person_id", "key", "caption", "bbox"])
        assert people is not None, "a shard with examples has people"
        self.ids, self.keys, self.captions = (people[n].to_pylist() for n in ("person_id", "key", "caption"))
        self.boxes = boxes(people)
        self.spans = rows_by_image(self.keys)
        self.mesh = self._aligned("mesh", ["face_landmarks"])
        self.face_boxes = face_boxes(self.mesh) if self.mesh else np.full_like(self.boxes, np.nan)
        self._gallery = _diverse(self._features(), limits["gallery"])
        self._accepted, self._refused = self._accepted_and_refused()
        self._chosen = self._chosen_rows()
        rows = (*self._accepted, *self._refused, *(row for row, _ in self._chosen))
        shown = {*self._gallery, *(self.keys[row] for row in rows)}
        self.images = dict(_tar_images(store, f"images/{partition}/{index:05d}.tar", shown))

    def gallery(self) -> list[Example]:
        """Images with boxes, skeletons and meshes, chosen to hold many different clusters and numbers of people."""
        pose = self._aligned("pose", ["keypoints"])
        keypoints = matrix(pose["keypoints"], 51).reshape(-1, 17, 3) if pose else None
        faces = matrix(self.mesh["face_landmarks"], 1434).reshape(-1, 478, 3) if self.mesh else np.empty((0, 478, 3))
        examples = []
        for key in self._gallery:
            rows = self.spans[key]
            meshes = [face for face in faces[rows] if not np.isnan(face).any()]
            points = None if keypoints is None else keypoints[rows]
            drawn = annotate(self.images[key], self.boxes[rows], points, meshes, size=LARGE)
            people = _number(len(self.boxes[rows]), "person", "people")
            seen = _number(len(meshes), "face mesh", "face meshes")
            alt = f"Image with {people}, boxes, skeletons and {seen} drawn over it"
            caption = shorten(self.captions[rows.start])
            examples.append(Example(picture(drawn, alt, LARGE), caption, key, (people, seen)))
        return examples

    def accepted(self) -> list[Example]:
        """People of Subset A, at even steps from the highest similarity to the lowest."""
        return [self._captioned(row, similarity) for row, similarity in self._accepted.items()]

    def refused(self) -> list[Example]:
        """People whose similarity is too low, at even steps from the highest to the lowest."""
        return [self._captioned(row, similarity) for row, similarity in self._refused.items()]

    def chosen(self) -> list[Example]:
        """Rows of Subset C of each kind, at even steps from the clearest choice to the closest."""
        table = self._aligned("facts", ["facts"])
        examples = []
        for row, choice in self._chosen:
            options = sorted(zip(choice["candidates"], choice["scores"], strict=True), key=lambda o: -o[1])
            numbers = {name: choice.get(name) for name in ("clip_score", "margin", "foil_margin")}
            notes = tuple(f"{name.replace('_', ' ')} {n:.3f}" for name, n in numbers.items() if n is not None)
            facts = None if table is None else [Fact(**of) for of in table["facts"][row].as_py()]
            claims = explained(choice.get("claims", ()), facts)  # a table of release 0.1 has none
            if choice["kind"] == "pose":
                seen = self._crop(row, self.boxes[row], self.params["embed"]["crop_padding"], "A person")
            else:
                seen = self._crop(row, self.face_boxes[row], HEAD_PADDING, "A head")
            tag = choice["cluster_id"]
            examples.append(Example(seen, choice["caption"], tag, notes, tuple(options), tuple(claims)))
        return examples

    def composed(self) -> list[Example]:
        """Composed images of each aspect; the boxes of people of one cluster have one colour."""
        table = self._table("compose")
        if table is None:
            return []
        picked = {
            row["composite_id"].rsplit("/", 1)[-1]: row
            for aspect in ASPECTS
            for row in spread(table.filter(pc.field("aspect") == aspect).to_pylist(), self.limits["composed"] // 3)
        }
        tar = next(f.uri for f in self.files["compose"] if f.uri.endswith(".tar"))
        return [_composed(picked[key], image) for key, image in _tar_images(self.store, tar, picked)]

    def _table(self, step: str, columns: Sequence[str] | None = None) -> pa.Table | None:
        if step not in self.files:
            return None
        return read_table(self.store, next(f.uri for f in self.files[step] if f.uri.endswith(".parquet")), columns)

    def _aligned(self, step: str, columns: Sequence[str]) -> pa.Table | None:
        """A table that has a row for each person, in their order."""
        table = self._table(step, columns)
        if table is not None and len(table) != len(self.ids):
            raise LaionPeopleError(
                f"{self.files[step][0].uri} has {len(table)} rows for {len(self.ids)} people: run `{step}` again"
            )
        return table

    def _features(self) -> dict[str, set[Any]]:
        """For each image: its number of people, the clusters that they are in, and where (copies of an image agree)."""
        assigned = self._aligned("assign", [f"{aspect}_cluster" for aspect in ASPECTS])
        places = [tuple(place) for place in (self.boxes // 32).tolist()]
        rows: list[dict[str, Any]] = assigned.to_pylist() if assigned else [{} for _ in self.ids]
        return {
            key: {len(rows[span]), *(c for row in rows[span] for c in row.values() if c is not None), *places[span]}
            for key, span in islice(self.spans.items(), CANDIDATE_IMAGES)
        }

    def _accepted_and_refused(self) -> tuple[dict[int, float], dict[int, float]]:
        """Rows with their similarity, the highest first; one person an image."""
        clip = self._aligned("clip_filter", ["similarity"])
        if clip is None or "subset_a" not in self.files:
            return {}, {}
        similarity = clip["similarity"].to_pylist()
        threshold = self.params["subset_a"]["threshold"]
        ranked = sorted(
            ({self.keys[row]: row for row in range(len(self.ids))}).values(), key=lambda row: -similarity[row]
        )
        sides = [[r for r in ranked if (similarity[r] > threshold) == side] for side in (True, False)]
        accepted, refused = ({r: similarity[r] for r in spread(s, self.limits["captioned"])} for s in sides)
        return accepted, refused

    def _chosen_rows(self) -> list[tuple[int, dict[str, Any]]]:
        table = self._table("caption")
        if table is None or not {"mesh", "embed"} <= self.files.keys():  # which say where the picture is cut out
            return []
        row_of = {person_id: row for row, person_id in enumerate(self.ids)}
        known = (choice for choice in table.to_pylist() if choice["person_id"] in row_of)
        ranked = sorted(known, key=lambda choice: -choice["margin"])
        per_kind = [[c for c in ranked if c["kind"] == aspect] for aspect in ASPECTS]
        return [(row_of[c["person_id"]], c) for of in per_kind for c in spread(of, self.limits["chosen"] // 3)]

    def _captioned(self, row: int, similarity: float) -> Example:
        seen = self._crop(row, self.boxes[row], self.params["clip_filter"]["crop_padding"], "A person")
        return Example(seen, shorten(self.captions[row]), f"{similarity:.3f}")

    def _crop(self, row: int, box: np.ndarray, padding: float, what: str) -> Picture:
        """A part of a person's image, as CLIP sees it."""
        cut = crop(self.images[self.keys[row]], box, padding)
        return picture(Image.fromarray(cut), f"{what}, cut out of an image", SMALL)


def clusters(store: Store, version: str, limit: int) -> list[Cluster]:
    """The largest clusters of each kind of a version, as far as they have been labelled."""
    path = f"clusters/{version}/clusters.parquet"
    if not store.exists(path):
        return []
    table = read_table(store, path, ["cluster_id", "kind", "size", "captions", "reviewed"])
    rows = sorted(table.to_pylist(), key=lambda row: (-row["size"], row["cluster_id"]))
    return [_cluster(store, version, row) for a in ASPECTS for row in [r for r in rows if r["kind"] == a][:limit]]


def picture(image: Image.Image, alt: str, size: int) -> Picture:
    """A picture of at most ``size`` pixels a side as WebP."""
    image = image.copy()
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "WEBP", quality=80, method=4)
    return Picture("data:image/webp;base64," + base64.b64encode(file.getvalue()).decode(), *image.size, alt)


def shorten(caption: str) -> str:
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


def _tar_images(store: Store, tar: str, keys: Collection[str]) -> Iterator[tuple[str, np.ndarray]]:
    """The images of these keys, in the order of the tar. Raises LaionPeopleError when one is missing or damaged."""
    left = set(keys)
    with store.local(tar) as path:
        for sample in samples(path) if left else ():
            if sample.key in left:
                left.remove(sample.key)
                try:
                    yield sample.key, np.asarray(decode(sample.image, limited=False))
                except ImageError as error:
                    raise LaionPeopleError(f"{tar}: {sample.key} cannot be decoded ({error})") from error
                if not left:
                    return
    if left:
        raise LaionPeopleError(f"{tar}: {min(left)} is missing: run again the step that writes it")


def _composed(row: dict[str, Any], image: np.ndarray) -> Example:
    people = row["people"]
    ids = sorted({p["cluster_id"] for p in people}, key=[p["cluster_id"] for p in people].index)
    colours = [CLUSTER_COLOURS[ids.index(p["cluster_id"]) % len(CLUSTER_COLOURS)] for p in people]
    drawn = annotate(image, np.array([p["bbox"] for p in people], np.float32), colours=colours, size=LARGE)
    facts = (_number(row["n_people"], "person", "people"), f"{row['n_similar']} similar", *ids)
    shown = picture(drawn, f"{facts[0]} composed on one background", LARGE)
    return Example(shown, row["caption"], row["aspect"], facts)


def _cluster(store: Store, version: str, row: dict[str, Any]) -> Cluster:
    sheet = f"clusters/{version}/contact-{row['cluster_id']}.jpg"
    shown = None
    if store.exists(sheet):
        shown = picture(decode(store.read(sheet)), f"Members of cluster {row['cluster_id']}", SHEET)
    return Cluster(row["cluster_id"], row["kind"], row["size"], tuple(row["captions"]), row["reviewed"], shown)


def _number(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"
