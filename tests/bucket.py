"""A bucket made of a folder: as much of S3 as the store asks for, with an answering time, and every request counted."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

PAGE = 1000  # keys in one answer of a list


@dataclass
class Bucket:
    """``counts`` has the requests by method; the tags of files are those that a `LocalStore` of the folder gives."""

    url: str
    counts: Counter[str] = field(default_factory=Counter)

    def requests(self) -> int:
        return self.counts.total()


@contextmanager
def bucket(root: Path, latency: float = 0.0) -> Iterator[Bucket]:
    """Serves a folder as the bucket of any name, on loopback."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except ConnectionError:
                self.close_connection = True

        def parse_request(self) -> bool:
            parsed = super().parse_request()
            if parsed:
                served.counts[self.command] += 1
                time.sleep(latency)
            return parsed

        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            if "list-type" in query:
                self._list(*(query.get(name, [""])[0] for name in ("prefix", "delimiter", "continuation-token")))
                return
            data = self._content()
            if data is None:
                return
            start, stop = 0, len(data)
            if span := self.headers.get("Range"):
                first, _, last = span.removeprefix("bytes=").partition("-")
                start, stop = int(first), min(stop, int(last) + 1 if last else stop)
            headers = {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"} if span else {}
            self._answer(206 if span else 200, data[start:stop], headers | self._tag())

        def do_HEAD(self) -> None:
            if (data := self._content()) is not None:
                self._answer(200, b"", self._tag() | {"Content-Length": str(len(data))})

        def do_PUT(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            if "aws-chunked" in self.headers.get("Content-Encoding", ""):
                data = _unchunked(data)
            path = self._path()
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_name(f".{path.name}.{threading.get_ident()}")
            unfinished.write_bytes(data)
            unfinished.replace(path)
            self._answer(200, b"", self._tag())

        def do_DELETE(self) -> None:
            self._path().unlink(missing_ok=True)
            self._answer(204)

        def _path(self) -> Path:
            return root / unquote(urlsplit(self.path).path).lstrip("/").partition("/")[2]

        def _content(self) -> bytes | None:
            if self._path().is_file():
                return self._path().read_bytes()
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>" if self.command != "HEAD" else b"")
            return None

        def _tag(self) -> dict[str, str]:
            status = self._path().stat()
            return {"ETag": f'"{status.st_mtime_ns}-{status.st_ino}"', "Last-Modified": formatdate(0, usegmt=True)}

        def _list(self, prefix: str, delimiter: str, after: str) -> None:
            folder = root / prefix
            if delimiter:
                names = sorted(e.name for e in os.scandir(folder) if e.is_dir()) if folder.is_dir() else []
                prefixes = "".join(f"<CommonPrefixes><Prefix>{prefix}{n}/</Prefix></CommonPrefixes>" for n in names)
                self._answer(200, f"<ListBucketResult>{prefixes}</ListBucketResult>".encode())
                return
            keys = sorted(f"{parent}/{name}" for parent, _, names in os.walk(folder) for name in names)
            keys = [key for key in keys if key > after]
            entries = []
            for key in keys[:PAGE]:
                found_file = Path(key).stat()
                entries.append(
                    f"<Contents><Key>{escape(key.removeprefix(f'{root}/'))}</Key><Size>{found_file.st_size}</Size>"
                    f"<ETag>&quot;{found_file.st_mtime_ns}-{found_file.st_ino}&quot;</ETag></Contents>"
                )
            more = f"<NextContinuationToken>{escape(keys[PAGE - 1])}</NextContinuationToken>" if keys[PAGE:] else ""
            body = f"<IsTruncated>{str(bool(more)).lower()}</IsTruncated>{more}{''.join(entries)}"
            self._answer(200, f"<ListBucketResult>{body}</ListBucketResult>".encode())

        def _answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    served = Bucket(f"http://127.0.0.1:{server.server_port}")
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()


def _unchunked(data: bytes) -> bytes:
    """The content of a body that is sent in chunks, each after its size (aws-chunked)."""
    content, rest = b"", data
    while rest:
        head, _, rest = rest.partition(b"\r\n")
        size = int(head.partition(b";")[0] or b"0", 16)
        if not size:
            break
        content, rest = content + rest[:size], rest[size + 2 :]
    return content
