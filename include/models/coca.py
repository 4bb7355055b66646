"""CoCa: captions by OpenCLIP's contrastive captioners (https://arxiv.org/abs/2205.01917)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from include.models.errors import ModelUsageError
from include.models.openclip import open_model
from include.models.placement import Placement
from include.models.sampling import MAX_TOKENS, TOP_P, Sampler

import open_clip  # isort: skip  (after torchvision has been made importable, by include.models.openclip)
from open_clip.tokenizer import SimpleTokenizer  # isort: skip


class CoCa(Sampler):
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
        batch_size: images a pass, at most; captions are drawn for a whole batch, so it decides results; threads:
        default all cores.

        Raises ModelUsageError if OpenCLIP doesn't have the model, or it gives no captions; ModelError for weights of
        another model.
        """
        super().__init__(device, precision, batch_size, threads)
        self.name = f"{model}/{tag}"
        # When OpenCLIP halves a model, CoCa's poolers stay in float32, and the model fails: we halve by autocast.
        whole = Placement(self._placement.device, torch.float32)
        self._model, self._preprocess = open_model(weights, model, tag, whole, pool=self._pool, config=config)
        self._tokenizer = open_clip.get_tokenizer(model)
        if not hasattr(self._model, "generate") or not isinstance(self._tokenizer, SimpleTokenizer):
            raise ModelUsageError("bad-profile", f"{model} gives no captions: choose coca_ViT-B-32 or coca_ViT-L-14")
        # generate() would encode an image once for each caption: therefore it gets encoded images.
        self._model._encode_image = lambda encoded: (encoded, encoded)

    def _prepare(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        return self._preprocess(images)

    def _draw(self, pixels: torch.Tensor, candidates: int) -> list[str]:
        device, dtype = self._placement.device.type, self._placement.dtype
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            encoded = self._model.visual(pixels)[1].repeat_interleave(candidates, 0)
            tokens = self._model.generate(encoded, seq_len=MAX_TOKENS, generation_type="top_p", top_p=TOP_P)
        return [self._text(row) for row in tokens.tolist()]

    def _text(self, tokens: list[int]) -> str:
        """The words of a row that begins with the start token, without a word that the limit has cut."""
        words = tokens[1:]
        for end in (self._tokenizer.eot_token_id, self._model.pad_id):
            words = words[: words.index(end)] if end in words else words
        text = self._tokenizer.decode(words)
        return text if text.endswith(" ") else text.rpartition(" ")[0]
