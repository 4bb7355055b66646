"""What owners of sites see of a download, and what they can do."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pyarrow.parquet as pq
import pytest

from laion_people.errors import ShortageError, UsageError
from laion_people.settings import Settings, from_environment
from laion_people.steps.download import fetch, hosts, resolver
from laion_people.steps.download.fetch import Fetcher, FetchError, host_of, user_agent
from laion_people.steps.download.hosts import Hosts, Known, Recent, Turns, retry_after
from laion_people.steps.download.owners import SAID, Robots
from laion_people.steps.download.step import DECIDING, NEWER, Download
from laion_people.steps.download.urls import parse
from laion_people.storage.store import LocalStore
from tests.fakes import jpeg
from tests.steps.test_download import download, image_files, put_metadata, rows_of
from tests.steps.test_download_kept import as_of_version_0_1
from tests.web import ManyHosts, Request, answer, many_hosts

SETTINGS = Settings(allow_private_addresses=True, url_timeout=20.0, url_max_bytes=1_000_000, url_threads=8)
PICTURE = jpeg(9, (64, 64))
BIG, SMALL = "127.0.0.1", [f"127.0.0.{n}" for n in range(2, 8)]


class Clock:
    """The time of hosts.py: waiting takes none."""

    def __init__(self) -> None:
        self.passed = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.passed

    async def sleep(self, seconds: float) -> None:
        end = self.monotonic() + seconds
        await asyncio.sleep(0)
        self.passed += max(end - self.monotonic(), 0.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(hosts, "time", clock)
    monkeypatch.setattr(hosts, "sleep", clock.sleep)
    return clock


def outcomes(web: ManyHosts, urls: list[str], settings: Settings = SETTINGS, known: Known | None = None) -> list[str]:
    """The reason of each URL, all asked for at once; empty for a picture."""

    async def get(fetcher: Fetcher, url: str) -> str:
        with fetcher.visit() as visit:
            try:
                assert await fetcher.get(url, visit) == PICTURE
                return ""
            except FetchError as error:
                return error.reason

    async def get_all() -> list[str]:
        async with Fetcher(settings, known) as fetcher:
            return await asyncio.gather(*(get(fetcher, url) for url in urls))

    return asyncio.run(get_all())


async def picture(web: ManyHosts, request: Request) -> bytes:
    return answer(PICTURE)


def test_a_host_gets_four_requests_at_a_time_and_holds_up_no_other(store: LocalStore) -> None:
    """The large host, which has 19 of 20 rows, answers nothing until all the others have answered everything."""
    served = Counter[str]()

    async def big_last(web: ManyHosts, request: Request) -> bytes:
        if request.host == BIG:
            await web.until(lambda: sum(served[host] for host in SMALL) == len(SMALL))
        served[request.host] += 1
        return answer(PICTURE)

    with many_hosts(big_last) as web:
        urls = [web.url(BIG, f"/{n}.jpg") for n in range(19 * len(SMALL))]
        for place, host in enumerate(SMALL):
            urls.insert(20 * place + 19, web.url(host, "/a.jpg"))
        put_metadata(store, list(urls))
        assert download(store, SETTINGS).rows == len(urls)
    assert [row["url"] for row in rows_of(store)] == urls
    assert web.most[BIG] == 4 and web.most_together <= 8


def test_no_more_than_url_threads_are_in_flight_whatever_waits() -> None:
    with many_hosts(picture) as web:
        urls = [web.url(f"127.0.1.{n % 40 + 1}", f"/{n}.jpg") for n in range(400)]
        assert set(outcomes(web, urls, replace(SETTINGS, url_threads_per_host=2))) == {""}
    assert web.most_together <= 8 and max(web.most.values()) <= 2


def test_the_rows_that_are_read_ahead_are_bounded_while_the_first_waits(store: LocalStore) -> None:
    ahead = 32 * 2

    async def first_last(web: ManyHosts, request: Request) -> bytes:
        if request.path == "/0.jpg":
            await web.until(lambda: len(web.requests) == ahead)
            await asyncio.sleep(0.05)  # for what must not come
            assert len(web.requests) == ahead
        return answer(PICTURE)

    with many_hosts(first_last) as web:
        put_metadata(store, [web.url(f"127.0.0.{n % 9 + 1}", f"/{n}.jpg") for n in range(3 * ahead)])
        assert download(store, replace(SETTINGS, url_threads=2)).rows == 3 * ahead


def test_requests_that_redirects_lead_to_count_for_their_host() -> None:
    async def redirect(web: ManyHosts, request: Request) -> bytes:
        if request.host == BIG:
            await web.until(lambda: web.in_flight[BIG] == 4 or len(web.paths(BIG)) > 20)
            return answer(PICTURE)
        return answer(status="302 Found", Location=web.url(BIG, request.path))

    with many_hosts(redirect) as web:
        urls = [web.url(f"127.0.1.{n + 1}", f"/{n}.jpg") for n in range(24)]
        assert set(outcomes(web, urls)) == {""}
    assert web.most[BIG] == 4


def test_a_host_is_a_name_whatever_the_scheme_and_the_port() -> None:
    same = ("http://example.org/a", "https://EXAMPLE.org:8443/b", "http://example.org./", "http://u:p@example.org:80/")
    assert {host_of(parse(url)) for url in same} == {"example.org"}
    assert host_of(parse("http://www.example.org/")) == "www.example.org"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *(("120", 120.0), (" 0 ", 0.0), ("1.5", 1.5), ("9" * 80, float("9" * 80))),
        *((text, None) for text in ("", "-5", "soon", "1e9", "0x10", "٣", "120, 60", "NaN", "\udc80", "9" * 500 + "x")),
        *((text, None) for text in ("Fri, 99 Foo 2030 15:00:00 GMT", "Fri, 31 Dec 99999 23:59:59 GMT", ":" * 5000)),
    ],
)
def test_a_retry_after_is_a_number_or_nothing(text: str, seconds: float | None) -> None:
    assert retry_after(text) == seconds


def test_a_retry_after_may_be_a_date() -> None:
    now = datetime.now(UTC)
    for text in (format_datetime(now + timedelta(hours=1), usegmt=True), (now + timedelta(hours=1)).strftime("%c")):
        assert 3590 < (retry_after(text) or 0) <= 3600, text
    assert (retry_after("Sun, 06 Nov 1994 08:49:37 GMT") or 0) < 0
    assert (retry_after("Fri, 31 Dec 9999 23:59:59 -2359") or 0) > 0


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable"])
@pytest.mark.parametrize("wanted", ["30", "0", "a date", "30.5"])
def test_a_host_that_asks_to_wait_is_waited_for_and_others_go_on(status: str, wanted: str, clock: Clock) -> None:
    came: list[float] = []

    async def busy_once(web: ManyHosts, request: Request) -> bytes:
        if request.host != BIG:
            return answer(PICTURE)
        came.append(clock.passed)
        if request.nth < 4:
            await web.until(lambda: all(web.paths(host) for host in SMALL))
            date = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
            return answer(status=status, Retry_After=date if wanted == "a date" else wanted)
        return answer(PICTURE)

    with many_hosts(busy_once) as web:
        urls = [web.url(BIG, f"/{n}.jpg") for n in range(20)] + [web.url(host, "/a.jpg") for host in SMALL]
        # A busy machine may read a refusal when others already wait: their 30 s took no time, and it asks for more.
        assert set(outcomes(web, urls, replace(SETTINGS, url_timeout=2.0, url_wait=600.0))) == {""}
    assert len(came) == 24 and came[3] == 0.0
    assert came[4] >= (0.5 if wanted == "0" else 25), "asked during the pause"


@pytest.mark.parametrize("wanted", ["3600", "9" * 60, "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_who_wants_more_patience_than_there_is_is_asked_no_more(wanted: str, clock: Clock) -> None:
    async def gone_fishing(web: ManyHosts, request: Request) -> bytes:
        return answer(status="503 Service Unavailable", Retry_After=wanted)

    with many_hosts(gone_fishing) as web:
        assert outcomes(web, [web.url(BIG, f"/{n}.jpg") for n in range(50)]) == ["server_error"] * 50
    assert len(web.requests) <= 4 and clock.passed == 0.0


@pytest.mark.parametrize("headers", [{}, {"Retry_After": "0"}, {"Retry_After": "-1"}, {"Retry_After": "later"}])
def test_429_is_answered_by_backing_off_and_then_by_a_reason(headers: dict[str, str], clock: Clock) -> None:
    """However many rows a host has that always refuses: it is asked a few times, and the run waits a few minutes."""

    async def always(web: ManyHosts, request: Request) -> bytes:
        return answer(status="429 Slow Down", **headers)

    known = Known()
    with many_hosts(always) as web:
        for _ in range(3):  # shards
            urls = [web.url(BIG, f"/{n}.jpg") for n in range(100)]
            assert set(outcomes(web, urls, known=known)) == {"too_many_requests"}
    assert 8 <= len(web.requests) <= 60
    assert clock.passed <= 300


@pytest.mark.parametrize("headers", [{}, {"Retry_After": "later"}, {"Retry_After": "-5"}])
def test_503_alone_is_no_wish_to_wait(headers: dict[str, str], clock: Clock) -> None:
    async def broken(web: ManyHosts, request: Request) -> bytes:
        return answer(status="503 Service Unavailable", **headers)

    with many_hosts(broken) as web:
        assert outcomes(web, [web.url(BIG, f"/{n}.jpg") for n in range(5)]) == ["server_error"] * 5
    assert len(web.requests) == 5 and clock.passed == 0.0


def test_a_dead_host_costs_the_time_of_few_rows_and_is_asked_again_later(clock: Clock) -> None:
    """With 4 requests at a time, all rows of a host that never answers would take hours."""
    dead = [True]

    async def silent(web: ManyHosts, request: Request) -> bytes:
        if request.host == BIG and dead:
            await asyncio.sleep(30)
        return answer(PICTURE)

    known, settings = Known(), replace(SETTINGS, url_timeout=0.3)
    with many_hosts(silent) as web:
        urls = [web.url(BIG, f"/{n}.jpg") for n in range(200)]
        assert outcomes(web, urls, settings, known) == ["timeout"] * 200
        asked = len(web.paths(BIG))
        assert 8 <= asked <= 11 and clock.passed == 0.0
        assert outcomes(web, [*urls[:9], web.url(SMALL[0], "/a.jpg")], settings, known) == ["timeout"] * 9 + [""]
        assert len(web.paths(BIG)) == asked
        clock.passed += 61
        assert outcomes(web, urls, settings, known) == ["timeout"] * 200
        assert asked < len(web.paths(BIG)) <= asked + 7
        clock.passed += 121
        dead.clear()
        assert outcomes(web, urls, SETTINGS, known) == [""] * 200


def test_a_host_that_answers_now_and_then_is_not_dead(clock: Clock) -> None:
    async def now_and_then(web: ManyHosts, request: Request) -> bytes:
        return b"" if request.nth % 5 else answer(status="404 x")

    with many_hosts(now_and_then) as web:
        urls = [web.url(BIG, f"/{n}.jpg") for n in range(50)]
        assert set(outcomes(web, urls, replace(SETTINGS, url_threads_per_host=1))) == {"connection_error", "not_found"}
    assert {f"/{n}.jpg" for n in range(50)} == set(web.paths(BIG))


def test_a_host_that_serves_one_at_a_time_gets_all_its_rows_served(clock: Clock) -> None:
    async def one_each_second(web: ManyHosts, request: Request) -> bytes:
        second = int(clock.monotonic())
        seconds[second] += 1
        return answer(PICTURE) if seconds[second] == 1 else answer(status="429 x")

    seconds = Counter[int]()
    with many_hosts(one_each_second) as web:
        assert (
            outcomes(web, [web.url(BIG, f"/{n}.jpg") for n in range(12)], replace(SETTINGS, url_wait=600.0))
            == [""] * 12
        )


def test_a_row_that_waits_for_its_host_holds_no_place() -> None:
    async def wait() -> None:
        places = Hosts(Settings(url_threads=1, url_threads_per_host=1), Recent(10))
        first, second, other = (Turns(places) for _ in range(3))
        await first.turn("a")
        waiting = asyncio.create_task(second.turn("a"))
        await asyncio.sleep(0)
        assert not waiting.done()
        first.leave_host()
        first.leave_place()
        await waiting
        second.leave_place()
        await asyncio.wait_for(other.turn("b"), 5)
        for turns in (second, other):
            turns.leave_host()
        assert len(places._lines) <= 2

    asyncio.run(wait())


def test_what_is_remembered_is_bounded_by_number_weight_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = itertools.count()
    monkeypatch.setattr(hosts.time, "monotonic", lambda: next(now))
    known = Recent[str, int](100)
    for n in range(1000):
        known.put(f"h{n}", n, 1e9, weight=10)
        known.get("h0")
    assert len(known) == 10 and known.get("h0") == 0 and known.get("h500") is None
    known.put("h0", 1, 3.0, weight=95)
    assert len(known) == 1 and known.get("h0") == 1
    assert [known.get("h0") for _ in range(3)][-1] is None and len(known) == 0
    known.put("heavy", 1, 3.0, weight=101)
    assert len(known) == 0


def test_the_user_agent_names_the_contact() -> None:
    assert "(compatible; laion-people/" in user_agent("")
    assert user_agent("https://example.org/bot").endswith("; +https://example.org/bot)")
    assert user_agent("bot@example.org").endswith("; bot@example.org)")

    with many_hosts(picture) as web:
        assert outcomes(web, [web.url(BIG, "/a.jpg")], replace(SETTINGS, contact="bot@example.org")) == [""]
    assert web.requests[0].headers["user-agent"] == user_agent("bot@example.org")


@pytest.mark.parametrize(
    "contact",
    [
        *("a\r\nX: y@example.org", "https://example.org/\n", "https://example.org/a b", "https://example.org/(x)"),
        *("example.org", "a@b@c", "https://u:p@example.org/", "https://exämple.org/", "a;b@example.org", "x" * 999),
        *("https://example.org/\\", "\tbot@example.org", "ftp://example.org/"),
    ],
)
def test_a_contact_is_an_address_that_fits_a_header(contact: str) -> None:
    with pytest.raises(UsageError, match=r"should look like https://example\.org/crawler or"):
        from_environment({"LAION_PEOPLE_CONTACT": contact})


def test_contacts_that_are_taken() -> None:
    for contact in ("", "https://example.org/~me/bot?x=1&y=%20", "http://example.org", "a.b+c@mail.example.org"):
        assert from_environment({"LAION_PEOPLE_CONTACT": contact}).contact == contact


# --- robots.txt

ROBOTS = replace(SETTINGS, respect_robots_txt=True)


def with_robots(given: bytes | Callable[[Request], bytes]) -> Callable[[ManyHosts, Request], Any]:
    async def serve(web: ManyHosts, request: Request) -> bytes:
        if request.path != "/robots.txt":
            return answer(PICTURE)
        return given(request) if callable(given) else answer(given)

    return serve


def test_robots_txt_is_read_once_a_host_for_a_whole_run_and_only_if_wanted(store: LocalStore) -> None:
    rules = b"User-agent: *\nDisallow: /private/\n"
    with many_hosts(with_robots(rules)) as web:
        paths = [f"/{folder}/{n}.jpg" for n in range(10) for folder in ("private", "public")]
        urls = [web.url(host, path) for path in paths for host in (BIG, SMALL[0])]
        put_metadata(store, list(urls))
        manifest = download(store, replace(ROBOTS, shard_rows=10))
        assert (manifest.rows, manifest.rejected) == (20, {"robots": 20})
        for host in (BIG, SMALL[0]):
            assert sorted(web.paths(host)) == sorted(["/robots.txt", *(p for p in paths if "public" in p)])
        rows = [row for index in range(4) for row in rows_of(store, index)]
        assert {(row["reason"], row["robots_txt"]) for row in rows} == {("robots", "disallowed"), (None, "allowed")}
        assert all(row["requested_at"] for row in rows)
        web.requests.clear()
        assert download(store, replace(SETTINGS, shard_rows=10)).rows == 40  # without: what it forbade is fetched
        assert "/robots.txt" not in web.paths(BIG) and len(web.requests) == 20


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (answer(status="404 Not Found"), ""),
        (answer(status="403 Forbidden"), ""),
        (answer(status="410 Gone"), ""),
        (answer(status="301 Moved", Location="/robots.txt"), ""),
        (answer(b"\x00\xff\xfe<html>" * 99), ""),
        (answer(b""), ""),
        (answer(b"User-agent: *\nDisallow:\n", X_Robots_Tag="noindex"), ""),
        (answer(b"User-agent: laion-people/2.0\nDisallow: /\n\nUser-agent: *\nAllow: /"), "robots"),
        (answer(b"\xef\xbb\xbfUser-Agent: LAION-People # us\nDisallow: /*.jpg$"), "robots"),
        (answer(b"User-agent: laion\nUser-agent: laion-peoples\nUser-agent: people\nDisallow: /"), ""),
        (answer(b"User-agent: *\nDisallow: /\nAllow: /a.j"), ""),
        (answer(b"User-agent: *\rCrawl-delay: 10\rDisallow: /\r"), "robots"),
        (answer(b"#" * 511_000 + b"\nUser-agent: *\nDisallow: /\n" + b"#" * 900_000), "robots"),
        (answer(b"#" * 600_000 + b"\nUser-agent: *\nDisallow: /\n"), ""),
        (answer(b"User-agent: *\n" + b"Disallow: /x # never\n\n" * 9_999), ""),
        (answer(b"User-agent: *\n" + b"Disallow: /x\n" * 10_000), "robots"),
        (answer(status="302 Found", Location="http://127.0.0.9:1/robots.txt"), "connection_refused"),
        (answer(status="500 Broken"), "server_error"),
        (answer(status="503 Busy"), "server_error"),
        (answer(status="503 Busy", Retry_After="7200"), "server_error"),
        (answer(status="429 Busy", Retry_After="7200"), "too_many_requests"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nUser", "connection_error"),
    ],
)
def test_what_robots_txt_allows(given: bytes, reason: str) -> None:
    with many_hosts(with_robots(lambda _: given)) as web:
        assert outcomes(web, [web.url(BIG, "/a.jpg")] * 10, ROBOTS) == [reason] * 10
    assert len(web.paths(BIG)) <= 16 and (not reason or "/a.jpg" not in web.paths(BIG))


def test_robots_txt_of_the_host_that_a_redirect_leads_to_counts_too() -> None:
    async def redirect(web: ManyHosts, request: Request) -> bytes:
        if request.path == "/robots.txt":
            return answer(b"User-agent: *\nDisallow: /b") if request.host == BIG else answer(status="404 x")
        return answer(status="302 Found", Location=web.url(BIG, "/b.jpg")) if request.host != BIG else answer(PICTURE)

    with many_hosts(redirect) as web:
        assert outcomes(web, [web.url(SMALL[0], "/a.jpg")], ROBOTS) == ["robots"]


def test_robots_txt_is_fetched_under_the_limits_of_its_host() -> None:
    """By rows that hold no place while they wait for it: with one place, they would wait for themselves."""
    with many_hosts(with_robots(b"")) as web:
        urls = [web.url(host, f"/{n}.jpg") for n in range(9) for host in (BIG, *SMALL)]
        assert set(outcomes(web, urls, replace(ROBOTS, url_threads=1))) == {""}
        assert web.most_together == 1
    assert outcomes(web, ["http://10.0.0.1/a.jpg"], replace(ROBOTS, allow_private_addresses=False)) == [
        "private_address"
    ]


@pytest.mark.parametrize(
    "lines",
    [
        [f"User-agent: bot{n}" for n in range(20_000)] + ["Disallow: /x"] * 20_000,
        [f"User-agent: bot{n}" for n in range(5_000)] + ["Disallow: /x"] * 4_900,
        ["User-agent: *"] + [f"Disallow: /{n}*$" for n in range(30_000)],
        ["User-agent: *"] + [f"Allow: *{'a' * (n % 7)}b{n:x}" for n in range(9_000)],
        ["user agent " + "*" * n for n in range(1, 900)] + [f"allow: /{n}" for n in range(9_000)],
        ["User-agent: *", "Disallow: /" + "*a" * 100_000],
        ["User-agent: *"] + [f"Disallow: /{'a*' * 40}{n}" for n in range(5_000)],
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r", "\x85"])
def test_a_hostile_robots_txt_costs_little(lines: list[str], end: str) -> None:
    start = time.process_time()
    robots = Robots(end.join(lines).encode())
    for n in range(200):
        robots.allows(parse(f"http://h/{'a' * 7000}{n}"))
    assert time.process_time() - start < 6  # 0 to 1.5 s; minutes where each agent keeps each rule


# --- names


class Names:
    """A name server in place of the system's: ``asked`` counts look-ups by name."""

    def __init__(self, answer: Callable[[str, int], list[str]]):
        self.answer = answer
        self.asked: Counter[str] = Counter()
        self.lock = threading.Lock()

    def getaddrinfo(self, host: str, port: int, *_: object, **__: object) -> list[Any]:
        with self.lock:
            self.asked[host] += 1
            nth = self.asked[host]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in self.answer(host, nth)]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[str, int], list[str]]], Names]]:
    def use(answer: Callable[[str, int], list[str]]) -> Names:
        names = Names(answer)
        monkeypatch.setattr(socket, "getaddrinfo", names.getaddrinfo)
        return names

    monkeypatch.setattr(resolver, "PAUSES", (0.0, 0.0))
    yield use


