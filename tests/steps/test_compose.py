"""What Subset B promises: carefully composed pictures, and true captions."""

from __future__ import annotations

import colorsys
import io
import itertools
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageFilter

from include.models import Detections
from laion_people.engine.step import Row
from laion_people.engine.work import Shard
from laion_people.errors import LaionPeopleError
from laion_people.language.similartext import ASPECTS, TEMPLATES, fill, situation
from laion_people.settings import Settings
from laion_people.steps.cluster.clusters import FEATURE_SPACES, ClusterSet, Fit
from laion_people.steps.compose.collage import GAP, HEIGHT, MAX_ENLARGED, WIDTHS, arrange, canvas, fits
from laion_people.steps.compose.step import Compose
from laion_people.storage.schemas import SCHEMAS
from laion_people.storage.store import LocalStore
from laion_people.vision.geometry import BLENDSHAPES
from laion_people.vision.images import samples
from tests import skeletons
from tests.fakes import FakeBystanders, FakeMatte, FakeModels, tar_of

PARTITION = "laion2B-en/00042"
POSES = ("stand", "arms out", "arms up", "sit")
NOSE = (150, 70)
GREY = (90, 90, 90)
NEAR, FAR = {"pose": 0.45, "face": 0.3, "head": 0.2}, {"pose": 0.6, "face": 0.6, "head": 0.4}


