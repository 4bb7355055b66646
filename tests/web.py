"""A web of many hosts on loopback, which counts the requests in flight to each, and answers as a test says."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Request:
    """``host``: without the port; ``nth``: how many this host had before, from 0."""

    host: str
    path: str
    headers: dict[str, str]
    nth: int


Answer = Callable[["ManyHosts", Request], Coroutine[Any, Any, bytes]]


@dataclass
class ManyHosts:
    """All addresses 127.x.x.x, and localhost, are hosts. ``most`` has the most requests that were in flight at once."""

    answer: Answer
    port: int = 0
    in_flight: Counter[str] = field(default_factory=Counter)
    most: Counter[str] = field(default_factory=Counter)
    most_together: int = 0
    requests: list[Request] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def url(self, host: str, path: str) -> str:
        return f"http://{host}:{self.port}{path}"

    def paths(self, host: str) -> list[str]:
        return [request.path for request in self.requests if request.host == host]

    async def until(self, ready: Callable[[], bool]) -> None:
        async with self.changed:
            await self.changed.wait_for(ready)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        host = headers["host"].partition(":")[0]
        request = Request(host, first.split(" ")[1], headers, len(self.paths(host)))
        async with self.changed:
            self.requests.append(request)
            self.in_flight[host] += 1
            self.most[host] = max(self.most[host], self.in_flight[host])
            self.most_together = max(self.most_together, self.in_flight.total())
            self.changed.notify_all()
        try:
            writer.write(await self.answer(self, request))
        except asyncio.CancelledError:  # the test is over
            return
        finally:
            async with self.changed:
                self.in_flight[host] -= 1
                self.changed.notify_all()
            writer.close()


def answer(body: bytes = b"", status: str = "200 OK", **headers: str) -> bytes:
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()]
    lines.append(f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n")
    return f"HTTP/1.1 {status}\r\n{''.join(lines)}".encode("latin-1") + body


@contextmanager
def many_hosts(answer: Answer) -> Iterator[ManyHosts]:
    """Serves in a thread of its own."""
    web = ManyHosts(answer)
    loop = asyncio.new_event_loop()
    started = threading.Event()
    end = asyncio.Event()

    async def serve() -> None:
        server = await asyncio.start_server(web.serve, "0.0.0.0", 0, backlog=1000)
        web.port = server.sockets[0].getsockname()[1]
        started.set()
        async with server:
            await end.wait()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    started.wait(10)
    try:
        yield web
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join(10)
