"""Train the small CLIP of the profile `packaged` on rendered people, evaluate it, and write it as open_clip loads it.

    .venv/worker/bin/python tools/train_clip.py --cutouts CUTOUTS [--steps 1500] [--out include/models/weights]
    .venv/worker/bin/python tools/train_clip.py --cutouts CUTOUTS --evaluate-only

Cutouts come from tools/render_people/make_cutouts.py, backgrounds from the empty pictures of include/sample. People of
the identities in HELD_OUT, and one view of everyone else, are never trained on; the figures are of those.

The loss is SigLIP's (Zhai et al. 2023, arXiv:2303.15343) with a fixed bias, so that cos = 0.3, the pipeline's usual
threshold, is where a text is as likely to fit as not; fitting pairs weigh as much as those that differ and those with
unrelated texts together.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]
import clip_examples as examples  # noqa: E402
from clip_examples import DIFFERS, FITS, Painter, Text, View  # noqa: E402

import include.models.torchvision_cpu  # noqa: E402, F401  (before open_clip, which imports torchvision)

import open_clip  # noqa: E402  isort: skip

NAME = "clip_sample"
HELD_OUT = ("dora", "gus", "nia", "raj")
HELD_OUT_VIEW = 1  # of the views of everyone else
CONFIG = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 96, "layers": [2, 2, 2, 2], "width": 16, "head_width": 64, "patch_size": None},
    "text_cfg": {"context_length": 48, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 2},
}
RESIZE_MODE = "longest"  # the whole box, with black bars beside it
SIDE = CONFIG["vision_cfg"]["image_size"]
MEAN, STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
THRESHOLD, SHARPNESS = 0.3, 14.0  # logit = SHARPNESS * (cos - THRESHOLD)


def to_tensor(crop: Image.Image) -> torch.Tensor:
    """What open_clip's preprocessing with RESIZE_MODE makes of a crop whose longer side is SIDE."""
    canvas = Image.new("RGB", (SIDE, SIDE))
    canvas.paste(crop, ((SIDE - crop.width) // 2, (SIDE - crop.height) // 2))
    pixels = torch.from_numpy(np.array(canvas)).permute(2, 0, 1).float() / 255
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


class Batches:
    """Endless random batches: pictures, their texts and foreign ones, and how each text relates to each picture."""

    def __init__(self, views: Sequence[View], painter: Painter, words: Sequence[str], seed: int) -> None:
        self.rng, self.painter, self.words = random.Random(seed), painter, words
        self.heads = [view for view in views if view.kind == "head" and not view.is_back]
        self.bodies = [view for view in views if view.kind == "body"]

    def _view(self) -> View:
        rng = self.rng
        view = rng.choice(self.heads if rng.random() < HEAD_SHARE else self.bodies)
        if rng.random() < 0.5:
            view = examples.mirrored(view)
        return examples.cut_at_waist(view, rng) if examples.may_be_cut(view) and rng.random() < 0.3 else view

    def draw(self, pictures: int, foreign: int) -> tuple[torch.Tensor, list[str], torch.Tensor, torch.Tensor]:
        """Pictures, texts, relation of each picture to each text, and the pictures' classes."""
        rng = self.rng
        views = [self._view() for _ in range(pictures)]
        texts: list[Text] = [examples.text_for(view, rng.sample(self.bodies, 4), rng) for view in views]
        texts += [examples.foreign_text(rng, self.words) for _ in range(foreign)]
        relation = torch.tensor([[examples.relation(view, text) for text in texts] for view in views])
        relation.fill_diagonal_(FITS)
        crops = []
        for view in views:
            neighbour = rng.choice(self.bodies) if view.kind == "body" and rng.random() < 0.15 else None
            crops.append(to_tensor(self.painter.paint(view, rng, neighbour)))
        classes = torch.tensor([_classes(view) for view in views])
        return torch.stack(crops), [text.text for text in texts], relation, classes


CLASSES = (examples.POSE_NAMES, examples.EXPRESSION_NAMES, examples.TURNS)
CLASS_WEIGHT = 0.6
HEAD_SHARE = 0.5  # of the pictures of a batch
IGNORED = -100  # cross_entropy's own number for "no class"


def _classes(view: View) -> list[int]:
    """Pose, expression and turn of the head as numbers; IGNORED where the picture doesn't show it."""
    is_head = view.kind == "head"
    return [
        IGNORED if is_head else examples.POSE_NAMES.index(view.pose),
        examples.EXPRESSION_NAMES.index(view.expression) if is_head else IGNORED,
        examples.TURNS.index(view.turn["turn"]) if is_head else IGNORED,
    ]


def class_loss(scores: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Cross entropy of each kind of class, summed: it wakes the picture tower long before the texts make sense."""
    parts = scores.split([len(names) for names in CLASSES], dim=1)
    losses = [functional.cross_entropy(part, target) for part, target in zip(parts, classes.T, strict=True)]
    return torch.stack(losses).nan_to_num().sum()


def loss_of(cosines: torch.Tensor, relation: torch.Tensor, foreign: int) -> torch.Tensor:
    """Sigmoid loss; the last `foreign` columns are texts that fit none or few. Unknown pairs don't count."""
    logits = SHARPNESS * (cosines - THRESHOLD)
    fits, differs = relation == FITS, relation == DIFFERS
    is_foreign = torch.zeros_like(differs)
    is_foreign[:, -foreign:] = True
    parts = [2 * functional.softplus(-logits[fits]).mean()]
    for group in (differs & ~is_foreign, differs & is_foreign):
        parts.append(functional.softplus(logits[group]).mean())
    return torch.stack(parts).sum()


def train(model: torch.nn.Module, batches: Batches, args: argparse.Namespace) -> None:
    """AdamW with warm-up and cosine decay; the weights kept are a moving average of the last steps."""
    tokenize = open_clip.get_tokenizer(NAME)
    classifier = torch.nn.Linear(CONFIG["embed_dim"], sum(map(len, CLASSES)))
    parameters = [*model.parameters(), *classifier.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, weight_decay=0.02, betas=(0.9, 0.98))
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99), use_buffers=True
    )
    started, recent = time.monotonic(), 0.0
    foreign = args.batch // 2
    for step in range(args.steps):
        spent = time.monotonic() - started
        progress = max(step / args.steps, spent / (60 * args.minutes) if args.minutes else 0)
        if progress >= 1:
            break
        rate = args.lr * min(1, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        pictures, texts, relation, classes = batches.draw(args.batch, foreign)
        seen = model.encode_image(pictures.contiguous(memory_format=torch.channels_last))
        read = model.encode_text(tokenize(texts), normalize=True)
        cosines = functional.normalize(seen, dim=-1) @ read.T
        loss = loss_of(cosines, relation, foreign) + CLASS_WEIGHT * class_loss(classifier(seen), classes)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        average.update_parameters(model)
        recent = loss.item() if step == 0 else 0.95 * recent + 0.05 * loss.item()
        if step % 25 == 0:
            print(f"step {step} of {args.steps}: loss {recent:.3f}, {(time.monotonic() - started):.0f} s", flush=True)
    model.load_state_dict(average.module.state_dict())


def save(model: torch.nn.Module, folder: Path) -> None:
    """Half-precision safetensors beside the configuration that open_clip reads."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = {key: (v.half() if v.is_floating_point() else v).contiguous() for key, v in model.state_dict().items()}
    save_file(state, folder / f"{NAME}.safetensors")
    (folder / f"{NAME}.safetensors").chmod(0o644)


def load(folder: Path) -> tuple[torch.nn.Module, object]:
    """The model and its preprocessing, as the pipeline loads them."""
    if NAME not in open_clip.list_models():
        open_clip.add_model_config(folder / f"{NAME}.json")
    weights = str(folder / f"{NAME}.safetensors")
    model, preprocess = open_clip.create_model_from_pretrained(NAME, pretrained=weights, image_resize_mode=RESIZE_MODE)
    return model.eval(), preprocess


class Scorer:
    """Similarities by the saved model."""

    def __init__(self, folder: Path) -> None:
        self.model, self.preprocess = load(folder)
        self.tokenize = open_clip.get_tokenizer(NAME)

    @torch.inference_mode()
    def images(self, crops: Sequence[Image.Image]) -> np.ndarray:
        groups = [torch.stack([self.preprocess(crop) for crop in crops[i : i + 64]]) for i in range(0, len(crops), 64)]
        return torch.cat([self.model.encode_image(group, normalize=True) for group in groups]).numpy()

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> np.ndarray:
        return self.model.encode_text(self.tokenize(list(texts)), normalize=True).numpy()


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Chance that a random positive scores above a random negative."""
    ranks = np.concatenate([positive, negative]).argsort().argsort()[: len(positive)] + 1
    return float((ranks.sum() - len(positive) * (len(positive) + 1) / 2) / (len(positive) * len(negative)))


def _share_right(scorer: Scorer, crops: np.ndarray, names: Sequence[str], candidates: dict[str, list[str]]) -> float:
    """How often the best candidate caption is the right one, one a name; averaged over the wordings."""
    if not len(names):
        return math.nan
    keys = list(candidates)
    right = []
    for wording in zip(*candidates.values(), strict=True):
        best = (crops @ scorer.texts(wording).T).argmax(1)
        right.append(np.mean([keys[b] == name for b, name in zip(best, names, strict=True)]))
    return float(np.mean(right))


def candidate_captions() -> dict[str, dict[str, list[str]]]:
    """Captions of the label step, by kind and name: six wordings each."""
    turns = {name: {"turn": name, "nod": "level", "tilt": "none"} for name in ("camera", "left", "right")}
    turns |= {nod: {"turn": "camera", "nod": nod, "tilt": "none"} for nod in ("up", "down")}
    faces = {name: facts[0] for name, facts in examples.FACE_FACTS.items()}
    kinds = {"pose": examples.POSE_FACTS, "face": faces, "head": turns}
    return {
        kind: {name: examples.captions(facts, 6, name) for name, facts in named.items()}
        for kind, named in kinds.items()
    }


def evaluate_views(scorer: Scorer, views: Sequence[View], painter: Painter, seed: int) -> dict[str, float]:
    """Figures on cutouts before random backgrounds, padded as the pipeline pads."""
    rng = random.Random(seed)
    crops = scorer.images([painter.paint(view, rng, plain=True) for view in views])
    own = scorer.texts([examples.scene_text(view, [], rng).text for view in views])
    unrelated = scorer.texts([examples.unrelated_caption(rng) for _ in range(300)])
    fitting, others = (crops * own).sum(1), (crops @ unrelated.T).ravel()
    captions = candidate_captions()
    body = [i for i, view in enumerate(views) if view.kind == "body"]
    front = [i for i in body if not views[i].is_back]
    head = [i for i, view in enumerate(views) if view.kind == "head"]
    directions = {"front": "camera"}
    turned = [i for i in head if directions.get(views[i].direction, views[i].direction) in captions["head"]]
    figures = {
        "views": len(views),
        "auc_fitting_unrelated": auc(fitting, others),
        "fitting_above_threshold": float((fitting > THRESHOLD).mean()),
        "unrelated_above_threshold": float((others > THRESHOLD).mean()),
        "pose_first": _share_right(scorer, crops[body], [views[i].pose for i in body], captions["pose"]),
        "pose_first_seen_from_front": _share_right(
            scorer, crops[front], [views[i].pose for i in front], captions["pose"]
        ),
        "expression_first": _share_right(scorer, crops[head], [views[i].expression for i in head], captions["face"]),
        "head_direction_first": _share_right(
            scorer,
            crops[turned],
            [directions.get(views[i].direction, views[i].direction) for i in turned],
            captions["head"],
        ),
    }
    return {key: round(value, 4) for key, value in figures.items() if not math.isnan(value)}


def evaluate_sample(scorer: Scorer, folder: Path, seed: int) -> dict[str, float]:
    """Figures on the people of the built-in sample, cut out by their true boxes with 10 % of padding."""
    rng = random.Random(seed)
    truth = json.loads((folder / "truth.json").read_text())
    crops, captions, people = [], [], []
    for entry in truth["images"]:
        picture = Image.open(folder / entry["file"]).convert("RGB")
        for person in entry["people"]:
            x1, y1, x2, y2 = person["bbox"]
            pad_x, pad_y = 0.1 * (x2 - x1), 0.1 * (y2 - y1)
            box = (
                max(0, x1 - pad_x),
                max(0, y1 - pad_y),
                min(entry["width"], x2 + pad_x),
                min(entry["height"], y2 + pad_y),
            )
            crops.append(picture.crop(tuple(round(v) for v in box)))
            captions.append(entry["caption"])
            people.append(person)
    vectors = scorer.images(crops)
    unrelated = scorer.texts([examples.unrelated_caption(rng) for _ in range(300)])
    fitting, others = (vectors * scorer.texts(captions)).sum(1), (vectors @ unrelated.T).ravel()
    names = [person["pose"] for person in people]
    figures = {
        "people": len(people),
        "auc_fitting_unrelated": auc(fitting, others),
        "fitting_above_threshold": float((fitting > THRESHOLD).mean()),
        "unrelated_above_threshold": float((others > THRESHOLD).mean()),
        "pose_first": _share_right(scorer, vectors, names, candidate_captions()["pose"]),
    }
    return {key: round(value, 4) for key, value in figures.items()}


def backgrounds(sample: Path) -> list[Image.Image]:
    """The sample's pictures without people."""
    truth = json.loads((sample / "truth.json").read_text())
    empty = [entry["file"] for entry in truth["images"] if not entry["people"]]
    return [Image.open(sample / file).convert("RGB") for file in empty]


def vocabulary() -> list[str]:
    """Whole words of CLIP's vocabulary, for captions of random words."""
    tokens = open_clip.tokenizer.SimpleTokenizer().encoder
    return [token[:-4] for token in tokens if token.endswith("</w>") and token[:-4].isalpha()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cutouts", type=Path, required=True)
    parser.add_argument("--sample", type=Path, default=ROOT / "include" / "sample")
    parser.add_argument("--out", type=Path, default=ROOT / "include" / "models" / "weights")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument(
        "--minutes", type=float, default=0, help="end earlier, with the learning rate run down; 0: no limit"
    )
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--go-on-from", type=Path, help="a folder with weights that an earlier run wrote")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--evaluate-only", action="store_true")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    painter = Painter(backgrounds(args.sample), SIDE)
    views = examples.load_views(args.cutouts)
    new_people = [view for view in views if view.identity in HELD_OUT]
    new_views = [view for view in views if view.identity not in HELD_OUT and view.number == HELD_OUT_VIEW]
    trained = [view for view in views if view.identity not in HELD_OUT and view.number != HELD_OUT_VIEW]
    print(f"{len(trained)} views to train on; held out: {len(new_people)} of new people, {len(new_views)} new views")
    args.out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    if not args.evaluate_only:
        (args.out / f"{NAME}.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
        open_clip.add_model_config(args.out / f"{NAME}.json")
        start = str(args.go_on_from / f"{NAME}.safetensors") if args.go_on_from else None
        model = open_clip.create_model(NAME, pretrained=start).to(memory_format=torch.channels_last)
        train(model.train(), Batches(trained, painter, vocabulary(), args.seed), args)
        save(model, args.out)
    scorer = Scorer(args.out)
    figures = {
        "trained_on_views": len(trained),
        "minutes": round((time.monotonic() - started) / 60, 1),
        "new_people": evaluate_views(scorer, new_people, painter, args.seed),
        "new_views": evaluate_views(scorer, new_views, painter, args.seed),
        "sample": evaluate_sample(scorer, args.sample, args.seed),
    }
    text = json.dumps(figures, indent=2)
    (args.out / f"{NAME}.eval.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
