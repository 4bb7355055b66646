"""Fetching from the open web: any URL and any answer gives a body or a reason, and nothing else."""

from __future__ import annotations

import asyncio
import errno
import gzip
import os
import random
import resource
import socket
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest

from laion_people.errors import ShortageError, check_shortage
from laion_people.settings import Settings
from laion_people.steps.download.fetch import Fetcher, FetchError
from laion_people.steps.download.responses import mended
from laion_people.steps.download.urls import parse

LOOPBACK = Settings(allow_private_addresses=True, url_timeout=2.0, url_max_bytes=100_000, url_wait=0.0)
BODY = bytes(range(256)) * 20


@asynccontextmanager
async def raw_server(answer: Callable[[str], bytes]) -> AsyncIterator[tuple[str, list[str]]]:
    """Sends ``answer(request target)`` byte for byte, and hangs up. Gives its URL and the requested targets."""
    targets: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        targets.append((await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode("latin-1"))
        writer.write(answer(targets[-1]))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", targets
    finally:
        server.close()


def ok(*headers: bytes | str, body: bytes = BODY, status: bytes = b"HTTP/1.1 200 OK") -> bytes:
    lines = [h.encode("latin-1") if isinstance(h, str) else h for h in headers]
    return b"\r\n".join([status, *lines, b"", body])


def outcome(answer: bytes, settings: Settings = LOOPBACK) -> bytes | str:
    """The body of an answer, or the reason why there is none."""

    async def get() -> bytes | str:
        async with raw_server(lambda _: answer) as (url, _), Fetcher(settings) as fetcher:
            try:
                return await get_body(fetcher, url)
            except FetchError as error:
                return error.reason

    return asyncio.run(get())


async def get_body(fetcher: Fetcher, url: str) -> bytes:
    with fetcher.visit() as visit:
        return await fetcher.get(url, visit)


def fetched(url: str, settings: Settings = LOOPBACK) -> bytes:
    async def get() -> bytes:
        async with Fetcher(settings) as fetcher:
            return await get_body(fetcher, url)

    return asyncio.run(get())


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("http://h/w%2Ch/a.jpg?type=image%2Fjpeg&sig=a%2Bb%3D%3d", "/w%2Ch/a.jpg?type=image%2Fjpeg&sig=a%2Bb%3D%3d"),
        ("http://h/a+b,c;d=e:f@g!$&'()*~/%7e?a[]=b|c\\d", "/a+b,c;d=e:f@g!$&'()*~/%7e?a[]=b|c\\d"),
        ("http://h/100%/%zz/a?x=%", "/100%/%zz/a?x=%"),
        ("http://h/é b/\"<>`{}^?é '\"<>`{}^", "/%C3%A9%20b/%22%3C%3E%60%7B%7D%5E?%C3%A9%20%27%22%3C%3E`{}^"),
        ("http://h/\x01\x7f\u2028", "/%01%7F%E2%80%A8"),
        (" \t http://h/a\tb\r\nc.jpg \x00", "/abc.jpg"),
        ("http:\\\\h\\a\\b.jpg", "/a/b.jpg"),
        ("http://h/a/./b/../c/%2E%2e/d//e/.", "/a/d//e/"),
        ("http://h/a.jpg#part", "/a.jpg"),
        ("http://h/a?", "/a?"),
        ("http://h?x", "/?x"),
        ("HTTP:h", "/"),
    ],
)  # fmt: skip
def test_what_is_asked_for_is_quoted_as_browsers_do_and_what_is_quoted_already_stays(text: str, target: str) -> None:
    assert parse(text).raw_path_qs == target


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("plain", "http://h.org/a%2Fb/plain"),
        ("/%2C?sig=a%2Bb", "http://h.org/%2C?sig=a%2Bb"),
        ("//i.org/x", "http://i.org/x"),
        ("?y=%2C", "http://h.org/a%2Fb/c.jpg?y=%2C"),
        ("", "http://h.org/a%2Fb/c.jpg?x=1"),
        ("#x", "http://h.org/a%2Fb/c.jpg?x=1"),
        ("http:d.jpg", "http://h.org/a%2Fb/d.jpg"),
        ("https:i.org/d.jpg", "https://i.org/d.jpg"),
        ("../../..\\d.jpg", "http://h.org/d.jpg"),
        ("/\udce9-plain", "http://h.org/%E9-plain"),  # a byte E9 that is no UTF-8
    ],
)
def test_redirects_lead_where_browsers_go(location: str, url: str) -> None:
    assert str(parse(location, parse("http://h.org/a%2Fb/c.jpg?x=1"))) == url


