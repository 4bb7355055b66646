"""A Kubernetes API server for tests: what KubernetesPodOperator asks of one, with containers that are processes.

A container's command really runs: ``bin/laion-people`` with the arguments of the pod, and nothing in its environment
but the pod's. Mounts are folders: a mount's path in an argument or a variable is replaced by its folder, and a volume
claim is the folder of the same name on this machine. The XCom sidecar is played: it hands out the result, and ends
a little after it was asked to. What a cluster does to pods is chosen beforehand by ``fate``.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import threading
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kubernetes_validate
from aiohttp import web

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = "1.37"
COMPONENT = "app.kubernetes.io/component"
SIDECAR = "airflow-xcom-sidecar"


@dataclass(frozen=True)
class Fate:
    """What becomes of a pod: it runs a shell command in place of its own; it waits for ``release()`` first; it is
    deleted when it has written its first line; its node refuses it; its sidecar never answers."""

    shell: str = ""
    wait: bool = False
    vanish: bool = False
    reject: bool = False
    hang: bool = False


FAIL = Fate("echo loading >&2; echo 'laion-people: no luck' >&2; exit 1")
REFUSE = Fate("echo 'laion-people: no such partition' >&2; exit 2")
LIE = Fate('echo \'{"manifests": [{"uri": "file:///x", "sha256": "0"}], "rows": 1, "shards": 1}\' > "$RESULT"')
SILENT = Fate("echo done >&2")
WAIT = Fate(wait=True)
VANISH = Fate(vanish=True)
REJECT = Fate(reject=True)
HANG = replace(LIE, hang=True)


class FakeKubernetes:
    """An API server on a loopback port of its own; ``with FakeKubernetes(folder) as cluster`` runs it.

    ``pods`` are those that exist, by name; ``created`` are all that ever did, as they were asked for.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.pods: dict[str, Pod] = {}
        self.created: list[dict[str, Any]] = []
        self.fates: dict[str, list[Fate]] = defaultdict(list)
        self.released = threading.Event()
        self.loop = asyncio.new_event_loop()
        self.port = 0

    def __enter__(self) -> FakeKubernetes:
        self.folder.mkdir(parents=True, exist_ok=True)
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.port = asyncio.run_coroutine_threadsafe(self._serve(), self.loop).result(10)
        (self.folder / "kubeconfig").write_text(json.dumps(self._kubeconfig()))
        return self

    def __exit__(self, *exception: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self.loop).result(30)
        self.loop.call_soon_threadsafe(self.loop.stop)

    def fate(self, step: str, *fates: Fate) -> None:
        """What becomes of the next pods of a step; those after them do what they are made for."""
        self.fates[step] += fates

    def release(self) -> None:
        """Lets pods go on that wait."""
        self.released.set()

    def pods_of(self, step: str) -> list[dict[str, Any]]:
        """The pods of a step that ever were, as they were asked for."""
        return [pod for pod in self.created if pod["metadata"]["labels"].get(COMPONENT) == step]

    @property
    def environ(self) -> dict[str, str]:
        """What a process needs that is to talk to this cluster."""
        return {"KUBECONFIG": str(self.folder / "kubeconfig"), "NO_PROXY": "127.0.0.1"}

    async def _serve(self) -> int:
        app = web.Application()
        pods = "/api/v1/namespaces/{namespace}/pods"
        app.add_routes(
            [
                web.post(pods, self._create),
                web.get(pods, self._list),
                web.get(pods + "/{name}", self._read),
                web.patch(pods + "/{name}", self._patch),
                web.delete(pods + "/{name}", self._delete),
                web.get(pods + "/{name}/log", self._log),
                web.get(pods + "/{name}/exec", self._exec),
                web.get("/api/v1/namespaces/{namespace}/events", self._events),
            ]
        )
        self.runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        return int(self.runner.addresses[0][1])

    async def _stop(self) -> None:
        for name in list(self.pods):
            await self.pods.pop(name).stop()
        await self.runner.cleanup()

    def _kubeconfig(self) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "fake", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
            "users": [{"name": "airflow", "user": {"token": "none"}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "airflow", "namespace": "laion"}}],
            "current-context": "fake",
        }

    async def _create(self, request: web.Request) -> web.Response:
        body = await request.json()
        try:
            kubernetes_validate.validate(body, KUBERNETES, strict=True)
        except kubernetes_validate.ValidationError as error:
            return _status(422, "Invalid", error.message)
        name, step = body["metadata"]["name"], body["metadata"]["labels"].get(COMPONENT, "")
        if name in self.pods:
            return _status(409, "AlreadyExists", f'pods "{name}" already exists')
        self.created.append(json.loads(json.dumps(body)))
        fate = self.fates[step].pop(0) if self.fates[step] else Fate()
        pod = self.pods[name] = Pod(body, request.match_info["namespace"], self.folder / name, fate, self)
        pod.start()
        return web.json_response(pod.body, status=201)

    async def _list(self, request: web.Request) -> web.Response:
        matches = _selector(request.query.get("labelSelector", ""))
        items = [pod.body for pod in self.pods.values() if matches(pod.body["metadata"]["labels"])]
        return web.json_response({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})

    async def _read(self, request: web.Request) -> web.Response:
        return web.json_response(self._pod(request).body)

    async def _patch(self, request: web.Request) -> web.Response:
        pod = self._pod(request)
        pod.body["metadata"]["labels"] |= (await request.json())["metadata"]["labels"]
        return web.json_response(pod.body)

    async def _delete(self, request: web.Request) -> web.Response:
        pod = self._pod(request)
        await self.remove(pod)
        return web.json_response(pod.body)

    async def remove(self, pod: Pod) -> None:
        """Deletes a pod at once: no grace, as when a node is lost."""
        self.pods.pop(pod.name, None)
        await pod.stop()

    async def _events(self, request: web.Request) -> web.Response:
        return web.json_response({"kind": "EventList", "apiVersion": "v1", "metadata": {}, "items": []})

    async def _log(self, request: web.Request) -> web.StreamResponse:
        pod, response = self._pod(request), web.StreamResponse()
        await response.prepare(request)
        async for time, line in pod.lines(request.query.get("follow") == "True"):
            await response.write(f"{time} {line}\n".encode())
        return response

    async def _exec(self, request: web.Request) -> web.WebSocketResponse:
        pod = self._pod(request)
        socket = web.WebSocketResponse(protocols=["v4.channel.k8s.io"])
        await socket.prepare(request)
        if pod.fate.hang:
            await pod.ended.wait()
        elif request.query.get("stdin") == "True":  # a shell, which is to interrupt the sidecar
            await socket.receive()
            self.loop.call_later(0.5, pod.end, SIDECAR, 0)
        else:
            result = pod.result.read_text() if pod.result.exists() else "__airflow_xcom_result_empty__"
            await socket.send_bytes(b"\x01" + result.encode())
        if not socket.closed:
            await socket.send_bytes(b"\x03" + json.dumps({"status": "Success"}).encode())
            await socket.close()
        return socket

    def _pod(self, request: web.Request) -> Pod:
        name = request.match_info["name"]
        if name not in self.pods:
            body = _status(404, "NotFound", f'pods "{name}" not found')
            raise web.HTTPNotFound(text=body.text, content_type="application/json")
        return self.pods[name]


