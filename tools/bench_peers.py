"""Compares clip_filter with clip-retrieval's inference; decoding and resizing limit both.

This runs in a process of its own: clip-retrieval forks, and a process with MediaPipe's threads does not survive that.

    make bench ARGS="--peers"        # or: python -m tools.bench_peers 5

The first run installs clip-retrieval 2.45.0 beside the project, without its dependencies. Its reader (a DataLoader with
a process a core, each with tars of its own) and its mapper run unchanged. Its loader of CLIP models needs the hub: here
another one gives the same model and open_clip's own transform. The model is small: pixels are the main cost. Each image
has one person who fills it: both see the same pixels.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from include.models import Detections
from include.models.openclip import OpenClip
from laion_people.settings import Settings
from laion_people.steps.registry import STEPS
from laion_people.storage.store import LocalStore
from tools import bench_work as work

import open_clip  # isort: skip  (after openclip, which makes torchvision importable)

VENVS = Path(__file__).parent.parent / ".venv"
PARTITION = "bench/00000"
BATCH = 64
MODEL = "clip_bench"
CONFIG = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 224, "layers": 1, "width": 64, "patch_size": 32, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
}


class Whole:
    """Takes the place of a detector: one person, who fills the image."""

    def detect(self, images: list[np.ndarray]) -> list[Detections]:
        boxes = [np.array([[0, 0, image.shape[1], image.shape[0]]], np.float32) for image in images]
        return [Detections(box, np.ones(1, np.float32)) for box in boxes]


def peers(folder: Path, rounds: int, count: int = 256) -> Iterator[work.Result]:
    """The line of the table."""
    config, weights = folder / f"{MODEL}.json", folder / "weights.safetensors"
    config.write_text(json.dumps(CONFIG))
    open_clip.add_model_config(config)
    torch.manual_seed(0)
    plain, _, transform = open_clip.create_model_and_transforms(MODEL)
    plain.eval()
    save_file({name: tensor.clone().contiguous() for name, tensor in plain.state_dict().items()}, weights)
    clip = OpenClip(weights, model=MODEL, tag="random", config=config, precision="fp32", device="cpu", batch_size=BATCH)
    store = LocalStore(folder / "store")
    photos = [photo.jpeg for photo in work.photos(count)]
    with store.writer(f"images/{PARTITION}/00000.tar") as tar:
        work.write_shard(tar, photos)
    made = work.Made(store, work.Models(detector=Whole(), clip=clip), STEPS)
    made.rows("detect", PARTITION)
    tars = [folder / f"{i}.tar" for i in range(Settings().threads)]
    for i, tar in enumerate(tars):
        work.write_shard(tar, photos[i * count // len(tars) : (i + 1) * count // len(tars)])
    theirs = clip_retrieval((plain, transform, open_clip.get_tokenizer(MODEL)), tars)
    ours = partial(made.rows, "clip_filter", PARTITION, "similarity")
    yield work.compare("clip_filter / clip-retrieval, small CLIP", "images/s", count, ours, theirs, 1.2, rounds)


def clip_retrieval(model: tuple[Any, Any, Any], tars: list[Path]) -> work.Job:
    """Its inference, in float32 and without writing, over these tars: counts the images with a similarity."""
    installed = VENVS / "peers"
    if not installed.exists():
        packages = ("clip-retrieval==2.45.0", "webdataset==0.2.5", "braceexpand==0.1.7")
        with tempfile.TemporaryDirectory(dir=VENVS) as incomplete:
            target = Path(incomplete) / installed.name
            install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target, *packages]
            subprocess.run(install, check=True)
            target.rename(installed)
    sys.path.append(str(installed))
    # On import, its packages load a web server and more, which inference doesn't use.
    for package in ("clip_retrieval", "clip_retrieval.clip_inference"):
        sys.modules[package] = types.ModuleType(package)
        sys.modules[package].__path__ = [str(installed / package.replace(".", "/"))]
    for name, content in (
        ("all_clip", {"load_clip": lambda **_: model}),
        ("sentence_transformers", {"SentenceTransformer": None}),
    ):
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(content)
    from clip_retrieval.clip_inference.mapper import ClipMapper
    from clip_retrieval.clip_inference.reader import WebdatasetReader

    mapper = ClipMapper(True, True, False, False, MODEL, False, "")
    _, transform, tokenize = model

    def infer() -> int:
        urls = [str(tar) for tar in tars]
        reader = WebdatasetReader(lambda u: u, transform, tokenize, urls, BATCH, len(tars), enable_metadata=False)
        images = 0
        for batch in reader:
            embedded = mapper(batch)
            images += len((embedded["image_embs"].astype(np.float32) * embedded["text_embs"]).sum(1))
        return images

    return infer


if __name__ == "__main__":
    work.show(peers)
