"""OpenClip gives what plain open_clip gives on the same weights: random ones of a real ViT-B/32."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.models import sample

MODEL = "ViT-B-32-quickgelu"
TEXTS = ["A person stands on the grass.", "Sunset over the Grand Canyon", "", "a person sits " * 100]


@pytest.fixture(scope="module", autouse=True)
def torchvision_first() -> None:
    import include.models.torchvision_cpu  # noqa: F401  (before open_clip, which imports torchvision)


@pytest.fixture(scope="module")
def crops() -> list[np.ndarray]:
    """People of the sample with a little around them: upright, wide, nearly square, and tiny ones."""
    pictures = []
    for picture in sample.load()[:6]:
        for x1, y1, x2, y2 in picture.boxes.round().astype(int):
            pictures.append(picture.image[max(y1 - 5, 0) : y2 + 5, max(x1 - 5, 0) : x2 + 5])
    pictures += [picture.image for picture in sample.load()[:2]]
    return [*pictures, pictures[0][:40], pictures[1][:30, :20]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any]:
    """The wrapper, and plain open_clip's model and transform, from one file."""
    from include.models.openclip import OpenClip

    import open_clip  # isort: skip
    import torch
    from safetensors.torch import save_file

    weights = tmp_path_factory.mktemp("weights") / "open_clip_model.safetensors"
    torch.manual_seed(0)
    plain, _, transform = open_clip.create_model_and_transforms(MODEL)
    halved = {name: tensor.half() for name, tensor in plain.state_dict().items()}
    save_file(halved, weights)
    plain.load_state_dict(halved)
    wrapper = OpenClip(weights, model=MODEL, tag="openai", precision="fp32", device="cpu", batch_size=16)
    weights.unlink()
    return wrapper, plain.eval(), transform


def plain_vectors(models: tuple[Any, Any, Any], crops: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    import open_clip
    import torch

    _, plain, transform = models
    with torch.inference_mode():
        pixels = torch.stack([transform(Image.fromarray(crop)) for crop in crops])
        images = plain.encode_image(pixels, normalize=True).numpy()
        texts = plain.encode_text(open_clip.get_tokenizer(MODEL)(TEXTS), normalize=True).numpy()
    return images, texts


def test_similarities_are_those_of_plain_open_clip(
    models: tuple[Any, Any, Any], crops: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, texts = plain_vectors(models, crops)
    wrapper = models[0]
    assert wrapper.name == "ViT-B-32-quickgelu/openai"
    of_texts = wrapper.encode_texts(TEXTS)
    np.testing.assert_allclose(of_texts @ texts.T, texts @ texts.T, atol=1e-3)
    on_cpu = wrapper.encode_images(crops)
    np.testing.assert_allclose(on_cpu @ of_texts.T, images @ texts.T, atol=1e-3)
    assert (on_cpu * images).sum(axis=1).min() > 1 - 1e-3
    # The work of a GPU on the pixels, done on the CPU.
    monkeypatch.setattr(wrapper._preprocess, "resize_on_cpu", wrapper._preprocess.resize_on_device)
    on_device = wrapper.encode_images(crops)
    np.testing.assert_allclose(on_device @ of_texts.T, images @ texts.T, atol=1e-3)
    assert (on_device * images).sum(axis=1).min() > 1 - 1e-3


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [224, 64, (224, 160)])
def test_pixels_are_those_of_the_transform_of_open_clip(
    size: Any, mode: str, interpolation: str, crops: list[np.ndarray]
) -> None:
    from include.models.placement import place
    from include.models.preprocessing import Preprocessing
    from include.models.runtime import Pool

    from open_clip.transform import PreprocessCfg, image_transform_v2  # isort: skip

    config = PreprocessCfg(size=size, resize_mode=mode, interpolation=interpolation)
    transform = image_transform_v2(config, is_train=False)
    ours = Preprocessing(asdict(config), place("cpu", "fp32"), Pool(1))
    expected = np.stack([transform(Image.fromarray(crop)).numpy() for crop in crops])
    level = 1 / 255 / min(config.std)
    for given in (ours(crops), (ours.resize_on_device(crops) * ours._scale + ours._offset)):
        difference = np.abs(given.numpy() - expected)
        assert difference.mean() < 0.1 * level
        # Pillow may resize columns before rows: sharp edges differ.
        assert np.quantile(difference, 0.999) < 2.01 * level
        assert difference.max() < 8.01 * level


def test_a_sliver_of_an_image_is_resized_without_a_giant_in_between() -> None:
    from include.models.placement import place
    from include.models.preprocessing import Preprocessing
    from include.models.runtime import Pool

    from open_clip.transform import PreprocessCfg  # isort: skip

    sliver = np.random.default_rng(0).integers(0, 255, (30_000, 1, 3), dtype=np.uint8)
    ours = Preprocessing(asdict(PreprocessCfg(size=224)), place("cpu", "fp32"), Pool(1))
    on_cpu, on_device = ours.resize(sliver), ours.resize_on_device([sliver])[0].permute(1, 2, 0).numpy()
    assert np.abs(on_cpu.astype(float) - on_device).max() <= 2
    assert Preprocessing(asdict(PreprocessCfg(size=224, resize_mode="longest")), place("cpu", "fp32"), Pool(1)).resize(
        sliver
    ).shape == (224, 224, 3)


def test_profiles_name_the_weights_of_the_very_model() -> None:
    from include.models.profiles import available, load_profile

    roles = [role for name in available() for role in load_profile(name).roles.values()]
    fetched = [role for role in roles if role.checkpoints.get("weights", "").startswith("openclip/")]
    assert len(fetched) == 7
    for role in fetched:
        assert role.checkpoints["weights"] == f"openclip/{role.params['model']}/{role.params['tag']}"


def test_one_large_crop_among_small_ones_takes_little_memory_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Crops that are resized together are padded to the largest one."""
    from include.models import preprocessing
    from include.models.placement import place
    from include.models.runtime import Pool

    from open_clip.transform import PreprocessCfg  # isort: skip

    rng = np.random.default_rng(0)
    smooth = np.asarray(Image.fromarray(rng.integers(0, 255, (9, 9, 3), np.uint8)).resize((3000, 2000)))
    crops = [smooth, *(smooth[:50, : 40 + i] for i in range(80)), smooth[:1000, :900]]
    ours = preprocessing.Preprocessing(asdict(PreprocessCfg(size=224)), place("cpu", "fp32"), Pool(1))
    areas: list[int] = []
    resize_chunk = ours._resize_chunk

    def measured(images: list[np.ndarray]) -> Any:
        areas.append(len(images) * max(i.shape[0] for i in images) * max(i.shape[1] for i in images))
        return resize_chunk(images)

    monkeypatch.setattr(ours, "_resize_chunk", measured)
    difference = (ours.resize_on_device(crops) - ours.resize_on_cpu(crops)).abs()
    assert difference.mean() < 0.1
    assert max(areas) <= preprocessing.CHUNK_PIXELS and len(areas) < 5
