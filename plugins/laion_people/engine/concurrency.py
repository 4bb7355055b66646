"""Work that overlaps: threads that never outlive their block, and functions mapped over items a few at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def workers(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads. When the block ends, on an error too, what has not begun is dropped and what has, awaited."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def overlapped(work: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Generator[Future[Result]]:
    """Calls ``work`` on each item, ``threads`` calls at a time; gives the futures of the results, in order.

    One item more is taken early, so that no thread waits while a result is made use of. Whoever takes a result that is
    an error stops the rest by closing the iterator, which leaves no thread.
    """
    waiting: deque[Future[Result]] = deque()
    with workers(threads) as pool:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > threads:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
