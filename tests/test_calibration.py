"""The threshold of Subset A, calibrated: its properties, the command, and the profile that keeps it."""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from include.models.errors import ModelError, ModelUsageError
from include.models.profiles import FOLDER, Profile, Threshold, load_profile
from laion_people.cli import main
from laion_people.engine.runner import Runner
from laion_people.errors import LaionPeopleError
from laion_people.reports import separation
from laion_people.reports.report import write_report
from laion_people.reports.separation import EDGES, Pairs, separate
from laion_people.settings import Settings
from laion_people.steps.registry import STEPS
from laion_people.storage.store import LocalStore
from tests.fakes import FakeClip, FakeModels, tar_of
from tests.synthetic_store import change_manifest, make_store

IMAGES = 40
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(separation, "RESAMPLES", 40)


def drawn(seed: int, images: int = 40, own: float = 0.3, spread: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """Similarities of one to three people an image with all captions: around 0.15, with their own around ``own``."""
    rng = np.random.default_rng(seed)
    image = np.repeat(np.arange(images), rng.integers(1, 4, images))
    similarities = rng.normal(0.15, spread, (len(image), images))
    similarities[np.arange(len(image)), image] = rng.normal(own, spread, len(image))
    return similarities.astype(np.float32), image


# What the shares and thresholds promise.


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_shares_are_those_of_subset_a_however_images_are_weighted(seed: int) -> None:
    similarities, image = drawn(seed, images=8)
    weights = np.random.default_rng(seed).integers(0, 3, 8) + np.eye(8, dtype=int)[0]
    own, others, nearer = [], [], []
    for person, mine in enumerate(image):
        own += [similarities[person, mine]] * weights[mine]
        for other, theirs in enumerate(image):  # whose captions are compared with the person
            if theirs != mine:
                others += [similarities[person, theirs]] * (weights[mine] * weights[theirs])
            del other
    shares = Pairs(similarities, image).shares(weights)
    for edge in np.random.default_rng(seed).integers(9_000, 14_500, 20):
        threshold = EDGES[edge]
        assert shares.own[edge] == pytest.approx(np.mean(np.array(own) > threshold))
        if others:
            assert shares.others[edge] == pytest.approx(np.mean(np.array(others) > threshold))
    if others:
        nearer = np.searchsorted(EDGES, own)[:, None] - np.searchsorted(EDGES, others)[None]
        assert shares.auc == pytest.approx(((nearer > 0) + 0.5 * (nearer == 0)).mean())


@given(seeds, st.lists(st.floats(0.01, 0.999), min_size=2, max_size=6))
@settings(max_examples=30, deadline=None)
def test_a_higher_precision_never_has_a_lower_threshold(seed: int, precisions: list[float]) -> None:
    shares = Pairs(*drawn(seed)).shares()
    thresholds = [shares.threshold(precision) for precision in sorted(precisions)]
    assert thresholds == sorted(thresholds)
    for precision, threshold in zip(sorted(precisions), thresholds, strict=True):
        assert threshold == math.inf or shares.at(threshold)[2] >= precision


@given(seeds, st.floats(0.3, 0.95))
@settings(max_examples=10, deadline=None)
def test_the_order_of_people_and_images_makes_no_difference(seed: int, precision: float) -> None:
    similarities, image = drawn(seed)
    rng = np.random.default_rng(seed)
    people, images = rng.permutation(len(image)), rng.permutation(similarities.shape[1])
    shuffled = Pairs(similarities[people][:, images], np.argsort(images)[image[people]])
    one, other = Pairs(similarities, image).shares(), shuffled.shares()
    np.testing.assert_allclose(one.precision, other.precision)
    assert one.auc == pytest.approx(other.auc) and one.threshold(precision) == other.threshold(precision)


@given(seeds, st.floats(0.3, 0.9), st.floats(0.16, 0.4))
@settings(max_examples=10, deadline=None)
def test_intervals_hold_what_was_estimated(seed: int, precision: float, own: float) -> None:
    found = separate(Pairs(*drawn(seed, own=own)), precision, 0.2, seed)
    for estimate, (low, high) in ((found.threshold, found.threshold_interval), (found.auc, found.auc_interval)):
        assert low <= estimate <= high
    assert found.current_interval[0] <= found.current_interval[1] <= 1


@given(seeds)
@settings(max_examples=10, deadline=None)
def test_the_threshold_lies_between_distributions_that_do_not_touch(seed: int) -> None:
    pairs = Pairs(*drawn(seed, own=0.6, spread=0.03))
    found = separate(pairs, 1 - 1e-9, 0.3, 0)
    assert found.auc == 1 and found.is_known
    assert pairs.others.max() <= np.float32(found.threshold) < pairs.own.min()


def test_a_clip_whose_own_captions_are_like_any_has_no_threshold() -> None:
    found = [separate(Pairs(*drawn(seed, own=0.15)), 0.8, 0.2, 0) for seed in range(20)]
    assert sum(one.separates for one in found) <= 3  # one in 40 by chance, a little more by few resamples
    assert not any(one.is_known for one in found)


def test_captions_of_many_people_count_as_often_among_others_as_among_own() -> None:
    """A CLIP that likes long captions, and nothing else, does not seem to know those of crowds."""
    image = np.repeat(np.arange(40), [1, 5] * 20)
    similarities = np.tile(np.where(np.arange(40) % 2, 0.5, 0.1).astype(np.float32), (len(image), 1))
    assert Pairs(similarities, image).shares().auc == pytest.approx(0.5, abs=0.02)


def test_another_scale_of_the_same_clip_gets_the_same_threshold_in_its_scale() -> None:
    similarities, image = drawn(0, images=150)
    reference, other = Pairs(similarities, image), Pairs(similarities / 2 + 0.1, image)
    found = separate(other, (reference, 0.25), 0.3, 0)
    assert found.precision == pytest.approx(reference.shares().at(0.25)[2])
    assert 0.21 < found.threshold <= 0.2252 and found.is_known
    assert other.shares().at(found.threshold)[0] == pytest.approx(reference.shares().at(0.25)[0], abs=0.02)


def test_the_reference_keeps_its_own_threshold() -> None:
    pairs = Pairs(*drawn(0))
    found = separate(pairs, (pairs, 0.25), 0.3, 0)
    assert (found.threshold, found.threshold_interval) == (0.25, (0.25, 0.25)) and found.is_known


def test_few_people_far_above_are_no_reason_for_a_threshold() -> None:
    similarities, image = drawn(0, own=0.18)
    similarities[:5, image[:5]] = 0.1
    similarities[np.arange(5), image[:5]] = 0.9
    assert Pairs(similarities, image).shares().threshold(0.999) == math.inf


# The command, on people whom a CLIP knows by the blue of their images.


class ColourClip:
    """Knows the number in a caption, and for an image a number by its blue; ``scale`` shrinks all similarities."""

    def __init__(self, name: str = "colour", scale: float = 1.0):
        self.name, self._scale = name, scale

    def encode_images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        return np.array(
            [self._unit(round(float(image[..., 2].mean()) / 6), default_rng_of(image.tobytes())) for image in images]
        ).reshape(-1, 65)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([self._unit(int(text.split()[-1])) for text in texts]).reshape(-1, 65)

    def _unit(self, number: int, noise: np.random.Generator | None = None) -> np.ndarray:
        vector = np.random.default_rng(number).normal(size=64) + (0 if noise is None else noise.normal(size=64))
        vector *= np.sqrt(self._scale) / np.linalg.norm(vector)
        return np.append(vector, np.sqrt(1 - self._scale) * (noise is None)).astype(np.float32)


def default_rng_of(data: bytes) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(data).digest()[:8]))


