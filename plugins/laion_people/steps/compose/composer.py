"""Chooses who is shown with whom in Subset B, so that nobody can doubt who is alike and who is not."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from laion_people.engine.work import Shard
from laion_people.language import similartext
from laion_people.language.facts import supports
from laion_people.steps.cluster.clusters import ClusterSet, load_fit
from laion_people.steps.compose.collage import arrange
from laion_people.steps.compose.cutouts import Look
from laion_people.vision.geometry import ARM_LIMBS, LEG_LIMBS, SEEN, seen_limbs
from laion_people.vision.people import boxes, face_boxes, matrix

PADDING = 0.04  # cut out around a box: share of its width and height
MIN_HEIGHT = 128  # pixels of a person's box; smaller people would be blurred when pasted
MIN_FACE = {"pose": 0, "face": 40, "head": 24}  # pixels: height of a face that shows the aspect, also when pasted
MIN_FACE_SCORE = 0.5
MAX_YAW, MAX_PITCH = 40, 20  # degrees: beyond, the blendshapes of a face depend more on its turn
TURNED, LIFTED, LOWERED = 20, 8, -16  # degrees of yaw and pitch: from there on heads are called this
DOUBT = 5  # degrees around these borders in which no head is shown: the error of the angles
SAME_PICTURE = 0.02  # of a box's size: if all joints lie closer, it is the same picture under another URL
MAX_OVERLAP = 0.1  # share of a cut-out that boxes of other people may cover
SHAPES = (0.2, 1.75)  # widths of cut-outs for a height of 1; beyond, people lie or boxes are strips
OUTSIDE = 0.05  # how far joints may lie outside a cut-out, in its sizes
ABOVE_NOSE = 0.25  # seen above the nose, at least: share of its height above the shoulders; half of a head's
ON_GROUND = tuple(f"base={value}" for value in ("on_feet", "sitting", "squatting", "kneeling"))
CERTAIN = 0.6  # confidence of facts that captions state
MOST_USES = 8  # pictures of a shard that show one person: else a few people could fill them all
CANDIDATES = 512  # people considered to join a group, at most
ANCHORS = 32  # people tried as the first of a group, before the composer gives up this aspect and situation
HEAD, SHOULDERS, ANKLES = slice(0, 5), [5, 6], [15, 16]  # COCO-17


class People:
    """The people of a shard: their tables as arrays with one row a person.

    images: int, the image of each; boxes: float32 [people, 4]; cutouts: int [people, 4], pixels that are pasted;
    outlines: float32 [people, 34], x and y of the joints in sizes of the box; cut: bool, the feet are not seen;
    unfit: str, why a person cannot be shown alone, "" if nothing speaks against it; face_heights: float32, pixels, 0
    where no face is seen; directions: str, of heads, "" in doubt; lifelike: bool, there is a face at the nose of the
    pose, or the back is shown: dolls, drawings and clothes without people have neither; clear_faces: bool by aspect;
    clusters: str by aspect, "" for none; facts: the certain ones of each, value by name; stances: int by aspect
    [people, topics], see `similartext`.
    """

    def __init__(self, shard: Shard):
        people = shard.table("people")
        self.ids, self.keys = people["person_id"].to_pylist(), people["key"].to_pylist()
        self.images = np.unique(self.keys, return_inverse=True)[1]
        self.boxes = boxes(people)
        size = np.stack([people["image_width"], people["image_height"]], axis=1)
        self.cutouts = _padded(self.boxes, size)
        self._keypoints = matrix(shard.table("pose", ["keypoints"])["keypoints"], 51).reshape(-1, 17, 3)
        corner, opposite = self.boxes[:, None, :2], self.boxes[:, None, 2:]
        self.outlines = ((self._keypoints[..., :2] - corner) / (opposite - corner)).reshape(-1, 34)
        seen = self._keypoints[..., 2] >= SEEN
        self.cut = ~(seen[:, ANKLES].any(axis=1) & (self.boxes[:, 3] < 0.99 * size[:, 1]))
        headless = ~(seen[:, HEAD].any(axis=1) & seen[:, SHOULDERS].all(axis=1))
        small = self.boxes[:, 3] - self.boxes[:, 1] < MIN_HEIGHT
        facts = shard.table("facts")["facts"].to_pylist()
        self.facts = [
            {f["name"]: f["value"] for f in person_facts if f["confidence"] >= CERTAIN} for person_facts in facts
        ]
        all_facts = [{f["name"]: f["value"] for f in person} for person in facts]
        self.stances = {
            aspect: np.array([similartext.stances(aspect, person) for person in all_facts], int).reshape(
                -1, len(topics)
            )
            for aspect, topics in similartext.CONTRASTS.items()
        }
        on_ground = np.array([any(supports(person, claim) for claim in ON_GROUND) for person in all_facts], bool)
        reasons = [
            _crowded(self.images, self.boxes, self.cutouts, self._keypoints),
            headless,
            small,
            _strips(self.cutouts, self._keypoints),
            ~self.cut & ~on_ground,
        ]
        self.unfit = np.select(reasons, ["crowded", "truncated", "too_small", "strip", "off_ground"], "").astype(object)
        mesh = shard.table("mesh", ["face_landmarks", "face_score", "head_yaw", "head_pitch"])
        faces = face_boxes(mesh)
        self.face_heights = np.nan_to_num(faces[:, 3] - faces[:, 1])
        score, yaw, pitch = (np.asarray(mesh[c].fill_null(0)) for c in ("face_score", "head_yaw", "head_pitch"))
        self.directions = _directions(yaw, pitch)
        certain = (score >= MIN_FACE_SCORE) & _inside(self._keypoints[:, 0, :2], faces)
        frontal = (abs(yaw) <= MAX_YAW) & (abs(pitch) <= MAX_PITCH)
        behind = np.array([supports(person, "view=back") for person in all_facts], bool)
        self.lifelike = certain | behind
        self.clear_faces = {
            "face": certain & (self.face_heights >= MIN_FACE["face"]) & frontal,
            "head": certain & (self.face_heights >= MIN_FACE["head"]) & (self.directions != ""),
        }
        assignments = shard.table("assignments")
        self.clusters = {
            aspect: np.array(assignments[f"{aspect}_cluster"].fill_null("").to_pylist(), object)
            for aspect in similartext.ASPECTS
        }

    def joints(self, row: int) -> np.ndarray:
        """The joints of a person that can be seen: [n, 2], pixels of the image."""
        points = self._keypoints[row]
        return points[points[:, 2] >= SEEN, :2]

    def clear_pose(self, parts: np.ndarray) -> np.ndarray:
        """Whether all limbs of each person's part of the body (see `clusters.FeatureSpace.part`) are seen."""
        limbs = seen_limbs(self._keypoints)
        legs = limbs[:, LEG_LIMBS].all(axis=1) | (parts != "whole body")
        return limbs[:, 0] & limbs[:, ARM_LIMBS].all(axis=1) & legs


