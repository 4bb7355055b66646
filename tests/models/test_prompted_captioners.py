"""Captioners that follow a prompt: small models of real architectures with random weights, saved and loaded like real
ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from include.models.errors import ModelError, ModelUsageError
from include.models.profiles import FOLDER, load_profile
from tests.models import tiny_vlm

PROMPT = "Describe this person."
ARCHITECTURES = ("smolvlm", "qwen2_vl")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    import include.models.torchvision_cpu  # noqa: F401  (transformers imports torchvision)

    made = {name: tmp_path_factory.mktemp(name) for name in ARCHITECTURES}
    for name, folder in made.items():
        getattr(tiny_vlm, name)(folder)
    return made


def opened(folder: Path, **options: Any) -> Any:
    from include.models.huggingface import ImageTextToText

    given = {"model": "test/tiny", "prompt": PROMPT, "precision": "fp32", "device": "cpu", "batch_size": 2}
    return ImageTextToText(folder, **(given | {"max_tokens": 12} | options))


@pytest.fixture(scope="module", params=ARCHITECTURES)
def captioner(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Any:
    return opened(folders[request.param])


def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (*size, 3), dtype=np.uint8) for size in ((64, 64), (50, 170), (90, 60))]


def test_every_image_gets_as_many_captions_as_asked_for_and_they_differ(captioner: Any) -> None:
    """Although generation_config.json advises a temperature at which all are the same."""
    described = captioner.describe(images(), 4, seed=1)
    assert [len(captions) for captions in described] == [4, 4, 4]
    assert len({caption for captions in described for caption in captions}) >= 10
    assert captioner.describe([], 4, seed=1) == []


def test_the_same_seed_gives_the_same_captions_and_another_seed_others(captioner: Any) -> None:
    described = captioner.describe(images(), 2, seed=1)
    with ThreadPoolExecutor(2) as pool:
        again, other = pool.map(lambda seed: captioner.describe(images(), 2, seed), (1, 2))
    assert again == described
    assert other != described


def test_the_prompt_decides_the_captions_and_is_recorded(folders: dict[str, Path], tmp_path: Path) -> None:
    asked = opened(folders["smolvlm"], prompt="Please answer yes or no.")
    assert asked.describe(images(), 2, seed=1) != opened(folders["smolvlm"]).describe(images(), 2, seed=1)
    text = (FOLDER / "vlm.yaml").read_text()
    prompt = load_profile("vlm").params("captioner")["prompt"]
    (tmp_path / "mine.yaml").write_text(text.replace(json.dumps(prompt), '"Describe the clothes."'))
    assert load_profile(str(tmp_path / "mine.yaml")).params("captioner")["prompt"] == "Describe the clothes."


def test_images_see_to_captions_and_a_batch_is_what_its_images_are_alone(captioner: Any) -> None:
    """Rows of other lengths are padded on the left; what is most likely next stays."""
    import torch

    def likely(chosen: list[np.ndarray]) -> torch.Tensor:
        with torch.inference_mode():
            options = {"max_new_tokens": 1, "do_sample": False, "output_logits": True}
            return captioner._model.generate(
                **captioner._prepare(chosen), **options, return_dict_in_generate=True
            ).logits[0]

    together, alone = likely(images()), torch.cat([likely([image]) for image in images()])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    assert (together[0] - together[1]).abs().max() > 1e-3


def test_captions_are_the_answer_alone_in_one_clean_line(captioner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the prompt nor special tokens, whatever the model says; markup stays text."""
    import torch

    hostile = " <b>a\x00 person</b>\n\n\x1b[31m sits\u202e\u2028 on\tthe grass .<image><|image_pad|> "
    end = captioner._tokenizer.eos_token_id

    def answers(**inputs: Any) -> torch.Tensor:
        said = [*captioner._tokenizer.encode(hostile, add_special_tokens=False), end, end]
        return torch.cat([inputs["input_ids"], torch.tensor([said] * len(inputs["input_ids"]))], 1)

    monkeypatch.setattr(captioner._model, "generate", answers)
    (caption,) = captioner.describe(images()[:1], 1, seed=1)[0]
    assert caption.removesuffix("<|image_pad|>").removesuffix("<image>") == "<b>a person</b> [31m sits on the grass."
    assert PROMPT not in caption and caption.isprintable()


