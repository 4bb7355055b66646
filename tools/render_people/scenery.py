"""Places to stand in, made of Blender's procedural textures and simple solids: no picture files, so no licences."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import bpy

Colour = tuple[float, float, float]


def _material(name: str, colour: Colour, roughness: float = 0.8) -> bpy.types.Material:
    material = bpy.data.materials.new(name)
    material.use_nodes = True
    shader = material.node_tree.nodes["Principled BSDF"]
    shader.inputs["Base Color"].default_value = (*colour, 1)
    shader.inputs["Roughness"].default_value = roughness
    shader.inputs["Specular IOR Level"].default_value = 0.2
    return material


def _textured(kind: str, dark: Colour, light: Colour, scale: float, **inputs: float) -> bpy.types.Material:
    """A material of two colours mixed by a procedural texture, in object coordinates (1 unit = 1 m before scaling)."""
    material = _material(kind, light)
    tree = material.node_tree
    texture = tree.nodes.new(f"ShaderNodeTex{kind}")
    texture.inputs["Scale"].default_value = scale
    for key, value in inputs.items():
        texture.inputs[key.replace("_", " ")].default_value = value
    coordinates = tree.nodes.new("ShaderNodeNewGeometry")
    tree.links.new(coordinates.outputs["Position"], texture.inputs["Vector"])
    ramp = tree.nodes.new("ShaderNodeValToRGB")
    ramp.color_ramp.elements[0].color, ramp.color_ramp.elements[1].color = (*dark, 1), (*light, 1)
    ramp.color_ramp.elements[0].position, ramp.color_ramp.elements[1].position = 0.3, 0.7
    source = "Distance" if kind == "Voronoi" else "Factor" if "Factor" in texture.outputs else 0
    tree.links.new(texture.outputs[source], ramp.inputs["Fac"])
    tree.links.new(ramp.outputs["Color"], tree.nodes["Principled BSDF"].inputs["Base Color"])
    return material


def _bricks(
    colour: Colour, mortar: Colour, width: float, height: float, upright: bool, gap: float = 0.012
) -> bpy.types.Material:
    """Bricks, tiles or planks. `width`, `height`, `gap`: metres; `upright`: laid on a wall instead of a floor."""
    material = _material("bricks", colour)
    tree = material.node_tree
    texture = tree.nodes.new("ShaderNodeTexBrick")
    shade = tuple(0.72 * c for c in colour)
    for key, value in (("Color1", (*colour, 1)), ("Color2", (*shade, 1)), ("Mortar", (*mortar, 1))):
        texture.inputs[key].default_value = value
    for key, number in (("Scale", 1), ("Brick Width", width), ("Row Height", height), ("Mortar Size", gap)):
        texture.inputs[key].default_value = number
    geometry = tree.nodes.new("ShaderNodeNewGeometry")
    mapping = tree.nodes.new("ShaderNodeMapping")
    mapping.inputs["Rotation"].default_value = (math.radians(-90) if upright else 0, 0, 0)
    tree.links.new(geometry.outputs["Position"], mapping.inputs["Vector"])
    tree.links.new(mapping.outputs["Vector"], texture.inputs["Vector"])
    tree.links.new(texture.outputs["Color"], tree.nodes["Principled BSDF"].inputs["Base Color"])
    return material


def _add(material: bpy.types.Material) -> bpy.types.Object:
    thing = bpy.context.object
    thing.data.materials.append(material)
    return thing


def floor(material: bpy.types.Material) -> None:
    bpy.ops.mesh.primitive_plane_add(size=60)
    _add(material)


def wall(material: bpy.types.Material, y: float, height: float = 8) -> None:
    bpy.ops.mesh.primitive_plane_add(size=1, location=(0, y, height / 2), rotation=(math.radians(90), 0, 0))
    _add(material).scale = (60, height, 1)


def box(
    centre: tuple[float, float, float], size: tuple[float, float, float], material: bpy.types.Material, turn: float = 0
) -> None:
    """`centre`, `size`: metres; `turn`: degrees about the vertical."""
    bpy.ops.mesh.primitive_cube_add(size=1, location=centre, rotation=(0, 0, math.radians(turn)))
    thing = _add(material)
    thing.scale = size
    bevel = thing.modifiers.new("bevel", "BEVEL")
    bevel.width, bevel.segments = 0.02, 2


def stool(x: float, y: float, top: float, turn: float) -> None:
    """A seat whose upper side is at the height `top` (metres)."""
    box((x, y, top / 2), (0.42, 0.4, top), _textured("Noise", (0.2, 0.1, 0.05), (0.35, 0.19, 0.09), 9), turn)


def _tree(x: float, y: float, height: float, rng: random.Random) -> None:
    bpy.ops.mesh.primitive_cylinder_add(radius=0.14, depth=height * 0.5, location=(x, y, height * 0.25))
    _add(_textured("Noise", (0.1, 0.06, 0.03), (0.22, 0.14, 0.08), 12))
    leaves = _textured("Noise", (0.03, 0.1, 0.02), (0.14 + 0.1 * rng.random(), 0.32, 0.07), 9)
    for _ in range(7):
        place = (x + rng.uniform(-0.8, 0.8), y + rng.uniform(-0.6, 0.6), height * rng.uniform(0.5, 0.95))
        bpy.ops.mesh.primitive_ico_sphere_add(subdivisions=3, radius=rng.uniform(0.6, 1.0), location=place)
        crown = _add(leaves)
        bumps = crown.modifiers.new("bumps", "DISPLACE")
        bumps.texture = bpy.data.textures.get("bumps") or bpy.data.textures.new("bumps", "CLOUDS")
        bumps.strength = 0.6


def sky(low: Colour, high: Colour, strength: float) -> None:
    """The surroundings' light: a gradient from the horizon up."""
    world = bpy.data.worlds.new("sky")
    bpy.context.scene.world = world
    world.use_nodes = True
    tree = world.node_tree
    background = tree.nodes["Background"]
    background.inputs["Strength"].default_value = strength
    coordinates, split = tree.nodes.new("ShaderNodeTexCoord"), tree.nodes.new("ShaderNodeSeparateXYZ")
    ramp = tree.nodes.new("ShaderNodeValToRGB")
    ramp.color_ramp.elements[0].color, ramp.color_ramp.elements[1].color = (*low, 1), (*high, 1)
    ramp.color_ramp.elements[1].position = 0.45
    tree.links.new(coordinates.outputs["Generated"], split.inputs["Vector"])
    tree.links.new(split.outputs["Z"], ramp.inputs["Fac"])
    tree.links.new(ramp.outputs["Color"], background.inputs["Color"])


