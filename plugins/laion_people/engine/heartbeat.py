"""A line in the log at least every minute, so that whoever reads it can tell a long step from one that hangs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS = 50.0


@contextmanager
def heartbeat(log: logging.Logger, seconds: float = SECONDS) -> Iterator[None]:
    """Logs a line whenever ``log`` and its children have been silent for ``seconds``.

    Airflow follows a pod's log over a connection that proxies cut when it is idle, and Kubernetes has lost the stream
    when it rotated the file: a line a minute has the reader connect again
    (https://github.com/apache/airflow/issues/23497, https://github.com/kubernetes/kubernetes/issues/59902).
    """
    start = time.monotonic()
    listener = _LastLine()
    done = threading.Event()

    def beat() -> None:
        while not done.wait(max(0.0, listener.time + seconds - time.monotonic())):
            if time.monotonic() - listener.time >= seconds:
                log.info("still at work after %d s", time.monotonic() - start)

    log.addHandler(listener)
    threading.Thread(target=beat, daemon=True).start()
    try:
        yield
    finally:
        done.set()
        log.removeHandler(listener)


class _LastLine(logging.Handler):
    """Knows when the last line was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.time = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        self.time = time.monotonic()
