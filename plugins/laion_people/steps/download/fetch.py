"""Fetches one URL of the open web: with limits on time, size and redirects, and never from a private address."""

from __future__ import annotations

import asyncio
import encodings.idna  # noqa: F401 - else the first look-up loads it, perhaps when no file can be opened
import errno
import ipaddress
import logging
import socket
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from io import BytesIO
from typing import Any

import aiohttp
from aiohttp.abc import ResolveResult
from yarl import URL

from laion_people import __version__
from laion_people.errors import LaionPeopleError, ShortageError, check_shortage, one_line
from laion_people.settings import Settings
from laion_people.steps.download import urls
from laion_people.steps.download.hosts import Hosts, Known, Refused, Turns, retry_after
from laion_people.steps.download.owners import PRODUCT, ROBOTS_BYTES, SAID, Robots, opted_out, text_of
from laion_people.steps.download.resolver import Resolver
from laion_people.steps.download.responses import LenientHandler

log = logging.getLogger(__name__)

MAX_REDIRECTS = 5
REDIRECTS = (301, 302, 303, 307, 308)
HEADERS = {"Accept": "image/*,*/*;q=0.8", "Accept-Encoding": "identity"}
MAX_HEADER, MAX_HEADERS = 65_536, 10_000  # bytes of one header, and their number; `responses` limits the sum
STATUS_REASONS = {404: "not_found", 410: "not_found", 408: "timeout", 429: "too_many_requests"}
ROBOTS_LIFE = 86_400.0  # seconds that a robots.txt is not asked for again (RFC 9309, 2.4)
COMPATIBLE = ipaddress.ip_network("::/96")  # RFC 4291: the last 32 bits are an IPv4 address
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: the same
KEEPALIVE = 2.0  # seconds to keep idle connections: each is an open file, and most hosts come only once
GZIP = b"\x1f\x8b"
PIECE, MAX_MEMBERS = 65_536, 10_000  # of gzip: bytes unpacked at a time, and members (files) in one body
MAX_LAYERS = 5  # as in curl: each layer takes the time of a whole body, and a header can name thousands
LOCAL_NAT64 = ipaddress.ip_network("64:ff9b:1::/48")  # RFC 8215: for use inside a network


class FetchError(Exception):
    """A URL that gave no body. ``reason`` is counted; the message says what happened; ``status`` is HTTP's, or 0."""

    def __init__(self, reason: str, message: str, status: int = 0):
        super().__init__(message)
        self.reason = reason
        self.status = status


Said = tuple[Robots | FetchError | None, str | None]  # what is known of a robots.txt (`Fetcher._read_robots`), and when


class Visit(Turns):
    """A row's fetching, in ``with``: until its end the row keeps its place. ``said`` is what owners said on the way."""

    def __init__(self, hosts: Hosts):
        super().__init__(hosts)
        self.said: dict[str, str | None] = dict.fromkeys(SAID)
        self._tags: dict[str, None] = {}
        self.heard = True  # an answer to the last request

    def asks(self) -> None:
        self.heard = False
        self.said["requested_at"] = utc_now()

    def hears(self, headers: Any) -> tuple[list[str], str]:
        """Keeps what an answer's headers say, and gives it in full: values of X-Robots-Tag, and TDM-Reservation."""
        self.heard = True
        tags, reservation = headers.getall("X-Robots-Tag", []), headers.get("TDM-Reservation", "")
        if tags:
            self._tags |= dict.fromkeys(tags)
            self.said["x_robots_tag"] = text_of(self._tags)
        if reservation:
            self.said["tdm_reservation"] = text_of([reservation])
        return tags, reservation


