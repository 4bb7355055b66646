"""Training examples for the sample's CLIP: pictures of rendered people, texts, and the fit of texts to pictures."""

from __future__ import annotations

import io
import json
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "plugins"), str(ROOT / "tools" / "render_people")]
from captions import EXPRESSION_WORDS, PLACE_WORDS, image_caption, unrelated_caption  # noqa: E402
from poses import BASES  # noqa: E402

from laion_people.language.facts import KIND, VALUES, contradicts, supports  # noqa: E402
from laion_people.language.phrases import captions  # noqa: E402
from tools.truth_labels import holds, readings  # noqa: E402

FITS, UNKNOWN, DIFFERS = 1, -1, 0
CLAIMS = tuple(f"{name}={value}" for names in VALUES.values() for name, values in names.items() for value in values)
INDEX = {claim: i for i, claim in enumerate(CLAIMS)}
OF_KIND = {kind: np.array([KIND[claim.partition("=")[0]] == kind for claim in CLAIMS]) for kind in VALUES}
PADDING = {"body": 0.1, "head": 0.6}  # share of the box, as in the step embed for people and face meshes
LEANING = 5  # degrees by which a body is turned in its picture, at most: people and cameras are never quite upright
FINER = 1.5  # a crop's longer side, before it is squashed, in sides of the square
TELLING = 0.5  # share of texts that say all that is true: CLIP chooses between such candidates
SHORT = 0.5  # share of foils that say one thing: candidates have few claims if members differ
FINE = ("view", "turn")  # here a label allows the next value, too, but a caption should not prefer it


@dataclass(frozen=True)
class View:
    """A cutout and what is true of it. `kind`: body or head; `held`: int8 [claims], whether each of CLAIMS fits it, and
    its mirror image; `box`: the person, or the extent of a face mesh, in pixels of the picture; `pose`: one of the
    sample's, or "".
    """

    picture: Image.Image
    kind: str
    gender: str
    pose: str
    direction: str
    held: np.ndarray
    held_mirrored: np.ndarray
    box: tuple[float, float, float, float]
    is_cut: bool
    number: int


@dataclass(frozen=True)
class Text:
    """A caption and what must be true of a fitting picture: claims, or one of some poses."""

    text: str
    claims: tuple[str, ...] = ()
    poses: frozenset[str] = frozenset()
    fits_nothing: bool = False


def load_views(folder: Path) -> list[View]:
    """All cutouts that `tools/render_people/make_cutouts.py` wrote."""
    known = [view for path in sorted(folder.glob("*.json")) for view in json.loads(path.read_text())]
    return [_view(folder, view) for view in known]


def _view(folder: Path, known: Mapping) -> View:
    picture = Image.open(folder / known["file"]).convert("RGBA")
    is_body = known["kind"] == "body"
    box = picture.getchannel("A").point(lambda a: 255 * (a > 40)).getbbox() if is_body else known["face"]
    label, base = known["label"], BASES.get(known["pose"], "") if is_body else ""
    if is_body:
        picture, box = picture.crop(box), (0, 0, box[2] - box[0], box[3] - box[1])
    return View(
        picture=picture,
        kind=known["kind"],
        gender=known["gender"],
        pose=known["pose"],
        direction=known["head_direction"],
        held=_held(label, is_body, base),
        held_mirrored=_held(_mirrored_label(label), is_body, base),
        box=tuple(box),
        is_cut=known.get("frame", "whole") != "whole",
        number=int(Path(known["file"]).stem.split("-")[1]),
    )


def _held(label: Mapping[str, str], is_body: bool, base: str = "") -> np.ndarray:
    """Whether each claim fits a label; UNKNOWN if a picture of a body or a head doesn't show it.

    base: the fact of a pose of the sample: a label also allows "standing" for kicking or lunging, facts do not.
    """
    held = np.full(len(CLAIMS), UNKNOWN, np.int8)
    is_seen = base in (seen := readings(label, "base")) and len(seen) <= 2  # more where legs are cut off
    for i, claim in enumerate(CLAIMS):
        name, _, value = claim.partition("=")
        if name == "base" and is_seen:
            own = {"base": base}
            held[i] = FITS if supports(own, claim) else DIFFERS if contradicts(own, claim) else UNKNOWN
        elif (KIND[name] == "pose") == is_body:
            is_true = holds(label, claim)
            if is_true is not None and not (is_true and name in FINE and value not in readings(label, name)):
                held[i] = FITS if is_true else DIFFERS
    return held


def _mirrored_label(label: Mapping[str, str]) -> dict[str, str]:
    swap = {"left": "right", "right": "left"}

    def turned(reading: str) -> str:
        return "_".join(swap.get(word, word) for word in reading.split("_"))

    mirrored = {
        {"l": "r_", "r": "l_"}[name[0]] + name[2:] if name[:2] in ("l_", "r_") else name: value
        for name, value in label.items()
    }
    return mirrored | {name: "|".join(map(turned, label[name].split("|"))) for name in ("turn", "tilt")}