@dataclass
class Scene:
    """A shard to compose: one image for each person, who fills the middle, and images without people."""

    people: int = 48
    backgrounds: int = 6
    size: tuple[int, int] = (300, 420)
    box: tuple[float, float, float, float] = (80, 30, 220, 400)
    poses: Sequence[str] = POSES
    clustered: Sequence[str] = ASPECTS
    hidden: Sequence[int] = ()  # joints hidden for everybody
    turns: Sequence[float] = (-35, 0, 35)  # yaw of heads, degrees
    nose: tuple[float, float] = NOSE  # of the pose
    facts: dict[str, str] = field(default_factory=lambda: {"base": "on_feet"})  # of everybody
    more_facts: dict[int, dict[str, str]] = field(default_factory=dict)  # further facts of some
    confidence: float = 0.9
    change: dict[str, Any] = field(default_factory=dict)  # columns of the people table, the same for everybody

    def write(self, folder: Path) -> dict[str, Path]:
        folder.mkdir(parents=True, exist_ok=True)
        keys = [f"{i:09d}" for i in range(self.people)]
        tar_of(
            {key: self.image(i) for i, key in enumerate(keys)}
            | {f"{10_000 + i:09d}": encoded(scene()) for i in range(self.backgrounds)},
            folder / "images.tar",
        )
        ids = [f"{PARTITION}/00000/{key}/0" for key in keys]
        names = [self.poses[i % len(self.poses)] for i in range(self.people)]
        bodies = skeletons.people(names, 7, jitter=0.03)
        bodies.keypoints[..., :2] = self._in_box(bodies.keypoints[..., :2])
        bodies.keypoints[:, self.hidden, 2] = 0
        bodies.keypoints[:, 0, :2] = self.nose
        rng = np.random.default_rng(3)
        turns = [self.turns[i % len(self.turns)] for i in range(self.people)]
        yaw = turns + rng.normal(0, 1, self.people)
        smile = np.array([i // 2 % 2 for i in range(self.people)])
        tables = {
            "people": [self._person(i, d, k) for i, (d, k) in enumerate(zip(ids, keys, strict=True))],
            "pose": bodies.table(ids).to_pylist(),
            "mesh": [self._mesh(d, yaw[i], smile[i]) for i, d in enumerate(ids)],
            "facts": [{"person_id": d, "facts": self._facts(i)} for i, d in enumerate(ids)],
            "assignments": [
                self._assignment(d, pose=names[i], face=f"smile {smile[i]}", head=f"yaw {turns[i]}")
                for i, d in enumerate(ids)
            ],
        }
        for name, rows in tables.items():
            pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMAS[name]), folder / f"{name}.parquet")
        cluster_sets = {a: ClusterSet(FEATURE_SPACES[a], (), NEAR[a], FAR[a]) for a in ASPECTS}
        (folder / "fit.json").write_bytes(Fit("v0001", cluster_sets).to_json())
        return {n: folder / f"{n}.parquet" for n in tables} | {
            "images": folder / "images.tar",
            "fit": folder / "fit.json",
        }

    def _in_box(self, points: np.ndarray) -> np.ndarray:
        low, high = points.min(axis=1, keepdims=True), points.max(axis=1, keepdims=True)
        corner, opposite = np.array(self.box).reshape(2, 2)
        return corner + 4 + (points - low) / (high - low) * (opposite - corner - 8)

    def image(self, i: int) -> bytes:
        """A box of a unique colour before a unique pattern."""
        rng = np.random.default_rng(i)
        pattern = Image.fromarray(rng.integers(0, 256, (42, 30), np.uint8)).convert("RGB")
        picture = pattern.resize(self.size, Image.Resampling.NEAREST)
        picture.paste(colour(i), tuple(int(v) for v in self.box))
        return encoded(picture)

    def _facts(self, i: int) -> list[Row]:
        facts = self.facts | self.more_facts.get(i, {})
        listed = [{"name": name, "value": value, "confidence": self.confidence} for name, value in facts.items()]
        smile = {"name": "mouth", "value": ("relaxed", "smiling")[i // 2 % 2], "confidence": 0.55}
        return [*listed, smile] if "mouth" not in facts else listed

    def _person(self, i: int, person_id: str, key: str) -> Row:
        person = dict.fromkeys(("url", "caption"), "") | {"person_id": person_id, "sample_id": i, "key": key}
        box = {"image_width": self.size[0], "image_height": self.size[1], "bbox": self.box, "bbox_score": 0.9}
        return person | box | self.change

    def _mesh(self, person_id: str, yaw: float, smile: int) -> Row:
        angle = np.linspace(0, 2 * np.pi, 478)
        face = np.c_[NOSE[0] + 25 * np.cos(angle), NOSE[1] + 30 * np.sin(angle), 0 * angle]
        shapes = np.zeros(52)
        shapes[[BLENDSHAPES.index("mouthSmileLeft"), BLENDSHAPES.index("mouthSmileRight")]] = 0.8 * smile
        angles = {"head_yaw": yaw, "head_pitch": 0.0, "head_roll": 0.0}
        return {
            "person_id": person_id,
            "face_landmarks": face.ravel(),
            "blendshapes": shapes,
            "face_score": 0.9,
        } | angles

    def _assignment(self, person_id: str, **clusters: str) -> Row:
        row: Row = {"person_id": person_id}
        for aspect in ASPECTS:
            known = aspect in self.clustered
            row |= {
                f"{aspect}_cluster": clusters[aspect] if known else None,
                f"{aspect}_distance": 0.1 if known else None,
            }
        return row


def colour(i: int) -> tuple[int, int, int]:
    """A bright colour, different for each person: hues are spread by the golden ratio."""
    red, green, blue = (round(255 * v) for v in colorsys.hsv_to_rgb(i * 0.618 % 1, 0.1 + i % 5 / 10, 1))
    return red, green, blue


def scene() -> Image.Image:
    """A picture of nobody, in many colours, none of them light."""
    pattern = np.random.default_rng(5).integers(40, 160, (21, 32, 3), np.uint8)
    return Image.fromarray(pattern).resize((640, 420), Image.Resampling.BICUBIC)


def encoded(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=95)
    return file.getvalue()


def compose(
    files: dict[str, Path], folder: Path, models: dict[str, type] | None = None, index: int = 0, **settings: Any
) -> tuple[list[Row], Shard]:
    kinds = FakeModels.KINDS | (models or {})
    shard = Shard(
        PARTITION,
        index,
        settings=Settings(**settings),
        store=LocalStore(folder / "store"),
        model=lambda role: kinds[role](),
        files=files,
        columns=Compose.entry.reads,
    )
    return list(Compose().apply(shard)), shard


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return Scene().write(tmp_path_factory.mktemp("scene"))


@pytest.fixture(scope="module")
def composed(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Row], Shard]:
    return compose(files, tmp_path_factory.mktemp("composed"), composites=27)


def test_rows_fit_the_schema_and_every_aspect_and_situation_comes_as_often(composed: tuple[list[Row], Shard]) -> None:
    rows, _ = composed
    pa.Table.from_pylist([{k: v for k, v in r.items() if k != "files"} for r in rows], schema=SCHEMAS["subset_b"])
    assert [r["composite_id"] for r in rows] == [f"{PARTITION}/00000/{i:05d}" for i in range(27)]
    kinds = Counter((r["aspect"], situation(r["n_people"], r["n_similar"])) for r in rows)
    assert len(kinds) == 9
    assert max(kinds.values()) - min(kinds.values()) <= 1
    assert {r["n_people"] for r in rows} == {2, 3, 4}


def test_similar_people_share_a_cluster_and_are_near_and_all_other_pairs_are_far(
    files: dict[str, Path], composed: tuple[list[Row], Shard]
) -> None:
    pose, mesh = pq.read_table(files["pose"]), pq.read_table(files["mesh"])
    row_of = {person_id: i for i, person_id in enumerate(pose["person_id"].to_pylist())}
    for row in composed[0]:
        cluster_set = ClusterSet(FEATURE_SPACES[row["aspect"]], (), NEAR[row["aspect"]], FAR[row["aspect"]])
        features = cluster_set.features(pose, mesh)
        clusters = Counter(p["cluster_id"] for p in row["people"])
        assert row["n_similar"] == (clusters.most_common(1)[0][1] if len(clusters) < row["n_people"] else 0)
        assert sum(n > 1 for n in clusters.values()) <= 1
        for one, other in itertools.combinations(row["people"], 2):
            distance = cluster_set.distances(features[row_of[one["person_id"]]], features[row_of[other["person_id"]]])
            if one["cluster_id"] == other["cluster_id"]:
                assert distance < cluster_set.near
            else:
                assert distance > cluster_set.far


def test_the_caption_is_one_of_the_templates_for_what_is_shown(composed: tuple[list[Row], Shard]) -> None:
    for row in composed[0]:
        aspect, n, k = row["aspect"], row["n_people"], row["n_similar"]
        assert row["caption"] in {fill(t, aspect, n, k) for t in TEMPLATES[aspect][situation(n, k)]}
        assert [p["claims"] for p in row["people"]] == [[]] * n  # the facts of all are the same


def test_people_come_from_different_images_and_no_group_is_shown_twice(composed: tuple[list[Row], Shard]) -> None:
    groups = []
    for row in composed[0]:
        keys = [p["person_id"].split("/")[-2] for p in row["people"]]
        assert len(set(keys)) == len(keys) == row["n_people"]
        assert int(row["background_key"]) >= 10_000
        groups.append((row["aspect"], frozenset(keys)))
    assert len(set(groups)) == len(groups)


def test_each_person_is_seen_in_the_picture_where_the_row_says(composed: tuple[list[Row], Shard]) -> None:
    for row in composed[0]:
        picture = Image.open(io.BytesIO(row["files"]["jpg"]))
        assert picture.size == (row["width"], row["height"])
        pixels = np.asarray(picture, int)
        for person in row["people"]:
            x1, y1, x2, y2 = (round(v) for v in person["bbox"])
            inside = pixels[y1 + 4 : y2 - 4, x1 + 4 : x2 - 4].reshape(-1, 3)
            assert np.abs(inside - colour(int(person["person_id"].split("/")[-2]))).mean() < 4
            assert pixels[y1:y2, max(x1 - 14, 0)].max() < 200  # the background, beyond the padding, is dark


def test_the_tar_holds_picture_caption_and_row_of_each_sample(composed: tuple[list[Row], Shard]) -> None:
    for row in composed[0]:
        assert row["files"]["txt"].decode() == row["caption"]
        fields = json.loads(row["files"]["json"])
        assert fields["key"] == row["composite_id"].rsplit("/", 1)[-1]
        assert {k: fields[k] for k in row if k != "files"} == {k: v for k, v in row.items() if k != "files"}


def test_the_same_input_and_seed_give_the_same_bytes(files: dict[str, Path], tmp_path: Path) -> None:
    rows, again, reseeded, elsewhere = (
        compose(files, tmp_path, composites=9, **more)[0] for more in ({}, {}, {"seed": 1}, {"index": 1})
    )
    assert rows == again
    assert [r["files"] for r in rows] != [r["files"] for r in reseeded]
    assert [r["people"] for r in rows] != [r["people"] for r in elsewhere]


def test_there_is_one_picture_for_every_four_people_and_everybody_is_used_before_anybody_is_often(
    files: dict[str, Path], tmp_path: Path
) -> None:
    rows, shard = compose(files, tmp_path)
    assert len(rows) == 12
    uses = Counter(p["person_id"] for r in rows for p in r["people"])
    assert max(uses.values()) <= 2
    assert shard.rows_in == 48 == len(uses) + sum(shard.rejected.values())
    assert set(shard.rejected) <= {"not_drawn", "no_partner"}


def test_what_the_collection_flags_is_no_background(files: dict[str, Path], tmp_path: Path) -> None:
    unsafe = f"{10_000:09d}"
    tar = tmp_path / "images.tar"
    tar_of({s.key: s.image for s in samples(files["images"])}, tar, **{unsafe: {"NSFW": "NSFW"}})
    for nsfw_filter in (True, False):
        rows, _ = compose(files | {"images": tar}, tmp_path, composites=12, nsfw_filter=nsfw_filter)
        assert (unsafe in {r["background_key"] for r in rows}) != nsfw_filter


def test_a_given_folder_of_backgrounds_is_used_instead(files: dict[str, Path], tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    file = io.BytesIO()
    Image.new("RGB", (800, 600), "white").save(file, "JPEG")
    store.write("backgrounds/room.jpg", file.getvalue())
    store.write("backgrounds/notes.txt", b"not an image")
    rows, _ = compose(files, tmp_path, composites=3, backgrounds="backgrounds")
    assert [r["background_key"] for r in rows] == ["backgrounds/room.jpg"] * 3


@pytest.mark.parametrize(
    ("scene", "reasons"),
    [
        (Scene(backgrounds=0), {"no_background": 48}),
        (Scene(people=1), {"no_partner": 1}),
        (Scene(people=0), {}),
        (Scene(clustered=()), {"no_cluster": 48}),
        (Scene(box=(80, 30, 120, 150)), {"too_small": 48}),
        (Scene(hidden=[5]), {"truncated": 48}),
        (Scene(hidden=[9], clustered=("pose",)), {"unclear": 48}),
        (Scene(box=(80, 30, 140, 400)), {"strip": 48}),
        (Scene(facts={}), {"off_ground": 48}),
        (Scene(facts={"base": "jumping"}), {"off_ground": 48}),
        (Scene(turns=[20], clustered=("head",)), {"unclear": 48}),
        (Scene(turns=[50], clustered=("face",)), {"unclear": 48}),
        (Scene(nose=(190, 70), clustered=("face", "head")), {"unclear": 48}),
    ],
    ids=[
        *("no backgrounds", "one person", "nobody", "no cluster", "tiny people", "no shoulder", "no wrist"),
        *("strips", "people who may be in the air", "people who jump"),
        *("heads between two directions", "expressions seen from the side", "noses beside the face mesh"),
    ],
)
def test_where_nothing_can_be_composed_everybody_is_rejected_with_the_reason(
    scene: Scene, reasons: dict[str, int], tmp_path: Path
) -> None:
    rows, shard = compose(scene.write(tmp_path), tmp_path, composites=5)
    assert rows == []
    assert shard.rejected == reasons


def test_people_who_are_all_in_one_cluster_are_never_called_different(tmp_path: Path) -> None:
    files = Scene(people=12, poses=("stand",), clustered=("pose",)).write(tmp_path)
    rows, _ = compose(files, tmp_path, composites=8)
    assert rows
    assert all(r["aspect"] == "pose" and r["n_similar"] == r["n_people"] for r in rows)


def test_a_few_people_are_not_shown_again_and_again(tmp_path: Path) -> None:
    files = Scene(people=2, poses=("stand",), clustered=("pose",)).write(tmp_path)
    assert len(compose(files, tmp_path, composites=50)[0]) == 1


def test_one_picture_under_two_urls_is_not_shown_as_two_people_who_are_alike(tmp_path: Path) -> None:
    files = Scene(people=6, clustered=("pose",)).write(tmp_path)
    pose = pq.read_table(files["pose"]).to_pylist()
    same = [row | {"keypoints": pose[0]["keypoints"], "world_landmarks": pose[0]["world_landmarks"]} for row in pose]
    pq.write_table(pa.Table.from_pylist(same, schema=SCHEMAS["pose"]), files["pose"])
    rows, shard = compose(files, tmp_path, composites=5)
    assert rows == []
    assert shard.rejected == {"no_partner": 6}


def changed(files: dict[str, Path], tar: Path, change: Callable[[str, Image.Image], Image.Image]) -> dict[str, Path]:
    """The files with other images, by their keys."""
    images = {s.key: change(s.key, Image.open(io.BytesIO(s.image))) for s in samples(files["images"])}
    tar_of({key: encoded(image) for key, image in images.items()}, tar)
    return files | {"images": tar}


def test_a_picture_that_somebody_has_saved_again_is_not_shown_as_two_people(tmp_path: Path) -> None:
    """Skeletons of smaller and lighter copies differ."""
    files = Scene(people=4, clustered=("pose",)).write(tmp_path)
    first = Image.open(io.BytesIO(Scene().image(0)))

    def copy(key: str, image: Image.Image) -> Image.Image:
        if int(key) >= 10_000:
            return image
        return ImageEnhance.Brightness(first.resize((200, 280)).resize(first.size)).enhance(1 - int(key) / 20)

    rows, shard = compose(changed(files, tmp_path / "copies.tar", copy), tmp_path, composites=5)
    assert rows == []
    assert shard.rejected == {"no_partner": 4}


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("dark", lambda image: ImageEnhance.Brightness(image).enhance(0.3)),
        ("blurred", lambda image: image.filter(ImageFilter.GaussianBlur(4))),
        ("blurred", lambda image: image.resize((60, 84)).resize((300, 420), Image.Resampling.BICUBIC)),
    ],
    ids=["dark", "out of focus", "enlarged before"],
)
def test_who_would_not_be_seen_well_is_not_shown(
    reason: str, change: Callable[[Image.Image], Image.Image], tmp_path: Path
) -> None:
    files = Scene(people=8).write(tmp_path)
    change_people = changed(files, tmp_path / "bad.tar", lambda key, i: i if int(key) >= 10_000 else change(i))
    rows, shard = compose(change_people, tmp_path, composites=5)
    assert rows == []
    assert shard.rejected == {reason: 8}


