"""Small vision-language models with random weights, saved like real ones: folders as the hub has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TEXTS = [
    "a person stands on the grass.",
    "a person sits on the grass, in front of a house.",
    'user Describe this person. Does this figure show "a person"? Please answer yes or no. assistant',
    "Yes", "No", "yes", "no",
]  # fmt: skip
CHAT = (
    "{% for message in messages %}{{ message['role'] }} {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}{% endfor %}END {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)
TEXT_MODEL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def tokenizer(of_class: type, *special: str) -> Any:
    """A byte-level tokenizer that has a token for each word of ``TEXTS``, and special ones, the first of which ends."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, special_tokens=[*special, "<pad>"])
    bpe.train_from_iterator(TEXTS * 2, trainer)
    return of_class(tokenizer_object=bpe, eos_token=special[0], pad_token="<pad>", bos_token=None, unk_token=None)


def smolvlm(folder: Path) -> None:
    """SmolVLM-Instruct is an Idefics3: SigLIP's eyes, whose patches are shuffled together, and a Llama."""
    import transformers

    tokens = tokenizer(
        transformers.GPT2TokenizerFast, "<end_of_utterance>", "<image>", "<fake_token_around_image>", "<global-img>"
    )
    size = {"longest_edge": 32}
    transformers.Idefics3Processor(
        transformers.Idefics3ImageProcessor(size=size, max_image_size=size, do_image_splitting=False),
        tokens,
        image_seq_len=4,
        chat_template=CHAT.replace("IMAGE", "<image>").replace("END", "<end_of_utterance>"),
    ).save_pretrained(folder)
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    _save(
        transformers.Idefics3ForConditionalGeneration,
        transformers.Idefics3Config(
            vision_config=vision | {"image_size": 32, "patch_size": 8},
            text_config=TEXT_MODEL | {"model_type": "llama", "vocab_size": len(tokens)},
            image_token_id=tokens.convert_tokens_to_ids("<image>"),
            scale_factor=2,
            pad_token_id=tokens.pad_token_id,
        ),
        tokens,
        folder,
    )


def qwen2_vl(folder: Path) -> None:
    """A Qwen2-VL: images of any size, of which each becomes as many tokens as it is large, and positions in 3D."""
    import transformers

    names = ("<|im_end|>", "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    tokens = tokenizer(transformers.Qwen2TokenizerFast, *names)
    pixels = {"min_pixels": 28 * 28, "max_pixels": 56 * 56}
    transformers.Qwen2VLProcessor(
        transformers.Qwen2VLImageProcessor(**pixels),
        tokens,
        transformers.Qwen2VLVideoProcessor(),
        chat_template=CHAT.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>").replace("END", "<|im_end|>"),
    ).save_pretrained(folder)
    image, video, start, end = (tokens.convert_tokens_to_ids(name) for name in names[1:])
    text = TEXT_MODEL | {"vocab_size": len(tokens), "rope_scaling": {"type": "mrope", "mrope_section": [2, 2, 4]}}
    _save(
        transformers.Qwen2VLForConditionalGeneration,
        transformers.Qwen2VLConfig(
            text_config=text,
            vision_config={"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2},
            image_token_id=image,
            video_token_id=video,
            vision_start_token_id=start,
            vision_end_token_id=end,
        ),
        tokens,
        folder,
    )


def _save(of_class: Any, config: Any, tokens: Any, folder: Path) -> None:
    import transformers

    transformers.set_seed(0)
    model = of_class(config)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = (
        tokens.eos_token_id,
        tokens.pad_token_id,
    )
    model.generation_config.temperature, model.generation_config.do_sample = 1e-6, True  # as Qwen2.5-VL's
    model.save_pretrained(folder, safe_serialization=True)
