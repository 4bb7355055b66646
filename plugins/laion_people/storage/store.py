"""The store: a folder or an S3 prefix that holds everything a run reads and writes.

Paths are relative to the store, with forward slashes. A file is written whole or not at all: `writer` gives a temporary
local file and puts it in place when the block ends without an error.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import random
import re
import shutil
import stat
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import unquote

from laion_people.errors import MissingError, StoreError, UsageError, check_shortage
from laion_people.settings import from_environment

ROOT = Path(__file__).resolve().parents[3]
MISSING = (FileNotFoundError, NotADirectoryError)
STALE_SECONDS = 24 * 3600
ATTEMPTS = 8  # over about a minute: steps outlast a bucket that is overloaded
CONNECT_SECONDS = 10.0
FASTER = ("PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey")  # as S3 says that a file has changed
UPDATES = 30  # of one file: each time that one fails, somebody else's has succeeded
CONNECTIONS = 32  # as many as threads that read at a time; boto3's own 10 make the others wait or connect anew
IN_PARTS = 8 << 20  # bytes above which a file goes to a bucket in parts, as boto3 itself has it
AHEAD = 1 << 20  # bytes that a request to a bucket brings at least, where a file is read in pieces
BUCKET = r"(?P<bucket>[A-Za-z0-9][A-Za-z0-9._-]{1,254})(?P<prefix>/.*)?"
BLOCK = 1 << 20  # bytes of a file that are in memory at a time


class Placed(NamedTuple):
    """A file that has been put into a store: where it can be read locally until the block of its `Store.temporary`
    ends, and its tag."""

    local: Path
    tag: str


class Store(ABC):
    """What steps know of a store. Errors are StoreError with the path and the reason."""

    uri: str

    @abstractmethod
    def exists(self, path: str) -> bool: ...

    @abstractmethod
    def list(self, folder: str) -> list[str]:
        """Paths of all files below ``folder`` ("" is the whole store), sorted; empty when there is none."""

    @abstractmethod
    def folders(self, folder: str) -> Sequence[str]:
        """The names of the folders that lie directly in ``folder``, sorted."""

    @abstractmethod
    def tags(self, folder: str) -> dict[str, str]:
        """Paths of all files below ``folder``, each with a tag that changes when the file does."""

    @abstractmethod
    def open(self, path: str, ahead: int = AHEAD) -> BinaryIO:
        """A seekable binary file to read from; of a bucket, each request brings ``ahead`` bytes at least."""

    @abstractmethod
    def part(self, path: str, start: int, stop: int) -> bytes:
        """Bytes ``start`` to ``stop`` (exclusive) of a file, or to its end."""

    @abstractmethod
    def size(self, path: str) -> int:
        """Bytes of a file."""

    @abstractmethod
    def tag(self, path: str) -> str:
        """A text that changes when the file does; "" when there is none."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Deletes a file if it exists."""

    @abstractmethod
    def update(self, path: str, change: Callable[[bytes | None], bytes]) -> bytes:
        """Puts ``change(content)`` in the place of a file's content (None: there is no file), and returns it.

        Nothing that other threads, processes or machines put there with `update` is lost: ``change`` sees it, though it
        may have to be called once more. What it raises leaves the file as it is.
        """

    @abstractmethod
    def put(self, local: Path, path: str) -> Placed:
        """Moves a `temporary` file into the store, replacing what is there in one go."""

    @abstractmethod
    def move(self, source: str, target: str) -> None:
        """Gives a file another path, replacing what is there; its bytes stay where they are kept."""

    @abstractmethod
    def move_folder(self, source: str, target: str, last: str) -> None:
        """Moves all files of a folder to one that has none. The file ``last`` (a path in the folder) is there when all
        others are. Raises StoreError where the target has files."""

    @abstractmethod
    def delete_folder(self, folder: str, first: str = "") -> None:
        """Deletes all files below a folder if it exists, the file ``first`` (a path in it) before all others."""

    @abstractmethod
    def _temporary_folder(self) -> Path:
        """A folder for files that are being written."""

    @abstractmethod
    def _pieces(self, path: str) -> Iterator[bytes]:
        """A whole file, piece by piece."""

    @abstractmethod
    def _errors(self, path: str) -> AbstractContextManager[None]:
        """Names the file in what goes wrong with it within the block: StoreError."""

    @contextmanager
    def temporary(self, path: str) -> Iterator[Path]:
        """A temporary local file for what is to be `put` under ``path``, for as long as the block lasts."""
        with self._errors(path):
            handle, name = tempfile.mkstemp(dir=self._temporary_folder(), suffix="-" + path.rsplit("/", 1)[-1])
            os.close(handle)
        try:
            yield Path(name)
        except OSError as error:  # which names the temporary file, if any
            check_shortage(error, f"{self.uri}/{path}")
            raise
        finally:
            Path(name).unlink(missing_ok=True)

    @contextmanager
    def writer(self, path: str) -> Iterator[Path]:
        """A temporary local path; what is written there is in the store under ``path`` when the block has ended."""
        with self.temporary(path) as local:
            yield local
            self.put(local, path)

    @contextmanager
    def local(self, path: str) -> Iterator[Path]:
        """The file as a local file to read, for as long as the block lasts."""
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / path.rsplit("/", 1)[-1]
            with self._errors(path), target.open("wb") as sink:
                sink.writelines(self._pieces(path))
            yield target

    def read(self, path: str) -> bytes:
        return b"".join(self._pieces(path))

    def write(self, path: str, data: bytes) -> str:
        """Returns the file's tag."""
        with self.temporary(path) as local:
            local.write_bytes(data)
            return self.put(local, path).tag

    def sha256(self, path: str) -> str:
        """Hex digest of a file, read as a stream."""
        digest = hashlib.sha256()
        for piece in self._pieces(path):
            digest.update(piece)
        return digest.hexdigest()


