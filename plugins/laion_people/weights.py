"""What `bin/laion-people models` does: lists, fetches and verifies the weights of profiles."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from include.models.checkpoints import CHECKPOINTS, HUGGING_FACE, Cache, Checkpoint, find
from include.models.errors import ModelError, without_logins
from include.models.profiles import Profile, available, load_profile
from laion_people.settings import Settings


def cache_of(settings: Settings, environ: Mapping[str, str]) -> Cache:
    """The cache of weights that the settings name; HF_ENDPOINT of ``environ`` names a mirror of Hugging Face's hub."""
    return Cache(Path(settings.models_dir), settings.models_mirror, environ.get("HF_ENDPOINT", HUGGING_FACE))


def describe(profile: Profile | None, cache: Cache) -> str:
    """A table of the checkpoints of a profile, or of all that are known: name, state, size, licence, users, source."""
    profiles = [profile] if profile else [load_profile(name) for name in available()]
    names = profile.checkpoints() if profile else list(CHECKPOINTS)
    rows = [("NAME", "STATE", "SIZE", "LICENCE", "PROFILES", "SOURCE")]
    for name in names:
        checkpoint = find(name)
        users = ",".join(p.name for p in profiles if name in p.checkpoints()) or "-"
        source = (
            f"{checkpoint.source}, {without_logins(cache.address(checkpoint))}" if checkpoint.url else checkpoint.source
        )
        rows.append((name, cache.state(name), _size(checkpoint, cache), checkpoint.licence, users, source))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    return "\n".join("  ".join([*(f"{row[i]:{wide}}" for i, wide in enumerate(widths)), row[-1]]) for row in rows)


def fetch(profile: Profile) -> None:
    """Fetches what the profile lacks and checks what is there. Raises LaionPeopleError when something can't be had."""
    from include.models import fetching

    for name in profile.checkpoints():
        print(f"{name}: {fetching.fetch(name, profile.cache)}")


def verify(profile: Profile) -> int:
    """Checks every file of the profile and prints what is checkpoint; returns how many checkpoints are not right."""
    bad = 0
    for name in profile.checkpoints():
        try:
            profile.cache.verify(name)
        except ModelError as error:
            bad += 1
            print(f"laion-people: {error}", file=sys.stderr)
        else:
            print(f"{name}: sha256 {profile.cache.sha256(name)}")
    return bad


def _size(checkpoint: Checkpoint, cache: Cache) -> str:
    published = cache.published(checkpoint)
    if checkpoint.packaged or published.is_file():
        return f"{published.stat().st_size / 1e6:.1f} MB"
    return f"{checkpoint.size / 1e6:.1f} MB" if checkpoint.size else "?"
