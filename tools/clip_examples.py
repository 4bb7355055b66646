"""Training examples for the sample's CLIP: pictures of rendered people, texts, and which text fits which picture."""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "plugins"), str(ROOT / "tools" / "render_people")]
from captions import PLACE_WORDS, image_caption, unrelated_caption  # noqa: E402
from poses import EXPRESSIONS, POSES, UPPER_BODY_POSES  # noqa: E402

from laion_people.facetext import face_captions, head_captions, head_facts  # noqa: E402
from laion_people.geometry import LIMBS  # noqa: E402
from laion_people.posetext import ARMS, LEGS, pose_captions, pose_facts  # noqa: E402

FITS, UNKNOWN, DIFFERS = 1, -1, 0
SEGMENT_OF_LIMB = {"upper_arm": "upper_arm", "forearm": "lower_arm", "thigh": "thigh", "shin": "shin"}
LIMB_NOISE = 0.1  # of a limb's length; about what pose estimation is off
SAME_ARMS = {"tpose": {"lunge"}, "arms_up": {"tree"}}  # poses that only the legs tell apart
TURNS = ("far left", "left", "slightly left", "camera", "slightly right", "right", "far right")
FACE_FACTS: dict[str, tuple[dict[str, str], ...]] = {  # what blendshapes may say about each rendered expression
    "neutral": ({"mouth": "relaxed", "brows": "level", "eyes": "open"},),
    "smile": (
        {"mouth": "smiling", "brows": "level", "eyes": "open"},
        {"mouth": "smiling", "brows": "level", "eyes": "narrowed"},
        {"mouth": "smiling"},
        {"mouth": "smiling open", "brows": "level", "eyes": "open"},
    ),
    "open_mouth": (
        {"mouth": "open", "brows": "raised", "eyes": "wide"},
        {"mouth": "open", "brows": "raised", "eyes": "open"},
        {"mouth": "open", "brows": "level", "eyes": "open"},
        {"mouth": "open"},
    ),
    "frown": (
        {"mouth": "turned down", "brows": "lowered", "eyes": "open"},
        {"mouth": "turned down", "brows": "lowered", "eyes": "narrowed"},
        {"mouth": "relaxed", "brows": "lowered", "eyes": "open"},
        {"brows": "lowered"},
    ),
    "eyes_closed": ({"mouth": "relaxed", "brows": "level", "eyes": "closed"}, {"eyes": "closed"}),
    "pucker": (
        {"mouth": "puckered", "brows": "level", "eyes": "open"},
        {"mouth": "puckered", "brows": "lowered", "eyes": "open"},
        {"mouth": "puckered"},
    ),
}


@dataclass(frozen=True)
class View:
    """A cutout and what is true of it. `kind`: body, upper (cut at the waist) or head; `turn`: facts of the head."""

    picture: Image.Image
    kind: str
    identity: str
    gender: str
    pose: str
    expression: str
    direction: str
    turn: Mapping[str, str]
    number: int = 0

    @property
    def is_back(self) -> bool:
        return self.direction == "back"


@dataclass(frozen=True)
class Text:
    """A caption and what must be true of a picture that it fits; None: anything goes."""

    text: str
    poses: frozenset[str] | None = None
    expressions: frozenset[str] | None = None
    turn: Mapping[str, str] | None = None
    fits_nothing: bool = False


def load_views(folder: Path) -> list[View]:
    """All cutouts that `tools/render_people/make_cutouts.py` wrote, cropped to what is not transparent."""
    views = []
    for path in sorted(folder.glob("*-*.json")):
        truth = json.loads(path.read_text())
        picture = Image.open(path.with_suffix(".png")).convert("RGBA")
        if truth["view"] == "body":
            picture = picture.crop(picture.getchannel("A").point(lambda a: 255 * (a > 40)).getbbox())
            picture.thumbnail((192, 192), Image.Resampling.BILINEAR)
        views.append(
            View(
                picture=picture,
                kind=truth["view"],
                identity=truth["identity"],
                gender=truth["gender"],
                pose=truth["pose"],
                expression=truth["expression"],
                direction=truth["head_direction"],
                turn=turn_facts(truth["head"]),
                number=int(path.stem.split("-")[1]),
            )
        )
    return views


def turn_facts(head: Mapping[str, float]) -> dict[str, str]:
    """The label step's facts of a head from its angles in degrees."""
    angles = np.radians([[head["yaw"], head["pitch"], head["roll"]]])
    return {name: str(values[0]) for name, values in head_facts(angles).items()}


