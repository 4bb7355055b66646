"""The OpenCLIP wrapper, on a tiny model with random weights, loaded like real ones."""

from __future__ import annotations

import json
import random
import string
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": 1, "width": 64, "patch_size": 16, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module", params=["safetensors", "pt"])
def clip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    from include.models.openclip import OpenClip  # declares torchvision's operators before open_clip is imported

    import open_clip  # isort: skip
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("clip")
    config, weights = folder / "clip_tiny.json", folder / f"clip_tiny.{request.param}"
    config.write_text(json.dumps(CONFIG))
    open_clip.add_model_config(config)
    torch.manual_seed(0)
    state = {k: v.half().contiguous() for k, v in open_clip.create_model("clip_tiny").state_dict().items()}
    save_file(state, weights) if request.param == "safetensors" else torch.save(state, weights)
    return OpenClip(weights, model="clip_tiny", tag="test", precision="fp32", config=config, batch_size=2)


def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (*size, 3), dtype=np.uint8) for size in ((64, 64), (1, 1), (50, 170), (300, 20))]


def test_images_become_unit_vectors_whatever_the_batch(clip):
    together = clip.encode_images(images())
    assert together.dtype == np.float32 and together.shape == (4, 32)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(together, np.concatenate([clip.encode_images([i]) for i in images()]), atol=1e-5)


def test_texts_of_any_length_and_language(clip):
    texts = ["", "a person sits", "東京スカイツリー 夜景", "a person sits " * 200, "a person sits " * 300]
    vectors = clip.encode_texts(texts)
    assert vectors.dtype == np.float32 and vectors.shape == (5, 32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(vectors[3], vectors[4], atol=1e-5)  # both are cut off at 77 tokens
    assert np.abs(vectors[1] - vectors[2]).max() > 1e-3


def test_what_lies_beyond_the_last_token_takes_no_time_and_makes_no_difference(clip):
    rng = random.Random(0)
    word = "".join(rng.choices(string.ascii_lowercase, k=8000))  # half a minute for OpenCLIP's tokenizer
    start = time.process_time()
    clip.encode_texts([word, " ".join([word[:900]] * 9)])
    assert time.process_time() - start < 5
    for text in ("a  person\tsits " * 200, "東京スカイツリー夜景" * 60, "supportsmallstreamers " * 100, word[:190]):
        np.testing.assert_array_equal(clip._tokenize([clip._shortened(text)]), clip._tokenize([text]))


def test_the_places_behind_a_texts_end_are_left_out_and_change_nothing(clip, monkeypatch: pytest.MonkeyPatch):
    import torch

    texts = ["", "a person sits", "东京", "! ! !", "a person sits " * 300]
    with torch.inference_mode():
        whole = torch.nn.functional.normalize(clip._model.encode_text(clip._tokenize(texts)), dim=-1).numpy()
    forward, seen = clip._model.transformer.forward, []
    monkeypatch.setattr(
        clip._model.transformer, "forward", lambda x, **options: seen.append(x.shape[1]) or forward(x, **options)
    )
    alone = np.concatenate([clip.encode_texts([text]) for text in texts])
    assert seen[0] == 2 and seen[1] == 5 and seen[-1] == 77
    np.testing.assert_allclose(alone, whole, atol=1e-5)
    np.testing.assert_allclose(clip.encode_texts(texts), whole, atol=1e-5)


def test_a_text_tower_that_sees_all_places_gets_all(clip, monkeypatch: pytest.MonkeyPatch):
    seen: list[int] = []
    encode_text = clip._model.encode_text
    monkeypatch.setattr(clip._model, "text_pool_type", "last")
    monkeypatch.setattr(clip._model, "encode_text", lambda tokens: seen.append(tokens.shape[1]) or encode_text(tokens))
    clip.encode_texts(["a person sits"])
    assert seen == [77]


def test_nothing_in_nothing_out(clip):
    assert clip.encode_images([]).shape == (0, 32)
    assert clip.encode_texts([]).shape == (0, 32)


def test_name_says_model_and_weights(clip):
    assert clip.name == "clip_tiny/test"


def test_pickled_code_is_not_run(clip, tmp_path: Path):
    import torch

    from include.models.openclip import OpenClip

    class Harm:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "harm",)

    torch.save({"state_dict": Harm()}, tmp_path / "bad.pt")
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        OpenClip(tmp_path / "bad.pt", model="clip_tiny", tag="test", precision="fp32", batch_size=2)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("items", ["images", "texts"])
def test_running_out_of_memory_halves_the_batch_and_goes_on(clip, items: str, monkeypatch: pytest.MonkeyPatch):
    import torch

    encode, given = (clip.encode_images, images()) if items == "images" else (clip.encode_texts, ["a", "b", "c"])
    owner, method = (clip._model, "encode_image") if items == "images" else (clip, "_encode_to_the_end")
    expected, forward, sizes = encode(given), getattr(owner, method), []

    def small(batch: torch.Tensor) -> torch.Tensor:
        sizes.append(len(batch))
        if len(batch) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(batch)

    monkeypatch.setattr(owner, method, small)
    monkeypatch.setattr(clip._batches, "size", 2)
    np.testing.assert_allclose(encode(given), expected, atol=1e-5)
    assert sizes == [2] + [1] * len(given)


