"""An S3 service for tests: moto over HTTP, and a proxy before it that fails and dawdles."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count


@contextmanager
def moto_server() -> Iterator[int]:
    """Port of a moto server on loopback."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield server.get_host_and_port()[1]
    finally:
        server.stop()


@contextmanager
def flaky(port: int, fail_every: int, slow_every: int = 0, seconds: float = 0.3) -> Iterator[str]:
    """URL of a proxy of ``127.0.0.1:port``: every nth request gets a 500, every mth waits first."""
    turn = count(1)

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def relay(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            number = next(turn)
            if slow_every and number % slow_every == 0:
                time.sleep(seconds)
            if number % fail_every == 0:
                return self.answer(500, [], b"injected")
            upstream = http.client.HTTPConnection("127.0.0.1", port)
            upstream.request(self.command, self.path, body, dict(self.headers))
            reply = upstream.getresponse()
            headers = [(k, v) for k, v in reply.getheaders() if k.lower() not in ("transfer-encoding", "connection")]
            self.answer(reply.status, headers, reply.read())
            upstream.close()
            return None

        def answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            if not any(name.lower() == "content-length" for name, _ in headers):
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = relay

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