def test_pictures_in_which_somebody_may_be_are_no_backgrounds(tmp_path: Path) -> None:
    files = Scene(people=8).write(tmp_path)
    white = changed(files, tmp_path / "w.tar", lambda k, i: i if int(k) < 10_000 else i.point(lambda _: 255))
    rows, shard = compose(white, tmp_path, composites=5)  # the fake model sees a face in these
    assert rows == []
    assert shard.rejected == {"no_background": 8}


def test_of_high_pictures_little_would_be_left_as_backgrounds(tmp_path: Path) -> None:
    files = Scene(people=8).write(tmp_path)
    high = changed(files, tmp_path / "h.tar", lambda k, i: i if int(k) < 10_000 else i.resize((640, 641)))
    assert compose(high, tmp_path, composites=5)[1].rejected == {"no_background": 8}


def test_people_with_strangers_behind_them_are_not_used(files: dict[str, Path], tmp_path: Path) -> None:
    class Faces(FakeBystanders):
        def detect(self, images: Sequence[np.ndarray]) -> list[Detections]:
            people = [image.shape[1] < 640 for image in images]  # others are backgrounds
            return [Detections(np.float32([[60, 20, 90, 30]] * n), np.float32([0.9] * n)) for n in people]

    rows, shard = compose(files, tmp_path, {"bystanders": Faces}, composites=5)
    assert rows == []
    assert shard.rejected == {"crowded": 48}


