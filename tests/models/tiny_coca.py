"""A small CoCa with random weights and the real tokenizer, saved like real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

COCA: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {
        "image_size": 64,
        "layers": 1,
        "width": 64,
        "patch_size": 16,
        "head_width": 32,
        "attentional_pool": True,
        "attn_pooler_heads": 2,
        "output_tokens": True,
    },
    "text_cfg": {
        "context_length": 76,
        "vocab_size": 49408,
        "width": 64,
        "heads": 2,
        "layers": 1,
        "embed_cls": True,
        "output_tokens": True,
    },
    "multimodal_cfg": {
        "context_length": 76,
        "vocab_size": 49408,
        "width": 64,
        "heads": 2,
        "layers": 1,
        "attn_pooler_heads": 2,
    },
    "custom_text": True,
}


def seeded_coca(folder: Path) -> tuple[Path, Path]:
    """Weights and configuration of the model ``coca_tiny``."""
    import include.models.openclip  # noqa: F401

    import open_clip  # isort: skip
    import torch
    from safetensors.torch import save_file

    weights, config = folder / "coca_tiny.safetensors", folder / "coca_tiny.json"
    config.write_text(json.dumps(COCA))
    open_clip.add_model_config(config)
    torch.manual_seed(0)
    state = open_clip.create_model("coca_tiny").state_dict()
    # OpenCLIP 3.3 leaves this uninitialised (MultimodalTransformer never calls its init_parameters).
    torch.nn.init.normal_(state["text_decoder.text_projection"], std=64**-0.5)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, weights)
    return weights, config
