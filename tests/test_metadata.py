from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from contextlib import nullcontext
from datetime import UTC, datetime
from decimal import Decimal
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laion_people.errors import LaionPeopleError, UsageError
from laion_people.storage import metadata
from laion_people.storage.layout import PartitionKey
from laion_people.storage.store import ROOT, LocalStore, open_store
from tests.s3 import moto_server


def put(store: LocalStore, name: str, columns: dict, row_group_size: int = 3) -> str:
    path = store.root / "metadata" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return f"metadata/{name}"


def test_partition_keys_come_from_part_numbers_or_file_names(store: LocalStore) -> None:
    columns = {"URL": ["u"], "TEXT": ["t"]}
    put(store, "laion2B-en/part-00042-5114fd87-297e.snappy.parquet", columns)
    put(store, "mine/holiday.parquet", columns)
    put(store, "laion2B-en/.part-00042.crc.parquet", columns)
    assert list(metadata.partitions(store)) == ["laion2B-en/00042", "mine/holiday"]


@pytest.mark.parametrize(
    "stray",
    ["part-00000 (1).parquet", "part-00000.snappy (copy).parquet", "part-00000-x (1).parquet", "\u0444.parquet"],
)
def test_a_stray_file_stops_no_other_partition(store: LocalStore, stray: str, caplog: pytest.LogCaptureFixture) -> None:
    columns = {"URL": ["u"], "TEXT": ["t"]}
    put(store, f"a/{stray}", columns)
    put(store, "a/part-00000-x.parquet", columns)
    put(store, "a/part-00001-x.parquet", columns)
    put(store, "b/part-00000-x.parquet", columns)
    assert {"a/00001", "b/00000"} <= metadata.partitions(store).keys()
    assert metadata.metadata_path(store, "b/00000") == "metadata/b/part-00000-x.parquet"
    assert stray in caplog.text


def test_two_files_of_one_key_are_neither(store: LocalStore) -> None:
    put(store, "a/part-00001-x.parquet", {"URL": ["u"], "TEXT": ["t"]})
    put(store, "a/part-00001-y.parquet", {"URL": ["u"], "TEXT": ["t"]})
    assert metadata.partitions(store) == {}
    with pytest.raises(
        UsageError, match=r"00001-x.parquet .* metadata/a/part-00001-y.parquet .* a/0.*\[duplicate-partition\]$"
    ):
        metadata.metadata_path(store, "a/00001")


def test_linked_collections_and_files_are_seen_once(store: LocalStore, tmp_path: Path) -> None:
    elsewhere = LocalStore(tmp_path / "big")
    put(elsewhere, "relaion/part-00007-x.parquet", {"URL": ["u"], "TEXT": ["t"]})
    put(store, "mine/part-00001-x.parquet", {"URL": ["u"], "TEXT": ["t"]})
    (store.root / "metadata" / "relaion").symlink_to(elsewhere.root / "metadata" / "relaion")
    (store.root / "metadata" / "mine" / "other.parquet").symlink_to(
        elsewhere.root / "metadata" / "relaion" / "part-00007-x.parquet"
    )
    (store.root / "metadata" / "mine" / "round").symlink_to(store.root / "metadata")
    (elsewhere.root / "metadata" / "relaion" / "back").symlink_to(store.root / "metadata" / "mine")
    (store.root / "metadata" / "mine" / "gone.parquet").symlink_to(tmp_path / "nothing")
    keys = list(metadata.partitions(store))
    assert keys == ["mine/00001", "mine/other", "relaion/00007"]
    assert [r.url for r in metadata.rows(store, metadata.metadata_path(store, "relaion/00007"), 0, 9)] == ["u"]


def test_both_laion_schemas_give_the_same_rows(store: LocalStore) -> None:
    laion = put(
        store,
        "a/part-00000-x.parquet",
        {"SAMPLE_ID": [7], "URL": ["u"], "TEXT": ["t"], "HEIGHT": [2], "WIDTH": [3], "NSFW": ["UNLIKELY"]},
    )
    relaion = put(store, "b/part-00000-x.parquet", {"url": ["u"], "caption": ["t"], "hash": [7], "punsafe": [0.1]})
    (one,), (other,) = metadata.rows(store, laion, 0, 9), metadata.rows(store, relaion, 0, 9)
    assert (one.sample_id, one.url, one.caption, one.flagged) == (7, "u", "t", False)
    assert (other.sample_id, other.url, other.caption, other.flagged) == (7, "u", "t", False)


