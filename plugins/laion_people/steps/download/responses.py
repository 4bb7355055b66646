"""Reads heads of HTTP answers as browsers do: ignores malformed lines that say nothing about the body.

aiohttp's parser refuses such answers and has no setting for it (https://github.com/aio-libs/aiohttp/issues/262,
https://github.com/aio-libs/aiohttp/pull/6182). Therefore heads are corrected before the parser sees them.
"""

from __future__ import annotations

import re
from typing import Any

from aiohttp.client_proto import ResponseHandler

MAX_HEAD = 262_144  # bytes, as in Chromium
MAX_INTERIM = 20  # heads of 1xx before the final one
BEGIN = b"HTTP/"
END = re.compile(rb"\n\r?\n")
WITHOUT_BODY = re.compile(rb"HTTP/\d\.\d +(204|304)\b", re.IGNORECASE)
CONTENT_LENGTH = re.compile(rb"\ncontent-length:[ \t]*(\d{1,18})[ \t]*\r?\n", re.IGNORECASE)
INTERIM = re.compile(rb"HTTP/\d\.\d +1(?!01)\d\d\b", re.IGNORECASE)
STATUS_LINE = re.compile(rb"HTTP/(\d\.\d)(.*)", re.IGNORECASE | re.DOTALL)
NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
LENGTH, CODING = b"content-length", b"transfer-encoding"
FIELDS = rb"(?:(?!(?i:%b|%b))%b:[^\r\n]*\r\n)*+" % (LENGTH, CODING, NAME.pattern)
FRAMING = rb"(?i:%b: *\d{1,18}|%b: *chunked)\r\n" % (LENGTH, CODING)
SOUND = re.compile(rb"HTTP/1\.[01] [^\r\n]*\r\n%b(?:%b%b)?+\r\n" % (FIELDS, FRAMING, FIELDS))  # nearly all heads match


class LenientHandler(ResponseHandler):
    """A connection that gives the parser the corrected head of each answer, in one piece.

    A head that is too long or no HTTP is passed on as it comes, and the parser says what is wrong. If the head gives
    the body's length, bytes beyond it are dropped: the parser would take them for another answer, and refuse both.
    """

    _head: bytearray | None = None  # the part that has arrived, until the head is whole
    _interim = 0
    _left: int | None = None  # bytes of the body still to come, if known

    def set_response_params(self, **params: Any) -> None:
        self._head, self._interim, self._left = bytearray(), 0, None
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        while self._head is not None and data:
            before = len(self._head)
            self._head += data if before else data.lstrip(b"\r\n")
            begin = bytes(self._head[: len(BEGIN)])
            end = END.search(self._head, max(before - 3, 0))
            if not BEGIN.startswith(begin.upper()) or (not end and len(self._head) > MAX_HEAD):
                self._pass_on()
                return
            if not end:
                return
            head, data = mended(bytes(self._head[: end.end()])), bytes(memoryview(self._head)[end.end() :])
            self._interim += 1
            if INTERIM.match(head) and self._interim <= MAX_INTERIM:
                self._head = bytearray()
                super().data_received(head)
                if not data:
                    return
            else:
                self._head, self._left = None, body_length(head)
                super().data_received(head + self._body(data))
                return
        if not data or (data := self._body(data)):
            super().data_received(data)

    def _body(self, data: bytes) -> bytes:
        if self._left is None:
            return data
        body = data[: self._left]
        self._left -= len(body)
        if len(body) < len(data):
            self.force_close()
        return body

    def connection_lost(self, exc: BaseException | None) -> None:
        self._pass_on()
        super().connection_lost(exc)

    def _pass_on(self) -> None:
        head, self._head = self._head, None
        if head:
            super().data_received(bytes(head))


def body_length(head: bytes) -> int | None:
    """The length of the body that follows a mended head, if the head gives it."""
    if WITHOUT_BODY.match(head):
        return 0
    length = CONTENT_LENGTH.search(head)
    return int(length[1]) if length else None


def mended(head: bytes) -> bytes:
    """A head, with the empty line that ends it, in a form that aiohttp's parser accepts; unchanged if browsers refuse
    it, too.

    Drops lines that are no ``name: value``, a length that is no number, and the length of a body that comes in chunks.
    Equal lengths count once.
    """
    if SOUND.fullmatch(head):
        return head
    status, *lines = [line.rstrip(b"\r") for line in head.rstrip(b"\r\n").split(b"\n")]
    if match := STATUS_LINE.fullmatch(status):  # 1.2 and similar are read as 1.1
        status = b"HTTP/%b%b" % (b"1.1" if b"1.1" < match[1] < b"2" else match[1], match[2])
    unfolded: list[tuple[bytes, bytearray]] = []
    named = False
    for line in lines:
        if line[:1] in (b" ", b"\t"):  # continues the line before
            if named:
                unfolded[-1][1].extend(line)
            continue
        name, colon, value = line.partition(b":")
        name = name.rstrip(b" \t")
        if named := bool(colon and NAME.fullmatch(name)):
            unfolded.append((name, bytearray(value)))
    fields = [(name, bytes(value)) for name, value in unfolded]
    kept = [field for field in fields if field[0].lower() not in (LENGTH, CODING)]
    codings = [field for field in fields if field[0].lower() == CODING]
    lengths = [field for field in fields if field[0].lower() == LENGTH]
    values = {value.strip() for _, listed in lengths for value in listed.split(b",")}
    if any(coding.strip().lower() == b"chunked" for _, value in codings for coding in value.split(b",")):
        kept += codings
    elif len(values) > 1:
        kept += lengths
    else:
        kept += [(LENGTH, value) for value in values if re.fullmatch(rb"\d{1,18}", value)]
    return b"\r\n".join([status, *(b"%b:%b" % field for field in kept), b"", b""])
