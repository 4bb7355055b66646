"""Weights come over a network that breaks, from servers that misbehave, and are what they should be or not there."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import Request

import pytest
import torch
from safetensors.torch import load_file

from include.models import checkpoints, download, fetching
from include.models.checkpoints import Checkpoint
from laion_people.errors import LaionPeopleError
from tests.weights_server import WeightsServer, weights_server

BODY = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(BODY).hexdigest()
REVISION = "0123456789abcdef0123456789abcdef01234567"
Register = Callable[..., Path]


@pytest.fixture
def server() -> Iterator[WeightsServer]:
    with weights_server() as running:
        running.files["/there/m.safetensors"] = BODY
        yield running


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAION_PEOPLE_MODELS_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    monkeypatch.setattr(download, "PAUSE", 0.0)
    monkeypatch.setattr(fetching, "LOCK_POLL_SECONDS", 0.01)
    return tmp_path / "cache"


@pytest.fixture
def register(server: WeightsServer, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Register:
    """Adds the checkpoint "m" to the list; gives where its file goes."""

    def add(sha256: str = SHA256, file: str = "m.safetensors") -> Path:
        entry = Checkpoint("m", file, sha256, "MIT", "a test", f"{server.url}/there/{file}")
        monkeypatch.setitem(checkpoints.CHECKPOINTS, "m", entry)
        return cache / file

    return add


def test_what_is_fetched_is_whole_recorded_and_found_without_the_network(server, register):
    file = register()
    assert fetching.fetch("m") == file == checkpoints.path("m")
    assert file.read_bytes() == BODY
    done = subprocess.run(["sha256sum", "-c", f"{file.name}.sha256"], cwd=file.parent, capture_output=True, text=True)
    assert done.stdout == "m.safetensors: OK\n"
    assert sorted(f.name for f in file.parent.iterdir()) == [
        "m.safetensors",
        "m.safetensors.lock",
        "m.safetensors.sha256",
    ]
    fetching.fetch("m")
    assert len(server.requests) == 1


def test_a_broken_connection_goes_on_where_it_broke(server, register):
    file = register()
    server.cuts = [300_000, 200_000]
    fetching.fetch("m")
    assert file.read_bytes() == BODY
    assert [wanted for _, wanted in server.requests] == [None, "bytes=300000-", "bytes=500000-"]


def test_a_later_process_goes_on_where_an_earlier_one_stopped(server, register):
    file = register()
    server.cuts = [300_000, 0, 0, 0, 0]
    with pytest.raises(LaionPeopleError, match=r"what has arrived is kept, and the same command goes on from there"):
        fetching.fetch("m")
    assert not file.exists() and checkpoints.state("m") == "partly"
    server.cuts, server.requests = [], []
    fetching.fetch("m")
    assert file.read_bytes() == BODY and [wanted for _, wanted in server.requests] == ["bytes=300000-"]


def test_parts_of_two_versions_of_a_file_are_not_mixed(server, register):
    file = register(sha256="")
    server.cuts = [300_000, 0, 0, 0, 0]
    with pytest.raises(LaionPeopleError):
        fetching.fetch("m")
    newer = server.files["/there/m.safetensors"] = BODY[::-1]
    server.cuts = []
    fetching.fetch("m")
    assert file.read_bytes() == newer


@pytest.mark.parametrize("fault", [{"ranges": False}, {"versions": False}, {"shift": 7}])
def test_a_server_that_cannot_resume_sends_the_file_anew(server, register, fault):
    file = register()
    for name, value in fault.items():
        setattr(server, name, value)
    server.cuts = [300_000]
    fetching.fetch("m")
    assert file.read_bytes() == BODY


def test_a_file_that_was_whole_but_not_yet_in_place_is_not_fetched_again(server, register):
    file = register()
    file.parent.mkdir(parents=True)
    (file.parent / "m.safetensors.part").write_bytes(BODY)
    (file.parent / "m.safetensors.part.version").write_text(f'"{hashlib.md5(BODY).hexdigest()}"')
    fetching.fetch("m")
    assert file.read_bytes() == BODY and server.requests == [("/there/m.safetensors", f"bytes={len(BODY)}-")]


def test_what_hashes_to_something_else_is_removed_and_said(server, register):
    file = register()
    server.files["/there/m.safetensors"] = BODY[:-1] + b"!"
    with pytest.raises(LaionPeopleError, match=rf"has sha256 [0-9a-f]+..., not {SHA256[:12]}...: removed"):
        fetching.fetch("m")
    assert not [f for f in file.parent.iterdir() if f.suffix != ".lock"]


def test_where_only_the_first_digits_are_known_they_are_checked_and_all_recorded(server, register):
    register(SHA256[:8])
    with pytest.raises(LaionPeopleError, match=r"m: .*m.safetensors is missing: run `bin/laion-people models fetch"):
        checkpoints.sha256("m")
    fetching.fetch("m")
    assert checkpoints.sha256("m") == SHA256
    register("00000000")
    with pytest.raises(LaionPeopleError, match="is not of 00000000"):
        checkpoints.path("m")


def test_a_file_that_changes_after_it_was_recorded_is_refused_with_what_to_do(register):
    file = register(sha256="")
    fetching.fetch("m")
    file.write_bytes(BODY[::-1])
    with pytest.raises(
        LaionPeopleError, match=r"m.safetensors has sha256 .* remove it and .*m.safetensors.sha256 and run"
    ):
        checkpoints.path("m")
    with pytest.raises(LaionPeopleError, match="has sha256"):
        fetching.fetch("m")


def test_a_file_put_there_by_hand_needs_no_network(server, register):
    file = register()
    file.parent.mkdir(parents=True)
    file.write_bytes(BODY)
    assert checkpoints.state("m") == "not checked"
    with pytest.raises(LaionPeopleError, match="is not checked yet: run `bin/laion-people models fetch"):
        checkpoints.path("m")
    fetching.fetch("m")
    assert checkpoints.path("m") == file and not server.requests


def test_a_wrong_file_put_there_by_hand_is_refused_and_left_alone(register):
    file = register()
    file.parent.mkdir(parents=True)
    file.write_bytes(b"something else")
    with pytest.raises(LaionPeopleError, match="remove it and run"):
        fetching.fetch("m")
    assert file.read_bytes() == b"something else"


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ({"status": 404}, "HTTP 404"),
        ({"status": 503}, "HTTP 503"),
        ({"content_type": "text/html"}, "the answer is a web page, not weights"),
        ({"lengths": False}, "does not tell how long the file is"),
    ],
)
def test_what_cannot_be_had_is_told_with_the_file_its_place_and_the_ways_to_get_it(server, register, fault, says):
    file = register()
    for name, value in fault.items():
        setattr(server, name, value)
    with pytest.raises(LaionPeopleError, match=says) as error:
        fetching.fetch("m")
    message = str(error.value)
    assert "\n" not in message
    for needed in (f"{server.url}/there/m.safetensors", str(file), "models fetch", "LAION_PEOPLE_MODELS_MIRROR"):
        assert needed in message


def test_without_network_the_error_names_host_and_remedy(cache, monkeypatch):
    entry = Checkpoint("m", "m.safetensors", "", "MIT", "a test", "https://weights.invalid/m.safetensors")
    monkeypatch.setitem(checkpoints.CHECKPOINTS, "m", entry)
    with pytest.raises(
        LaionPeopleError, match=r"could not be fetched: weights.invalid: .*Without network, get it from"
    ):
        fetching.fetch("m")


def test_a_redirect_is_followed_but_not_from_https_to_http(server, register):
    file = register()
    server.redirects["/there/m.safetensors"] = "/elsewhere"
    server.files["/elsewhere"] = BODY
    fetching.fetch("m")
    assert file.read_bytes() == BODY
    secure, open_to_all = Request("https://example.org/a"), "http://example.org/a"
    with pytest.raises(LaionPeopleError, match="not HTTPS: not followed"):
        download._SafeRedirects().redirect_request(secure, io.BytesIO(), 302, "", None, open_to_all)


def test_a_mirror_is_a_server_or_a_folder_that_has_the_files_by_name(server, register, tmp_path, monkeypatch):
    file = register()
    server.files = {"/mirror/m.safetensors": BODY}
    monkeypatch.setenv("LAION_PEOPLE_MODELS_MIRROR", f"{server.url}/mirror/")
    fetching.fetch("m")
    assert [path for path, _ in server.requests] == ["/mirror/m.safetensors"]
    monkeypatch.setenv("LAION_PEOPLE_MODELS_DIR", str(tmp_path / "another"))
    monkeypatch.setenv("LAION_PEOPLE_MODELS_MIRROR", str(file.parent))
    assert fetching.fetch("m").read_bytes() == BODY
    file.write_bytes(BODY[::-1])
    monkeypatch.setenv("LAION_PEOPLE_MODELS_DIR", str(tmp_path / "third"))
    with pytest.raises(LaionPeopleError, match="removed"):
        fetching.fetch("m")


@pytest.mark.parametrize(
    ("userinfo", "login"),
    [
        ("user:pw", "user:pw"),
        ("us%40er:p%2Fw%3A%23%C3%A9", "us@er:p/w:#\N{LATIN SMALL LETTER E WITH ACUTE}"),
        ("user:p@:w", "user:p@:w"),
        ("token", "token:"),
        (":", ":"),
    ],
)
def test_a_mirrors_password_is_sent_to_it_alone(server, register, monkeypatch, userinfo: str, login: str):
    with weights_server() as other:
        server.login = f"Basic {base64.b64encode(login.encode()).decode()}"
        server.redirects = {"/mirror/m.safetensors": "/moved"}
        server.files["/moved"] = other.files["/elsewhere"] = BODY
        monkeypatch.setenv("LAION_PEOPLE_MODELS_MIRROR", f"{server.url.replace('://', f'://{userinfo}@')}/mirror")
        file = register()
        assert fetching.fetch("m").read_bytes() == BODY
        assert server.logins == [server.login] * 2, "a redirect within the server keeps it"
        file.unlink()
        file.with_name(f"{file.name}.sha256").unlink()
        server.redirects = {"/mirror/m.safetensors": f"{other.url}/elsewhere"}
        assert fetching.fetch("m").read_bytes() == BODY
        assert other.logins == [None]


@pytest.mark.parametrize("status", [401, 404, 500])
def test_a_mirrors_password_is_never_shown(server, register, monkeypatch, caplog, status: int):
    caplog.set_level(logging.INFO, "laion_people.models")
    server.status = status
    monkeypatch.setenv("LAION_PEOPLE_MODELS_MIRROR", server.url.replace("://", "://us3r:s3cret@"))
    register()
    with pytest.raises(LaionPeopleError, match=f"HTTP {status}") as failed:
        fetching.fetch("m")
    server.status, server.files = 0, {"/m.safetensors": b"other"}
    with pytest.raises(LaionPeopleError, match=r"what came from http://[*]{3}@127.0.0.1") as wrong:
        fetching.fetch("m")
    assert "s3cret" not in f"{failed.value}{wrong.value}{caplog.text}"


@pytest.mark.parametrize("location", ["http://[::1", "http://h:port/", "//[x]/", "http://user:pw@[/"])
def test_a_redirect_to_what_is_no_address_is_a_fault_of_the_server(server, register, location: str):
    server.redirects = {"/there/m.safetensors": location}
    register()
    with pytest.raises(LaionPeopleError, match="m could not be fetched"):
        fetching.fetch("m")


def test_a_pickle_is_reduced_to_safetensors_which_is_what_a_model_opens(server, register):
    pickle = io.BytesIO()
    torch.save({"state_dict": {"weight": torch.arange(4.0)}, "meta": {}}, pickle)
    server.files["/there/m.pth"] = pickle.getvalue()
    file = register(sha256="", file="m.pth")
    opened = fetching.fetch("m")
    assert opened == checkpoints.path("m") == file.with_name(f"{file.name}.safetensors")
    assert load_file(opened)["weight"].tolist() == [0, 1, 2, 3]
    assert checkpoints.sha256("m") == hashlib.sha256(pickle.getvalue()).hexdigest()
    checkpoints.verify("m")
    file.write_bytes(b"")
    checkpoints.path("m")
    with pytest.raises(LaionPeopleError, match=r"m.pth has sha256"):
        checkpoints.verify("m")


def test_two_processes_fetch_a_checkpoint_once(server, cache):
    name, folder = f"huggingface/a/b@{REVISION}", f"/huggingface/a/b@{REVISION}"
    record = f"{SHA256}  b@{REVISION}/model.safetensors\n"
    server.files, server.delay = {f"{folder}.sha256": record.encode(), f"{folder}/model.safetensors": BODY}, 0.5
    environ = {"PYTHONPATH": ":".join(sys.path), "LAION_PEOPLE_MODELS_MIRROR": server.url}
    code = f"from include.models import fetching; print(fetching.fetch({name!r}))"
    running = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=os.environ | environ)
        for _ in range(3)
    ]
    assert {process.communicate(timeout=60)[0].strip() for process in running} == {str(cache / name)}
    assert sorted(path for path, _ in server.requests) == sorted(server.files)
    checkpoints.verify(name)


class TestHuggingFaceFolder:
    NAME = f"huggingface/someone/captioner@{REVISION}"
    LARGE = b"tensors" * 1000

    @pytest.fixture
    def hub(self, server: WeightsServer, cache: Path, monkeypatch: pytest.MonkeyPatch) -> WeightsServer:
        """A hub as far as listing a revision and giving its files goes."""
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        files = {"config.json": b"{}", "model.safetensors": self.LARGE, "modeling.py": b"import os", "a/b.json": b"{}"}
        lfs = {"sha256": hashlib.sha256(self.LARGE).hexdigest()}
        listing = [{"rfilename": n} | ({"lfs": lfs} if n == "model.safetensors" else {}) for n in files]
        listing.append({"rfilename": "../../outside.json"})
        server.files = {f"/someone/captioner/resolve/{REVISION}/{n}": body for n, body in files.items()}
        server.files[f"/api/models/someone/captioner/revision/{REVISION}"] = json.dumps({"siblings": listing}).encode()
        return server

    def test_has_the_files_of_its_revision_that_hold_no_code(self, hub, cache):
        folder = fetching.fetch(self.NAME)
        assert folder == checkpoints.path(self.NAME) == cache / self.NAME
        assert sorted(f.name for f in folder.iterdir()) == ["config.json", "model.safetensors"]
        record = folder.with_name(f"{folder.name}.sha256")
        assert checkpoints.sha256(self.NAME) == hashlib.sha256(record.read_bytes()).hexdigest()

    def test_is_refused_when_a_file_is_changed_missing_or_foreign(self, hub):
        folder = fetching.fetch(self.NAME)
        (folder / "model.py").write_text("import os")
        with pytest.raises(LaionPeopleError, match=r"model.py is not a file of it: remove it"):
            checkpoints.path(self.NAME)
        (folder / "model.py").unlink()
        (folder / "config.json").write_text("[]")
        with pytest.raises(LaionPeopleError, match=r"config.json has sha256"):
            checkpoints.path(self.NAME)
        (folder / "config.json").unlink()
        with pytest.raises(LaionPeopleError, match=r"config.json is missing"):
            checkpoints.path(self.NAME)

    def test_weights_that_are_not_what_the_hub_lists_are_removed(self, hub):
        hub.files[f"/someone/captioner/resolve/{REVISION}/model.safetensors"] = b"other"
        with pytest.raises(LaionPeopleError, match="removed"):
            fetching.fetch(self.NAME)
        assert checkpoints.state(self.NAME) == "partly"

    def test_without_safetensors_is_refused(self, hub):
        hub.files[f"/api/models/someone/captioner/revision/{REVISION}"] = b'{"siblings": [{"rfilename": "m.bin"}]}'
        with pytest.raises(LaionPeopleError, match="holds no safetensors"):
            fetching.fetch(self.NAME)

    @pytest.mark.parametrize("answer", [b"<html>", b"{}", b'{"siblings": [1]}'])
    def test_from_something_that_is_no_hub_is_an_error_with_the_remedy(self, hub, answer):
        hub.files[f"/api/models/someone/captioner/revision/{REVISION}"] = answer
        with pytest.raises(LaionPeopleError, match=r"does not answer as a hub.*Without network"):
            fetching.fetch(self.NAME)

    def test_comes_from_a_mirror_with_its_record(self, hub, cache, tmp_path, monkeypatch):
        fetching.fetch(self.NAME)
        monkeypatch.delenv("HF_ENDPOINT")
        for place, mirror in (("second", str(cache)), ("third", hub.url)):
            monkeypatch.setenv("LAION_PEOPLE_MODELS_DIR", str(tmp_path / place))
            monkeypatch.setenv("LAION_PEOPLE_MODELS_MIRROR", mirror)
            hub.files = {f"/{f.relative_to(cache)}": f.read_bytes() for f in cache.rglob("*") if f.is_file()}
            folder = fetching.fetch(self.NAME)
            assert (folder / "model.safetensors").read_bytes() == self.LARGE

    def test_a_mirror_cannot_make_it_write_elsewhere(self, hub, tmp_path, monkeypatch):
        for line in (f"captioner@{REVISION}/../../x.json", "/tmp/x.json", f"captioner@{REVISION}/x.py", "x.json"):
            hub.files = {f"/{self.NAME}.sha256": f"{SHA256}  {line}\n".encode()}
            monkeypatch.setenv("LAION_PEOPLE_MODELS_MIRROR", hub.url)
            with pytest.raises(LaionPeopleError, match=r"not a list of checksums|does not belong there"):
                fetching.fetch(self.NAME)


def test_progress_is_a_line_now_and_then_in_a_log(register, monkeypatch, caplog):
    register()
    monkeypatch.setattr(download, "HEARTBEAT_SECONDS", 0.0)
    monkeypatch.setattr(download, "CHUNK", 1 << 18)
    with caplog.at_level(logging.INFO, "laion_people.models"):
        fetching.fetch("m")
    assert caplog.messages[0] == "m.safetensors: 1.0 MB to fetch"
    assert caplog.messages[-1] == "m.safetensors: 1.0 of 1.0 MB" and len(caplog.messages) >= 4


def test_progress_is_a_bar_on_a_terminal(register, monkeypatch, capsys):
    register()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    fetching.fetch("m")
    assert "100%" in capsys.readouterr().err