def test_a_null_or_high_punsafe_and_an_nsfw_tag_are_flagged(store: LocalStore) -> None:
    unsafe = put(store, "b/p.parquet", {"url": ["u"] * 3, "caption": ["t"] * 3, "punsafe": [None, 0.9, 0.2]})
    assert [r.flagged for r in metadata.rows(store, unsafe, 0, 9)] == [True, True, False]
    both = {"url": ["u"] * 3, "caption": ["t"] * 3, "punsafe": [float("nan"), 0.1, 0.1], "NSFW": [None, "NSFW", None]}
    assert [r.flagged for r in metadata.rows(store, put(store, "b/r.parquet", both), 0, 9)] == [True, True, False]
    tagged = put(store, "b/q.parquet", {"URL": ["u"] * 3, "TEXT": ["t"] * 3, "NSFW": ["NSFW", "UNSURE", None]})
    assert [r.flagged for r in metadata.rows(store, tagged, 0, 9)] == [True, False, False]


@given(start=st.integers(0, 25), length=st.integers(0, 25))
def test_a_slice_of_rows_is_that_slice_whatever_the_row_groups(
    tmp_path_factory: pytest.TempPathFactory, start: int, length: int
) -> None:
    store = LocalStore(tmp_path_factory.getbasetemp() / "slices")
    path = "metadata/a/p.parquet"
    if not store.exists(path):
        put(store, "a/p.parquet", {"URL": [str(i) for i in range(20)], "TEXT": [None] * 20}, row_group_size=7)
    got = [r.url for r in metadata.rows(store, path, start, start + length)]
    assert got == [str(i) for i in range(20)][start : start + length]


@pytest.mark.parametrize("key", ["", "a", "a/b/c", "../x", "a/..", "a b/c", "/a", "a/b;rm", "a/" + "b" * 101, "a/b\n"])
def test_hostile_partition_keys_are_refused(key: str) -> None:
    with pytest.raises(UsageError, match=r"\[bad-partition-key\]$"):
        PartitionKey.parse(key)


def test_missing_and_broken_parts_are_one_clear_line(store: LocalStore) -> None:
    with pytest.raises(LaionPeopleError, match=r" a/00001 .*: none \[unknown-partition\]$"):
        metadata.metadata_path(store, "a/00001")
    store.write("metadata/a/p.parquet", b"PAR1 this is not parquet")
    with pytest.raises(LaionPeopleError, match=r"^metadata/a/p.parquet .*not a parquet file.*\[damaged-metadata\]$"):
        metadata.count_rows(store, "metadata/a/p.parquet")
    path = put(store, "a/q.parquet", {"name": ["x"]})
    with pytest.raises(LaionPeopleError, match=r"\[metadata-columns\]$"):
        list(metadata.rows(store, path, 0, 1))


def test_rows_without_an_id_get_a_stable_one(store: LocalStore) -> None:
    path = put(store, "a/p.parquet", {"URL": ["http://x/1", "http://x/2", None], "TEXT": ["", "", ""]})
    ids = [r.sample_id for r in metadata.rows(store, path, 0, 3)]
    assert len(set(ids)) == 3 and all(0 <= i < 2**63 for i in ids)
    assert ids == [r.sample_id for r in metadata.rows(store, Path(path).as_posix(), 0, 3)]


@pytest.mark.parametrize(
    ("name", "values"),
    [("url", [["u"]]), ("url", [1]), ("caption", [{"en": "t"}]), ("caption", [True]), ("caption", [5])],
)
def test_urls_or_captions_that_are_no_text_are_refused_by_name(store: LocalStore, name: str, values: list) -> None:
    path = put(store, "a/p.parquet", {"url": ["u"], "caption": ["t"], name: values})
    with pytest.raises(LaionPeopleError, match=rf"^metadata/a/p.parquet: column {name} .*\[metadata-columns\]$"):
        list(metadata.rows(store, path, 0, 1))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("SAMPLE_ID", ["abc"]),
        ("hash", ["0fe3", "12"]),
        ("hash", [[1]]),
        ("hash", [True]),
        ("hash", [datetime(2020, 1, 1, tzinfo=UTC)]),
        ("similarity", ["0.3"]),
        ("WIDTH", ["wide"]),
        ("LICENSE", [["CC"]]),
        ("pwatermark", [{"p": 0.5}]),
    ],
)
def test_optional_columns_of_another_type_are_passed_over_with_one_warning(
    store: LocalStore, name: str, values: list, caplog: pytest.LogCaptureFixture
) -> None:
    n = len(values)
    path = put(store, "a/p.parquet", {"url": ["u"] * n, "caption": ["t"] * n, name: values})
    for _ in range(2):
        got = list(metadata.rows(store, path, 0, n))
        assert [(r.url, r.sample_id, r.flagged) for r in got] == [("u", metadata.sample_id({"url": "u"}), False)] * n
        assert [r.collection.get(name) for r in got] == [None] * n
    assert len(caplog.messages) == 1
    assert f"{path}: column {name} " in caplog.messages[0]