class Fetcher:
    """Fetches URLs over shared connections, with the limits of the settings. Use it in ``async with``.

    ``known`` is what earlier ones have learned of hosts.
    """

    def __init__(self, settings: Settings, known: Known | None = None):
        self._settings = settings
        self._known = known or Known()
        self._shortages: list[LaionPeopleError] = []
        self._unexpected: set[type[Exception]] = set()
        self._reading: dict[URL, asyncio.Task[Said]] = {}  # robots.txt under way
        if settings.respect_robots_txt:
            Robots(b"")  # a parser that is not installed is no host's fault

    async def __aenter__(self) -> Fetcher:
        # A look-up blocks its thread. With asyncio's few default threads, dead name servers would block all others.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(self._settings.url_threads))
        self._hosts = Hosts(self._settings, self._known.pauses)
        resolver = Resolver if self._settings.allow_private_addresses else PublicResolver
        self._resolver = resolver(self._known.addresses)
        connector = aiohttp.TCPConnector(
            limit=0,
            resolver=self._resolver,
            use_dns_cache=False,  # the resolver's serves all shards, and keeps failures too
            socket_factory=self._socket,
            keepalive_timeout=KEEPALIVE,
        )
        # aiohttp has no public way to set this:
        connector._factory = partial(LenientHandler, loop=asyncio.get_running_loop())  # type: ignore[assignment]
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers=HEADERS | {"User-Agent": user_agent(self._settings.contact)},
            timeout=aiohttp.ClientTimeout(total=None),  # `get` has its own
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            max_line_size=MAX_HEADER,
            max_field_size=MAX_HEADER,
            max_headers=MAX_HEADERS,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in list(self._reading.values()):
            task.cancel()
        await asyncio.gather(*self._reading.values(), return_exceptions=True)
        await self._session.close()
        await self._resolver.close()

    def visit(self) -> Visit:
        return Visit(self._hosts)

    async def get(self, url: str, visit: Visit) -> bytes:
        """The body that a URL leads to, of any kind. Waits for a place, which ``visit`` keeps.

        Raises FetchError for anything that a library raises about the URL or the answer; ShortageError if this machine
        lacks something, which says nothing about the URL.
        """
        return await self._get(url, visit, is_image=True)

    async def _get(self, url: str, visit: Visit, is_image: bool) -> bytes:
        """``is_image``: else it is a robots.txt, of which the beginning will do."""
        try:
            return await self._follow(self._checked(url), visit, is_image)
        except FetchError:
            raise
        except Refused as refused:
            raise FetchError(refused.reason, str(refused)) from None
        except TimeoutError:
            if not visit.heard:
                self._hosts.silent(visit.host, "timeout", visit.asked_at)
            raise FetchError("timeout", f"no whole answer within {self._settings.url_timeout:g} s") from None
        except Exception as error:
            if self._shortages:  # the connector tries other addresses, and reports the last one only
                raise self._shortages[0] from error
            check_shortage(error)
            reason = _reason(error)
            if not visit.heard and reason in ("connection_refused", "connection_error"):
                self._hosts.silent(visit.host, reason, visit.asked_at)
            raise FetchError(reason, self._described(error)) from error
        finally:
            visit.leave_host()

    async def _follow(self, target: URL, visit: Visit, is_image: bool) -> bytes:
        """The time limit counts from turn to turn: not while the row waits for a host."""
        loop = asyncio.get_running_loop()
        left = self._settings.url_timeout
        redirects = 0
        while redirects <= MAX_REDIRECTS:
            if is_image and self._settings.respect_robots_txt:
                await self._ask_robots(target, visit)
            await visit.turn(host_of(target))
            visit.asks()
            start = loop.time()
            async with asyncio.timeout(left), self._session.get(target, allow_redirects=False) as response:
                said = visit.hears(response.headers)
                if is_image and self._settings.respect_opt_out and opted_out(*said):
                    raise FetchError("opted_out", "the answer's headers (X-Robots-Tag, TDM-Reservation) say so")
                if not self._refused(response, visit):
                    if response.status not in REDIRECTS or "Location" not in response.headers:
                        return await self._body(response, is_image)
                    target = self._checked(response.headers["Location"], target)
                    redirects += 1
            left -= loop.time() - start
        raise FetchError("too_many_redirects", f"more than {MAX_REDIRECTS} redirects")

    def _refused(self, response: aiohttp.ClientResponse, visit: Visit) -> bool:
        """Whether the host asks to be left alone for a while: by 429, or by 503 with a Retry-After that can be read."""
        wanted = None
        if response.status in (429, 503):
            wanted = retry_after(response.headers.get("Retry-After", ""))
        if response.status != 429 and wanted is None:
            self._hosts.answered(visit.host)
            return False
        reason, why = _status_reason(response.status), f"HTTP {response.status}"
        self._hosts.refused(visit.host, reason, why, visit.asked_at, wanted or 0.0)
        return True

    async def _ask_robots(self, target: URL, visit: Visit) -> None:
        """Raises FetchError unless the host's robots.txt allows the address. It is fetched once for all rows."""
        place = target.origin()
        found: Said | None = self._known.robots.get(place)
        if found is None:
            visit.leave_host()
            visit.leave_place()
            if (task := self._reading.get(place)) is None:
                task = self._reading[place] = asyncio.create_task(self._read_robots(place))
                task.add_done_callback(lambda task: self._end_reading(place, task))
            found = await asyncio.shield(task)
        robots, asked_at = found
        if isinstance(robots, FetchError):
            visit.said |= {"robots_txt": "unreachable", "requested_at": asked_at}
            raise FetchError(robots.reason, f"{place}/robots.txt: {robots}")
        if robots and not robots.allows(target):
            visit.said |= {"robots_txt": "disallowed", "requested_at": asked_at}
            raise FetchError("robots", f"{place}/robots.txt disallows it")
        visit.said["robots_txt"] = "allowed"

    def _end_reading(self, place: URL, task: asyncio.Task[Any]) -> None:
        del self._reading[place]
        if not task.cancelled():
            task.exception()  # else asyncio complains when all who wanted to know have given up

    async def _read_robots(self, place: URL) -> Said:
        """What is remembered of a host's robots.txt: its rules, None without any, or why nothing may be asked.

        RFC 9309, 2.3.1: 4xx and too many redirects forbid nothing; everything else but a file forbids all. So does
        429, which is not about the file.
        """
        robots: Robots | FetchError | None = None
        with self.visit() as visit:
            try:
                robots = Robots(await self._get(f"{place}/robots.txt", visit, is_image=False))
            except FetchError as error:
                if not (400 <= error.status < 500 or error.reason == "too_many_redirects"):
                    robots = FetchError(error.reason, str(error))
        found = robots, visit.said["requested_at"]
        self._known.robots.put(place, found, ROBOTS_LIFE, robots.memory if isinstance(robots, Robots) else 400)
        return found

    def _described(self, error: Exception) -> str:
        """The row's message for an error. Unexpected types of errors are logged, once each."""
        if isinstance(error, aiohttp.ClientError | OSError):
            return str(error)
        text = f"{type(error).__name__}: {error}"
        if type(error) not in self._unexpected:
            self._unexpected.add(type(error))
            log.info("a row is rejected: %s (said once for all rows)", one_line(text, 200))
        return text

    def _socket(self, address: Any) -> socket.socket:
        """A socket for an address in the form of getaddrinfo."""
        with _record_shortages(self._shortages):
            connection = _Socket(*address[:3])
        connection.shortages = self._shortages
        return connection

    def _checked(self, text: str, base: URL | None = None) -> URL:
        """The address to connect to for a URL, or for a redirect from another."""
        try:
            url = urls.parse(text, base)
        except Exception as error:  # yarl raises IndexError, too: https://github.com/aio-libs/yarl/issues/1822
            check_shortage(error)
            raise FetchError("bad_url", f"{text[:200]!r}: {self._described(error)}") from error
        host = url.raw_host or ""
        # Literal addresses don't go through the resolver. aiohttp takes the following for literal. Also, the system's
        # connect() reads short forms such as http://2130706433/; `is_public` doesn't know these and refuses them.
        literal = ":" in host or host.replace(".", "").isdigit()
        if literal and not self._settings.allow_private_addresses and not is_public(host):
            raise FetchError("private_address", f"{host} is not an address of the public internet")
        return url

    async def _body(self, response: aiohttp.ClientResponse, is_image: bool) -> bytes:
        status = response.status
        if not 200 <= status < 300:
            raise FetchError(_status_reason(status), f"HTTP {status} {(response.reason or '')[:200]}", status)
        limit = self._settings.url_max_bytes if is_image else ROBOTS_BYTES
        received = BytesIO()  # gives its bytes without a copy
        if is_image and (response.content_length or 0) > limit:
            raise FetchError("too_large", f"more than {limit} bytes")
        async for chunk in response.content.iter_any():
            received.write(chunk)
            if received.tell() > limit:
                body: bytes | bytearray = received.getvalue()
                break
        else:
            body = _unpacked(received.getvalue(), response.headers.getall("Content-Encoding", ()), limit)
        if is_image and len(body) > limit:
            raise FetchError("too_large", f"more than {limit} bytes")
        return bytes(body[:limit])