class LocalStore(Store):
    """A folder of this machine."""

    def __init__(self, root: Path):
        self.root = root.resolve()
        self.uri = self.root.as_uri()

    def exists(self, path: str) -> bool:
        with self._errors(path):
            try:
                return stat.S_ISREG((self.root / path).stat().st_mode)
            except MISSING:
                return False

    def list(self, folder: str) -> list[str]:
        return sorted(path for path, _ in self._files(folder))

    def folders(self, folder: str) -> Sequence[str]:
        with self._errors(folder):
            try:
                return sorted(entry.name for entry in os.scandir(self.root / folder) if entry.is_dir())
            except MISSING:
                return []

    def tags(self, folder: str) -> dict[str, str]:
        return {path: _tag(status) for path, status in self._files(folder)}

    def open(self, path: str, ahead: int = AHEAD) -> BinaryIO:
        with self._errors(path):
            return (self.root / path).open("rb")

    def part(self, path: str, start: int, stop: int) -> bytes:
        with self._errors(path), self.open(path) as file:
            file.seek(start)
            return file.read(stop - start)

    def size(self, path: str) -> int:
        with self._errors(path):
            return (self.root / path).stat().st_size

    def tag(self, path: str) -> str:
        with self._errors(path):
            try:
                return _tag((self.root / path).stat())
            except MISSING:
                return ""

    def delete(self, path: str) -> None:
        with self._errors(path):
            (self.root / path).unlink(missing_ok=True)

    def update(self, path: str, change: Callable[[bytes | None], bytes]) -> bytes:
        with self._locked():
            before = self.read(path) if self.exists(path) else None
            after = change(before)
            if after != before:
                self.write(path, after)
            return after

    @contextmanager
    def local(self, path: str) -> Iterator[Path]:
        self.open(path).close()
        yield self.root / path

    def _pieces(self, path: str) -> Iterator[bytes]:
        with self._errors(path), self.open(path) as file:
            while piece := file.read(BLOCK):
                yield piece

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """While the block lasts nobody else updates a file here; of a process that dies, the system lets go.

        The file is removed at the end. Who has opened it before then holds a lock on nothing, sees so, and tries again.
        """
        path = self.root / ".lock"
        while True:
            with self._errors(".lock"):
                self._make(self.root)
                file = path.open("ab")
                fcntl.flock(file, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    break
            file.close()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            fcntl.flock(file, fcntl.LOCK_UN)  # closing it is not enough where another thread has forked meanwhile
            file.close()

    def _files(self, folder: str) -> Iterator[tuple[str, os.stat_result]]:
        """The files below a folder, links followed; those that are deleted meanwhile are left out."""
        for parent, folders, names in os.walk(self.root / folder, onerror=self._unlisted, followlinks=True):
            folders[:] = [name for name in folders if not _leads_back(f"{parent}/{name}")]
            for name in names:
                path = f"{parent}/{name}"
                with self._errors(path.removeprefix(f"{self.root}/")), suppress(*MISSING):
                    status = os.stat(path)  # noqa: PTH116 - Paths of thousands take their time
                    if stat.S_ISREG(status.st_mode):
                        yield path.removeprefix(str(self.root)).lstrip("/"), status

    def _unlisted(self, error: OSError) -> None:
        """Raises StoreError for a folder that cannot be listed: os.walk would take it for empty."""
        if not isinstance(error, MISSING):
            with self._errors(str(error.filename).removeprefix(f"{self.root}/")):
                raise error

    def _make(self, folder: Path) -> None:
        """Makes a folder that is missing as open as the one it lies in, like its files, whatever the umask: Airflow's
        own processes, which have a closed one, write here too."""
        if folder == self.root:
            folder.mkdir(parents=True, exist_ok=True)
        elif not folder.is_dir():
            self._make(folder.parent)
            with suppress(FileExistsError):  # another process is faster
                folder.mkdir()
                folder.chmod(folder.parent.stat().st_mode & 0o2777)

    def put(self, local: Path, path: str) -> Placed:
        target = self.root / path
        with self._errors(path):
            self._make(target.parent)
            local.chmod(0o644)  # mkstemp makes files that only their owner can read
            tag = _tag(local.stat())  # renaming changes nothing of it
            local.replace(target)
        return Placed(target, tag)

    def move(self, source: str, target: str) -> None:
        with self._errors(source):
            self._make((self.root / target).parent)
            (self.root / source).rename(self.root / target)

    def move_folder(self, source: str, target: str, last: str) -> None:
        """In one go: the system renames the folder, which it refuses where the target is no empty folder."""
        with self._errors(target):
            self._make((self.root / target).parent)
            (self.root / source).rename(self.root / target)

    def delete_folder(self, folder: str, first: str = "") -> None:
        if first:
            self.delete(f"{folder}/{first}")
        with self._errors(folder), suppress(*MISSING):
            shutil.rmtree(self.root / folder)

    def _temporary_folder(self) -> Path:
        folder = self.root / ".writing"
        self._make(folder)
        for left_over in folder.iterdir():  # of a process that was killed
            with suppress(FileNotFoundError):  # another process has just put its file in place
                if time.time() - left_over.stat().st_mtime > STALE_SECONDS:
                    left_over.unlink()
        return folder

    @contextmanager
    def _errors(self, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            check_shortage(error, f"{self.uri}/{path}")
            reason = f"{self.uri}/{path}: {error.strerror or error}"
            if isinstance(error, MISSING):
                raise MissingError("missing-file", reason) from error
            raise StoreError("store-away", reason) from error


def _leads_back(folder: str) -> bool:
    """Whether a folder is a link to one that it lies in, which os.walk would follow for ever."""
    return os.path.islink(folder) and any(os.path.samefile(folder, above) for above in Path(folder).parents)  # noqa: PTH114, PTH121


def _tag(file: os.stat_result) -> str:
    return f"{file.st_size}-{file.st_mtime_ns}-{file.st_ino}"


class S3Store(Store):
    """An S3 bucket, through boto3: credentials, region and AWS_ENDPOINT_URL as boto3 reads them."""

    def __init__(self, bucket: str, prefix: str, attempts: int = ATTEMPTS, connect_seconds: float = CONNECT_SECONDS):
        import boto3
        from botocore.config import Config

        self.bucket, self.prefix, self.attempts = bucket, f"{prefix}/" if prefix else "", attempts
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")
        retries = {"max_attempts": attempts, "mode": "standard"}
        config = Config(
            retries=retries, connect_timeout=connect_seconds, read_timeout=60, max_pool_connections=CONNECTIONS
        )
        self.client: Any = boto3.client("s3", config=config)

    def exists(self, path: str) -> bool:
        return bool(self.tag(path))

    def list(self, folder: str) -> list[str]:
        return sorted(self.tags(folder))

    def folders(self, folder: str) -> Sequence[str]:
        with self._errors(folder):
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self._below(folder), Delimiter="/"
            )
            prefixes = [entry["Prefix"] for page in pages for entry in page.get("CommonPrefixes", [])]
        return sorted(prefix.rstrip("/").rsplit("/", 1)[-1] for prefix in prefixes)

    def tags(self, folder: str) -> dict[str, str]:
        with self._errors(folder):
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self._below(folder)
            )
            return {
                o["Key"][len(self.prefix) :]: _s3_tag(o["Size"], o["ETag"])
                for page in pages
                for o in page.get("Contents", [])
            }

    def _below(self, folder: str) -> str:
        """How the keys of a folder's files begin; "" is the whole store."""
        return f"{self.prefix}{folder}/" if folder else self.prefix

    def open(self, path: str, ahead: int = AHEAD) -> BinaryIO:
        return io.BufferedReader(_Ranges(self, path, ahead), ahead)

    def part(self, path: str, start: int, stop: int) -> bytes:
        return b"".join(_Answer(self, path, start, stop)) if start < stop else b""

    def _pieces(self, path: str) -> Iterator[bytes]:
        return iter(_Answer(self, path))

    def size(self, path: str) -> int:
        with self._errors(path):
            return int(self.client.head_object(Bucket=self.bucket, Key=self.prefix + path)["ContentLength"])

    def tag(self, path: str) -> str:
        from botocore.exceptions import ClientError

        with self._errors(path):
            try:
                answer = self.client.head_object(Bucket=self.bucket, Key=self.prefix + path)
                return _s3_tag(answer.get("ContentLength", -1), answer["ETag"])
            except ClientError as error:
                if error.response["Error"]["Code"] in ("404", "NoSuchKey"):
                    return ""
                raise

    def delete(self, path: str) -> None:
        with self._errors(path):
            self.client.delete_object(Bucket=self.bucket, Key=self.prefix + path)

    def update(self, path: str, change: Callable[[bytes | None], bytes]) -> bytes:
        """See `Store.update`; writes on the condition that nobody else has, which the service must know.

        https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html
        """
        before, tag = self._tagged(path)
        after = change(before)
        for failed in range(UPDATES):
            if after == before or self._replace(path, after, tag):
                return after
            time.sleep(random.uniform(0, 0.05 * failed))  # noqa: S311 - no secret
            before, tag = self._tagged(path)
            if after != before:  # else it is ours, which arrived though its answer was lost
                after = change(before)
        raise StoreError("edited-meanwhile", f"{self.uri}/{path}: others change it all the time: try again")

    def _tagged(self, path: str) -> tuple[bytes | None, str]:
        """A file's content and tag; None and "" when there is none."""
        if not self.exists(path):
            return None, ""
        answer = _Answer(self, path)
        return b"".join(answer), answer.tag

    def _replace(self, path: str, data: bytes, tag: str) -> bool:
        """Whether the data are in the place of what had this tag: if not, somebody else was faster."""
        from botocore.exceptions import ClientError

        condition = {"IfMatch": tag} if tag else {"IfNoneMatch": "*"}
        with self._errors(path):
            try:
                self.client.put_object(Bucket=self.bucket, Key=self.prefix + path, Body=data, **condition)
            except ClientError as error:
                if error.response["Error"]["Code"] not in FASTER:
                    raise
                return False
        return True

    def put(self, local: Path, path: str) -> Placed:
        """Large files go up in parts; they alone cost a further request for their tag, which boto3 does not tell."""
        size = local.stat().st_size
        with self._errors(path):
            if size > IN_PARTS:
                self.client.upload_file(str(local), self.bucket, self.prefix + path)
                return Placed(local, self.tag(path))
            with local.open("rb") as body:
                answer = self.client.put_object(Bucket=self.bucket, Key=self.prefix + path, Body=body)
        return Placed(local, _s3_tag(size, answer["ETag"]))

    def move(self, source: str, target: str) -> None:
        """The service copies; of a large file in parts, which boto3 sees to."""
        with self._errors(source):
            self.client.copy({"Bucket": self.bucket, "Key": self.prefix + source}, self.bucket, self.prefix + target)
        self.delete(source)

    def move_folder(self, source: str, target: str, last: str) -> None:
        if self.list(target):
            raise StoreError("store-away", f"{self.uri}/{target}: there are files already")
        paths = [path for path in self.list(source) if path != f"{source}/{last}"]
        for path in [*paths, f"{source}/{last}"]:
            self.move(path, target + path.removeprefix(source))

    def delete_folder(self, folder: str, first: str = "") -> None:
        for path in [*filter(None, [first and f"{folder}/{first}"]), *self.list(folder)]:
            self.delete(path)

    def _temporary_folder(self) -> Path:
        return Path(tempfile.gettempdir())

    @contextmanager
    def _errors(self, path: str) -> Iterator[None]:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (BotoCoreError, ClientError, Boto3Error, OSError) as error:
            check_shortage(error, f"{self.uri}/{path}")
            raise _s3_fault(error).at(f"{self.uri}/{path}") from error


