"""Reduces a pickled checkpoint to its state_dict, as safetensors, without running any code in it.

Checkpoints of mmengine contain the history of their training: NumPy scalars, ``HistoryBuffer`` objects and references
to their methods, which ``torch.load(weights_only=True)`` refuses (https://github.com/open-mmlab/mmengine/issues/1655).
Here, every name that torch does not call harmless becomes a class that takes anything and does nothing. Thus the
history loads as empty objects and is dropped.
"""

from __future__ import annotations

import errno
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from include.models.errors import ModelError

SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # of the machine; they say nothing about the file
MOST_INFLATED = 4  # bytes of the tensors for each byte of the file: some tensors share theirs


class Inert:
    """Takes the place of any class or function of a pickle."""

    def __new__(cls, *_: object, **__: object) -> Inert:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


def reduce(checkpoint: Path, target: Path, omits: str = "") -> None:
    """Writes the checkpoint's ``state_dict`` (DeepSpeed's ``module``), or a checkpoint that is a dictionary of tensors
    itself, to ``target``, without the tensors whose names begin as the pattern ``omits`` says.

    After a training with EMA this is the averaged model: mmengine's EMAHook swaps it in before it saves, and leaves the
    last iterate in ``ema_state_dict``. Raises ModelError if the file is not such a checkpoint.
    """
    state = _state_dict(checkpoint)
    kept = [name for name in state if not omits or not re.match(omits, name)]
    tensors = {name: state[name].detach().contiguous().clone() for name in kept}
    part = target.with_name(f"{target.name}.part")
    save_file(tensors, part)
    part.replace(target)


def _state_dict(checkpoint: Path) -> dict[str, torch.Tensor]:
    try:
        _check_not_compressed(checkpoint)
        unknown = torch.serialization.get_unsafe_globals_in_checkpoint(str(checkpoint))
        with torch.serialization.safe_globals([(Inert, name) for name in unknown]):
            content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises different errors, depending on where a broken or hostile pickle fails
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in SHORTAGES:
            raise
        reason = str(error).strip().splitlines()
        raise ModelError(
            "unsafe-weights",
            f"{checkpoint} is not a checkpoint that can be read without running code from it: "
            f"{reason[-1] if reason else type(error).__name__}",
        ) from None
    state = content.get("state_dict", content.get("module", content)) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state:
        raise ModelError("unsafe-weights", f"{checkpoint} holds no state_dict")
    for name, value in state.items():
        if not isinstance(name, str) or not _is_plain(value):
            raise ModelError("unsafe-weights", f"{checkpoint}: {name!r} of its state_dict is not a plain tensor")
    if sum(value.nbytes for value in state.values()) > MOST_INFLATED * checkpoint.stat().st_size:
        raise ModelError("unsafe-weights", f"{checkpoint}: the tensors of its state_dict are far larger than the file")
    return state


def _check_not_compressed(checkpoint: Path) -> None:
    """Raises ValueError for a compressed archive: torch can read these, but never writes them."""
    if zipfile.is_zipfile(checkpoint):
        with zipfile.ZipFile(checkpoint) as archive:
            if any(member.file_size > member.compress_size for member in archive.infolist()):
                raise ValueError("it is compressed")


def _is_plain(value: Any) -> bool:
    """Whether it is a dense tensor, not larger than its bytes in the file: strides can turn four into terabytes."""
    return (
        type(value) in (torch.Tensor, torch.nn.Parameter)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        and value.nbytes <= value.untyped_storage().nbytes()
    )