def test_strangers_beside_the_cutout_are_no_reason(files: dict[str, Path], tmp_path: Path) -> None:
    class Beside(FakeBystanders):
        def detect(self, images: Sequence[np.ndarray]) -> list[Detections]:
            people = [image.shape[1] < 640 for image in images]
            return [Detections(np.float32([[1, 1, 9, 9]] * n), np.float32([0.9] * n)) for n in people]

    assert len(compose(files, tmp_path, {"bystanders": Beside}, composites=5)[0]) == 5


@pytest.mark.parametrize(
    "page",
    [Image.new("RGB", (640, 420), (200, 180, 90)), scene().convert("L").convert("RGB")],
    ids=["one colour", "grey photograph"],
)
def test_what_shows_no_scene_is_no_background(page: Image.Image, tmp_path: Path) -> None:
    files = Scene(people=8).write(tmp_path)
    plain = changed(files, tmp_path / "p.tar", lambda k, i: i if int(k) < 10_000 else page)
    assert compose(plain, tmp_path, composites=5)[1].rejected == {"no_background": 8}


def test_of_drawings_and_clothes_without_a_face_no_pose_is_shown(tmp_path: Path) -> None:
    front = Scene(people=8, nose=(190, 70), clustered=("pose",))
    assert compose(front.write(tmp_path / "f"), tmp_path, composites=5)[1].rejected == {"unclear": 8}
    front.facts = {"base": "on_feet", "view": "back"}
    assert compose(front.write(tmp_path / "b"), tmp_path, composites=2)[0]


