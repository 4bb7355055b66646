"""Draws captions from a model: reproducible by seed, whatever else runs, and as tidy text."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any

import numpy as np
import torch

from include.models.placement import Batches, place
from include.models.runtime import Pool

# As BLIP draws its candidates, of which a filter keeps the best (https://arxiv.org/abs/2201.12086, 4.3).
TOP_P = 0.9
MAX_TOKENS = 30  # of a caption; captioners are tuned on those of COCO, which have 10 to 15
MAX_CHARACTERS = 1000  # of a caption, whatever tokens stand for

_lock = Lock()


class Sampler(ABC):
    """A captioner that draws by nucleus sampling, batch by batch. May be called from several threads."""

    def __init__(self, device: str, precision: str, batch_size: int, threads: int | None) -> None:
        self._placement, self._batches, self._pool = place(device, precision), Batches(batch_size), Pool(threads)
        torch.set_num_threads(self._pool.threads)

    @torch.inference_mode()
    def describe(self, images: Sequence[np.ndarray], candidates: int, seed: int) -> list[list[str]]:
        """``candidates`` captions for each image. A caption is empty if the model ends before the first word.

        The same images, seed and batch size give the same captions, as long as memory suffices: halved batches draw
        others.
        """

        def draw(batch: Sequence[tuple[int, np.ndarray]]) -> list[list[str]]:
            inputs = self._prepare([image for _, image in batch])
            with seeded(seed + batch[0][0], self._placement.device):
                texts = [tidy(text) for text in self._draw(inputs, candidates)]
            return [texts[i : i + candidates] for i in range(0, len(texts), candidates)]

        return [captions for batch in self._batches.map(draw, list(enumerate(images))) for captions in batch]

    @abstractmethod
    def _prepare(self, images: Sequence[np.ndarray]) -> Any:
        """The model's input, from uint8 RGB arrays [height, width, 3]."""

    @abstractmethod
    def _draw(self, inputs: Any, candidates: int) -> list[str]:
        """``candidates`` captions for the first image, then those for the second, and so on."""

    def _generate(self, model: Any, inputs: Mapping[str, Any], candidates: int, max_tokens: int) -> torch.Tensor:
        """Tokens that a model of transformers draws: whatever its repository's generation_config.json advises, such as
        a temperature of almost 0, at which all candidates are the same."""
        return model.generate(
            **inputs,
            do_sample=True,
            top_p=TOP_P,
            top_k=0,
            temperature=1.0,
            repetition_penalty=1.0,
            num_beams=1,
            num_return_sequences=candidates,
            max_new_tokens=max_tokens,
        )


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers inside depend only on ``seed``; the generator's state outside stays the same.

    Models draw with torch's generator of the device. The whole process shares it: one thread at a time.
    """
    with _lock, torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def tidy(text: str) -> str:
    """The text as one line with single spaces, none before punctuation, and nothing that a terminal would obey."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[:MAX_CHARACTERS]).split())
    return re.sub(r"\s+([.,;:!?])", r"\1", line)


def whole_sentences(text: str) -> str:
    """A text that a limit has cut off, up to its last whole sentence or, if there is none, without its last word."""
    if sentences := re.match(r".*([.!?](?=\s|$)|[。！？])", text, re.DOTALL):
        return sentences[0]
    return text.rpartition(" ")[0] or text
