"""MAGMA on a small seeded checkpoint that has the names, shapes and wrapping of the published one."""

from __future__ import annotations

import errno
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from include.models import checkpoints, fetching
from include.models.checkpoints import Cache, Checkpoint, digest
from include.models.errors import ModelError
from include.models.profiles import Profile, Role
from tests.models import tiny_magma

PROMPT = "A picture of"
State = dict[str, Any]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_magma.tokenizer_file(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def state(tokenizer: Path) -> State:
    from tokenizers import Tokenizer

    return tiny_magma.state(Tokenizer.from_file(str(tokenizer)).get_vocab_size() + 1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, state: State) -> Path:
    from include.models.statedict import reduce

    folder = tmp_path_factory.mktemp("magma")
    reduce(tiny_magma.checkpoint(folder, state), folder / "magma.safetensors", checkpoints.find("magma").omits)
    return folder / "magma.safetensors"


def opened(weights: Path, tokenizer: Path, **options: Any) -> Any:
    from include.models.magma import Magma

    sizes = {"language": tiny_magma.LANGUAGE, "vision": tiny_magma.VISION}
    given = {"model": "magma/tiny", "precision": "fp32", "device": "cpu", "batch_size": 2, "threads": 1}
    return Magma(weights, tokenizer, **(given | {"prompt": PROMPT} | sizes | options))


@pytest.fixture(scope="module")
def captioner(weights: Path, tokenizer: Path) -> Any:
    return opened(weights, tokenizer)


def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (*size, 3), dtype=np.uint8) for size in ((64, 64), (50, 170), (300, 20))]


def by_hand(state: State, pixels: Any, prompt: list[int]) -> Any:
    """Logits [images, tokens, words] by the paper and by the names of the checkpoint, without any model's code."""
    import torch
    from torch.nn.functional import avg_pool2d, conv2d, gelu, layer_norm, linear, relu

    def lin(name: str, x: Any) -> Any:
        return linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))

    def norm(name: str, x: Any) -> Any:
        return layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    def conv_norm(conv: str, norm: str, x: Any, stride: int = 1) -> Any:
        kernel = state[f"image_prefix.enc.{conv}.weight"]
        of = {key: state[f"image_prefix.enc.{norm}.{key}"][:, None, None] for key in ("weight", "bias")}
        mean, var = (state[f"image_prefix.enc.{norm}.running_{key}"][:, None, None] for key in ("mean", "var"))
        x = conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        return (x - mean) / (var + 1e-5).sqrt() * of["weight"] + of["bias"]

    x = pixels
    for n in (1, 2, 3):
        x = relu(conv_norm(f"conv{n}", f"bn{n}", x, stride=2 if n == 1 else 1))
    x = avg_pool2d(x, 2)
    for n in range(1, 5):
        block = f"layer{n}.0"
        y = relu(conv_norm(f"{block}.conv1", f"{block}.bn1", x))
        y = relu(conv_norm(f"{block}.conv2", f"{block}.bn2", y))
        y, x = (avg_pool2d(y, 2), avg_pool2d(x, 2)) if n > 1 else (y, x)
        x = conv_norm(f"{block}.downsample.0", f"{block}.downsample.1", x)
        x = relu(x + conv_norm(f"{block}.conv3", f"{block}.bn3", y))
    cells = torch.stack([x[:, :, row, column] for row in range(x.shape[2]) for column in range(x.shape[3])], 1)
    seen = norm("image_prefix.ln", lin("image_prefix.proj", cells))
    x = torch.cat([seen, state["lm.transformer.wte.weight"][prompt].expand(len(seen), -1, -1)], 1)

    heads, turned = tiny_magma.LANGUAGE["n_head"], tiny_magma.LANGUAGE["rotary_dim"]
    angles = torch.outer(torch.arange(x.shape[1]), 10_000 ** (-torch.arange(0, turned, 2) / turned))
    turn = torch.polar(torch.ones_like(angles), angles)[:, None]

    def rotate(x: Any) -> Any:
        pairs = torch.view_as_complex(x[..., :turned].unflatten(-1, (-1, 2)).contiguous())
        return torch.cat([torch.view_as_real(pairs * turn).flatten(-2), x[..., turned:]], -1)

    for block in (f"lm.transformer.h.{n}" for n in range(tiny_magma.LANGUAGE["n_layer"])):
        h = norm(f"{block}.ln_1", x)
        q, k, v = (lin(f"{block}.attn.attention.{name}_proj", h).unflatten(-1, (heads, -1)) for name in "qkv")
        scores = torch.einsum("bihd,bjhd->bhij", rotate(q), rotate(k)) / q.shape[-1] ** 0.5
        ahead = torch.ones(scores.shape[-2:]).triu(1).bool()
        seen_values = torch.einsum("bhij,bjhd->bihd", scores.masked_fill(ahead, -torch.inf).softmax(-1), v).flatten(2)
        attended = lin(f"{block}.attn.attention.out_proj", seen_values)
        fed = lin(f"{block}.mlp.0.c_proj", gelu(lin(f"{block}.mlp.0.c_fc", h), approximate="tanh"))
        adapted = fed + lin(f"{block}.mlp.1.adapter.2", relu(lin(f"{block}.mlp.1.adapter.0", fed)))
        x = x + attended + adapted
    return lin("lm.lm_head", norm("lm.transformer.ln_f", x))