def test_the_exact_bytes_of_a_url_and_of_a_location_are_asked_for() -> None:
    places = {b"/p%2Cq?sig=a%2Bb%2F": b"/\xe9/%2c?x=%3A", b"/%E9/%2c?x=%3A": "/é".encode()}

    def answer(target: str) -> bytes:
        place = places.get(target.encode())
        return ok(b"Location: " + place, status=b"HTTP/1.1 302 x") if place else ok()

    async def get() -> list[str]:
        async with raw_server(answer) as (url, targets), Fetcher(LOOPBACK) as fetcher:
            assert await get_body(fetcher, f"{url}/p%2Cq?sig=a%2Bb%2F#part") == BODY
            return targets

    assert asyncio.run(get()) == ["/p%2Cq?sig=a%2Bb%2F", "/%E9/%2c?x=%3A", "/%C3%A9"]


NO_ADDRESS = (
    *("http://[]@/", "http://[x]y@", "http://[v1]:1@/", "http://[@/", "http://a[v1]@", "http://[::1", "http://]/"),
    *("http://", "http:///", "http:?x", "http://@/", "http://a@/", "http://a b/", "http://a%20b/", "http://a%00b/"),
    *("http://h:a/", "http://h:65536/", "http://h:-1/", "http://h:1:2/", "http://h\ud800/", "http://h/\ud800"),
    *("http://\u00ad/", "http://\u202e.org/", "http://%ff.org/", "http://h|/", f"http://{'a' * 64}.org/", "ftp://h/a"),
    f"http://{'ä.' * 1000}org/",
    *("http://[v1.x]/", "http://[fe80::1%25lo]/", "http://[::1%lo]/", "http://[1.2.3.4]/", "http://[x]/"),
    *("file:///etc/passwd", "data:image/png;base64,aaaa", "javascript:0", "//h/a.jpg", "h/a.jpg", ""),
)


@pytest.mark.parametrize("url", NO_ADDRESS)
def test_a_url_that_cannot_be_read_is_a_bad_url(url: str, no_name_server: None) -> None:
    with pytest.raises(FetchError) as caught:
        fetched(url)
    assert caught.value.reason == "bad_url"


@pytest.mark.parametrize(
    "url", ["http://[]@/", "http://[a]b@", "http://h:a/", "https://", "//\udce9/", "ftp://h/", "//"]
)
def test_a_redirect_that_cannot_be_read_is_a_bad_url(url: str, no_name_server: None) -> None:
    location = url.encode(errors="surrogateescape")
    assert outcome(ok(b"Location: " + location, status=b"HTTP/1.1 302 x")) == "bad_url"


@pytest.fixture
def no_name_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """No name is known. The look-up itself refuses text that cannot be a name."""
    known = socket.getaddrinfo

    def look_up(host: str, *arguments: object, **options: object) -> object:
        if host in ("127.0.0.1", "localhost"):
            return known(host, *arguments, **options)  # type: ignore[arg-type]
        host.encode("idna")
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "%31%32%37.0.0.1", "%6cocalhost", "１２７.0.0.1", "①②⑦.0.0.1", "127。0。0。1", "127.0.0.1."),
        "localhost.",
        *("user:password@127.0.0.1", "example.org@127.0.0.1", "[::1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:127.0.0.1]"),
        *("0x7f000001", "0177.0.0.1", "2130706433", "127.1", "[64:ff9b::7f00:1]", "169.254.169.254", "[fe80::1%25lo]"),
        *("/127.0.0.1", "\\127.0.0.1", "\t127.0.0.1", "127.0.0.1\\@example.org"),
    ],
)  # fmt: skip
def test_no_spelling_of_a_host_leads_inside(host: str) -> None:
    async def get() -> list[str]:
        async with raw_server(lambda _: ok()) as (url, targets), Fetcher(Settings(url_timeout=2.0)) as fetcher:
            port = url.rpartition(":")[2]
            at = host.find("\\@")
            name = host if at < 0 else host[:at]
            for address in (f"http://{name}:{port}{host[len(name) :]}/a.jpg", f"http:{name}:{port}/a.jpg"):
                with pytest.raises(FetchError) as caught:
                    await get_body(fetcher, address)
                assert caught.value.reason in ("private_address", "bad_url", "dns")
            return targets

    assert asyncio.run(get()) == []


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


LENGTH = f"Content-Length: {len(BODY)}"