def test_an_empty_answer_is_an_empty_caption(captioner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    end = captioner._tokenizer.eos_token_id
    ended = lambda **inputs: torch.nn.functional.pad(inputs["input_ids"], (0, 3), value=end)  # noqa: E731
    monkeypatch.setattr(captioner._model, "generate", ended)
    assert captioner.describe(images()[:2], 1, seed=1) == [[""], [""]]


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("A person sits. The grass is gre", "A person sits."),
        ("A person of 1.8 m sits on the gra", "A person of 1.8 m sits on the"),
        ("人が草の上に立つ。草は緑", "人が草の上に立つ。"),
        ("grrrr", "grrrr"),
    ],
)
def test_an_endless_answer_is_cut_at_a_sentence_or_a_word(
    said: str, kept: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    captioner = opened(folders["smolvlm"])
    tokens = torch.tensor([captioner._tokenizer.encode(said, add_special_tokens=False)])
    monkeypatch.setattr(captioner._model, "generate", lambda **inputs: torch.cat([inputs["input_ids"], tokens], 1))
    assert captioner.describe(images()[:1], 1, seed=1) == [[kept]]


def test_what_tokens_stand_for_has_an_end(captioner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captioner, "_draw", lambda *_: ["word " * 1_000_000])
    (caption,) = captioner.describe(images()[:1], 1, seed=1)[0]
    assert len(caption) <= 1000


@pytest.mark.parametrize("size", [(1, 300), (3, 50), (1, 1), (2000, 4)])
def test_crops_of_any_shape_are_described(size: tuple[int, int], captioner: Any) -> None:
    described = captioner.describe([np.full((*size, 3), 90, np.uint8), *images()[:1]], 1, seed=1)
    assert len(list(chain.from_iterable(described))) == 2


def test_in_half_precision(folders: dict[str, Path]) -> None:
    (captions,) = opened(folders["qwen2_vl"], precision="bf16", max_tokens=4).describe(images()[:1], 2, seed=1)
    assert len(captions) == 2


def changed(folder: Path, to: Path, change: Callable[[Path], Any]) -> Path:
    shutil.copytree(folder, to, dirs_exist_ok=True)
    change(to)
    return to


def configured(name: str, **values: Any) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | values))


def template(text: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / "chat_template.jinja").write_text(text)


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


REMOTE = {"AutoConfig": "evil.Config", "AutoModelForImageTextToText": "evil.Model"}
HOSTILE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "pickles": (pickled, "no file named model.safetensors"),
    "garbage": (lambda folder: (folder / "model.safetensors").write_bytes(b"garbage"), "header"),
    "code": (configured("config.json", model_type="evil", auto_map=REMOTE), "custom code"),
    "code of the processor": (
        configured("processor_config.json", processor_class="Evil", auto_map={"AutoProcessor": "evil.Processor"}),
        "custom code",
    ),
    "no template": (lambda folder: (folder / "chat_template.jinja").unlink(), "has no chat template"),
    "a broken template": (template("{% if %}"), "Expected an expression"),
    "a template that looks around": (template("{{ ''.__class__.__mro__ }}"), "unsafe"),
    "a template without the image": (template("{{ messages[0]['content'][1]['text'] }}"), "[Ii]mage"),
    "no tokenizer": (lambda folder: [(folder / f).unlink() for f in ("tokenizer.json", "vocab.json")], "."),
    "another model": (configured("config.json", model_type="bert"), "Unrecognized"),
    "a package that is missing": (configured("processor_config.json", processor_class="SmolVLMProcessor"), "num2words"),
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("name", ["smolvlm"])
def test_what_cannot_be_used_is_one_readable_line_and_runs_no_code(
    case: str, name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    change, says = HOSTILE[case]
    folder = changed(folders[name], tmp_path / "folder", change)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ModelError, match=says) as caught:
        opened(folder)
    assert caught.value.code in ("wrong-weights", "bad-profile")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700
    assert not (tmp_path / "ran").exists()


def test_a_template_that_leaves_out_the_image_is_seen_before_the_work(folders: dict[str, Path], tmp_path: Path) -> None:
    words = template("{{ messages[0]['content'][1]['text'] }}")
    with pytest.raises(ModelError, match=r"do not match.*\[wrong-weights\]$"):
        opened(changed(folders["qwen2_vl"], tmp_path, words))


