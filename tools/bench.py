"""Rows per second of each step on the built-in sample, and where the time goes.

    make bench                       # or: python tools/bench.py --copies 8

The sample's rows are repeated under distinct URLs, served on loopback and taken through all steps in a fresh store.
`model`, `decode` (waiting for decoded images), `wait` (for the network, while threads decode what has come) and `write`
are measured inside the steps; `framework` is all the rest: reading tables and tars, hashing, checking, cropping,
counting. Loading models is left out, since it is paid once a process.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from include.models.profiles import load_profile
from laion_people.manifest import Manifest
from laion_people.runner import Runner
from laion_people.settings import Settings
from laion_people.steps.registry import STEPS
from laion_people.store import LocalStore

SAMPLE = Path(__file__).parent.parent / "include" / "sample"
PARTITION = "bench/00000"
PARTS = ("model", "decode", "wait", "write")
EXTRACTION = ("detect", "pose", "mesh")


class Server(ThreadingHTTPServer):
    request_queue_size = 512  # of connections; with the usual 5 some of the download's would time out


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def served(folder: Path):
    server = Server(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


def repeated(base: str, copies: int) -> pa.Table:
    """The sample's rows, ``copies`` times, with URLs of this server."""
    rows = pq.read_table(SAMPLE / "part-00000-sample.parquet").to_pylist()
    names = [(r, Path(urlsplit(r["URL"]).path).name) for r in rows if r["URL"] and "/images/" in r["URL"]]
    copied = [r | {"URL": f"{base}/images/{name}?copy={c}"} for c in range(copies) for r, name in names]
    return pa.Table.from_pylist(copied)


def framework_share(manifests: list[Manifest]) -> float:
    busy = sum(m.seconds - m.timings.get("load", 0) for m in manifests)
    return 1 - sum(m.timings.get(p, 0) for m in manifests for p in PARTS) / busy


def row(name: str, manifest: Manifest) -> str:
    busy = manifest.seconds - manifest.timings.get("load", 0)
    shares = "".join(f"{manifest.timings.get(p, 0) / busy:9.0%}" for p in PARTS)
    rate = manifest.rows_in / busy
    return f"{name:12}{manifest.rows_in:8}{busy:9.2f}{rate:10.1f}{shares}{framework_share([manifest]):11.0%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=4, help="how often the sample's rows are repeated")
    parser.add_argument("--profile", default="packaged")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, served(SAMPLE) as base:
        store = LocalStore(Path(folder))
        with store.writer("metadata/bench/part-00000-bench.parquet") as path:
            pq.write_table(repeated(base, args.copies), path)
        settings = Settings(allow_private_addresses=True, profile=args.profile)
        runner = Runner(store, settings, load_profile(args.profile), STEPS)
        head = "".join(f"{p:>9}" for p in PARTS)
        print(f"{'step':12}{'rows in':>8}{'seconds':>9}{'rows/s':>10}{head}{'framework':>11}", flush=True)
        done = {}
        for step in ("download", *EXTRACTION, "clip_filter"):
            done[step] = runner.run(step, PARTITION)
            print(row(step, done[step]), flush=True)
        for step in ("cluster", "label"):
            print(row(step, runner.run_release(step, [PARTITION])), flush=True)
        for step in ("assign", "compose", "caption"):
            print(row(step, runner.run(step, PARTITION)), flush=True)
        share = framework_share([done[s] for s in EXTRACTION])
        print(f"framework's own share of detect + pose + mesh: {share:.1%}")


if __name__ == "__main__":
    main()
