"""CoCa: captions by OpenCLIP's contrastive captioners (https://arxiv.org/abs/2205.01917)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from include.models.openclip import open_model
from include.models.placement import Batches, Placement, place
from include.models.preprocessing import Preprocessing
from include.models.runtime import Pool
from include.models.sampling import MAX_TOKENS, TOP_P, seeded, tidy
from laion_people.errors import UsageError

import open_clip  # isort: skip  (after torchvision has been made importable, by include.models.openclip)
from open_clip.tokenizer import SimpleTokenizer  # isort: skip


class CoCa:
    """A captioner of OpenCLIP's; captions are drawn by nucleus sampling. May be called from several threads."""

    def __init__(
        self,
        weights: Path,
        *,
        model: str,
        tag: str,
        precision: str,
        device: str = "auto",
        batch_size: int = 16,
        config: Path | None = None,
        threads: int | None = None,
    ) -> None:
        """Opens the model.

        weights: safetensors, or a checkpoint that torch loads without running code; model: OpenCLIP's name, for
        ``config`` the file's stem; tag: which weights, completes ``name``; precision, device: see ``placement.place``;
        batch_size: images a pass, at most, each of which is there as often as it is to have captions; threads: default
        all cores.

        Raises UsageError for a model that OpenCLIP doesn't have, or that gives no captions; LaionPeopleError for
        weights of another model.
        """
        self.name = f"{model}/{tag}"
        if config is not None and model not in open_clip.list_models():
            open_clip.add_model_config(config)
        pool = Pool(threads)
        torch.set_num_threads(pool.threads)
        self._placement, self._batches = place(device, precision), Batches(batch_size)
        # OpenCLIP leaves CoCa's poolers in float32 when it halves a model, which then fails: halving is autocast's.
        whole = Placement(self._placement.device, torch.float32)
        self._model = open_model(weights, model, tag, whole)
        self._tokenizer = open_clip.get_tokenizer(model)
        if not hasattr(self._model, "generate") or not isinstance(self._tokenizer, SimpleTokenizer):
            raise UsageError(f"{model} gives no captions: choose coca_ViT-B-32 or coca_ViT-L-14")
        self._preprocess = Preprocessing(self._model.visual.preprocess_cfg, whole, pool)

    @torch.inference_mode()
    def describe(self, images: Sequence[np.ndarray], candidates: int, seed: int) -> list[list[str]]:
        """``candidates`` captions for each image. One is empty where the model ends before it has said a word.

        The same images and seed give the same captions while memory suffices: a batch that was halved draws others.
        """

        def draw(batch: Sequence[tuple[int, np.ndarray]]) -> list[list[str]]:
            pixels = self._preprocess([image for _, image in batch]).repeat_interleave(candidates, 0)
            with seeded(seed + batch[0][0], self._placement.device), self._autocast():
                tokens = self._model.generate(pixels, seq_len=MAX_TOKENS, generation_type="top_p", top_p=TOP_P).tolist()
            texts = [self._text(row) for row in tokens]
            return [texts[i : i + candidates] for i in range(0, len(texts), candidates)]

        return [captions for batch in self._batches.map(draw, list(enumerate(images))) for captions in batch]

    def _autocast(self) -> torch.autocast:
        device, dtype = self._placement.device.type, self._placement.dtype
        return torch.autocast(device, dtype, enabled=dtype != torch.float32)

    def _text(self, tokens: list[int]) -> str:
        """The words of a row that begins with the start token; a word that the limit has cut in two is left out."""
        words = tokens[1:]
        for end in (self._tokenizer.eot_token_id, self._model.pad_id):
            words = words[: words.index(end)] if end in words else words
        text = self._tokenizer.decode(words)
        return tidy(text if text.endswith(" ") else text.rpartition(" ")[0])
