"""MAGMA: a GPT-J that sees through a CLIP RN50x16 (https://arxiv.org/abs/2112.05253).

The image is resized as for CLIP. Each feature of the residual network's last grid (12 x 12, unpooled) becomes an
embedding by one linear layer and a layer norm; the prompt's embeddings follow, and GPT-J writes on. In each of its
blocks the feed-forward part is followed by an adapter, a small network whose output is added to its input.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import nn

import include.models.torchvision_cpu  # noqa: F401  (must come before transformers and open_clip: both import it)
from include.models.errors import ModelError
from include.models.preprocessing import Preprocessing
from include.models.sampling import MAX_TOKENS, Sampler, whole_sentences
from include.models.statedict import SHORTAGES

from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD  # isort: skip
from open_clip.modified_resnet import ModifiedResNet  # isort: skip
from transformers import GPTJConfig, GPTJForCausalLM  # isort: skip

GPT_J: Mapping[str, Any] = {"n_embd": 4096, "n_layer": 28, "n_head": 16, "rotary_dim": 64}
RN50X16: Mapping[str, Any] = {"layers": (6, 8, 18, 8), "width": 96, "image_size": 384}
NARROWER = 4  # is an adapter than its block: downsample_factor of MAGMA's configs/MAGMA_v1.yml
END_OF_TEXT = "<|endoftext|>"
# The checkpoint is of a GPT-Neo that a fork made to reckon as GPT-J does, and has its names:
# https://github.com/finetuneanon/transformers/blob/gpt-neo-localattention3-rp-b/src/transformers/models/gpt_neo/modeling_gpt_neo.py
RENAMED = ((".attn.", ".attn.attention."), (".mlp.0.fc_in.", ".mlp.0.c_fc."), (".mlp.0.fc_out.", ".mlp.0.c_proj."))
# Constants, a counter of the training, and what MAGMA's class has under a second name.
LEFT_OUT = re.compile(
    r".*\.attn\.attention\.(bias|masked_bias|scale_attn|sin|cos)|.*\.num_batches_tracked|(transformer|word_embedding)\..*"
)


class Magma(Sampler):
    """A captioner; captions are drawn by nucleus sampling. May be called from several threads."""

    def __init__(
        self,
        weights: Path,
        tokenizer: Path,
        *,
        model: str,
        precision: str,
        device: str = "auto",
        batch_size: int = 4,
        prompt: str = "",
        language: Mapping[str, Any] = GPT_J,
        vision: Mapping[str, Any] = RN50X16,
        threads: int | None = None,
    ) -> None:
        """Opens the model.

        weights: the tensors of MAGMA's checkpoint under their own names, as safetensors; tokenizer: GPT-2's
        ``tokenizer.json``; model: a name, written with every caption; precision, device: see ``placement.place``;
        batch_size: images a pass, at most; captions are drawn for a whole batch, so it decides results; prompt: words
        that the caption goes on from; without any it follows the image, as in the training; language, vision: what
        GPTJConfig and ModifiedResNet are made with; threads: default all cores.

        Raises ModelError for weights or a tokenizer of another model.
        """
        super().__init__(device, precision, batch_size, threads)
        self.name, self._tokenizer = model, _tokenizer(tokenizer)
        self._end = self._tokenizer.token_to_id(END_OF_TEXT)
        self._prompt = torch.tensor(self._tokenizer.encode(prompt).ids, dtype=torch.long, device=self._placement.device)
        config = GPTJConfig(
            vocab_size=self._tokenizer.get_vocab_size() + 1,  # with the token of an image, which is never read
            **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), self._end),
            **language,
        )
        with torch.device("meta"):
            shapes = nn.ModuleDict({"lm": _GPTJ(config), "image_prefix": _Prefix(vision, config.n_embd)}).state_dict()
        lm, prefix = _tensors(weights, shapes, config.vocab_size)
        self._lm: Any = _GPTJ.from_pretrained(None, config=config, state_dict=lm, dtype=self._placement.dtype)
        self._lm.to(self._placement.device).eval()
        self._prefix = _Prefix(vision, config.n_embd)
        self._prefix.load_state_dict(prefix, strict=False)  # all but the counters, as _tensors has checked
        self._prefix.to(self._placement.device, self._placement.dtype).eval()
        clip = {"mean": OPENAI_DATASET_MEAN, "std": OPENAI_DATASET_STD, "interpolation": "bicubic"}
        clip |= {"size": vision["image_size"], "resize_mode": "shortest"}
        self._preprocess = Preprocessing(clip, self._placement, self._pool)

    def _prepare(self, images: Sequence[np.ndarray]) -> Mapping[str, torch.Tensor]:
        seen = self._prefix(self._preprocess(images))
        words = self._lm.transformer.wte(self._prompt).expand(len(seen), -1, -1)
        embedded = torch.cat([seen, words], 1)
        return {"inputs_embeds": embedded, "attention_mask": embedded.new_ones(embedded.shape[:2], dtype=torch.long)}

    def _draw(self, inputs: Mapping[str, torch.Tensor], candidates: int) -> list[str]:
        return list(map(self._text, self._generate(self._lm, inputs, candidates, MAX_TOKENS).tolist()))

    def _text(self, tokens: list[int]) -> str:
        if self._end in tokens:
            return self._tokenizer.decode(tokens[: tokens.index(self._end)])
        return whole_sentences(self._tokenizer.decode(tokens))


class _Adapter(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        narrow = width // NARROWER
        self.adapter = nn.Sequential(nn.Linear(width, narrow), nn.ReLU(), nn.Linear(narrow, width))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + self.adapter(hidden)


class _GPTJ(GPTJForCausalLM):
    """GPT-J with an adapter behind the feed-forward part of each block."""

    def __init__(self, config: GPTJConfig) -> None:
        super().__init__(config)
        block: Any
        for block in self.transformer.h:
            block.mlp = nn.Sequential(block.mlp, _Adapter(config.n_embd))


class _Prefix(nn.Module):
    """Embeddings [images, cells, width] of what CLIP's residual network sees in each cell of its grid."""

    def __init__(self, vision: Mapping[str, Any], width: int) -> None:
        super().__init__()
        self.enc = ModifiedResNet(**vision, output_dim=1, heads=1)
        self.enc.attnpool = nn.Identity()
        self.proj = nn.Linear(32 * vision["width"], width)
        self.ln = nn.LayerNorm(width)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.ln(self.proj(self.enc(pixels).flatten(2).transpose(1, 2)))


