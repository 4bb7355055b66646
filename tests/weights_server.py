"""A server of files on loopback: ranges and versions as RFC 9110 has them, and faults that downloads must survive."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WeightsServer

    def do_GET(self) -> None:
        server, path = self.server, self.path.partition("?")[0]
        wanted = self.headers.get("Range")
        with server.lock:
            server.requests.append((path, wanted))
            server.logins.append(self.headers.get("Authorization"))
            cut = server.cuts.pop(0) if server.cuts else None
        if path in server.redirects:
            self._answer(302, b"", {"Location": server.redirects[path]})
            return
        if server.login and self.headers.get("Authorization") != server.login:
            self._answer(401, b"no")
            return
        body = server.files.get(path)
        if server.status or body is None:
            self._answer(server.status or 404, b"no")
            return
        headers = {"Content-Type": server.content_type}
        etag = f'"{hashlib.md5(body).hexdigest()}"'
        if server.versions:
            headers["ETag"] = etag
        start, status = 0, 200
        if wanted and server.ranges and self.headers.get("If-Range") in (None, etag):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                self._answer(416, b"", {"Content-Range": f"bytes */{len(body)}"})
                return
            status = 206
            headers["Content-Range"] = f"bytes {start + server.shift}-{len(body) - 1}/{len(body)}"
        time.sleep(server.delay)
        self._answer(status, body[start:], headers, cut)

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if self.server.lengths:
            self.send_header("Content-Length", str(len(body)))
        else:
            self.close_connection = True
        self.end_headers()
        self.wfile.write(body[:cut])
        if cut is not None:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


class WeightsServer(ThreadingHTTPServer):
    """``files``: path -> body; ``cuts``: after how many bytes each of the next answers breaks off, None: not at all;
    ``requests``: path and Range of each request so far, ``logins`` its Authorization; ``login``: the one that is
    asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.cuts: list[int | None] = []
        self.requests: list[tuple[str, str | None]] = []
        self.logins: list[str | None] = []
        self.login = ""
        self.lock = threading.Lock()
        self.ranges = self.versions = self.lengths = True
        self.content_type = "application/octet-stream"
        self.status = self.shift = 0
        self.delay = 0.0


@contextmanager
def weights_server() -> Iterator[WeightsServer]:
    with WeightsServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