def _s3_tag(size: int, etag: str) -> str:
    return "-".join((str(size), etag.strip('"')))


def _s3_fault(error: Exception) -> StoreError:
    """What went wrong, in the service's words if it has any, and what to do."""
    from boto3.exceptions import Boto3Error
    from botocore import exceptions

    cause: BaseException = error
    while isinstance(cause, Boto3Error) and cause.__context__:  # of an upload: it repeats paths of temporary files
        cause = cause.__context__
    match cause:
        case exceptions.ClientError():
            code, words = (cause.response["Error"].get(name) or "" for name in ("Code", "Message"))
            status = cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if code in ("404", "NoSuchKey"):
                return MissingError("missing-file", "it is missing")
            if code == "NoSuchBucket":
                return StoreError("no-bucket", "there is no such bucket: check LAION_PEOPLE_STORE")
            if status in (401, 403):
                return StoreError("access-denied", f"access is denied ({code}): check the credentials and their rights")
            return StoreError("store-away", f"the service answers {code}: {words}")
        case exceptions.NoCredentialsError() | exceptions.PartialCredentialsError():
            return StoreError(
                "access-denied",
                "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or an AWS profile",
            )
        case exceptions.IncompleteReadError() | exceptions.ResponseStreamingError():
            return StoreError("store-away", "its answer was cut off at every try")
        case _:
            return StoreError("store-away", f"{cause}; check the address and the credentials")


