"""Reads URLs as browsers do (https://url.spec.whatwg.org): signed URLs are valid only in exactly this form.

Quotes only what no request may hold; what is quoted already stays as it is. Libraries quote again: they turn ``%2C`` of
a query into ``,``, for example, and the server of a signed URL refuses (https://github.com/aio-libs/aiohttp/issues/7222).
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import unquote

from yarl import URL

AROUND = "".join(map(chr, range(0x21)))  # control characters and spaces before and after a URL
REMOVED = re.compile(r"[\t\r\n]+")  # removed anywhere
SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):(.*)", re.IGNORECASE | re.DOTALL)
NOT_IN_PATHS = re.compile(r"[^!$-;=@-\]_a-z|~]+")
NOT_IN_QUERIES = re.compile(r"[^!$-&(-;=?-~]+")
LONGEST_HOST = 1000  # characters with port; names have 253 at most, and IDNA is slow
NOT_IN_HOSTS = re.compile(r"[\x00-\x20#/<>?@\\^|%\x7f]")


def parse(text: str, base: URL | None = None) -> URL:
    """The address of a URL, or of a redirect from ``base``, without the fragment.

    Bytes that are no UTF-8 should be in ``text`` in the form of Python's surrogateescape. The request target, query
    included, is the result's ``raw_path``: yarl would drop a ``?`` at the end. Raises ValueError if it is no HTTP
    address, and whatever yarl raises for hosts.
    """
    text = REMOVED.sub("", text.strip(AROUND)).partition("#")[0]
    scheme, rest = base.scheme if base else "", text
    if match := SCHEME.match(text):
        scheme, rest = match[1].lower(), match[2]
    if scheme not in ("http", "https"):
        raise ValueError("not an HTTP address")
    before, mark, query = rest.partition("?")
    before = before.replace("\\", "/")
    if base and scheme == base.scheme and not before.startswith("//"):  # relative, even with a scheme: http:a.jpg
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
    """User, host and port. The host is unquoted, and then encoded by yarl (IDNA)."""
    user, at, host = text.rpartition("@")
    if host.startswith("["):
        if ipaddress.IPv6Address(host[1:].partition("]")[0]).scope_id:  # yarl accepts IPvFuture and zones, too
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
    """A quoted path without the segments ``.`` and ``..``; empty segments stay."""
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
