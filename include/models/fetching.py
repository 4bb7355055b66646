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
    Checkpoint,
    digest,
    find,
    partial,
    path,
    read_record,
)
from laion_people import settings
from laion_people.errors import LaionPeopleError

log = logging.getLogger("laion_people.models")

KINDS = (".safetensors", ".json", ".txt")  # of a folder of Hugging Face's: never code, never pickles
PLAIN_NAME = re.compile(r"[\w-][\w.-]*")
LOCK_POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Part:
    """A file to fetch: its place, its source (URL, or path on a mirror) and how its sha256 begins."""

    target: Path
    source: str
    sha256: str


def fetch(name: str) -> Path:
    """Fetches what is missing, from the mirror if there is one, checks and records it; returns what a model opens.

    A file that lies in the cache already is checked and recorded without the network. Any number of processes may do
    this at once. Raises LaionPeopleError when something cannot be had or is not what it should be.
    """
    checkpoint = find(name)
    if not checkpoint.packaged and not checkpoint.record.exists():
        checkpoint.record.parent.mkdir(parents=True, exist_ok=True)
        with _lock(checkpoint):
            if not checkpoint.record.exists():
                _fill(checkpoint)
                return checkpoint.opened
    return path(name)


def _fill(checkpoint: Checkpoint) -> None:
    try:
        digests = {part.target: _checked(part) or _bring(part) for part in _parts(checkpoint)}
    except download.Unavailable as error:
        raise LaionPeopleError(
            f"{checkpoint.name} could not be fetched: {error}. Without network, get it from {checkpoint.address} "
            f"elsewhere, put it at {checkpoint.published} and run {FETCH} again, or set LAION_PEOPLE_MODELS_MIRROR to "
            "a copy of the LAION_PEOPLE_MODELS_DIR of a machine that has it"
        ) from None
    if checkpoint.pickled:
        from include.models.statedict import reduce

        reduce(checkpoint.published, checkpoint.opened)
        digests[checkpoint.opened] = digest(checkpoint.opened)
    record, folder = checkpoint.record, checkpoint.record.parent
    lines = [f"{sha256}  {file.relative_to(folder).as_posix()}\n" for file, sha256 in sorted(digests.items())]
    partial(record).write_text("".join(lines))
    partial(record).replace(record)


def _parts(checkpoint: Checkpoint) -> list[Part]:
    mirror = settings.from_environment().models_mirror.rstrip("/")
    if checkpoint.folder:
        return _of_mirrored_folder(checkpoint, mirror) if mirror else _of_hub(checkpoint)
    source = f"{mirror}/{checkpoint.file}" if mirror else checkpoint.address
    return [Part(checkpoint.published, source, checkpoint.sha256)]


def _of_mirrored_folder(checkpoint: Checkpoint, mirror: str) -> list[Part]:
    """The files that the mirror's record of the folder lists."""
    record = f"{mirror}/{checkpoint.file}.sha256"
    parent, folder = checkpoint.record.parent, checkpoint.published.name
    try:
        listed = read_record(download.read_text(record))
    except LaionPeopleError as error:
        raise download.Unavailable(f"{record}: {error}") from None
    if wrong := [file for file in listed if not file.startswith(f"{folder}/") or not file.endswith(KINDS)]:
        raise download.Unavailable(f"{record} lists {wrong[0]}, which does not belong there")
    base = f"{mirror}/{checkpoint.file.rpartition('/')[0]}"
    return [Part(parent / file, f"{base}/{file}", sha256) for file, sha256 in listed.items()]


def _of_hub(checkpoint: Checkpoint) -> list[Part]:
    """The files of a repository of the hub at its revision; the hub tells the sha256 of the large ones."""
    match = HUGGING_FACE_NAME.fullmatch(checkpoint.name)
    assert match
    repository, revision = match.groups()
    hub = checkpoint.address.removesuffix(f"/{repository}/tree/{revision}")
    listing = download.read_text(f"{hub}/api/models/{repository}/revision/{revision}?blobs=true")
    try:
        found = {f["rfilename"]: (f.get("lfs") or {}).get("sha256", "") for f in json.loads(listing)["siblings"]}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise download.Unavailable(f"{hub} does not answer as a hub of Hugging Face does") from None
    wanted = {file: sha256 for file, sha256 in found.items() if PLAIN_NAME.fullmatch(file) and file.endswith(KINDS)}
    if not any(file.endswith(".safetensors") for file in wanted):
        raise LaionPeopleError(f"{checkpoint.name}: the repository holds no safetensors, and pickles are not loaded")
    base = f"{hub}/{repository}/resolve/{revision}"
    return [Part(checkpoint.published / file, f"{base}/{quote(file)}", sha256) for file, sha256 in wanted.items()]


def _checked(part: Part) -> str:
    """The sha256 of a file that is there already, or an empty string."""
    if not part.target.exists():
        return ""
    if not (actual := digest(part.target)).startswith(part.sha256):
        wrong = f"{part.target} has sha256 {actual[:12]}..., not {part.sha256[:12]}..."
        raise LaionPeopleError(f"{wrong}: remove it and run {FETCH} again")
    return actual


def _bring(part: Part) -> str:
    """Fetches a file to its place and returns its sha256; what is not what it should be is removed."""
    part.target.parent.mkdir(parents=True, exist_ok=True)
    arrived = partial(part.target)
    download.bring(part.source, arrived)
    if not (actual := digest(arrived)).startswith(part.sha256):
        arrived.unlink()
        wrong = f"what came from {part.source} has sha256 {actual[:12]}..., not {part.sha256[:12]}..."
        raise LaionPeopleError(
            f"{wrong}: removed. Run {FETCH} again; if the same comes again, it is not the file that was published"
        )
    arrived.replace(part.target)
    return actual


@contextmanager
def _lock(checkpoint: Checkpoint) -> Iterator[None]:
    """Lets one process at a time fetch a checkpoint; the others wait and then find it there."""
    with checkpoint.record.with_suffix(".lock").open("w") as file:
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
