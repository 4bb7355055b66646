"""Weights over broken networks, from servers that misbehave: in the end the right file is there, or none."""

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
from dataclasses import replace
from pathlib import Path
from urllib.request import Request

import pytest
import torch
from safetensors.torch import load_file

from include.models import checkpoints, download, fetching
from include.models.checkpoints import Cache, Checkpoint
from include.models.errors import ModelError
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
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "PAUSE", 0.0)
    monkeypatch.setattr(fetching, "LOCK_POLL_SECONDS", 0.01)
    return Cache(tmp_path / "cache")


@pytest.fixture
def register(server: WeightsServer, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> Register:
    """Adds the checkpoint "m" to the list. Returns the place of its file."""

    def add(sha256: str = SHA256, file: str = "m.safetensors") -> Path:
        entry = Checkpoint("m", file, sha256, "MIT", "a test", f"{server.url}/there/{file}")
        monkeypatch.setitem(checkpoints.CHECKPOINTS, "m", entry)
        return cache.folder / file

    return add


def test_what_is_fetched_is_whole_recorded_and_found_without_the_network(server, register, cache):
    file = register()
    assert fetching.fetch("m", cache) == file == cache.path("m")
    assert file.read_bytes() == BODY
    done = subprocess.run(["sha256sum", "-c", f"{file.name}.sha256"], cwd=file.parent, capture_output=True, text=True)
    assert done.stdout == "m.safetensors: OK\n"
    assert sorted(f.name for f in file.parent.iterdir()) == [
        "m.safetensors",
        "m.safetensors.lock",
        "m.safetensors.sha256",
    ]
    fetching.fetch("m", cache)
    assert len(server.requests) == 1


def test_a_broken_connection_goes_on_where_it_broke(server, register, cache):
    file = register()
    server.cuts = [300_000, 200_000]
    fetching.fetch("m", cache)
    assert file.read_bytes() == BODY
    assert [wanted for _, wanted in server.requests] == [None, "bytes=300000-", "bytes=500000-"]


def test_a_later_process_goes_on_where_an_earlier_one_stopped(server, register, cache):
    file = register()
    server.cuts = [300_000, 0, 0, 0, 0]
    with pytest.raises(ModelError, match=r"what has arrived is kept.*\[weights-unavailable\]$"):
        fetching.fetch("m", cache)
    assert not file.exists() and cache.state("m") == "partly"
    server.cuts, server.requests = [], []
    fetching.fetch("m", cache)
    assert file.read_bytes() == BODY and [wanted for _, wanted in server.requests] == ["bytes=300000-"]


def test_parts_of_two_versions_of_a_file_are_not_mixed(server, register, cache):
    file = register(sha256="")
    server.cuts = [300_000, 0, 0, 0, 0]
    with pytest.raises(ModelError):
        fetching.fetch("m", cache)
    newer = server.files["/there/m.safetensors"] = BODY[::-1]
    server.cuts = []
    fetching.fetch("m", cache)
    assert file.read_bytes() == newer


@pytest.mark.parametrize("fault", [{"ranges": False}, {"versions": False}, {"shift": 7}])
def test_a_server_that_cannot_resume_sends_the_file_anew(server, register, fault, cache):
    file = register()
    for name, value in fault.items():
        setattr(server, name, value)
    server.cuts = [300_000]
    fetching.fetch("m", cache)
    assert file.read_bytes() == BODY


def test_a_file_that_was_whole_but_not_yet_in_place_is_not_fetched_again(server, register, cache):
    file = register()
    file.parent.mkdir(parents=True)
    (file.parent / "m.safetensors.part").write_bytes(BODY)
    (file.parent / "m.safetensors.part.version").write_text(f'"{hashlib.md5(BODY).hexdigest()}"')
    fetching.fetch("m", cache)
    assert file.read_bytes() == BODY and server.requests == [("/there/m.safetensors", f"bytes={len(BODY)}-")]


def test_what_hashes_to_something_else_is_removed_and_said(server, register, cache):
    file = register()
    server.files["/there/m.safetensors"] = BODY[:-1] + b"!"
    with pytest.raises(ModelError, match=rf"sha256 [0-9a-f]+..., not {SHA256[:12]}...: removed.*\[altered-weights\]$"):
        fetching.fetch("m", cache)
    assert not [f for f in file.parent.iterdir() if f.suffix != ".lock"]


def test_where_only_the_first_digits_are_known_they_are_checked_and_all_recorded(server, register, cache):
    register(SHA256[:8])
    with pytest.raises(ModelError, match=r"m: .*m.safetensors .*\[missing-weights\]$"):
        cache.sha256("m")
    fetching.fetch("m", cache)
    assert cache.sha256("m") == SHA256
    register("00000000")
    with pytest.raises(ModelError, match=r" 00000000.*\[altered-weights\]$"):
        cache.path("m")


def test_a_file_that_changes_after_it_was_recorded_is_refused_with_what_to_do(register, cache):
    file = register(sha256="")
    fetching.fetch("m", cache)
    file.write_bytes(BODY[::-1])
    with pytest.raises(ModelError, match=r"m.safetensors .*m.safetensors.sha256 .*\[altered-weights\]$"):
        cache.path("m")
    with pytest.raises(ModelError, match="has sha256"):
        fetching.fetch("m", cache)


def test_a_file_put_there_by_hand_needs_no_network(server, register, cache):
    file = register()
    file.parent.mkdir(parents=True)
    file.write_bytes(BODY)
    assert cache.state("m") == "not checked"
    with pytest.raises(ModelError, match=r"not checked yet: .*\[missing-weights\]$"):
        cache.path("m")
    fetching.fetch("m", cache)
    assert cache.path("m") == file and not server.requests


def test_a_wrong_file_put_there_by_hand_is_refused_and_left_alone(register, cache):
    file = register()
    file.parent.mkdir(parents=True)
    file.write_bytes(b"something else")
    with pytest.raises(ModelError, match=r"\[altered-weights\]$"):
        fetching.fetch("m", cache)
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
def test_what_cannot_be_had_is_told_with_the_file_its_place_and_the_ways_to_get_it(
    server, register, fault, says, cache
):
    file = register()
    for name, value in fault.items():
        setattr(server, name, value)
    with pytest.raises(ModelError, match=says) as error:
        fetching.fetch("m", cache)
    message = str(error.value)
    assert "\n" not in message
    for needed in (f"{server.url}/there/m.safetensors", str(file), "models fetch", "LAION_PEOPLE_MODELS_MIRROR"):
        assert needed in message


def test_without_network_the_error_names_host_and_remedy(cache, monkeypatch):
    entry = Checkpoint("m", "m.safetensors", "", "MIT", "a test", "https://weights.invalid/m.safetensors")
    monkeypatch.setitem(checkpoints.CHECKPOINTS, "m", entry)
    with pytest.raises(ModelError, match=r"weights.invalid: .*Without network, .*\[weights-unavailable\]$"):
        fetching.fetch("m", cache)


def test_a_redirect_is_followed_but_not_from_https_to_http(server, register, cache):
    file = register()
    server.redirects["/there/m.safetensors"] = "/elsewhere"
    server.files["/elsewhere"] = BODY
    fetching.fetch("m", cache)
    assert file.read_bytes() == BODY
    secure, open_to_all = Request("https://example.org/a"), "http://example.org/a"
    with pytest.raises(ModelError, match=r"not HTTPS.*\[weights-unavailable\]$"):
        download._SafeRedirects().redirect_request(secure, io.BytesIO(), 302, "", None, open_to_all)


def test_a_mirror_is_a_server_or_a_folder_that_has_the_files_by_name(server, register, tmp_path, cache):
    file = register()
    server.files = {"/mirror/m.safetensors": BODY}
    cache = replace(cache, mirror=f"{server.url}/mirror/")
    fetching.fetch("m", cache)
    assert [path for path, _ in server.requests] == ["/mirror/m.safetensors"]
    cache = replace(cache, folder=tmp_path / "another")
    cache = replace(cache, mirror=str(file.parent))
    assert fetching.fetch("m", cache).read_bytes() == BODY
    file.write_bytes(BODY[::-1])
    cache = replace(cache, folder=tmp_path / "third")
    with pytest.raises(ModelError, match="removed"):
        fetching.fetch("m", cache)


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
def test_a_mirrors_password_is_sent_to_it_alone(server, register, userinfo: str, login: str, cache):
    with weights_server() as elsewhere:
        server.login = f"Basic {base64.b64encode(login.encode()).decode()}"
        server.redirects = {"/mirror/m.safetensors": "/moved"}
        server.files["/moved"] = elsewhere.files["/elsewhere"] = BODY
        cache = replace(cache, mirror=f"{server.url.replace('://', f'://{userinfo}@')}/mirror")
        file = register()
        assert fetching.fetch("m", cache).read_bytes() == BODY
        assert server.logins == [server.login] * 2, "a redirect within the server keeps it"
        file.unlink()
        file.with_name(f"{file.name}.sha256").unlink()
        server.redirects = {"/mirror/m.safetensors": f"{elsewhere.url}/elsewhere"}
        assert fetching.fetch("m", cache).read_bytes() == BODY
        assert elsewhere.logins == [None]


@pytest.mark.parametrize("status", [401, 404, 500])
def test_a_mirrors_password_is_never_shown(server, register, caplog, status: int, cache):
    caplog.set_level(logging.INFO, "include.models")
    server.status = status
    cache = replace(cache, mirror=server.url.replace("://", "://us3r:s3cret@"))
    register()
    with pytest.raises(ModelError, match=f"HTTP {status}") as failed:
        fetching.fetch("m", cache)
    server.status, server.files = 0, {"/m.safetensors": b"other"}
    with pytest.raises(ModelError, match=r"what came from http://[*]{3}@127.0.0.1") as wrong:
        fetching.fetch("m", cache)
    assert "s3cret" not in f"{failed.value}{wrong.value}{caplog.text}"


@pytest.mark.parametrize("location", ["http://[::1", "http://h:port/", "//[x]/", "http://user:pw@[/"])
def test_a_redirect_to_what_is_no_address_is_a_fault_of_the_server(server, register, location: str, cache):
    server.redirects = {"/there/m.safetensors": location}
    register()
    with pytest.raises(ModelError, match="m could not be fetched"):
        fetching.fetch("m", cache)


def test_a_pickle_is_reduced_to_safetensors_which_is_what_a_model_opens(server, register, cache):
    pickle = io.BytesIO()
    torch.save({"state_dict": {"weight": torch.arange(4.0)}, "meta": {}}, pickle)
    server.files["/there/m.pth"] = pickle.getvalue()
    file = register(sha256="", file="m.pth")
    opened = fetching.fetch("m", cache)
    assert opened == cache.path("m") == file.with_name(f"{file.name}.safetensors")
    assert load_file(opened)["weight"].tolist() == [0, 1, 2, 3]
    assert cache.sha256("m") == hashlib.sha256(pickle.getvalue()).hexdigest()
    cache.verify("m")
    file.write_bytes(b"")
    cache.path("m")
    with pytest.raises(ModelError, match=r"m.pth has sha256"):
        cache.verify("m")


def test_two_processes_fetch_a_checkpoint_once(server, cache):
    name, folder = f"huggingface/a/b@{REVISION}", f"/huggingface/a/b@{REVISION}"
    record = f"{SHA256}  b@{REVISION}/model.safetensors\n"
    server.files, server.delay = {f"{folder}.sha256": record.encode(), f"{folder}/model.safetensors": BODY}, 0.5
    environ = {"PYTHONPATH": ":".join(sys.path)}
    cache = replace(cache, mirror=server.url)
    code = f"""
from pathlib import Path
from include.models import fetching
from include.models.checkpoints import Cache
print(fetching.fetch({name!r}, Cache(Path({str(cache.folder)!r}), {server.url!r})))
"""
    running = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=os.environ | environ)
        for _ in range(3)
    ]
    assert {process.communicate(timeout=60)[0].strip() for process in running} == {str(cache.folder / name)}
    assert sorted(path for path, _ in server.requests) == sorted(server.files)
    cache.verify(name)


