"""Reduces a pickled checkpoint to its state_dict, as safetensors, without running anything that it holds.

Checkpoints of mmengine carry the history of their training along: NumPy scalars, ``HistoryBuffer`` objects and
references to their methods, which ``torch.load(weights_only=True)`` refuses
(https://github.com/open-mmlab/mmengine/issues/1655). Here every name that torch does not know to be harmless is bound
to a class that takes anything and does nothing, so that the history loads as empty objects and is dropped.
"""

from __future__ import annotations

import errno
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from include.models.errors import ModelError

SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # of the machine, which say nothing of the file
MOST_INFLATED = 4  # bytes of the tensors for each byte of the file: some of a model share theirs


class Inert:
    """Stands in for any class or function of a pickle."""

    def __new__(cls, *_: object, **__: object) -> Inert:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


def reduce(checkpoint: Path, target: Path) -> None:
    """Writes the checkpoint's ``state_dict`` (or the dictionary of tensors that it is) to ``target``.

    With an EMA in training, that is the averaged model: mmengine's EMAHook swaps it in before it saves, and leaves the
    last iterate in ``ema_state_dict``. Raises ModelError when the file is not such a checkpoint.
    """
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in _state_dict(checkpoint).items()}
    part = target.with_name(f"{target.name}.part")
    save_file(tensors, part)
    part.replace(target)


def _state_dict(checkpoint: Path) -> dict[str, torch.Tensor]:
    try:
        _check_not_compressed(checkpoint)
        unknown = torch.serialization.get_unsafe_globals_in_checkpoint(str(checkpoint))
        with torch.serialization.safe_globals([(Inert, name) for name in unknown]):
            content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:  # what a broken or hostile pickle makes torch raise depends on where it breaks
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in SHORTAGES:
            raise
        reason = str(error).strip().splitlines()
        raise ModelError(
            "unsafe-weights",
            f"{checkpoint} is not a checkpoint that can be read without running code from it: "
            f"{reason[-1] if reason else type(error).__name__}",
        ) from None
    found = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(found, dict) or not found:
        raise ModelError("unsafe-weights", f"{checkpoint} holds no state_dict")
    for name, value in found.items():
        if not isinstance(name, str) or not _is_plain(value):
            raise ModelError("unsafe-weights", f"{checkpoint}: {name!r} of its state_dict is not a plain tensor")
    if sum(value.nbytes for value in found.values()) > MOST_INFLATED * checkpoint.stat().st_size:
        raise ModelError("unsafe-weights", f"{checkpoint}: the tensors of its state_dict are far larger than the file")
    return found


def _check_not_compressed(checkpoint: Path) -> None:
    """Raises ValueError for an archive that unfolds to more than it is: torch reads such a one and never writes it."""
    if zipfile.is_zipfile(checkpoint):
        with zipfile.ZipFile(checkpoint) as archive:
            if any(member.file_size > member.compress_size for member in archive.infolist()):
                raise ValueError("it is compressed")


def _is_plain(value: Any) -> bool:
    """Whether it is a dense tensor that is no larger than its bytes in the file: strides can make terabytes of four."""
    return (
        type(value) in (torch.Tensor, torch.nn.Parameter)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        and value.nbytes <= value.untyped_storage().nbytes()
    )