@pytest.mark.parametrize(
    ("name", "values", "read"),
    [
        ("hash", [float("nan"), 5.0], [None, 5]),  # as pandas makes them of nulls
        ("hash", [float("inf"), 1.5, 1e30, 5.0], [None, None, None, 5]),
        ("hash", pa.array([2**63, 5], pa.uint64()), [None, 5]),
        ("hash", pa.array([5, None]).dictionary_encode(), [5, None]),
        ("WIDTH", [float("nan"), 640.0, 1e12], [None, 640, None]),
        ("WIDTH", pa.array([2**40, 3]), [None, 3]),
        ("similarity", [Decimal("0.25"), None], [0.25, None]),
        ("similarity", pa.array([1, None]), [1.0, None]),
        ("similarity", [float("nan"), float("inf"), 0.5], [None, None, 0.5]),
        ("LICENSE", [b"\xff", b"CC"], ["\ufffd", "CC"]),
    ],
)
def test_values_that_do_not_fit_are_null(store: LocalStore, name: str, values: list | pa.Array, read: list) -> None:
    n = len(values)
    path = put(store, "a/p.parquet", {"url": ["u"] * n, "caption": ["t"] * n, name: values})
    assert [r.collection[name] for r in metadata.rows(store, path, 0, n)] == read


@pytest.mark.parametrize(
    ("values", "flagged"),
    [
        ([True, False, None], [True, False, False]),
        ([1, 0, None], [True, False, False]),
        ([1.0, 0.0, 0.3, float("nan")], [True, False, True, True]),
        ([b"NSFW", b"UNSURE"], [True, False]),
        (pa.array(["NSFW", "UNSURE"]).dictionary_encode(), [True, False]),
        ([["x"], ["y"]], [True, True]),  # what cannot be read is no clear no
    ],
)
def test_a_tag_of_any_type_never_fails_open(store: LocalStore, values: list | pa.Array, flagged: list) -> None:
    n = len(values)
    path = put(store, "a/p.parquet", {"URL": ["u"] * n, "TEXT": ["t"] * n, "NSFW": values})
    assert [r.flagged for r in metadata.rows(store, path, 0, n)] == flagged


@pytest.mark.parametrize("unsafe", ["0.1", float("-inf"), [0.1]])
def test_an_unsafe_that_is_no_number_flags_its_row(store: LocalStore, unsafe: object) -> None:
    path = put(store, "a/p.parquet", {"URL": ["u"], "TEXT": ["t"], "punsafe": [unsafe]})
    assert [r.flagged for r in metadata.rows(store, path, 0, 1)] == [True]


TEXTS = pa.array(["t", None, "t"])


@pytest.mark.parametrize(
    "texts",
    [
        TEXTS.cast(pa.large_string()),
        TEXTS.cast(pa.string_view()),
        TEXTS.cast(pa.binary()),
        TEXTS.cast(pa.large_binary()),
        TEXTS.cast(pa.binary()).cast(pa.binary_view()),
        pa.array([b"t", None, b"t"], pa.binary(1)),
        TEXTS.dictionary_encode(),
    ],
    ids=lambda texts: str(texts.type),
)
@pytest.mark.parametrize("large", [False, True])
def test_text_is_text_however_it_is_stored(
    store: LocalStore, texts: pa.Array, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "SHARED_GROUP", 1 if large else metadata.SHARED_GROUP)
    path = put(store, "a/p.parquet", {"URL": texts, "TEXT": texts})
    got = [(r.url, r.caption) for r in metadata.rows(store, path, 0, 3)]
    assert got == [("t", "t"), (None, ""), ("t", "t")]


@pytest.mark.parametrize("large", [False, True])
def test_columns_of_nulls_are_rows_without_url_and_caption(
    store: LocalStore, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "SHARED_GROUP", 1 if large else metadata.SHARED_GROUP)
    path = put(store, "a/p.parquet", {"URL": pa.nulls(2), "TEXT": pa.nulls(2), "hash": pa.nulls(2)})
    assert [(r.url, r.caption) for r in metadata.rows(store, path, 0, 3)] == [(None, "")] * 2


