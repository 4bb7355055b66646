"""What `remove` tells: what leaves, by table, and how to prove that it has left."""

from __future__ import annotations

from laion_people.removal.plan import Plan, unfinished
from laion_people.storage.removals import Removal, read_removals
from laion_people.storage.store import Store

MOST_IDS = 50  # that a look at what would leave tells
PROOF = "bin/laion-people audit --stage removals reads every file, and proves it"


def planned(plan: Plan) -> str:
    """What a plan takes out, a line for each table; that nothing was found is no error: it must not come in later."""
    images = sum(len(shard.keys) for shard in plan.shards)
    asked = _asked(plan.removal)
    if not images:
        return f"{asked}: nothing of it is in the store; a removal keeps it out all the same"
    lines = [f"{asked}: {images:,} images in {len(plan.shards):,} shards, with everybody in them"]
    return "\n".join([*lines, *(f"  {table:12} {count:,}" for table, count in plan.rows().items())])


def images(plan: Plan) -> str:
    """The ids of the images that would leave, to be looked at on the page People: MOST_IDS of them."""
    ids = plan.images()
    more = [f"  and {len(ids) - MOST_IDS:,} more"] if len(ids) > MOST_IDS else []
    return "\n".join([*(f"  {each}" for each in ids[:MOST_IDS]), *more])


def done(removal: Removal) -> str:
    return f"removal {removal.id} is done: {PROOF}"


def listed(store: Store) -> str:
    """A line for each removal, oldest first."""
    open_ones = set(unfinished(store))
    lines = []
    for removal in read_removals(store):
        rows = ", ".join(f"{count:,} {table}" for table, count in removal.rows.items()) or "nothing was there"
        end = "unfinished: remove --resume" if removal.id in open_ones or not removal.done else f"done {removal.done}"
        lines.append(f"{removal.id}  {removal.at}  {removal.by}: {removal.reason} ({_asked(removal)}): {rows}; {end}")
    return "\n".join(lines) or "nothing was removed"


def _asked(removal: Removal) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in removal.asked.items())
