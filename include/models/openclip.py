"""OpenCLIP: images and texts in one space (https://github.com/mlfoundations/open_clip)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from threading import Barrier, Lock
from typing import Any, TypeVar

import numpy as np
import torch

import include.models.torchvision_cpu  # noqa: F401  (must come before open_clip, which imports torchvision)
from include.models.errors import ModelError, ModelUsageError
from include.models.placement import DTYPES, Batches, Placement, place
from include.models.preprocessing import Preprocessing
from include.models.runtime import Pool

import open_clip  # isort: skip

Item = TypeVar("Item")
ENDS = ("argmax", "eos")  # OpenCLIP's names for a text's vector that is that of its end
WORD, TOKEN = 200, 25  # characters: of a word, at most, and of CLIP's longest token with a space
CPU_BATCH = 8  # images or texts a pass of one thread
PRECISIONS = {dtype: name for name, dtype in DTYPES.items()}


class OpenClip:
    """A CLIP model of OpenCLIP, built in or described by a configuration file, with weights from a local file.

    May be called from several threads. On a GPU one batch is in the model while others are resized. On a CPU each core
    has a batch of its own: torch's threads, with all of them in one batch, would wait for each other after each layer.
    """

    def __init__(
        self,
        weights: Path,
        *,
        model: str,
        tag: str,
        precision: str,
        device: str = "auto",
        batch_size: int,
        config: Path | None = None,
        resize_mode: str | None = None,
        threads: int | None = None,
    ) -> None:
        """Opens the model.

        weights: safetensors, or a checkpoint that torch loads without running code; model: OpenCLIP's name, for
        ``config`` the file's stem; tag: which weights, completes ``name``; precision, device: see ``placement.place``;
        batch_size: images or texts a pass, at most; resize_mode: ``shortest`` (and crop), ``longest`` (and pad) or
        ``squash``, default what the weights were published with; threads: default all cores.

        Raises ModelUsageError for a model that OpenCLIP doesn't have, ModelError for weights of another model.
        """
        self.name = f"{model}/{tag}"
        self._placement, self._pool = place(device, precision), Pool(threads)
        self._turn = Lock() if self._placement.on_gpu else nullcontext()
        self._batches = Batches(batch_size if self._placement.on_gpu else min(batch_size, CPU_BATCH))
        self._model, self._preprocess = open_model(
            weights, model, tag, self._placement, config=config, resize_mode=resize_mode, pool=self._pool
        )
        _torch_on_one_thread(self._pool)
        self._tokenize = open_clip.get_tokenizer(model)
        self._dimensions = int(open_clip.get_model_config(model)["embed_dim"])

    def encode_images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Unit vectors float32 [images, dimensions]; images are resized and cropped as the model needs."""
        return self._encode(self._preprocess, self._model.encode_image, images)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors float32 [texts, dimensions]; the tokenizer cuts texts off at the model's context length."""
        causal = isinstance(self._model, open_clip.CLIP) and self._model.attn_mask is not None
        to_the_end = causal and self._model.text_pool_type in ENDS

        def tokens(batch: Sequence[str]) -> torch.Tensor:
            padded = self._tokenize([self._shortened(text) for text in batch])
            places = int(padded.any(0).nonzero().max()) + 1 if to_the_end else padded.shape[1]
            return padded[:, :places].to(self._placement.device)

        return self._encode(tokens, self._encode_to_the_end if to_the_end else self._model.encode_text, texts)

    def _encode_to_the_end(self, tokens: torch.Tensor) -> torch.Tensor:
        """OpenCLIP's ``encode_text`` of texts [texts, places] up to the end of the longest, mostly a few of 77 places.

        In a causal model no place sees those behind it, and of these models a text's vector is that of its end.
        """
        shorter, places = copy.copy(self._model), tokens.shape[1]
        shorter._parameters = shorter._parameters | {"positional_embedding": shorter.positional_embedding[:places]}
        shorter._buffers = shorter._buffers | {"attn_mask": shorter.attn_mask[:places, :places]}
        return shorter.encode_text(tokens)

    def _shortened(self, text: str) -> str:
        """The text without the part after its last token: OpenCLIP's tokenizer reads all of it, in a time that grows
        with the square of a word's length (half a minute for 8,000 letters).

        In a language without spaces, WORD characters are more tokens than the context has.
        """
        if len(text) <= WORD:
            return text
        return " ".join(word[:WORD] for word in text.split())[: TOKEN * self._tokenize.context_length]

    def _encode(
        self,
        prepare: Callable[[Sequence[Item]], torch.Tensor],
        forward: Callable[[torch.Tensor], torch.Tensor],
        items: Sequence[Item],
    ) -> np.ndarray:
        @torch.inference_mode()
        def encode(batch: Sequence[Item]) -> np.ndarray:
            prepared = prepare(batch)
            with self._turn:
                vectors = forward(prepared)
            return np.asarray(torch.nn.functional.normalize(vectors.float(), dim=-1).cpu())

        def encoded(some: Sequence[Item]) -> list[np.ndarray]:
            return list(self._batches.map(encode, some))

        if self._placement.on_gpu:
            vectors = encoded(items)
        else:
            parts = [items[start : start + CPU_BATCH] for start in range(0, len(items), CPU_BATCH)]
            vectors = list(chain.from_iterable(self._pool.map(encoded, parts)))
        return np.concatenate([np.empty((0, self._dimensions), np.float32), *vectors])


