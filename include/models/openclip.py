"""OpenCLIP: images and texts in one space (https://github.com/mlfoundations/open_clip)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image

import include.models.torchvision_cpu  # noqa: F401  (must come before open_clip, which imports torchvision)
from include.models.runtime import Pool

import open_clip  # isort: skip

Item = TypeVar("Item")


class OpenClip:
    """A CLIP of OpenCLIP's, built in or described by a configuration file, with weights from a local file."""

    def __init__(
        self,
        weights: Path,
        *,
        model: str,
        tag: str,
        config: Path | None = None,
        resize_mode: str | None = None,
        batch_size: int,
        device: str | None = None,
        threads: int | None = None,
    ) -> None:
        """Opens the model.

        model: OpenCLIP's name, for ``config`` the file's stem; tag: which weights, completes ``name``; resize_mode:
        ``shortest`` (and crop), ``longest`` (and pad) or ``squash``, default what the model was published with;
        batch_size: images or texts a pass; device: default the GPU if there is one; threads: default all cores.
        """
        self.name = f"{model}/{tag}"
        if config is not None and model not in open_clip.list_models():
            open_clip.add_model_config(config)
        self._pool, self._batch_size = Pool(threads), batch_size
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        torch.set_num_threads(self._pool.threads)
        # A path loads without the hub, safetensors or with weights_only: code in a pickle is never run.
        self._model, self._preprocess = open_clip.create_model_from_pretrained(
            model, pretrained=str(weights), device=self._device, image_resize_mode=resize_mode
        )
        self._model.eval()
        self._tokenize = open_clip.get_tokenizer(model)
        self._dimensions = int(open_clip.get_model_config(model)["embed_dim"])

    def encode_images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Unit vectors float32 [images, dimensions]; images are resized and cropped in the model's own way."""

        def encode(batch: Sequence[np.ndarray]) -> torch.Tensor:
            pixels = torch.stack(self._pool.map(lambda image: self._preprocess(Image.fromarray(image)), batch))
            return self._model.encode_image(pixels.to(self._device), normalize=True)

        return self._encode(encode, images)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors float32 [texts, dimensions]; the tokenizer cuts texts off at the model's context length."""
        return self._encode(
            lambda batch: self._model.encode_text(self._tokenize(list(batch)).to(self._device), normalize=True), texts
        )

    @torch.inference_mode()
    def _encode(self, encode: Callable[[Sequence[Item]], torch.Tensor], items: Sequence[Item]) -> np.ndarray:
        batches = [items[i : i + self._batch_size] for i in range(0, len(items), self._batch_size)]
        vectors = [encode(batch).float().cpu().numpy() for batch in batches]
        return np.concatenate(vectors) if vectors else np.empty((0, self._dimensions), np.float32)
