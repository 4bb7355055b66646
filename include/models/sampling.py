"""Drawing captions from a model: by seed, whatever else runs, and as text fit to be read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import torch

# What BLIP draws its candidates with, the best of which are kept by a filter (https://arxiv.org/abs/2201.12086, 4.3).
TOP_P = 0.9
MAX_TOKENS = 30  # of a caption; those of COCO, which captioners are tuned on, have 10 to 15

_lock = Lock()


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """What is drawn inside follows from ``seed`` alone, and leaves no trace outside.

    Models draw with torch's own generator of the device, which is the process's: one thread at a time.
    """
    with _lock, torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def tidy(text: str) -> str:
    """Single spaces, and none before a punctuation mark."""
    return re.sub(r"\s+([.,;:!?])", r"\1", " ".join(text.split()))
