"""A small MAGMA with random weights: a checkpoint with its own names, as DeepSpeed pickles it, and a tokenizer."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

LANGUAGE = {"n_embd": 32, "n_layer": 2, "n_head": 2, "rotary_dim": 8}
VISION = {"layers": (1, 1, 1, 1), "width": 8, "image_size": 64}
PADDED = 7  # rows of lm_head that no token has: GPT-J has 142 with MAGMA's tokenizer
TEXTS = ["a person stands on the grass.", "A picture of a person who sits on the grass."]


def tokenizer_file(folder: Path) -> Path:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"])
    bpe.train_from_iterator(TEXTS * 2, trainer)
    bpe.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def state(words: int) -> dict[str, torch.Tensor]:
    """A state_dict of MAGMA's class: names and shapes as its code makes them, second names of shared ones included."""
    draw, wide = torch.Generator().manual_seed(0), LANGUAGE["n_embd"]

    def tensor(*shape: int, around: float = 0) -> torch.Tensor:
        return around + torch.randn(shape, generator=draw) * (0.1 if around else 0.3)

    def linear(name: str, inside: int, outside: int) -> dict[str, torch.Tensor]:
        return {f"{name}.weight": tensor(outside, inside), f"{name}.bias": tensor(outside)}

    def norm(name: str, width: int) -> dict[str, torch.Tensor]:
        return {f"{name}.weight": tensor(width, around=1), f"{name}.bias": tensor(width)}

    made: dict[str, torch.Tensor] = {"lm.transformer.wte.weight": tensor(words, wide)}
    for block in (f"lm.transformer.h.{n}" for n in range(LANGUAGE["n_layer"])):
        made |= norm(f"{block}.ln_1", wide)
        made |= {f"{block}.attn.attention.{name}_proj.weight": tensor(wide, wide) for name in ("k", "v", "q", "out")}
        constants = {"bias": torch.ones(1, 1, 64, 64).tril().bool(), "masked_bias": torch.tensor(-1e9)}
        constants |= {"scale_attn": torch.tensor(4.0), "sin": torch.zeros(64, 4), "cos": torch.ones(64, 4)}
        made |= {f"{block}.attn.attention.{name}": value for name, value in constants.items()}
        made |= linear(f"{block}.mlp.0.c_fc", wide, 4 * wide) | linear(f"{block}.mlp.0.c_proj", 4 * wide, wide)
        made |= linear(f"{block}.mlp.1.adapter.0", wide, wide // 4) | linear(
            f"{block}.mlp.1.adapter.2", wide // 4, wide
        )
    made |= norm("lm.transformer.ln_f", wide) | linear("lm.lm_head", wide, words + PADDED)
    made |= {"word_embedding.weight": made["lm.transformer.wte.weight"]}
    made |= {n.removeprefix("lm."): t for n, t in made.items() if n.startswith("lm.transformer.h.")}
    made = {
        n.replace("transformer.h.", "transformer.", 1) if n.startswith("transformer.h.") else n: t
        for n, t in made.items()
    }

    def conv(name: str, inside: int, outside: int, size: int) -> dict[str, torch.Tensor]:
        return {f"image_prefix.enc.{name}.weight": tensor(outside, inside, size, size) / (inside * size**2) ** 0.5 * 4}

    def batch_norm(name: str, width: int) -> dict[str, torch.Tensor]:
        statistics = {"running_mean": tensor(width), "running_var": tensor(width, around=1).abs()}
        counter = {"num_batches_tracked": torch.tensor(9)}
        named = {f"image_prefix.enc.{name}.{key}": value for key, value in (statistics | counter).items()}
        return norm(f"image_prefix.enc.{name}", width) | named

    width = VISION["width"]
    for n, (inside, outside) in enumerate([(3, width // 2), (width // 2, width // 2), (width // 2, width)], 1):
        made |= conv(f"conv{n}", inside, outside, 3) | batch_norm(f"bn{n}", outside)
    inside = width
    for n in range(1, 5):
        block, narrow = f"layer{n}.0", width * 2 ** (n - 1)
        made |= conv(f"{block}.conv1", inside, narrow, 1) | batch_norm(f"{block}.bn1", narrow)
        made |= conv(f"{block}.conv2", narrow, narrow, 3) | batch_norm(f"{block}.bn2", narrow)
        made |= conv(f"{block}.conv3", narrow, 4 * narrow, 1) | batch_norm(f"{block}.bn3", 4 * narrow)
        made |= conv(f"{block}.downsample.0", inside, 4 * narrow, 1) | batch_norm(f"{block}.downsample.1", 4 * narrow)
        inside = 4 * narrow
    return made | linear("image_prefix.proj", inside, wide) | norm("image_prefix.ln", wide)


def checkpoint(folder: Path, tensors: dict[str, Any]) -> Path:
    """As DeepSpeed saves it: the state beside what the training left."""
    saved = {"module": OrderedDict(tensors), "global_step": 150_000, "config": {"lr": 8e-4}, "ds_version": "0.5.9"}
    torch.save(saved, folder / "magma.pt")
    return folder / "magma.pt"