class _Socket(socket.socket):
    """Records what the machine lacks, as long as this can be told apart from a wrong address."""

    shortages: list[LaionPeopleError]

    def connect(self, address: Any) -> None:
        with _record_shortages(self.shortages):
            try:
                super().connect(address)
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL and _can_be_reached(self.family, address):
                    raise ShortageError(
                        "machine-limit",
                        "no local port is left: lower LAION_PEOPLE_URL_THREADS, or widen net.ipv4.ip_local_port_range",
                    ) from error
                raise


@contextmanager
def _record_shortages(shortages: list[LaionPeopleError]) -> Iterator[None]:
    """Adds a shortage of the machine to a list: of several errors, aiohappyeyeballs keeps only the texts."""
    try:
        yield
    except BlockingIOError:  # a connection under way
        raise
    except Exception as error:
        try:
            check_shortage(error)
        except ShortageError as shortage:
            shortages.append(shortage)
        raise


def _can_be_reached(family: int, address: Any) -> bool:
    """Whether this machine has a route to the address, and an address of its own for it. Sends nothing.

    EADDRNOTAVAIL means either that there is none (for example if IPv6 is off), or that no local port is left for a
    connection. Datagrams have ports of their own: if it fails for them too, the first is the reason.
    """
    with socket.socket(family, socket.SOCK_DGRAM) as datagrams:
        try:
            datagrams.connect(address)
        except OSError:
            return False
    return True


