"""Makes torchvision importable beside a CPU build of torch: import this before anything that imports torchvision.

PyPI's torchvision for Linux is built for CUDA. Its compiled operators don't load beside a CPU torch, and registering a
fake for one that doesn't exist ends the import with "operator torchvision::nms does not exist"
(https://github.com/pytorch/vision/issues/9085). Declaring the two operators without an implementation is enough: the
transforms, the only part used here, are plain torch.
"""

from __future__ import annotations

import sys

import torch

_MISSING = ("nms", "qnms")
_library: torch.library.Library | None = None  # the declarations live as long as this object


def _declare() -> torch.library.Library:
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in _MISSING:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


try:
    import torchvision
except RuntimeError as error:
    if "torchvision::nms" not in str(error):
        raise
    for module in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[module]
    _library = _declare()
    import torchvision  # noqa: F401
