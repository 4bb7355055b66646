"""Errors that a user reads: one line that says what is wrong and what to do, and the code of its entry in the runbook,
docs/operations.md. The exit code goes with the class.

What a library raises about one hostile row is that row's reason, whatever its type. But an error that is the machine's
own shortage says nothing about the row::

    try:
        picture = decode(body)
    except Exception as error:
        check_shortage(error)  # raises ShortageError, which fails the shard
        reason = "not_an_image"
"""

from __future__ import annotations

import errno
import os

from include.models.errors import CodedError, without_logins
from include.models.errors import coded as coded

KEPT = "what is finished is kept"
GO_ON = f"{KEPT}: clear the task, or run the command again, to go on"


class LaionPeopleError(CodedError):
    """A step failed."""


class UsageError(LaionPeopleError):
    """Wrong usage or configuration (exit code 2)."""

    exit_code = 2


class OutsideError(LaionPeopleError):
    """The store or the machine fails, which says nothing of the data: who takes other errors for damage raises it."""


class StoreError(OutsideError):
    """A store cannot be read or written."""


class MissingError(StoreError):
    """A file of a store is not there."""


class ShortageError(OutsideError):
    """The machine lacks something (files, memory, disk, ports); the message says what to raise."""


def check_shortage(error: BaseException, where: str = "") -> None:
    """Raises ShortageError, which begins with ``where``, when ``error``, or what it was raised from, is the machine's
    own shortage. What is a CodedError already says itself what is wrong.

    Much hides its cause: a look-up that can open no socket says that the name is unknown, TLS that a certificate which
    it could not read does not hold, an import that there is no such module. So files must be to be had, too.
    """
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:
        if isinstance(cause, ShortageError):
            raise cause
        if isinstance(cause, CodedError):
            return
        if fault := _machine_fault(cause):
            raise fault.at(where) from error
        seen.add(id(cause))
        cause = cause.__cause__ or cause.__context__
    if fault := _no_files_fault():
        raise fault.at(where) from error


def _machine_fault(error: BaseException) -> ShortageError | None:
    """Not EADDRNOTAVAIL: that can be the address's fault as well as a lack of ports, which `fetch` tells apart."""
    match errno.ENOMEM if isinstance(error, MemoryError) else getattr(error, "errno", None):
        case errno.EMFILE:
            return ShortageError(
                "machine-limit", "too many open files: raise `ulimit -n`, or lower LAION_PEOPLE_URL_THREADS"
            )
        case errno.ENFILE:
            return ShortageError(
                "machine-limit", "too many open files on this machine: raise fs.file-max, or run fewer tasks at a time"
            )
        case errno.ENOMEM:
            return ShortageError("out-of-memory", "out of memory: give it more, or fewer threads (LAION_PEOPLE_CORES)")
        case errno.ENOBUFS:
            return ShortageError(
                "machine-limit",
                "no network buffers are left: lower LAION_PEOPLE_URL_THREADS, or run fewer tasks at a time",
            )
        case errno.ENOSPC:
            return ShortageError(
                "disk-full", "No space left on device: free some, or point TMPDIR and the store at a larger disk"
            )
        case errno.EFBIG:
            return ShortageError(
                "machine-limit", "File too large: raise `ulimit -f`, or take fewer LAION_PEOPLE_SHARD_ROWS"
            )
        case errno.EDQUOT:
            return ShortageError("disk-full", "disk quota exceeded: free some space, or raise the quota")
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):  # as CPython says EAGAIN
        return ShortageError("machine-limit", "no more threads: raise `ulimit -u`, or lower LAION_PEOPLE_URL_THREADS")
    return None


def _no_files_fault() -> ShortageError | None:
    """Why not even four files can be opened, or None. A look-up needs some at a time."""
    opened: list[int] = []
    try:
        for _ in range(2):
            opened += os.pipe()
    except OSError as error:
        return _machine_fault(error)
    finally:
        for file in opened:
            os.close(file)
    return None


def one_line(text: object, most: int = 1000) -> str:
    """``text`` as one line of a log or a message: nothing that a terminal would obey, ``most`` characters at most."""
    line = " ".join("".join(c if c.isprintable() else " " for c in without_logins(str(text))).split())
    return line if len(line) <= most else f"{line[: most - 4]} ..."