class Pod:
    """A pod and its processes; ``body`` is what the API shows."""

    def __init__(self, body: dict[str, Any], namespace: str, folder: Path, fate: Fate, cluster: FakeKubernetes):
        self.body, self.folder, self.fate, self.cluster = body, folder, fate, cluster
        self.name = body["metadata"]["name"]
        body["metadata"] |= {"namespace": namespace, "uid": str(uuid.uuid4()), "creationTimestamp": _now()}
        body["status"] = {"phase": "Pending"}
        self.containers = {container["name"]: container for container in body["spec"]["containers"]}
        self.states: dict[str, dict[str, Any]] = {}
        self.log: list[tuple[str, str]] = []
        self.changed, self.ended = asyncio.Event(), asyncio.Event()
        self.task: asyncio.Future[None] | None = None
        self.process: asyncio.subprocess.Process | None = None
        self.result = self.folder / "xcom" / "return.json"

    def start(self) -> None:
        """Starts its containers, unless the node refuses it."""
        if self.fate.reject:
            why = "Allocate failed due to no healthy devices present; cannot allocate unhealthy devices nvidia.com/gpu"
            self.body["status"] = {"phase": "Failed", "reason": "UnexpectedAdmissionError", "message": why}
            return
        self.body["status"]["conditions"] = [{"type": "PodScheduled", "status": "True"}]
        self.states = {name: {"running": {"startedAt": _now()}} for name in self.containers}
        self._show()
        self.task = asyncio.ensure_future(self._run("base"))

    async def stop(self) -> None:
        """Kills its process, as the node does after the grace period, and forgets its folders."""
        if self.process and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        elif self.task and not self.process:  # it waits for its release
            self.task.cancel()
        self.ended.set()
        self.changed.set()
        shutil.rmtree(self.folder, ignore_errors=True)

    def end(self, name: str, code: int) -> None:
        """A container has ended; one that fails leaves its last words in its status."""
        words = "\n".join(line for _, line in self.log[-80:])[-2048:] if code and name == "base" else None
        ended = {"exitCode": code, "reason": "Error" if code else "Completed", "finishedAt": _now()}
        self.states[name] = {"terminated": ended | ({"message": words} if words else {})}
        self._show()

    async def lines(self, follow: bool) -> AsyncIterator[tuple[str, str]]:
        """The log's lines with their times; when it is followed, to the end of the container."""
        seen = 0
        while True:
            self.changed.clear()
            for entry in self.log[seen:]:
                yield entry
            seen = len(self.log)
            if not follow or "terminated" in self.states["base"] or self.ended.is_set():
                return
            await self.changed.wait()

    async def _run(self, name: str) -> None:
        container = self.containers[name]
        folders = self._folders(container)
        environ = {e["name"]: _mounted(e["value"], folders) for e in container["env"]}
        arguments = [_mounted(argument, folders) for argument in container["args"]]
        if self.fate.shell:
            command = ["sh", "-c", self.fate.shell]
            environ["RESULT"] = str(self.result)
        else:
            command = [str(ROOT / "bin" / "laion-people"), *arguments]
        if self.fate.wait:
            self._write("waiting")
            while not self.cluster.released.is_set():
                await asyncio.sleep(0.1)
        self.process = await asyncio.create_subprocess_exec(
            *command,
            env={"PATH": os.environ["PATH"]} | environ,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        assert self.process.stdout
        async for line in self.process.stdout:
            self._write(line.decode(errors="replace").rstrip("\n"))
            if self.fate.vanish:
                await self.cluster.remove(self)
                return
        self.end(name, await self.process.wait())

    def _folders(self, container: dict[str, Any]) -> dict[str, Path]:
        """Mount path -> folder on this machine."""
        volumes = {volume["name"]: volume for volume in self.body["spec"]["volumes"]}
        folders = {}
        for mount in container["volumeMounts"]:
            claimed = "persistentVolumeClaim" in volumes[mount["name"]]
            folder = Path(mount["mountPath"]) if claimed else self.folder / mount["name"]
            folder.mkdir(parents=True, exist_ok=True)
            folders[mount["mountPath"]] = folder
        return folders

    def _write(self, line: str) -> None:
        self.log.append((_now("microseconds"), line))
        self.changed.set()

    def _show(self) -> None:
        status = self.body["status"]
        status["containerStatuses"] = [
            {
                "name": name,
                "image": c["image"],
                "imageID": "",
                "ready": False,
                "restartCount": 0,
                "state": self.states[name],
            }
            for name, c in self.containers.items()
        ]
        codes = [state["terminated"]["exitCode"] for state in self.states.values() if "terminated" in state]
        status["phase"] = "Running" if len(codes) < len(self.states) else "Failed" if any(codes) else "Succeeded"
        self.changed.set()


def _mounted(text: str, folders: dict[str, Path]) -> str:
    """An argument or variable whose value lies in a mount, as the path on this machine."""
    option, equals, value = text.rpartition("=") if text.startswith("--") else ("", "", text)
    for path in sorted(folders, key=len, reverse=True):  # of mounts within one another, the inner one
        if value == path or value.startswith(f"{path}/"):
            return f"{option}{equals}{folders[path]}{value[len(path) :]}"
    return text


def _selector(text: str) -> Callable[[dict[str, str]], bool]:
    """The labels that a selector asks for: ``a=1,b!=2,!c``."""

    def matches(labels: dict[str, str]) -> bool:
        for part in filter(None, text.split(",")):
            name, _, value = part.lstrip("!").replace("!=", "=").partition("=")
            if name in labels if part.startswith("!") else (labels.get(name) == value) is ("!=" in part):
                return False
        return True

    return matches


def _status(code: int, reason: str, message: str) -> web.Response:
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": reason,
        "message": message,
        "code": code,
    }
    return web.json_response(body, status=code)


def _now(precision: str = "seconds") -> str:
    return datetime.now(UTC).isoformat(timespec=precision).replace("+00:00", "Z")