def mirrored(view: View) -> View:
    """The view in a mirror; sides change places."""
    x1, y1, x2, y2 = view.box
    return replace(
        view,
        picture=view.picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        direction={"left": "right", "right": "left"}.get(view.direction, view.direction),
        held=view.held_mirrored,
        held_mirrored=view.held,
        box=(view.picture.width - x2, y1, view.picture.width - x1, y2),
    )


def turned(view: View, degrees: float) -> View:
    """The view of a body, turned so little that the same is true of it."""
    picture = view.picture.rotate(degrees, Image.Resampling.BILINEAR, expand=True)
    picture = picture.crop(picture.getbbox())
    return replace(view, picture=picture, box=(0, 0, *picture.size))


def kinds(view: View) -> tuple[str, ...]:
    """The kinds of captions that are compared with such a picture."""
    return ("pose",) if view.kind == "body" else ("face", "head")


def true_facts(view: View, kind: str, rng: random.Random) -> dict[str, str]:
    """Some of what is true of a view, sometimes in wider words; {} if nothing of this kind is true."""
    return _some(view.held == FITS, kind, rng)


def _some(is_true: np.ndarray, kind: str, rng: random.Random) -> dict[str, str]:
    values: dict[str, list[str]] = {}
    for i in np.flatnonzero(is_true & OF_KIND[kind]):
        name, _, value = CLAIMS[i].partition("=")
        values.setdefault(name, []).append(value)
    most = len(values)
    names = rng.sample(sorted(values), most if rng.random() < TELLING else rng.randint(1, most)) if values else []
    return {name: rng.choice(values[name]) for name in names}


def false_facts(view: View, kind: str, facts: Mapping[str, str], rng: random.Random) -> dict[str, str]:
    """A foil: the same facts with one or two false ones, or a single false one; {} if none can be false."""
    false: dict[str, list[str]] = {}
    for i in np.flatnonzero((view.held == DIFFERS) & OF_KIND[kind]):
        name, _, value = CLAIMS[i].partition("=")
        false.setdefault(name, []).append(value)
    if not false:
        return {}
    if rng.random() < SHORT:
        name = rng.choice(sorted(false))
        return {name: rng.choice(false[name])}
    names = sorted(set(false) & set(facts)) or sorted(false)
    if rng.random() < 0.2:
        names = sorted(false)
    changed = rng.sample(names, min(len(names), rng.choice((1, 1, 2))))
    return {**facts, **{name: rng.choice(false[name]) for name in changed}}


def claims_texts(facts: Sequence[Mapping[str, str]], rng: random.Random) -> list[Text]:
    """A sentence of the label step for each set of facts that it has words for."""
    in_words = [(named, captions(named, 1, str(rng.random()))) for named in facts if named]
    return [Text(words[0], tuple(f"{n}={v}" for n, v in named.items())) for named, words in in_words if words]


def scene_text(view: View, others: Sequence[View], rng: random.Random) -> Text:
    """A caption as beside a picture on the web, of a person in a pose of the sample and `others`.

    Expressions are random: bodies are too small to show them.
    """
    people = [view, *others]
    rng.shuffle(people)
    entries = [
        {"pose": v.pose, "expression": rng.choice(list(EXPRESSION_WORDS)), "head_direction": v.direction}
        for v in people
    ]
    text = image_caption(entries, [v.gender for v in people], rng.choice(list(PLACE_WORDS)), rng, rng.random() < 0.3)
    return Text(text, poses=frozenset(v.pose for v in people))


def foreign_text(rng: random.Random, words: Sequence[str]) -> Text:
    """A caption that fits no rendered person: unrelated, empty, or random words."""
    kind = rng.random()
    if kind < 0.6:
        text = unrelated_caption(rng)
    else:
        text = "" if kind < 0.65 else " ".join(rng.choices(words, k=rng.randint(1, 14)))
    return Text(text, fits_nothing=True)


def stated(texts: Sequence[Text]) -> np.ndarray:
    """int8 [texts, claims]: FITS if a text says it, DIFFERS if not; UNKNOWN for captions of scenes."""
    states = np.full((len(texts), len(CLAIMS)), DIFFERS, np.int8)
    for row, text in zip(states, texts, strict=True):
        row[[INDEX[claim] for claim in text.claims]] = FITS
        if not text.claims and not text.fits_nothing:
            row[:] = UNKNOWN
    return states


