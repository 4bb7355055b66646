"""What `bin/laion-people models` does: lists, fetches and verifies the weights of profiles."""

from __future__ import annotations

import sys

from include.models import checkpoints
from include.models.profiles import Profile, available, load_profile
from laion_people.errors import LaionPeopleError, without_logins


def describe(profile: Profile | None) -> str:
    """A table of the checkpoints of a profile, or of all that are known: name, state, size, licence, users, source."""
    profiles = [profile] if profile else [load_profile(name) for name in available()]
    names = profile.checkpoints() if profile else list(checkpoints.CHECKPOINTS)
    rows = [("NAME", "STATE", "SIZE", "LICENCE", "PROFILES", "SOURCE")]
    for name in names:
        found = checkpoints.find(name)
        users = ",".join(p.name for p in profiles if name in p.checkpoints()) or "-"
        source = f"{found.source}, {without_logins(found.address)}" if found.address else found.source
        rows.append((name, checkpoints.state(name), _size(found), found.licence, users, source))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    return "\n".join("  ".join([*(f"{row[i]:{wide}}" for i, wide in enumerate(widths)), row[-1]]) for row in rows)


def fetch(profile: Profile) -> None:
    """Fetches what the profile lacks and checks what is there. Raises LaionPeopleError when something can't be had."""
    from include.models import fetching

    for name in profile.checkpoints():
        print(f"{name}: {fetching.fetch(name)}")


def verify(profile: Profile) -> int:
    """Checks every file of the profile and prints what is found; returns how many checkpoints are not right."""
    bad = 0
    for name in profile.checkpoints():
        try:
            checkpoints.verify(name)
        except LaionPeopleError as error:
            bad += 1
            print(f"laion-people: {error}", file=sys.stderr)
        else:
            print(f"{name}: sha256 {checkpoints.sha256(name)}")
    return bad


def _size(checkpoint: checkpoints.Checkpoint) -> str:
    if checkpoint.packaged or checkpoint.published.is_file():
        return f"{checkpoint.published.stat().st_size / 1e6:.1f} MB"
    return f"{checkpoint.size / 1e6:.1f} MB" if checkpoint.size else "?"
