"""Only the shards concerned are read, however many there are, and the index is made once."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from laion_people.errors import LaionPeopleError
from laion_people.removal import index as indexes
from laion_people.removal.find import Finder, partitions_of
from laion_people.removal.images import shard_files
from laion_people.removal.index import Index
from laion_people.removal.names import Names
from laion_people.storage.layout import manifest_path
from laion_people.storage.removals import Removed
from laion_people.storage.store import LocalStore, Store, open_store
from tests.bucket import bucket
from tests.counting import CountingStore

PARTITIONS = ("laion2B-en/00000", "laion2B-en/00001")
SHARDS, ROWS = 40, 50


def url(partition: str, number: int) -> str:
    return f"http://example.org/{partition[-1]}/{number}.jpg"


def write_shard(store: Store, partition: str, index: int, start: int = 0) -> None:
    numbers = range(start + index * ROWS, start + (index + 1) * ROWS)
    keys = [f"{index:05d}{i:04d}" for i in range(ROWS)]
    images = {
        "key": keys,
        "url": [url(partition, number) for number in numbers],
        "sha256": [f"{number:064x}" for number in numbers],
        "sample_id": list(numbers),
        "reason": pa.nulls(ROWS, pa.string()),
    }
    people = {"person_id": [f"{partition}/{index:05d}/{key}/0" for key in keys]} | {
        name: images[name] for name in ("key", "url", "sample_id")
    }
    for table, rows in (("images", images), ("people", people)):
        with store.writer(f"{table}/{partition}/{index:05d}.parquet") as path:
            pq.write_table(pa.table(rows), path)


def fill(store: Store, shards: int = SHARDS) -> None:
    for partition in PARTITIONS:
        store.write(manifest_path("download", partition), b"{}")
    for partition, index in itertools.product(PARTITIONS, range(shards)):
        write_shard(store, partition, index, start=0 if partition == PARTITIONS[0] else 10**6)


def places(store: Store, *urls: str) -> set[tuple[str, int]]:
    return set(Finder(store, PARTITIONS).find(Names(urls=frozenset(urls)), Removed([])).images)


@pytest.fixture
def store(tmp_path: Path) -> CountingStore:
    store = CountingStore(tmp_path)
    fill(store)
    return store


def test_a_thousand_names_read_only_the_shards_concerned(store: CountingStore) -> None:
    assert partitions_of(store) == list(PARTITIONS)
    assert places(store) == set()
    names = [url(PARTITIONS[0], number) for shard in (3, 17) for number in range(shard * ROWS, (shard + 1) * ROWS)]
    unknown = [f"http://elsewhere.example/{number}" for number in range(900)]
    assert places(store, unknown[0]) == set()  # the first removal, which makes the index
    store.paths = []
    assert places(store, *names, *unknown) == {(PARTITIONS[0], 3), (PARTITIONS[0], 17)}
    assert {path for kind, path in store.paths if kind == "get" and not path.startswith("removals/")} == {
        f"{table}/{PARTITIONS[0]}/{shard}.parquet" for table in ("images", "people") for shard in ("00003", "00017")
    }
    assert not [path for kind, path in store.paths if kind == "put"]
    assert len(store.paths) < 60


def test_only_shards_that_have_changed_are_read_once_more(store: CountingStore) -> None:
    places(store, "http://a.example/")
    write_shard(store, PARTITIONS[1], 5, start=5 * 10**6)
    store.paths = []
    assert places(store, url(PARTITIONS[1], 5 * 10**6 + 5 * ROWS)) == {(PARTITIONS[1], 5)}
    assert {path for kind, path in store.paths if kind == "get" and not path.startswith("removals/")} == {
        f"{table}/{PARTITIONS[1]}/00005.parquet" for table in ("images", "people")
    }
    assert places(store, url(PARTITIONS[1], 10**6 + 5 * ROWS)) == set()  # what it had before


def test_a_bucket_is_asked_as_seldom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "DEFAULT_REGION"):
        monkeypatch.setenv(f"AWS_{name}", "none")
    counted = {}
    for shards in (10, 30):
        with bucket(tmp_path / str(shards)) as served:
            monkeypatch.setenv("AWS_ENDPOINT_URL", served.url)
            store = open_store("s3://bucket/prefix")
            fill(store, shards)
            places(store, "http://a.example/")
            served.counts.clear()
            assert places(store, url(PARTITIONS[0], 3)) == {(PARTITIONS[0], 0)}
            counted[shards] = served.requests()
    assert counted[10] == counted[30] < 60


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks, files and merging of the index as of a store of billions."""
    monkeypatch.setattr(indexes, "BLOCK", 4)
    monkeypatch.setattr(indexes, "SHARDS", 3)
    monkeypatch.setattr(indexes, "MOST_SMALL", 5)


def high(names: Iterable[int]) -> np.ndarray:
    """As digests are: all over the 64 bits."""
    return np.array(list(names), np.uint64) << np.uint64(58)


@pytest.mark.usefixtures("small")
def test_every_name_is_found_where_it_is_whatever_the_index_went_through(tmp_path: Path) -> None:
    store, rng = LocalStore(tmp_path), np.random.default_rng(7)
    partition = PARTITIONS[0]
    contents: dict[int, list[int]] = {}
    for _ in range(6):
        for shard in rng.integers(0, 12, 4).tolist():
            contents[shard] = rng.integers(0, 60, 9).tolist()  # names come in several shards, and twice in one
            store.write(f"images/{partition}/{shard:05d}.parquet", str(contents[shard]).encode())
        shards = shard_files(store, partition, elsewhere=False)
        made = Index(store, partition, "names", shards.values(), lambda shard: high(contents[shard.index]))
        for name in range(60):
            found = made.shards(high([name]))
            assert {shard for shard, names in contents.items() if name in names} <= found
        several = made.shards(high(range(60)))
        assert several == set(contents)
    files = store.list(f"removals/index/{partition}")
    assert len(files) <= 1 + 5 + 2
    assert {file.path for file in made.files} | {f"removals/index/{partition}/names.json"} == set(files)


@pytest.mark.parametrize("damage", [b"", b"[{}]", b"{", b'[{"path": 1}]'])
def test_a_damaged_index_says_what_to_delete(store: CountingStore, damage: bytes) -> None:
    places(store, "http://a.example/")
    store.write(f"removals/index/{PARTITIONS[0]}/names.json", damage)
    with pytest.raises(LaionPeopleError, match=r"delete the folder removals/index/laion2B-en/00000 \[damaged-file\]"):
        places(store, url(PARTITIONS[0], 3))
    for path in store.list(f"removals/index/{PARTITIONS[0]}"):
        store.delete(path)
    assert places(store, url(PARTITIONS[0], 3)) == {(PARTITIONS[0], 0)}


def test_a_damaged_table_of_images_is_said(store: CountingStore) -> None:
    store.write(f"images/{PARTITIONS[0]}/00007.parquet", b"PAR1")
    with pytest.raises(LaionPeopleError, match=r"00007.parquet is damaged .* \[damaged-file\]"):
        places(store, url(PARTITIONS[0], 3))