def lamp(place: tuple[float, float, float], size: float, watts: float, colour: Colour = (1, 1, 1)) -> None:
    """A square lamp that shines at the people (1 m above the origin)."""
    from mathutils import Vector

    light = bpy.data.lights.new("lamp", "AREA")
    light.size, light.energy, light.color = size, watts, colour
    thing = bpy.data.objects.new("lamp", light)
    thing.location = place
    thing.rotation_euler = (Vector((0, 0, 1)) - thing.location).to_track_quat("-Z", "Y").to_euler()
    bpy.context.collection.objects.link(thing)


def _sun(strength: float, azimuth: float = 35, height: float = 50) -> None:
    light = bpy.data.lights.new("sun", "SUN")
    light.energy, light.angle, light.color = strength, math.radians(4), (1, 0.95, 0.86)
    thing = bpy.data.objects.new("sun", light)
    thing.rotation_euler = (math.radians(90 - height), 0, math.radians(-azimuth))
    bpy.context.collection.objects.link(thing)


def _indoor_light() -> None:
    sky((0.9, 0.95, 1), (1, 1, 1), 0.5)
    lamp((-2.5, -3.5, 3.5), 1.5, 230, (1, 0.96, 0.9))
    lamp((3, -3, 2.2), 2, 110, (0.9, 0.95, 1))


