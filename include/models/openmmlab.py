"""mmdet and mmpose: makes them importable, and builds their models from the configs in the packages.

Both are written for mmcv with compiled operators, the module ``mmcv._ext``. If that is installed, nothing is replaced.
mmcv-lite lacks it, but RTMDet and RTMPose need only one operator: a stand-in gives ``nms``, and an error for any other.
Import this module before anything of mmcv, mmdet or mmpose.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

import cv2
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

import include.models.torchvision_cpu  # noqa: F401  (must come before torchvision)
from include.models.errors import ModelError, ModelUsageError
from include.models.placement import Placement

import torchvision  # isort: skip
from torchvision.extension import _has_ops  # isort: skip


DEMO = "mmpose/demo/"


def nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Non-maximum suppression: int64 indices of the kept boxes, best first; none overlaps a better one by more.

    boxes: float [n, 4], x1, y1, x2, y2, none empty; scores: float [n], of the same dtype. Uses torchvision's
    operator if it loads (see torchvision_cpu), else OpenCV.
    """
    if _has_ops():
        return torchvision.ops.nms(boxes, scores, iou_threshold)
    order = scores.sort(descending=True, stable=True).indices.cpu().numpy()
    corners = boxes.double().cpu().numpy()[order]
    regions = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
    ranks = list(range(len(order), 0, -1))  # a score of 0 would be left out
    kept = cv2.dnn.NMSBoxes(regions, ranks, score_threshold=0, nms_threshold=iou_threshold)
    return torch.from_numpy(order[np.array(kept, np.int64)]).to(boxes.device)


class _StandIn(types.ModuleType):
    """Takes the place of ``mmcv._ext``: mmcv looks its operators up when imported, and calls them when used."""

    @staticmethod
    def nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float, offset: int) -> torch.Tensor:
        if offset:
            _missing("nms with an offset")
        return nms(boxes, scores, iou_threshold)

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: _missing(name)


def _missing(operator: str) -> NoReturn:
    raise ModelError(
        "needs-mmcv", f"mmcv-lite has no compiled operator {operator}: make an environment with bin/setup mmcv"
    )


def has_compiled_mmcv() -> bool:
    """Whether mmcv's own compiled operators are installed."""
    return not isinstance(sys.modules.get("mmcv._ext"), _StandIn)


if importlib.util.find_spec("mmcv._ext") is None:
    stand_in = _StandIn("mmcv._ext")
    # Without a loader, mmengine's mmcv_full_available() still says that mmcv isn't compiled.
    stand_in.__spec__ = importlib.machinery.ModuleSpec("mmcv._ext", None)
    sys.modules["mmcv._ext"] = stand_in

# Warnings of the packages about old ways, or about things in their usual place, say nothing to a user.
for _told in (r"`?torch\.cuda\.amp\.autocast", "pkg_resources is deprecated", "The metainfo config file"):
    warnings.filterwarnings("ignore", message=_told)

from mmcv.cnn.utils import fuse_conv_bn  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.model.utils import revert_sync_batchnorm  # noqa: E402
from mmengine.registry import DefaultScope  # noqa: E402


def config_path(package: str, name: str) -> Path:
    """The file of a config in an installed package.

    package: ``mmdet`` or ``mmpose``; name: path below the package's ``.mim/configs``, or ``mmpose/demo/...`` for a
    detector in mmpose's ``.mim/demo``. A config is Python code that is run: for any other file this raises
    ModelUsageError.
    """
    if name.startswith(DEMO):
        package, folder, path = "mmpose", "demo", PurePosixPath(name.removeprefix(DEMO))
    else:
        folder, path = "configs", PurePosixPath(name)
    root = Path(importlib.import_module(package).__file__ or "").parent / ".mim" / folder
    if path.is_absolute() or ".." in path.parts or path.suffix != ".py" or not (root / path).is_file():
        raise ModelUsageError(
            "bad-profile", f"{package} has no config {name!r}: give the path of a .py file below {root}"
        )
    return root / path


def read_config(package: str, name: str) -> Config:
    """The config at `config_path`."""
    return Config.fromfile(config_path(package, name))


def build(package: str, config: Config) -> Any:
    """The torch.nn.Module of a config, for inference; its weights are not set yet."""
    # The package used first leaves its name as the default scope, where the other's types aren't found.
    with DefaultScope.overwrite_default_scope(package):
        model = importlib.import_module(f"{package}.registry").MODELS.build(config.model)
    return revert_sync_batchnorm(model).eval().requires_grad_(False)


def load_weights(model: torch.nn.Module, weights: Path) -> None:
    """Copies a checkpoint's state_dict, a .safetensors file, into the model, and makes it fast.

    Raises ModelError if a tensor is missing, does not fit, or is left over.
    """
    try:
        state = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise ModelError("wrong-weights", f"{weights} can't be read as safetensors ({error}): fetch it again") from None
    # Some hold mean and std of the preprocessor, which the config has, too: https://github.com/open-mmlab/mmpose/issues/2363
    state = {name: tensor for name, tensor in state.items() if not name.startswith("data_preprocessor.")}
    expected = model.state_dict()
    problems = {
        "missing": sorted(expected.keys() - state.keys()),
        "unexpected": sorted(state.keys() - expected.keys()),
        "of another shape": sorted(n for n in state.keys() & expected.keys() if state[n].shape != expected[n].shape),
    }
    differences = [f"{len(names)} {what} ({names[0]}, ...)" for what, names in problems.items() if names]
    if differences:
        raise ModelError(
            "wrong-weights", f"{weights} and the config are of different models: tensors {', '.join(differences)}"
        )
    model.load_state_dict(state)
    # Merges batch normalisation into the convolution before it; not in heads, whose levels may share convolutions.
    for name in {"backbone", "neck"} & dict(model.named_children()).keys():
        fuse_conv_bn(getattr(model, name))


class Normalise:
    """Turns pixels into a model's input, as the data preprocessor of its config does."""

    def __init__(self, settings: dict[str, Any], placement: Placement) -> None:
        """settings: ``data_preprocessor`` of the config; its mean and std are in the order of the model's channels."""
        self._to_bgr = not settings["bgr_to_rgb"]  # mmdet and mmpose read images as BGR
        self._mean, self._std = (torch.tensor(settings[key], device=placement.device) for key in ("mean", "std"))
        values = torch.arange(256, dtype=torch.float32)[:, None]
        self._tables = values.sub(self._mean.cpu()).div_(self._std.cpu()).T.numpy().copy()

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """RGB, 0 to 255, [images, height, width, 3] -> float32 [images, 3, height, width], channels last in memory."""
        pixels = pixels.flip(-1) if self._to_bgr else pixels
        return pixels.float().sub_(self._mean).div_(self._std).permute(0, 3, 1, 2)

    def into(self, image: np.ndarray, out: np.ndarray) -> None:
        """The same of one image on a CPU: uint8 RGB [height, width, 3] -> ``out``, float32 [3, height, width].

        A table of what becomes of the 256 values of a channel is several times as fast as arithmetic.
        """
        planes = cv2.split(image)
        for plane, table, channel in zip(planes[::-1] if self._to_bgr else planes, self._tables, out, strict=True):
            cv2.LUT(plane, table, dst=channel)
