"""Distances, fits on disk, and clusters that mean something and keep their names."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.metrics import v_measure_score

from laion_people.errors import LaionPeopleError
from laion_people.steps.cluster.clusters import FEATURE_SPACES, ClusterSet, Fit, load_fit
from laion_people.steps.cluster.fitting import embed, fit_cluster_set
from laion_people.storage.schemas import SCHEMAS
from tests import skeletons
from tools import cluster_growth

POSE, FACE, HEAD = (FEATURE_SPACES[kind] for kind in ("pose", "face", "head"))
NO_MESH = pa.Table.from_pylist([], schema=SCHEMAS["mesh"])
NAMES = [name for name in skeletons.POSES for _ in range(15)]
ARMS, LEGS = [7, 8, 9, 10], [13, 14, 15, 16]  # elbows and wrists, knees and ankles of COCO-17


def features(people: skeletons.People) -> np.ndarray:
    return POSE.extract(people.table([f"p/{i}" for i in range(len(people.names))]), NO_MESH)


def fit(
    people: skeletons.People, k: int = 0, seed: int = 0, previous: Fit | None = None
) -> tuple[ClusterSet, np.ndarray]:
    ids = [f"p/{i}" for i in range(len(people.names))]
    return fit_cluster_set("pose", POSE, features(people), ids, k, seed, previous)


def version(name: str, cluster_set: ClusterSet) -> Fit:
    return Fit(name, {"pose": cluster_set, "face": ClusterSet(FACE, (), 1, 2), "head": ClusterSet(HEAD, (), 1, 2)})


@given(st.integers(0, 500))
def test_a_pose_and_its_mirror_image_are_at_distance_zero(seed: int) -> None:
    pose = features(skeletons.people(["wave", "run"], seed))
    assert POSE.distances(pose, POSE.mirrored(pose)) == pytest.approx([0, 0], abs=1e-5)
    assert np.allclose(POSE.mirrored(POSE.mirrored(pose)), pose)
    assert np.allclose(embed(POSE, pose), embed(POSE, POSE.mirrored(pose)), atol=1e-5)


@given(st.integers(0, 500))
def test_distances_are_symmetric_and_kept_by_the_points_that_k_means_sees(seed: int) -> None:
    one, other = np.where(POSE.parts["whole body"], features(skeletons.people(["tree", "wave"], seed)), np.nan)
    distance = POSE.distances(one, other)
    assert distance == pytest.approx(POSE.distances(other, one), abs=1e-5)
    points = embed(POSE, np.stack([one, other]))
    assert distance - 1e-4 <= np.linalg.norm(points[0] - points[1]) <= 1.5 * distance


def test_only_what_both_people_show_counts() -> None:
    whole = features(skeletons.people(["arms up"], 0))
    cut = whole.copy()
    cut[:, 15:] = np.nan  # the legs
    assert POSE.distances(whole, cut) == pytest.approx([0])
    assert np.isnan(POSE.distances(whole, np.full_like(whole, np.nan))).all()


def test_a_wink_of_either_eye_is_the_same_expression_but_heads_turned_apart_are_not() -> None:
    wink = np.zeros((2, len(FACE.names)), np.float32)
    wink[0, FACE.names.index("eyeBlinkLeft")] = wink[1, FACE.names.index("eyeBlinkRight")] = 0.9
    assert FACE.distances(wink[0], wink[1]) == pytest.approx(0)
    assert HEAD.distances(np.radians([40.0, 0, 0]), np.radians([-40.0, 0, 0])) == pytest.approx(np.radians(80))


@pytest.mark.parametrize("depth", [True, False])
def test_clusters_are_the_true_poses_whatever_the_view(depth: bool) -> None:
    people = skeletons.people(NAMES, 1, depth=depth)
    cluster_set, labels = fit(people)
    assert v_measure_score(people.names, labels) >= 0.85
    assert 8 <= len(cluster_set.clusters) <= 30


def test_near_people_are_alike_and_far_people_are_not() -> None:
    people = skeletons.people(NAMES, 1)
    cluster_set, labels = fit(people)
    first, second = np.triu_indices(len(NAMES), 1)
    x, names = features(people), np.array(NAMES)
    distances, same = cluster_set.distances(x[first], x[second]), names[first] == names[second]
    one_cluster = labels[first] == labels[second]
    near, far = one_cluster & (distances < cluster_set.near), ~one_cluster & (distances > cluster_set.far)
    assert near.sum() > 300 and same[near].mean() >= 0.97
    assert far.sum() > 3000 and (~same[far]).mean() >= 0.99


def test_cut_people_join_clusters_of_upper_bodies_by_their_arms() -> None:
    names = [name for name in skeletons.ARM_POSES for _ in range(30)]
    people = skeletons.people(names, 4, cut=0.5)
    cluster_set, labels = fit(people)
    parts = POSE.part(features(people))
    assert set(parts) == {"whole body", "upper body"}
    for part in set(parts):
        assert {c.part for i, c in enumerate(cluster_set.clusters) if i in labels[parts == part]} == {part}
        assert v_measure_score(np.array(names)[parts == part], labels[parts == part]) >= 0.75
    for cluster in cluster_set.clusters:
        if cluster.part == "upper body":
            assert np.isnan(cluster.centroid[15:]).all()


def test_people_are_compared_by_the_fullest_part_that_they_show() -> None:
    people = skeletons.people(["stand"] * 7, 1)
    hidden = [[6, *ARMS, *LEGS], [13, 15], LEGS, [7, 9, *LEGS], [8, 10, *LEGS], ARMS, [*ARMS, *LEGS]]
    for person, joints in enumerate(hidden):
        people.keypoints[person, joints, 2] = 0
    expected = ["", "upper body", "upper body", "one arm", "one arm", "legs", "shoulders"]
    assert POSE.part(features(people)).tolist() == expected


def test_whoever_shows_one_arm_is_with_those_whose_arm_of_either_side_is_held_so() -> None:
    names = ["stand", "arms out", "arms up"] * 20
    people = skeletons.people(names, 2)
    people.keypoints[:, LEGS, 2] = 0
    people.keypoints[::2, [7, 9], 2] = people.keypoints[1::2, [8, 10], 2] = 0
    cluster_set, labels = fit(people)
    assert {c.part for c in cluster_set.clusters} == {"one arm"} and (labels >= 0).mean() > 0.9
    assert v_measure_score(names, labels) > 0.8
    held = POSE.distances(features(people), np.stack([cluster_set.clusters[label].centroid for label in labels]))
    assert (held[labels >= 0] <= POSE.tolerance).all()  # by the whole arm, not only by the shoulders


def test_one_limb_that_is_alike_by_chance_brings_nobody_into_a_cluster() -> None:
    people = skeletons.people(["arms up"] * 30, 3)
    cluster_set, _ = fit(people)
    stranger = features(skeletons.people(["sit"], 0))
    assert POSE.part(stranger) == ["whole body"]
    stranger[:, :3] = cluster_set.clusters[0].centroid[:3]  # except the trunk
    clusters, distances = cluster_set.nearest(stranger)
    assert clusters[0] == -1 and distances[0] > 1


def test_nobody_has_a_cluster_beyond_its_tolerance_but_everybody_seen_a_distance() -> None:
    cluster_set, _ = fit(skeletons.people(NAMES, 1))
    x = features(skeletons.people(NAMES, 5, jitter=0.2))
    clusters, distances = cluster_set.nearest(x)
    assert 0.05 < (clusters < 0).mean() < 0.95
    assert ((clusters >= 0) == (distances <= POSE.tolerance)).all() and np.isfinite(distances).all()


def test_a_rare_pose_may_still_be_known_by_its_arms() -> None:
    people = skeletons.people(["stand"] * 30 + ["arms up"] * 30, 3)
    people.keypoints[:20, LEGS, 2] = people.keypoints[30:50, LEGS, 2] = 0
    cluster_set, _ = fit(people)
    pose = features(skeletons.people(["arms up"], 0))
    pose[:, 15:27] = features(skeletons.people(["squat"], 0))[:, 15:27]
    (cluster,), (distance,) = cluster_set.nearest(pose)
    assert cluster_set.clusters[cluster].part == "upper body" and distance <= POSE.tolerance


def test_clusters_have_people_enough_and_people_clusters() -> None:
    """A release of some hundred people; docs/clustering.md has the table up to 100,000."""
    x = cluster_growth.people(600, np.random.default_rng(0))
    cluster_set, labels = fit_cluster_set("pose", POSE, x, [f"p/{i}" for i in range(len(x))], 0, 0, None)
    sizes = [c.size for c in cluster_set.clusters]
    assert min(sizes) >= 5 and np.mean(sizes) >= 10
    shown = POSE.part(x) != ""
    assert (labels[shown] >= 0).mean() >= 0.9
    clusters, _ = cluster_set.nearest(cluster_growth.people(600, np.random.default_rng(1))[shown])
    assert (clusters >= 0).mean() >= 0.75


def test_a_face_that_is_hardly_one_has_neither_expression_nor_direction() -> None:
    mesh = {"face_landmarks": np.random.default_rng(0).normal(100, 40, 1434), "blendshapes": np.zeros(52)}
    mesh |= {"head_yaw": 10.0, "head_pitch": 0.0, "head_roll": 0.0}
    rows = [{"person_id": f"p/{score}", "face_score": score} | mesh for score in (0.6, 0.8)]
    table = pa.Table.from_pylist([*rows, {"person_id": "p/none"}], schema=SCHEMAS["mesh"])
    for space in (FACE, HEAD):
        assert space.part(space.extract(table, table)).tolist() == ["", "face", ""]


def test_one_unseen_wrist_does_not_decide() -> None:
    people = skeletons.people(NAMES, 1)
    cluster_set, labels = fit(people)
    people.keypoints[:, 9, 2] = 0
    clusters, _ = cluster_set.nearest(features(people))
    assert (clusters == labels).mean() > 0.85


def test_the_number_of_clusters_can_be_given() -> None:
    assert len(fit(skeletons.people(NAMES, 1), k=5)[0].clusters) == 5


def test_the_rule_and_the_quality_are_on_record() -> None:
    cluster_set, labels = fit(skeletons.people(NAMES, 1))
    part = cluster_set.summary["parts"]["whole body"]
    assert part["curve"][-1]["near_centre"] >= 0.95 > part["curve"][-2]["near_centre"]
    assert part["silhouette"] > 0.1 and part["two_seeds"]["adjusted_rand"] > 0.6
    assert [c.size for c in cluster_set.clusters] == np.bincount(labels).tolist()
    for index, cluster in enumerate(cluster_set.clusters):
        assert labels[int(cluster.medoid_person_id.removeprefix("p/"))] == index


def test_ids_stay_with_their_clusters_when_others_are_fitted() -> None:
    old, _ = fit(skeletons.people(NAMES, 1), k=12)
    again, _ = fit(skeletons.people(NAMES, 1), k=12, seed=5, previous=version("v0001", old))
    fewer = [name for name in NAMES if name not in ("sit", "wave")]
    new, _ = fit(skeletons.people(fewer, 9), k=10, previous=version("v0001", old))
    for cluster_set in (again, new):
        before = {c.cluster_id: c.centroid for c in old.clusters}
        kept = [c for c in cluster_set.clusters if c.cluster_id in before]
        assert len(kept) >= len(cluster_set.clusters) - 2
        assert all(POSE.distances(c.centroid, before[c.cluster_id]) < POSE.tolerance for c in kept)
        mapped = cluster_set.summary["previous"]["map"]
        assert mapped.keys() == before.keys()
        assert {v for v in mapped.values() if v} == {c.cluster_id for c in kept}
    assert sum(v is None for v in new.summary["previous"]["map"].values()) >= 2


def test_a_retired_id_is_not_given_again() -> None:
    old, _ = fit(skeletons.people(["stand"] * 20 + ["sit"] * 20, 1), k=2)
    middle, _ = fit(skeletons.people(["stand"] * 20, 1), k=1, previous=version("v0001", old))
    new, _ = fit(skeletons.people(["stand"] * 20 + ["arms up"] * 20, 1), k=2, previous=version("v0002", middle))
    assert {c.cluster_id for c in new.clusters} - {c.cluster_id for c in old.clusters} == {"pose-0003"}


def test_a_fit_is_the_same_after_it_was_written() -> None:
    cluster_set, _ = fit(skeletons.people(NAMES, 4, cut=0.3))
    data = version("v0001", cluster_set).to_json()
    loaded = load_fit(data)
    assert loaded.to_json() == data
    x = features(skeletons.people(NAMES, 5))
    assert (loaded.cluster_sets["pose"].nearest(x)[0] == cluster_set.nearest(x)[0]).all()
    assert loaded.cluster_sets["pose"].near == pytest.approx(cluster_set.near, abs=1e-5)


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"version": "v0001", "kinds": {"pose": {}}}', b"\xff"])
def test_what_is_no_fit_is_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(LaionPeopleError, match=r"^[^\n]+ \[damaged-version\]$"):
        load_fit(data)


def test_a_fit_of_other_features_is_refused() -> None:
    document = json.loads(version("v0007", ClusterSet(POSE, (), 1, 2)).to_json())
    document["kinds"]["pose"]["features"] = ["other"]
    with pytest.raises(LaionPeopleError, match=r"v0007 .* pose .*\[old-version\]$"):
        load_fit(json.dumps(document).encode())


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_few_people_are_no_problem(count: int) -> None:
    cluster_set, labels = fit(skeletons.people(["stand", "sit", "wave", "run", "tree"][:count], 0))
    assert len(labels) == count and (labels >= 0).all()
    assert sum(c.size for c in cluster_set.clusters) == count
    assert 0 < cluster_set.near <= cluster_set.far


@settings(deadline=None, max_examples=25)
@given(
    rows=st.lists(st.sampled_from([0.0, 0.1, 1.0, -1.0, np.nan, np.inf]), max_size=60),
    before=st.lists(st.sampled_from([0.0, 0.5, 1.0]), max_size=12),
    name=st.sampled_from(["pose", "face", "head"]),
    k=st.sampled_from([0, 1, 2, 50]),
)
@example(rows=[], before=[0.0, 0.5, 1.0], name="face", k=0)  # only the version before has people in this space
@example(
    rows=[1.0] * 30, before=[], name="head", k=50
)  # all people are the same, and there are more clusters than people
def test_whoever_is_there_or_not_a_fit_ends_and_counts_everybody_once(
    rows: list[float], before: list[float], name: str, k: int
) -> None:
    space = FEATURE_SPACES[name]

    def fitted(values: list[float], k: int, previous: Fit | None) -> tuple[ClusterSet, np.ndarray]:
        people = np.zeros((len(values) // 3, len(space.names)), np.float32)
        people[:, -3:] = np.reshape(values[: len(people) * 3], (-1, 3))  # in a pose, a shin
        if name == "pose":
            people[~np.isfinite(people)] = np.nan  # poses are made of directions
        return fit_cluster_set(name, space, people, [f"p/{i}" for i in range(len(people))], k, 0, previous)

    empty = version("v0001", ClusterSet(POSE, (), 1, 2))
    old = Fit("v0001", empty.cluster_sets | {name: fitted(before, 0, None)[0]})
    cluster_set, labels = fitted(rows, k, old)
    assert np.bincount(labels[labels >= 0], minlength=len(cluster_set.clusters)).tolist() == [
        c.size for c in cluster_set.clusters
    ]
    assert all(c.size for c in cluster_set.clusters) and 0 < cluster_set.near <= cluster_set.far
    assert cluster_set.summary["previous"]["map"].keys() == {c.cluster_id for c in old.cluster_sets[name].clusters}
    saved = load_fit(Fit("v0002", old.cluster_sets | {name: cluster_set}).to_json())
    assert saved.cluster_sets[name].nearest(np.zeros((1, len(space.names)), np.float32))[0][0] < len(
        cluster_set.clusters
    )
