"""RTMDet and RTMPose with seeded random weights that find plenty, as models of mmdet and mmpose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from include.models.openmmlab import config_path

import torch  # isort: skip
from mmdet.apis import init_detector  # isort: skip
from mmengine.registry import DefaultScope  # isort: skip
from mmpose.apis import init_model  # isort: skip
from safetensors.torch import save_file  # isort: skip

SAMPLE = Path(__file__).parents[2] / "include/sample/images"


def photo(name: str) -> np.ndarray:
    """An image of the sample, uint8 RGB."""
    return np.asarray(Image.open(SAMPLE / name).convert("RGB"))


def save(model: torch.nn.Module, path: Path) -> Path:
    save_file({name: tensor.clone().contiguous() for name, tensor in model.state_dict().items()}, path)
    return path


def _calibrate(model: torch.nn.Module, inputs: torch.Tensor) -> None:
    """Gives normalisation layers the statistics of real images: in random layers every signal would fade."""
    norms = [layer for layer in model.modules() if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(inputs, None, mode="tensor")
    model.eval()


def _inputs(side: tuple[int, int]) -> torch.Tensor:
    pixels = [np.asarray(Image.fromarray(photo(f"{i:03d}.jpg")).resize(side)) for i in range(4)]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float().sub(115).div(58)


@torch.no_grad()
def detector(config: str, folder: Path, side: int = 320) -> tuple[torch.nn.Module, Path]:
    """mmdet's own model and its weights. About one point in ten is a person; other classes have none."""
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = init_detector(config_path("mmdet", config), None, device="cpu")
        _calibrate(model, _inputs((side, side)))
        head = model.bbox_head
        for classes, sides in zip(head.rtm_cls, head.rtm_reg, strict=True):
            torch.nn.init.normal_(classes.weight, std=0.1)
            torch.nn.init.constant_(classes.bias, -12)
            torch.nn.init.normal_(sides.weight, std=0.02)
            torch.nn.init.constant_(sides.bias, 1.1 if head.exp_on_reg else 3.0)
        logits, _ = model(_inputs((side, side)), mode="tensor")
        for level, classes in zip(logits, head.rtm_cls, strict=True):
            person = level[:, 0].flatten()
            classes.weight[0] *= 1.5 / person.std()
            classes.bias[0] = 1.5 / person.std() * (-12 - person.mean()) - 3.2
    return model, save(model, folder / "detector.safetensors")


@torch.no_grad()
def pose(config: str, folder: Path) -> tuple[torch.nn.Module, Path]:
    """mmpose's own model and its weights. Scores change gradually from column to column, as in a trained model."""
    torch.manual_seed(0)
    model = init_model(str(config_path("mmpose", config)), None, device="cpu")
    width, height = model.head.input_size
    _calibrate(model, _inputs((width, height)))
    for layer in (model.head.cls_x, model.head.cls_y):
        at = torch.linspace(0, 1, layer.out_features)[:, None] * torch.arange(1, 41) * torch.pi
        layer.weight[:] = at.cos() @ torch.randn(40, layer.in_features) * 0.001
    return model, save(model, folder / "pose.safetensors")