def test_a_name_is_looked_up_once_for_all_rows_and_shards(names: Any, store: LocalStore) -> None:
    with many_hosts(picture) as web:
        used = names(lambda host, nth: ["127.0.0.1"])
        put_metadata(store, [web.url(f"host{n % 5}.test", f"/{n}.jpg") for n in range(60)])
        assert download(store, replace(SETTINGS, shard_rows=20)).rows == 60
    assert used.asked == {f"host{n}.test": 1 for n in range(5)}


def test_a_name_that_is_unknown_or_fails_is_remembered_too(names: Any) -> None:
    def unknown(host: str, nth: int) -> list[str]:
        code = socket.EAI_NONAME if host == "gone.test" else socket.EAI_AGAIN
        raise socket.gaierror(code, "as the system says it")

    used = names(unknown)
    known = Known()
    with many_hosts(picture) as web:
        for _ in range(3):
            urls = [f"http://{host}/{n}.jpg" for host in ("gone.test", "failing.test") for n in range(20)]
            assert set(outcomes(web, urls, known=known)) == {"dns"}
    assert used.asked == {"gone.test": 1, "failing.test": 3}


def test_a_name_server_that_fails_half_of_the_time_costs_no_row(names: Any) -> None:
    def flaky(host: str, nth: int) -> list[str]:
        if nth % 2:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return ["127.0.0.1"]

    used = names(flaky)
    with many_hosts(picture) as web:
        assert set(outcomes(web, [web.url(f"h{n % 100}.test", f"/{n}.jpg") for n in range(300)])) == {""}
    assert set(used.asked.values()) == {2} and len(used.asked) == 100


