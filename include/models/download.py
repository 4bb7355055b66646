"""Downloads one file of weights: resumes, shows progress, and survives servers that misbehave."""

from __future__ import annotations

import base64
import http.client
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib import request
from urllib.error import HTTPError
from urllib.parse import unquote_to_bytes, urlsplit

from include.models.errors import ModelError

log = logging.getLogger(__name__)

CHUNK = 1 << 20
TIMEOUT = 60.0  # seconds without a byte
FAILURES = 4  # attempts in a row without new bytes
PAUSE = 2.0  # seconds after the first failure; doubles with each
HEARTBEAT_SECONDS = 30.0
PASSING = (408, 429, 500, 502, 503, 504)


class Unavailable(ModelError):
    """The source does not give the file."""


class _SafeRedirects(request.HTTPRedirectHandler):
    """Follows redirects, but never from HTTPS to a protocol that others can read or change. Another server gets no
    password."""

    def redirect_request(
        self, req: request.Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage, newurl: str
    ) -> request.Request | None:
        if urlsplit(req.full_url).scheme == "https" and urlsplit(newurl).scheme != "https":
            raise Unavailable(
                "weights-unavailable", f"{req.full_url} leads to {newurl}, which is not HTTPS: not followed"
            )
        following = super().redirect_request(req, fp, code, msg, headers, _split_login(newurl)[0])
        if following and _origin(following.full_url) == _origin(req.full_url):
            following.unredirected_hdrs |= req.unredirected_hdrs
        return following


def _opener() -> request.OpenerDirector:
    """Opens only HTTP and HTTPS, with the proxies of the environment: urllib's own opener also reads local files."""
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler,
        request.HTTPHandler,
        request.HTTPSHandler,
        _SafeRedirects,
        request.HTTPDefaultErrorHandler,
        request.HTTPErrorProcessor,
        request.UnknownHandler,
    ):
        opener.add_handler(handler())
    return opener


def fetch_file(source: str, part: Path) -> None:
    """Fetches a file to ``part``. After a failure, ``part`` holds what has come, and a later call continues from there.

    source: an ``https://`` or ``http://`` address, or a path. Raises Unavailable if the server refuses, or several
    attempts in a row bring nothing new.
    """
    label = part.name.removesuffix(".part")
    if _is_address(source):
        return _download(source, part, label)
    file = Path(source.removeprefix("file://")).expanduser()
    if not file.is_file():
        raise Unavailable("weights-unavailable", f"there is no {file}")
    with file.open("rb") as stream, part.open("wb") as copied:
        return _pour(stream, copied, label, 0, file.stat().st_size)


def read_text(source: str) -> str:
    """The text at an address or in a file. Raises Unavailable."""
    try:
        if not _is_address(source):
            return Path(source.removeprefix("file://")).expanduser().read_text()
        with _open(source) as response:
            return response.read().decode()
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Unavailable("weights-unavailable", f"{source}: {error}") from None


def _is_address(source: str) -> bool:
    return urlsplit(source).scheme in ("http", "https")


def _open(url: str, **headers: str) -> http.client.HTTPResponse:
    """The answer to a GET. Raises HTTPError for a status of 300 and more."""
    agent = {"User-Agent": "laion-people"}
    address, authorization = _split_login(url)
    asked = request.Request(address, headers=agent | headers)  # noqa: S310  (the opener knows neither file: nor ftp:)
    if authorization:
        asked.add_unredirected_header("Authorization", authorization)
    response: http.client.HTTPResponse = _opener().open(asked, timeout=TIMEOUT)
    return response


def _split_login(url: str) -> tuple[str, str]:
    """The URL without user and password, and the header Authorization made of them (RFC 7617), "" without them."""
    parts = urlsplit(url)
    login, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, ""
    user, _, password = login.partition(":")
    token = base64.b64encode(unquote_to_bytes(user) + b":" + unquote_to_bytes(password)).decode()
    return parts._replace(netloc=host).geturl(), f"Basic {token}"


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def _download(url: str, part: Path, label: str) -> None:
    failures = 0
    while True:
        before, problem = _size(part), "the connection broke"
        try:
            if _transfer(url, part, label):
                _version(part).unlink(missing_ok=True)
                return
        except HTTPError as error:
            problem = f"HTTP {error.code} {error.reason}"
            if error.code not in PASSING:
                raise Unavailable("weights-unavailable", f"{url}: {problem}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: a redirect's address
            problem = str(getattr(error, "reason", error)) or type(error).__name__
        failures = 1 if _size(part) > before else failures + 1
        if failures == FAILURES:
            kept = "; what has arrived is kept, and the same command goes on from there" if _size(part) else ""
            raise Unavailable("weights-unavailable", f"{urlsplit(url).netloc.rpartition('@')[2]}: {problem}{kept}")
        log.info("%s: %s; trying again", label, problem)
        time.sleep(PAUSE * 2 ** (failures - 1))


def _transfer(url: str, part: Path, label: str) -> bool:
    """One request, if possible only for the missing bytes. Returns whether the file is whole now."""
    validator = _version(part)
    done = _size(part) if validator.exists() else 0  # else the part may be of another version of the file
    resume = {"Range": f"bytes={done}-", "If-Range": validator.read_text()} if done else {}
    try:
        response = _open(url, **resume)
    except HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        if error.headers.get("Content-Range") == f"bytes */{done}":
            return True
        part.unlink()
        return False
    with response:
        partial = response.status == http.client.PARTIAL_CONTENT
        if partial and not response.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
            part.unlink()
            return False
        done = done if partial else 0
        total = done + _length(response, url)
        _keep_validator(response.headers, validator)
        with part.open("ab" if partial else "wb") as file:
            _pour(response, file, label, done, total)
    return _size(part) == total


def _length(response: http.client.HTTPResponse, url: str) -> int:
    if response.headers.get_content_type() == "text/html":
        raise Unavailable(
            "weights-unavailable",
            f"{url}: the answer is a web page, not weights: is there a login or a proxy in between?",
        )
    length = response.headers["Content-Length"] or ""
    if not length.isdecimal():
        raise Unavailable(
            "weights-unavailable",
            f"{url}: the server does not tell how long the file is, so that a cut would not be seen",
        )
    return int(length)


def _keep_validator(headers: http.client.HTTPMessage, file: Path) -> None:
    """Keeps the header that identifies this version of the file (RFC 9110, section 13.1.5: no weak ETag)."""
    etag = headers.get("ETag", "W/")
    if validator := headers.get("Last-Modified") if etag.startswith("W/") else etag:
        file.write_text(validator)
    else:
        file.unlink(missing_ok=True)


def _version(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _pour(stream: Any, file: IO[bytes], label: str, done: int, total: int) -> None:
    with _progress(label, done, total) as advance:
        while chunk := stream.read(CHUNK):
            file.write(chunk)
            advance(len(chunk))


@contextmanager
def _progress(label: str, done: int, total: int) -> Iterator[Callable[[int], object]]:
    """A bar on a terminal; elsewhere a line now and then, which shows in the log that it goes on."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(desc=label, initial=done, total=total, unit="B", unit_scale=True) as bar:
            yield bar.update
        return
    log.info("%s: %.1f MB to fetch", label, (total - done) / 1e6)
    last = time.monotonic()

    def advance(count: int) -> None:
        nonlocal done, last
        done += count
        if time.monotonic() - last >= HEARTBEAT_SECONDS:
            last = time.monotonic()
            log.info("%s: %.1f of %.1f MB", label, done / 1e6, total / 1e6)

    yield advance
