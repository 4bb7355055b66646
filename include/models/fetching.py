"""Fetches checkpoints into the cache of weights, checks them, reduces pickles and records the result."""

from __future__ import annotations

import fcntl
import json
import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from include.models import download
from include.models.checkpoints import (
    FETCH,
    HUGGING_FACE_NAME,
    Cache,
    Checkpoint,
    digest,
    find,
    partial,
    read_record,
)
from include.models.errors import ModelError

log = logging.getLogger(__name__)

# Files of a Hugging Face folder: never code, never pickles. A chat template (.jinja) is rendered in Jinja's sandbox.
KINDS = (".safetensors", ".json", ".txt", ".jinja")
PLAIN_NAME = re.compile(r"[\w-][\w.-]*")
LOCK_POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Part:
    """A file to fetch: its place, its source (URL, or path on a mirror) and the first digits of its sha256."""

    target: Path
    source: str
    sha256: str


def fetch(name: str, cache: Cache) -> Path:
    """Fetches missing files, from the mirror if there is one, checks and records them. Returns what a model opens.

    A file that is already in the cache is checked and recorded without the network. Any number of processes may do this
    at once. Raises ModelError if a file is not available or has a wrong sha256.
    """
    checkpoint = find(name)
    record = cache.record(checkpoint)
    if not checkpoint.packaged and not record.exists():
        record.parent.mkdir(parents=True, exist_ok=True)
        with _lock(checkpoint, record):
            if not record.exists():
                _fill(checkpoint, cache)
                return cache.opened(checkpoint)
    return cache.path(name)


def _fill(checkpoint: Checkpoint, cache: Cache) -> None:
    published, opened, record = cache.published(checkpoint), cache.opened(checkpoint), cache.record(checkpoint)
    try:
        digests = {part.target: _checked(part) or _fetch_part(part) for part in _parts(checkpoint, cache)}
    except download.Unavailable as error:
        raise ModelError(
            "weights-unavailable",
            f"{checkpoint.name} could not be fetched: {error.message}. Without network, get it from "
            f"{cache.address(checkpoint)} elsewhere, put it at {published} and run {FETCH} again, or set "
            "LAION_PEOPLE_MODELS_MIRROR to a copy of the LAION_PEOPLE_MODELS_DIR of a machine that has it",
        ) from None
    if checkpoint.pickled:
        from include.models.statedict import reduce

        reduce(published, opened, checkpoint.omits)
        digests[opened] = digest(opened)
    lines = [f"{sha256}  {file.relative_to(record.parent).as_posix()}\n" for file, sha256 in sorted(digests.items())]
    partial(record).write_text("".join(lines))
    partial(record).replace(record)


def _parts(checkpoint: Checkpoint, cache: Cache) -> list[Part]:
    mirror, published = cache.mirror.rstrip("/"), cache.published(checkpoint)
    if checkpoint.folder:
        return _mirror_parts(checkpoint, published, mirror) if mirror else _hub_parts(checkpoint, cache)
    source = f"{mirror}/{checkpoint.file}" if mirror else cache.address(checkpoint)
    return [Part(published, source, checkpoint.sha256)]


def _mirror_parts(checkpoint: Checkpoint, published: Path, mirror: str) -> list[Part]:
    """The files in the mirror's record of the folder."""
    record = f"{mirror}/{checkpoint.file}.sha256"
    parent, folder = published.parent, published.name
    try:
        listed = read_record(download.read_text(record))
    except ModelError as error:
        raise download.Unavailable("weights-unavailable", f"{record}: {error.message}") from None
    if wrong := [file for file in listed if not file.startswith(f"{folder}/") or not file.endswith(KINDS)]:
        raise download.Unavailable("weights-unavailable", f"{record} lists {wrong[0]}, which does not belong there")
    base = f"{mirror}/{checkpoint.file.rpartition('/')[0]}"
    return [Part(parent / file, f"{base}/{file}", sha256) for file, sha256 in listed.items()]


def _hub_parts(checkpoint: Checkpoint, cache: Cache) -> list[Part]:
    """The files of a repository of the hub at its revision; the hub gives the sha256 of the large ones."""
    match = HUGGING_FACE_NAME.fullmatch(checkpoint.name)
    assert match
    repository, revision = match.groups()
    hub = cache.address(checkpoint).removesuffix(f"/{repository}/tree/{revision}")
    listing = download.read_text(f"{hub}/api/models/{repository}/revision/{revision}?blobs=true")
    try:
        digests = {f["rfilename"]: (f.get("lfs") or {}).get("sha256", "") for f in json.loads(listing)["siblings"]}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise download.Unavailable(
            "weights-unavailable", f"{hub} does not answer as a hub of Hugging Face does"
        ) from None
    wanted = {file: sha256 for file, sha256 in digests.items() if PLAIN_NAME.fullmatch(file) and file.endswith(KINDS)}
    if not any(file.endswith(".safetensors") for file in wanted):
        raise ModelError(
            "unsafe-weights", f"{checkpoint.name}: the repository holds no safetensors, and pickles are not loaded"
        )
    base, folder = f"{hub}/{repository}/resolve/{revision}", cache.published(checkpoint)
    return [Part(folder / file, f"{base}/{quote(file)}", sha256) for file, sha256 in wanted.items()]


def _checked(part: Part) -> str:
    """The sha256 of a file that is already there, or an empty string."""
    if not part.target.exists():
        return ""
    if not (actual := digest(part.target)).startswith(part.sha256):
        wrong = f"{part.target} has sha256 {actual[:12]}..., not {part.sha256[:12]}..."
        raise ModelError("altered-weights", f"{wrong}: remove it and run {FETCH} again")
    return actual


def _fetch_part(part: Part) -> str:
    """Fetches a file to its place and returns its sha256. A file with a wrong sha256 is removed."""
    part.target.parent.mkdir(parents=True, exist_ok=True)
    arrived = partial(part.target)
    download.fetch_file(part.source, arrived)
    if not (actual := digest(arrived)).startswith(part.sha256):
        arrived.unlink()
        wrong = f"what came from {part.source} has sha256 {actual[:12]}..., not {part.sha256[:12]}..."
        raise ModelError(
            "altered-weights",
            f"{wrong}: removed. Run {FETCH} again; if the same comes again, it is not the file that was published",
        )
    arrived.replace(part.target)
    return actual


@contextmanager
def _lock(checkpoint: Checkpoint, record: Path) -> Iterator[None]:
    """Lets one process at a time fetch a checkpoint. The others wait, and then the file is there."""
    with record.with_suffix(".lock").open("w") as file:
        last_logged = -download.HEARTBEAT_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() - last_logged >= download.HEARTBEAT_SECONDS:
                    last_logged = time.monotonic()
                    log.info("%s: another process is fetching it; waiting", checkpoint.name)
                time.sleep(LOCK_POLL_SECONDS)
        yield