def test_a_slow_name_server_holds_up_only_who_waits_for_it(names: Any) -> None:
    answered = threading.Event()

    def slow(host: str, nth: int) -> list[str]:
        if host == "slow.test":
            answered.wait(10)
        return ["127.0.0.1"]

    async def fast_first(web: ManyHosts, request: Request) -> bytes:
        if sum(request.host != "slow.test" for request in web.requests) == 50:
            answered.set()
        return answer(PICTURE)

    used = names(slow)
    with many_hosts(fast_first) as web:
        urls = [web.url("slow.test", f"/{n}.jpg") for n in range(8)]
        urls += [web.url(f"h{n}.test", "/a.jpg") for n in range(50)]
        assert set(outcomes(web, urls)) == {""}
    assert used.asked["slow.test"] == 1


def test_a_look_up_that_nobody_waits_for_any_more_is_of_use_to_the_next(names: Any) -> None:
    late = threading.Event()

    def slow(host: str, nth: int) -> list[str]:
        late.wait(10)
        return ["127.0.0.1"]

    async def get_twice(web: ManyHosts) -> list[str]:
        reasons = []
        async with Fetcher(replace(SETTINGS, url_timeout=0.1)) as fetcher:
            for _ in range(2):
                with fetcher.visit() as visit:
                    try:
                        await fetcher.get(web.url("slow.test", "/a.jpg"), visit)
                        reasons.append("")
                    except FetchError as error:
                        reasons.append(error.reason)
                late.set()
        return reasons

    used = names(slow)
    with many_hosts(picture) as web:
        assert asyncio.run(get_twice(web)) == ["timeout", ""]
    assert used.asked == {"slow.test": 1}


