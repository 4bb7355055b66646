"""Whose turn it is: a host gets few requests at a time, and none while it has asked for a pause.

A host is a name, whatever the port and the scheme: what its owner sees. Rows that wait for their host wait without a
place among the requests in flight, so that others go on.
"""

from __future__ import annotations

import re
import time
from asyncio import Semaphore, sleep
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Generic, Self, TypeVar
from weakref import WeakValueDictionary

from aiohttp.abc import ResolveResult
from yarl import URL

from laion_people.settings import Settings

K = TypeVar("K")
V = TypeVar("V")

HOSTS = 10_000  # of which something is remembered, of each kind
ROBOTS_MEMORY = 64_000_000  # bytes of rules that are remembered
FIRST_PAUSE = 1.0  # seconds; doubles with each refusal until an answer is none
SILENCES = 8  # requests without an answer, one after another, after which a host is taken for dead
FIRST_SILENCE = 60.0  # seconds that a dead host is left alone; doubles too
LONGEST_RETRY_AFTER = 100  # characters
LONGEST_PAUSE = 86_400.0  # seconds: no run is held up by it, since rows don't wait for so long


class Recent(Generic[K, V]):
    """A cache: what was used least recently leaves first, and nothing stays longer than its time to live.

    The weights of its entries sum up to ``most`` at most.
    """

    def __init__(self, most: int):
        self._most = most
        self._sum = 0
        self._entries: OrderedDict[K, tuple[V, float, int]] = OrderedDict()  # value, end of its life, weight

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        if (entry := self._entries.get(key)) is None:
            return None
        if entry[1] <= time.monotonic():
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: K, value: V, seconds: float, weight: int = 1) -> None:
        self._drop(key)
        self._entries[key] = value, time.monotonic() + seconds, weight
        self._sum += weight
        while self._sum > self._most:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: K) -> None:
        if entry := self._entries.pop(key, None):
            self._sum -= entry[2]


@dataclass
class Pause:
    """A host gets no request until ``until``, for ``reason``, which rows are counted under, and as ``why`` says."""

    reason: str = ""
    why: str = ""
    patient: bool = True  # whether rows wait: the host has asked for it, and will serve them
    since: float = 0.0  # both in seconds of time.monotonic()
    until: float = 0.0
    refusals: int = 0  # one after another, of requests that were not under way together
    silences: int = 0  # requests without an answer, one after another

    def extend(self, asked_at: float, first: float, seconds: float = 0.0) -> None:
        """For a request that was sent at ``asked_at``. With each refusal, ``first`` doubles."""
        now = time.monotonic()
        if asked_at >= self.since:
            self.since = now
            self.refusals += 1
        least = first * 2.0 ** min(self.refusals - 1, 20)
        self.until = max(self.until, now + min(max(seconds, least), LONGEST_PAUSE))


@dataclass
class Known:
    """What a run has learned of hosts, for all its shards: it is used by one event loop after another."""

    addresses: Recent[str, list[ResolveResult] | OSError] = field(default_factory=lambda: Recent(HOSTS))
    pauses: Recent[str, Pause] = field(default_factory=lambda: Recent(HOSTS))
    robots: Recent[URL, Any] = field(default_factory=lambda: Recent(ROBOTS_MEMORY))


class Refused(Exception):
    """A host is not to be asked for longer than a row may wait; ``reason`` is that of the row."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


class Hosts:
    """The places of all requests (``url_threads``), and of those to each host (``url_threads_per_host``)."""

    def __init__(self, settings: Settings, pauses: Recent[str, Pause]):
        self.places = Semaphore(settings.url_threads)
        self.longest_wait = settings.url_wait
        self.pauses = pauses
        self._each = settings.url_threads_per_host
        self._lines: WeakValueDictionary[str, Semaphore] = WeakValueDictionary()  # of hosts that rows ask now

    def line(self, host: str) -> Semaphore:
        line = self._lines.get(host)
        if line is None:
            line = self._lines[host] = Semaphore(self._each)
        return line

    def refused(self, host: str, reason: str, why: str, asked_at: float, retry_after: float) -> None:
        """Begins a pause that the host asks for, or extends it."""
        pause = self.pauses.get(host) or Pause()
        pause.reason, pause.why, pause.patient = reason, why, True
        pause.extend(asked_at, FIRST_PAUSE, retry_after)
        self._remember(host, pause)

    def silent(self, host: str, reason: str, asked_at: float) -> None:
        """Counts a request without an answer. Where there was none for long, other rows need not try for as long."""
        pause = self.pauses.get(host) or Pause()
        pause.silences += 1
        if pause.silences >= SILENCES:
            pause.reason, pause.why = reason, f"no answer to {pause.silences} requests, one after another"
            pause.patient = False
            pause.extend(asked_at, FIRST_SILENCE)
        self._remember(host, pause)

    def answered(self, host: str) -> None:
        """The host serves again: its next pause is a short one."""
        if pause := self.pauses.get(host):
            pause.refusals = pause.silences = 0

    def _remember(self, host: str, pause: Pause) -> None:
        self.pauses.put(host, pause, max(pause.until - time.monotonic(), 0.0) + LONGEST_PAUSE)


class Turns:
    """One row's turns at hosts. It keeps the place of the last one until the end of a ``with``.

    ``host``: whose turn it is, since ``asked_at``, in seconds of time.monotonic().
    """

    def __init__(self, hosts: Hosts):
        self._hosts = hosts
        self._line: Semaphore | None = None
        self._has_place = False
        self._waited = 0.0
        self.host = ""
        self.asked_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave_host()
        self.leave_place()

    async def turn(self, host: str) -> None:
        """Returns when the row may ask ``host``. Raises Refused if the host wants it to wait longer than it may."""
        line = self._hosts.line(host)
        if line is not self._line:
            self.leave_host()
            self._check(host)
            if line.locked():
                self.leave_place()
            await line.acquire()
            self._line = line
        while True:
            if seconds := self._check(host):  # others in the line wait behind
                self.leave_place()
                await sleep(seconds)
                self._waited += seconds
            if not self._has_place:
                await self._hosts.places.acquire()
                self._has_place = True
            if not self._check(host):
                self.host, self.asked_at = host, time.monotonic()
                return

    def _check(self, host: str) -> float:
        """Seconds that are left of a host's pause."""
        pause = self._hosts.pauses.get(host)
        if not pause or (seconds := pause.until - time.monotonic()) <= 0:
            return 0.0
        if not pause.patient:
            raise Refused(pause.reason, f"{pause.why}: {host} is left alone for {seconds:,.0f} s more")
        if seconds > self._hosts.longest_wait - self._waited:
            raise Refused(
                pause.reason,
                f"{pause.why}: {host} wants {seconds:,.0f} s more without requests, and the row has waited for "
                f"{self._waited:,.0f} s of {self._hosts.longest_wait:g} (LAION_PEOPLE_URL_WAIT)",
            )
        return seconds

    def leave_host(self) -> None:
        if self._line:
            self._line.release()
            self._line = None

    def leave_place(self) -> None:
        if self._has_place:
            self._hosts.places.release()
            self._has_place = False


def retry_after(text: str) -> float | None:
    """The seconds of a Retry-After header (RFC 9110, 10.2.3): a number, or a date. None for anything else."""
    text = text.strip()
    if len(text) > LONGEST_RETRY_AFTER:
        return None
    if re.fullmatch(r"[0-9]+(\.[0-9]*)?", text):
        return float(text)
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - datetime.now(UTC).timestamp()