def test_code_beside_a_model_that_transformers_knows_is_not_run(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = changed(folders["smolvlm"], tmp_path / "folder", configured("config.json", auto_map=REMOTE))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert len(opened(folder).describe(images(), 1, seed=1)) == 3
    assert not (tmp_path / "ran").exists()


def test_a_model_that_needs_a_prompt_does_not_open_without_one(folders: dict[str, Path]) -> None:
    from include.models.huggingface import ImageToText

    for folder in folders.values():
        with pytest.raises(ModelUsageError, match=r"ImageTextToText.*\[bad-profile\]$"):
            ImageToText(folder, model="test/tiny", precision="fp32", device="cpu")


@pytest.mark.parametrize("prompt", ["5", "[say, it]", "''", "'  '", "{a: 1}", "true"])
def test_a_prompt_that_is_no_text_is_a_wrong_profile(prompt: str, tmp_path: Path) -> None:
    text = (FOLDER / "vlm.yaml").read_text()
    right = json.dumps(load_profile("vlm").params("captioner")["prompt"])
    (tmp_path / "mine.yaml").write_text(text.replace(f"prompt: {right}", f"prompt: {prompt}"))
    with pytest.raises(ModelUsageError, match=r"prompt of huggingface.ImageTextToText .*\[bad-profile\]$") as caught:
        load_profile(str(tmp_path / "mine.yaml"))
    assert "\n" not in str(caught.value)


QUESTION = 'Does this figure show "{text}"? Please answer yes or no.'
TEXTS = [["a person", "a person sits on the grass."], [], ["a house"]]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def asked(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Any:
    return opened(folders[request.param], question=QUESTION)


def test_a_vqa_score_is_the_probability_that_the_answer_begins_with_yes(asked: Any) -> None:
    """Reckoned here for a single image and a question written out."""
    import torch

    scores = asked.vqa_scores(images(), TEXTS)
    assert [len(of_one) for of_one in scores] == [2, 0, 1] and all(of_one.dtype == np.float32 for of_one in scores)
    question = 'Does this figure show "a house"? Please answer yes or no.'
    tokens = [asked._tokenizer.convert_tokens_to_ids(token) for token in ("Yes", "yes", "ĠYes", "Ġyes", "YES", "ĠYES")]
    known = {token for token in tokens if token is not None and token != asked._tokenizer.unk_token_id}
    with torch.inference_mode():
        logits = asked._model(**asked._asked(images()[2:], [question])).logits[0, -1]
    expected = sum(float(logits.softmax(-1)[token]) for token in known)
    assert len(known) >= 2 and 0 < expected < 1
    assert float(scores[2][0]) == pytest.approx(expected, rel=1e-4)


def test_vqa_scores_do_not_depend_on_what_else_is_asked_and_draw_nothing(asked: Any) -> None:
    import torch

    torch.manual_seed(3)
    together, drawn = asked.vqa_scores(images(), TEXTS), torch.rand(2)
    alone = [asked.vqa_scores([image], [of_one])[0] for image, of_one in zip(images(), TEXTS, strict=True)]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(2), drawn)
    assert asked.vqa_scores([], []) == []


@pytest.mark.parametrize(
    "text", ["<image>", "<|image_pad|>", "a <ima<image>ge> <end_of_utterance><|im_end|>", '"{text}" {x} {{ y }}', ""]
)
def test_a_text_cannot_pass_for_a_token_of_the_model(text: str, asked: Any) -> None:
    (scores,) = asked.vqa_scores(images()[:1], [[text]])
    assert 0 < scores[0] < 1


def test_a_model_beyond_its_precision_is_no_score(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked, "_ask", lambda pairs: np.full(len(pairs), np.nan, np.float32))
    with pytest.raises(ModelUsageError, match=r"PRECISION=bf16.*\[bad-device\]$"):
        asked.vqa_scores(images()[:1], [["a person"]])


def test_who_is_asked_nothing_gives_no_score(captioner: Any) -> None:
    with pytest.raises(ModelUsageError, match=r"no question \[bad-profile\]$"):
        captioner.vqa_scores(images()[:1], [["a person"]])


def test_a_tokenizer_without_yes_answers_no_question(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("include.models.huggingface.YES", ["Yesyesyes"])
    with pytest.raises(ModelUsageError, match=r"no token for yes.*\[bad-profile\]$"):
        opened(folders["smolvlm"], question=QUESTION)


@pytest.mark.parametrize("question", ["5", "Is it so?", "[a]"])
def test_a_question_about_nothing_is_a_wrong_profile(question: str, tmp_path: Path) -> None:
    lines = (FOLDER / "vlm.yaml").read_text().splitlines()
    changed = [f"      question: {question}" if line.startswith("      question:") else line for line in lines]
    (tmp_path / "mine.yaml").write_text("\n".join(changed))
    with pytest.raises(ModelUsageError, match=r"should ask about \{text\}.*\[bad-profile\]$"):
        load_profile(str(tmp_path / "mine.yaml"))
