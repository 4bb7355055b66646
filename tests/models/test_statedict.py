"""Pickled checkpoints are reduced to their tensors, and no code in them is run."""

from __future__ import annotations

import os
import pathlib
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import MessageHub
from safetensors.torch import load_file

from include.models.errors import ModelError
from include.models.statedict import reduce


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint like that of mmengine's Runner.save_checkpoint, with mmengine's own objects."""
    hub = MessageHub.get_instance("test_statedict")
    for step in range(3):
        hub.update_scalar("train/loss", np.float64(1 / (step + 1)))
        hub.update_info("iter", step)
    hub.update_info("best", np.float32(0.5))
    layer = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    content = {
        "meta": {
            "epoch": 2,
            "cfg": "model = dict()",
            "dataset_meta": ConfigDict(CLASSES=("person",), sigmas=np.ones(3)),
        },
        "state_dict": layer.state_dict(),
        "message_hub": hub.state_dict(),
        "optimizer": torch.optim.AdamW(layer.parameters()).state_dict(),
        "param_schedulers": [{"last_step": np.int64(2), "_global_step": 2}],
        "ema_state_dict": {f"module.{name}": tensor + 1 for name, tensor in layer.state_dict().items()},
    }
    file = tmp_path_factory.mktemp("training") / "epoch_2.pth"
    torch.save(content, file)
    return file


def test_a_checkpoint_of_mmengine_is_reduced_to_the_weights_that_it_is_published_for(trained: Path, tmp_path: Path):
    """With EMA these are the averaged weights: mmengine/hooks/ema_hook.py swaps them in before it saves."""
    names = torch.serialization.get_unsafe_globals_in_checkpoint(str(trained))
    assert {"mmengine.logging.history_buffer.HistoryBuffer", "builtins.getattr", "numpy.dtype"} <= set(names)
    reduce(trained, tmp_path / "a.safetensors")
    reduced = load_file(tmp_path / "a.safetensors")
    content = torch.load(trained, weights_only=False)["state_dict"]  # our own file, made a moment ago
    assert reduced.keys() == content.keys()
    assert all(torch.equal(reduced[name], tensor) for name, tensor in content.items())
    reduce(trained, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


class Calls:
    """Pickles as a call."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call

    def __call__(self) -> None:
        """Makes pickle accept the result of a call as something callable."""


HOSTILE: dict[str, Callable[[Path], Any]] = {
    "os.system": lambda mark: Calls(os.system, f"touch {mark}"),
    "Path.touch": lambda mark: Calls(pathlib.Path.touch, mark),
    "eval": lambda mark: Calls(eval, f"__import__('pathlib').Path({str(mark)!r}).touch()"),
    "getattr": lambda mark: Calls(Calls(getattr, pathlib.Path, "touch"), mark),
    "subprocess": lambda mark: Calls(subprocess.call, ["touch", str(mark)]),
    "numpy": lambda mark: Calls(np.memmap, str(mark), "uint8", "w+", 0, 1),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("place", ["meta", "state_dict", "key"])
def test_nothing_in_a_hostile_checkpoint_runs(tmp_path: Path, name: str, place: str):
    mark, file = tmp_path / "mark", tmp_path / "hostile.pth"
    payload, tensors = HOSTILE[name](mark), {"weight": torch.ones(2)}
    contents = {
        "meta": {"state_dict": tensors, "meta": {"history": payload}},
        "state_dict": {"state_dict": tensors | {"bias": payload}},
        "key": {"state_dict": tensors, payload: 1},
    }
    torch.save(contents[place], file)
    try:
        reduce(file, tmp_path / "reduced.safetensors")
    except ModelError as error:
        assert "\n" not in str(error)
    else:
        assert place != "state_dict" and load_file(tmp_path / "reduced.safetensors").keys() == {"weight"}
    assert not mark.exists()
    try:
        torch.load(file, weights_only=False)  # this runs the call
    except TypeError:
        assert place == "key" or name == "numpy"
    assert mark.exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            {"state_dict": {"weight": torch.zeros(1).expand(1 << 40)}},
            "'weight' of its state_dict is not a plain tensor",
        ),
        ({"state_dict": {"weight": torch.eye(2).to_sparse()}}, "not a plain tensor"),
        ({"state_dict": {"weight": torch.zeros(1, device="meta")}}, "not a plain tensor"),
        ({"state_dict": {"weight": {"deeper": torch.zeros(1)}}}, "not a plain tensor"),
        ({"state_dict": {"weight": np.float64(1)}}, "not a plain tensor"),
        ({"state_dict": {7: torch.zeros(1)}}, "7 of its state_dict is not a plain tensor"),
        ({"state_dict": {}}, "holds no state_dict"),
        ({"model": "x"}, "'model' of its state_dict is not a plain tensor"),
        ([torch.zeros(1)], "holds no state_dict"),
    ],
)
def test_what_is_not_a_dictionary_of_plain_tensors_is_refused(tmp_path: Path, content: Any, says: str):
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(ModelError, match=says):
        reduce(tmp_path / "odd.pth", tmp_path / "odd.safetensors")
    assert [f.name for f in tmp_path.iterdir()] == ["odd.pth"]


def test_a_file_that_unfolds_to_gigabytes_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    torch.save({"weight": torch.zeros(1 << 20)}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    assert torch.load(tmp_path / "packed.pth")["weight"].shape == (1 << 20,), "torch would read it"
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it is read"))
    with pytest.raises(ModelError, match=r"packed\.pth .* is compressed"):
        reduce(tmp_path / "packed.pth", tmp_path / "packed.safetensors")


def test_tensors_that_share_their_bytes_a_thousand_times_are_refused(tmp_path: Path):
    shared = torch.zeros(1 << 16)
    torch.save({f"weight{i}": shared for i in range(3)}, tmp_path / "tied.pth")
    reduce(tmp_path / "tied.pth", tmp_path / "tied.safetensors")
    torch.save({f"weight{i}": shared for i in range(1000)}, tmp_path / "bomb.pth")
    with pytest.raises(ModelError, match=r"\[unsafe-weights\]$"):
        reduce(tmp_path / "bomb.pth", tmp_path / "bomb.safetensors")
    assert not list(tmp_path.glob("bomb.safetensors*"))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 not a zip either"])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "no.pth").write_bytes(content)
    with pytest.raises(ModelError, match=r"\[unsafe-weights\]$"):
        reduce(tmp_path / "no.pth", tmp_path / "no.safetensors")


def test_a_cut_or_garbled_checkpoint_is_an_error_of_ours(trained: Path, tmp_path: Path):
    whole = trained.read_bytes()
    random = np.random.default_rng(0)
    for index in range(20):
        garbled = bytearray(whole)
        for at in random.integers(0, len(whole), 40):
            garbled[at] ^= 0xFF
        file = tmp_path / f"{index}.pth"
        file.write_bytes(garbled if index % 2 else whole[: int(random.integers(len(whole)))])
        with pytest.raises(ModelError):
            reduce(file, tmp_path / "x.safetensors")


def test_tensors_that_share_memory_are_written_each(tmp_path: Path):
    shared = torch.arange(6.0).view(2, 3)
    torch.save({"a": shared, "b": shared, "c": shared.T, "d": torch.nn.Parameter(shared)}, tmp_path / "s.pth")
    reduce(tmp_path / "s.pth", tmp_path / "s.safetensors")
    reduced = load_file(tmp_path / "s.safetensors")
    assert torch.equal(reduced["b"], shared) and torch.equal(reduced["c"], shared.T) and "d" in reduced