@lru_cache(maxsize=1)
def facts_of_poses() -> dict[str, list[dict[str, str]]]:
    """The facts that the label step may state about each rendered pose, from its limbs with some noise."""
    rng = np.random.default_rng(0)
    collected = {}
    for name, pose in POSES.items():
        directions = {**POSES["stand"], "thigh.L": (0.1, -1, 0), "thigh.R": (-0.1, -1, 0)}
        directions |= {"shin.L": (0, -1, 0), "shin.R": (0, -1, 0), **pose}
        limbs = [(0, 1, 0)]
        for limb in LIMBS[1:]:
            side, segment = limb.split("_", 1)
            limbs.append(directions[f"{SEGMENT_OF_LIMB[segment]}.{side[0].upper()}"])
        exact = np.array(limbs, float)
        exact /= np.linalg.norm(exact, axis=1, keepdims=True)
        noisy = exact + rng.normal(0, LIMB_NOISE, (200, *exact.shape))
        noisy /= np.linalg.norm(noisy, axis=2, keepdims=True)
        facts = pose_facts(noisy)
        rows = [tuple((key, str(facts[key][i])) for key in facts if facts[key][i]) for i in range(len(noisy))]
        collected[name] = [dict(row) for row, count in Counter(rows).items() if count >= 8]
    return collected


def poses_with(facts: Mapping[str, str]) -> frozenset[str]:
    """The poses of which the facts may be true."""
    return frozenset(
        pose
        for pose, known in facts_of_poses().items()
        if any(all(k.get(f) == v for f, v in facts.items()) for k in known)
    )


def pose_text(view: View, rng: random.Random) -> Text:
    """A sentence of the label step about the body."""
    facts = dict(rng.choice(facts_of_poses()[view.pose]))
    if view.kind == "upper" or rng.random() < 0.15:
        facts.pop("legs", None)
    elif rng.random() < 0.1:
        facts.pop("arms", None)
    return Text(rng.choice(pose_captions(facts)), poses=poses_with(facts) | {view.pose})


def face_text(view: View, rng: random.Random) -> Text:
    """A sentence of the label step about the expression."""
    facts = rng.choice(FACE_FACTS[view.expression])
    fitting = {expression for expression, known in FACE_FACTS.items() if facts in known}
    return Text(rng.choice(face_captions(facts)), expressions=frozenset(fitting))


def head_text(view: View, rng: random.Random) -> Text:
    """A sentence of the label step about where the head points."""
    return Text(rng.choice(head_captions(view.turn)), turn=view.turn)


def scene_text(view: View, others: Sequence[View], rng: random.Random) -> Text:
    """A caption as it stands beside a picture on the web, of this person and `others` in one scene."""
    people = [view, *others]
    rng.shuffle(people)
    entries = [{"pose": v.pose, "expression": v.expression, "head_direction": v.direction} for v in people]
    face = view.kind != "body"
    text = image_caption(entries, [v.gender for v in people], rng.choice(list(PLACE_WORDS)), rng, face=face)
    if len(people) > 3:
        return Text(text)  # names some of the poses only
    expressions = frozenset(v.expression for v in people) if face and not view.is_back else None
    return Text(text, poses=frozenset(v.pose for v in people), expressions=expressions)


def foreign_text(rng: random.Random, words: Sequence[str]) -> Text:
    """A caption that fits no rendered person: unrelated, empty, random words, or a pose that is not rendered."""
    kind = rng.random()
    if kind < 0.55:
        return Text(unrelated_caption(rng), fits_nothing=True)
    if kind < 0.6:
        return Text("", fits_nothing=True)
    if kind < 0.8:
        return Text(" ".join(rng.choices(words, k=rng.randint(1, 14))), fits_nothing=True)
    facts = {
        "legs": rng.choice(list(LEGS)),
        "arms": "+".join(sorted(rng.choices(list(ARMS), k=2), key=list(ARMS).index)),
    }
    return Text(rng.choice(pose_captions(facts)), poses=poses_with(facts))


def text_for(view: View, others: Sequence[View], rng: random.Random) -> Text:
    """A random fitting text."""
    draw = rng.random()
    if view.kind == "head":
        text = (
            face_text(view, rng) if draw < 0.4 else head_text(view, rng) if draw < 0.75 else scene_text(view, [], rng)
        )
    else:
        count = 0 if draw < 0.8 else rng.choice((1, 1, 2, 4))
        text = pose_text(view, rng) if draw < 0.4 else scene_text(view, others[:count], rng)
    return replace(text, text=" ".join([text.text] * 12)) if rng.random() < 0.02 else text


def relation(view: View, text: Text) -> int:
    """Whether a text that was made for another picture fits this one."""
    if text.fits_nothing:
        return DIFFERS
    known = [_pose_relation(view, text), _face_relation(view, text), _turn_relation(view, text)]
    if DIFFERS in known:
        return DIFFERS
    return UNKNOWN if UNKNOWN in known else FITS