def _outdoor_light(low: Colour = (0.75, 0.83, 0.9), high: Colour = (0.22, 0.42, 0.75)) -> None:
    sky(low, high, 0.75)
    _sun(2.6)
    lamp((1.5, -4, 2.4), 3, 70)


def brick_wall(rng: random.Random) -> None:
    colour = rng.choice([(0.5, 0.22, 0.15), (0.52, 0.45, 0.36), (0.3, 0.36, 0.42), (0.62, 0.58, 0.52)])
    wall(_bricks(colour, (0.55, 0.53, 0.5), 0.42, 0.16, upright=True), 2.2)
    floor(_textured("Noise", (0.22, 0.21, 0.2), (0.42, 0.41, 0.39), 14))
    box((0, 2.1, 0.06), (60, 0.3, 0.12), _material("kerb", (0.4, 0.4, 0.4)))
    _outdoor_light()


def park(rng: random.Random) -> None:
    floor(_textured("Noise", (0.05, 0.15, 0.02), (0.2, 0.36, 0.08), 9, Detail=8, Roughness=0.8))
    for i in range(9):
        _tree(-10 + 2.5 * i + rng.uniform(-0.8, 0.8), rng.uniform(5, 13), rng.uniform(3, 5.5), rng)
    bpy.ops.mesh.primitive_plane_add(size=1, location=(0, 3.6, 0.004))
    _add(_textured("Noise", (0.36, 0.31, 0.24), (0.55, 0.49, 0.4), 25)).scale = (60, 1.1, 1)
    _outdoor_light()


def living_room(rng: random.Random) -> None:
    paint = rng.choice([(0.62, 0.55, 0.44), (0.35, 0.45, 0.45), (0.52, 0.38, 0.34), (0.6, 0.62, 0.66)])
    wall(_material("paint", paint, 0.9), 2.4)
    floor(_bricks((0.36, 0.2, 0.1), (0.12, 0.07, 0.04), 1.4, 0.14, upright=False, gap=0.006))
    box((0, 2.38, 0.07), (60, 0.04, 0.14), _material("skirting", (0.8, 0.79, 0.76)))
    white, side = _material("frame", (0.85, 0.84, 0.8)), rng.choice((-1, 1))
    box((side * 1.5, 2.38, 1.75), (1.3, 0.06, 1.3), white)
    box((side * 1.5, 2.36, 1.75), (1.16, 0.06, 1.16), _textured("Noise", (0.3, 0.5, 0.7), (0.75, 0.86, 0.95), 0.8))
    box((side * 1.5, 2.34, 1.75), (0.05, 0.06, 1.2), white)
    fabric = _textured("Noise", tuple(0.6 * c for c in paint), tuple(0.95 * c for c in paint[::-1]), 60)
    box((-side * 1.6, 1.9, 0.25), (1.9, 0.8, 0.42), fabric)
    box((-side * 1.6, 2.2, 0.55), (1.9, 0.25, 0.75), fabric)
    wood = _textured("Noise", (0.16, 0.08, 0.04), (0.3, 0.17, 0.08), 5)
    for shelf in range(2):
        box((-side * 1.6, 2.28, 1.6 + 0.4 * shelf), (1.6, 0.22, 0.04), wood)
        for book in range(9):
            tall = rng.uniform(0.18, 0.3)
            cover = _material("book", (rng.uniform(0.05, 0.6), rng.uniform(0.05, 0.5), rng.uniform(0.05, 0.5)))
            x = -side * 1.6 - 0.65 + 0.11 * book
            box((x, 2.28, 1.62 + 0.4 * shelf + tall / 2), (rng.uniform(0.04, 0.09), 0.16, tall), cover)
    _indoor_light()


