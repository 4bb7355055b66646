"""Profiles: choices of models, and what decides their results, known before any model is loaded."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from include.models import checkpoints
from include.models.checkpoints import Cache, Checkpoint
from include.models.errors import ModelError, ModelUsageError
from include.models.openmmlab import config_path
from include.models.profiles import FOLDER, ROLES, Profile, Role, available, load_profile
from laion_people import cli
from laion_people.storage.store import LocalStore
from tests import fakes


def test_packaged_is_available():
    assert "packaged" in available()


def test_unknown_profile_names_the_known_ones():
    with pytest.raises(ModelUsageError, match=r"'nope': .*packaged.*\[bad-profile\]$"):
        load_profile("nope")


@pytest.mark.parametrize("name", available())
def test_profile_records_what_decides_its_results(name: str):
    profile = load_profile(name)
    assert profile.summary and profile.note and set(ROLES) <= profile.roles.keys()
    for role in profile.roles:
        assert json.loads(json.dumps(profile.params(role))) == profile.params(role)
        for checkpoint in profile.roles[role].checkpoints.values():
            assert checkpoint in checkpoints.CHECKPOINTS, "without a licence"


def test_weights_that_are_not_fetched_are_told_apart_by_what_they_should_hash_to():
    assert all(len(sha256) == 64 for role in ROLES for sha256 in load_profile("packaged").fingerprint(role).values())
    standard = load_profile("standard")
    assert all(len(sha256) == 64 for role in ("pose", "mesh", "clip") for sha256 in standard.fingerprint(role).values())


def test_weights_that_nothing_is_known_of_must_be_fetched_first(tmp_path: Path):
    with pytest.raises(ModelError, match=r"\.pth is missing: .*\[missing-weights\]$"):
        load_profile("wholebody", cache=Cache(tmp_path)).fingerprint("detector")


def test_loading_a_model_without_its_weights_says_how_to_get_them(tmp_path: Path):
    with pytest.raises(ModelError, match=r"openai.safetensors is missing: .*\[missing-weights\]$"):
        load_profile("standard", cache=Cache(tmp_path)).load("clip")


def test_a_run_fetches_weights_when_it_needs_them_and_not_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cache = Cache(tmp_path / "cache", str(tmp_path / "mirror"))
    (tmp_path / "mirror").mkdir()
    weights = tmp_path / "mirror" / "m.safetensors"
    weights.write_bytes(b"weights")
    for name, sha256 in (("known", hashlib.sha256(b"weights").hexdigest()), ("unknown", "")):
        entry = Checkpoint(name, "m.safetensors", sha256, "MIT", "a test", "https://example.org/m.safetensors")
        monkeypatch.setitem(checkpoints.CHECKPOINTS, name, entry)
    takes_a_file = {"name": "", "sha256": "", "licence": "", "source": ""}
    roles = {name: Role("checkpoints.Checkpoint", {"file": name}, takes_a_file) for name in ("known", "unknown")}
    careful, eager = (Profile("test", "", "", roles, cache=cache, fetches=fetches) for fetches in (False, True))
    assert careful.fingerprint("known") == eager.fingerprint("known") and not (tmp_path / "cache").exists()
    for needs in (careful.fingerprint, careful.load):
        with pytest.raises(ModelError, match=r"\[missing-weights\]$"):
            needs("unknown")
    assert eager.fingerprint("unknown") == {"unknown": eager.fingerprint("known")["known"]}
    assert eager.load("known").file.read_bytes() == careful.load("known").file.read_bytes() == b"weights"


@pytest.mark.parametrize("name", available())
def test_every_wrapper_takes_what_the_profile_gives_it(name: str):
    for role in load_profile(name).roles.values():
        module, _, wrapper = role.wrapper.partition(".")
        takes = inspect.signature(getattr(importlib.import_module(f"include.models.{module}"), wrapper))
        device = {"device": "cpu"} if "precision" in role.params else {}
        takes.bind(**dict.fromkeys(role.checkpoints), **role.params, **role.options, **device, threads=3)


@pytest.mark.parametrize("name", available())
def test_every_configuration_is_one_that_the_package_holds(name: str):
    packages = {"rtmdet.RTMDet": "mmdet", "rtmpose.RTMPose": "mmpose"}
    for role in load_profile(name).roles.values():
        if role.wrapper in packages:
            assert config_path(packages[role.wrapper], role.params["config"]).is_file()


def test_precision_replaces_that_of_the_models_that_run_on_torch():
    profile = load_profile("standard", precision="bf16")
    assert {role: chosen.params.get("precision") for role, chosen in profile.roles.items()} == {
        "detector": "bf16",
        "pose": "bf16",
        "mesh": None,
        "clip": "bf16",
        "captioner": "bf16",
        "bystanders": None,
        "matte": None,
    }


def test_a_profile_of_ones_own_is_a_file_anywhere(tmp_path: Path):
    text = (FOLDER / "packaged.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(text.replace("score: 0.12", "score: 0.2"))
    mine = load_profile(str(tmp_path / "mine.yaml"))
    assert mine.name == "mine" and mine.params("detector")["score"] == 0.2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "No such file"),
        ("a: [", "packaged.yaml shows what one looks like"),
        ("just text", "packaged.yaml shows"),
        ("summary: s\nroles: {}", "packaged.yaml shows"),
        ("summary: s\nnote: n\nroles: {clip: {wrapper: a.B}}", "packaged.yaml shows"),
        ("summary: s\nnote: n\nroles: {clip: {wrapper: a.B, checkpoints: {}, params: {}}}", "has no detector"),
        ("!!python/object/apply:os.system ['touch mark']", "packaged.yaml shows"),
    ],
)
def test_a_wrong_profile_is_refused_in_one_line(tmp_path: Path, text: str | None, says: str):
    if text is not None:
        (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(ModelUsageError, match=says) as error:
        load_profile(str(tmp_path / "wrong.yaml"))
    assert "\n" not in str(error.value)


def _bomb(levels: int, width: int, merge: bool) -> str:
    """A few hundred bytes that stand for width ** levels times the first line."""
    text = "a0: &a0 {x: 1}\n"
    for i in range(1, levels + 1):
        aliases = ", ".join([f"*a{i - 1}"] * width)
        text += f"a{i}: &a{i} " + (f"{{<<: [{aliases}], k{i}: 1}}\n" if merge else f"[{aliases}]\n")
    return text


HOSTILE = {
    "aliases": _bomb(9, 10, merge=False),
    "merge keys": _bomb(6, 10, merge=True),
    "keys": "".join(f"k{i}: {{a: 1}}\n" for i in range(60_000)),
    "deep list": "a: " + "[" * 50_000,
    "deep map": "{a: " * 5000 + "1" + "}" * 5000,
    "digits": "a: " + "9" * 50_000,
    "no date": "a: 2020-99-99",
    "not UTF-8": b"a: \xff",
    "recursive": "summary: s\nnote: n\nroles: {clip: {wrapper: a.B, checkpoints: {}, params: &a {a: *a}}}",
    "bomb in a role": "roles: {clip: &a {wrapper: a.B, checkpoints: {}, params: {precision: [*a, *a, *a]}}}",
    "two wrappers": "summary: s\nnote: n\nroles: {clip: {wrapper: [a, b], checkpoints: {}, params: {}}}",
    "list for a name": "summary: s\nnote: n\nroles: {clip: {wrapper: a.B, checkpoints: {a: [b]}, params: {}}}",
    "a date for a manifest": "roles: {clip: {wrapper: a.B, checkpoints: {}, params: {a: 2020-01-01}}}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_profile_is_refused_soon_and_in_one_line(tmp_path: Path, name: str):
    text = HOSTILE[name]
    (tmp_path / "p.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    start = time.monotonic()
    with pytest.raises(ModelUsageError, match=r"p\.yaml: .*packaged\.yaml shows") as error:
        load_profile(str(tmp_path / "p.yaml"))
    assert time.monotonic() - start < 5
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


def test_reading_a_profile_imports_no_framework():
    code = (
        "import sys; from include.models.profiles import load_profile; load_profile('packaged').fingerprint('clip');"
        "[load_profile('standard').fingerprint(r) for r in ('mesh', 'pose', 'clip')];"
        "sys.exit(bool({'torch', 'onnxruntime', 'mediapipe', 'cv2', 'open_clip'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})


GOOD = "wrapper: openclip.OpenClip, checkpoints: {weights: clip-sample}, params: {model: m, tag: t, precision: auto}"


@pytest.mark.parametrize(
    ("role", "message"),
    [
        (GOOD.replace("openclip.", "opencilp."), "no wrapper opencilp.OpenClip"),
        (GOOD.replace("OpenClip", "Openclip"), "no wrapper openclip.Openclip"),
        (GOOD.replace("precision: auto", "precision: half"), "precision of .* is 'half'"),
        (GOOD.replace("tag: t", "teg: t"), "teg|tag"),
        (GOOD.replace("{weights:", "{weihgts:"), "weihgts|weights"),
        (GOOD.replace("{weights: clip-sample}", ""), "checkpoints of openclip.OpenClip should be a mapping"),
    ],
)
def test_a_mistake_in_a_profile_of_ones_own_is_told_in_one_line(tmp_path: Path, role: str, message: str):
    import yaml

    content = yaml.safe_load((FOLDER / "packaged.yaml").read_text())
    content["roles"]["clip"] = yaml.safe_load(f"{{{role}, options: {{batch_size: 1}}}}")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ModelUsageError, match=message):
        load_profile(str(tmp_path / "mine.yaml")).load("clip")


def test_models_have_as_many_threads_as_they_are_given():
    assert load_profile("packaged", threads=3).load("mesh")._pool.threads == 3


def test_the_command_line_fetches_what_a_step_needs_to_where_its_options_say(tmp_path: Path, capsys):
    (tmp_path / "mirror").mkdir()
    fakes.image_shard(LocalStore(tmp_path / "store"), "some/part", 0)
    mirror, cache = tmp_path / "mirror", tmp_path / "cache"
    command = ["run", "detect", "some/part", "--profile", "standard", "--store", str(tmp_path / "store")]
    assert cli.main([*command, f"--set=models_mirror={mirror}", f"--set=models_dir={cache}"]) == 1
    printed = capsys.readouterr().err
    assert "rtmdet-m-person could not be fetched" in printed and str(mirror) in printed and str(cache) in printed