def _tokenizer(file: Path) -> Tokenizer:
    try:
        content = file.read_bytes()  # not by tokenizers, whose errors don't say whether the machine is short of files
    except OSError as error:
        if error.errno in SHORTAGES:
            raise
        raise ModelError("wrong-weights", f"{file} can't be read ({error.strerror}): fetch it again") from None
    try:
        tokenizer = Tokenizer.from_buffer(content)
    except Exception as error:  # tokenizers knows no other class
        raise ModelError("wrong-weights", f"{file} is no tokenizer.json: {str(error).splitlines()[0][:300]}") from None
    if tokenizer.token_to_id(END_OF_TEXT) is None:
        raise ModelError("wrong-weights", f"{file} is not the tokenizer of GPT-2: it has no {END_OF_TEXT}")
    return tokenizer


def _tensors(weights: Path, shapes: Mapping[str, torch.Tensor], words: int) -> list[dict[str, torch.Tensor]]:
    """The tensors of ``lm`` and of ``image_prefix``, under the names that our modules have.

    Raises ModelError unless the file has each of ``shapes``, in its shape, and no other.
    """
    try:
        found = {name: tensor for name, tensor in load_file(weights).items() if not LEFT_OUT.fullmatch(name)}
    except (SafetensorError, OSError) as error:
        raise ModelError("wrong-weights", f"{weights}: {error}") from error
    for name in ("lm.lm_head.weight", "lm.lm_head.bias"):  # GPT-J's is padded with rows that no token has
        found |= {name: found[name][:words]} if name in found else {}
    theirs = {name: _their_name(name) for name in shapes if not LEFT_OUT.fullmatch(name)}
    wrong = [f"{name} is missing" for name in theirs.values() if name not in found]
    wrong += [f"{name} does not belong there" for name in sorted(found.keys() - theirs.values())]
    wrong += [
        f"{their} is {tuple(found[their].shape)}, not {tuple(shapes[our].shape)}"
        for our, their in theirs.items()
        if their in found and found[their].shape != shapes[our].shape
    ]
    if wrong:
        raise ModelError(
            "wrong-weights",
            f"{weights} is no checkpoint of MAGMA: {wrong[0]}, the first of {len(wrong)} that are wrong",
        )
    return [
        {our.removeprefix(part): found[their] for our, their in theirs.items() if our.startswith(part)}
        for part in ("lm.", "image_prefix.")
    ]


def _their_name(name: str) -> str:
    for ours, theirs in RENAMED:
        name = name.replace(ours, theirs)
    return name