def test_what_this_machine_lacks_is_not_remembered_of_a_host(names: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = [True]

    def no_files(host: str, nth: int) -> list[str]:
        if lacking:
            raise socket.gaierror(socket.EAI_AGAIN, "no socket") from OSError(24, "Too many open files")
        return ["127.0.0.1"]

    names(no_files)
    known = Known()
    with many_hosts(picture) as web:
        with pytest.raises(ShortageError):
            outcomes(web, [web.url("h.test", "/a.jpg")], known=known)
        lacking.clear()
        assert outcomes(web, [web.url("h.test", "/a.jpg")], known=known) == [""]


def test_a_remembered_address_is_checked_each_time(names: Any) -> None:
    used = names(lambda host, nth: ["8.8.8.8"] if nth == 1 and host != "inside.test" else ["127.0.0.1"])
    known = Known()
    with many_hosts(picture) as web:
        url = web.url("inside.test", "/a.jpg")
        assert outcomes(web, [url], known=known) == [""]
        outside = replace(SETTINGS, allow_private_addresses=False, url_timeout=0.2)
        assert outcomes(web, [url, url], outside, known) == ["private_address"] * 2
    assert used.asked == {"inside.test": 1} and len(web.requests) == 1


# --- what is kept with the row


@pytest.fixture
def noon(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(fetch, "utc_now", lambda: "2026-01-31T12:00:00Z")
    return "2026-01-31T12:00:00Z"


async def with_said(web: ManyHosts, request: Request) -> bytes:
    match request.path:
        case "/reserved.jpg":
            return answer(PICTURE, TDM_Reservation="1\x01\xe9")
        case "/long.jpg":
            return answer(PICTURE, X_Robots_Tag="nosnippet, " * 500)
        case "/moved.jpg":
            return answer(status="302 x", Location="/nofollow.jpg", X_Robots_Tag="max-snippet: 3", TDM_Reservation="0")
        case "/nofollow.jpg":
            return answer(PICTURE, X_Robots_Tag="nofollow")
        case "/noindex.jpg":
            return answer(PICTURE, X_Robots_Tag="otherbot: nofollow, *: NoIndex")
        case "/missing.jpg":
            return answer(status="404 x", X_Robots_Tag="nosnippet")
        case _:
            return answer(PICTURE)


def test_what_the_owner_said_and_when_is_kept_with_the_row(store: LocalStore, noon: str) -> None:
    expected = {
        "/plain.jpg": (None, None, None),
        "/moved.jpg": (None, "max-snippet: 3\nnofollow", "0"),
        "/noindex.jpg": ("opted_out", "otherbot: nofollow, *: NoIndex", None),
        "/missing.jpg": ("not_found", "nosnippet", None),
        "/reserved.jpg": (None, None, "1"),
        "/long.jpg": (None, ("nosnippet, " * 500)[:996] + " ...", None),
    }
    with many_hosts(with_said) as web:
        put_metadata(store, [*(web.url(BIG, path) for path in expected), None])
        download(store, SETTINGS)
    *rows, never_asked = rows_of(store)
    for row, (reason, tag, reservation) in zip(rows, expected.values(), strict=True):
        assert row["reason"] == reason and row["requested_at"] == noon and row["robots_txt"] is None
        assert row["x_robots_tag"] == tag
        assert row["tdm_reservation"] == (reservation and row["tdm_reservation"]) and (
            not reservation or row["tdm_reservation"].startswith(reservation)
        )
    assert [never_asked[name] for name in SAID] == [None] * 4
    with tarfile.open(store.root / "images/test/part/00000.tar") as tar:
        kept = json.loads(tar.extractfile("000000001.json").read())  # type: ignore[union-attr]
    assert kept | {"requested_at": noon} == rows[1] and "requested_at" not in kept


def test_pictures_of_owners_who_reserve_them_leave_when_that_is_respected_again(store: LocalStore) -> None:
    with many_hosts(with_said) as web:
        paths = ("/plain.jpg", "/noindex.jpg", "/nofollow.jpg")
        put_metadata(store, [web.url(BIG, path) for path in paths])
        assert download(store, replace(SETTINGS, respect_opt_out=False)).rows == 3
        web.requests.clear()
        assert download(store, SETTINGS).rejected == {"opted_out": 1}
        assert web.paths(BIG) == ["/noindex.jpg"]


def test_robots_txt_is_asked_when_that_is_respected_again(store: LocalStore) -> None:
    with many_hosts(with_robots(b"User-agent: *\nDisallow: /b")) as web:
        put_metadata(store, [web.url(BIG, "/a.jpg"), web.url(BIG, "/b.jpg")])
        assert download(store, SETTINGS).rows == 2
        assert download(store, ROBOTS).rejected == {"robots": 1}
        count = len(web.requests)
        for changed in ({"nsfw_filter": False}, {"respect_opt_out": False}):
            assert download(store, replace(ROBOTS, **changed)).rejected == {"robots": 1}
        assert len(web.requests) == count


def without_said(store: LocalStore) -> None:
    """The first shard as it was before these columns."""
    from io import BytesIO

    from laion_people.steps.download.earlier import row_sha256

    def older(row: dict[str, Any], picture: bytes) -> dict[str, Any]:
        row = {name: value for name, value in row.items() if name not in NEWER}
        return row | {"row_sha256": row_sha256(row, picture)}

    folder = store.root / "images/test/part"
    with tarfile.open(folder / "00000.tar") as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    table = pq.read_table(folder / "00000.parquet")
    rows = [older(row, files.get(f"{row['key']}.jpg", b"")) for row in table.to_pylist()]
    schema = table.drop_columns(list(NEWER)).schema
    pq.write_table(type(table).from_pylist(rows, schema), folder / "00000.parquet")
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for row in rows:
            if f"{row['key']}.jpg" in files:
                files[f"{row['key']}.json"] = json.dumps(row).encode()
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, BytesIO(data))


@pytest.mark.parametrize("harm", [without_said, lambda s: (without_said(s), as_of_version_0_1(s))])
def test_rows_from_before_these_columns_are_kept_without_a_request(
    store: LocalStore, harm: Callable[[LocalStore], object]
) -> None:
    with many_hosts(with_said) as web:
        put_metadata(store, [web.url(BIG, path) for path in ("/plain.jpg", "/missing.jpg", "/moved.jpg")])
        before = download(store, SETTINGS)
        pictures = {name: data for name, data in files_of_tar(store).items() if name.endswith("jpg")}
        harm(store)
        web.requests.clear()
        assert download(store, SETTINGS).rejected == before.rejected and not web.requests
        assert {name: data for name, data in files_of_tar(store).items() if name.endswith("jpg")} == pictures
        assert {row[name] for row in rows_of(store) for name in NEWER} == {None}
        kept = image_files(store)
        store.delete("manifests/download/test/part/00000.json")
        assert download(store, SETTINGS).rejected == before.rejected and not web.requests
        assert image_files(store) == kept


def files_of_tar(store: LocalStore) -> dict[str, bytes]:
    with tarfile.open(store.root / "images/test/part/00000.tar") as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def test_shards_of_before_robots_txt_are_no_others_now() -> None:
    """Their manifests name the parameters: one more would have all steps made again."""
    assert Download().params(SETTINGS).keys() == set(DECIDING)
    assert Download().params(ROBOTS).keys() == {*DECIDING, "respect_robots_txt"}
