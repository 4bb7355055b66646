"""Runs models: ONNX Runtime sessions, and a pool of threads over the images of a batch.

Each model runs on one thread, and the pool gives each thread another image. This keeps all cores busy, also during
preprocessing; one small model on many cores would mostly wait. Results don't depend on the number of cores.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import cv2
import onnxruntime

Item = TypeVar("Item")
Result = TypeVar("Result")

cv2.setNumThreads(1)  # OpenCV's own threads would compete with the pool's


def open_session(model: Path | bytes) -> onnxruntime.InferenceSession:
    """Opens an ONNX model, a file or its content, that runs on one thread; many threads may use the session at once."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only: it warns when it folds constants
    return onnxruntime.InferenceSession(
        model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"]
    )


class Pool:
    """Maps a function over items, in order, with a number of threads that all callers share."""

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads or len(os.sched_getaffinity(0))
        self._here = threading.local()  # has `inside` in the pool's threads
        self._executor = ThreadPoolExecutor(self.threads, "model", lambda: setattr(self._here, "inside", True))

    def map(self, function: Callable[..., Result], *items: Iterable[Item]) -> list[Result]:
        """``function`` of each item, in order. A caller does a single one itself, and all if it is in the pool."""
        calls = list(zip(*items, strict=True))
        if len(calls) == 1 or hasattr(self._here, "inside"):
            return [function(*call) for call in calls]
        return list(self._executor.map(lambda call: function(*call), calls))
