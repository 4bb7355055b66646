"""Compares download with img2dataset on the same pictures, served by nginx on loopback.

    python -m tools.bench_download 3        # rounds; `make bench ARGS=--peers` runs it, too

The pictures are crops of mosaics of the sample's photos, 640 to 1,600 pixels long, of the kinds that the web has (9 of
10 JPEG, some progressive or 4:4:4, else PNG and WebP). The first run installs img2dataset into an environment of its
own, `.venv/img2dataset`. Both programs are started as users start them; the time of a start, measured on a few rows,
is left out, and so is the server's CPU time. Unless the machine is idle, CPU seconds say more than the clock.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import statistics
import subprocess
import tarfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tools import bench_work as work

ROOT = Path(__file__).parent.parent
PEER = ROOT / ".venv" / "img2dataset"
ROWS, SHARD, FEW = 6000, 3000, 4
DISTINCT = 600  # pictures; rows ask for them under distinct URLs
GOAL = 0.75
NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; types {{ image/jpeg jpg; image/png png; image/webp webp; }}
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{ listen 127.0.0.1:{port} backlog=1024; root {root}; }}
}}
"""


def lines(folder: Path, rounds: int, rows: int = ROWS) -> Iterator[work.Result]:
    """The lines of the table; all are ours / peer, and less is better. Takes some minutes a round."""
    pictures = folder / "pictures"
    pictures.mkdir()
    names = corpus(pictures, min(DISTINCT, rows))
    with served(folder, pictures) as base:
        urls = [f"{base}/{names[i % len(names)]}?row={i}" for i in range(rows)]
        ours, theirs = Ours(folder / "ours"), Img2dataset(folder / "theirs")
        jobs = [partial(net, program, urls, rows // 2, program.start(urls)) for program in (ours, theirs)]
        turns = work.in_turns("download / img2dataset", rows, *jobs, rounds)
        yield work.costs(f"download / img2dataset, CPU, {rows:,} rows", "cpu", turns, GOAL)
        yield work.costs(f"download / img2dataset, wall, {rows:,} rows", "wall", turns, GOAL)
        yield from scaling(ours, urls, rounds)


def scaling(ours: Ours, urls: Sequence[str], rounds: int) -> Iterator[work.Result]:
    """Half the rows on two cores against one, by the clock; and the memory that a shard of twice the rows takes."""
    half = urls[: len(urls) // 2]
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) == 2:
        one, two = (partial(net, ours, half, len(half), ours.start(urls, some), some) for some in (cores[:1], cores))
        turns = work.in_turns("download on 2 cores", len(half), two, one, rounds)
        yield work.costs("download, wall, 2 cores / 1", "wall", turns, 0.6)
    all_rows, half_of_them = (ours.run(some, len(some)).megabytes for some in (urls, half))
    what = f"download, memory, {len(urls):,} rows / half"
    yield work.Result(what, "MB", all_rows, half_of_them, (all_rows / half_of_them,), 1.1, less=True)


def corpus(folder: Path, count: int) -> list[str]:
    """Writes ``count`` pictures, the same ones every time, and returns their names."""
    photos = [Image.open(path).convert("RGB") for path in sorted((work.SAMPLE / "images").glob("*.jpg"))]
    rng = random.Random(12)
    names = []
    for number in range(count):
        long = rng.randint(640, 1600)
        short = round(long * rng.choice((1, 3 / 4, 3 / 4, 2 / 3, 2 / 3, 9 / 16)))
        picture = mosaic((long, short) if rng.random() < 0.6 else (short, long), photos, rng)
        suffix = rng.choices(("jpg", "png", "webp"), (90, 5, 5))[0]
        options = {"quality": rng.choice((75, 80, 85, 85, 90, 90, 95))}
        if suffix == "jpg":
            options |= {"progressive": rng.random() < 0.2, "subsampling": 0 if rng.random() < 0.15 else 2}
        names.append(f"{number:04}.{suffix}")
        picture.save(folder / names[-1], **options)
    return names


def mosaic(size: tuple[int, int], photos: Sequence[Image.Image], rng: random.Random) -> Image.Image:
    """Photos side by side, with a camera's noise: enlarged ones would have too little detail for their size."""
    canvas = Image.new("RGB", size)
    scale = rng.uniform(0.9, 1.4)
    top = -rng.randint(0, 200)
    while top < size[1]:
        left, bottom = -rng.randint(0, 200), size[1]
        while left < size[0]:
            photo = rng.choice(photos)
            photo = photo.resize((round(photo.width * scale), round(photo.height * scale)))
            canvas.paste(photo, (left, top))
            left, bottom = left + photo.width, min(bottom, top + photo.height)
        top = bottom
    noise = np.random.default_rng(rng.randrange(2**32)).normal(0, rng.uniform(1, 4), (size[1], size[0], 1))
    return Image.fromarray((np.asarray(canvas) + noise).clip(0, 255).astype(np.uint8))


@contextmanager
def served(folder: Path, pictures: Path) -> Iterator[str]:
    """The address of an nginx that serves a folder. Raises BenchError without nginx."""
    nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if not nginx:
        raise work.BenchError("the comparison with img2dataset needs nginx: install it (apt-get install nginx-light)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, root=pictures, port=port))
    folder.chmod(0o755)  # the worker process is another user's if nginx is started by root
    server = subprocess.Popen([nginx, "-e", folder / "nginx.log", "-p", folder, "-c", config])
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        else:
            raise work.BenchError(f"nginx does not answer: {(folder / 'nginx.log').read_text()[-500:]}")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


@dataclass(frozen=True, slots=True)
class Run:
    """A run of a program: the pictures that it stored, seconds, and the most memory of its main process."""

    pictures: int
    wall: float
    cpu: float
    megabytes: float


class Program(ABC):
    """A program that downloads rows into shards below a folder."""

    pictures: str  # where its tars are, below the folder

    def __init__(self, folder: Path):
        self.folder = folder

    @abstractmethod
    def command(self, urls: Sequence[str], shard: int) -> list[str]:
        """Prepares the folder, and returns the command."""

    def run(self, urls: Sequence[str], shard: int, cores: Sequence[int] = ()) -> Run:
        """Raises BenchError if it fails. ``cores``: the only ones that it may use."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        command = self.command(urls, shard)
        log = self.folder.with_suffix(".log")
        with log.open("w") as output:
            wall = time.perf_counter()
            pin = partial(os.sched_setaffinity, 0, cores) if cores else None
            process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, preexec_fn=pin)
            ended, megabytes = 0, 0.0
            while not ended:
                megabytes = peak(process.pid) or megabytes
                time.sleep(0.05)
                ended, status, used = os.wait4(process.pid, os.WNOHANG)
            process.returncode = os.waitstatus_to_exitcode(status)
            wall = time.perf_counter() - wall
        if process.returncode:
            raise work.BenchError(f"{command[0]} failed: {log.read_text()[-1000:]}")
        return Run(stored(self.folder / self.pictures), wall, used.ru_utime + used.ru_stime, megabytes)

    def start(self, urls: Sequence[str], cores: Sequence[int] = ()) -> Run:
        """What a few rows take, in as many shards as the rest."""
        runs = [self.run(urls[:FEW], FEW // 2, cores) for _ in range(3)]
        return Run(FEW, *(statistics.median(getattr(r, name) for r in runs) for name in ("wall", "cpu", "megabytes")))


class Ours(Program):
    pictures = "store/images/bench/00000"

    def command(self, urls: Sequence[str], shard: int) -> list[str]:
        metadata = self.folder / "store/metadata/bench/part-00000-bench.parquet"
        metadata.parent.mkdir(parents=True)
        pq.write_table(rows_of(urls), metadata)
        options = {"allow_private_addresses": 1, "shard_rows": shard, "image_size": 384, "jpeg_quality": 92}
        options |= {"url_threads": 64, "url_threads_per_host": 64}
        sets = [word for name, value in options.items() for word in ("--set", f"{name}={value}")]
        program = str(ROOT / "bin/laion-people")
        return [program, "run", "download", "bench/00000", "--store", f"file://{self.folder}/store", *sets]


class Img2dataset(Program):
    pictures = "images"

    def command(self, urls: Sequence[str], shard: int) -> list[str]:
        if not PEER.exists():
            with_uv = str(ROOT / ".venv/uv/bin/uv")
            incomplete = PEER.with_suffix(".incomplete")
            subprocess.run([with_uv, "venv", "-q", "--clear", "-p", "3.11", "--relocatable", incomplete], check=True)
            packages = ["-p", incomplete / "bin/python", "img2dataset==1.47.0"]
            subprocess.run([with_uv, "pip", "install", "-q", *packages], check=True)
            incomplete.rename(PEER)
        table = self.folder / "rows.parquet"
        pq.write_table(rows_of(urls), table)
        options = {
            "url_list": table, "output_folder": self.folder / self.pictures, "input_format": "parquet",
            "url_col": "URL", "caption_col": "TEXT", "output_format": "webdataset", "number_sample_per_shard": shard,
            "image_size": 384, "resize_mode": "keep_ratio", "resize_only_if_bigger": True, "encode_quality": 92,
            "processes_count": 2, "thread_count": 64,
        }  # fmt: skip
        return [str(PEER / "bin/img2dataset"), *(f"--{name}={value}" for name, value in options.items())]


def peak(process: int) -> float:
    """The most memory of a running process so far, in MB; 0 when it has ended. The kernel's count for a child that has
    ended begins with what its parent held when it started it."""
    status = Path(f"/proc/{process}/status").read_text()
    return sum(int(row.split()[1]) / 1024 for row in status.splitlines() if row.startswith("VmHWM"))


def rows_of(urls: Sequence[str]) -> pa.Table:
    texts = [f"people in picture {number}" for number in range(len(urls))]
    return pa.table({"SAMPLE_ID": range(len(urls)), "URL": urls, "TEXT": texts})


def stored(folder: Path) -> int:
    """The pictures in the tars of a folder."""
    count = 0
    for path in folder.glob("*.tar"):
        with tarfile.open(path) as tar:
            count += sum(member.name.endswith(".jpg") and member.size > 1000 for member in tar)
    return count


def net(program: Program, urls: Sequence[str], shard: int, start: Run, cores: Sequence[int] = ()) -> work.Took:
    """A run without what the program's start takes."""
    run = program.run(urls, shard, cores)
    return work.Took(run.pictures, run.wall - start.wall, run.cpu - start.cpu)


if __name__ == "__main__":
    work.show(lines)
