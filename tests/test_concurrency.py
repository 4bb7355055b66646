from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laion_people.engine.concurrency import overlapped

WAIT = 30  # seconds until a test gives up; none of them ever waits that long when all is well


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@given(st.lists(st.integers(), max_size=30), st.integers(1, 4))
def test_results_come_in_order(items: list[int], threads: int) -> None:
    assert [future.result() for future in overlapped(lambda n: 2 * n, items, threads)] == [2 * n for n in items]


def test_two_calls_are_at_work_at_a_time_while_a_third_item_waits() -> None:
    together = threading.Barrier(2, timeout=WAIT)  # breaks unless two calls meet
    taken: list[int] = []
    at_work = 0
    most = 0
    lock = threading.Lock()

    def items() -> Iterator[int]:
        for number in range(8):
            taken.append(number)
            yield number

    def work(number: int) -> int:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        together.wait()
        with lock:
            at_work -= 1
        return number

    for done, future in enumerate(overlapped(work, items(), threads=2), 1):
        assert len(taken) <= done + 2
        future.result()
    assert most == 2 and taken == list(range(8))


def test_an_error_comes_out_where_its_result_would_have_and_stops_the_rest() -> None:
    begun: list[int] = []

    def work(number: int) -> int:
        begun.append(number)
        if number == 3:
            raise OSError("model on fire")
        return number

    results = []
    with (
        pytest.raises(OSError, match="model on fire"),
        closing(overlapped(work, count(), threads=2)) as futures,
    ):
        for future in futures:
            results.append(future.result())
    assert results == [0, 1, 2] and max(begun) <= 5


def test_closing_early_drops_what_waits_and_awaits_what_is_at_work() -> None:
    go_on, begun = threading.Event(), threading.Event()
    finished: list[int] = []

    def work(number: int) -> int:
        if number == 1:
            begun.set()
            assert go_on.wait(WAIT)
        finished.append(number)
        return number

    futures = overlapped(work, range(3), threads=1)
    assert next(futures).result() == 0
    next(futures)
    next(futures).add_done_callback(lambda dropped: go_on.set())
    assert begun.wait(WAIT)
    futures.close()
    assert finished == [0, 1]


def test_an_error_in_the_items_leaves_no_thread() -> None:
    def items() -> Iterator[int]:
        yield from (1, 2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(overlapped(lambda n: n, items(), threads=2))
