"""What MediaPipe's tasks need beside their options: one thread for each, images in their form, a quiet start."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mediapipe
import numpy as np
from mediapipe.tasks.python.vision.core.base_vision_task_api import BaseVisionTaskApi

# MediaPipe 0.10.21 writes these at any log level: https://github.com/google-ai-edge/mediapipe/issues/5737
_CHATTER = re.compile(rb"(WARNING: All log messages before absl|INFO: Created TensorFlow Lite|[IW]\d{4} )")
_lock = threading.Lock()  # file descriptor 2 belongs to the whole process


class OneThread(BaseVisionTaskApi):
    """A task that computes in the thread that calls it: a class of this and of MediaPipe's. Results are the same.

    Otherwise a call hands its parts to a pool of threads, which each task has for itself, and waits. Both are in
    https://github.com/google-ai-edge/mediapipe/blob/master/mediapipe/framework/calculator_graph.cc
    """

    def __init__(self, graph: Any, *rest: Any) -> None:
        graph.executor.add(type="ApplicationThreadExecutor")
        super().__init__(graph, *rest)


def as_mediapipe(image: np.ndarray) -> mediapipe.Image:
    """The image in the form for MediaPipe's tasks."""
    return mediapipe.Image(mediapipe.ImageFormat.SRGB, np.ascontiguousarray(image))


@contextmanager
def hidden() -> Iterator[None]:
    """Holds back the output to file descriptor 2; at the end passes on all but MediaPipe's start-up messages."""
    with _lock, tempfile.TemporaryFile() as held:
        sys.stderr.flush()
        stderr = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            held.seek(0)
            for line in held:
                if not _CHATTER.match(line):
                    os.write(2, line)
            os.close(stderr)
