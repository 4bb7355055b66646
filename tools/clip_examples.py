"""Training examples for the sample's CLIP: pictures of rendered people, texts, and which text fits which picture."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "plugins"), str(ROOT / "tools" / "render_people")]
from captions import PLACE_WORDS, image_caption, unrelated_caption  # noqa: E402
from poses import EXPRESSIONS, POSES, UPPER_BODY_POSES  # noqa: E402

from laion_people.facts import VALUES, closure, supports  # noqa: E402
from laion_people.phrases import captions  # noqa: E402

FITS, UNKNOWN, DIFFERS = 1, -1, 0
TURNS = tuple(turn for turn in VALUES["head"]["turn"] if turn != "away")
POSE_FACTS: dict[str, dict[str, str]] = {  # what is true of each rendered pose
    "stand": {"base": "standing", "left_arm": "down", "right_arm": "down"},
    "tpose": {"base": "standing", "left_arm": "out", "right_arm": "out"},
    "arms_up": {"base": "standing", "left_arm": "overhead", "right_arm": "overhead"},
    "wave": {"base": "standing", "left_arm": "down", "right_arm": "raised"},
    "hands_on_hips": {"base": "standing", "left_arm": "on_hip", "right_arm": "on_hip"},
    "point": {"base": "standing", "left_arm": "out", "right_arm": "down"},
    "sit": {"base": "sitting", "left_arm": "bent", "right_arm": "bent"},
    "squat": {"base": "squatting", "left_arm": "forward", "right_arm": "forward"},
    "lunge": {"base": "lunging", "left_arm": "out", "right_arm": "out", "legs_apart": "yes"},
    "run": {"base": "running", "left_arm": "bent", "right_arm": "bent"},
    "kick": {"base": "kicking"},
    "tree": {"base": "one_leg", "left_arm": "overhead", "right_arm": "overhead"},
}
VIEWS = (
    (25, "front"),
    (40, ""),
    (65, "three_quarter"),
    (75, ""),
    (105, "side"),
    (155, ""),
    (181, "back"),
)  # to degrees
FACE_FACTS: dict[str, tuple[dict[str, str], ...]] = {  # what blendshapes may say about each rendered expression
    "neutral": ({"mouth": "relaxed", "brows": "level", "eyes": "open"},),
    "smile": (
        {"mouth": "smiling", "brows": "level", "eyes": "open"},
        {"mouth": "smiling", "brows": "level", "eyes": "narrowed"},
        {"mouth": "smiling"},
        {"mouth": "smiling_open", "brows": "level", "eyes": "open"},
    ),
    "open_mouth": (
        {"mouth": "open", "brows": "raised", "eyes": "wide"},
        {"mouth": "open", "brows": "raised", "eyes": "open"},
        {"mouth": "open", "brows": "level", "eyes": "open"},
        {"mouth": "open"},
    ),
    "frown": (
        {"mouth": "turned_down", "brows": "lowered", "eyes": "open"},
        {"mouth": "turned_down", "brows": "lowered", "eyes": "narrowed"},
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
    """A cutout and what is true of it. `kind`: body, upper (cut at the waist) or head; `turn`: facts of the head.

    `body`: facts of the pose, also where they are not seen.
    """

    picture: Image.Image
    kind: str
    identity: str
    gender: str
    pose: str
    expression: str
    direction: str
    turn: Mapping[str, str]
    body: Mapping[str, str]
    number: int = 0

    @property
    def is_back(self) -> bool:
        return self.direction == "back"


@dataclass(frozen=True)
class Text:
    """A caption and what must be true of a picture that it fits; None: anything goes."""

    text: str
    poses: frozenset[str] | None = None
    body: Mapping[str, str] | None = None
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
                body=POSE_FACTS[truth["pose"]] | view_facts(truth["body_yaw"]),
                number=int(path.stem.split("-")[1]),
            )
        )
    return views


def turn_facts(head: Mapping[str, float]) -> dict[str, str]:
    """The facts of a head from its angles in degrees."""
    yaw, pitch, roll = head["yaw"], head["pitch"], head["roll"]
    return {
        "turn": TURNS[int(np.searchsorted((-45, -20, -8, 8, 20, 45), yaw, side="right"))],
        "nod": "up" if pitch > 8 else "down" if pitch < -16 else "level",
        "tilt": "left" if roll < -12 else "right" if roll > 12 else "none",
    }


def view_facts(yaw: float) -> dict[str, str]:
    """From where a body that is turned by so many degrees is seen; nothing between two words."""
    turned = abs((yaw + 180) % 360 - 180)
    view = next(name for limit, name in VIEWS if turned < limit)
    return {"view": view} if view else {}


def sentence(facts: Mapping[str, str], rng: random.Random) -> str:
    return captions(facts, 1, str(rng.random()))[0]


def some(facts: Mapping[str, str], rng: random.Random) -> dict[str, str]:
    """Some of the facts, at times in a wider word."""
    names = rng.sample(sorted(facts), rng.randint(1, len(facts)))
    return {name: rng.choice((facts[name], *closure(name, facts[name]))) for name in names}


def pose_text(view: View, rng: random.Random) -> Text:
    """A sentence of the label step about the body."""
    seen = {name: value for name, value in view.body.items() if name not in _hidden(view)}
    said = some(seen, rng)
    return Text(sentence(said, rng), body=said)


def _hidden(view: View) -> frozenset[str]:
    return frozenset(("base", "legs_apart") if view.kind == "upper" else ())


def face_text(view: View, rng: random.Random) -> Text:
    """A sentence of the label step about the expression."""
    facts = rng.choice(FACE_FACTS[view.expression])
    fitting = {expression for expression, known in FACE_FACTS.items() if facts in known}
    return Text(sentence(facts, rng), expressions=frozenset(fitting))


def head_text(view: View, rng: random.Random) -> Text:
    """A sentence of the label step about where the head points."""
    return Text(sentence(view.turn, rng), turn=view.turn)


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
    facts = some({name: rng.choice(values) for name, values in VALUES["pose"].items()}, rng)
    return Text(sentence(facts, rng), body=facts)


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
    if text.poses is None and text.body is None:
        return FITS
    if view.kind == "head":
        return UNKNOWN
    if text.poses is not None:
        if view.pose in text.poses:
            return FITS
        alike = view.kind == "upper" and any(_arms(pose) == _arms(view.pose) for pose in text.poses)
        return UNKNOWN if alike else DIFFERS
    seen = {name: value for name, value in text.body.items() if name in view.body and name not in _hidden(view)}
    if not all(supports(view.body, f"{name}={value}") for name, value in seen.items()):
        return DIFFERS
    return FITS if len(seen) == len(text.body) else UNKNOWN


def _arms(pose: str) -> list[str | None]:
    return [POSE_FACTS[pose].get(name) for name in ("left_arm", "right_arm")]


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
    turn = {name: "_".join(swap.get(word, word) for word in value.split("_")) for name, value in view.turn.items()}
    arms = {"left_arm": "right_arm", "right_arm": "left_arm"}
    return replace(
        view,
        picture=view.picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        turn=turn,
        body={arms.get(name, name): value for name, value in view.body.items()},
        direction=swap.get(view.direction, view.direction),
    )


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
