"""What Subset D promises: the best of a captioner's candidates, if it fits by CLIP, with all scores kept."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from include.models.errors import ModelUsageError
from laion_people import cli
from laion_people.engine.runner import Runner
from laion_people.engine.stages import stage_steps
from laion_people.engine.step import Row
from laion_people.settings import Settings
from laion_people.steps.registry import STEPS
from laion_people.storage.manifest import Manifest
from laion_people.storage.schemas import SCHEMAS
from laion_people.storage.store import LocalStore
from tests.fakes import FakeCaptioner, FakeClip, FakeModels, image_shard, tar_of
from tests.models import sample
from tests.models.tiny_coca import seeded_coca

PARTITION = "laion2B-en/00042"
TABLE = f"subset_d/fake-captioner/{PARTITION}/00000.parquet"
EVERYTHING = Settings(description_threshold=-1, description_candidates=6)


class Models(FakeModels):
    """Fake models, with this captioner."""

    def __init__(self, captioner: Any) -> None:
        super().__init__()
        self.captioner = captioner

    def load(self, role: str) -> object:
        return self.captioner if role == "captioner" else super().load(role)


class Speechless(FakeCaptioner):
    def describe(self, images: Sequence[np.ndarray], candidates: int, seed: int) -> list[list[str]]:
        return [[""] * candidates for _ in images]


class Repetitive(FakeCaptioner):
    def describe(self, images: Sequence[np.ndarray], candidates: int, seed: int) -> list[list[str]]:
        return [["a person", "", "a person", "somebody"] for _ in images]


@pytest.fixture
def detected(store: LocalStore) -> LocalStore:
    image_shard(store, PARTITION, 0)
    Runner(store, EVERYTHING, FakeModels(), STEPS).run("detect", PARTITION)
    return store


def describe(store: LocalStore, settings: Settings = EVERYTHING, models: Any = None) -> tuple[list[Row], Manifest]:
    manifest = Runner(store, settings, models or FakeModels(), STEPS).run("describe", PARTITION)
    table = pq.read_table(store.root / TABLE)
    assert table.schema == SCHEMAS["subset_d"]
    return table.to_pylist(), manifest


def test_the_candidate_most_similar_to_the_crop_is_the_caption(detected: LocalStore) -> None:
    rows, manifest = describe(detected)
    people = pq.read_table(detected.root / f"people/{PARTITION}/00000.parquet").to_pylist()
    assert [row["person_id"] for row in rows] == [person["person_id"] for person in people]
    for row, person in zip(rows, people, strict=True):
        assert (row["url"], row["bbox"]) == (person["url"], person["bbox"])
        assert row["caption"] == row["candidates"][int(np.argmax(row["scores"]))]
        assert row["similarity"] == max(row["scores"]) and len(row["scores"]) == len(row["candidates"])
        assert 4 <= len(row["candidates"]) <= 5 and "" not in row["candidates"]
        assert (row["captioner"], row["clip_model"], row["threshold"]) == ("fake captioner", "fake", -1)
    vectors = FakeClip().encode_texts(rows[0]["candidates"])
    brightness = 37 * int(rows[0]["person_id"].split("/")[-2][-4:]) + 20
    image = FakeClip().encode_images([np.full((9, 9, 3), brightness % 250)])[0]
    np.testing.assert_allclose(rows[0]["scores"], vectors @ image, atol=1e-6)
    assert manifest.rows_in == manifest.rows == len(people)


def test_who_has_no_description_that_fits_is_counted(detected: LocalStore) -> None:
    all_rows, _ = describe(detected)
    threshold = float(np.median([row["similarity"] for row in all_rows]))
    rows, manifest = describe(detected, dataclasses.replace(EVERYTHING, description_threshold=threshold))
    assert 0 < len(rows) < len(all_rows)
    assert rows == [r | {"threshold": np.float32(threshold)} for r in all_rows if r["similarity"] > threshold]
    assert manifest.rejected == {"below_threshold": len(all_rows) - len(rows)}


def test_a_captioner_with_nothing_to_say_rejects_everybody(detected: LocalStore) -> None:
    rows, manifest = describe(detected, models=Models(Speechless()))
    assert rows == []
    assert manifest.rejected == {"no_caption": manifest.rows_in} and manifest.rows_in > 0


def test_a_caption_that_was_drawn_twice_is_one_candidate(detected: LocalStore) -> None:
    rows, _ = describe(detected, models=Models(Repetitive()))
    assert all(row["candidates"] == ["a person", "somebody"] for row in rows)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_captions(detected: LocalStore) -> None:
    rows, _ = describe(detected)
    first = (detected.root / TABLE).read_bytes()
    Runner(detected, EVERYTHING, FakeModels(), STEPS).run("describe", PARTITION, force=True)
    assert (detected.root / TABLE).read_bytes() == first
    assert describe(detected, dataclasses.replace(EVERYTHING, seed=1))[0] != rows


@pytest.mark.parametrize("change", [{"description_candidates": 2}, {"seed": 1}, {"description_threshold": 0.9}])
def test_settings_that_decide_the_captions_make_the_shard_again(detected: LocalStore, change: dict[str, Any]) -> None:
    _, before = describe(detected)
    _, after = describe(detected, dataclasses.replace(EVERYTHING, **change))
    assert before.params != after.params
    assert before.shards != after.shards


def test_descriptions_belong_to_their_captioner_whatever_the_clusters(detected: LocalStore) -> None:
    """A new cluster version does not make them again."""
    _, before = describe(detected)
    _, after = describe(detected, dataclasses.replace(EVERYTHING, cluster_version="v0002"))
    assert before.shards == after.shards and before.run_id == after.run_id


def test_only_who_asks_for_descriptions_has_them_audited(detected: LocalStore) -> None:
    def steps(on: bool) -> tuple[str, ...]:
        settings = dataclasses.replace(EVERYTHING, describe=on)
        return stage_steps(Runner(detected, settings, FakeModels(), STEPS).planner, PARTITION, "caption")

    assert steps(False) == ("assign", "compose", "embed", "caption")
    assert steps(True) == ("assign", "compose", "embed", "caption", "describe")


def test_a_profile_without_a_captioner_is_bad_usage_that_names_those_with_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from include.models.profiles import load_profile

    with pytest.raises(ModelUsageError, match=r"profile packaged has no captioner: choose .*large"):
        load_profile("packaged").params("captioner")
    monkeypatch.setenv("LAION_PEOPLE_DESCRIBE", "1")
    assert cli.main(["run", "detect", PARTITION, "--store", str(tmp_path)]) == 2
    assert "has no captioner" in capsys.readouterr().err


def test_a_real_coca_and_clip_describe_the_people_of_the_sample(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from include.models.coca import CoCa
    from include.models.profiles import load_profile

    monkeypatch.setattr("include.models.coca.MAX_TOKENS", 6)  # each sorts 49,408 probabilities
    images = sorted((sample.SAMPLE / "images").glob("*.jpg"))[:2]
    with store.writer(f"images/{PARTITION}/00000.tar") as path:
        tar_of({f"{i:09d}": image.read_bytes() for i, image in enumerate(images)}, path)
    weights, config = seeded_coca(tmp_path)
    captioner = CoCa(weights, model="coca_tiny", tag="test", precision="fp32", device="cpu", config=config, threads=1)
    packaged = load_profile("packaged")
    models = Models(captioner)
    models.load = lambda role: captioner if role == "captioner" else packaged.load(role)  # type: ignore[method-assign]
    settings = dataclasses.replace(EVERYTHING, description_candidates=3)
    Runner(store, settings, models, STEPS).run("detect", PARTITION)
    rows, manifest = describe(store, settings, models)
    assert len(rows) >= 2 and manifest.rows_in == len(rows) + sum(manifest.rejected.values())
    for row in rows:
        assert row["captioner"] == "coca_tiny/test" and row["clip_model"] == "clip_sample/packaged"
        assert -1 <= row["similarity"] <= 1 and row["caption"]


ASKED = dataclasses.replace(EVERYTHING, description_scorer="vqa", description_vqa_threshold=0)


def test_the_captioner_is_asked_which_candidate_the_crop_shows(detected: LocalStore) -> None:
    """Both scores of each candidate are kept; the scorer picks and filters."""
    by_clip, _ = describe(detected)
    assert {(row["vqa_score"], row["vqa_scores"]) for row in by_clip} == {(None, None)}
    rows, manifest = describe(detected, ASKED)
    assert rows and [r["candidates"] for r in rows] == [r["candidates"] for r in by_clip]
    for row, before in zip(rows, by_clip, strict=True):
        chosen = int(np.argmax(row["vqa_scores"]))
        assert row["vqa_scores"] == pytest.approx([int(text[-1]) / 10 for text in row["candidates"]])
        assert (row["caption"], row["vqa_score"]) == (row["candidates"][chosen], row["vqa_scores"][chosen])
        assert row["scores"] == before["scores"] and row["similarity"] == row["scores"][chosen]
        assert row["threshold"] == 0
    assert [row["caption"] for row in rows] != [row["caption"] for row in by_clip]
    assert manifest.params["scorer"] == "vqa" and manifest.params["threshold"] == 0


def test_the_threshold_is_that_of_the_scorer(detected: LocalStore) -> None:
    rows, _ = describe(detected, dataclasses.replace(ASKED, description_threshold=1))
    assert rows
    threshold = float(np.median([row["vqa_score"] for row in rows]))
    kept, manifest = describe(detected, dataclasses.replace(ASKED, description_vqa_threshold=threshold))
    assert 0 < len(kept) < len(rows) and all(row["vqa_score"] > row["threshold"] for row in kept)
    assert manifest.rejected == {"below_threshold": len(rows) - len(kept)}


def test_a_speechless_captioner_is_asked_nothing(detected: LocalStore) -> None:
    rows, manifest = describe(detected, ASKED, models=Models(Speechless()))
    assert rows == [] and manifest.rejected == {"no_caption": manifest.rows_in}


def test_the_scorer_clip_records_what_it_did_before_there_was_another(detected: LocalStore) -> None:
    """So that shards of older versions stay as they are."""
    _, manifest = describe(detected)
    assert {"scorer", "vqa_threshold"}.isdisjoint(manifest.params)
    another = dataclasses.replace(EVERYTHING, description_vqa_threshold=0.9)
    assert describe(detected, another)[1].run_id == manifest.run_id


def test_a_table_of_an_older_version_stays_and_is_read(detected: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as before:
        older = [field for field in SCHEMAS["subset_d"] if not field.name.startswith("vqa_")]
        before.setitem(SCHEMAS, "subset_d", pa.schema(older))
        rows, manifest = describe(detected)
    runner = Runner(detected, EVERYTHING, FakeModels(), STEPS)
    assert runner.planner.unfinished("describe", PARTITION, 0) is None
    assert runner.run("describe", PARTITION).shards == manifest.shards
    captions = pq.read_table(detected.root / TABLE, columns=["caption", "captioner", "similarity"]).to_pylist()
    assert [row["caption"] for row in captions] == [row["caption"] for row in rows]


@pytest.mark.parametrize("command", [["run", "describe"], ["run", "detect"], ["pipeline"]])
def test_a_captioner_that_is_asked_nothing_is_bad_usage_before_any_work(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LAION_PEOPLE_DESCRIPTION_SCORER", "vqa")
    monkeypatch.setenv("LAION_PEOPLE_PROFILE", "standard")
    if command[-1] != "describe":
        monkeypatch.setenv("LAION_PEOPLE_DESCRIBE", "1")
    assert cli.main([*command, PARTITION, "--store", str(tmp_path)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "bad-profile" in line]
    assert "DESCRIPTION_SCORER=vqa" in line and "vlm" in line
    assert not any(tmp_path.iterdir())


def test_a_vision_language_model_is_fetched_by_its_name_describes_and_judges_the_people_of_the_sample(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import include.models.torchvision_cpu  # noqa: F401  (transformers imports torchvision)
    from include.models.checkpoints import digest
    from include.models.profiles import FOLDER
    from tests.models import tiny_vlm

    folder = tmp_path / "mirror/huggingface/test" / f"tiny@{'0' * 40}"
    folder.mkdir(parents=True)
    tiny_vlm.smolvlm(folder)
    record = [f"{digest(file)}  {folder.name}/{file.name}\n" for file in folder.iterdir()]
    folder.with_name(f"{folder.name}.sha256").write_text("".join(record))
    profile = yaml.safe_load((FOLDER / "packaged.yaml").read_text())
    params = {"model": "test/tiny", "prompt": "Describe this person.", "max_tokens": 8, "precision": "fp32"}
    params |= {"question": 'Does this figure show "{text}"? Please answer yes or no.'}
    checkpoint = {"folder": f"huggingface/test/{folder.name}"}
    captioner = {"wrapper": "huggingface.ImageTextToText", "checkpoints": checkpoint, "params": params}
    profile["roles"]["captioner"] = captioner
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(profile))
    image = min((sample.SAMPLE / "images").glob("*.jpg"))
    with store.writer(f"images/{PARTITION}/00000.tar") as path:
        tar_of({"000000000": image.read_bytes()}, path)
    settings = {
        "profile": str(tmp_path / "mine.yaml"),
        "models_mirror": str(tmp_path / "mirror"),
        "models_dir": str(tmp_path / "cache"),
        "description_candidates": "2",
        "description_scorer": "vqa",
        "description_vqa_threshold": "0",
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"LAION_PEOPLE_{name.upper()}", value)
    for step in ("detect", "describe"):
        assert cli.main(["run", step, PARTITION, "--store", str(store.root)]) == 0
    rows = pq.read_table(next(store.root.glob("subset_d/*/*/*/*.parquet"))).to_pylist()
    assert rows
    for row in rows:
        assert row["captioner"] == "test/tiny" and row["caption"] in row["candidates"]
        assert row["vqa_score"] == max(row["vqa_scores"]) and 0 < row["vqa_score"] < 1
    manifest = json.loads(next(store.root.glob("manifests/describe/*/*/*/00000.json")).read_text())
    assert manifest["params"]["captioner"] == {"wrapper": captioner["wrapper"]} | params
    assert manifest["models"].keys() >= {checkpoint["folder"]}
