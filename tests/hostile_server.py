"""A web server on loopback that serves good images, broken ones and bad manners, all made in code."""

from __future__ import annotations

import gzip
import io
import socket
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import numpy as np
from PIL import Image

ORIENTATION = 0x0112


def picture(width: int, height: int) -> Image.Image:
    """Red above, blue below, with a smooth texture: what is turned or torn is seen."""
    rows = np.linspace(0, 1, height)[:, None, None]
    pixels = np.where(rows < 0.5, [200, 30, 30], [30, 30, 200]) + 20 * np.sin(np.arange(width) / 9)[None, :, None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def _turned() -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    return encoded(picture(120, 160).rotate(90, expand=True), "JPEG", exif=exif)


def _bomb() -> bytes:
    """A PNG of a few bytes whose header tells of 30,000 x 30,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"x") + chunk(b"IEND", b"")


UPRIGHT = {  # all show `picture(120, 160)`, right-side-up
    "/plain.jpg": encoded(picture(120, 160), "JPEG"),
    "/cmyk.jpg": encoded(picture(120, 160).convert("CMYK"), "JPEG"),
    "/alpha.png": encoded(picture(120, 160).convert("RGBA"), "PNG"),
    "/palette.png": encoded(picture(120, 160).quantize(), "PNG"),
    "/photo.webp": encoded(picture(120, 160), "WEBP"),
    "/animated.gif": encoded(picture(120, 160), "GIF", save_all=True, append_images=[Image.new("RGB", (120, 160))]),
    "/turned.jpg": _turned(),
}
FILES = UPRIGHT | {
    "/grey.jpg": encoded(picture(120, 160).convert("L"), "JPEG"),
    "/large.jpg": encoded(picture(900, 1500), "JPEG"),
    "/truncated.jpg": encoded(picture(300, 300), "JPEG")[:2000],
    "/page.jpg": b"<html>sold</html>",
    "/empty.jpg": b"",
    "/bomb.png": _bomb(),
    "/banner.png": encoded(picture(900, 60), "PNG"),
    "/pixel.png": encoded(Image.new("RGB", (1, 1)), "PNG"),
}
BOMB = gzip.compress(bytes(50_000_000))
STATUSES = {"/missing": 404, "/gone": 410, "/forbidden": 403, "/busy": 429, "/late": 408, "/broken": 500}
REDIRECTS = {"/moved": "/plain.jpg", "/circle": "/circle", "/elsewhere": "ftp://example.org/a.jpg"}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HostileServer

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        with self.server.lock:
            self.server.hits[parts.path] += 1
        headers = {"X-Robots-Tag": query["robots"]} if "robots" in query else {}
        if parts.path in FILES:
            self.answer(200, FILES[parts.path], headers)
        elif parts.path in STATUSES:
            self.answer(STATUSES[parts.path], b"no")
        elif parts.path in REDIRECTS or "to" in query:
            self.answer(302, b"", {"Location": query.get("to") or REDIRECTS[parts.path]})
        else:
            self.MANNERS[parts.path](self)

    def answer(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, length: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def silent(self) -> None:
        self.server.closing.wait()

    def dripping(self) -> None:
        self._without_end(b"\xff", 0.05)

    def endless(self) -> None:
        self._without_end(b"\xff" * 65536, 0)

    def _without_end(self, chunk: bytes, pause: float) -> None:
        self.send_response(200)
        self.end_headers()
        self.close_connection = True
        while not self.server.closing.wait(pause):
            self.wfile.write(chunk)

    def announced(self) -> None:
        self.answer(200, b"", length=10**12)
        self.server.closing.wait()

    def cut(self) -> None:
        self.answer(200, FILES["/plain.jpg"][:900], length=len(FILES["/plain.jpg"]))
        self.close_connection = True

    def not_http(self) -> None:
        self.wfile.write(b"\x00\x01\x02 SSH-2.0\r\n\r\n")
        self.close_connection = True

    def gzipped(self) -> None:
        self.answer(200, gzip.compress(FILES["/plain.jpg"]), {"Content-Encoding": "gzip"})

    def gzip_bomb(self) -> None:
        self.answer(200, BOMB, {"Content-Encoding": "gzip"})

    def flaky(self) -> None:
        """Fails until the server is told to recover."""
        if self.server.recovered:
            self.answer(200, FILES["/plain.jpg"])
        else:
            self.answer(503, b"later")

    def hangs_up(self) -> None:
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    MANNERS: dict[str, Callable[[Handler], None]] = {  # noqa: RUF012
        "/silent": silent,
        "/dripping": dripping,
        "/endless": endless,
        "/announced": announced,
        "/cut": cut,
        "/not_http": not_http,
        "/gzipped": gzipped,
        "/gzip_bomb": gzip_bomb,
        "/flaky": flaky,
        "/hangs_up": hangs_up,
    }

    def log_message(self, *_: object) -> None:
        pass


class HostileServer(ThreadingHTTPServer):
    """``hits`` counts requests by path; ``recovered`` heals /flaky."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.hits: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self.recovered = False

    def handle_error(self, *_: object) -> None:
        """Clients that hang up are what this server is for."""


@contextmanager
def hostile_server() -> Iterator[HostileServer]:
    with HostileServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()
