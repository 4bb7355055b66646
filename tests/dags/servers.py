"""Small servers on loopback that keep what they are sent: SMTP, HTTP and StatsD."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar, cast

Server = TypeVar("Server", bound=socketserver.BaseServer)


class Mailbox(socketserver.ThreadingTCPServer):
    """Takes every mail: as much of RFC 5321 as smtplib speaks without TLS and passwords."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Smtp)
        self.mails: list[EmailMessage] = []
        self.recipients: list[str] = []

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class _Smtp(socketserver.StreamRequestHandler):
    server: Mailbox

    def handle(self) -> None:
        self._say("220 loopback")
        for line in self.rfile:
            command = line[:4].upper()
            if command == b"RCPT":
                self.server.recipients.append(line.decode().strip())
            elif command == b"DATA":
                self._say("354 go on")
                data = b"".join(iter(self.rfile.readline, b".\r\n"))
                self.server.mails.append(cast(EmailMessage, message_from_bytes(data, policy=policy.default)))
            self._say("221 bye" if command == b"QUIT" else "250 loopback")

    def _say(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())


class Inbox(ThreadingHTTPServer):
    """Keeps the JSON bodies of POST requests by path, and answers with ``status``."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Post)
        self.posts: list[tuple[str, Any]] = []
        self.status = 200

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class _Post(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        inbox = cast(Inbox, self.server)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        inbox.posts.append((self.path, json.loads(body)))
        self.send_response(inbox.status)
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *args: object) -> None:
        pass


class Statsd(socketserver.UDPServer):
    """Keeps the names of all metrics, as often as they come."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Packet)
        self.metrics: list[str] = []

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class _Packet(socketserver.BaseRequestHandler):
    server: Statsd

    def handle(self) -> None:
        self.server.metrics += [line.partition(":")[0] for line in self.request[0].decode().splitlines()]


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    """Serves until the block has ended."""
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
