"""The finished store that removals are tried on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from laion_people.storage.store import LocalStore
from tests.removal import store as made


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    with made.picture_server() as url:
        yield url


@pytest.fixture(scope="session")
def finished(server: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("finished") / "store"
    made.fill(LocalStore(root), server)
    return root


@pytest.fixture
def root(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "store")
    return tmp_path / "store"
