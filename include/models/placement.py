"""The device and precision of a torch model, and batches that shrink when memory runs out."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from include.models.errors import ModelError, ModelUsageError, coded

Item = TypeVar("Item")
Result = TypeVar("Result")

log = logging.getLogger(__name__)

OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "STATUS_ALLOC_FAILED")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Placement:
    """A device, and the dtype of a model's weights and activations on it."""

    device: torch.device
    dtype: torch.dtype

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def as_graph(self) -> bool:
        """Whether ONNX Runtime is faster here: measured in float32 on a CPU alone (see networks)."""
        return self.device.type == "cpu" and self.dtype == torch.float32


def place(device: str, precision: str) -> Placement:
    """The placement for two settings.

    device: ``auto`` (the GPU if there is one), or torch's name for one; precision: ``fp32``, ``bf16``, ``fp16``, or
    ``auto``, which is fp16 on a GPU and fp32 elsewhere (fp16 has three more bits than bf16 for coordinates and
    similarities, and the models here stay within its range).

    Raises ModelUsageError for a device that doesn't exist and for fp16 without a GPU.
    """
    try:
        chosen = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    except RuntimeError:
        raise ModelUsageError(
            "bad-device", f"LAION_PEOPLE_DEVICE={device!r}: should be auto, cpu, cuda or cuda:N"
        ) from None
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        reason = "there is no such GPU, or this torch is built for the CPU only"
        raise ModelUsageError("bad-device", f"LAION_PEOPLE_DEVICE={device}: {reason}")
    if precision == "auto":
        precision = "fp16" if chosen.type == "cuda" else "fp32"
    if precision == "fp16" and chosen.type == "cpu":
        raise ModelUsageError("bad-device", "LAION_PEOPLE_PRECISION=fp16 needs a GPU: set it to auto, fp32 or bf16")
    if precision == "fp32" and chosen.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # else convolutions silently keep 10 of 23 bits
    return Placement(chosen, DTYPES[precision])


class Batches:
    """Cuts items into batches, and halves their size for good if one does not fit into memory.

    Safe to use from many threads; all use the smaller size.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._lock = threading.Lock()

    def map(self, function: Callable[[Sequence[Item]], Result], items: Sequence[Item]) -> Iterator[Result]:
        """``function`` of each batch, in order. Raises ModelError if a single item does not fit."""
        start = 0
        while start < len(items):
            batch = items[start : start + self.size]
            try:
                result = function(batch)
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
                if len(batch) == 1:
                    message = "one image does not fit into the device's memory: use a larger one"
                    raise ModelError("out-of-memory", message) from error
                reason = str(error).split("\n")[0]
            else:
                start += len(batch)
                yield result
                continue
            # Only here the exception is gone; its traceback held the tensors of the failed batch.
            with self._lock:
                self.size = min(self.size, len(batch) // 2)
            log.warning(coded("smaller-batches", "out of memory (%s): batches of %d from now on"), reason, self.size)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def _out_of_memory(error: RuntimeError) -> bool:
    """Whether an error means too little memory. torch has a class for it if its caching allocator fails, but not on the
    CPU, for pinned memory or in a library (https://github.com/pytorch/pytorch/issues/91547)."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)
