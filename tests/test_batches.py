from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from include.models import Detections
from laion_people.engine.runner import Runner
from laion_people.engine.work import Shard
from laion_people.errors import LaionPeopleError
from laion_people.settings import Settings
from laion_people.steps.registry import STEPS
from laion_people.storage.store import LocalStore
from laion_people.vision import batches, images
from laion_people.vision.batches import in_batches
from laion_people.vision.images import ImageError
from laion_people.vision.people import by_people
from tests.fakes import FakeDetector, FakeModels, jpeg, tar_of

WAIT = 30  # seconds until a test gives up; without a fault none waits that long
PARTITION = "laion2B-en/00042"
EXTRACT = ("detect", "pose", "mesh", "clip_filter")


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of more than 50 x 50 pixels count as large, and batches are small."""
    for name, value in {"LARGE_PIXELS": 2500, "AHEAD": 5, "AHEAD_PIXELS": 6000, "ASIDE": 2, "LATER": 12}.items():
        monkeypatch.setattr(images, name, value)
    for name, value in {"BATCH": 4, "BATCH_PIXELS": 5000}.items():
        monkeypatch.setattr(batches, name, value)


def shard(folder: Path, encoded: dict[str, bytes] | None = None) -> Shard:
    tar_of(encoded or {}, folder / "x.tar")
    files = {"images": folder / "x.tar"}
    return Shard(
        "a/b", 3, settings=Settings(), store=LocalStore(folder), model=lambda role: None, files=files, columns={}
    )


def squares(sizes: Sequence[int]) -> list[tuple[int, bytes]]:
    """Encoded squares of these sides; for 0, bytes that are no image."""
    return [(i, jpeg(9, (size, size)) if size else b"bad") for i, size in enumerate(sizes)]


@pytest.mark.usefixtures("small_limits")
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(sizes=st.lists(st.sampled_from([0, 8, 16, 40, 50, 51, 80]), max_size=60))
def test_results_are_in_order_and_batches_the_same_each_time_and_small(tmp_path: Path, sizes: list[int]) -> None:
    def batches_and_results() -> tuple[list[list[int]], list[tuple[int, Any]]]:
        seen: list[list[int]] = []

        def work(items: list[int], arrays: list[np.ndarray]) -> list[int]:
            seen.append(items)
            return [len(array) for array in arrays]

        results = list(in_batches(shard(tmp_path), squares(sizes), work))
        return sorted(seen), results

    seen, results = batches_and_results()
    assert [item for item, _ in results] == list(range(len(sizes)))
    assert [str(r) if isinstance(r, ImageError) else r for _, r in results] == [s or "not_an_image" for s in sizes]
    for batch in seen:
        assert len(batch) <= 4 and (len(batch) == 1 or sum(sizes[item] ** 2 for item in batch) <= 5000)
    assert batches_and_results()[0] == seen


def test_two_batches_are_in_the_model_at_a_time(tmp_path: Path, small_limits: None) -> None:
    together = threading.Barrier(2, timeout=WAIT)  # breaks unless two calls meet

    def work(items: list[int], arrays: list[np.ndarray]) -> list[int]:
        together.wait()
        return items

    assert [item for item, _ in in_batches(shard(tmp_path), squares([8] * 24), work)] == list(range(24))


@pytest.mark.usefixtures("small_limits")
def test_batches_go_on_while_a_slow_image_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others_are_done = threading.Event()

    def to_array(picture: Any) -> Any:
        assert picture.size[0] < 60 or others_are_done.wait(WAIT)
        return real(picture)

    def work(items: list[int], arrays: list[np.ndarray]) -> list[int]:
        if 4 in items:  # the second batch, if there were no slow image
            others_are_done.set()
        return [len(array) for array in arrays]

    real = images.to_array
    monkeypatch.setattr(images, "to_array", to_array)
    sizes = [8, 60, *[8] * 30]
    assert [size for _, size in in_batches(shard(tmp_path), squares(sizes), work)] == sizes


def test_a_model_that_raises_stops_the_step_at_once(tmp_path: Path, small_limits: None) -> None:
    read = []

    def endless() -> Iterator[tuple[int, bytes]]:
        while True:
            read.append(len(read))
            yield len(read), jpeg(9, (8, 8))

    def work(items: list[int], arrays: list[np.ndarray]) -> list[int]:
        if 10 in items:
            raise RuntimeError("CUDA error")
        return items

    with pytest.raises(RuntimeError, match="CUDA error"):
        list(in_batches(shard(tmp_path), endless(), work))
    assert len(read) <= 12 + 3 * 4 + 6  # its batch, batches taken after it, and images decoded ahead


def test_a_model_that_loses_an_image_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shorter"):
        list(in_batches(shard(tmp_path), squares([8, 8]), lambda items, arrays: items[:1]))


def test_a_step_that_is_stopped_leaves_no_thread(tmp_path: Path, small_limits: None) -> None:
    results = in_batches(shard(tmp_path), squares([8] * 200), lambda items, arrays: items)
    with pytest.raises(KeyboardInterrupt):
        for item, _ in results:
            if item == 9:
                raise KeyboardInterrupt
    del results


def test_people_come_with_the_rows_of_their_image(tmp_path: Path) -> None:
    encoded = {key: jpeg(9, (8 + i, 8)) for i, key in enumerate("abcd")}
    widths = by_people(
        shard(tmp_path, encoded), ["a", "a", "c", "d", "d"], lambda arrays, _: [a.shape[1] for a in arrays]
    )
    assert list(widths) == [(slice(0, 2), 8), (slice(2, 3), 10), (slice(3, 5), 11)]


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        ({"a": jpeg(9), "b": b"x"}, "a/b/00003/b can no longer be decoded"),
        ({"a": jpeg(9)}, "1 images of the people table are gone"),
    ],
)
def test_people_whose_image_is_gone_are_an_error(tmp_path: Path, encoded: dict[str, bytes], message: str) -> None:
    with pytest.raises(LaionPeopleError, match=message):
        list(by_people(shard(tmp_path, encoded), ["a", "b"], lambda arrays, _: arrays))


def tables(root: Path, threads: int) -> dict[str, bytes]:
    """The tables of the extract steps for images of many sizes, with this number of threads to decode."""
    store = LocalStore(root)
    sizes = [(40 + 7 * i % 31, 30 + 5 * i % 43) for i in range(60)]
    with store.writer(f"images/{PARTITION}/00000.tar") as path:
        tar_of({f"{i:09d}": jpeg((37 * i + 20) % 250, size) for i, size in enumerate(sizes)}, path)
    runner = Runner(store, Settings(cores=threads), FakeModels(), STEPS)
    for step in EXTRACT:
        runner.run(step, PARTITION)
    return {p: store.read(p) for t in ("people", "pose", "mesh", "clip", "subset_a") for p in store.list(t)}


@pytest.mark.usefixtures("small_limits")
def test_threads_and_large_images_do_not_change_a_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, four = (tables(tmp_path / str(n), n) for n in (1, 4))
    assert one == four and len(one) == 5
    monkeypatch.undo()
    assert tables(tmp_path / "usual", 2) == one


class TroubledModels(FakeModels):
    """A detector with an incident in its second batch."""

    def __init__(self, happens: Callable[[], None]) -> None:
        super().__init__()
        self.calls, self.happens = count(1), happens

    def load(self, role: str) -> object:
        return self

    def detect(self, pictures: Sequence[np.ndarray]) -> list[Detections]:
        if next(self.calls) == 2:
            self.happens()
        return FakeDetector().detect(pictures)


def breaks() -> None:
    raise RuntimeError("CUDA error")


def is_interrupted() -> None:
    os.kill(os.getpid(), signal.SIGINT)  # the command line treats SIGTERM the same


@pytest.mark.parametrize(("happens", "error"), [(breaks, RuntimeError), (is_interrupted, KeyboardInterrupt)])
@pytest.mark.usefixtures("small_limits")
def test_a_step_that_does_not_end_well_leaves_no_partial_shard(
    store: LocalStore, happens: Callable[[], None], error: type[BaseException]
) -> None:
    with store.writer(f"images/{PARTITION}/00000.tar") as path:
        tar_of({f"{i:09d}": jpeg(100) for i in range(60)}, path)
    with pytest.raises(error):
        Runner(store, Settings(), TroubledModels(happens), STEPS).run("detect", PARTITION)
    assert store.list("people") == store.list(".writing") == store.list("manifests") == []
