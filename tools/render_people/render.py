"""Puts people into a Blender scene, frames them, renders, and says where everything is in the picture."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np
import scenery
from mathutils import Matrix, Vector
from people import Part, Person
from PIL import Image, ImageDraw

SENSOR_MM = 36.0  # along the longer side of the picture
FACE_JOINTS = ("nose", "left_eye", "right_eye", "left_ear", "right_ear")


@dataclass(frozen=True)
class Placed:
    """A person at a place: x, y in metres; yaw in degrees about the vertical, 0 looks at the camera."""

    person: Person
    x: float
    y: float
    yaw: float

    @property
    def rotation(self) -> np.ndarray:
        return np.array(Matrix.Rotation(math.radians(self.yaw), 3, "Z"))

    def world(self, points: np.ndarray) -> np.ndarray:
        return points @ self.rotation.T + np.array([self.x, self.y, 0])

    def vertices(self) -> np.ndarray:
        return np.concatenate([self.world(part.vertices) for part in self.person.parts])


@dataclass(frozen=True)
class Camera:
    """A pinhole camera: place and target in metres, focal length in mm, picture size in px."""

    place: tuple[float, float, float]
    target: tuple[float, float, float]
    focal: float
    width: int
    height: int

    @property
    def axes(self) -> np.ndarray:
        """Rows: right, up, back."""
        back = np.subtract(self.place, self.target)
        back = back / np.linalg.norm(back)
        right = np.cross((0, 0, 1), back)
        right = right / np.linalg.norm(right)
        return np.array([right, np.cross(back, right), back])

    def project(self, points: np.ndarray) -> np.ndarray:
        """World metres to pixels: columns x, y and depth (metres in front of the camera)."""
        local = (np.atleast_2d(points) - self.place) @ self.axes.T
        depth = (-local[:, 2]).clip(1e-3)
        scale = self.focal / SENSOR_MM * max(self.width, self.height)
        return np.stack(
            [self.width / 2 + scale * local[:, 0] / depth, self.height / 2 - scale * local[:, 1] / depth, -local[:, 2]],
            1,
        )


def frame(
    placed: Sequence[Placed], size: tuple[int, int], lowest: float = 0.0, margin: float = 0.06, focal: float = 60
) -> Camera:
    """The nearest camera with everything above the height `lowest` (metres) in view; `margin`: share of the side."""
    points = np.concatenate([p.vertices()[::5] for p in placed])
    points = points[points[:, 2] >= lowest]
    low, high = points.min(0), points.max(0)
    target = ((low[0] + high[0]) / 2, (low[1] + high[1]) / 2, (low[2] + high[2]) / 2)
    border = margin * min(size)
    for distance in np.arange(0.9, 14, 0.1):
        camera = Camera((target[0], low[1] - distance, target[2] * 0.7 + 0.6), target, focal, *size)
        xy = camera.project(points)
        if (
            (xy[:, :2].min(0) > border).all()
            and xy[:, 0].max() < size[0] - border
            and xy[:, 1].max() < size[1] - border
        ):
            return camera
    raise ValueError("no camera distance fits the people")


def new_scene(
    size: tuple[int, int], samples: int, threads: int, seed: int, transparent: bool = False
) -> bpy.types.Scene:
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    cycles = scene.cycles
    cycles.device, cycles.samples, cycles.seed = "CPU", samples, seed
    cycles.use_denoising, cycles.denoiser = True, "OPENIMAGEDENOISE"
    cycles.denoising_prefilter, cycles.denoising_quality = "FAST", "BALANCED"
    cycles.max_bounces, cycles.transparent_max_bounces, cycles.use_light_tree = 2, 8, False
    cycles.use_adaptive_sampling, cycles.adaptive_threshold = True, 0.05
    scene.render.threads_mode, scene.render.threads = "FIXED", threads
    scene.render.resolution_x, scene.render.resolution_y = size
    scene.render.film_transparent = transparent
    scene.view_settings.view_transform = "Standard"
    scene.render.image_settings.file_format = "PNG"
    scene.render.image_settings.color_mode = "RGBA" if transparent else "RGB"
    return scene


def _image(path: Path, is_data: bool = False) -> bpy.types.Image:
    image = bpy.data.images.load(str(path), check_existing=True)
    if is_data:
        image.colorspace_settings.name = "Non-Color"
    return image


def _part_material(part: Part) -> bpy.types.Material:
    material = bpy.data.materials.new(part.kind)
    material.use_nodes = True
    tree = material.node_tree
    shader = tree.nodes["Principled BSDF"]
    roughness = {"body": 0.5, "eyes": 0.1, "hair": 0.5, "teeth": 0.25, "tongue": 0.4}
    shader.inputs["Roughness"].default_value = roughness.get(part.kind, 0.8)
    shader.inputs["Specular IOR Level"].default_value = 0.3
    if part.texture is None:
        shader.inputs["Base Color"].default_value = (0.75, 0.7, 0.65, 1)
        return material
    texture = tree.nodes.new("ShaderNodeTexImage")
    texture.image = _image(part.texture)
    mix = tree.nodes.new("ShaderNodeMix")
    mix.data_type, mix.blend_type = "RGBA", "MULTIPLY"
    mix.inputs["Factor"].default_value = 1
    mix.inputs["B"].default_value = (*part.tint, 1)
    tree.links.new(texture.outputs["Color"], mix.inputs["A"])
    tree.links.new(mix.outputs["Result"], shader.inputs["Base Color"])
    if part.kind in ("hair", "eyebrows", "eyelashes", "eyes", "clothes"):
        tree.links.new(texture.outputs["Alpha"], shader.inputs["Alpha"])
    if part.normal is not None and part.normal.exists():
        bumps, normal = tree.nodes.new("ShaderNodeTexImage"), tree.nodes.new("ShaderNodeNormalMap")
        bumps.image = _image(part.normal, is_data=True)
        normal.inputs["Strength"].default_value = 0.8
        tree.links.new(bumps.outputs["Color"], normal.inputs["Color"])
        tree.links.new(normal.outputs["Normal"], shader.inputs["Normal"])
    return material


def add_person(placed: Placed, smooth: bool) -> list[bpy.types.Object]:
    """Puts a person into the current scene. Returns the objects; their origin is the person's."""
    objects = []
    for part in placed.person.parts:
        mesh = bpy.data.meshes.new(part.kind)
        mesh.from_pydata(part.vertices.tolist(), [], part.faces)
        if part.uv_faces:
            layer = mesh.uv_layers.new()
            corners = np.concatenate([np.asarray(f) for f in part.uv_faces])
            layer.data.foreach_set("uv", part.uv[corners].astype("f4").ravel())
        mesh.polygons.foreach_set("use_smooth", [True] * len(mesh.polygons))
        mesh.update()
        mesh.materials.append(_part_material(part))
        thing = bpy.data.objects.new(part.kind, mesh)
        bpy.context.collection.objects.link(thing)
        thing.location, thing.rotation_euler = (placed.x, placed.y, 0), (0, 0, math.radians(placed.yaw))
        if smooth and part.kind in ("body", "clothes"):
            subdivide = thing.modifiers.new("subdivide", "SUBSURF")
            subdivide.levels = subdivide.render_levels = 1
        objects.append(thing)
    if placed.person.pose == "sit":
        _add_stool(placed)
    return objects