def test_people_with_the_head_of_another_in_their_cutout_are_not_used(tmp_path: Path) -> None:
    files = Scene(people=2, change={"key": "000000000"}).write(tmp_path)
    people = pq.read_table(files["people"]).to_pylist()
    people[1]["bbox"] = (215, 30, 300, 400)  # covers little of the first
    pq.write_table(pa.Table.from_pylist(people, schema=SCHEMAS["people"]), files["people"])
    assert (
        compose(files, tmp_path, composites=5)[1].rejected["crowded"] == 1
    )  # by the joints of both, the head is there


@pytest.mark.parametrize(("confidence", "stated"), [(0.9, True), (0.5, False)], ids=["certain", "in doubt"])
def test_of_two_who_differ_the_caption_says_what_each_does_where_that_is_certain(
    confidence: float, stated: bool, tmp_path: Path
) -> None:
    facts = {i: {"base": ("sitting", "standing")[i % 2]} for i in range(24)}
    scene = Scene(people=24, poses=("sit", "arms up"), clustered=("pose",), more_facts=facts, confidence=confidence)
    rows, _ = compose(scene.write(tmp_path), tmp_path, composites=8)
    pairs = [row for row in rows if row["n_similar"] == 0]
    assert pairs
    for row in pairs:
        claims = [f"base={facts[int(p['person_id'].split('/')[-2])]['base']}" for p in row["people"]]
        assert [p["claims"] for p in row["people"]] == ([[claim] for claim in claims] if stated else [[], []])
        assert ("is sitting" in row["caption"]) == ("is standing" in row["caption"]) == stated


