"""Sends a publication to a data set repository of the Hugging Face hub, in one commit.

huggingface_hub's `upload_large_folder` does not serve: it is deprecated
(https://github.com/huggingface/huggingface_hub/pull/4414), tries for ever what the hub refuses
(https://github.com/huggingface/huggingface_hub/issues/3325), commits some files at a time, and leaves there what an
older version had. The functions that it is made of do: large files go first, and are seen when all have come, with one
commit. What the hub has is not sent again.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import requests
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import disable_progress_bars

from laion_people.errors import LaionPeopleError, UsageError, check_shortage, one_line
from laion_people.publication.checksums import CHECKSUMS
from laion_people.publication.release import RECORD, VERSION, Publication, PublishedFile, folder, ordered, published
from laion_people.storage.store import Store

log = logging.getLogger(__name__)

TYPE = "dataset"
BESIDE = ("README.md", "croissant.json", CHECKSUMS, RECORD)  # the files of the record
KEPT = ".gitattributes"  # the repository's own
AT_A_TIME = 8  # files: so many of a bucket's, of up to 500 MB each, are on this machine's disk
AGAIN = "push again later, it goes on where it was"
IN_GIT = 10_000_000  # bytes up to which the hub may want a file in the commit itself


class Hub:
    """The data set repository ``repo`` (OWNER/NAME) of the hub that HF_ENDPOINT names.

    The token is huggingface_hub's own: HF_TOKEN, or that of `hf auth login`. Raises UsageError when there is none.
    """

    def __init__(self, repo: str):
        if not get_token():
            raise UsageError("hub-refuses", "the hub wants a token: set HF_TOKEN, or log in with `hf auth login`")
        if not sys.stderr.isatty():
            disable_progress_bars()
        self.repo = repo
        self.api = HfApi()

    def push(self, store: Store, publication: Publication) -> str:
        """Makes a publication of the store the content of the repository; returns its address.

        A repository that is missing is made, private. The version becomes a tag. Where people were removed from it,
        older versions that the store has no more are taken from the hub, too. It may be called again at any time, and
        goes on.

        Raises UsageError for a version that is there with other content, or that a newer one is there of, and
        LaionPeopleError when the hub refuses or does not answer.
        """
        with self._errors():
            self.api.create_repo(self.repo, repo_type=TYPE, private=True, exist_ok=True)
            tags = {tag.name for tag in self.api.list_repo_refs(self.repo, repo_type=TYPE).tags}
            if newer := _newest(tags, publication.version):
                raise UsageError("version-exists", f"{self.repo} has version {newer}: what is older cannot follow it")
            there = self._files("main")
            small, large = _missing(store, publication, there)
            gone = there.keys() - _paths(publication) - {KEPT}
            if publication.version in tags and (small or large or gone):
                raise UsageError(
                    "version-exists", f"{self.repo} has another version {publication.version}: publish it as a new one"
                )
            if small or large or gone:
                self._commit(store, publication, small, large, sorted(gone))
            withdrawn = _withdrawn(tags, store, publication)
            for version in withdrawn:
                self.api.delete_tag(self.repo, tag=version, repo_type=TYPE)
            if publication.tombstones and publication.version not in tags:
                # What was there before is to be seen no more.
                self.api.super_squash_history(self.repo, commit_message=_title(publication), repo_type=TYPE)
            self.api.create_tag(self.repo, tag=publication.version, repo_type=TYPE, exist_ok=True)
            if publication.tombstones:
                self._delete_unused(tags - withdrawn)
        return f"{self.api.endpoint}/datasets/{self.repo}"

    def _commit(
        self,
        store: Store,
        publication: Publication,
        small: Mapping[str, bytes],
        large: Sequence[PublishedFile],
        gone: Sequence[str],
    ) -> None:
        """Sends large files, then commits all at once."""
        home = folder(publication.name, publication.version)
        changes: list[CommitOperationAdd | CommitOperationDelete] = [
            *(CommitOperationAdd(path, data) for path, data in small.items()),
            *(CommitOperationDelete(path) for path in gone),
        ]
        for start in range(0, len(large), AT_A_TIME):
            some = large[start : start + AT_A_TIME]
            with ExitStack() as stack:
                locals_ = [stack.enter_context(store.local(f"{home}/{file.path}")) for file in some]
                additions = [CommitOperationAdd(file.path, local) for file, local in zip(some, locals_, strict=True)]
                for file, addition in zip(some, additions, strict=True):
                    if addition.upload_info.sha256.hex() != file.sha256:
                        raise LaionPeopleError(
                            "damaged-file", f"{home}/{file.path} is not what was published: publish another version"
                        )
                self.api.preupload_lfs_files(self.repo, additions, repo_type=TYPE)
            changes += additions
            log.info("push %s: %d of %d large files", self.repo, start + len(some), len(large))
        self.api.create_commit(self.repo, changes, commit_message=_title(publication), repo_type=TYPE)

    def _files(self, revision: str) -> dict[str, RepoFile]:
        tree = self.api.list_repo_tree(self.repo, recursive=True, revision=revision, repo_type=TYPE)
        return {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}

    def _delete_unused(self, tags: set[str]) -> None:
        """Deletes large files that neither the newest version nor a tag has."""
        trees = [self._files(revision) for revision in ("main", *sorted(tags))]
        used = {file.lfs.sha256 for tree in trees for file in tree.values() if file.lfs}
        unused = [file for file in self.api.list_lfs_files(self.repo, repo_type=TYPE) if file.oid not in used]
        self.api.permanently_delete_lfs_files(self.repo, unused, repo_type=TYPE)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Says in one line what goes wrong with the hub within the block."""
        try:
            yield
        except (requests.RequestException, ValueError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and type(error) is not RuntimeError:
                raise  # as huggingface_hub raises none
            check_shortage(error)
            raise self._said(error) from error

    def _said(self, error: BaseException) -> LaionPeopleError:
        match error:
            case HFValidationError():
                return UsageError("bad-argument", f"{self.repo!r} is no OWNER/NAME of the hub: {one_line(error)}")
            case HfHubHTTPError(response=requests.Response(status_code=status)):
                said = (
                    f"{self.api.endpoint} answers {status} for {self.repo}: {one_line(error.server_message or error)}"
                )
                if status >= 500 or status == 429:
                    return LaionPeopleError("hub-away", f"{said}: {AGAIN}")
                rights = ": the token (HF_TOKEN) needs the right to write there" if status in (401, 403, 404) else ""
                return LaionPeopleError("hub-refuses", f"{said}{rights}")
            case RuntimeError(__cause__=BaseException() as cause):  # of a file that is being sent
                return self._said(cause)
            case ValueError():  # huggingface_hub of an answer, requests of an address, that makes no sense
                return LaionPeopleError(
                    "hub-refuses", f"{self.api.endpoint} answers strangely for {self.repo}: {one_line(error)}"
                )
        return LaionPeopleError("hub-away", f"{self.api.endpoint} does not answer ({one_line(error)}): {AGAIN}")


def _title(publication: Publication) -> str:
    return f"{publication.name} {publication.version}"


def _paths(publication: Publication) -> set[str]:
    return {*BESIDE, *(file.path for file in publication.files)}


def _missing(
    store: Store, publication: Publication, there: Mapping[str, RepoFile]
) -> tuple[dict[str, bytes], list[PublishedFile]]:
    """What the repository lacks: small files with their content, and large ones."""
    home = folder(publication.name, publication.version)
    small = {path: store.read(f"{home}/{path}") for path in BESIDE}
    large = []
    for file in publication.files:
        remote = there.get(file.path)
        if remote and remote.lfs and remote.lfs.sha256 == file.sha256:
            continue
        if file.bytes > IN_GIT:
            large.append(file)
        else:
            small[file.path] = store.read(f"{home}/{file.path}")
    return {path: data for path, data in small.items() if not _is_same(there.get(path), data)}, large


def _is_same(remote: RepoFile | None, data: bytes) -> bool:
    if remote is None:
        return False
    if remote.lfs:
        return bool(remote.lfs.sha256 == hashlib.sha256(data).hexdigest())
    return bool(remote.blob_id == hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest())


def _newest(tags: set[str], version: str) -> str:
    """The newest of the tags that are newer versions; "" for none."""
    newer = [tag for tag in tags if VERSION.fullmatch(tag) and ordered(tag) > ordered(version)]
    return max(newer, key=ordered, default="")


def _withdrawn(tags: set[str], store: Store, publication: Publication) -> set[str]:
    """Tags of older versions that the store has no more, where people were removed since; none otherwise."""
    if not publication.tombstones:
        return set()
    older = {tag for tag in tags if VERSION.fullmatch(tag) and ordered(tag) < ordered(publication.version)}
    return older - set(published(store).get(publication.name, ()))