def picture(number: int, people: int = 2) -> bytes:
    """Blue by the number, red and green in blocks by chance, so that no two are alike; as bright as people are many."""
    rng = np.random.default_rng(number)
    blocks = rng.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    pixels = np.asarray(Image.fromarray(blocks).resize((160, 120), Image.Resampling.NEAREST)).copy()
    pixels[:20, :20, :2] = people * 80
    pixels[..., 2] = number * 6
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def fill(store: LocalStore, partition: str, captions: dict[int, str], people: int = 2, index: int = 0) -> None:
    """A shard made elsewhere with a picture for each caption, and its people."""
    keys = {f"{index:05d}{place:04d}": number for place, number in enumerate(captions)}
    more = {key: {"caption": captions[number]} for key, number in keys.items()}
    with store.writer(f"images/{partition}/{index:05d}.tar") as path:
        tar_of({key: picture(number, people) for key, number in keys.items()}, path, **more)
    Runner(store, Settings(), FakeModels(), STEPS).run("detect", partition)


@pytest.fixture
def known(store: LocalStore) -> LocalStore:
    """Of five captions one speaks of something else."""
    fill(store, "a/1", {number: f"somebody in the room {number + 100 * (number % 5 == 0)}" for number in range(IMAGES)})
    return store


@pytest.fixture(autouse=True)
def clips(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The CLIPs of profiles by their names; the weights of others are not there."""
    clips: dict[str, Any] = {"packaged": ColourClip(), "mine": ColourClip()}

    def load(profile: Profile, role: str) -> Any:
        if profile.name not in clips:
            assert not profile.fetches
            raise ModelError("missing-weights", f"weights of {role} are missing")
        return clips[profile.name]

    monkeypatch.setattr(Profile, "load", load)
    return clips


def calibrate(store: LocalStore, *args: str) -> int:
    return main(["calibrate", *(args or ("a/1", "--precision", "0.95")), "--store", store.uri])


def test_the_threshold_is_printed_drawn_and_kept_by_a_profile_that_the_report_speaks_of(
    known: LocalStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert calibrate(known, "a/1", "--precision", "0.95", "-o", str(tmp_path / "figure.svg")) == 0
    printed = capsys.readouterr().out
    lines = printed[printed.index("threshold:\n") :]
    threshold = Threshold(**yaml.safe_load(lines)["threshold"])
    assert 0 < threshold.value < 0.5 and (threshold.images, threshold.precision) == (IMAGES, 0.95)
    assert "calibrated" in printed and f"{threshold.value:.4f}" in printed
    figure = (tmp_path / "figure.svg").read_text()
    assert f"calibrated threshold {threshold.value:.4f}, precision at least 0.95<" in figure and "nan" not in figure
    assert "threshold in force 0.3<" in figure and "95 % interval" in figure

    mine = tmp_path / "mine.yaml"
    mine.write_text((FOLDER / "packaged.yaml").read_text() + lines)
    assert load_profile(str(mine)).threshold == threshold

    run = ["run", "clip_filter", "a/1", "--store", known.uri, "--profile", str(mine)]
    assert main(run) == 0
    manifest = json.loads(known.read("manifests/subset_a/a/1.json"))
    assert manifest["params"]["threshold"] == threshold.value
    rows = pq.read_table(tmp_path / "store/subset_a/a/1/00000.parquet").to_pylist()
    assert {np.float32(row["threshold"]) for row in rows} == {np.float32(threshold.value)} and manifest["rejected"]
    assert main(["report", "-o", str(tmp_path / "report"), "--store", known.uri]) == 0
    page = (tmp_path / "report/index.html").read_text()
    assert f"Above {threshold.value}" in page and threshold.provenance in page

    before = known.read("manifests/clip_filter/a/1/00000.json")
    assert main([*run, "--set", "threshold=0.9"]) == 0  # what is set wins
    manifest = json.loads(known.read("manifests/subset_a/a/1.json"))
    assert manifest["params"] == {"revision": 2, "threshold": 0.9}
    assert known.read("manifests/clip_filter/a/1/00000.json") == before
    assert main(["report", "-o", str(tmp_path / "report"), "--store", known.uri]) == 0
    assert "as the settings have it" in (tmp_path / "report/index.html").read_text()


def test_own_pairs_are_what_clip_filter_has_written(known: LocalStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "clip_filter", "a/1", "--store", known.uri]) == 0
    capsys.readouterr()
    assert calibrate(known, "a/1", "--precision", "0.9", "--json") == 0
    made = json.loads(capsys.readouterr().out)
    with known.local("clip/a/1/00000.parquet") as path:
        similarity = pq.read_table(path)["similarity"].to_numpy()
    assert made["people"] == len(similarity)
    assert made["own"]["mean"] == pytest.approx(similarity.mean(), abs=1e-5)
    assert made["at"]["in force"]["kept"] == pytest.approx((similarity > np.float32(0.3)).mean())


def test_without_a_wanted_precision_it_is_that_of_0_3_for_vit_b_32(
    known: LocalStore, clips: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert calibrate(known, "a/1") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.endswith("[no-precision]") and "--precision" in error and "models fetch standard" in error
    clips["packaged"], clips["standard"] = ColourClip("small", scale=0.5), ColourClip("ViT-B-32/openai")
    assert calibrate(known, "a/1", "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert made["threshold"]["basis"] == "that of 0.3 for ViT-B-32/openai"
    assert made["threshold"]["value"] < 0.16  # half of 0.3, or less where nothing is in between
    assert calibrate(known, "a/1", "--profile", "standard", "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["threshold"]["value"], made["threshold"]["interval"]) == (0.3, [0.3, 0.3])
    clips["standard"] = ColourClip("ViT-B-32/openai", scale=0.2)
    for profile in ("packaged", "standard"):
        assert calibrate(known, "a/1", "--profile", profile) == 1
        assert re.search(r"cannot be told.*\[no-threshold\]$", capsys.readouterr().err.splitlines()[-1])


def test_a_clip_that_knows_nothing_has_no_threshold(
    known: LocalStore, clips: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips["packaged"] = FakeClip()
    for more in ([], ["--json"]):
        assert calibrate(known, "a/1", "--precision", "0.6", "-o", str(tmp_path / "figure.svg"), *more) == 1
        printed = capsys.readouterr()
        assert printed.err.splitlines()[-1].startswith("laion-people: no threshold")
        assert printed.err.splitlines()[-1].endswith("[no-threshold]")
    assert json.loads(printed.out)["threshold"] is None
    figure = (tmp_path / "figure.svg").read_text()
    assert "no threshold" in figure and "95 % interval" not in figure


def test_what_is_the_same_is_no_false_pair(store: LocalStore, capsys: pytest.CaptureFixture[str]) -> None:
    captions = {number: f"somebody in the room {number}" for number in range(IMAGES)}
    captions[1] = "SOMEBODY, in the room:  0"
    captions[2] = "somebody in the very large blue room with doors 0"
    captions[3] = "Somebody in the very large blue rooms with doors 0"
    fill(store, "a/1", captions)
    fill(store, "a/2", {number: f"{number} people, other words {number}" for number in (5, 6)})  # the same pictures
    assert calibrate(store, "a/2", "a/1", "a/1", "--precision", "0.9", "--images", "100", "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["images"], made["same"], made["partitions"]) == (IMAGES - 2, 4, ["a/1", "a/2"])


def test_a_sample_is_drawn_by_the_seed_of_each_partition_alike(
    known: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(known, "b/2", {number: f"person of number {number}" for number in range(IMAGES, 42)})
    printed = []
    for seed in ("0", "0", "1"):
        args = ["--precision", "0.5", "--images", "32", "--json", "--set", f"seed={seed}"]
        assert calibrate(known, "b/2", "a/1", *args) == 1  # only two images are in b/2
        assert calibrate(known, "a/1", *args) == 0
        printed.append(json.loads(capsys.readouterr().out))
    assert printed[0] == printed[1] != printed[2] and printed[0]["images"] == 32


def test_what_keeps_it_from_a_threshold_is_said_in_a_line(
    store: LocalStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(store, "few/1", {number: f"somebody in the room {number}" for number in range(10)})
    fill(store, "same/1", dict.fromkeys(range(IMAGES), "somebody in the room 1"))
    fill(store, "nobody/1", {number: f"nobody in the room {number}" for number in range(3)}, people=0)
    with store.writer("images/images/1/00000.tar") as path:
        tar_of({"000000000": picture(1)}, path)
    store.write("people/gone/1/00000.parquet", b"PAR1")
    fill(store, "enough/1", {number: f"somebody in the room {number}" for number in range(IMAGES)})
    for args, code, says in (
        (["few/1"], 1, "10 images with people .*: at least 30 are needed.*[too-few-images]"),
        (["same/1"], 1, " 1 images with people .* 39 do not.*[too-few-images]"),
        (["nobody/1"], 1, " 0 images with people.*[too-few-images]"),
        (["images/1"], 1, "people/images/1/00000.parquet is missing.*[missing-file]"),
        (["gone/1"], 1, "there is no images to read.*[unfinished]"),
        (["none/1"], 2, "no metadata for partition none/1"),
        (["enough/1", "--precision", "0.999"], 1, "at least 1000 are needed.*lower --precision [too-few-images]"),
        (["enough/1", "-o", str(tmp_path / "no/where.svg")], 2, "no such folder"),
        (["enough/1", "-o", str(tmp_path)], 1, "cannot be written.*[cannot-write]"),
    ):
        precision = [] if "--precision" in args else ["--precision", "0.9"]
        assert calibrate(store, *args, *precision) == code
        error = capsys.readouterr().err
        assert re.search(says.replace("[", r"\["), error.splitlines()[-1]), error
        assert "Traceback" not in error
    for wrong in (["--precision", "1"], ["--precision", "high"], ["--images", "0"], ["--images", "99999"]):
        with pytest.raises(SystemExit, match="2"):
            calibrate(store, "enough/1", *wrong)


def test_the_report_refuses_a_provenance_that_cannot_be(store: LocalStore, tmp_path: Path) -> None:
    make_store(store)
    for calibrated in ("by hand", GOOD | {"precision": 7}, {"value": 0.3}):
        change_manifest(store, "subset_a", "demo/00000", params={"threshold": 0.3, "calibrated": calibrated})
        with pytest.raises(LaionPeopleError, match=r"subset_a demo/00000.*\[wrong-manifest\]$"):
            write_report(store, tmp_path / "report")


# The profile that keeps it.

GOOD = {
    "value": 0.25,
    "interval": [0.2, 0.3],
    "precision": 0.95,
    "basis": "asked for",
    "clip_model": "clip_sample/packaged",
    "models": dict.fromkeys(("clip-sample", "clip-sample-config"), "0" * 64),
    "crop_padding": 0.1,
    "partitions": ["a/1"],
    "images": 40,
    "people": 80,
    "pairs": 6240,
    "date": "2026-11-30",
    "versions": {"torch": "2"},
}


def profile_with(folder: Path, threshold: object) -> str:
    content = yaml.safe_load((FOLDER / "packaged.yaml").read_text()) | {"threshold": threshold}
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def test_a_profile_without_a_threshold_has_none(tmp_path: Path) -> None:
    assert load_profile("packaged").threshold is None
    assert load_profile(profile_with(tmp_path, GOOD)).threshold == Threshold(**GOOD)


@pytest.mark.parametrize(
    "changes",
    [
        {"value": 0.5},
        {"value": "0.25"},
        {"value": True},
        {"value": float("nan")},
        {"interval": [0.2]},
        {"interval": [0.2, 1.5]},
        {"interval": "ab"},
        {"precision": 0},
        {"precision": 1.1},
        {"crop_padding": -1},
        {"images": 0},
        {"pairs": 2**70},
        {"people": 1.5},
        {"models": ["clip-sample"]},
        {"models": {}},
        {"partitions": "a/1"},
        {"partitions": [7]},
        {"basis": "two\nlines"},
        {"clip_model": "x" * 1000},
        {"date": "yesterday"},
        {"date": 20261130},
        {"versions": None},
        {"more": 1},
        None,
    ],
)
def test_a_threshold_that_cannot_be_is_refused_in_a_line(tmp_path: Path, changes: dict[str, object] | None) -> None:
    with pytest.raises(ModelUsageError, match=r"mine\.yaml.*\[bad-profile\]$") as error:
        load_profile(profile_with(tmp_path, None if changes is None else GOOD | changes))
    assert "\n" not in str(error.value)


def test_a_threshold_of_another_clip_is_refused(tmp_path: Path) -> None:
    other = GOOD | {"models": {"openclip/ViT-L-14-quickgelu/openai": "0" * 64}}
    with pytest.raises(ModelUsageError, match=r"threshold is that of another CLIP.*calibrate.*\[bad-profile\]"):
        load_profile(profile_with(tmp_path, other))
