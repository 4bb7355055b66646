"""mmdet and mmpose with either mmcv: the compiled one, or mmcv-lite and a stand-in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from include.models import openmmlab
from include.models.errors import ModelError, ModelUsageError

import torch  # isort: skip

MMCV = os.environ.get("EXPECTED_MMCV", "lite")  # `make test-mmcv` expects the compiled one


def drawn(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    corners = torch.rand((count, 2), generator=rng) * 60
    boxes = torch.cat([corners, corners + 5 + torch.rand((count, 2), generator=rng) * 40], 1)
    return boxes, torch.rand(count, generator=rng)


def greedy(boxes: np.ndarray, scores: np.ndarray, overlap: float) -> list[int]:
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        corner, opposite = np.maximum(boxes[i, :2], boxes[kept, :2]), np.minimum(boxes[i, 2:], boxes[kept, 2:])
        shared = (opposite - corner).clip(0).prod(1)
        areas = (boxes[kept, 2:] - boxes[kept, :2]).prod(1) + (boxes[i, 2:] - boxes[i, :2]).prod()
        if not (shared / (areas - shared) > overlap).any():
            kept.append(int(i))
    return kept


def test_the_mmcv_here_is_the_one_expected():
    assert openmmlab.has_compiled_mmcv() == (MMCV == "compiled")
    from mmengine.utils.dl_utils.misc import mmcv_full_available

    assert mmcv_full_available() == (MMCV == "compiled")


@pytest.mark.parametrize("count", [0, 1, 200])
def test_suppression_keeps_the_best_whoever_does_it(count: int):
    from mmcv.ops import nms

    boxes, scores = drawn(count)
    wanted = greedy(boxes.double().numpy(), scores.double().numpy(), 0.5)
    assert openmmlab.nms(boxes.double(), scores.double(), 0.5).tolist() == wanted
    assert nms(boxes, scores, 0.5)[1].tolist() == wanted  # mmcv's own, or through the stand-in


def test_of_equally_good_boxes_the_first_is_kept():
    boxes, scores = drawn(200)
    equal = scores.mul(20).round().double() / 20
    assert openmmlab.nms(boxes.double(), equal, 0.5).tolist() == greedy(boxes.double().numpy(), equal.numpy(), 0.5)


def test_an_operator_that_mmcv_lite_lacks_is_told_when_it_is_called():
    from mmcv.ops import roi_align

    call = lambda: roi_align(torch.zeros(1, 1, 8, 8), torch.tensor([[0.0, 0, 0, 4, 4]]), 2)  # noqa: E731
    if MMCV == "compiled":
        assert call().shape == (1, 1, 2, 2)
    else:
        with pytest.raises(ModelError, match=r" roi_align_forward: .*\[needs-mmcv\]$"):
            call()


@pytest.mark.parametrize(
    "name",
    ["../../../evil.py", "/tmp/evil.py", "rtmdet/../../x.py", "rtmdet/none.py", "rtmdet/metafile.yml", "rtmdet", ""],
)
def test_only_configs_of_the_package_are_opened(name: str):
    for prefix, package in (("", "mmdet"), (openmmlab.DEMO, "mmpose")):
        with pytest.raises(ModelUsageError, match=rf"^{package} .*\[bad-profile\]$"):
            openmmlab.read_config("mmdet", prefix + name)


def test_the_configs_of_the_profiles_build():
    folder, built = Path(openmmlab.__file__).parent, 0
    for path in sorted(folder.glob("*.yaml")):
        for role in yaml.safe_load(path.read_text())["roles"].values():
            package = {"rtmdet.RTMDet": "mmdet", "rtmpose.RTMPose": "mmpose"}.get(role["wrapper"])
            if package:
                with torch.device("meta"):
                    model = openmmlab.build(package, openmmlab.read_config(package, role["params"]["config"]))
                assert sum(p.numel() for p in model.parameters()) > 1_000_000
                built += 1
    assert built >= 4


def test_both_packages_build_in_any_order_in_a_fresh_process():
    code = """
import include.models.openmmlab as o, torch, warnings
from mmpose.apis import init_model
pose = o.read_config("mmpose", "body_2d_keypoint/rtmpose/coco/rtmpose-t_8xb256-420e_coco-256x192.py")
init_model(pose, None, device="cpu")  # leaves its scope behind
o.build("mmdet", o.read_config("mmdet", "rtmdet/rtmdet_tiny_8xb32-300e_coco.py"))
o.build("mmpose", pose)
"""
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
