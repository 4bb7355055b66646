"""Trains the small CLIP of the profile `packaged` on rendered people, evaluates it, and writes it for open_clip.

    .venv/worker/bin/python tools/train_clip.py --cutouts CUTOUTS [--steps 1500] [--out include/models/weights]
    .venv/worker/bin/python tools/train_clip.py --cutouts CUTOUTS --evaluate-only

Cutouts come from tools/render_people/make_cutouts.py, backgrounds from the empty pictures of include/sample. Some views
of everyone (HELD_OUT) are never trained on; the figures are of these and of the sample's own people.

The loss is SigLIP's (Zhai et al. 2023, arXiv:2303.15343) with a fixed bias: at cos = 0.3, the pipeline's usual
threshold, a text is as likely to fit as not. Fitting pairs weigh as much as all other pairs together, with different
and with unrelated texts.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Iterator, Sequence
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
HELD_OUT = {("body", 1), ("head", 6)}  # kind and number of a view
CONFIG = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 96, "layers": [2, 2, 2, 2], "width": 16, "head_width": 64, "patch_size": None},
    "text_cfg": {"context_length": 48, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 2},
}
RESIZE_MODE = "squash"  # the whole box; bars beside slim people would leave few pixels for the arms
SIDE = CONFIG["vision_cfg"]["image_size"]
MEAN, STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
THRESHOLD, SHARPNESS = 0.3, 14.0  # logit = SHARPNESS * (cos - THRESHOLD)
RANKING = 20.0  # from cosines to logits, where texts compete


def to_tensor(crop: Image.Image) -> torch.Tensor:
    """The result of open_clip's preprocessing for a crop of the model's size."""
    pixels = torch.from_numpy(np.array(crop)).permute(2, 0, 1).float() / 255
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


class Batches(torch.utils.data.IterableDataset):
    """Endless random batches of `size` pictures, texts, and the relation of each text to each picture."""

    def __init__(self, views: Sequence[View], painter: Painter, args: argparse.Namespace) -> None:
        self.rng, self.painter, self.words = random.Random(args.seed), painter, vocabulary()
        self.size, self.head_share = args.batch, args.head_share
        self.heads, self.bodies = ([view for view in views if view.kind == kind] for kind in ("head", "body"))
        self.posed = [view for view in self.bodies if view.pose]

    def _view(self) -> View:
        view = self.rng.choice(self.heads if self.rng.random() < self.head_share else self.bodies)
        return examples.mirrored(view) if self.rng.random() < 0.5 else view

    def _texts(self, view: View) -> list[Text]:
        """A text that fits the view, and one or two on the same things that don't."""
        rng = self.rng
        if view.pose and view.kind == "body" and rng.random() < SCENE_SHARE:
            count = 0 if rng.random() < 0.7 else rng.choice((1, 1, 2, 4))
            return [examples.scene_text(view, rng.sample(self.posed, count), rng)]
        kind = rng.choice(examples.kinds(view))
        facts = examples.true_facts(view, kind, rng)
        foils = [examples.false_facts(view, kind, facts, rng) for _ in range(FOILS)]
        return examples.claims_texts([facts, *foils], rng)

    def __iter__(self) -> Iterator[tuple]:
        while True:
            views, pictures, held = self.draw_views(self.size)
            yield pictures, held, *self.draw_texts(views, self.size // 4)

    def draw_views(self, count: int) -> tuple[list[View], torch.Tensor, torch.Tensor]:
        """Views, a picture of each, and whether each of CLAIMS fits it."""
        rng = self.rng
        views = [self._view() for _ in range(count)]
        crops = []
        for view in views:
            neighbour = rng.choice(self.bodies) if view.kind == "body" and rng.random() < 0.15 else None
            crops.append(to_tensor(self.painter.paint(view, rng, neighbour)))
        return views, torch.stack(crops), torch.from_numpy(np.stack([view.held for view in views]))

    def draw_texts(self, views: Sequence[View], foreign: int) -> tuple[list[str], torch.Tensor, torch.Tensor]:
        """Texts for the views, the last `foreign` of which fit none; which of CLAIMS each states; and the relation of
        each view to each text."""
        texts = [text for view in views for text in self._texts(view)]
        texts += [examples.foreign_text(self.rng, self.words) for _ in range(foreign)]
        stated, relation = examples.stated(texts), examples.relations(views, texts)
        return [text.text for text in texts], torch.from_numpy(stated), torch.from_numpy(relation)


SCENE_SHARE = 0.3  # of the texts of bodies in a pose of the sample
FOILS = 2  # false texts for each fitting one
CLAIM_WEIGHT = 3.0


def claim_loss(scores: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
    """The loss of predicting each claim from the picture alone, or from the text alone: the towers learn from it long
    before they agree. True and false claims have the same weight."""
    losses = functional.binary_cross_entropy_with_logits(scores, (held == FITS).float(), reduction="none")
    return (losses[held == FITS].mean() + losses[held == DIFFERS].mean()) / 2


def loss_of(cosines: torch.Tensor, relation: torch.Tensor, foreign: int) -> torch.Tensor:
    """Sigmoid loss, plus cross entropy of each fitting text among those that differ: it ranks the text above its foils.

    The last `foreign` columns are texts that fit nobody. Unknown pairs don't count.
    """
    logits = SHARPNESS * (cosines - THRESHOLD)
    fits, differs = relation == FITS, relation == DIFFERS
    is_foreign = torch.zeros_like(differs)
    is_foreign[:, -foreign:] = True
    parts = [2 * functional.softplus(-logits[fits]).mean()]
    for group in (differs & ~is_foreign, differs & is_foreign):
        parts.append(functional.softplus(logits[group]).mean())
    false = (RANKING * cosines).masked_fill(~differs, -torch.inf).logsumexp(1, keepdim=True)
    parts.append(functional.softplus(false - RANKING * cosines)[fits].mean())
    return torch.stack(parts).sum()


def encode_texts(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """open_clip's `encode_text` without the padding after the batch's longest text."""
    length = int((tokens != 0).sum(1).max())
    read = model.token_embedding(tokens[:, :length]) + model.positional_embedding[:length]
    read = model.ln_final(model.transformer(read, attn_mask=model.attn_mask[:length, :length]))
    return read[torch.arange(len(read)), tokens.argmax(1)] @ model.text_projection


def train(model: torch.nn.Module, batches: Batches, args: argparse.Namespace) -> None:
    """AdamW with warm-up and cosine decay. The final weights are a moving average of the last steps."""
    tokenize = open_clip.get_tokenizer(NAME)
    of_pictures, of_texts = (torch.nn.Linear(CONFIG["embed_dim"], len(examples.CLAIMS)) for _ in range(2))
    parameters = [*model.parameters(), *of_pictures.parameters(), *of_texts.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, weight_decay=0.02, betas=(0.9, 0.98))
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99), use_buffers=True
    )
    started, recent = time.monotonic(), np.zeros(3)
    loader = torch.utils.data.DataLoader(batches, batch_size=None, num_workers=1, prefetch_factor=8)
    for step, (pictures, held, texts, stated, relation) in zip(range(args.steps), loader, strict=False):
        spent = time.monotonic() - started
        progress = max(step / args.steps, spent / (60 * args.minutes) if args.minutes else 0)
        if progress >= 1:
            break
        rate = args.lr * min(1, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16):
            seen = model.encode_image(pictures.contiguous(memory_format=torch.channels_last)).float()
        losses = [CLAIM_WEIGHT * claim_loss(of_pictures(seen), held)] + [torch.zeros(())] * 2
        if progress >= args.look_first:
            with torch.autocast("cpu", torch.bfloat16):
                read = encode_texts(model, tokenize(texts)).float()
            cosines = functional.normalize(seen, dim=-1) @ functional.normalize(read, dim=-1).T
            losses[1:] = claim_loss(of_texts(read), stated), loss_of(cosines, relation, args.batch // 4)
        optimizer.zero_grad()
        sum(losses).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        average.update_parameters(model)
        recent = (0.95 if step else 0) * recent + (0.05 if step else 1) * np.array([loss.item() for loss in losses])
        if step % 25 == 0:
            print(f"step {step} of {args.steps}: losses {recent.round(3)}, {spent:.0f} s", flush=True)
            if step % 250 == 0:
                save(average.module, args.out)
    model.load_state_dict(average.module.state_dict())


def save(model: torch.nn.Module, folder: Path) -> None:
    """Writes half-precision safetensors and the configuration that open_clip reads."""
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
    """The chance that a random positive scores above a random negative."""
    ranks = np.concatenate([positive, negative]).argsort().argsort()[: len(positive)] + 1
    return float((ranks.sum() - len(positive) * (len(positive) + 1) / 2) / (len(positive) * len(negative)))


def true_above_foils(scorer: Scorer, views: Sequence[View], crops: np.ndarray, rng: random.Random) -> dict[str, float]:
    """By kind, the share of views whose best true text scores above every false one; only texts that say most count.

    Views share some of each other's texts, like members of a cluster share candidates.
    """
    shares = {}
    for kind in examples.OF_KIND:
        shown = [i for i, view in enumerate(views) if kind in examples.kinds(view)]
        facts = [examples.true_facts(views[i], kind, rng) for i in rng.choices(shown, k=CANDIDATES)] if shown else []
        texts = examples.claims_texts(facts, rng)
        if not texts:
            continue
        scores = crops[shown] @ scorer.texts([text.text for text in texts]).T
        relation, claims = examples.relations([views[i] for i in shown], texts), [len(text.claims) for text in texts]
        most = np.where(relation == FITS, claims, 0)
        own = np.where((most > 0) & (most == most.max(1, keepdims=True)), scores, -np.inf).max(1)
        foil = np.where(relation == DIFFERS, scores, -np.inf).max(1)
        shares[f"{kind}_above_foils"] = float((own > foil)[np.isfinite(own) & np.isfinite(foil)].mean())
    return shares


CANDIDATES = 300


def evaluate_views(scorer: Scorer, views: Sequence[View], painter: Painter, seed: int) -> dict[str, float]:
    """Figures on cutouts before random backgrounds, padded as the pipeline pads."""
    rng = random.Random(seed)
    crops = scorer.images([painter.paint(view, rng, plain=True) for view in views])
    posed = [i for i, view in enumerate(views) if view.pose and view.kind == "body"]
    own = scorer.texts([examples.scene_text(views[i], [], rng).text for i in posed])
    unrelated = scorer.texts([examples.unrelated_caption(rng) for _ in range(300)])
    fitting, others = (crops[posed] * own).sum(1), (crops @ unrelated.T).ravel()
    figures = {
        "views": len(views),
        "auc_fitting_unrelated": auc(fitting, others),
        "fitting_above_threshold": float((fitting > THRESHOLD).mean()),
        "unrelated_above_threshold": float((others > THRESHOLD).mean()),
    } | true_above_foils(scorer, views, crops, rng)
    return {key: round(value, 4) for key, value in figures.items()}


def evaluate_sample(scorer: Scorer, folder: Path, seed: int) -> dict[str, float]:
    """Figures on the people of the built-in sample, cut out by their true boxes with 10 % of padding."""
    rng = random.Random(seed)
    truth = json.loads((folder / "truth.json").read_text())
    crops, captions = [], []
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
    vectors = scorer.images(crops)
    unrelated = scorer.texts([examples.unrelated_caption(rng) for _ in range(300)])
    fitting, others = (vectors * scorer.texts(captions)).sum(1), (vectors @ unrelated.T).ravel()
    figures = {
        "people": len(crops),
        "auc_fitting_unrelated": auc(fitting, others),
        "fitting_above_threshold": float((fitting > THRESHOLD).mean()),
        "unrelated_above_threshold": float((others > THRESHOLD).mean()),
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
    parser.add_argument(
        "--look-first", type=float, default=0, help="share of the steps in which only pictures are looked at"
    )
    parser.add_argument("--head-share", type=float, default=0.4, help="share of the pictures that are heads")
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
    new_views = [view for view in views if (view.kind, view.number) in HELD_OUT]
    trained = [view for view in views if (view.kind, view.number) not in HELD_OUT]
    print(f"{len(trained)} views to train on, {len(new_views)} held out")
    args.out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    if not args.evaluate_only:
        (args.out / f"{NAME}.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
        open_clip.add_model_config(args.out / f"{NAME}.json")
        start = str(args.go_on_from / f"{NAME}.safetensors") if args.go_on_from else None
        model = open_clip.create_model(NAME, pretrained=start).to(memory_format=torch.channels_last)
        train(model.train(), Batches(trained, painter, args), args)
        save(model, args.out)
    scorer = Scorer(args.out)
    figures = {
        "trained_on_views": len(trained),
        "minutes": round((time.monotonic() - started) / 60, 1),
        "new_views": evaluate_views(scorer, new_views, painter, args.seed),
        "sample": evaluate_sample(scorer, args.sample, args.seed),
    }
    text = json.dumps(figures, indent=2)
    (args.out / f"{NAME}.eval.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