@pytest.mark.parametrize(
    "answer",
    [
        *(ok(LENGTH, "X-A: " + "a" * n) for n in (9_000, 20_000, 60_000)),
        ok(LENGTH, *(f"X-{i}: a" for i in range(1500))),
        ok(LENGTH, LENGTH),
        ok(f"Content-Length: {len(BODY)}, {len(BODY)}"),
        ok(LENGTH, "Transfer-Encoding: chunked", body=chunked(BODY)),
        ok("Transfer-Encoding: chunked", LENGTH, body=chunked(BODY)),
        *(ok(LENGTH, f"Transfer-Encoding: {coding}") for coding in ("identity", "xchunked")),
        *(ok(f"Content-Length: {wrong}") for wrong in ("abc", "-1", "+5", "", "5;x", "9" * 30)),
        *(ok(LENGTH, body=BODY + more) for more in (b"\n", b"<!-- made by a cache -->", BODY, b"\0" * 100_000)),
        *(ok(line, LENGTH) for line in ("X-A : b", "no colon", ": b", "P3P Header: b", "X@(): a", " b", "X: a\x01")),
        *(ok(LENGTH, line, " folded", "X: y") for line in ("X-A: b", "no colon")),
        ok(LENGTH, status=b"HTTP/1.2 200 OK"),
        ok(LENGTH, status=b"http/1.1 200"),
        ok(LENGTH, status=b"\r\nHTTP/1.1 200 \xff\xfe"),
        ok(LENGTH).replace(b"\r\n", b"\n", 2),
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink\r\n\r\n" + ok(LENGTH),
        ok(body=BODY, status=b"HTTP/1.0 200 OK"),
    ],
)  # fmt: skip
def test_heads_that_browsers_take_are_taken(answer: bytes) -> None:
    assert outcome(answer) == BODY


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (ok(LENGTH, "Content-Length: 5"), "http_error"),
        (ok(LENGTH, "X-A: a\0b"), "http_error"),
        (ok("Transfer-Encoding: chunked", body=b"zz\r\nx\r\n0\r\n\r\n"), "http_error"),
        (ok(LENGTH, "X-A: " + "a" * 400_000), "http_error"),
        (ok(LENGTH, status=b"ICY 200 OK"), "http_error"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "http_error"),
        (b"<html>", "http_error"),
        *((ok(LENGTH, status=b"HTTP/1.1 %d x" % code), "http_error") for code in (101, 300, 304, 418, 600, 999)),
        (ok(LENGTH, status=b"HTTP/1.1 599 x"), "server_error"),
        (b"HTTP/1.1 100 x\r\n\r\n" * 3000, "connection_error"),
        (b"HTTP/1.1 200 OK\r\nX-A: a\r\n", "connection_error"),
        (ok(LENGTH, body=BODY[:9]), "connection_error"),
    ],
)  # fmt: skip
def test_answers_that_will_be_no_better_another_time_are_lasting_errors(answer: bytes, reason: str) -> None:
    assert outcome(answer) == reason


def test_a_body_is_as_long_as_its_head_says() -> None:
    assert outcome(ok("Content-Length: 2")) == BODY[:2]
    assert outcome(ok("Content-Length: 0")) == b""


def test_a_head_in_small_pieces_is_the_same_head() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for byte in ok(LENGTH, LENGTH, "no colon"):
            writer.write(bytes([byte]))
            if byte in b"\r\n:":
                await asyncio.sleep(0.001)
        writer.close()

    async def get() -> bytes:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server, Fetcher(LOOPBACK) as fetcher:
            return await get_body(fetcher, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")

    assert asyncio.run(get()) == BODY


def test_a_head_without_faults_stays_as_it_is() -> None:
    head = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 5\r\nX-A:\r\n\r\n"
    assert mended(head) is head


def test_a_line_may_go_on_as_often_as_a_head_has_room_for() -> None:
    head = mended(b"HTTP/1.1 200 OK\r\nX-A: a" + b"\n b" * 10_000 + b"\n\n")
    assert head == b"HTTP/1.1 200 OK\r\nX-A: a" + b" b" * 10_000 + b"\r\n\r\n"


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("coding", "sent"),
    [
        ("gzip", gzip.compress(BODY)),
        ("GZIP", gzip.compress(BODY)),
        ("deflate", zlib.compress(BODY)),
        ("deflate", raw_deflate(BODY)),
        ("gzip", gzip.compress(BODY[:9]) + gzip.compress(b"") + gzip.compress(BODY[9:])),
        ("gzip", gzip.compress(BODY) + bytes(100)),
        ("gzip", gzip.compress(BODY)[:-8] + b"checksum"),
        ("gzip, gzip", gzip.compress(gzip.compress(BODY))),
        ("deflate,gzip", gzip.compress(raw_deflate(BODY))),
        ("gzip, gzip", gzip.compress(BODY)),
        ("gzip", BODY),
        ("deflate", BODY),
        ("br", BODY),
        ("aws-chunked", BODY),
    ],
)
def test_bodies_are_unpacked_as_browsers_do(coding: str, sent: bytes) -> None:
    assert outcome(ok(f"Content-Encoding: {coding}", body=sent)) == BODY


