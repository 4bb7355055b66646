"""Devices, precisions, and batches that shrink."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from include.models.errors import ModelError, ModelUsageError
from include.models.placement import Batches, place


def doubled(limit: int, message: str = "CUDA out of memory"):
    """A function of a batch; memory is enough for ``limit`` items."""
    seen: list[int] = []

    def function(batch: Sequence[int]) -> list[int]:
        if len(batch) > limit:
            raise torch.OutOfMemoryError(message)
        seen.append(len(batch))
        return [2 * item for item in batch]

    return function, seen


def test_items_come_in_order_and_none_is_lost_when_memory_runs_out():
    batches = Batches(16)
    function, seen = doubled(limit=3)
    result = [item for batch in batches.map(function, range(20)) for item in batch]
    assert result == [2 * i for i in range(20)]
    assert batches.size == 2 and set(seen) == {2}  # 16, 8, 4, 2, and never more again


@pytest.mark.parametrize(
    "message",
    [
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.",
        "CUDA error: out of memory",  # of pinned memory
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    ],
)
def test_errors_of_other_allocators_count_too(message: str):
    def function(batch: Sequence[int]) -> int:
        if len(batch) > 1:
            raise RuntimeError(message)
        return len(batch)

    assert list(Batches(2).map(function, range(3))) == [1, 1, 1]


def test_one_item_that_does_not_fit_is_a_readable_error():
    with pytest.raises(ModelError, match=r"\[out-of-memory\]$"):
        list(Batches(4).map(doubled(limit=0)[0], range(4)))


def test_other_errors_are_not_taken_for_it():
    def function(batch: Sequence[int]) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="multiplied"):
        list(Batches(4).map(function, range(4)))


def test_nothing_in_nothing_out():
    assert list(Batches(4).map(doubled(limit=9)[0], [])) == []


def test_threads_share_the_size_that_fits():
    batches = Batches(64)
    function, _ = doubled(limit=5)
    with ThreadPoolExecutor(8) as pool:
        results = pool.map(
            lambda start: [i for b in batches.map(function, range(start, start + 50)) for i in b], range(8)
        )
        assert list(results) == [[2 * i for i in range(start, start + 50)] for start in range(8)]
    assert 1 <= batches.size <= 5


def test_a_cpu_takes_fp32_and_bf16():
    assert place("cpu", "auto").dtype == torch.float32
    assert place("cpu", "bf16").dtype == torch.bfloat16
    assert not place("cpu", "fp32").on_gpu


@pytest.mark.parametrize(
    ("device", "precision", "message"),
    [("cpu", "fp16", "fp16 .*bad-device"), ("cuda:99", "auto", "no such GPU"), ("gpu", "auto", "should be auto, cpu")],
)
def test_what_is_not_there_is_told(device: str, precision: str, message: str):
    with pytest.raises(ModelUsageError, match=message):
        place(device, precision)
