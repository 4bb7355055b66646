"""Lists of names may come from anyone."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from laion_people.errors import UsageError
from laion_people.removal.names import MOST_NAMES, Names, of_file, of_value
from laion_people.removal.wanted import Wanted
from laion_people.storage.removals import Removal, Removed, digest

SHA = "0A" * 32
SAMPLE = "laion2B-en/00042/00007/000070012"


def write(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "list"
    path.write_bytes(content)
    return path


def test_a_list_has_kinds_or_what_is_plain_without(tmp_path: Path) -> None:
    lines = f"""\ufeff# of 30 November
url https://example.org/a b.jpg
https://example.org/\u00fc.jpg

{SHA}
SHA256\t{"1b" * 32}
sample 12345
{SAMPLE}
sample {SAMPLE}3
person {SAMPLE}/0
{SAMPLE}/11
"""
    assert of_file(write(tmp_path, lines.encode())) == Names(
        urls=frozenset({"https://example.org/a%20b.jpg", "https://example.org/%C3%BC.jpg"}),
        pictures=frozenset({SHA.lower(), "1b" * 32}),
        samples=frozenset({SAMPLE, f"{SAMPLE}3"}),
        persons=frozenset({f"{SAMPLE}/0", f"{SAMPLE}/11"}),
        sample_ids=frozenset({12345}),
    )


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\n\n# nothing\n", b"\0" * 100_000, b"\xff\xfe\x00u", b"http://a/\n\xe4\n", b"somebody\n", b"sha256 12\n",
        b"sample ../../etc/passwd\n", b"person laion2B-en/00042/00007/000070012\n", b"url \n", b"sha256 " + b"0" * 65,
        b"x" * 10_000_000, b"url http://a.example/" + b"x" * 20_000, b"sample 99999999999999999999\n", b"url a\0.b\n",
        b"url: http://a.example/1.jpg\n", b"\"http://a.example/1.jpg\"\n", b"1,http://a.example/1.jpg\n",
        b"url a.example/1.jpg\n",
    ],
)  # fmt: skip
def test_what_is_no_list_is_wrong_usage_in_one_line(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(UsageError) as caught:
        of_file(write(tmp_path, content))
    assert caught.value.code == "bad-argument" and "\n" not in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize("line", [b"http://example.org/%d\n", b"# %d\n"])
def test_ten_million_lines_end_at_the_limit(tmp_path: Path, line: bytes) -> None:
    path = write(tmp_path, b"".join(line % i for i in range(300_000)))
    with path.open("r+b") as file:
        file.truncate(8 << 30)  # a hole: gigabytes of zeros
    start = time.process_time()
    with pytest.raises(UsageError, match="more than 100,000 names"):
        of_file(path)
    assert time.process_time() - start < 30  # of a test that would read gigabytes


def test_the_limit_is_allowed(tmp_path: Path) -> None:
    names = of_file(write(tmp_path, b"".join(b"http://example.org/%d\n" % i for i in range(MOST_NAMES))))
    assert len(names.urls) == MOST_NAMES


def test_a_missing_list_is_wrong_usage(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(UsageError, match=r"\[bad-argument\]"):
            of_file(path)


def test_the_same_names_have_the_same_id_and_others_another() -> None:
    ids = {
        of_value(kind, value).id()
        for kind, value in (("url", "http://a.example/"), ("url", " http://a.example/ "), ("sample", "1"))
    }
    assert len(ids) == 2


@pytest.mark.parametrize(
    "other",
    [
        "HTTP://a.example/%C3%BC/b%20c.jpg?q=~1", "http://A.Example:80/\u00fc/b c.jpg?q=%7e1",
        "http://a.example/%c3%bc/b c.jpg?q=~1#top", " http://a.example/\u00fc/b\n%20c.jpg?q=~1 ",
    ],
)  # fmt: skip
def test_an_address_is_the_same_however_it_is_written(other: str) -> None:
    plain = "http://a.example/\u00fc/b c.jpg?q=~1"
    assert of_value("url", other) == of_value("url", plain)
    assert Removed([_removal(plain)]).has_url(other) and Removed([_removal(other)]).has_url(plain)
    assert Wanted([_removal(other)]).text(plain) and Wanted([_removal(plain)]).text(other)
    assert Wanted([_removal("http://a.example/%C3%BC")]).text("see <HTTP://A.example/\u00fc#top>")


@pytest.mark.parametrize(
    "other",
    ["https://a.example/b/c?d=1", "http://a.example/b%2Fc?d=1", "http://a.example/b/C?d=1", "http://a.example/b/c?d=1&",
     "http://a.example:8080/b/c?d=1", "http://www.a.example/b/c?d=1", "http://a.example/b/c"],
)  # fmt: skip
def test_other_addresses_are_others(other: str) -> None:
    assert of_value("url", other) != of_value("url", "http://a.example/b/c?d=1")


@pytest.mark.parametrize(
    "odd", ["http://", "http://[::1", "http://\u00fc" + "\u00fc" * 10_000, "http://..\u00fc/", "http://a/\ud800%"]
)
def test_odd_addresses_do_no_harm(odd: str) -> None:
    assert not Removed([_removal("http://a.example/")]).has_url(odd)


def _removal(url: str) -> Removal:
    (known,) = of_value("url", url).urls
    return Removal(id="a", at="", by="", reason="", asked={"url": 1}, urls=(digest(known),))
