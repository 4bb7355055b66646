"""What the owner of an image wants: by headers of the answer, and by robots.txt."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import pyarrow as pa
from yarl import URL

from laion_people.errors import one_line

if TYPE_CHECKING:
    from protego import Protego

PRODUCT = "laion-people"  # what robots.txt and X-Robots-Tag call this program

SAID = {  # columns of what the owner said; null where nothing was asked, or said
    "requested_at": pa.string(),  # UTC, 2026-01-31T23:59:59Z: of the last request, or of the answer of robots.txt
    "x_robots_tag": pa.string(),  # a line a header, of all answers on the way
    "tdm_reservation": pa.string(),
    "robots_txt": pa.string(),  # allowed, disallowed or unreachable; null if it was not looked at
}
LONGEST = 1000  # characters of such a text

# Directives of X-Robots-Tag. Those against AI count to whichever agent they are said; the others only to all, or to us.
AGAINST_AI = {"noai", "noimageai", "noml"}
AGAINST_INDEXES = {"noindex", "noimageindex", "none"}  # none: noindex and nofollow
WITH_VALUE = {"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"}
AGENT = re.compile(r"[a-z_*][\w.*-]*")

ROBOTS_BYTES = 512_000  # of a robots.txt that are read, as RFC 9309 wants; the rest is ignored
ROBOTS_LINES = 10_000  # with rules
ROBOTS_SECONDS = 1.0  # of CPU that following one may take in all; hostile rules take up to 0.2 s an address
AGENT_LINE = re.compile(r"(?i)user[\s-]*agent(?=[\s:])\s*:?\s*(\S.*)")
OWN_NAME = re.compile(rf"{PRODUCT}(?![a-z_-])")


def opted_out(tags: Iterable[str], reservation: str) -> bool:
    """Whether the owner reserves an image.

    Args:
        tags: values of X-Robots-Tag (https://developers.google.com/search/docs/crawling-indexing/robots-meta-tag;
            ``noai`` and ``noimageai`` by DeviantArt, ``noml`` by https://noml.info)
        reservation: the value of TDM-Reservation (https://www.w3.org/community/reports/tdmrep/CG-FINAL-tdmrep-20240510/)
    """
    return reservation.strip() == "1" or any(_is_against(tag.lower()) for tag in tags)


def _is_against(tag: str) -> bool:
    if any(word.strip() in AGAINST_AI for word in re.split("[,:]", tag)):
        return True
    return any(agent in ("", "*", PRODUCT) and word in AGAINST_INDEXES for agent, word in _directives(tag))


def _directives(tag: str) -> Iterator[tuple[str, str]]:
    """Each directive with the agent that it is for; one without follows that of the directive before."""
    agent = ""
    for part in tag.split(","):
        name, colon, rest = (text.strip() for text in part.partition(":"))
        if colon and name not in WITH_VALUE and AGENT.fullmatch(name):
            agent, name = name, rest
        yield agent, name


def text_of(values: Iterable[str]) -> str | None:
    """Values of a header as text of at most LONGEST characters, a line each; None without any."""
    return "\n".join(one_line(value, LONGEST) for value in values)[:LONGEST] or None


class Robots:
    """The rules of a robots.txt (RFC 9309) for this program. One that takes too long to follow allows nothing."""

    def __init__(self, body: bytes):
        from protego import Protego

        text = body[:ROBOTS_BYTES].decode("utf-8-sig", "replace")
        lines = [line for each in text.splitlines() if (line := each.partition("#")[0].strip())]
        self.memory = 400 + 800 * len(lines)  # bytes that it takes at most, about
        self._seconds = ROBOTS_SECONDS if len(lines) <= ROBOTS_LINES else 0.0  # that are left
        self._rules: Protego = Protego.parse("\n".join(map(_without_strangers, lines)) if self._seconds else "")

    def allows(self, url: URL) -> bool:
        """For an address of the host, as `urls.parse` gives it."""
        if self._seconds <= 0:
            return False
        start = time.thread_time()
        allowed = self._rules.can_fetch(f"http://host{url.raw_path}", PRODUCT)
        self._seconds -= time.thread_time() - start
        return allowed


def _without_strangers(line: str) -> str:
    """A line that begins a group for others names all of them alike: Protego keeps the rules of a group for each of its
    agents, of which a hostile file has thousands. Protego takes ``laion`` for us, too, which RFC 9309 doesn't.
    """
    if (match := AGENT_LINE.fullmatch(line)) is None:
        return line
    name = match[1].lower()
    return f"User-agent: {name if name == '*' else PRODUCT if OWN_NAME.match(name) else 'another'}"
