"""A stand-in for the Hugging Face hub on loopback, as far as huggingface_hub asks it when a data set is pushed.

It makes repositories, checks the card's YAML, keeps commits, tags and large files (the LFS protocol, whole or in
parts), and lists them. It does not speak Xet, which clients offer first: it chooses LFS of what they offer.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

TOKEN = "hf_of_the_tests"
API = re.compile(r"/api/datasets/(?P<repo>[\w.-]+/[\w.-]+)/(?P<what>[\w-]+)(?:/(?P<rest>[^?]*))?")
ATTRIBUTES = b"*.parquet filter=lfs diff=lfs merge=lfs -text\n*.tar filter=lfs diff=lfs merge=lfs -text\n"
LARGE = (".parquet", ".tar")


@dataclass
class Repo:
    """A repository: commits are trees, path -> content in git, or the sha256 and size of a large file."""

    name: str
    private: bool
    commits: list[dict[str, bytes | tuple[str, int]]] = field(default_factory=lambda: [{".gitattributes": ATTRIBUTES}])
    titles: list[str] = field(default_factory=list)
    tags: dict[str, dict[str, bytes | tuple[str, int]]] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)

    def tree(self, revision: str) -> dict[str, bytes | tuple[str, int]]:
        return self.commits[-1] if revision == "main" else self.tags[revision]

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """What somebody who downloads a revision gets."""
        tree = self.tree(revision)
        return {path: e if isinstance(e, bytes) else self.objects[e[0]] for path, e in tree.items()}


class Hub(ThreadingHTTPServer):
    """``requests`` are the method, path and size of each request so far. ``refuse``: a status by a part of a path.
    ``part``: bytes in which larger files are to be sent (0: whole)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repos: dict[str, Repo] = {}
        self.requests: list[tuple[str, str, int]] = []
        self.refuse: dict[str, int] = {}
        self.part = 0
        self.parts: dict[tuple[str, int], bytes] = {}
        self.lock = threading.RLock()

    def asked(self) -> list[str]:
        """What was asked for since the last time, without hosts and digests, each kind of request once."""
        with self.lock:
            seen, self.requests = self.requests, []
        return list(dict.fromkeys(f"{method} {re.sub(r'[0-9a-f]{64}', 'OID', path)}" for method, path, _ in seen))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PUT = do_DELETE = do_GET

    def log_message(self, *args: object) -> None:
        pass

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        with self.server.lock:
            self.server.requests.append((self.command, path, len(body)))
            status, answer = self._route(path, body)
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.md5(body).hexdigest()}"')
        self.end_headers()
        self.wfile.write(data)

    def _route(self, path: str, body: bytes) -> tuple[int, Any]:
        for part, status in self.server.refuse.items():
            if part in path:
                return status, {"error": "You are not to do that."} if status >= 400 else b"<html>a web page</html>"
        if path.startswith("/storage/"):
            return self._stored(path, body)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return 401, {"error": "Invalid username or password."}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return self._validate(json.loads(body)["content"])
        if match := re.fullmatch(r"/datasets/([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", path):
            return 200, self._batch(match[1], json.loads(body))
        if match := API.fullmatch(path):
            repo = self.server.repos.get(match["repo"])
            if repo is None:
                return 404, {"error": "Repository not found"}
            return getattr(self, "_" + match["what"].replace("-", "_"))(repo, match["rest"] or "", body)
        return 404, {"error": f"{self.command} {path} is not known here"}

    def _create(self, asked: dict[str, Any]) -> tuple[int, Any]:
        name = f"{asked['organization']}/{asked['name']}"
        answer = {"url": f"{self.server.url}/datasets/{name}"}
        if name in self.server.repos:
            return 409, answer
        self.server.repos[name] = Repo(name, asked.get("private", False))
        return 200, answer

    def _validate(self, text: str) -> tuple[int, Any]:
        """As much as is known of what the hub asks of a card: YAML with a licence and configs that have data files."""
        head = yaml.safe_load(text.split("---\n")[1])
        wrong = [name for name in ("license", "configs") if not head.get(name)]
        wrong += [c["config_name"] for c in head["configs"] if not c["data_files"][0]["path"]]
        errors = [{"message": f"{name} is missing"} for name in wrong]
        return (400 if errors else 200), {"errors": errors, "warnings": []}

    def _refs(self, repo: Repo, rest: str, body: bytes) -> tuple[int, Any]:
        tags = [{"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": "0" * 40} for tag in repo.tags]
        return 200, {"branches": [], "converts": [], "tags": tags}

    def _tree(self, repo: Repo, rest: str, body: bytes) -> tuple[int, Any]:
        listed = []
        for path, entry in repo.tree(rest.partition("/")[0]).items():
            if isinstance(entry, bytes):
                listed.append({"type": "file", "path": path, "size": len(entry), "oid": blob_id(entry)})
            else:
                lfs = {"oid": entry[0], "size": entry[1], "pointerSize": 130}
                listed.append({"type": "file", "path": path, "size": entry[1], "oid": "0" * 40, "lfs": lfs})
        return 200, listed

    def _preupload(self, repo: Repo, rest: str, body: bytes) -> tuple[int, Any]:
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LARGE) or file["size"] > 10_000_000 else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(body)["files"]
        ]
        return 200, {"files": files}

    def _batch(self, name: str, asked: dict[str, Any]) -> dict[str, Any]:
        repo, answers = self.server.repos[name], []
        for wanted in asked["objects"]:
            answer: dict[str, Any] = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in repo.objects:
                href, header = f"{self.server.url}/storage/{name}/{wanted['oid']}", {}
                if self.server.part and wanted["size"] > self.server.part:
                    count = -(-wanted["size"] // self.server.part)
                    header = {"chunk_size": str(self.server.part)}
                    header |= {f"{i + 1:05d}": f"{href}/{i + 1}" for i in range(count)}
                answer["actions"] = {"upload": {"href": href, "header": header}}
            answers.append(answer)
        return {"transfer": "basic", "objects": answers}

    def _stored(self, path: str, body: bytes) -> tuple[int, Any]:
        """A large file: whole (PUT), a part of it (PUT .../1), or the end of its parts (POST)."""
        owner, name, oid, *part = path.removeprefix("/storage/").split("/")
        if part:
            self.server.parts[oid, int(part[0])] = body
            return 200, b""
        if self.command == "POST":
            numbers = [p["partNumber"] for p in json.loads(body)["parts"]]
            body = b"".join(self.server.parts.pop((oid, number)) for number in numbers)
        if hashlib.sha256(body).hexdigest() != oid:
            return 400, {"error": "this is another file"}
        self.server.repos[f"{owner}/{name}"].objects[oid] = body
        return 200, {}

    def _commit(self, repo: Repo, rest: str, body: bytes) -> tuple[int, Any]:
        tree = dict(repo.commits[-1])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            match line["key"]:
                case "header":
                    repo.titles.append(value["summary"])
                case "file":
                    tree[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    if value["oid"] not in repo.objects:
                        return 400, {"error": "a large file is missing"}
                    tree[value["path"]] = (value["oid"], value["size"])
                case "deletedFile":
                    del tree[value["path"]]
        repo.commits.append(tree)
        return 200, {
            "commitUrl": f"{self.server.url}/datasets/{repo.name}/commit/{len(repo.commits)}",
            "commitOid": "0" * 40,
        }

    def _tag(self, repo: Repo, rest: str, body: bytes) -> tuple[int, Any]:
        if self.command == "DELETE":
            del repo.tags[rest]
            return 200, {}
        tag = json.loads(body)["tag"]
        if tag in repo.tags:
            return 409, {"error": "the tag exists"}
        repo.tags[tag] = repo.commits[-1]
        return 200, {}

    def _super_squash(self, repo: Repo, rest: str, body: bytes) -> tuple[int, Any]:
        repo.commits = repo.commits[-1:]
        return 200, {}

    def _lfs_files(self, repo: Repo, rest: str, body: bytes) -> tuple[int, Any]:
        """Lists large files, each with an id of its own, or deletes some by that."""
        if rest == "batch":
            for file_id in json.loads(body)["deletions"]["sha"]:
                del repo.objects[file_id.removeprefix("file-")]
            return 200, {}
        listed = [
            {"fileOid": f"file-{oid}", "filename": oid, "oid": oid, "pushedAt": "2026-11-30T12:00:00.000Z"}
            | {"ref": "main", "size": len(data)}
            for oid, data in repo.objects.items()
        ]
        return 200, listed


def blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def hub() -> Iterator[Hub]:
    """The stand-in, for as long as the block lasts."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