def _inside(noses: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Whether the pose's nose lies on the face mesh, or less than a tenth off; if not, one of them is wrong."""
    margin = 0.1 * (faces[:, 2:] - faces[:, :2])
    return ((noses >= faces[:, :2] - margin) & (noses <= faces[:, 2:] + margin)).all(axis=1)


def _directions(yaw: np.ndarray, pitch: np.ndarray) -> np.ndarray:
    """Names of head directions, from angles in degrees; "" where another name may be right too: str [people]."""
    straight = abs(yaw) < TURNED
    doubt = abs(abs(yaw) - TURNED) < DOUBT
    doubt |= straight & (np.minimum(abs(pitch - LIFTED), abs(pitch - LOWERED)) < DOUBT)
    names = ["", "left", "right", "up", "down"]
    return np.select([doubt, yaw <= -TURNED, yaw >= TURNED, pitch >= LIFTED, pitch <= LOWERED], names, "ahead")


def _padded(boxes: np.ndarray, size: np.ndarray) -> np.ndarray:
    padding = (boxes[:, 2:] - boxes[:, :2]) * PADDING
    corner, opposite = np.maximum(boxes[:, :2] - padding, 0), np.minimum(boxes[:, 2:] + padding, size)
    return np.concatenate([np.floor(corner), np.ceil(opposite)], axis=1).astype(int)


def _crowded(images: np.ndarray, boxes: np.ndarray, cutouts: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
    """Whether a cut-out holds other people: too much of their boxes, or a head: bool [people]."""
    crowded = np.zeros(len(images), bool)
    heads = np.where(keypoints[:, HEAD, 2:] >= SEEN, keypoints[:, HEAD, :2], np.nan)
    order = np.argsort(images, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(images[order])) + 1):
        for row in rows:
            x1, y1, x2, y2 = cutouts[row]
            others = rows[rows != row]
            covered = np.clip(boxes[others], [x1, y1, x1, y1], [x2, y2, x2, y2])
            shared = (covered[:, 2:] - covered[:, :2]).prod(axis=1).sum()
            inside = ((heads[others] >= [x1, y1]) & (heads[others] <= [x2, y2])).all(axis=2).any()
            crowded[row] = inside or shared > MAX_OVERLAP * (x2 - x1) * (y2 - y1)
    return crowded


def _strips(cutouts: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
    """Whether a cut-out is only a strip of the visible person: bool [people].

    That is: upright or sitting people don't have its shape, joints lie outside, or it ends right above the nose. The
    nose is about two thirds of the way from the shoulders to the top of the head (Drillis and Contini's segments).
    """
    corner, opposite = cutouts[:, None, :2], cutouts[:, None, 2:]
    width, height = (cutouts[:, 2:] - cutouts[:, :2]).T
    margin = OUTSIDE * (opposite - corner)
    points, seen = keypoints[..., :2], keypoints[..., 2] >= SEEN
    outside = (seen & ((points < corner - margin) | (points > opposite + margin)).any(axis=2)).any(axis=1)
    nose, shoulders = points[:, 0, 1], points[:, SHOULDERS, 1].mean(axis=1)
    beheaded = seen[:, 0] & (nose - cutouts[:, 1] < ABOVE_NOSE * (shoulders - nose))
    return outside | beheaded | (width < SHAPES[0] * height) | (width > SHAPES[1] * height)


@dataclass(frozen=True, slots=True)
class Pool:
    """The people of a shard who can be shown for one aspect.

    rows: int [people], their rows in the shard's tables; clusters: str [people]; names: str [people], what a viewer
    would call it: the head's direction, for other aspects the cluster; images: int [people], the image of each;
    outlines: float32 [people, 34], the joints, which show that two URLs have the same picture;
    cut: bool [people], the feet are not seen; stances: int [people, topics], what their facts say (`similartext`);
    features: float32 [people, d], for distances by ``cluster_set``; cluster_set: the aspect's part of the fit, with the
    bounds ``near`` and ``far``.
    """

    aspect: str
    rows: np.ndarray
    clusters: np.ndarray
    names: np.ndarray
    images: np.ndarray
    outlines: np.ndarray
    cut: np.ndarray
    stances: np.ndarray
    features: np.ndarray
    cluster_set: ClusterSet

    def group(
        self, anchor: int, size: int, similar: int, order: np.ndarray, can_join: Callable[[int, list[int]], bool]
    ) -> list[int] | None:
        """``size`` people from different images, ``similar`` of them alike (0, or 2 to ``size``); or None.

        People are alike if they have one cluster and name, each pair is nearer than ``near``, and their facts don't
        contrast. All other pairs have different clusters and names and are farther apart than ``far``; faces also
        contrast. People are indices of this pool, tried in the given ``order``; the first is ``anchor``. All have the
        same framing: with feet, or cut off above them. ``can_join(person, people)``: whether a person can be shown with
        those chosen so far.
        """
        if not can_join(anchor, []):
            return None
        people = [anchor]
        framed = order[self.cut[order] == self.cut[anchor]]
        alike, different = self._alike(framed, anchor), self._different(framed, anchor)
        if size == 2:  # the caption can say more of two people whose facts contrast
            different = different[np.argsort(~self._contrasts(different, anchor), kind="stable")]
        while len(people) < size:
            fitting = alike if len(people) < similar else different
            new = next((person for person in fitting.tolist() if can_join(person, people)), None)
            if new is None:
                return None
            people.append(new)
            alike, different = self._alike(alike, people[-1]), self._different(different, people[-1])
        return people

    def _alike(self, candidates: np.ndarray, person: int) -> np.ndarray:
        same = (self.clusters[candidates] == self.clusters[person]) & (self.names[candidates] == self.names[person])
        same &= ~self._contrasts(candidates, person)
        candidates = candidates[same & self._other_picture(candidates, person)][:CANDIDATES]
        return candidates[self._distances(candidates, person) < self.cluster_set.near]

    def _different(self, candidates: np.ndarray, person: int) -> np.ndarray:
        different = (self.clusters[candidates] != self.clusters[person]) & (
            self.names[candidates] != self.names[person]
        )
        if self.aspect == "face":  # meshes of two faces at rest can be far apart, without a visible reason
            different &= self._contrasts(candidates, person)
        candidates = candidates[different & self._other_picture(candidates, person)][:CANDIDATES]
        return candidates[self._distances(candidates, person) > self.cluster_set.far]

    def _contrasts(self, candidates: np.ndarray, person: int) -> np.ndarray:
        stances, own = self.stances[candidates], self.stances[person]
        return ((stances != own) & (stances > 0) & (own > 0)).any(axis=1)

    def _other_picture(self, candidates: np.ndarray, person: int) -> np.ndarray:
        apart = abs(self.outlines[candidates] - self.outlines[person]).max(axis=1, initial=0)
        return (self.images[candidates] != self.images[person]) & (apart > SAME_PICTURE)

    def _distances(self, candidates: np.ndarray, person: int) -> np.ndarray:
        return self.cluster_set.distances(self.features[candidates], self.features[person])


@dataclass(frozen=True, slots=True)
class Composition:
    """Who is shown, and where: rows of the people table, their clusters and rectangles (int [people, 4], pixels)."""

    aspect: str
    people: np.ndarray
    clusters: list[str]
    n_similar: int
    caption: similartext.Caption
    width: int
    places: np.ndarray


class Composer:
    """Draws compositions: equal numbers of each aspect and situation, as long as there are people for them."""

    def __init__(self, people: People, pools: list[Pool], rng: np.random.Generator, look: Callable[[int], Look]):
        """look: inspects the cut-out of a person, given by the row; called once for each person who is drawn."""
        self._people, self._rng, self._look = people, rng, functools.cache(look)
        self._pools = {pool.aspect: pool for pool in pools}
        self._uses = np.zeros(len(people.ids), int)
        self._tried = np.zeros(len(people.ids), bool)
        self._shown: set[tuple[str, frozenset[int]]] = set()

    def __iter__(self) -> Iterator[Composition]:
        kinds = list(itertools.product(self._pools, similartext.SITUATIONS))
        made = {kinds[i]: 0 for i in self._rng.permutation(len(kinds))}
        while made:
            kind = min(made, key=made.__getitem__)
            composition = self._draw(*kind)
            if composition is None:
                del made[kind]
                continue
            made[kind] += 1
            self._uses[composition.people] += 1
            self._shown.add((composition.aspect, frozenset(composition.people.tolist())))
            yield composition

    def unused(self) -> Counter[str]:
        """How many people are in no composition, by reason."""
        pooled = np.zeros(len(self._uses), bool)
        for pool in self._pools.values():
            pooled[pool.rows] = True
        unfit = self._people.unfit
        clustered = np.any([c != "" for c in self._people.clusters.values()], axis=0)
        reasons = np.select(
            [~clustered, unfit != "", ~pooled, self._tried], ["no_cluster", unfit, "unclear", "no_partner"], "not_drawn"
        )
        return Counter(reasons[self._uses == 0].tolist())

    def _draw(self, aspect: str, situation: str) -> Composition | None:
        pool, smallest = self._pools[aspect], 3 if situation == "some" else 2
        order = self._rng.permutation(len(pool.rows))
        order = order[self._people.unfit[pool.rows[order]] == ""]
        order = order[self._uses[pool.rows[order]] < MOST_USES]
        order = order[np.argsort(self._uses[pool.rows[order]], kind="stable")]
        for anchor in order[:ANCHORS].tolist():
            for size in range(int(self._rng.integers(smallest, 5)), smallest - 1, -1):
                similar = {"all": size, "some": int(self._rng.integers(2, max(size, 3))), "different": 0}[situation]
                group = pool.group(anchor, size, similar, order, functools.partial(self._can_join, pool))
                if group and (composition := self._place(pool, self._rng.permutation(group), similar)):
                    return composition
            self._tried[pool.rows[anchor]] = True
        return None

    def _can_join(self, pool: Pool, person: int, group: list[int]) -> bool:
        """Whether a person can be shown and is not one of the group, seen in another picture."""
        row = int(pool.rows[person])
        look = self._look(row)
        self._people.unfit[row] = look.unfit
        return not look.unfit and not any(look.may_be_same(self._look(int(pool.rows[member]))) for member in group)

    def _place(self, pool: Pool, group: np.ndarray, similar: int) -> Composition | None:
        rows = pool.rows[group]
        if (pool.aspect, frozenset(rows.tolist())) in self._shown:
            return None
        cutouts = self._people.cutouts[rows]
        arranged = arrange(cutouts[:, 2:] - cutouts[:, :2], bool(pool.cut[group[0]]), self._rng)
        if arranged is None:
            return None
        width, places = arranged
        enlarged = (places[:, 3] - places[:, 1]) / (cutouts[:, 3] - cutouts[:, 1])
        if (self._people.face_heights[rows] * enlarged).min() < MIN_FACE[pool.aspect]:
            return None
        facts = [self._people.facts[row] for row in rows]
        caption = similartext.caption(pool.aspect, len(group), similar, self._rng, facts)
        return Composition(pool.aspect, rows, pool.clusters[group].tolist(), similar, caption, width, places)


def pools(shard: Shard, people: People) -> list[Pool]:
    """The people who can be shown for each aspect: in a cluster, alone in the cut-out, and clearly seen."""
    pools_by_aspect = []
    fit = load_fit(shard.path("fit").read_bytes())
    for aspect, cluster_set in fit.cluster_sets.items():
        pose, mesh = (shard.table(n, list(getattr(cluster_set.space, f"{n}_columns"))) for n in ("pose", "mesh"))
        features = cluster_set.features(pose, mesh)
        is_pose = aspect == "pose"
        clear = (
            people.clear_pose(cluster_set.space.part(features)) & people.lifelike
            if is_pose
            else people.clear_faces[aspect]
        )
        names = people.directions if aspect == "head" else people.clusters[aspect]
        rows = np.flatnonzero((people.clusters[aspect] != "") & clear & (people.unfit == ""))
        pools_by_aspect.append(
            Pool(
                aspect=aspect,
                rows=rows,
                clusters=people.clusters[aspect][rows],
                names=names[rows],
                images=people.images[rows],
                outlines=people.outlines[rows],
                cut=people.cut[rows],
                stances=people.stances[aspect][rows],
                features=features[rows],
                cluster_set=cluster_set,
            )
        )
    return pools_by_aspect