def _add_stool(placed: Placed) -> None:
    """A seat under the thighs of someone who sits."""
    vertices = placed.vertices()
    hips = placed.world(np.array([placed.person.joints[f"{s}_hip"] for s in ("left", "right")])).mean(0)
    near = np.linalg.norm(vertices[:, :2] - hips[:2], axis=1) < 0.16
    scenery.stool(hips[0], hips[1], vertices[near, 2].min() + 0.015, placed.yaw)


def set_camera(camera: Camera) -> None:
    data = bpy.data.cameras.new("camera")
    data.lens, data.sensor_width = camera.focal, SENSOR_MM
    thing = bpy.data.objects.new("camera", data)
    bpy.context.collection.objects.link(thing)
    thing.location = camera.place
    thing.rotation_euler = (Vector(camera.target) - thing.location).to_track_quat("-Z", "Y").to_euler()
    bpy.context.scene.camera = thing


def render_picture(
    placed: Sequence[Placed],
    camera: Camera,
    place: str,
    path: Path,
    samples: int,
    threads: int,
    seed: int,
    smooth: bool,
) -> None:
    """Renders people in a place of `scenery.PLACES` into a PNG. `smooth`: subdivides the meshes, for close pictures."""
    scene = new_scene((camera.width, camera.height), samples, threads, seed)
    scenery.PLACES[place](random.Random(seed))
    for one in placed:
        add_person(one, smooth)
    set_camera(camera)
    scene.render.filepath = str(path)
    bpy.ops.render.render(write_still=True)


def _silhouette(placed: Placed, camera: Camera) -> Image.Image:
    """The person's outline on a canvas three times the picture's size: cut-off parts count, too."""
    canvas = Image.new("1", (3 * camera.width, 3 * camera.height))
    draw = ImageDraw.Draw(canvas)
    for part in placed.person.parts:
        xyz = camera.project(placed.world(part.vertices))
        xy = xyz[:, :2] + (camera.width, camera.height)
        for face in part.faces:
            if xyz[face, 2].min() > 0.05:
                draw.polygon([tuple(p) for p in xy[face]], fill=1)
    return canvas


