"""URLs as browsers read them (https://url.spec.whatwg.org): what they ask for is what a signature was made of.

Only what no request may hold is quoted, and what is quoted already stays so. Libraries quote anew, ``%2C`` of a query
as ``,`` for one, and the server of a signed URL refuses (https://github.com/aio-libs/aiohttp/issues/7222).
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import unquote

from yarl import URL

AROUND = "".join(map(chr, range(0x21)))  # control characters and spaces before and after a URL
REMOVED = re.compile(r"[\t\r\n]+")  # and these anywhere
SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):(.*)", re.IGNORECASE | re.DOTALL)
NOT_IN_PATHS = re.compile(r"[^!$-;=@-\]_a-z|~]+")
NOT_IN_QUERIES = re.compile(r"[^!$-&(-;=?-~]+")
LONGEST_HOST = 1000  # characters, port included; names have 253 at most, and IDNA takes its time
NOT_IN_HOSTS = re.compile(r"[\x00-\x20#/<>?@\\^|%\x7f]")


def parse(text: str, base: URL | None = None) -> URL:
    """The address that a URL means, or a redirect from ``base``; the fragment is dropped.

    Bytes that were no UTF-8 should be in ``text`` as Python's surrogateescape has them. The request target stands in
    the result's ``raw_path``, query included: yarl would drop a ``?`` that nothing follows. Raises ValueError for what
    is no HTTP address, and what yarl raises for hosts, whatever that is.
    """
    text = REMOVED.sub("", text.strip(AROUND)).partition("#")[0]
    scheme, rest = base.scheme if base else "", text
    if match := SCHEME.match(text):
        scheme, rest = match[1].lower(), match[2]
    if scheme not in ("http", "https"):
        raise ValueError("not an HTTP address")
    before, mark, query = rest.partition("?")
    before = before.replace("\\", "/")
    if base and scheme == base.scheme and not before.startswith("//"):  # relative, be it with a scheme: http:a.jpg
        authority, (base_path, base_mark, base_query) = base, base.raw_path.partition("?")
        if not before:
            path = base_path
            mark, query = (mark, query) if mark else (base_mark, base_query)
        else:
            path = before if before[0] == "/" else f"{base_path.rpartition('/')[0]}/{before}"
    else:
        host, _, path = before.lstrip("/").partition("/")
        authority, path = _authority(scheme, host), f"/{path}"
    target = _without_dots(NOT_IN_PATHS.sub(_quoted, path)) + mark + NOT_IN_QUERIES.sub(_quoted, query)
    return authority.with_path(target, encoded=True)


def _authority(scheme: str, text: str) -> URL:
    """User, host and port; hosts are those that yarl makes of them (IDNA), once unquoted."""
    user, at, host = text.rpartition("@")
    if host.startswith("["):
        if ipaddress.IPv6Address(host[1:].partition("]")[0]).scope_id:  # yarl takes IPvFuture and zones, too
            raise ValueError("an address of another machine has no zone")
    else:
        host = unquote(host, errors="strict") if "%" in host else host
        if not host or len(host) > LONGEST_HOST or NOT_IN_HOSTS.search(host):
            raise ValueError("no host can be called so")
    url = URL(f"{scheme}://{user}{at}{host}")
    if not url.raw_host:
        raise ValueError("without a host")
    return url


def _quoted(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode(errors="surrogateescape"))


def _without_dots(path: str) -> str:
    """A quoted path without the segments ``.`` and ``..``; empty ones stay."""
    if "/." not in path and "/%2" not in path:
        return path
    kept: list[str] = []
    dots = ""
    for segment in path.split("/")[1:]:
        dots = re.sub("%2e", ".", segment, flags=re.IGNORECASE)
        if dots == "..":
            del kept[-1:]
        elif dots != ".":
            kept.append(segment)
    return "/" + "/".join([*kept, *([""] if dots in (".", "..") else [])])