class _Answer:
    """Bytes ``start`` to ``stop`` (exclusive) of a file of a bucket, as they come.

    An answer that is cut off is asked for again from there: botocore does not go on with bodies
    (https://github.com/boto/boto3/issues/4111). ``size`` and ``tag`` are the whole file's, once there is an answer.
    """

    def __init__(self, store: S3Store, path: str, start: int = 0, stop: int | None = None):
        self._store, self._path, self._start, self._stop = store, path, start, stop
        self.size, self.tag = 0, ""

    def __iter__(self) -> Iterator[bytes]:
        from botocore.exceptions import BotoCoreError, IncompleteReadError

        at, failures = self._start, 0
        same: dict[str, str] = {}
        with self._store._errors(self._path):
            while (answer := self._ask(at, same)) is not None:
                self.tag = answer["ETag"]
                same = {"IfMatch": self.tag}  # and not the rest of another file
                if "ContentRange" in answer:
                    self.size = int(answer["ContentRange"].rsplit("/", 1)[1])
                else:
                    self.size = answer.get("ContentLength", -1)  # S3 itself always tells
                end = self.size if self._stop is None else min(self._stop, self.size)
                try:
                    for piece in answer["Body"].iter_chunks(BLOCK):
                        yield piece
                        at += len(piece)
                    if at != end:  # not what was announced, though nothing broke
                        raise IncompleteReadError(actual_bytes=at, expected_bytes=end)
                    return
                except (BotoCoreError, OSError):
                    failures += 1
                    if failures == self._store.attempts:
                        raise

    def _ask(self, at: int, same: dict[str, str]) -> Any:
        """The service's answer for the bytes from ``at`` on; None when the file ends there."""
        from botocore.exceptions import ClientError

        span = {"Range": f"bytes={at}-{'' if self._stop is None else self._stop - 1}"} if at or self._stop else {}
        try:
            key = self._store.prefix + self._path
            return self._store.client.get_object(Bucket=self._store.bucket, Key=key, **span, **same)
        except ClientError as error:
            if error.response["Error"]["Code"] in ("416", "InvalidRange"):
                return None
            raise


