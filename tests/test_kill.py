"""kill -9 in the middle of each step, then the same command again: the same rows as a run that nobody disturbed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from laion_people.engine.runner import Runner
from laion_people.settings import Settings
from laion_people.steps.download import fetch
from laion_people.steps.registry import STEPS
from laion_people.storage.layout import manifest_path
from laion_people.storage.store import LocalStore
from tests.fakes import FakeModels, jpeg
from tests.kill_driver import NOON

ROOT = Path(__file__).parent.parent
PARTITION = "sample/00000"
EXTRACT = ("download", "detect", "pose", "mesh", "clip_filter")
ORDER = (*EXTRACT, "cluster", "label", "assign", "compose", "embed", "caption")
TABLES = ("images", "people", "pose", "mesh", "clip", "subset_a", "assignments", "subset_b", "vectors", "subset_c")


class Pictures(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        number = int(self.path.strip("/").removesuffix(".jpg"))
        body = jpeg((37 * number + 20) % 250, (320, 240))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def pictures() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pictures)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def run(store: Path, step: str, seconds: float = 0.0) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.kill_driver", str(store), step, PARTITION, str(seconds)]
    environ = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}"}
    return subprocess.Popen(command, cwd=ROOT, env=environ, stderr=subprocess.PIPE)


@pytest.fixture(scope="module")
def undisturbed(pictures: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished store of 40 pictures in four shards."""
    root = tmp_path_factory.mktemp("undisturbed")
    metadata = root / "metadata/sample/part-00000-x.parquet"
    metadata.parent.mkdir(parents=True)
    urls = [f"{pictures}/{i}.jpg" for i in range(40)]
    pq.write_table(pa.table({"URL": urls, "TEXT": [f"picture {i}" for i in range(40)]}), metadata)
    settings = Settings(allow_private_addresses=True, shard_rows=10)
    runner = Runner(LocalStore(root), settings, FakeModels(), STEPS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetch, "utc_now", lambda: NOON)
        for step in ORDER:
            if step in ("cluster", "label"):
                runner.run_release(step, [PARTITION])
            else:
                runner.run(step, PARTITION)
    return root


def content(root: Path, tables: tuple[str, ...] = TABLES) -> dict[str, bytes]:
    store = LocalStore(root)
    paths = [p for t in tables for p in store.list(t) if not p.endswith("_stats.json")]  # these tell the time
    return {p: store.read(p) for p in paths}


def without(root: Path, step: str) -> None:
    """Takes a step and all that comes after it out of a store."""
    store = LocalStore(root)
    later = ORDER[ORDER.index(step) :]
    outputs = {STEPS[s].entry.writes for s in later if not STEPS[s].entry.is_release}
    if "clip_filter" in later:
        later, outputs = (*later, "subset_a"), outputs | {"subset_a"}
    if "cluster" in later:
        outputs.add("clusters")
    for folder in (*(f"manifests/{s}" for s in later), *outputs):
        shutil.rmtree(store.root / folder, ignore_errors=True)


@pytest.mark.parametrize("step", ORDER)
def test_a_step_killed_in_the_middle_goes_on_where_it_was(undisturbed: Path, tmp_path: Path, step: str) -> None:
    shutil.copytree(undisturbed, tmp_path / "store")
    without(tmp_path / "store", step)
    process = run(tmp_path / "store", step, seconds=0.05)
    for line in process.stderr or ():
        if b"starts" in line or b"version" in line:
            break
    time.sleep(0.1)  # a few rows
    process.send_signal(signal.SIGKILL)
    process.communicate()
    if step != "label":  # too quick to be caught for sure
        assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "store" / manifest_path(step, PARTITION)).exists()
    for later in ORDER[ORDER.index(step) :]:
        again = run(tmp_path / "store", later)
        assert again.wait(120) == 0, again.communicate()[1].decode()
        again.communicate()
    assert content(tmp_path / "store") == content(undisturbed)