def test_text_that_is_not_utf8_is_mended_in_its_row_alone(store: LocalStore) -> None:
    texts = pa.array([b"caf\xc3\xa9", b"caf\xe9", b"\xed\xa0\x80", b"plain"])
    path = put(store, "a/p.parquet", {"URL": ["u"] * 4, "TEXT": texts.view(pa.string())})
    captions = [r.caption for r in metadata.rows(store, path, 0, 4)]
    assert captions == ["caf\xe9", "caf\ufffd", "\ufffd\ufffd\ufffd", "plain"]


def test_names_with_spaces_and_in_two_cases(store: LocalStore, caplog: pytest.LogCaptureFixture) -> None:
    path = put(store, "a/p.parquet", {"url": ["no"], "URL": ["u"], " Text ": ["t"], "text ": ["no"]})
    (row,) = metadata.rows(store, path, 0, 1)
    assert (row.url, row.caption) == ("u", "t")
    assert "column 'url' is passed over, 'URL' is read" in caplog.text
    twice = pa.Table.from_arrays([pa.array(["u"]), pa.array(["no"]), pa.array(["t"])], ["URL", "URL", "TEXT"])
    pq.write_table(twice, store.root / path)
    assert [r.url for r in metadata.rows(store, path, 0, 1)] == ["u"]


@pytest.mark.parametrize("letter", ["x", "\u00e9", "\U0001f600", b"\xff"], ids=repr)
def test_nothing_sees_more_than_the_beginning_of_a_text(store: LocalStore, letter: str | bytes) -> None:
    path = put(store, "a/p.parquet", {"URL": [3_000_000 * letter, 9 * letter], "TEXT": [100_000 * letter] * 2})
    long, short = metadata.rows(store, path, 0, 2)
    shown = letter if isinstance(letter, str) else "\ufffd"
    assert (long.url, long.caption) == (metadata.TEXT_CHARACTERS * shown,) * 2
    assert short.url == 9 * shown
    assert metadata.text(100_000 * shown) == long.caption


