"""Looks up host names as the system does, and remembers the answers: name servers refuse who asks too much."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import suppress
from typing import Any

from aiohttp.abc import ResolveResult
from aiohttp.resolver import ThreadedResolver

from laion_people.errors import check_shortage
from laion_people.steps.download.hosts import Recent

LIFE = 300.0  # seconds of an answer, also of one that there is no such host; getaddrinfo doesn't tell the real one
LIFE_OF_FAILURES = 30.0  # seconds: the name server failed, or didn't answer
PAUSES = (0.5, 1.0)  # seconds before a name server that failed is asked again
UNKNOWN = (socket.EAI_NONAME, socket.EAI_NODATA, socket.EAI_ADDRFAMILY)  # there is no such host, or no address of it
PATIENCE = 5.0  # seconds of a look-up after which it is not: the system has asked several times itself


class Resolver(ThreadedResolver):
    """Gives the addresses of a host; ``known`` keeps answers and failures, by host.

    aiohttp's own cache keeps no failures. Rows that want the same host share one look-up, which goes on when they have
    given up: the next will want it.
    """

    def __init__(self, known: Recent[str, list[ResolveResult] | OSError]):
        super().__init__()
        self._known = known
        self._under_way: dict[str, asyncio.Task[list[ResolveResult] | OSError]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Raises OSError, as the system gives it; UnicodeError if no host can be called so."""
        answer = self._known.get(host)
        if answer is None:
            if (task := self._under_way.get(host)) is None:
                task = self._under_way[host] = asyncio.create_task(self._look_up(host, family))
                task.add_done_callback(lambda task: self._end(host, task))
            answer = await asyncio.shield(task)
        if isinstance(answer, OSError):
            raise type(answer)(*answer.args)
        return [ResolveResult(**(address | {"port": port})) for address in answer]

    async def close(self) -> None:
        for task in list(self._under_way.values()):
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task

    def _end(self, host: str, task: asyncio.Task[Any]) -> None:
        del self._under_way[host]
        if not task.cancelled():
            task.exception()  # else asyncio complains when all who wanted to know have given up

    async def _look_up(self, host: str, family: socket.AddressFamily) -> list[ResolveResult] | OSError:
        start = time.monotonic()
        answer: list[ResolveResult] | OSError
        for pause in (*PAUSES, None):
            try:
                answer, life = await super().resolve(host, 0, family), LIFE
            except OSError as error:
                check_shortage(error)  # it would be taken for the host's fault for as long as it is remembered
                passing = error.errno not in UNKNOWN
                answer, life = type(error)(*error.args), LIFE_OF_FAILURES if passing else LIFE
                if passing and pause is not None and time.monotonic() - start < PATIENCE:
                    await asyncio.sleep(pause)
                    continue
            break
        self._known.put(host, answer, life)
        return answer
