"""Measures how the number, sizes and quality of pose clusters grow with the people of a release.

    .venv/worker/bin/python tools/cluster_growth.py [--people 100 1000 ...] [--seed N]

The people are made from the limb directions of the rendered ones (``render_people/poses.py``). Each arm and the legs
are drawn from a pose of their own, common ones more often (Zipf's law): more than a thousand whole poses are possible,
and most are rare. They lean, each limb has an error, and parts of bodies are hidden as often as in photographs. Prints
a row of docs/clustering.md's table for each number of people.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "plugins"), str(ROOT / "tools" / "render_people")]

from poses import POSES  # noqa: E402

from laion_people.steps.cluster.clusters import FEATURE_SPACES, ClusterSet  # noqa: E402
from laion_people.steps.cluster.fitting import fit_cluster_set  # noqa: E402
from laion_people.vision.geometry import LIMBS  # noqa: E402

ERROR = 0.2  # of a limb's direction: 11 degrees, as BlazePose errs on the rendered people
LEAN = 0.15  # of the trunk, to any side, as of people who stand or sit
TURN = 0.9  # radians between shoulders and the camera: half of all people are turned by less than 35 degrees
SHOWN = {  # share of people -> the limbs that are hidden; shares of the labelled photographs
    "whole body": (0.34, ()),
    "upper body": (0.24, (5, 6, 7, 8)),
    "one arm": (0.1, (2, 4, 5, 6, 7, 8)),
    "legs": (0.02, (1, 2, 3, 4)),
    "shoulders": (0.15, (1, 2, 3, 4, 5, 6, 7, 8)),
    "": (0.15, tuple(range(9))),
}
STRAIGHT = (0.06, -1.0, 0.0)  # a leg of a pose without legs


def people(count: int, rng: np.random.Generator) -> np.ndarray:
    """Pose features of people, float32 [count, 30]."""
    names = list(POSES)
    weights = 1 / np.arange(1, len(names) + 1)
    left, right, legs = (rng.choice(len(names), count, p=weights / weights.sum()) for _ in range(3))
    one = rng.random(count) < 0.5  # half of all people hold both arms alike
    right = np.where(one, left, right)
    table = np.array([[POSES[name].get(_bone(limb), _at_rest(limb)) for limb in LIMBS[1:]] for name in names])
    limbs = np.zeros((count, len(LIMBS), 3))
    limbs[:, 0] = (0, 1, 0)
    limbs[:, 0] += rng.normal(0, LEAN, (count, 3))
    for limb in range(1, len(LIMBS)):
        drawn = legs if limb >= 5 else left if limb % 2 else right
        limbs[:, limb] = table[drawn, limb - 1]
    limbs /= np.linalg.norm(limbs, axis=2, keepdims=True)
    limbs += rng.normal(0, ERROR / 2**0.5, limbs.shape)
    limbs /= np.linalg.norm(limbs, axis=2, keepdims=True)
    turn = rng.normal(0, TURN, count)
    facing = np.stack([np.sin(turn), np.zeros(count), np.cos(turn)], axis=1)
    shown = rng.choice(len(SHOWN), count, p=[share for share, _ in SHOWN.values()])
    for index, (_, hidden) in enumerate(SHOWN.values()):
        limbs[np.ix_(shown == index, hidden)] = np.nan
    facing[np.isnan(limbs[:, 0, 0])] = np.nan
    mirrored = rng.random(count) < 0.5
    features = np.concatenate([limbs.reshape(count, -1), facing], axis=1).astype(np.float32)
    return np.where(mirrored[:, None], FEATURE_SPACES["pose"].mirrored(features), features)


def _bone(limb: str) -> str:
    side, _, segment = limb.partition("_")
    return f"{segment.replace('fore', 'lower_')}.{side[0].upper()}"


def _at_rest(limb: str) -> tuple[float, float, float]:
    x, y, z = STRAIGHT
    return (x if limb.startswith("left") else -x, y, z)


def row(count: int, seed: int) -> str:
    """One row of the table."""
    features = people(count, np.random.default_rng(seed))
    start = time.process_time()
    cluster_set, _ = fit_cluster_set(
        "pose", FEATURE_SPACES["pose"], features, [str(i) for i in range(count)], 0, seed, None
    )
    seconds = time.process_time() - start
    unseen = people(count, np.random.default_rng(seed + 1))
    sizes = np.array([cluster.size for cluster in cluster_set.clusters])
    cells = (
        f"{count:,}",
        f"{len(sizes)} ({_by_part(cluster_set)})",
        f"{sizes.mean():.0f} · {np.median(sizes):.0f} · {sizes.min()}",
        f"{100 * _near(cluster_set, unseen):.0f} % · {100 * _near(cluster_set, unseen, fullest=True):.0f} %",
        f"{_mean(cluster_set, 'silhouette'):.2f}",
        f"{_mean(cluster_set, 'two_seeds', 'adjusted_mutual_information'):.2f}",
        f"{seconds:.0f} s",
    )
    return f"| {' | '.join(cells)} |"


def _by_part(cluster_set: ClusterSet) -> str:
    parts = [cluster.part for cluster in cluster_set.clusters]
    return ", ".join(f"{part} {parts.count(part)}" for part in cluster_set.space.parts if part in parts)


def _near(cluster_set: ClusterSet, features: np.ndarray, fullest: bool = False) -> float:
    """Share of people who show enough and are near a cluster; ``fullest``: a cluster of all that they show."""
    shown = cluster_set.space.part(features)
    parts = np.array([*(cluster.part for cluster in cluster_set.clusters), "-"])[cluster_set.nearest(features)[0]]
    return float(((parts == shown) if fullest else (parts != "-"))[shown != ""].mean())


def _mean(cluster_set: ClusterSet, *names: str) -> float:
    """A measure of quality: the mean over parts, weighted by their people."""
    values, people = [], []
    for part in cluster_set.summary["parts"].values():
        value = part
        for name in names:
            value = value[name]
        if value is not None:
            values.append(value)
            people.append(part["people"])
    return float(np.average(values, weights=people)) if values else np.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, nargs="+", default=[100, 300, 1000, 3000, 10_000, 30_000, 100_000])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print("| people | clusters | mean, median, least | near one: others, of all they show | silhouette | seeds | fit |")
    print("|---|---|---|---|---|---|---|")
    for count in arguments.people:
        print(row(count, arguments.seed), flush=True)


if __name__ == "__main__":
    main()
