"""Fetches one URL of the open web: bounded in time, size and redirects, and never from a private address."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import re
import socket
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
from aiohttp.abc import ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from laion_people import __version__
from laion_people.settings import Settings

MAX_REDIRECTS = 5
REDIRECTS = (301, 302, 303, 307, 308)
HEADERS = {
    "User-Agent": f"Mozilla/5.0 (compatible; laion-people/{__version__}; data set of public images)",
    "Accept": "image/*,*/*;q=0.8",
    "Accept-Encoding": "identity",
}
STATUS_REASONS = {404: "not_found", 410: "not_found", 408: "timeout", 429: "too_many_requests"}
# X-Robots-Tag: [user agent:] directive, ... A directive counts whichever agent it names.
OPT_OUT = re.compile(r"(?:^|[,:])\s*(?:noai|noimageai|noml)\s*(?:,|$)", re.IGNORECASE)
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address
LOCAL_NAT64 = ipaddress.ip_network("64:ff9b:1::/48")  # RFC 8215: a network's own


class FetchError(Exception):
    """A URL that gave no body: ``reason`` is what is counted, the message says what happened."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


class Fetcher:
    """Fetches URLs over shared connections, within ``async with``, by the settings' limits."""

    def __init__(self, settings: Settings):
        self._settings = settings

    async def __aenter__(self) -> Fetcher:
        # A look-up blocks its thread: with asyncio's few default threads, dead name servers would stop all others.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(self._settings.url_threads))
        resolver = ThreadedResolver() if self._settings.allow_private_addresses else PublicResolver()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, resolver=resolver),
            headers=HEADERS,
            timeout=aiohttp.ClientTimeout(total=None),  # `get` has its own
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def get(self, url: str) -> bytes:
        """The body that a URL leads to, whatever it is. Raises FetchError."""
        try:
            async with asyncio.timeout(self._settings.url_timeout):
                return await self._follow(url)
        except TimeoutError:
            raise FetchError("timeout", f"no whole answer within {self._settings.url_timeout:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise FetchError(_reason(error), str(error)) from error

    async def _follow(self, url: str) -> bytes:
        target = self._checked(URL(url))
        for _ in range(MAX_REDIRECTS + 1):
            async with self._session.get(target, allow_redirects=False) as response:
                if self._settings.respect_opt_out and opted_out(response.headers):
                    raise FetchError("opted_out", "the answer's headers reserve the image against use for AI")
                if response.status not in REDIRECTS or "Location" not in response.headers:
                    return await self._body(response)
                target = self._checked(target.join(URL(response.headers["Location"])))
        raise FetchError("too_many_redirects", f"more than {MAX_REDIRECTS} redirects")

    def _checked(self, url: URL) -> URL:
        host = url.raw_host or ""
        if url.scheme not in ("http", "https") or not host:
            raise FetchError("bad_url", f"not an HTTP address: {url}")
        # Literal addresses do not go through the resolver; aiohttp takes these for literal and the system's connect()
        # reads short forms such as http://2130706433/ as addresses too, which `is_public` does not know and refuses.
        literal = ":" in host or host.replace(".", "").isdigit()
        if literal and not self._settings.allow_private_addresses and not is_public(host):
            raise FetchError("private_address", f"{host} is not an address of the public internet")
        return url

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        if response.status >= 300:
            other = "server_error" if response.status >= 500 else "http_error"
            raise FetchError(STATUS_REASONS.get(response.status, other), f"HTTP {response.status} {response.reason}")
        limit = self._settings.url_max_bytes
        body = bytearray()
        if (response.content_length or 0) <= limit:
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > limit:
                    break
            else:
                body = _inflated(body, response, limit)
                if len(body) <= limit:
                    return bytes(body)
        raise FetchError("too_large", f"more than {limit} bytes")


class PublicResolver(ThreadedResolver):
    """Gives only public addresses. The connection is made to the very addresses that were checked."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await super().resolve(host, port, family)
        public = [address for address in found if is_public(address["host"])]
        if not public:
            raise FetchError("private_address", f"{host} leads to {found[0]['host']}, which is not a public address")
        return public


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet; IPv4 addresses inside IPv6 ones count as themselves."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo or (None, None))[1]
        if ip in NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner:
            return is_public(str(inner))
        if ip.is_site_local or ip in LOCAL_NAT64:
            return False
    return ip.is_global and not ip.is_multicast


def opted_out(headers: Any) -> bool:
    """Whether the owner reserves an image by X-Robots-Tag (noai, noimageai, noml) or TDM-Reservation (W3C TDMRep)."""
    return headers.get("TDM-Reservation", "").strip() == "1" or any(
        OPT_OUT.search(value) for value in headers.getall("X-Robots-Tag", ())
    )


def _inflated(body: bytearray, response: aiohttp.ClientResponse, limit: int) -> bytearray:
    """The body without the gzip or deflate that some servers send unasked, to one byte more than the limit."""
    if response.headers.get("Content-Encoding", "identity").lower() not in ("gzip", "x-gzip", "deflate"):
        return body
    try:
        return bytearray(zlib.decompressobj(wbits=zlib.MAX_WBITS | 32).decompress(body, limit + 1))
    except zlib.error:
        return body  # the header was wrong


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
        case aiohttp.ClientError() | OSError():
            return "connection_error"
        case _:
            return "bad_url"  # ValueError: yarl cannot parse it, or no host name can look like that
