"""Image-to-text models of the Hugging Face hub, such as BLIP, GIT or a ViT with GPT-2, from a local folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import include.models.torchvision_cpu  # noqa: F401  (must come before transformers, which imports torchvision)
from include.models.placement import Batches, place
from include.models.sampling import MAX_TOKENS, TOP_P, seeded, tidy
from laion_people.errors import LaionPeopleError

from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer  # isort: skip


class ImageToText:
    """A captioner that needs no prompt; captions are drawn by nucleus sampling. May be called from several threads."""

    def __init__(self, folder: Path, *, model: str, precision: str, device: str = "auto", batch_size: int = 16) -> None:
        """Opens the model in ``folder``, a snapshot of its repository with weights as safetensors. Nothing is fetched,
        and code that comes with the model is not run.

        model: the repository's name, written with every caption; precision, device: see ``placement.place``;
        batch_size: images a pass, at most.

        Raises LaionPeopleError when the folder holds no such model.
        """
        self.name = model
        self._placement, self._batches = place(device, precision), Batches(batch_size)
        local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            self._processor = AutoImageProcessor.from_pretrained(folder, use_fast=False, **local)
            self._tokenizer = AutoTokenizer.from_pretrained(folder, **local)
            opened: Any = AutoModelForImageTextToText.from_pretrained(
                folder, use_safetensors=True, dtype=self._placement.dtype, **local
            )
        except (OSError, ValueError, TypeError) as error:  # TypeError: of a vocabulary that is missing
            reason = str(error).strip().splitlines()[0]
            raise LaionPeopleError(f"{folder} holds no image-to-text model with safetensors: {reason}") from error
        self._model = opened.to(self._placement.device).eval()

    @torch.inference_mode()
    def describe(self, images: Sequence[np.ndarray], candidates: int, seed: int) -> list[list[str]]:
        """``candidates`` captions for each image. One is empty where the model ends before it has said a word.

        The same images and seed give the same captions while memory suffices: a batch that was halved draws others.
        """

        def draw(batch: Sequence[tuple[int, np.ndarray]]) -> list[list[str]]:
            pixels = self._processor(images=[image for _, image in batch], return_tensors="pt")["pixel_values"]
            with seeded(seed + batch[0][0], self._placement.device):
                tokens = self._model.generate(
                    pixel_values=pixels.to(self._placement.device, self._placement.dtype),
                    do_sample=True,
                    top_p=TOP_P,
                    top_k=0,
                    num_beams=1,
                    num_return_sequences=candidates,
                    max_new_tokens=MAX_TOKENS,
                )
            texts = [tidy(text) for text in self._tokenizer.batch_decode(tokens, skip_special_tokens=True)]
            return [texts[i : i + candidates] for i in range(0, len(texts), candidates)]

        return [captions for batch in self._batches.map(draw, list(enumerate(images))) for captions in batch]
