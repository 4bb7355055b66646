from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laion_people import metadata
from laion_people.errors import LaionPeopleError, UsageError
from laion_people.store import LocalStore


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


def test_two_files_of_one_key_are_refused(store: LocalStore) -> None:
    put(store, "a/part-00001-x.parquet", {"URL": ["u"], "TEXT": ["t"]})
    put(store, "a/part-00001-y.parquet", {"URL": ["u"], "TEXT": ["t"]})
    with pytest.raises(LaionPeopleError, match="are both partition a/00001"):
        metadata.partitions(store)


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
    with pytest.raises(UsageError, match="should look like laion2B-en/00042"):
        metadata.check_partition(key)


def test_missing_and_broken_parts_are_one_clear_line(store: LocalStore) -> None:
    with pytest.raises(LaionPeopleError, match=r"no metadata for partition a/00001 .*there is: none"):
        metadata.metadata_path(store, "a/00001")
    store.write("metadata/a/p.parquet", b"PAR1 this is not parquet")
    with pytest.raises(LaionPeopleError, match=r"metadata/a/p.parquet is not a Parquet file"):
        metadata.count_rows(store, "metadata/a/p.parquet")
    path = put(store, "a/q.parquet", {"name": ["x"]})
    with pytest.raises(LaionPeopleError, match="no URL and TEXT"):
        list(metadata.rows(store, path, 0, 1))


def test_rows_without_an_id_get_a_stable_one(store: LocalStore) -> None:
    path = put(store, "a/p.parquet", {"URL": ["http://x/1", "http://x/2", None], "TEXT": ["", "", ""]})
    ids = [r.sample_id for r in metadata.rows(store, path, 0, 3)]
    assert len(set(ids)) == 3 and all(0 <= i < 2**63 for i in ids)
    assert ids == [r.sample_id for r in metadata.rows(store, Path(path).as_posix(), 0, 3)]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("url", [b"\xff"]),
        ("url", [["u"]]),
        ("caption", [{"en": "t"}]),
        ("caption", pa.array([b"\xff"]).view(pa.string())),
        ("SAMPLE_ID", ["abc"]),
        ("SAMPLE_ID", [1.5]),
        ("SAMPLE_ID", pa.array([2**63], pa.uint64())),
        ("hash", [float("nan")]),
        ("hash", [b"\xff"]),
        ("WIDTH", ["wide"]),
    ],
)
def test_a_column_of_another_type_is_one_clear_line(store: LocalStore, name: str, values: list | pa.Array) -> None:
    path = put(store, "a/p.parquet", {"url": ["u"], "caption": ["t"], name: values})
    with pytest.raises(LaionPeopleError, match=rf"metadata/a/p.parquet: column {name} is not of LAION's type"):
        list(metadata.rows(store, path, 0, 1))


def test_types_that_hold_the_same_values_are_as_good(store: LocalStore) -> None:
    path = put(store, "a/p.parquet", {"URL": [b"u"], "TEXT": [5], "SAMPLE_ID": [7.0], "hash": ["8"]})
    (row,) = metadata.rows(store, path, 0, 1)
    assert (row.sample_id, row.url, row.caption, row.collection["hash"]) == (7, "u", "5", 8)


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