def logits(captioner: Any) -> Any:
    import torch

    with torch.inference_mode():
        return captioner._lm(**captioner._prepare(images())).logits


def test_it_reckons_as_the_paper_and_its_code_say(captioner: Any, state: State) -> None:
    import torch

    by_model, cells = logits(captioner), (tiny_magma.VISION["image_size"] // 32) ** 2
    prompt = captioner._tokenizer.encode(PROMPT).ids
    expected = by_hand(state, captioner._preprocess(images()), prompt)[..., : -tiny_magma.PADDED]
    assert by_model.shape == (3, cells + len(prompt), len(state["lm.transformer.wte.weight"]))
    torch.testing.assert_close(by_model, expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "part", ["mlp.1.adapter.2.weight", "image_prefix.proj.weight", "image_prefix.enc.conv3.weight"]
)
def test_every_part_of_it_counts(part: str, captioner: Any, state: State) -> None:
    """The comparison above would see a part that is left out."""
    import torch

    without = {name: torch.zeros_like(value) if part in name else value for name, value in state.items()}
    changed = by_hand(without, captioner._preprocess(images()), captioner._tokenizer.encode(PROMPT).ids)
    assert (changed[..., : -tiny_magma.PADDED] - logits(captioner)).abs().max() > 0.05


def test_captions_are_drawn_by_seed_whatever_else_runs(captioner: Any) -> None:
    described = captioner.describe(images(), 3, seed=1)
    assert [len(captions) for captions in described] == [3, 3, 3]
    assert len({caption for captions in described for caption in captions}) >= 8
    with ThreadPoolExecutor(2) as pool:
        again, other = pool.map(lambda seed: captioner.describe(images(), 3, seed), (1, 2))
    assert again == described and other != described
    assert captioner.describe([], 3, seed=1) == []


def test_a_caption_ends_where_the_text_does_or_with_a_whole_word(captioner: Any) -> None:
    said = captioner._tokenizer.encode(" who sits on the grass. A per").ids
    assert captioner._text([*said, captioner._end, *said]) == " who sits on the grass. A per"
    assert captioner._text(said) == " who sits on the grass."
    assert captioner._text([captioner._end]) == ""


def test_the_prompt_decides_captions_and_may_be_left_out(weights: Path, tokenizer: Path, captioner: Any) -> None:
    without = opened(weights, tokenizer, prompt="")
    assert without._prepare(images())["inputs_embeds"].shape[1] == 4
    assert without.describe(images(), 2, seed=1) != captioner.describe(images(), 2, seed=1)


def test_in_half_precision(weights: Path, tokenizer: Path) -> None:
    described = opened(weights, tokenizer, precision="bf16").describe(images(), 2, seed=1)
    assert [len(captions) for captions in described] == [2, 2, 2]


def test_the_pickle_is_reduced_to_what_the_model_needs(weights: Path, state: State) -> None:
    from safetensors.torch import load_file

    assert set(load_file(weights)) == {name for name in state if name.startswith(("lm.", "image_prefix."))}


def renamed(old: str, new: str) -> Callable[[State], Any]:
    return lambda state: state.update({new: state.pop(old)})


BLOCK = "lm.transformer.h.1"
WRONG: dict[str, tuple[Callable[[State], Any], str]] = {
    **{
        f"without {name}": (lambda state, name=name: state.pop(name), rf"{name} is missing, the first of 1 ")
        for name in (
            "lm.transformer.wte.weight",
            "lm.lm_head.bias",
            f"{BLOCK}.attn.attention.out_proj.weight",
            f"{BLOCK}.mlp.0.c_fc.bias",
            f"{BLOCK}.mlp.1.adapter.0.weight",
            "image_prefix.enc.layer4.0.bn3.running_var",
            "image_prefix.ln.bias",
        )
    },
    "another name": (
        renamed(f"{BLOCK}.mlp.1.adapter.0.weight", f"{BLOCK}.mlp.adapter.0.weight"),
        rf"{BLOCK}.mlp.1.adapter.0.weight is missing, the first of 2 ",
    ),
    "one more": (
        lambda state: state.update({"image_prefix.enc.attnpool.bias": state["image_prefix.ln.bias"] + 1}),
        "belong",
    ),
    "another shape": (
        lambda state: state.update({"image_prefix.proj.weight": state["image_prefix.proj.weight"][:, :9].clone()}),
        r"image_prefix.proj.weight is \(32, 9\), not \(32, 256\)",
    ),
    "fewer words": (
        lambda state: state.update({"lm.transformer.wte.weight": state["lm.transformer.wte.weight"][:-1]}),
        r"lm.transformer.wte.weight is ",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_weights_of_another_model_are_one_readable_line(
    case: str, state: State, tokenizer: Path, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    change, says = WRONG[case]
    changed = {name: value.clone() for name, value in state.items()}
    change(changed)
    save_file(changed, tmp_path / "magma.safetensors")
    with pytest.raises(
        ModelError, match=rf"magma.safetensors is no checkpoint of MAGMA: .*{says}.*\[wrong-weights\]$"
    ) as error:
        opened(tmp_path / "magma.safetensors", tokenizer)
    assert "\n" not in str(error.value)


def test_files_that_are_something_else_are_one_readable_line(
    weights: Path, tokenizer: Path, state: State, tmp_path: Path
) -> None:
    (tmp_path / "vocabulary.json").write_text("{}")
    pickle = tiny_magma.checkpoint(tmp_path, state)
    for files in ((pickle, tokenizer), (weights, tmp_path / "vocabulary.json"), (weights, tmp_path / "none.json")):
        with pytest.raises(ModelError, match=r"\[wrong-weights\]$") as error:
            opened(*files)
        assert "\n" not in str(error.value)
    with pytest.raises(ModelError, match=r"none.json can't be read \(No such file or directory\): fetch it again "):
        opened(weights, tmp_path / "none.json")


@pytest.mark.parametrize("shortage", [MemoryError(), OSError(errno.EMFILE, "Too many open files")])
def test_the_machines_shortage_is_not_the_tokenizers_fault(
    shortage: Exception, weights: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(_: Path) -> bytes:
        raise shortage

    monkeypatch.setattr(Path, "read_bytes", short)
    with pytest.raises(type(shortage)) as error:
        opened(weights, tokenizer)
    assert error.value is shortage


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("code of the pickle ran",)


def test_a_profile_fetches_checks_and_opens_it_and_no_code_of_the_pickle_runs(
    state: State, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    (tmp_path / "mirror").mkdir()
    torch.save({"module": state, "lr_scheduler": Evil()}, tmp_path / "mirror/magma.pt")
    (tmp_path / "mirror/gpt2_tokenizer.json").write_bytes(tokenizer.read_bytes())
    for name in ("magma", "gpt2-tokenizer"):
        published = checkpoints.find(name)
        sha256 = digest(tmp_path / "mirror" / published.file)
        entry = Checkpoint(name, published.file, sha256, "", "", published.url, 0, published.omits)
        monkeypatch.setitem(checkpoints.CHECKPOINTS, name, entry)
    sizes = {"language": tiny_magma.LANGUAGE, "vision": tiny_magma.VISION}
    names = {"weights": "magma", "tokenizer": "gpt2-tokenizer"}
    role = Role("magma.Magma", names, {"model": "magma/tiny", "precision": "fp32"} | sizes)
    cache = Cache(tmp_path / "cache", str(tmp_path / "mirror"))
    profile = Profile("mine", "", "", {"captioner": role}, device="cpu", threads=1, cache=cache, fetches=True)
    assert profile.model_name("captioner") == "magma-gpt2-tokenizer"
    captions = profile.load("captioner").describe(images(), 1, seed=1)
    assert len(captions) == 3 and profile.fingerprint("captioner").keys() == {"magma", "gpt2-tokenizer"}
    assert fetching.fetch("magma", cache).name == "magma.pt.safetensors"
    assert "code of the pickle ran" not in capsys.readouterr().out


def test_the_real_size_has_the_tensors_of_the_published_file() -> None:
    """Their bytes in half precision are all of that file but half a megabyte of names and padding."""
    import torch

    from include.models.magma import GPT_J, RN50X16, _GPTJ, _Prefix  # isort: skip
    from transformers import GPTJConfig

    words, padded = 50_258, 50_400  # tokens of GPT-2 with <|image|>; rows of GPT-J's lm_head
    with torch.device("meta"):
        language, prefix = _GPTJ(GPTJConfig(vocab_size=words, **GPT_J)), _Prefix(RN50X16, GPT_J["n_embd"])
    values = sum(tensor.numel() for part in (language, prefix) for tensor in part.state_dict().values())
    values += (padded - words) * (GPT_J["n_embd"] + 1)
    rotation, mask = 2 * 2048 * GPT_J["rotary_dim"] // 2, 2048 * 2048  # constants of each block, the latter in bytes
    expected = 2 * (values + GPT_J["n_layer"] * rotation) + GPT_J["n_layer"] * mask
    assert 0 < checkpoints.find("magma").size - expected < 1_000_000