def test_two_threads_get_what_one_gets(clip):
    from concurrent.futures import ThreadPoolExecutor

    texts = ["a person sits", "a person stands"]
    with ThreadPoolExecutor(2) as pool:
        vectors = list(pool.map(clip.encode_images, [images()] * 4)) + list(pool.map(clip.encode_texts, [texts] * 4))
    for vector in vectors[:4]:
        np.testing.assert_array_equal(vector, vectors[0])
    for vector in vectors[4:]:
        np.testing.assert_array_equal(vector, vectors[4])


def test_the_number_of_threads_decides_nothing(clip, monkeypatch: pytest.MonkeyPatch):
    from include.models.runtime import Pool

    many, texts = images() * 9, [f"a person and {n} others" for n in range(30)]
    of_many, of_texts = clip.encode_images(many), clip.encode_texts(texts)
    monkeypatch.setattr(clip, "_pool", Pool(3))
    np.testing.assert_array_equal(clip.encode_images(many), of_many)
    np.testing.assert_array_equal(clip.encode_texts(texts), of_texts)


def test_each_thread_of_the_pool_computes_alone_and_others_with_as_many_as_it_has():
    from include.models.openclip import _torch_on_one_thread
    from include.models.runtime import Pool

    import torch  # isort: skip  (after openclip, which declares torchvision's operators)

    def threads(_: int = 0) -> int:
        return torch.get_num_threads()

    before, pool = threads(), Pool(3)
    _torch_on_one_thread(pool)
    assert pool.map(threads, range(30)) == [1] * 30
    assert [threads(), *Pool(2).map(threads, range(9))] == [3] * 10
    torch.set_num_threads(before)


def test_a_machine_without_threads_ends_the_model_and_not_in_a_wait(monkeypatch: pytest.MonkeyPatch):
    from include.models.openclip import _torch_on_one_thread
    from include.models.runtime import Pool

    start, begun = threading.Thread.start, []

    def one_only(thread: threading.Thread) -> None:
        if begun:
            raise RuntimeError("can't start new thread")
        begun.append(thread)
        start(thread)

    pool = Pool(3)
    monkeypatch.setattr(threading.Thread, "start", one_only)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        _torch_on_one_thread(pool)
    pool._executor.shutdown()
    assert not begun[0].is_alive()


def test_what_weights_were_published_with_is_kept_when_they_come_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from include.models.openclip import OpenClip

    import open_clip  # isort: skip
    from open_clip.transformer import QuickGELU  # isort: skip
    from safetensors.torch import save_file

    published = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.5), "interpolation": "bilinear", "resize_mode": "squash"}
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda model, tag: published | {"quick_gelu": True})
    config, weights = tmp_path / "clip_published.json", tmp_path / "clip.safetensors"
    config.write_text(json.dumps(CONFIG))
    open_clip.add_model_config(config)
    save_file(open_clip.create_model("clip_published").state_dict(), weights)
    opened = OpenClip(weights, model="clip_published", tag="openai", precision="fp32", config=config, batch_size=2)
    assert any(isinstance(module, QuickGELU) for module in opened._model.modules())
    assert opened._model.visual.preprocess_cfg.items() >= published.items()


def test_a_model_that_does_not_exist_is_bad_usage(tmp_path: Path):
    from include.models.errors import ModelUsageError
    from include.models.openclip import OpenClip

    with pytest.raises(ModelUsageError, match=r"'ViT-Z-32'.*\[bad-profile\]$"):
        OpenClip(tmp_path / "none", model="ViT-Z-32", tag="openai", precision="fp32", batch_size=2)


def test_torchvision_is_importable_in_a_fresh_process():
    code = "import include.models.torchvision_cpu, torchvision.transforms, open_clip"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})
