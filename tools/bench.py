"""Measures rows per second of each step on the built-in sample, where the time goes, and ratios to other ways.

    make bench                       # make bench ARGS="--peers --json rates.json"
    make bench ARGS="--peers --docs" # and writes docs and rates.json anew: see tools/bench_docs.py

The sample's rows are repeated under distinct URLs, served on loopback, and go through all steps in a fresh store, each
round anew. `model`, `decode`, `wait` (for the network) and `write` are times in which a step's own thread waits for
other threads; `framework` is the rest: reading tables and tars, hashing, checking, counting. CPU seconds are of all
threads. Loading models is left out, since it happens once a process, and so is the encoding of all candidate captions.

`--json` keeps all of it, and is a file for `bin/laion-people plan --rates`. Its rates leave out the download, whose CPU
seconds include the server's, and sizes, since the sample's rows repeat. The ratios are of tools/bench_ratios.py and,
with `--peers`, of the modules in PEERS; small differences mean nothing unless the machine is idle.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from include.models.profiles import Profile, load_profile
from laion_people.engine.step import ReleaseStep
from laion_people.settings import Settings
from laion_people.steps.registry import STEPS
from laion_people.storage.manifest import Manifest
from laion_people.storage.store import LocalStore
from tools import bench_docs
from tools.bench_ratios import ratios
from tools.bench_work import HEAD, Alone, BenchError, Result, environment, line, rounded

SAMPLE = Path(__file__).parent.parent / "include" / "sample"
PARTITION = "bench/00000"
VERSIONS = ("mediapipe", "numpy", "onnxruntime", "open_clip_torch", "mmdet", "mmpose", "torch")
PARTS = ("model", "decode", "wait", "write")
EXTRACTION = ("detect", "pose", "mesh")
PEERS = ("tools.bench_peers", "tools.bench_download")  # in processes of their own, each as `bench_work.show` has it
WITH_MODELS = ("detect", "pose", "clip_filter", "embed")  # their models depend on the profile


@dataclass(frozen=True, slots=True)
class Speed:
    """Rows that a step read, how many a second by the clock, and how many a CPU second."""

    rows: int
    wall: float
    cpu: float


class Server(ThreadingHTTPServer):
    request_queue_size = 512  # connections; with the usual 5, some of the download's would time out


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
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


def row(name: str, manifest: Manifest, cpu: float) -> str:
    busy = manifest.seconds - manifest.timings.get("load", 0)
    shares = "".join(f"{manifest.timings.get(p, 0) / busy:9.0%}" for p in PARTS)
    speed = f"{manifest.rows_in / busy:10.1f}{manifest.rows_in / cpu:11.1f}"
    return f"{name:12}{manifest.rows_in:8}{busy:9.2f}{speed}{shares}{framework_share([manifest]):11.0%}"


def made(runner: Alone, step: str) -> Manifest:
    """Runs a step, which must write rows. Returns its manifest."""
    if isinstance(STEPS[step], ReleaseStep):
        manifest: Manifest = runner.run_release(step, [PARTITION])
    else:
        written = runner.written(step, PARTITION)
        manifest = runner.sum(step, PARTITION, [each.shard.index for each in written])
    if not manifest.rows:
        raise BenchError(f"{step}: wrote no rows")
    return manifest


def table(args: argparse.Namespace, profile: Profile, load: Callable[[str], Any]) -> dict[str, Speed]:
    """Runs every step in a fresh store and prints its line. Returns how many rows each step reads."""
    rates: dict[str, Speed] = {}
    done: dict[str, Manifest] = {}
    with tempfile.TemporaryDirectory() as folder, served(SAMPLE) as base:
        store = LocalStore(Path(folder))
        with store.writer("metadata/bench/part-00000-bench.parquet") as path:
            pq.write_table(repeated(base, args.copies), path)
        settings = Settings(allow_private_addresses=True, url_threads_per_host=64, profile=args.profile)
        runner = Alone(store, settings, profile, STEPS)
        runner.model = load
        head = "".join(f"{p:>9}" for p in PARTS)
        print(
            f"{'step':12}{'rows in':>8}{'seconds':>9}{'rows/s':>10}{'rows/CPU-s':>11}{head}{'framework':>11}",
            flush=True,
        )
        for step in (name for name in STEPS if name != "describe"):  # for which the packaged profile has no model
            if step == "caption":  # encodes the candidates, once a process
                first = Alone(store, settings, profile, STEPS)
                first.model = load
                made(first, step)
            start = time.process_time()
            done[step] = made(runner, step)
            cpu = time.process_time() - start
            busy = done[step].seconds - done[step].timings.get("load", 0)
            rates[step] = Speed(done[step].rows_in, done[step].rows_in / busy, done[step].rows_in / cpu)
            print(row(step, done[step], cpu), flush=True)
        print(f"framework's own share of detect + pose + mesh: {framework_share([done[s] for s in EXTRACTION]):.1%}")
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=4, help="how often the sample's rows are repeated")
    parser.add_argument("--profile", default="packaged")
    parser.add_argument("--rounds", type=int, default=5, help="of each step and ratio; 0: of each step one, no ratios")
    parser.add_argument("--peers", action="store_true", help="against other programs too, which are then installed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to keep all that was measured")
    parser.add_argument("--docs", action="store_true", help="keep it in docs/bench.json, and write docs and rates.json")
    args = parser.parse_args()
    logging.disable()
    warnings.simplefilter("ignore")
    machine, load_before = environment(), os.getloadavg()[0]
    print(f"{machine}, load {load_before:.1f}")
    profile = load_profile(args.profile)
    load = cache(profile.load)
    for role in profile.roles:
        load(role)
    tables = [table(args, profile, load) for _ in range(max(1, args.rounds))]
    print(f"\n{HEAD}")
    measured = {
        "machine": machine,
        "load": [load_before],
        "versions": {name: version(name) for name in VERSIONS},
        "copies": args.copies,
        "rounds": args.rounds,
        "steps": {step: [rounded(asdict(speeds[step])) for speeds in tables] for step in tables[0]},
        "ratios": [rounded(asdict(result)) for result in compared(args.rounds, args.peers)],
    } | as_rates(tables, args.profile, f"on the built-in sample, {machine} (make bench)")
    measured["load"].append(os.getloadavg()[0])
    for file in filter(None, (args.json, args.docs and bench_docs.MEASURED)):
        file.write_text(json.dumps(measured, indent=1) + "\n")
    if args.docs:
        bench_docs.main()


def compared(rounds: int, peers: bool) -> Iterator[Result]:
    """The ratios, each printed as soon as it is there."""
    for result in ratios(rounds) if rounds else ():
        print(line(result), flush=True)
        yield result
    for module in PEERS if rounds and peers else ():
        with tempfile.NamedTemporaryFile() as file:
            subprocess.run([sys.executable, "-m", module, str(rounds), file.name], check=True)
            yield from (Result(**result) for result in json.load(file))


def as_rates(tables: list[dict[str, Speed]], profile: str, where: str) -> dict[str, dict[str, dict[str, Any]]]:
    """The rates in the form of `plan --rates`: those of a profile's models under its name, others under ``any``."""
    rates: dict[str, dict[str, Any]] = {"any": {}, profile: {}}
    for step in tables[0]:
        if step == "download":
            continue  # the server's CPU seconds are counted, too
        section = profile if step in WITH_MODELS else "any"
        value = statistics.median(speeds[step].cpu for speeds in tables)
        rates[section][f"cpu:{step}"] = rounded({"value": value, "measured": True, "source": where})
    return rates


if __name__ == "__main__":
    try:
        main()
    except BenchError as error:
        sys.exit(f"bench: {error}")
