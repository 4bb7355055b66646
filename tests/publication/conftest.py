"""Publications of a small store, and what keeps those who load them from the network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from laion_people.publication.build import publish
from laion_people.publication.choice import Options
from laion_people.publication.release import Publication
from laion_people.publication.writing import Limits
from laion_people.settings import Settings
from laion_people.storage.store import LocalStore
from tests.publication.audited import make_audited

EDITIONS = {
    "links": Options(),
    "geometry": Options(edition="geometry", pictures=False),
    "without-pictures": Options(pictures=False),
}
SMALL = Limits(file=12_000, group=4_000, pictures=3)  # several files of each table, and several tars


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Publication]]:
    """The folder and the record of a publication of each of the editions."""
    store = LocalStore(tmp_path_factory.mktemp("store"))
    make_audited(store, images=30)
    out = LocalStore(tmp_path_factory.mktemp("out"))
    settings = Settings(contact="removals@example.org", licence="cc-by-4.0")
    published = {
        name: publish(store, out, name, "1.0.0", (), options, settings, SMALL) for name, options in EDITIONS.items()
    }
    return {name: (out.root / "releases" / name / "1.0.0", record) for name, record in published.items()}


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nobody connects to anything, and nothing is kept from other tests. Set before `datasets` reads it, at import."""

    def refuse(*where: object) -> None:
        raise AssertionError(f"asks the network: {where[1:]}")

    with pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.mktemp("cache")
        patch.setattr("socket.socket.connect", refuse)
        patch.setattr("socket.getaddrinfo", refuse)
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
            patch.setenv(name, "1")
        patch.setenv("HF_DATASETS_CACHE", str(cache / "datasets"))
        patch.setenv("CROISSANT_CACHE", str(cache / "croissant"))
        yield
