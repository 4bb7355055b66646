"""Profiles and checkpoints: what is named is there, and is what it claims to be."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from include.models import checkpoints
from include.models.profiles import ROLES, available, load_profile
from laion_people.errors import LaionPeopleError, UsageError


def test_packaged_is_available():
    assert "packaged" in available()


def test_unknown_profile_names_the_known_ones():
    with pytest.raises(UsageError, match=r"unknown profile 'nope': choose one of .*packaged"):
        load_profile("nope")


@pytest.mark.parametrize("name", available())
def test_profile_records_what_decides_its_results(name: str):
    profile = load_profile(name)
    assert profile.summary and profile.note
    for role in ROLES:
        assert all(len(sha256) == 64 for sha256 in profile.fingerprint(role).values())
        assert json.loads(json.dumps(profile.params(role))) == profile.params(role)


def test_reading_a_profile_imports_no_framework():
    code = (
        "import sys; from include.models.profiles import load_profile; load_profile('packaged').fingerprint('clip');"
        "sys.exit(bool({'torch', 'onnxruntime', 'mediapipe', 'cv2', 'open_clip'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})


@pytest.mark.parametrize("name", checkpoints.CHECKPOINTS)
def test_packaged_checkpoint_is_intact_and_documented(name: str):
    checkpoint = checkpoints.CHECKPOINTS[name]
    assert checkpoints.path(name).is_file()
    listed = (checkpoints.WEIGHTS / "WEIGHTS.md").read_text()
    assert checkpoint.sha256 in listed and f"`{checkpoint.file}`" in listed


def test_packaged_weights_stay_small():
    assert sum(path.stat().st_size for path in checkpoints.WEIGHTS.iterdir()) < 50e6


def test_damaged_checkpoint_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    damaged = replace(checkpoints.CHECKPOINTS["nanodet-m-416"], file="damaged.onnx")
    (tmp_path / "damaged.onnx").write_bytes(b"not the weights")
    monkeypatch.setattr(checkpoints, "WEIGHTS", tmp_path)
    monkeypatch.setitem(checkpoints.CHECKPOINTS, "nanodet-m-416", damaged)
    with pytest.raises(LaionPeopleError, match=r"damaged.onnx has sha256 .* restore it with git"):
        checkpoints.path("nanodet-m-416")


def test_missing_checkpoint_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checkpoints, "WEIGHTS", tmp_path)
    with pytest.raises(LaionPeopleError, match=r"movenet_multipose.onnx is missing"):
        checkpoints.path("movenet-multipose")


def test_unknown_checkpoint_names_the_known_ones():
    with pytest.raises(UsageError, match=r"no checkpoint 'nope'.*movenet-multipose"):
        checkpoints.path("nope")