def gym(rng: random.Random) -> None:
    colour = rng.choice([(0.3, 0.5, 0.62), (0.7, 0.66, 0.5), (0.45, 0.55, 0.4)])
    wall(_bricks(colour, tuple(0.8 * c for c in colour), 0.8, 0.4, upright=True, gap=0.006), 3)
    floor(_bricks((0.55, 0.35, 0.17), (0.35, 0.2, 0.1), 1.8, 0.1, upright=False, gap=0.003))
    bars = _material("bars", (0.42, 0.25, 0.12))
    left = rng.uniform(-2.6, -1.6)
    for i in range(9):
        box((left, 2.92, 0.3 + 0.26 * i), (1.1, 0.05, 0.05), bars)
    for x in (left - 0.55, left + 0.55):
        box((x, 2.92, 1.35), (0.07, 0.08, 2.6), bars)
    box(
        (rng.uniform(1.6, 2.6), 2.5, 0.16),
        (1.7, 0.8, 0.3),
        _textured("Noise", (0.05, 0.1, 0.3), (0.08, 0.16, 0.42), 40),
    )
    for x, paint in ((-1.3, (0.75, 0.75, 0.75)), (1.1, (0.7, 0.15, 0.1))):
        bpy.ops.mesh.primitive_plane_add(size=1, location=(x, 0.5, 0.003))
        _add(_material("line", paint)).scale = (0.05, 12, 1)
    _indoor_light()


def beach(rng: random.Random) -> None:
    floor(_textured("Noise", (0.5, 0.4, 0.27), (0.72, 0.62, 0.45), 16, Detail=6))
    bpy.ops.mesh.primitive_plane_add(size=1, location=(0, 33, 0.02))
    sea = _textured("Noise", (0.02, 0.16, 0.25), (0.1, 0.38, 0.45), 1.2)
    sea.node_tree.nodes["Principled BSDF"].inputs["Roughness"].default_value = 0.25
    _add(sea).scale = (200, 60, 1)
    bpy.ops.mesh.primitive_plane_add(size=1, location=(0, 3.05, 0.022))
    _add(_material("foam", (0.85, 0.88, 0.88))).scale = (200, 0.14, 1)
    for _ in range(5):
        place = (rng.uniform(-4, 4), rng.uniform(2.2, 7), 0.05)
        bpy.ops.mesh.primitive_ico_sphere_add(subdivisions=2, radius=rng.uniform(0.12, 0.35), location=place)
        _add(_textured("Noise", (0.15, 0.14, 0.13), (0.36, 0.34, 0.31), 5))
    _outdoor_light((0.85, 0.88, 0.9), (0.3, 0.52, 0.82))


def plaza(rng: random.Random) -> None:
    floor(_bricks((0.5, 0.47, 0.43), (0.3, 0.29, 0.27), 0.6, 0.6, upright=False))
    x = -13.0
    glass = _material("glass", (0.1, 0.15, 0.2), 0.15)
    while x < 13:
        width, height = rng.uniform(3, 4.5), rng.uniform(4, 8)
        paint = rng.choice([(0.6, 0.5, 0.38), (0.5, 0.33, 0.26), (0.62, 0.6, 0.56), (0.42, 0.46, 0.5)])
        box((x + width / 2, 9, height / 2), (width, 2, height), _material("house", paint))
        for row in range(int(height / 1.5)):
            for column in range(int(width / 1.1)):
                box((x + 0.7 + 1.1 * column, 7.98, 1.1 + 1.5 * row), (0.6, 0.06, 0.9), glass)
        x += width + 0.05
    for side in (-1, 1):
        _tree(side * rng.uniform(2.6, 3.6), 5.4, rng.uniform(2.6, 3.4), rng)
    _outdoor_light()


def studio(rng: random.Random) -> None:
    colour = rng.choice([(0.42, 0.52, 0.6), (0.6, 0.5, 0.42), (0.36, 0.5, 0.42), (0.55, 0.44, 0.55), (0.7, 0.7, 0.7)])
    wall(_textured("Noise", tuple(0.9 * c for c in colour), colour, 0.5), 2.6)
    floor(_material("floor", tuple(0.8 * c for c in colour)))
    _indoor_light()


PLACES: dict[str, Callable[[random.Random], None]] = {
    "brick_wall": brick_wall,
    "park": park,
    "living_room": living_room,
    "gym": gym,
    "beach": beach,
    "plaza": plaza,
    "studio": studio,
}
