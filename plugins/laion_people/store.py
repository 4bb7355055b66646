"""The store: a folder or an S3 prefix that holds everything a run reads and writes.

Paths are relative to the store, with forward slashes. A file is written whole or not at all: `writer` gives a temporary
local file and puts it in place when the block ends without an error.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import unquote, urlsplit

from laion_people.errors import LaionPeopleError, UsageError
from laion_people.settings import from_environment

ROOT = Path(__file__).resolve().parents[2]
STALE_SECONDS = 24 * 3600
ATTEMPTS = 8  # over about a minute: steps outlast a bucket that is overloaded
CONNECT_SECONDS = 10.0
CONNECTIONS = 32  # as many as threads that read at a time; boto3's own 10 make the others wait or connect anew


class Store(ABC):
    """What steps know of a store. Errors are LaionPeopleError with the path and the reason."""

    uri: str

    @abstractmethod
    def exists(self, path: str) -> bool: ...

    @abstractmethod
    def list(self, folder: str) -> list[str]:
        """Paths of all files below ``folder``, sorted; empty when there is none."""

    @abstractmethod
    def tags(self, folder: str) -> dict[str, str]:
        """Paths of all files below ``folder``, each with a tag that changes when the file does."""

    @abstractmethod
    def open(self, path: str) -> BinaryIO:
        """A seekable binary file to read from."""

    @abstractmethod
    def ranged(self, path: str, ahead: int) -> BinaryIO:
        """As `open`, for a few pieces of a large file; of a bucket, ``ahead`` bytes at least come in one request."""

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
    def _put(self, local: Path, path: str) -> None:
        """Moves a local file into the store, replacing what is there in one go."""

    @abstractmethod
    def _temporary_folder(self) -> Path:
        """A folder for files that are being written."""

    @contextmanager
    def writer(self, path: str) -> Iterator[Path]:
        """A temporary local path; what is written there is in the store under ``path`` when the block has ended."""
        handle, name = tempfile.mkstemp(dir=self._temporary_folder(), suffix="-" + path.rsplit("/", 1)[-1])
        os.close(handle)
        try:
            yield Path(name)
            self._put(Path(name), path)
        finally:
            Path(name).unlink(missing_ok=True)

    @contextmanager
    def local(self, path: str) -> Iterator[Path]:
        """The file as a local file to read, for as long as the block lasts."""
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / path.rsplit("/", 1)[-1]
            with self.open(path) as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
            yield target

    def read(self, path: str) -> bytes:
        with self.open(path) as file:
            return file.read()

    def write(self, path: str, data: bytes) -> None:
        with self.writer(path) as target:
            target.write_bytes(data)

    def sha256(self, path: str) -> str:
        """Hex digest of a file, read as a stream."""
        with self.open(path) as file:
            return hashlib.file_digest(cast(BufferedReader, file), "sha256").hexdigest()


class LocalStore(Store):
    """A folder of this machine."""

    def __init__(self, root: Path):
        self.root = root.resolve()
        self.uri = self.root.as_uri()

    def exists(self, path: str) -> bool:
        return (self.root / path).is_file()

    def list(self, folder: str) -> list[str]:
        return sorted(path for path, _ in self._files(folder))

    def tags(self, folder: str) -> dict[str, str]:
        return {path: _tag(found) for path, found in self._files(folder)}

    def open(self, path: str) -> BinaryIO:
        try:
            return (self.root / path).open("rb")
        except OSError as error:
            raise LaionPeopleError(f"{self.uri}/{path}: {error.strerror}") from error

    def ranged(self, path: str, ahead: int) -> BinaryIO:
        return self.open(path)

    def part(self, path: str, start: int, stop: int) -> bytes:
        with self.open(path) as file:
            file.seek(start)
            return file.read(stop - start)

    def size(self, path: str) -> int:
        return (self.root / path).stat().st_size

    def tag(self, path: str) -> str:
        try:
            return _tag((self.root / path).stat())
        except (FileNotFoundError, NotADirectoryError):
            return ""

    def delete(self, path: str) -> None:
        (self.root / path).unlink(missing_ok=True)

    @contextmanager
    def local(self, path: str) -> Iterator[Path]:
        self.open(path).close()
        yield self.root / path

    def _files(self, folder: str) -> Iterator[tuple[str, os.stat_result]]:
        """The files below a folder; those that are deleted meanwhile are left out."""
        for parent, _, names in os.walk(self.root / folder):
            for name in names:
                with suppress(FileNotFoundError):
                    found = os.stat(path := f"{parent}/{name}")  # noqa: PTH116 - Paths of thousands take their time
                    if stat.S_ISREG(found.st_mode):
                        yield path.removeprefix(str(self.root)).lstrip("/"), found

    def _put(self, local: Path, path: str) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        local.chmod(0o644)  # mkstemp makes files that only their owner can read
        local.replace(target)

    def _temporary_folder(self) -> Path:
        folder = self.root / ".writing"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LaionPeopleError(f"{self.uri} cannot be written: {error.strerror}") from error
        for left_over in folder.iterdir():  # of a process that was killed
            with suppress(FileNotFoundError):  # another process has just put its file in place
                if time.time() - left_over.stat().st_mtime > STALE_SECONDS:
                    left_over.unlink()
        return folder


def _tag(file: os.stat_result) -> str:
    return f"{file.st_mtime_ns}-{file.st_ino}"


class S3Store(Store):
    """An S3 bucket, through boto3: credentials, region and AWS_ENDPOINT_URL as boto3 reads them."""

    def __init__(self, bucket: str, prefix: str, attempts: int = ATTEMPTS, connect_seconds: float = CONNECT_SECONDS):
        import boto3
        from botocore.config import Config

        self.bucket, self.prefix = bucket, f"{prefix}/" if prefix else ""
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

    def tags(self, folder: str) -> dict[str, str]:
        with self._errors(folder):
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=f"{self.prefix}{folder}/"
            )
            return {o["Key"][len(self.prefix) :]: o["ETag"] for page in pages for o in page.get("Contents", [])}

    def open(self, path: str) -> BinaryIO:
        import smart_open

        with self._errors(path):
            file = smart_open.open(
                f"s3://{self.bucket}/{self.prefix}{path}", "rb", transport_params={"client": self.client}
            )
        return cast(BinaryIO, file)

    def ranged(self, path: str, ahead: int) -> BinaryIO:
        return io.BufferedReader(_Ranges(self, path, ahead), ahead)

    def part(self, path: str, start: int, stop: int) -> bytes:
        if stop <= start:
            return b""  # a range of no bytes cannot be said: servers would send the whole file
        with self._errors(path):
            key, span = self.prefix + path, f"bytes={start}-{stop - 1}"
            return bytes(self.client.get_object(Bucket=self.bucket, Key=key, Range=span)["Body"].read())

    def beginning(self, path: str, most: int) -> tuple[bytes, int]:
        """The first bytes of a file, and how many it has."""
        with self._errors(path):
            answer = self.client.get_object(Bucket=self.bucket, Key=self.prefix + path, Range=f"bytes=0-{most - 1}")
            return bytes(answer["Body"].read()), int(answer["ContentRange"].rsplit("/", 1)[1])

    def size(self, path: str) -> int:
        with self._errors(path):
            return int(self.client.head_object(Bucket=self.bucket, Key=self.prefix + path)["ContentLength"])

    def tag(self, path: str) -> str:
        from botocore.exceptions import ClientError

        with self._errors(path):
            try:
                return str(self.client.head_object(Bucket=self.bucket, Key=self.prefix + path)["ETag"])
            except ClientError as error:
                if error.response["Error"]["Code"] in ("404", "NoSuchKey"):
                    return ""
                raise

    def delete(self, path: str) -> None:
        with self._errors(path):
            self.client.delete_object(Bucket=self.bucket, Key=self.prefix + path)

    def _put(self, local: Path, path: str) -> None:
        with self._errors(path):
            self.client.upload_file(str(local), self.bucket, self.prefix + path)

    def _temporary_folder(self) -> Path:
        return Path(tempfile.gettempdir())

    @contextmanager
    def _errors(self, path: str) -> Iterator[None]:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (BotoCoreError, ClientError, Boto3Error, OSError) as error:
            raise LaionPeopleError(f"{self.uri}/{path}: {error}; check the address and the credentials") from error


class _Ranges(io.RawIOBase):
    """A file of a bucket, each read of which is a request: smart_open's ask for all that follows.

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
            self._start, self._size = self._store.beginning(self._path, self._ahead)
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

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
    parts = urlsplit(uri)
    if parts.scheme == "s3" and parts.netloc:
        return S3Store(parts.netloc, parts.path.strip("/"), attempts, connect_seconds)
    if parts.scheme == "file" and not parts.netloc and parts.path:
        return LocalStore(Path(unquote(parts.path)))
    if not parts.scheme and uri:
        return LocalStore(Path(uri).expanduser())
    raise UsageError(f"store {uri!r}: should be a folder, file:///folder or s3://bucket/prefix")


def deployment_uri() -> str:
    """The URI of the deployment's store; a relative folder is seen from the project's own, where the tasks work."""
    uri = from_environment().store
    return uri if "://" in uri else str(ROOT / Path(uri).expanduser())
