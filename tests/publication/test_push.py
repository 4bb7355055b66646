"""A publication on the hub: what arrives, what is asked for, and what is said when it cannot be."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from laion_people.errors import LaionPeopleError, UsageError
from laion_people.publication import push
from laion_people.publication.release import Publication
from laion_people.storage.store import ROOT, LocalStore, Store, open_store
from tests.bucket import bucket
from tests.publication.hub import TOKEN, Hub, hub
from tests.publication.small import publish_small

REPO = "somebody/people"
HOME = "releases/people-of-the-sample/1.0.0"


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub, and a token for it."""
    with hub() as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)  # as HF_ENDPOINT is read, at import
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
        yield server


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return LocalStore(tmp_path / "store")


def made(store: Store, **changes: object) -> Publication:
    assert isinstance(store, LocalStore)
    return publish_small(store.root, **changes)


def content(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def on_the_hub(server: Hub, revision: str = "main") -> dict[str, str]:
    files = server.repos[REPO].files(revision)
    return {path: hashlib.sha256(data).hexdigest() for path, data in files.items() if path != ".gitattributes"}


def test_all_files_arrive_whole_in_one_commit_and_the_version_is_a_tag(
    there: Hub, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push, "IN_GIT", 3000)  # so that some tables go by themselves, before the commit
    publication = made(store)
    address = push.Hub(REPO).push(store, publication)
    assert address == f"{there.url}/datasets/{REPO}"
    repo, local = there.repos[REPO], content(Path(store.root) / HOME)  # type: ignore[attr-defined]
    assert on_the_hub(there) == on_the_hub(there, "1.0.0") == local
    assert len(local) == len(publication.files) + 4
    assert repo.titles == ["people-of-the-sample 1.0.0"]
    assert repo.private, "a new repository is not seen before somebody has looked at it"
    assert isinstance(repo.commits[-1]["people/train-00000-of-00001.parquet"], tuple), "a table is a large file"
    assert isinstance(repo.commits[-1]["README.md"], bytes)


def test_what_it_asks_for(there: Hub, store: Store) -> None:
    push.Hub(REPO).push(store, made(store))
    of_repo = f"/api/datasets/{REPO}"
    assert there.asked() == [
        "POST /api/repos/create",
        f"GET {of_repo}/refs",
        f"GET {of_repo}/tree/main",
        "POST /api/validate-yaml",
        f"POST {of_repo}/preupload/main",
        f"POST /datasets/{REPO}.git/info/lfs/objects/batch",
        f"PUT /storage/{REPO}/OID",
        f"POST {of_repo}/commit/main",
        f"POST {of_repo}/tag/main",
    ]


def test_a_second_push_sends_nothing(there: Hub, store: Store) -> None:
    publication = made(store)
    push.Hub(REPO).push(store, publication)
    there.asked()
    push.Hub(REPO).push(store, publication)
    assert sum(size for _, path, size in there.requests if path.startswith("/storage/")) == 0
    assert not any("commit" in asked or "preupload" in asked for asked in there.asked())
    assert len(there.repos[REPO].titles) == 1


def test_a_push_that_was_stopped_goes_on_where_it_was(there: Hub, store: Store) -> None:
    publication = made(store)
    there.refuse["/commit/"] = 503
    with pytest.raises(LaionPeopleError, match="goes on where it was") as stopped:
        push.Hub(REPO).push(store, publication)
    assert stopped.value.code == "hub-away"
    assert on_the_hub(there) == {}, "nothing is seen of it"
    there.refuse.clear()
    there.asked()
    push.Hub(REPO).push(store, publication)
    assert not any(asked.startswith("PUT") for asked in there.asked())
    assert len(on_the_hub(there)) == len(publication.files) + 4


def test_large_files_go_in_parts_where_the_hub_wants_so(
    there: Hub, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push, "IN_GIT", 0)
    there.part = 1000
    publication = made(store)
    push.Hub(REPO).push(store, publication)
    assert any(asked.endswith("/OID/2") for asked in there.asked())
    assert on_the_hub(there) == content(Path(store.root) / HOME)  # type: ignore[attr-defined]


def test_the_next_version_takes_the_place_of_the_last_which_stays_as_a_tag(there: Hub, store: Store) -> None:
    push.Hub(REPO).push(store, made(store))
    first = on_the_hub(there)
    there.repos[REPO].commits[-1]["people/train-00007-of-00008.parquet"] = b"of a version with more files"
    push.Hub(REPO).push(store, made(store, version="1.1.0"))
    assert "people/train-00007-of-00008.parquet" not in on_the_hub(there)
    assert on_the_hub(there)["README.md"] != first["README.md"]
    assert {*there.repos[REPO].tags} == {"1.0.0", "1.1.0"}


def test_versions_that_hold_removed_people_leave_the_hub_with_their_files(there: Hub, store: Store) -> None:
    assert isinstance(store, LocalStore)
    push.Hub(REPO).push(store, made(store, version="0.9.0"))
    held = made(store)
    changed = store.root / HOME / "people/train-00000-of-00001.parquet"
    changed.write_bytes(b"with somebody who was removed since")
    digest = hashlib.sha256(changed.read_bytes()).hexdigest()
    files = tuple(
        type(f)(f.path, 35, digest, f.config, f.rows) if f.path.startswith("people/") else f for f in held.files
    )
    push.Hub(REPO).push(store, type(held)(**{name: getattr(held, name) for name in held.__slots__} | {"files": files}))
    assert digest in there.repos[REPO].objects
    (store.root / HOME / "release.json").unlink()  # as a removal deletes it
    push.Hub(REPO).push(store, made(store, version="1.0.1", tombstones=1))
    repo = there.repos[REPO]
    assert {*repo.tags} == {"0.9.0", "1.0.1"}
    assert len(repo.commits) == 1, "its history is squashed"
    assert digest not in repo.objects
    assert len(on_the_hub(there)) == len(on_the_hub(there, "0.9.0")) == len(held.files) + 4


def test_versions_stay_where_nobody_was_removed(there: Hub, store: Store) -> None:
    push.Hub(REPO).push(store, made(store))
    assert isinstance(store, LocalStore)
    (store.root / HOME / "release.json").unlink()
    push.Hub(REPO).push(store, made(store, version="1.0.1"))
    assert {*there.repos[REPO].tags} == {"1.0.0", "1.0.1"}


def test_another_publication_of_the_same_version_is_refused_and_nothing_is_sent(there: Hub, store: Store) -> None:
    push.Hub(REPO).push(store, made(store))
    before = on_the_hub(there)
    with pytest.raises(UsageError, match=r"another version 1\.0\.0") as refused:
        push.Hub(REPO).push(store, made(store, contact="other@example.org"))
    assert refused.value.code == "version-exists"
    assert on_the_hub(there) == before


def test_an_older_version_does_not_follow_a_newer_one(there: Hub, store: Store) -> None:
    push.Hub(REPO).push(store, made(store, version="1.10.0"))
    before = on_the_hub(there)
    with pytest.raises(UsageError, match=r"has version 1\.10\.0"):
        push.Hub(REPO).push(store, made(store, version="1.9.0"))
    assert on_the_hub(there) == before


def test_a_file_that_is_damaged_is_not_sent(there: Hub, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push, "IN_GIT", 3000)
    publication = made(store)
    assert isinstance(store, LocalStore)
    (store.root / HOME / "subset_b/train-00000-of-00001.tar").write_bytes(b"something else" * 1000)
    with pytest.raises(LaionPeopleError, match="is not what was published") as refused:
        push.Hub(REPO).push(store, publication)
    assert refused.value.code == "damaged-file"
    assert on_the_hub(there) == {}


@pytest.mark.parametrize(
    ("refused", "status", "code", "said"),
    [
        ("/api/repos/create", 401, "hub-refuses", "answers 401 for somebody/people"),
        ("/commit/", 403, "hub-refuses", "You are not to do that"),
        ("/preupload/", 404, "hub-refuses", "HF_TOKEN"),
        ("/storage/", 403, "hub-refuses", "answers 403 for somebody/people"),
        ("/refs", 502, "hub-away", "push again later"),
        ("/objects/batch", 429, "hub-away", "push again later"),
    ],
)
def test_what_the_hub_refuses_is_said_in_one_line(
    there: Hub, store: Store, refused: str, status: int, code: str, said: str
) -> None:
    there.refuse[refused] = status
    with pytest.raises(LaionPeopleError, match=said) as told:
        push.Hub(REPO).push(store, made(store))
    assert told.value.code == code
    assert "\n" not in told.value.message
    assert TOKEN not in told.value.message


def test_a_hub_that_is_away(there: Hub, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(LaionPeopleError, match="does not answer") as told:
        push.Hub(REPO).push(store, made(store))
    assert told.value.code == "hub-away"


@pytest.mark.parametrize("endpoint", ["nonsense", "http://[", "http://127.0.0.1:{port}/web"])
def test_an_endpoint_that_is_no_hub(there: Hub, store: Store, monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    port = there.server_address[1]
    there.refuse["/web/"] = 200
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint.format(port=port))
    with pytest.raises(LaionPeopleError, match="somebody/people") as told:
        push.Hub(REPO).push(store, made(store))
    assert told.value.code == "hub-refuses"
    assert "\n" not in told.value.message


def test_without_a_token_nothing_is_asked(there: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UsageError, match="HF_TOKEN"):
        push.Hub(REPO)
    assert there.requests == []


@pytest.mark.parametrize("name", ["a/b/c", "somebody/..", "some body/x", ""])
def test_a_name_that_is_none(there: Hub, store: Store, name: str) -> None:
    with pytest.raises(UsageError, match="OWNER/NAME"):
        push.Hub(name).push(store, made(store))


def test_the_command_sends_a_version_that_exists_to_the_hub_that_hf_endpoint_names(there: Hub, store: Store) -> None:
    made(store)
    assert isinstance(store, LocalStore)
    environ = os.environ | {"HF_ENDPOINT": there.url, "LAION_PEOPLE_STORE": str(store.root)}
    command = [ROOT / "bin" / "laion-people", "publish", "--release", "people-of-the-sample", "--version", "1.0.0"]
    done = subprocess.run([*command, "--push", REPO], env=environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["pushed"] == f"{there.url}/datasets/{REPO}"
    assert on_the_hub(there) == content(store.root / HOME)
    assert "it/s" not in done.stderr, "no bars in a log"


def test_from_a_bucket(there: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push, "IN_GIT", 3000)
    local = LocalStore(tmp_path / "store")
    publication = made(local)
    with bucket(local.root) as served:
        monkeypatch.setenv("AWS_ENDPOINT_URL", served.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
        push.Hub(REPO).push(open_store("s3://bucket"), publication)
    assert on_the_hub(there) == content(local.root / HOME)