def test_more_layers_than_anybody_packs_are_left_as_they_are() -> None:
    """Each takes the time of a whole body, and blocks all other requests."""
    sent = BODY
    for _ in range(6):
        sent = gzip.compress(sent)
    assert outcome(ok("Content-Encoding: " + ",".join(["gzip"] * 6), body=sent)) == sent


def test_what_unpacks_to_more_than_the_limit_is_too_large() -> None:
    bomb = gzip.compress(bytes(10_000_000))
    for coding, sent in (("gzip", bomb), ("gzip, gzip", gzip.compress(bomb)), ("gzip", gzip.compress(b"x" * 9) + bomb)):
        assert outcome(ok(f"Content-Encoding: {coding}", body=sent)) == "too_large"
    members = gzip.compress(b"") * 4_000
    assert outcome(ok("Content-Encoding: gzip", body=members)) == b""


@contextmanager
def no_more_files() -> Iterator[None]:
    """As under ``ulimit -n``: no more files can be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []
    first = os.dup(0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (first + 20, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                held.append(os.dup(0))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for file in [first, *held]:
            os.close(file)


async def shortage_of(work: Awaitable[bytes]) -> str:
    with pytest.raises(ShortageError) as caught:
        await work
    return str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "does-not-exist.invalid"])
def test_too_many_open_files_are_not_the_webs_fault(host: str) -> None:
    async def get() -> str:
        async with Fetcher(LOOPBACK) as fetcher:
            with no_more_files():
                return await shortage_of(get_body(fetcher, f"http://{host}:9/"))

    assert "raise `ulimit -n`" in asyncio.run(get())


@pytest.mark.parametrize("addresses", [1, 2])  # with several, the connector keeps only the errors' texts
@pytest.mark.parametrize(
    ("code", "advice"),
    [(errno.ENOBUFS, "URL_THREADS"), (errno.ENOMEM, "memory"), (errno.EADDRNOTAVAIL, "ip_local_port")],
)
def test_a_connection_that_this_machine_cannot_make_is_its_shortage(
    code: int, advice: str, addresses: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_streams(monkeypatch, code)
    infos = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{n}", 9)) for n in range(1, addresses + 1)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: infos)

    async def get() -> str:
        async with Fetcher(LOOPBACK) as fetcher:
            return await shortage_of(get_body(fetcher, "http://localhost:9/"))

    assert advice in asyncio.run(get())


def test_an_address_that_no_machine_could_connect_to_is_the_rows_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def datagrams_connect(address: object) -> None:
        raise OSError(errno.EADDRNOTAVAIL, "as where IPv6 is off")

    refuse_streams(monkeypatch, errno.EADDRNOTAVAIL, datagrams_connect)
    for url in ("http://127.0.0.1:9/", "http://[::1]:9/"):
        with pytest.raises(FetchError) as caught:
            fetched(url)
        assert caught.value.reason == "connection_error"


@pytest.mark.parametrize("host", ["0.0.0.0:0", "255.255.255.255", "224.0.0.1", "[ff02::1]", "[fe80::1]", "[::]:0"])
def test_odd_addresses_are_the_rows_fault(host: str) -> None:
    with pytest.raises(FetchError) as caught:
        fetched(f"http://{host}/", Settings(allow_private_addresses=True, url_timeout=0.5))
    assert caught.value.reason in ("connection_error", "connection_refused", "timeout")


def refuse_streams(
    monkeypatch: pytest.MonkeyPatch, code: int, datagrams_connect: Callable[[object], None] = lambda _: None
) -> None:
    def connect(self: socket.socket, address: object) -> None:
        if self.type == socket.SOCK_STREAM:
            raise OSError(code, os.strerror(code))
        datagrams_connect(address)

    monkeypatch.setattr(socket.socket, "connect", connect, raising=False)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOSPC, "full"),
        OSError(errno.EFBIG, "File too large"),
        OSError(errno.ENFILE, "files"),
        RuntimeError("can't start new thread"),
    ],
)
def test_what_the_machine_lacks_is_told_through_errors_that_hide_it(error: Exception) -> None:
    try:
        try:
            raise error
        except Exception:
            raise ValueError("no image") from None
    except ValueError as hidden:
        with pytest.raises(ShortageError):
            check_shortage(hidden)
    check_shortage(ValueError("no image"))


PIECES = (
    *(b"\r\n", b"\n", b"\0", b": ", b"chunked", b"gzip", b"-1", b"99999999999999999999", b"Content-Encoding: \xff\r\n"),
    *(b"Transfer-Encoding: chunked\r\n", b"Location: ", b"http://[", b"http://\xff/", b"//", b"?#@:", b"\xe2\x80\xae"),
    *(b"Location: http://[]@/\r\n", b"Location: http://xn--/\r\n", b"Location: http://%zz/\r\n", b"X" * 9000),
    *(
        b"Connection: upgrade\r\nUpgrade: x\r\n",
        b"Content-Length: \r\n",
        b"TDM-Reservation: \xff\r\n",
        b"101",
        b" 100 ",
    ),
)
ANSWERS = (
    ok("Content-Length: 5", body=b"hello"),
    ok("Transfer-Encoding: chunked", body=chunked(b"hello")),
    ok("Content-Encoding: gzip", body=gzip.compress(b"hello" * 50)),
    ok("Content-Encoding: deflate", body=raw_deflate(b"hello" * 50)),
    ok("Location: //h\xe9.example/\xff", status=b"HTTP/1.1 302 Found"),
    ok("Location: /x", status=b"HTTP/1.1 302 Found"),
    b"HTTP/1.1 100 Continue\r\n\r\n" + ok("X-Robots-Tag: noindex"),
    ok("Upgrade: websocket", "Connection: Upgrade", status=b"HTTP/1.1 101 x"),
    b"ICY 200 OK\r\n\r\n",
)
HOSTS = (
    *("127.0.0.1", "localhost", "[::1]", "é", "\u2024", "。", "\u00ad", "xn--", "..", "", "%00", "a b", "*", "１", "ß"),
    *("\ud800", "[v1]", "[", "]", "@", "a@b@", "::", "0", "a_b", "\x7f", "x" * 300, "a." * 130),
)


def mutated(answer: bytes, random: random.Random) -> bytes:
    data = bytearray(answer)
    for _ in range(random.choice((0, 1, 1, 2, 4, 8))):
        place = random.randrange(len(data) + 1)
        match random.randrange(4):
            case 0 if data:
                data[place % len(data)] = random.randrange(256)
            case 1:
                data[place:place] = random.choice(PIECES)
            case 2:
                del data[place : place + random.choice((1, 2, 5, 20))]
            case _:
                line = data.find(b"\n") + 1
                data[line:line] = random.choice(PIECES) + b"\r\n"
    return bytes(data)


def any_url(random: random.Random) -> str:
    ports = ("", ":0", ":1", ":65536", ":-1", ":a", ":", "::80", ":٣")
    ends = ("", "/", "/%", "/\ud800", "/é", "/\0", "?", "#", "/ ", "\\", "/..", "/{}", "/\u2028")
    starts = ("http://", "https://", "HTTP:", "http:/", "http:///", "//", "", " http://", "http://u:p@", "http://[@")
    url = random.choice(starts) + random.choice(HOSTS) + random.choice(ports) + random.choice(ends)
    place = random.randrange(len(url) + 1)
    odd = random.choice(("", "", "\0", "\t", " ", "#", "%", "/", ":", "?", "@", "[", "]", "\u2028", "\uff0e", "\udfff"))
    return url[:place] + odd + url[place:]


def test_any_url_and_any_answer_ends_as_a_body_or_a_reason(no_name_server: None) -> None:
    chance = random.Random(9)
    answers = {f"/{n}": mutated(chance.choice(ANSWERS), chance) for n in range(1000)}
    urls = [any_url(chance) for _ in range(1000)]
    settings = Settings(allow_private_addresses=True, url_timeout=1.0, url_threads_per_host=50, url_wait=0.0)
    seen: Counter[str] = Counter()

    async def get_all() -> None:
        async with raw_server(lambda target: answers.get(target, ok())) as (base, _), Fetcher(settings) as fetcher:

            async def get(url: str) -> None:
                try:
                    await get_body(fetcher, url)
                    seen["body"] += 1
                except FetchError as error:
                    seen[error.reason] += 1

            everything = [*(base + target for target in answers), *urls]
            for start in range(0, len(everything), 50):
                await asyncio.gather(*map(get, everything[start : start + 50]))

    asyncio.run(get_all())
    assert seen.total() == 2000
    assert min(seen["body"], seen["http_error"], seen["bad_url"]) > 100, seen
    assert seen["timeout"] < 20, seen