def head_angles(placed: Placed, camera: Camera) -> dict[str, float]:
    """Yaw, pitch, roll in degrees against the line of sight to the head.

    Yaw > 0: the face turns to the picture's right; pitch > 0: upwards; roll > 0: its top leans to the picture's right.
    """
    rotation = placed.rotation @ placed.person.head_rotation
    eyes = placed.world(np.array([placed.person.joints[f"{s}_eye"] for s in ("left", "right")])).mean(0)
    back = np.subtract(camera.place, eyes)
    back = back / np.linalg.norm(back)
    right = np.cross((0, 0, 1), back)
    right = right / np.linalg.norm(right)
    up = np.cross(back, right)
    forward, top = rotation @ (0, -1, 0), rotation @ (0, 0, 1)
    yaw = math.atan2(forward @ right, forward @ back)
    pitch = math.asin(float(np.clip(forward @ up, -1, 1)))
    # Without yaw and pitch, the angle of the head's top against "up" is the roll.
    level = np.cross(up, forward)
    level = level / np.linalg.norm(level)
    roll = math.atan2(top @ level, top @ np.cross(forward, level))
    return {"yaw": math.degrees(yaw), "pitch": math.degrees(pitch), "roll": math.degrees(roll)}


def head_direction(angles: dict[str, float]) -> str:
    """front, left, right (of the picture), up, down, or back if the face cannot be seen."""
    if abs(angles["yaw"]) > 100:
        return "back"
    if abs(angles["yaw"]) > 22:
        return "right" if angles["yaw"] > 0 else "left"
    if abs(angles["pitch"]) > 15:
        return "up" if angles["pitch"] > 0 else "down"
    return "front"


def ground_truth(placed: Sequence[Placed], camera: Camera) -> list[dict]:
    """Boxes, joints, head angles and visibility of everyone, in the order given."""
    size = (camera.width, camera.height)
    window = (*size, 2 * size[0], 2 * size[1])
    outlines = [_silhouette(one, camera) for one in placed]
    owner = np.zeros(size[::-1], np.uint8)
    order = sorted(range(len(placed)), key=lambda i: -camera.project(placed[i].world(np.zeros(3)))[0, 2])
    for i in order:
        owner[np.array(outlines[i].crop(window))] = i + 1
    return [_person_truth(one, camera, outlines[i], owner == i + 1) for i, one in enumerate(placed)]


def _person_truth(placed: Placed, camera: Camera, outline: Image.Image, mask: np.ndarray) -> dict:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    angles = head_angles(placed, camera)
    seen = _visible_joints(placed, camera, mask, angles)
    head = camera.project(placed.world(placed.person.head_points))
    centre = head[:, :2].mean(0)
    inside = (head[:, :2] >= 0).all(1) & (head[:, 0] < camera.width) & (head[:, 1] < camera.height)
    face_seen = abs(angles["yaw"]) < 70 and bool(inside.mean() > 0.95 and _at(mask, centre))
    return {
        "bbox": [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1],
        "joints": seen,
        "pose": placed.person.pose,
        "expression": placed.person.expression,
        "identity": placed.person.identity.name,
        "head": {key: round(value, 1) for key, value in angles.items()},
        "head_direction": head_direction(angles),
        "body_yaw": round(placed.yaw, 1),
        "face_visible": face_seen,
        "face_px": round(float((head[:, :2].max(0) - head[:, :2].min(0)).max()), 1),
        "visible_fraction": round(float(mask.sum() / max(1, np.count_nonzero(np.array(outline)))), 3),
    }


def _at(mask: np.ndarray, point: np.ndarray) -> bool:
    """Whether the mask holds at a pixel or right beside it."""
    x, y = round(float(point[0])), round(float(point[1]))
    if not (0 <= x < mask.shape[1] and 0 <= y < mask.shape[0]):
        return False
    return bool(mask[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].any())


def _visible_joints(placed: Placed, camera: Camera, mask: np.ndarray, angles: dict[str, float]) -> dict[str, list]:
    """Joint -> [x, y, 1 if in the picture, not behind another person, and for the face not behind the head]."""
    joints = {}
    for name, point in placed.person.joints.items():
        xy = camera.project(placed.world(point))[0, :2]
        visible = _at(mask, xy)
        if name in ("nose", "left_eye", "right_eye"):
            visible &= abs(angles["yaw"]) < 80
        if name == "left_ear":  # the person's left is at the picture's right when they look at us
            visible &= angles["yaw"] < 25 or angles["yaw"] > 150
        if name == "right_ear":
            visible &= angles["yaw"] > -25 or angles["yaw"] < -150
        joints[name] = [round(float(xy[0]), 1), round(float(xy[1]), 1), int(visible)]
    return joints
