"""The benchmarks prove the work of each round: one that was skipped is an error, and never a fast result."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial

import numpy as np
import pytest

from include.models import Mesh
from laion_people.reports import capacity
from laion_people.steps.registry import STEPS
from laion_people.storage.store import LocalStore
from tools import bench_docs, bench_gpu
from tools import bench_work as work
from tools.bench_work import BenchError, Job, Made, Took, compare, costs, in_turns

PARTITION = "bench/00000"


class Faces:
    """A mesh model: a face for each person, or for nobody."""

    def __init__(self, sees: bool = True):
        self._sees = sees

    def estimate(self, images: list[np.ndarray], boxes: list[np.ndarray], keypoints: object) -> list[list[Mesh | None]]:
        mesh = Mesh(np.zeros((478, 3), np.float32), np.zeros(52, np.float32), 0.0, 0.0, 0.0, 1.0)
        return [[mesh if self._sees else None for _ in its_boxes] for its_boxes in boxes]


def took(*rounds: tuple[float, float, float]) -> Job:
    """A job of which the rounds, the last one for ever, took this: work done, seconds, CPU seconds."""
    left = list(rounds)
    return lambda: Took(*(left.pop(0) if len(left) > 1 else left[0]))


@pytest.fixture
def mesh(store: LocalStore) -> Callable[..., Job]:
    """The step mesh on a tiny store with four photos, as a job that counts faces; and how many people there are."""
    photos = work.photos(4)
    known = work.Known(photos)
    with store.writer(f"images/{PARTITION}/00000.tar") as tar:
        work.write_shard(tar, [photo.jpeg for photo in photos])
    models = work.Models(detector=known, pose=known)
    for step in ("detect", "pose"):
        assert Made(store, models, STEPS).rows(step, PARTITION) == people(photos)

    def job(run_id: str = "", model: object = Faces()) -> Job:
        return partial(Made(store, work.Models(mesh=model), STEPS, run_id).rows, "mesh", PARTITION, "face_score")

    return job


def people(photos: list[work.Photo]) -> int:
    return sum(len(photo.boxes) for photo in photos)


def test_each_round_of_a_step_does_its_work(mesh: Callable[..., Job]) -> None:
    amount = people(work.photos(4))
    job = mesh()
    assert [job() for _ in range(3)] == [amount] * 3
    assert len(in_turns("mesh", amount, job, mesh(), rounds=2, most=1000)) == 2


def test_a_round_of_a_run_that_has_made_it_before_is_an_error(mesh: Callable[..., Job]) -> None:
    job = mesh(run_id="the same run")
    assert job() == people(work.photos(4))
    with pytest.raises(BenchError, match=r"mesh bench/00000: this round has written nothing"):
        job()


def test_rows_that_no_model_has_filled_do_not_count(mesh: Callable[..., Job]) -> None:
    with pytest.raises(BenchError, match=r"mesh, ours: a round did 0 of \d+"):
        in_turns("mesh", 8, mesh(model=Faces(sees=False)), took((8, 1, 1)), rounds=1)


@pytest.mark.parametrize("rounds", [[(7, 1, 1)], [(8, 1, 1), (8, 1, 1), (7, 1, 1)], [(9, 1, 1)], [(0, 1, 1)]])
@pytest.mark.parametrize("who", ["ours", "the peer"])
def test_a_round_of_either_side_that_did_other_work_is_an_error(rounds: list, who: str) -> None:
    jobs = {"ours": took((8, 1, 1)), "the peer": took((8, 1, 1))} | {who: took(*rounds)}
    with pytest.raises(BenchError, match=rf"a line, {who}: a round did [079] of 8$"):
        compare("a line", "images/s", 8, jobs["ours"], jobs["the peer"], 1, rounds=3)


@pytest.mark.parametrize("ours", [(8, 1.0, 0.0), (8, 1.0, 1 / 4.1), (8, 0.001, 1.0)])
def test_a_round_that_was_faster_than_physics_allows_is_an_error(ours: tuple[float, float, float]) -> None:
    with pytest.raises(BenchError, match="more than 4 times as fast a core cannot be"):
        compare("a line", "images/s", 8, took((8, 1, 1), (8, 1, 1), ours), took((8, 1, 1)), 1, rounds=3, most=4)
    compare("a line", "images/s", 8, took((8, 1, 1 / 3.9)), took((8, 1, 1)), 1, rounds=3, most=4)


def test_a_line_has_the_median_and_the_spread_of_its_rounds() -> None:
    ours = took((8, 9, 9), (8, 1, 1), (8, 2, 1), (8, 4, 1))  # the first doesn't count
    result = compare("a line", "images/s", 8, ours, took((8, 4, 1)), 2, rounds=3)
    assert (result.ours, result.peer) == (4, 2)
    assert sorted(result.ratios) == [1, 2, 4] and result.ratio == 2
    assert result.verdict == "reached"
    assert work.line(result).split()[-7:] == ["2.00", "1.00", "-", "4.00", ">=", "2", "reached"]


def test_costs_are_to_be_at_most_the_target() -> None:
    turns = in_turns("a line", 8, took((8, 2, 6)), took((8, 4, 8)), rounds=3)
    wall, cpu = costs("wall", "wall", turns, 0.75), costs("cpu", "cpu", turns, 0.7)
    assert (wall.ours, wall.peer, wall.ratio, wall.verdict) == (2, 4, 0.5, "reached")
    assert (cpu.ours, cpu.peer, cpu.ratio, cpu.verdict) == (6, 8, 0.75, "MISSED")
    assert "<= 0.7 " in work.line(cpu)


def test_a_gpus_rounds_prove_their_work_too() -> None:
    assert bench_gpu.measure("a line", lambda: 8, 8, 0, "cpu").rate > 0
    with pytest.raises(BenchError, match="a line: a round did 7 of 8"):
        bench_gpu.measure("a line", lambda: 7, 8, 0, "cpu")
    bench = object.__new__(bench_gpu.Bench)  # without a GPU, models cannot be made for it
    bench.device, bench.passes = "cuda:0", {"detect": 100.0}
    bench.line("a line", "images/s", bench_gpu.Measured(199, 0, None), model="detect")
    with pytest.raises(BenchError, match=r"a line: 201\.0 images/s, and the model's pass alone 100\.0"):
        bench.line("a line", "images/s", bench_gpu.Measured(201, 0, None), model="detect")


def test_nothing_is_measured_on_another_processors_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    with pytest.raises(BenchError, match="unset it"):
        work.environment()
    monkeypatch.delenv("OPENBLAS_CORETYPE")
    assert "cores" in work.environment()


def test_the_docs_say_what_was_measured() -> None:
    measured = json.loads(bench_docs.MEASURED.read_text())
    assert bench_docs.SPEED.read_text() == bench_docs.speed(measured)
    kept = json.loads(capacity.RATES.read_text())
    assert bench_docs.rates(measured, kept) == kept
    assert bench_docs.plans(bench_docs.CAPACITY.read_text()) == bench_docs.CAPACITY.read_text()


def test_a_new_measurement_is_written_wherever_numbers_are_told() -> None:
    measured = json.loads(bench_docs.MEASURED.read_text())
    measured["steps"].pop("download", None)
    result = work.Result("a line of a test", "CPU-s", 1.25, 2.5, (0.5, 0.4, 0.7), 0.75, less=True)
    page = bench_docs.speed(measured | {"ratios": [work.rounded(asdict(result))]})
    assert "| a line of a test | 1.2 | 2.5 | CPU-s | 0.50 | 0.40 - 0.70 | <= 0.75 | reached |" in page
    assert "| download |" not in page and "download's CPU seconds" not in page
    steps = {"download": [{"rows": 100, "wall": 50.0, "cpu": 20.0}]}
    page = bench_docs.speed(measured | {"steps": steps})
    assert "| download | 100 | 50.0 | 20.0 | 20.0 - 20.0 |\n\nThe download's CPU seconds include those of " in page
    rate = {"value": 7.0, "measured": True, "source": "a test"}
    kept = bench_docs.rates({"any": {"cpu:mesh": rate}}, json.loads(capacity.RATES.read_text()))
    assert kept["any"]["cpu:mesh"] == rate and kept["any"]["cpu:download"]["value"] == 62.5
    with pytest.raises(AssertionError, match="no block that begins with laion2B-en/00000"):
        bench_docs.plans("# Capacity\n\nNothing is planned.\n")