def test_people_whose_facts_contradict_each_other_are_not_called_alike(tmp_path: Path) -> None:
    facts = {i: {"view": ("front", "back")[i % 2]} for i in range(24)}
    files = Scene(people=24, poses=("stand",), clustered=("pose",), more_facts=facts).write(tmp_path)
    rows, _ = compose(files, tmp_path, composites=8)
    assert rows
    for row in rows:
        assert len({facts[int(p["person_id"].split("/")[-2])]["view"] for p in row["people"]}) == 1


def test_faces_that_say_the_same_are_not_called_different(tmp_path: Path) -> None:
    files = Scene(people=24, clustered=("face",), facts={"base": "on_feet", "mouth": "relaxed"}).write(tmp_path)
    rows, _ = compose(files, tmp_path, composites=8)
    assert rows
    assert all(row["n_similar"] == row["n_people"] for row in rows)


def test_with_a_matte_the_background_is_seen_around_people(files: dict[str, Path], tmp_path: Path) -> None:
    LocalStore(tmp_path / "store").write("backgrounds/grey.jpg", encoded(Image.new("RGB", (640, 420), GREY)))
    rows, _ = compose(files, tmp_path, composites=9, cutouts="matte", backgrounds="backgrounds")
    for row in rows:
        pixels = np.asarray(Image.open(io.BytesIO(row["files"]["jpg"])), int)
        for person in row["people"]:
            x1, y1, x2, y2 = (round(v) for v in person["bbox"])
            assert np.abs(pixels[y1 + 2 : y1 + 8, x1 + 2 : x1 + 8] - GREY).mean() < 8
            middle = pixels[(y1 + y2) // 2, (x1 + x2) // 2]
            assert np.abs(middle - colour(int(person["person_id"].split("/")[-2]))).mean() < 8


def test_whom_the_segmenter_does_not_see_is_not_shown(files: dict[str, Path], tmp_path: Path) -> None:
    class Nothing(FakeMatte):
        def _one(self, height: int, width: int) -> np.ndarray:
            return np.zeros((height, width), np.float32)

    rows, shard = compose(files, tmp_path, {"matte": Nothing}, composites=5)
    assert rows == []
    assert shard.rejected == {"no_matte": 48}


def test_people_with_others_in_their_box_are_not_used(tmp_path: Path) -> None:
    files = Scene(people=8, change={"key": "000000000"}).write(tmp_path)  # all in one image, over each other
    rows, shard = compose(files, tmp_path, composites=5)
    assert rows == []
    assert shard.rejected == {"crowded": 8}


@given(
    sizes=st.lists(st.tuples(st.integers(1, 900), st.integers(128, 1200)), min_size=2, max_size=4),
    cut=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_people_stand_beside_each_other_inside_the_picture_at_comparable_heights(
    sizes: list[tuple[int, int]], cut: bool, seed: int
) -> None:
    arranged = arrange(np.array(sizes), cut, np.random.default_rng(seed))
    if arranged is None:
        return
    width, places = arranged
    assert WIDTHS[0] <= width <= WIDTHS[1]
    assert (places[:, :2] >= 0).all()
    assert (places[:, 2] <= width).all()
    assert (places[:, 3] <= HEIGHT).all()
    assert (places[1:, 0] > places[:-1, 2]).all()
    assert places[0, 0] >= int(GAP * width)
    assert (places[:, 2] > places[:, 0]).all()
    assert len(set(places[:, 3])) == 1
    heights = places[:, 3] - places[:, 1]
    assert heights.min() > 0.89 * heights.max()
    assert (heights <= MAX_ENLARGED * np.array(sizes)[:, 1]).all()


@given(size=st.tuples(st.integers(1, 1200), st.integers(1, 1200)), width=st.integers(*WIDTHS))
@example(size=(699, 394), width=740)  # here the cut-out began 5e-14 pixels before the picture
@example(size=(500, 375), width=688)
def test_a_background_of_any_size_fills_the_picture(size: tuple[int, int], width: int) -> None:
    background = Image.new("RGB", size)
    if fits(background):
        assert canvas(background, width).size == (width, HEIGHT)


def test_the_middle_of_a_background_is_kept() -> None:
    background = Image.new("RGB", (1200, 512), "red")
    background.paste("blue", (300, 0, 900, 512))
    assert (np.asarray(canvas(background, 600)) == (0, 0, 255)).all()


def test_a_person_whose_picture_cannot_be_decoded_any_more_is_named(files: dict[str, Path], tmp_path: Path) -> None:
    people = {f"{i:09d}": b"not an image" for i in range(48)}
    tar_of(people | {"000010000": encoded(scene())}, tmp_path / "damaged.tar")
    with pytest.raises(LaionPeopleError, match=rf"^{PARTITION}/00000/\d+ can no longer be decoded"):
        compose(files | {"images": tmp_path / "damaged.tar"}, tmp_path)