class PublicResolver(Resolver):
    """Gives only public addresses. The connection uses exactly the addresses that were checked."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        addresses = await super().resolve(host, port, family)
        public = [address for address in addresses if is_public(address["host"])]
        if not public:
            raise FetchError(
                "private_address", f"{host} leads to {addresses[0]['host']}, which is not a public address"
            )
        return public


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet. An IPv4 address inside an IPv6 one counts as IPv4."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo or (None, None))[1]
        if ip in NAT64 or ip in COMPATIBLE:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner:
            return is_public(str(inner))
        if ip.is_site_local or ip in LOCAL_NAT64:
            return False
    return ip.is_global and not ip.is_multicast


def utc_now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def user_agent(contact: str) -> str:
    """The name of this program, with where its owner can be reached."""
    contact = f"+{contact}" if "//" in contact else contact or "data set of public images"
    return f"Mozilla/5.0 (compatible; {PRODUCT}/{__version__}; {contact})"


def host_of(url: URL) -> str:
    """The host that a request counts for."""
    return (url.raw_host or "").rstrip(".").lower()


def _unpacked(body: bytes, encodings: Sequence[str], limit: int) -> bytes | bytearray:
    """The body without gzip or deflate, which some servers send unasked; at most one byte more than the limit.

    As browsers do, it accepts several layers, several members of gzip in a row, and deflate without zlib's header. If
    the header is wrong or names another encoding, the body stays as it is.
    """
    lines = [line.lower() for line in encodings if line.strip().lower() != "identity"]
    layers = [layer.strip() for line in lines for layer in line.split(",")]
    if not set(layers) <= {"gzip", "x-gzip", "deflate"} or len(layers) > MAX_LAYERS:
        return body
    unpacked: bytes | bytearray = body
    for layer in reversed(layers):
        for wbits in (zlib.MAX_WBITS | 32, *([-zlib.MAX_WBITS] if layer == "deflate" else [])):
            try:
                unpacked = _inflated(unpacked, wbits, limit + 1)
                break
            except zlib.error:
                pass
        else:
            return unpacked  # the header was wrong
    return unpacked


def _inflated(packed: bytes | bytearray, wbits: int, most: int) -> bytearray:
    """Unpacks at most ``most`` bytes. Raises zlib.error if the body is not packed this way."""
    unpacked = bytearray()
    stream = zlib.decompressobj(wbits)
    members = 1
    for start in range(0, len(packed), PIECE):  # in pieces: at a member's end zlib copies all that follows
        piece = bytes(packed[start : start + PIECE])
        while piece and len(unpacked) < most:
            if stream.eof:
                stream = zlib.decompressobj(wbits)
                members += 1
            before = stream.copy()
            try:
                unpacked += stream.decompress(piece, most - len(unpacked))
            except zlib.error:
                if packed.startswith(GZIP):  # browsers ignore its checksum
                    unpacked += _until_error(before, piece, most - len(unpacked))
                if not unpacked or (members == 1 and not packed.startswith(GZIP)):
                    raise
                return unpacked  # what follows is padding
            if members > MAX_MEMBERS:
                return unpacked
            piece = stream.unused_data
    return unpacked


def _until_error(stream: zlib._Decompress, packed: bytes, most: int) -> bytearray:
    """The bytes that a damaged piece gives before its error, at most ``most``."""
    unpacked = bytearray()
    for at in range(len(packed)):
        if len(unpacked) == most:
            break
        try:
            unpacked += stream.decompress(packed[at : at + 1], most - len(unpacked))
        except zlib.error:
            break
    return unpacked


def _status_reason(status: int) -> str:
    return STATUS_REASONS.get(status, "server_error" if 500 <= status < 600 else "http_error")


def _reason(error: Exception) -> str:
    match error:
        case aiohttp.InvalidURL():
            return "bad_url"
        case aiohttp.ClientConnectorDNSError():
            return "dns"
        case aiohttp.ClientSSLError():
            return "tls_error"
        case aiohttp.ClientConnectorError() if error.os_error.errno == errno.ECONNREFUSED:
            return "connection_refused"
        case aiohttp.ClientConnectionError() | aiohttp.ClientPayloadError() | OSError():
            return "connection_error"
        case ValueError():
            return "bad_url"  # no host name or user has this form
        case _:
            return "http_error"  # the answer cannot be read, and a retry will not help
