"""Steps read what was removed at the start of each shard."""

from __future__ import annotations

from pathlib import Path

import pytest

from laion_people.engine.work import Shard
from laion_people.errors import LaionPeopleError
from laion_people.settings import Settings
from laion_people.steps.compose.step import Compose
from laion_people.storage import removals
from laion_people.storage.removals import Removal, RemovalsReader, Removed, digest, path_of, read_removed
from laion_people.storage.store import LocalStore
from tests.counting import CountingStore
from tests.fakes import FakeModels
from tests.steps.test_compose import PARTITION, Scene


def removal(removal_id: str, *urls: str) -> Removal:
    digests = tuple(map(digest, urls))
    return Removal(id=removal_id, at="2026-11-30T12:00:00+00:00", by="Ada", reason="mail", asked={}, urls=digests)


def grounds(files: dict[str, Path], store: LocalStore, removed: Removed) -> set[str]:
    shard = Shard(
        PARTITION,
        0,
        settings=Settings(composites=20),
        store=store,
        model=lambda role: FakeModels.KINDS[role](),
        files=files,
        columns=Compose.entry.reads,
        removed=lambda: removed,
    )
    return {row["background_key"] for row in Compose().apply(shard)}


def test_a_removed_image_is_no_background(tmp_path: Path, store: LocalStore) -> None:
    """Of shards made elsewhere, whose tars may still have it: nobody was found in it, so no table tells of it."""
    files = Scene(people=24, backgrounds=2).write(tmp_path / "scene")
    keys = grounds(files, store, Removed([]))
    assert len(keys) == 2
    gone = max(keys)
    assert grounds(files, store, Removed([removal("a", f"http://example.org/{gone}.jpg")])) == keys - {gone}


def test_removals_are_read_once_until_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removals, "FRESH_SECONDS", -1.0)
    store = CountingStore(tmp_path)
    reader = RemovalsReader(store)
    assert not reader.read()
    for name in "ab":
        store.write(path_of(name), removal(name, f"http://{name}.example/").to_json())
    assert reader.read().has_url("http://a.example/") and not reader.read().has_url("http://c.example/")
    store.paths = []
    for _ in range(5):
        assert reader.read().has_url(" http://b.example/")
    assert store.requests == {"list": 5}
    store.write(path_of("c"), removal("c", "http://c.example/").to_json())
    store.paths = []
    assert reader.read().has_url("http://c.example/")
    assert store.requests == {"list": 1, "get": 1}


def test_shards_that_are_done_in_no_time_look_once(tmp_path: Path) -> None:
    store = CountingStore(tmp_path)
    reader = RemovalsReader(store)
    for _ in range(5):
        reader.read()
    assert store.requests == {"list": 1}


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b'{"id": 1}'])
def test_a_damaged_removal_stops_everything(store: LocalStore, damage: bytes) -> None:
    store.write(path_of("ab"), damage)
    with pytest.raises(LaionPeopleError, match=r"\[damaged-removal\]"):
        read_removed(store)
