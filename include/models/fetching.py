"""Fetches checkpoints into the cache of weights, checks them, reduces pickles and records what is there."""

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

KINDS = (".safetensors", ".json", ".txt")  # of a folder of Hugging Face's: never code, never pickles
PLAIN_NAME = re.compile(r"[\w-][\w.-]*")
LOCK_POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Part:
    """A file to fetch: its place, its source (URL, or path on a mirror) and how its sha256 begins."""

    target: Path
    source: str
    sha256: str


def fetch(name: str, cache: Cache) -> Path:
    """Fetches what is missing, from the mirror if there is one, checks and records it; returns what a model opens.

    A file that lies in the cache already is checked and recorded without the network. Any number of processes may do
    this at once. Raises ModelError when something cannot be had or is not what it should be.
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
        digests = {part.target: _checked(part) or _bring(part) for part in _parts(checkpoint, cache)}
    except download.Unavailable as error:
        raise ModelError(
            "weights-unavailable",
            f"{checkpoint.name} could not be fetched: {error.message}. Without network, get it from "
            f"{cache.address(checkpoint)} elsewhere, put it at {published} and run {FETCH} again, or set "
            "LAION_PEOPLE_MODELS_MIRROR to a copy of the LAION_PEOPLE_MODELS_DIR of a machine that has it",
        ) from None
    if checkpoint.pickled:
        from include.models.statedict import reduce

        reduce(published, opened)
        digests[opened] = digest(opened)
    lines = [f"{sha256}  {file.relative_to(record.parent).as_posix()}\n" for file, sha256 in sorted(digests.items())]
    partial(record).write_text("".join(lines))
    partial(record).replace(record)


def _parts(checkpoint: Checkpoint, cache: Cache) -> list[Part]:
    mirror, published = cache.mirror.rstrip("/"), cache.published(checkpoint)
    if checkpoint.folder:
        return _of_mirrored_folder(checkpoint, published, mirror) if mirror else _of_hub(checkpoint, cache)
    source = f"{mirror}/{checkpoint.file}" if mirror else cache.address(checkpoint)
    return [Part(published, source, checkpoint.sha256)]


def _of_mirrored_folder(checkpoint: Checkpoint, published: Path, mirror: str) -> list[Part]:
    """The files that the mirror's record of the folder lists."""
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


def _of_hub(checkpoint: Checkpoint, cache: Cache) -> list[Part]:
    """The files of a repository of the hub at its revision; the hub tells the sha256 of the large ones."""
    match = HUGGING_FACE_NAME.fullmatch(checkpoint.name)
    assert match
    repository, revision = match.groups()
    hub = cache.address(checkpoint).removesuffix(f"/{repository}/tree/{revision}")
    listing = download.read_text(f"{hub}/api/models/{repository}/revision/{revision}?blobs=true")
    try:
        found = {f["rfilename"]: (f.get("lfs") or {}).get("sha256", "") for f in json.loads(listing)["siblings"]}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise download.Unavailable(
            "weights-unavailable", f"{hub} does not answer as a hub of Hugging Face does"
        ) from None
    wanted = {file: sha256 for file, sha256 in found.items() if PLAIN_NAME.fullmatch(file) and file.endswith(KINDS)}
    if not any(file.endswith(".safetensors") for file in wanted):
        raise ModelError(
            "unsafe-weights", f"{checkpoint.name}: the repository holds no safetensors, and pickles are not loaded"
        )
    base, folder = f"{hub}/{repository}/resolve/{revision}", cache.published(checkpoint)
    return [Part(folder / file, f"{base}/{quote(file)}", sha256) for file, sha256 in wanted.items()]


def _checked(part: Part) -> str:
    """The sha256 of a file that is there already, or an empty string."""
    if not part.target.exists():
        return ""
    if not (actual := digest(part.target)).startswith(part.sha256):
        wrong = f"{part.target} has sha256 {actual[:12]}..., not {part.sha256[:12]}..."
        raise ModelError("altered-weights", f"{wrong}: remove it and run {FETCH} again")
    return actual


def _bring(part: Part) -> str:
    """Fetches a file to its place and returns its sha256; what is not what it should be is removed."""
    part.target.parent.mkdir(parents=True, exist_ok=True)
    arrived = partial(part.target)
    download.bring(part.source, arrived)
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
    """Lets one process at a time fetch a checkpoint; the others wait and then find it there."""
    with record.with_suffix(".lock").open("w") as file:
        told = -download.HEARTBEAT_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() - told >= download.HEARTBEAT_SECONDS:
                    told = time.monotonic()
                    log.info("%s: another process is fetching it; waiting", checkpoint.name)
                time.sleep(LOCK_POLL_SECONDS)
        yield