def _pose_relation(view: View, text: Text) -> int:
    if text.poses is None:
        return FITS
    if not text.poses:
        return DIFFERS
    if view.kind == "head":
        return UNKNOWN
    if view.pose in text.poses:
        return FITS
    hidden_legs = view.kind == "upper" and SAME_ARMS.get(view.pose, set()) & text.poses
    return UNKNOWN if hidden_legs else DIFFERS


def _face_relation(view: View, text: Text) -> int:
    if text.expressions is None:
        return FITS
    if view.kind == "body" or view.is_back:
        return UNKNOWN
    return FITS if view.expression in text.expressions else DIFFERS


def _turn_relation(view: View, text: Text) -> int:
    if text.turn is None:
        return FITS
    if view.kind != "head" or view.is_back:
        return UNKNOWN
    if dict(view.turn) == dict(text.turn):
        return FITS
    steps = abs(TURNS.index(view.turn["turn"]) - TURNS.index(text.turn["turn"]))
    others_equal = all(view.turn[key] == text.turn[key] for key in ("nod", "tilt"))
    return UNKNOWN if steps <= 1 and others_equal else DIFFERS


def mirrored(view: View) -> View:
    """The view in a mirror; sides change places."""
    swap = {"left": "right", "right": "left"}
    turn = {k: " ".join(swap.get(word, word) for word in v.split()) for k, v in view.turn.items()}
    picture = view.picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return replace(view, picture=picture, turn=turn, direction=swap.get(view.direction, view.direction))


def cut_at_waist(view: View, rng: random.Random) -> View:
    """The upper body alone, as where a picture ends at the waist."""
    width, height = view.picture.size
    share = rng.uniform(0.4, 0.7)
    return replace(view, kind="upper", picture=view.picture.crop((0, 0, width, int(height * share))))


def may_be_cut(view: View) -> bool:
    return view.kind == "body" and view.pose in UPPER_BODY_POSES


class Painter:
    """Puts cutouts before backgrounds, as crops of a photograph would show them."""

    def __init__(self, backgrounds: Sequence[Image.Image], side: int) -> None:
        """`side`: longer side of the crops, px."""
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
        """A crop around the person; `plain`: true colours, sharp, padded by 10 %."""
        picture = view.picture
        if view.kind == "head":
            share = 0.85 if plain else rng.uniform(0.6, 1.0)
            left, top = ((picture.width * (1 - share)) * (0.5 if plain else rng.uniform(0.35, 0.65)) for _ in range(2))
            picture = picture.crop(
                (int(left), int(top), int(left + picture.width * share), int(top + picture.height * share))
            )
            margins = [0.0] * 4
        else:
            margins = [0.1] * 4 if plain else [max(0.0, rng.gauss(0.1, 0.05)) for _ in range(4)]
            if view.kind == "upper":
                margins[3] = 0.0
        width = picture.width * (1 + margins[0] + margins[2])
        height = picture.height * (1 + margins[1] + margins[3])
        scale = self.side / max(width, height)
        canvas = self.background((max(8, round(width * scale)), max(8, round(height * scale))), rng)
        if neighbour is not None:
            self._paste(
                canvas, neighbour.picture, canvas.height / neighbour.picture.height, rng.choice((-0.4, 0.8)), 0.1
            )
        self._paste(canvas, picture, scale, margins[0] * picture.width / width, margins[1] * picture.height / height)
        return canvas if plain else _photographed(canvas, rng)

    @staticmethod
    def _paste(canvas: Image.Image, picture: Image.Image, scale: float, x: float, y: float) -> None:
        """`x`, `y`: place of the corner as shares of the canvas."""
        size = max(4, round(picture.width * scale)), max(4, round(picture.height * scale))
        small = picture.resize(size, Image.Resampling.BILINEAR)
        canvas.paste(small, (round(x * canvas.width), round(y * canvas.height)), small)


def _photographed(picture: Image.Image, rng: random.Random) -> Image.Image:
    """Other light, colours and sharpness."""
    picture = ImageEnhance.Brightness(picture).enhance(rng.uniform(0.7, 1.3))
    picture = ImageEnhance.Contrast(picture).enhance(rng.uniform(0.75, 1.25))
    picture = ImageEnhance.Color(picture).enhance(rng.uniform(0.4, 1.5))
    if rng.random() < 0.25:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.2)))
    return picture


EXPRESSION_NAMES, POSE_NAMES = tuple(EXPRESSIONS), tuple(POSES)