@pytest.mark.parametrize(
    "options",
    [{}, {"store_schema": False}, {"use_dictionary": False, "column_encoding": {"TEXT": "DELTA_BYTE_ARRAY"}}],
    ids=["arrow-dictionary", "dictionary", "delta"],
)
def test_captions_that_share_their_bytes_are_read_in_bounded_memory(tmp_path: Path, options: dict) -> None:
    """300 captions of 3 MB, which are a file of some kB."""
    store = LocalStore(tmp_path)
    texts = pa.array(["x" * 3_000_000]).dictionary_encode().take(pa.array([0] * 300, pa.int32()))
    if "column_encoding" in options:
        texts = texts.dictionary_decode()
    table = pa.table({"URL": ["u"] * 300, "TEXT": texts})
    path = put(store, "a/p.parquet", {"URL": ["u"], "TEXT": ["t"]})
    pq.write_table(table, store.root / path, compression="zstd", **options)
    del table, texts
    code = f"""
import sys
from pathlib import Path
from laion_people.storage import metadata
from laion_people.storage.store import LocalStore

def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024

before = peak()
lengths = {{len(r.caption) for r in metadata.rows(LocalStore(Path(sys.argv[1])), {path!r}, 0, 300)}}
print(*lengths, peak() - before)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "plugins")}
    command = [sys.executable, "-c", code, str(tmp_path)]
    out = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    length, megabytes = map(int, out.split())
    assert length == metadata.TEXT_CHARACTERS
    assert megabytes < 600  # 900 are the captions alone


@pytest.mark.parametrize("options", [{}, {"use_dictionary": False, "column_encoding": {"TEXT": "DELTA_BYTE_ARRAY"}}])
def test_large_row_groups_are_streamed_to_the_same_rows(
    store: LocalStore, options: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pa.table({"URL": [f"http://x/{i}" for i in range(999)], "TEXT": [f"t{i % 9}" * 40 for i in range(999)]})
    path = put(store, "a/p.parquet", {"URL": ["u"], "TEXT": ["t"]})
    pq.write_table(table, store.root / path, **options)
    shared = list(metadata.rows(store, path, 100, 900))
    monkeypatch.setattr(metadata, "SHARED_GROUP", 1000)
    assert list(metadata.rows(store, path, 100, 900)) == shared
    assert [r.url for r in shared] == [f"http://x/{i}" for i in range(100, 900)]


def test_a_large_row_group_with_a_huge_value_in_its_dictionary_is_refused(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(store, "a/p.parquet", {"URL": ["u"] * 9, "TEXT": [5_000_000 * "x"] * 9}, row_group_size=9)
    assert len(list(metadata.rows(store, path, 0, 9))) == 9
    monkeypatch.setattr(metadata, "SHARED_GROUP", 1000)
    with pytest.raises(
        LaionPeopleError, match=r"^metadata/a/p.parquet: column TEXT .* 5,000,000 bytes.*\[metadata-columns\]$"
    ):
        list(metadata.rows(store, path, 0, 9))


@pytest.mark.parametrize("place", ["local", "s3"])
def test_a_hole_in_a_part_is_named(
    store: LocalStore, place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    n = 20_000
    path = put(store, "a/p.parquet", {"URL": [f"http://x/{i}" for i in range(n)], "TEXT": ["t"] * n}, row_group_size=n)
    whole = (store.root / path).read_bytes()
    damaged = whole[: len(whole) // 2] + bytes(len(whole) // 4) + whole[len(whole) // 2 + len(whole) // 4 :]
    with moto_server() if place == "s3" else nullcontext() as port:
        where = store
        if port:
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
            where = open_store("s3://bucket/prefix")
            where.client.create_bucket(Bucket="bucket")
        where.write(path, damaged)
        assert metadata.count_rows(where, path) == n
        with pytest.raises(LaionPeopleError, match=r"^metadata/a/p.parquet .*\[damaged-metadata\]$"):
            list(metadata.rows(where, path, 0, n))


def test_a_footer_that_counts_other_rows_is_damage(store: LocalStore) -> None:
    path = put(store, "a/p.parquet", {"URL": ["u"] * 77, "TEXT": ["t"] * 77}, row_group_size=77)
    data = (store.root / path).read_bytes()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    store.write(path, data[:footer] + data[footer:].replace(b"\x9a\x01", b"\x98\x01", 1))  # 77 as a zigzag varint; 76
    with pytest.raises(LaionPeopleError, match=r" 76 rows, .* 77.*\[damaged-metadata\]$"):
        metadata.count_rows(store, path)


def small_part(**options: object) -> bytes:
    n = 60
    table = pa.table(
        {"SAMPLE_ID": range(n), "URL": [f"http://x/{i}" for i in range(n)], "TEXT": [f"t{i % 7}" for i in range(n)]}
        | {"WIDTH": [1.5] * n, "NSFW": ["UNSURE"] * n, "hash": pa.nulls(n, pa.int64())}
    )
    pq.write_table(table, sink := BytesIO(), row_group_size=25, **options)
    return sink.getvalue()


@pytest.mark.parametrize(
    "options", [{}, {"compression": "none", "use_dictionary": False}, {"data_page_version": "2.0"}]
)
def test_whatever_is_damaged_the_part_is_named(store: LocalStore, options: dict) -> None:
    rng = random.Random(5)
    whole, path = small_part(**options), "metadata/a/p.parquet"
    outcomes = Counter()
    for _ in range(250):
        data = bytearray(whole)
        at = rng.randrange(len(data))
        match rng.randrange(3):
            case 0:
                data[at] = rng.randrange(256)
            case 1:
                data = data[:at] + data[-8:]
            case 2:
                data[at : at + 40] = bytes(40)
        store.write(path, bytes(data))
        try:
            read = sum(1 for _ in metadata.rows(store, path, 0, metadata.count_rows(store, path)))
            outcomes[read] += 1
        except LaionPeopleError as error:
            assert path in str(error)
            outcomes["named"] += 1
    assert outcomes["named"] > 100


@pytest.mark.parametrize(
    "odd", [None, "abc", "7", True, float("nan"), float("inf"), 1.5, 1e30, 2**63, -(2**63) - 1, [7], {"a": 7}]
)
def test_an_id_that_is_none_is_passed_over(odd: object) -> None:
    by_url = metadata.sample_id({"url": "u"})
    assert metadata.sample_id({"SAMPLE_ID": odd, "url": "u"}) == by_url
    assert metadata.sample_id({"SAMPLE_ID": odd, "hash": 8, "url": "u"}) == 8


def test_an_id_is_taken_as_it_is_or_made_of_the_url_or_else_of_the_other_name() -> None:
    assert [metadata.sample_id({"SAMPLE_ID": i}) for i in (0, -(2**63), 2**63 - 1, 7.0)] == [
        0, -(2**63), 2**63 - 1, 7
    ]  # fmt: skip
    assert metadata.sample_id({"url": "u"}, "key") == metadata.sample_id({"url": "u"})
    assert metadata.sample_id({"url": 5}, "key") == metadata.sample_id({"url": "key"})
    assert metadata.sample_id({"url": "\ud800"}) == metadata.sample_id({"url": "?"})