class _Ranges(io.RawIOBase):
    """A file of a bucket, each read of which is a request.

    Who asks for its end, as readers of Parquet do, gets its size and its first ``ahead`` bytes in one request.
    """

    def __init__(self, store: S3Store, path: str, ahead: int):
        self._store, self._path, self._ahead = store, path, ahead
        self._at, self._start, self._size = 0, b"", 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END and not self._size:
            answer = _Answer(self._store, self._path, 0, self._ahead)
            self._start, self._size = b"".join(answer), answer.size
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def readall(self) -> bytes:
        at, self._at = self._at, self.seek(0, os.SEEK_END)
        return self._store.part(self._path, at, self._at)

    def readinto(self, buffer: Any) -> int:
        stop = self._at + len(buffer)
        if self._at < len(self._start):
            data = self._start[self._at : stop]
        else:
            data = b"" if self._size and self._at >= self._size else self._store.part(self._path, self._at, stop)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def open_store(uri: str, attempts: int = ATTEMPTS, connect_seconds: float = CONNECT_SECONDS) -> Store:
    """The store at a URI: a folder, ``file:///folder`` or ``s3://bucket/prefix``. Raises UsageError for others.

    ``attempts`` is how often a request to a bucket is made before it counts as failed, ``connect_seconds`` how long
    each waits for a connection.
    """
    scheme, separator, rest = uri.partition("://")
    if separator and "@" in rest.partition("/")[0]:
        raise UsageError(
            "exposed-password",
            f"store {uri}: credentials do not belong in it: see AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )
    if uri.isprintable() and scheme == "s3" and (match := re.fullmatch(BUCKET, rest)):
        return S3Store(match["bucket"], (match["prefix"] or "").strip("/"), attempts, connect_seconds)
    if uri.isprintable() and scheme == "file" and rest.startswith("/") and not set("?#") & set(rest):
        return LocalStore(Path(unquote(rest)))
    if uri.isprintable() and uri and not separator and not re.match("(file|s3):/", uri, re.IGNORECASE):
        return LocalStore(Path(uri).expanduser())
    raise UsageError(
        "bad-setting",
        f"store {uri!r}: should be a folder, file:///folder or s3://bucket/prefix (? and # of a file: %3F and %23)",
    )


def deployment_uri() -> str:
    """The URI of the deployment's store; a relative folder is seen from the project's own, where the tasks work."""
    uri = from_environment().store
    return uri if "://" in uri else str(ROOT / Path(uri).expanduser())
