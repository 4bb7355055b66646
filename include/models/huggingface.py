"""Image-to-text models of the Hugging Face hub, such as BLIP, GIT or a ViT with GPT-2, from a local folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import include.models.torchvision_cpu  # noqa: F401  (must come before transformers, which imports torchvision)
from include.models.errors import ModelError
from include.models.sampling import MAX_TOKENS, TOP_P, Sampler

from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer  # isort: skip

# Not used for captions. Every VisionEncoderDecoderModel has it, but not all of their checkpoints
# (https://github.com/huggingface/transformers/issues/14017).
UNUSED = "encoder.pooler."


class ImageToText(Sampler):
    """A captioner that needs no prompt; captions are drawn by nucleus sampling. May be called from several threads."""

    def __init__(self, folder: Path, *, model: str, precision: str, device: str = "auto", batch_size: int = 16) -> None:
        """Opens the model in ``folder``, a snapshot of its repository with weights as safetensors. Nothing is fetched,
        and code of the repository is not run.

        model: the repository's name, written with every caption; precision, device: see ``placement.place``;
        batch_size: images a pass, at most; captions are drawn for a whole batch, so it decides results.

        Raises ModelError if the folder holds no such model, or not all of its weights.
        """
        super().__init__(device, precision, batch_size)
        self.name = model
        local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            self._processor = AutoImageProcessor.from_pretrained(folder, use_fast=False, **local)
            self._tokenizer = AutoTokenizer.from_pretrained(folder, **local)
            loaded: Any = AutoModelForImageTextToText.from_pretrained(
                folder,
                use_safetensors=True,
                dtype=self._placement.dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported like missing ones, instead of a long error
                **local,
            )
        except (OSError, ValueError, TypeError) as error:  # TypeError: a vocabulary is missing
            reason = str(error).strip().splitlines()[0]
            raise ModelError(
                "wrong-weights", f"{folder} holds no image-to-text model with safetensors: {reason}"
            ) from error
        opened, loading = loaded
        # Lacking weights are random now. Weights stored once and used twice are not reported as missing.
        lacking = [key for key in loading["missing_keys"] + loading["mismatched_keys"] if not key.startswith(UNUSED)]
        if lacking:
            raise ModelError(
                "wrong-weights",
                f"{folder} holds not all weights of its model: {len(lacking)} are missing or of another shape, the "
                f"first is {lacking[0]}; choose another model or revision",
            )
        self._model = opened.to(self._placement.device).eval()

    def _prepare(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        # Else it takes images of one or three rows for channels first.
        read = self._processor(images=list(images), input_data_format="channels_last", return_tensors="pt")
        return read["pixel_values"].to(self._placement.device, self._placement.dtype)

    def _draw(self, pixels: torch.Tensor, candidates: int) -> list[str]:
        tokens = self._model.generate(
            pixel_values=pixels,
            do_sample=True,
            top_p=TOP_P,
            top_k=0,
            num_beams=1,
            num_return_sequences=candidates,
            max_new_tokens=MAX_TOKENS,
        )
        return self._tokenizer.batch_decode(tokens, skip_special_tokens=True)