class TestHuggingFaceFolder:
    NAME = f"huggingface/someone/captioner@{REVISION}"
    LARGE = b"tensors" * 1000

    @pytest.fixture
    def cache(self, server: WeightsServer, cache: Cache) -> Cache:
        return replace(cache, hub=server.url)

    @pytest.fixture
    def hub(self, server: WeightsServer) -> WeightsServer:
        """A hub that lists a revision and gives its files."""
        files = {"config.json": b"{}", "model.safetensors": self.LARGE, "modeling.py": b"import os", "a/b.json": b"{}"}
        files |= {"chat_template.jinja": b"{{ messages }}", "model.bin": b"pickle"}
        lfs = {"sha256": hashlib.sha256(self.LARGE).hexdigest()}
        listing = [{"rfilename": n} | ({"lfs": lfs} if n == "model.safetensors" else {}) for n in files]
        listing.append({"rfilename": "../../outside.json"})
        server.files = {f"/someone/captioner/resolve/{REVISION}/{n}": body for n, body in files.items()}
        server.files[f"/api/models/someone/captioner/revision/{REVISION}"] = json.dumps({"siblings": listing}).encode()
        return server

    def test_has_the_files_of_its_revision_that_hold_no_code(self, hub, cache):
        folder = fetching.fetch(self.NAME, cache)
        assert folder == cache.path(self.NAME) == cache.folder / self.NAME
        assert sorted(f.name for f in folder.iterdir()) == ["chat_template.jinja", "config.json", "model.safetensors"]
        record = folder.with_name(f"{folder.name}.sha256")
        assert cache.sha256(self.NAME) == hashlib.sha256(record.read_bytes()).hexdigest()

    def test_is_refused_when_a_file_is_changed_missing_or_foreign(self, hub, cache):
        folder = fetching.fetch(self.NAME, cache)
        (folder / "model.py").write_text("import os")
        with pytest.raises(ModelError, match=r"model.py .*\[altered-weights\]$"):
            cache.path(self.NAME)
        (folder / "model.py").unlink()
        (folder / "config.json").write_text("[]")
        with pytest.raises(ModelError, match=r"config.json has sha256"):
            cache.path(self.NAME)
        (folder / "config.json").unlink()
        with pytest.raises(ModelError, match=r"config.json is missing.*\[missing-weights\]$"):
            cache.path(self.NAME)

    def test_weights_that_are_not_what_the_hub_lists_are_removed(self, hub, cache):
        hub.files[f"/someone/captioner/resolve/{REVISION}/model.safetensors"] = b"other"
        with pytest.raises(ModelError, match="removed"):
            fetching.fetch(self.NAME, cache)
        assert cache.state(self.NAME) == "partly"

    def test_without_safetensors_is_refused(self, hub, cache):
        hub.files[f"/api/models/someone/captioner/revision/{REVISION}"] = b'{"siblings": [{"rfilename": "m.bin"}]}'
        with pytest.raises(ModelError, match=r"\[unsafe-weights\]$"):
            fetching.fetch(self.NAME, cache)

    @pytest.mark.parametrize("answer", [b"<html>", b"{}", b'{"siblings": [1]}'])
    def test_from_something_that_is_no_hub_is_an_error_with_the_remedy(self, hub, answer, cache):
        hub.files[f"/api/models/someone/captioner/revision/{REVISION}"] = answer
        with pytest.raises(ModelError, match=r"Without network.*\[weights-unavailable\]$"):
            fetching.fetch(self.NAME, cache)

    def test_comes_from_a_mirror_with_its_record(self, hub, cache, tmp_path):
        fetching.fetch(self.NAME, cache)
        first = cache.folder
        for place, mirror in (("second", str(first)), ("third", hub.url)):
            cache = Cache(tmp_path / place, mirror)
            hub.files = {f"/{f.relative_to(first)}": f.read_bytes() for f in first.rglob("*") if f.is_file()}
            folder = fetching.fetch(self.NAME, cache)
            assert (folder / "model.safetensors").read_bytes() == self.LARGE

    def test_a_mirror_cannot_make_it_write_elsewhere(self, hub, tmp_path, cache):
        for line in (f"captioner@{REVISION}/../../x.json", "/tmp/x.json", f"captioner@{REVISION}/x.py", "x.json"):
            hub.files = {f"/{self.NAME}.sha256": f"{SHA256}  {line}\n".encode()}
            cache = replace(cache, mirror=hub.url)
            with pytest.raises(ModelError, match=r"\[weights-unavailable\]$"):
                fetching.fetch(self.NAME, cache)


def test_progress_is_a_line_now_and_then_in_a_log(register, monkeypatch, caplog, cache):
    register()
    monkeypatch.setattr(download, "HEARTBEAT_SECONDS", 0.0)
    monkeypatch.setattr(download, "CHUNK", 1 << 18)
    with caplog.at_level(logging.INFO, "include.models"):
        fetching.fetch("m", cache)
    assert caplog.messages[0] == "m.safetensors: 1.0 MB to fetch"
    assert caplog.messages[-1] == "m.safetensors: 1.0 of 1.0 MB" and len(caplog.messages) >= 4


def test_progress_is_a_bar_on_a_terminal(register, monkeypatch, capsys, cache):
    register()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    fetching.fetch("m", cache)
    assert "100%" in capsys.readouterr().err
