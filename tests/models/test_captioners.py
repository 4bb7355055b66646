"""The captioners, on small models with random weights, saved and loaded like real ones."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from include.models.errors import ModelError, ModelUsageError
from include.models.profiles import load_profile
from tests.models.tiny_coca import COCA, seeded_coca

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "person", "stands", "sits", "on", "the", "grass", ".", ",")


@pytest.fixture(scope="module")
def coca_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return seeded_coca(tmp_path_factory.mktemp("coca"))


def coca(files: tuple[Path, Path], **options: Any) -> Any:
    from include.models.coca import CoCa

    given: dict[str, Any] = {"model": "coca_tiny", "tag": "test", "precision": "fp32", "config": files[1], "threads": 1}
    return CoCa(files[0], **(given | options))


def blip(folder: Path) -> None:
    """A BLIP of a few thousand weights, with a tokenizer of a few words."""
    import transformers

    (folder / "vocab.txt").write_text("\n".join(WORDS))
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    ids = {"bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3, "pad_token_id": 0}
    text = size | ids | {"vocab_size": len(WORDS), "encoder_hidden_size": 32, "projection_dim": 32}
    text |= {"is_decoder": True, "max_position_embeddings": 64}
    config = transformers.BlipConfig(text_config=text, vision_config=size | {"image_size": 32, "patch_size": 16})
    transformers.set_seed(0)
    transformers.BlipForConditionalGeneration(config).save_pretrained(folder, safe_serialization=True)
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    transformers.BlipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)


def vision_encoder_decoder(folder: Path) -> None:
    """A ViT with a BERT as decoder; like many of the hub, without a processor of its own."""
    import transformers

    (folder / "vocab.txt").write_text("\n".join(WORDS))
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    encoder = transformers.ViTConfig(**size, image_size=32, patch_size=16)
    decoder = transformers.BertConfig(
        **size, vocab_size=len(WORDS), is_decoder=True, add_cross_attention=True, max_position_embeddings=64
    )
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 2, 0, 3
    transformers.set_seed(0)
    transformers.VisionEncoderDecoderModel(config).save_pretrained(folder, safe_serialization=True)
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    import include.models.torchvision_cpu  # noqa: F401  (transformers imports torchvision)

    folders = {"blip": tmp_path_factory.mktemp("blip"), "vit-bert": tmp_path_factory.mktemp("vit-bert")}
    blip(folders["blip"])
    vision_encoder_decoder(folders["vit-bert"])
    return folders


def image_to_text(folder: Path, **options: Any) -> Any:
    from include.models.huggingface import ImageToText

    return ImageToText(folder, **({"model": "test/tiny", "precision": "fp32", "device": "cpu"} | options))


@pytest.fixture(scope="module", params=["coca", "blip", "vit-bert"])
def captioner(request: pytest.FixtureRequest, coca_files: tuple[Path, Path], hub: dict[str, Path]) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("include.models.coca.MAX_TOKENS", 6)  # each sorts 49,408 probabilities
        is_coca = request.param == "coca"
        yield coca(coca_files, batch_size=2) if is_coca else image_to_text(hub[request.param], batch_size=2)


def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (*size, 3), dtype=np.uint8) for size in ((64, 64), (50, 170), (300, 20))]


def test_every_image_gets_as_many_captions_as_asked_for_and_they_differ(captioner: Any) -> None:
    described = captioner.describe(images(), 4, seed=1)
    assert [len(captions) for captions in described] == [4, 4, 4]
    assert len({caption for captions in described for caption in captions}) >= 10


def test_the_same_seed_gives_the_same_captions_and_another_seed_others(captioner: Any) -> None:
    described = captioner.describe(images(), 2, seed=1)
    assert captioner.describe(images(), 2, seed=1) == described
    assert captioner.describe(images(), 2, seed=2) != described


def test_the_batch_size_decides_captions_and_is_recorded(coca_files: tuple[Path, Path]) -> None:
    alone, together = (coca(coca_files, batch_size=size).describe(images(), 2, seed=1) for size in (1, 3))
    assert alone != together
    for profile in ("standard", "wholebody", "large"):
        assert load_profile(profile).params("captioner")["batch_size"] >= 1


def test_threads_and_whatever_else_draws_make_no_difference(captioner: Any) -> None:
    import torch

    alone = {seed: captioner.describe(images(), 2, seed=seed) for seed in range(2)}
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    with ThreadPoolExecutor(2) as pool:
        together = dict(zip(alone, pool.map(lambda seed: captioner.describe(images(), 2, seed), alone), strict=True))
    assert together == alone
    assert torch.equal(torch.rand(3), expected)  # the process's own generator is unchanged


def test_captions_are_clean_text(captioner: Any) -> None:
    for caption in chain.from_iterable(captioner.describe(images(), 4, seed=3)):
        assert caption == " ".join(caption.split())
        assert not re.search(r"<start_of_text>|<end_of_text>|\[(PAD|CLS|SEP)\]|</w>|\s[.,]", caption)


def test_nothing_in_nothing_out(captioner: Any) -> None:
    assert captioner.describe([], 4, seed=0) == []


def test_running_out_of_memory_halves_the_batch_and_goes_on(
    captioner: Any, monkeypatch: pytest.MonkeyPatch, coca_files: tuple[Path, Path]
) -> None:
    import torch

    generate, sizes = captioner._model.generate, []

    def small(*args: Any, **options: Any) -> Any:
        pixels = args[0] if args else options["pixel_values"]
        sizes.append(len(pixels) // (2 if args else 1))  # CoCa gets each image once for each candidate
        if sizes[-1] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return generate(*args, **options)

    monkeypatch.setattr(captioner._model, "generate", small)
    monkeypatch.setattr(captioner._batches, "size", 2)
    assert [len(captions) for captions in captioner.describe(images(), 2, seed=1)] == [2, 2, 2]
    assert sizes == [2, 1, 1, 1]


def test_coca_leaves_out_what_follows_the_end_and_a_word_cut_in_two(coca_files: tuple[Path, Path]) -> None:
    captioner = coca(coca_files)
    start, end = captioner._tokenizer.sot_token_id, captioner._tokenizer.eot_token_id
    tokens = [start, *captioner._tokenizer.encode("a person stands on the grass .")]
    assert captioner._text([*tokens, end, 0, 0]) == "a person stands on the grass . "
    assert captioner._text([*tokens, 0, 0, 0]) == "a person stands on the grass . "
    half = next(token for token, text in captioner._tokenizer.decoder.items() if text.isalpha())
    assert captioner._text([*tokens, half, end]).rstrip() == "a person stands on the grass ."
    assert captioner._text([start, end]) == ""


def test_coca_encodes_an_image_once_however_many_captions_it_is_to_have(coca_files: tuple[Path, Path]) -> None:
    captioner, encoded = coca(coca_files, batch_size=2), []
    captioner._model.visual.register_forward_pre_hook(lambda _, pixels: encoded.append(len(pixels[0])))
    captioner.describe(images(), 4, seed=1)
    assert encoded == [2, 1]


def test_coca_draws_what_it_draws_where_it_encodes_the_images_itself(coca_files: tuple[Path, Path]) -> None:
    import torch

    from include.models.coca import MAX_TOKENS, TOP_P
    from include.models.sampling import tidy

    captioner, crops = coca(coca_files), images()
    described = captioner.describe(crops, 2, seed=1)
    del captioner._model._encode_image
    torch.manual_seed(1)
    pixels = captioner._preprocess(crops).repeat_interleave(2, 0)
    tokens = captioner._model.generate(pixels, seq_len=MAX_TOKENS, generation_type="top_p", top_p=TOP_P).tolist()
    assert list(chain.from_iterable(described)) == [tidy(captioner._text(row)) for row in tokens]


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", ["blip", "vit-bert"])
def test_crops_of_one_or_three_rows_keep_their_colour(name: str, rows: int, hub: dict[str, Path]) -> None:
    captioner, orange = image_to_text(hub[name]), np.uint8([250, 120, 10])
    low, high = (captioner._prepare([np.tile(orange, (height, 50, 1))]) for height in (rows, 40))
    assert low.shape == (1, 3, 32, 32)
    np.testing.assert_array_equal(low, high)
    assert len(captioner.describe([np.tile(orange, (rows, 50, 1)), *images()], 2, seed=1)) == 4


def test_captioners_in_half_precision(coca_files: tuple[Path, Path], hub: dict[str, Path]) -> None:
    for captioner in (coca(coca_files, precision="bf16"), image_to_text(hub["blip"], precision="bf16")):
        assert [len(captions) for captions in captioner.describe(images(), 2, seed=1)] == [2, 2, 2]


def test_a_clip_is_no_captioner(coca_files: tuple[Path, Path], tmp_path: Path) -> None:
    import open_clip
    from safetensors.torch import save_file

    config, weights = tmp_path / "clip_no_captions.json", tmp_path / "clip.safetensors"
    tower = {name: COCA["vision_cfg"][name] for name in ("image_size", "layers", "width", "patch_size", "head_width")}
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1}
    config.write_text(json.dumps({"embed_dim": 32, "vision_cfg": tower, "text_cfg": text}))
    open_clip.add_model_config(config)
    save_file(open_clip.create_model("clip_no_captions").state_dict(), weights)
    with pytest.raises(ModelUsageError, match=r"coca_ViT-B-32.*\[bad-profile\]$"):
        coca((weights, config), model="clip_no_captions")


def test_weights_of_another_model_are_one_readable_line(coca_files: tuple[Path, Path], tmp_path: Path) -> None:
    config = tmp_path / "coca_deeper.json"
    config.write_text(json.dumps(COCA | {"text_cfg": COCA["text_cfg"] | {"layers": 2}}))
    with pytest.raises(ModelError, match=r" coca_deeper: .*\[wrong-weights\]$") as caught:
        coca((coca_files[0], config), model="coca_deeper")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["model.safetensors", "tokenizer_config.json", "preprocessor_config.json"])
def test_an_incomplete_folder_is_one_readable_line(missing: str, hub: dict[str, Path], tmp_path: Path) -> None:
    for file in hub["blip"].iterdir():
        if file.name != missing and not (missing.startswith("tokenizer") and file.name in ("vocab.txt",)):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ModelError, match=r"\[wrong-weights\]$") as caught:
        image_to_text(tmp_path)
    assert "\n" not in str(caught.value)


def copied(folder: Path, to: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A copy of a folder of the hub, with changed weights."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, to, dirs_exist_ok=True)
    weights = load_file(to / "model.safetensors")
    change(weights)
    save_file(weights, to / "model.safetensors", {"format": "pt"})
    return to


def test_missing_weights_are_one_readable_line(hub: dict[str, Path], tmp_path: Path) -> None:
    def leave_out(weights: dict[str, Any]) -> None:
        del weights["text_decoder.cls.predictions.transform.dense.bias"]
        del weights["vision_model.embeddings.patch_embedding.weight"]

    says = r"2 are missing or of another shape, the first is text_decoder\.cls\.predictions\.transform\.dense\.bias;"
    with pytest.raises(ModelError, match=says) as caught:
        image_to_text(copied(hub["blip"], tmp_path, leave_out))
    assert "\n" not in str(caught.value)


def test_weights_of_another_shape_are_one_readable_line(hub: dict[str, Path], tmp_path: Path) -> None:
    name = "vision_model.embeddings.patch_embedding.bias"
    smaller = copied(hub["blip"], tmp_path, lambda weights: weights.update({name: weights[name][:16]}))
    with pytest.raises(ModelError, match=rf" 1 .* {name}; .*\[wrong-weights\]$") as caught:
        image_to_text(smaller)
    assert "\n" not in str(caught.value)


def test_weights_that_captions_do_not_need_may_be_missing(hub: dict[str, Path], tmp_path: Path) -> None:
    def leave_out(weights: dict[str, Any]) -> None:
        del weights["encoder.pooler.dense.weight"], weights["encoder.pooler.dense.bias"]

    without = image_to_text(copied(hub["vit-bert"], tmp_path, leave_out))
    assert without.describe(images(), 2, seed=1) == image_to_text(hub["vit-bert"]).describe(images(), 2, seed=1)