def _torch_on_one_thread(pool: Pool) -> None:
    """Has each thread of the pool compute alone in torch, and any other thread with as many as the pool has."""
    all_there = Barrier(pool.threads)

    def compute_alone(_: int) -> None:
        all_there.wait()  # else one thread may take two turns
        torch.get_num_threads()  # a thread's first look sets it to the number of all (aten/src/ATen/Parallel.h)
        torch.set_num_threads(1)  # of this thread, and of all that begin later

    try:
        pool.map(compute_alone, range(pool.threads))
    except RuntimeError:  # the machine has no thread left
        all_there.abort()  # else those that have begun would wait for ever, and the process for them
        raise
    torch.set_num_threads(pool.threads)


def open_model(
    weights: Path,
    model: str,
    tag: str,
    placement: Placement,
    *,
    pool: Pool,
    config: Path | None = None,
    resize_mode: str | None = None,
) -> tuple[Any, Preprocessing]:
    """A model of OpenCLIP's with weights from a local file, in evaluation mode, and how images become its input.
    The parameters are those of ``OpenClip``; pool: whose threads make large images smaller for a GPU.

    Half precisions are OpenCLIP's own; they keep the layer norms in float32. The settings of the training (QuickGELU,
    normalisation, interpolation) come from OpenCLIP's list of tags. OpenCLIP doesn't read this list when it loads a
    file; we do, so that ViT-B-32/openai is right, too. An unknown tag has the defaults. Models with a text tower of
    Hugging Face need the hub for its configuration.

    Raises ModelUsageError for a model that OpenCLIP doesn't have, ModelError for weights of another model.
    """
    if config is not None and model not in open_clip.list_models():
        open_clip.add_model_config(config)
    if open_clip.get_model_config(model) is None:
        raise ModelUsageError("bad-profile", f"open_clip {open_clip.__version__} has no model {model!r}")
    published: dict[str, Any] = open_clip.get_pretrained_cfg(model, tag)
    try:
        opened = open_clip.create_model(
            model,
            pretrained=str(weights),
            precision=PRECISIONS[placement.dtype],
            device=placement.device,
            require_pretrained=True,
            force_quick_gelu=published.get("quick_gelu", False),
            force_preprocess_cfg={
                "mean": published.get("mean"),
                "std": published.get("std"),
                "interpolation": published.get("interpolation"),
                "resize_mode": resize_mode or published.get("resize_mode"),
            },
        )
    except (RuntimeError, AssertionError) as error:  # torch lists all parameters with a wrong shape
        raise ModelError(
            "wrong-weights", f"{weights} holds no weights of {model}: {str(error).splitlines()[0]}"
        ) from error
    return opened.eval(), Preprocessing(opened.visual.preprocess_cfg, placement, pool)