def relations(views: Sequence[View], texts: Sequence[Text]) -> np.ndarray:
    """int8 [views, texts]: whether each text fits each view."""
    states = (stated(texts) == FITS).astype(np.float32)
    held = np.stack([view.held for view in views])
    false, unknown = ((held == relation).astype(np.float32) @ states.T > 0 for relation in (DIFFERS, UNKNOWN))
    related = np.where(false, DIFFERS, np.where(unknown, UNKNOWN, FITS)).astype(np.int8)
    for j, text in enumerate(texts):
        if text.fits_nothing:
            related[:, j] = DIFFERS
        elif not text.claims:  # beside a picture of a scene
            related[:, j] = [
                UNKNOWN if view.kind == "head" or not view.pose else FITS if view.pose in text.poses else DIFFERS
                for view in views
            ]
    return related


class Painter:
    """Puts cutouts before backgrounds, like crops of a photograph."""

    def __init__(self, backgrounds: Sequence[Image.Image], side: int) -> None:
        """`side`: of the crops, px; they are squashed into squares."""
        self.backgrounds, self.side = backgrounds, side

    def background(self, size: tuple[int, int], rng: random.Random) -> Image.Image:
        """A piece of a background picture, of plain colour, or of coloured noise."""
        draw = rng.random()
        if draw < 0.7 and self.backgrounds:
            picture = rng.choice(self.backgrounds)
            height = rng.randint(picture.height // 4, picture.height)
            width = min(picture.width, max(8, height * size[0] // size[1]))
            x, y = rng.randint(0, picture.width - width), rng.randint(0, picture.height - height)
            return picture.resize(size, Image.Resampling.BILINEAR, box=(x, y, x + width, y + height))
        noise = np.random.default_rng(rng.getrandbits(32)).integers(
            0, 256, (rng.randint(1, 8), rng.randint(1, 8), 3), np.uint8
        )
        return Image.fromarray(noise[:1, :1] if draw > 0.9 else noise).resize(size, Image.Resampling.BICUBIC)

    def paint(self, view: View, rng: random.Random, neighbour: View | None = None, plain: bool = False) -> Image.Image:
        """A crop around the person or head; `plain`: true colours, sharp, padded as in the step embed, not squashed."""
        if view.kind == "body" and not plain and not view.is_cut:
            view = turned(view, rng.uniform(-LEANING, LEANING))
        x1, y1, x2, y2 = view.box
        padding = PADDING[view.kind]
        left, top, right, bottom = (padding if plain else max(0.0, rng.gauss(padding, 0.06)) for _ in range(4))
        if view.is_cut:
            bottom = 0.0
        if view.kind == "head" and not plain and rng.random() < 0.1:  # at the photograph's edge
            left, right, top = rng.choice(((0.0, right, top), (left, 0.0, top), (left, right, 0.05)))
        width, height = (x2 - x1) * (1 + left + right), (y2 - y1) * (1 + top + bottom)
        scale = FINER * self.side / max(width, height)
        canvas = self.background((max(8, round(width * scale)), max(8, round(height * scale))), rng)
        if neighbour is not None:
            at = round(rng.choice((-0.4, 0.8)) * canvas.width), round(0.1 * canvas.height)
            _paste(canvas, neighbour.picture, canvas.height / neighbour.picture.height, at)
        at = round(((x2 - x1) * left - x1) * scale), round(((y2 - y1) * top - y1) * scale)
        _paste(canvas, view.picture, scale, at)
        if plain:
            return canvas
        canvas = _photographed(canvas, rng, smallest=28 if view.kind == "head" else 80)
        return canvas.resize((self.side, self.side), Image.Resampling.BICUBIC)


def _paste(canvas: Image.Image, picture: Image.Image, scale: float, at: tuple[int, int]) -> None:
    size = max(4, round(picture.width * scale)), max(4, round(picture.height * scale))
    small = picture.resize(size, Image.Resampling.BILINEAR)
    canvas.paste(small, at, small)


def _photographed(picture: Image.Image, rng: random.Random, smallest: int) -> Image.Image:
    """Other light and colours; fewer pixels, down to `smallest` on the longer side; blurred, or stored as JPEG."""
    picture = ImageEnhance.Brightness(picture).enhance(rng.uniform(0.7, 1.3))
    picture = ImageEnhance.Contrast(picture).enhance(rng.uniform(0.75, 1.25))
    picture = ImageEnhance.Color(picture).enhance(rng.uniform(0.4, 1.5))
    if rng.random() < 0.4:
        share = rng.uniform(smallest / max(picture.size), 1)
        size = max(4, round(picture.width * share)), max(4, round(picture.height * share))
        picture = picture.resize(size, Image.Resampling.BILINEAR).resize(picture.size, Image.Resampling.BICUBIC)
    elif rng.random() < 0.25:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.0)))
    if rng.random() < 0.3:
        stored = io.BytesIO()
        picture.save(stored, "JPEG", quality=rng.randint(50, 90))
        picture = Image.open(stored)
    return picture
