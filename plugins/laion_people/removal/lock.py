"""One removal of a store at a time: two that rewrite the same file would each bring back what the other takes out.

Who removes keeps changing ``removals/lock.json``. Who finds it waits, and takes its place once it has not changed for a
while: its process was killed. No two clocks are compared.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from laion_people.errors import LaionPeopleError
from laion_people.storage.removals import FOLDER
from laion_people.storage.store import Store

log = logging.getLogger(__name__)

PATH = f"{FOLDER}/lock.json"
BEAT_SECONDS = 10.0  # between two changes
DEAD_SECONDS = 60.0  # without a change
POLL_SECONDS = 1.0


@contextmanager
def alone(store: Store) -> Iterator[Callable[[], None]]:
    """Waits until nobody else removes something. The block's function is to be called before anything is rewritten: it
    raises LaionPeopleError if somebody else has taken this process for dead meanwhile."""
    lock = _Lock(store)
    lock.take()
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(BEAT_SECONDS):
            try:
                lock.change()
            except LaionPeopleError as error:  # it is tried again, and `check` tells if it is lost
                log.warning("%s", error)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield lock.check
    finally:
        stop.set()
        thread.join()
        if lock.is_ours(store.read(PATH) if store.exists(PATH) else b""):
            store.delete(PATH)


class _Lock:
    def __init__(self, store: Store):
        self.store, self.token, self.beats = store, uuid.uuid4().hex, 0

    def take(self) -> None:
        seen, since, dead = b"", time.monotonic(), b""
        while True:
            if self.is_ours(found := self._claim(dead)):
                return
            if found != seen:
                if not seen:
                    log.info("another removal is under way: waiting (a killed one counts as ended after a minute)")
                seen, since = found, time.monotonic()
            elif time.monotonic() - since > DEAD_SECONDS:
                dead = found
                continue
            time.sleep(POLL_SECONDS)

    def _claim(self, dead: bytes) -> bytes:
        """The lock as it is after this process has tried to take it, from nobody or from who is dead."""
        return self.store.update(PATH, lambda before: self._content() if before is None or before == dead else before)

    def change(self) -> None:
        self.check()
        self.beats += 1
        self.store.update(PATH, lambda before: self._content() if self.is_ours(before or b"") else before or b"")

    def check(self) -> None:
        if not (self.store.exists(PATH) and self.is_ours(self.store.read(PATH))):
            raise LaionPeopleError(
                "removed-meanwhile", "another removal took this one for dead and goes on in its place: run it again"
            )

    def is_ours(self, content: bytes) -> bool:
        return self.token.encode() in content

    def _content(self) -> bytes:
        return json.dumps({"token": self.token, "host": socket.gethostname(), "beats": self.beats}).encode()
