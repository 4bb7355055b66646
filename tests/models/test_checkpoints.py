"""The list of checkpoints: each one is there, or its address is right, and it has the listed sha256."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from pathlib import Path

import pytest

import include.models.torchvision_cpu  # noqa: F401  (must come before open_clip, which imports torchvision)
from include.models import checkpoints
from include.models.checkpoints import CHECKPOINTS, Cache
from include.models.errors import ModelError, ModelUsageError
from laion_people.cli import main

import open_clip  # isort: skip

PACKAGED = [name for name, checkpoint in CHECKPOINTS.items() if checkpoint.packaged]
FETCHED = [name for name, checkpoint in CHECKPOINTS.items() if not checkpoint.packaged]
REVISION = "0123456789abcdef0123456789abcdef01234567"


def configs(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec and spec.origin
    return Path(spec.origin).parent / ".mim" / "configs"


@pytest.mark.parametrize("name", PACKAGED)
def test_a_packaged_checkpoint_is_intact_and_documented(name: str):
    checkpoint = CHECKPOINTS[name]
    assert Cache().path(name).is_file() and Cache().state(name) == "packaged"
    listed = (checkpoints.WEIGHTS / "WEIGHTS.md").read_text()
    assert checkpoint.sha256 in listed and f"`{checkpoint.file}`" in listed


def test_packaged_weights_stay_small():
    assert sum(path.stat().st_size for path in checkpoints.WEIGHTS.iterdir()) < 50e6


@pytest.mark.parametrize("name", FETCHED)
def test_a_fetched_checkpoint_has_a_licence_an_https_address_and_a_file_of_its_own(name: str):
    checkpoint = CHECKPOINTS[name]
    assert checkpoint.licence and checkpoint.source and checkpoint.url.startswith("https://")
    assert re.fullmatch("([0-9a-f]{64}|[0-9a-f]{8})?", checkpoint.sha256)
    assert [listed.file for listed in CHECKPOINTS.values()].count(checkpoint.file) == 1


def test_addresses_and_first_digits_are_those_of_openmmlab_s_own_packages():
    files = [*configs("mmdet").glob("rtmdet/*.yml"), *configs("mmpose").rglob("rtmpose/**/*.yml")]
    published = set(re.findall(r"Weights: (\S+)", "".join(file.read_text() for file in files)))
    ours = [c for c in CHECKPOINTS.values() if c.url.startswith(checkpoints.OPENMMLAB)]
    elsewhere = {"rtmpose-x-wholebody", "rtmdet-m-person", "rtmdet-nano-person"}
    assert {c.name for c in ours if c.url not in published} == elsewhere
    teacher = configs("mmpose") / "wholebody_2d_keypoint/dwpose/coco-wholebody/s1_dis/dwpose_x_dis_l_coco-384x288.py"
    assert CHECKPOINTS["rtmpose-x-wholebody"].file in teacher.read_text()
    inferencer = configs("mmpose").parents[1] / "apis/inferencers/utils/default_det_models.py"
    assert CHECKPOINTS["rtmdet-m-person"].file in inferencer.read_text()
    replaced = {"rtmpose-m-wholebody", "rtmdet-nano-person"}
    assert {c.name for c in ours if f"-{c.sha256[:8]}" not in c.file} == replaced


def test_addresses_of_openclip_s_weights_are_its_own():
    for checkpoint in CHECKPOINTS.values():
        if checkpoint.name.startswith("openclip/"):
            _, model, tag = checkpoint.name.split("/")
            repository = open_clip.get_pretrained_cfg(model, tag)["hf_hub"]
            assert checkpoint.url.startswith(f"{checkpoints.HUGGING_FACE}/{repository}")


@pytest.mark.parametrize(
    ("name", "url"),
    [
        (
            "ViT-B-16/laion2b_s34b_b88k",
            "laion/CLIP-ViT-B-16-laion2B-s34B-b88K/resolve/main/open_clip_model.safetensors",
        ),
        (
            "coca_ViT-L-14/laion2b_s13b_b90k.bin",
            "laion/CoCa-ViT-L-14-laion2B-s13B-b90k/resolve/main/open_clip_pytorch_model.bin",
        ),
        ("ViTamin-S/datacomp1b", "jienengchen/ViTamin-S/resolve/main/pytorch_model.bin"),
    ],
)
def test_any_model_of_openclip_is_known_by_name(name: str, url: str):
    checkpoint = checkpoints.find(f"openclip/{name}")
    assert checkpoint.url == f"{checkpoints.HUGGING_FACE}/{url}"
    assert checkpoint.opened.endswith(".safetensors")


def test_every_name_of_openclip_leads_to_weights_of_its_own():
    names = [f"openclip/{model}/{tag}" for model, tag in open_clip.list_pretrained()]
    all_found = [checkpoints.find(name) for name in names]
    assert len({c.file for c in all_found}) == len(names) > 100
    assert all(c.url.startswith("https://") for c in all_found)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nope", r"no checkpoint 'nope'.*movenet-multipose"),
        ("openclip/ViT-B-32/nope", "OpenCLIP has openai, .* for 'ViT-B-32'"),
        ("openclip/nope", "OpenCLIP has nothing for 'nope'"),
        ("huggingface/owner/name@main", "40 digits of a commit"),
        (f"huggingface/../../etc@{REVISION}", "40 digits of a commit"),
    ],
)
def test_an_unknown_name_is_refused_with_what_would_do(name: str, says: str):
    with pytest.raises(ModelUsageError, match=says):
        Cache().path(name)


def test_a_damaged_packaged_checkpoint_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    damaged = replace(CHECKPOINTS["nanodet-m-416"], file="damaged.onnx")
    (tmp_path / "damaged.onnx").write_bytes(b"not the weights")
    monkeypatch.setattr(checkpoints, "WEIGHTS", tmp_path)
    monkeypatch.setitem(CHECKPOINTS, "nanodet-m-416", damaged)
    with pytest.raises(ModelError, match=r"damaged.onnx has sha256 .* restore it with git"):
        Cache().path("nanodet-m-416")


def test_a_missing_packaged_checkpoint_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checkpoints, "WEIGHTS", tmp_path)
    with pytest.raises(ModelError, match=r"movenet_multipose.onnx is missing.*\[missing-weights\]$"):
        Cache().path("movenet-multipose")


@pytest.mark.parametrize("record", ["", "nothing", f"{'0' * 64}  ../../x", f"{'0' * 64}  /etc/passwd"])
def test_a_damaged_record_is_refused(tmp_path: Path, record: str):
    cache = Cache(tmp_path)
    cache.record(CHECKPOINTS["rtmdet-m"]).write_text(record)
    with pytest.raises(ModelError, match=r"remove .*\.sha256 .*\[altered-weights\]$"):
        cache.path("rtmdet-m")


class TestModelsCommand:
    @pytest.fixture(autouse=True)
    def cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LAION_PEOPLE_MODELS_DIR", str(tmp_path))
        monkeypatch.delenv("HF_ENDPOINT", raising=False)

    def test_lists_every_checkpoint_with_its_state_licence_and_source(self, capsys: pytest.CaptureFixture[str]):
        assert main(["models", "list"]) == 0
        header, *rows = capsys.readouterr().out.splitlines()
        assert header.split() == ["NAME", "STATE", "SIZE", "LICENCE", "PROFILES", "SOURCE"]
        assert [row.split()[0] for row in rows] == list(CHECKPOINTS)
        assert next(r for r in rows if r.startswith("rtmpose-m-wholebody ")).split()[1:6] == (
            ["missing", "72.0", "MB", "Apache-2.0", "wholebody"]
        )
        assert all(CHECKPOINTS[row.split()[0]].url in row for row in rows)

    def test_lists_those_of_one_profile(self, capsys: pytest.CaptureFixture[str]):
        assert main(["models", "list", "large"]) == 0
        names = [row.split()[0] for row in capsys.readouterr().out.splitlines()[1:]]
        assert names[:3] == ["rtmdet-m-person", "rtmpose-x", "face-landmarker"] and len(names) == 7

    def test_verifies_and_fetches_the_profile_of_the_settings(self, capsys: pytest.CaptureFixture[str]):
        assert main(["models", "verify"]) == 0
        assert capsys.readouterr().out.splitlines()[0].startswith("movenet-multipose: sha256 407113b5")
        assert main(["models", "fetch"]) == 0
        assert len(capsys.readouterr().out.splitlines()) == len(PACKAGED)

    def test_verify_fails_and_names_everything_that_is_not_there(self, capsys: pytest.CaptureFixture[str]):
        assert main(["models", "verify", "standard"]) == 1
        shown = capsys.readouterr()
        assert shown.out.startswith("face-landmarker: sha256") and shown.err.count(" is missing: run ") == 4

    def test_an_unknown_profile_is_bad_usage(self, capsys: pytest.CaptureFixture[str]):
        assert main(["models", "list", "nope"]) == 2
        assert "unknown profile 'nope'" in capsys.readouterr().err
