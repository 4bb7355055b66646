"""Measures the models on a GPU: rates, ratios to the packages' own functions, the use of the GPU, and limits.

    python tools/bench_gpu.py --json rates.json      # on the GPU, some minutes; see tools/bench_gpu_folder.sh
    python tools/bench_gpu.py --device cpu --tiny    # does it run? the same with small models and few images

Weights are random and seeded. Speed doesn't depend on their values, but they find nobody: each image is given two
people. The packages' functions run in float32, with TF32 for convolutions, torch's default. Ours run in the wanted
precision, to which the targets apply, and then in float32, where neither side has TF32.

The use of the GPU comes from the driver (NVML: the share of time in which a kernel ran). For each missed target a
profile is printed. `--json` keeps the rates for `bin/laion-people plan --rates`.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from include.models.openclip import OpenClip
from include.models.rtmdet import RTMDet
from include.models.rtmpose import RTMPose
from laion_people.engine.concurrency import overlapped
from laion_people.settings import Settings
from laion_people.steps.clip_filter import ClipFilter
from laion_people.steps.detect import Detect
from laion_people.steps.pose import Pose
from laion_people.storage.store import LocalStore
from laion_people.vision.images import crop, decode
from tools import bench_work as work

CLIP = "ViT-B-32-quickgelu"
PARTITION = "bench/00000"
BATCH = 64  # images that a step gives to a model at once; two batches at a time
PROFILED = 512  # images, people or crops: the events of more would take minutes to add up
BUSY = 80.0  # per cent
BEYOND = 2.0  # times the rate of its forward pass alone no model has: larger batches, two at a time, gain less
STEPS = {step.entry.name: step for step in (Detect(), Pose(), ClipFilter())}


@dataclass(frozen=True, slots=True)
class Measured:
    """Units a second, core-seconds a unit, and per cent of the time in which the GPU was busy (None on a CPU)."""

    rate: float
    core_seconds: float
    busy: float | None


class Busy:
    """Samples the use of the GPU, ten times a second, as long as the block lasts."""

    def __init__(self, device: str):
        self._samples: list[float] = []
        self._handle: Any = None
        if device.startswith("cuda"):
            import pynvml

            pynvml.nvmlInit()
            uuid = str(torch.cuda.get_device_properties(device).uuid)
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")

    def __enter__(self) -> Busy:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while self._handle and not self._stop.wait(0.1):
            import pynvml

            self._samples.append(pynvml.nvmlDeviceGetUtilizationRates(self._handle).gpu)

    @property
    def percent(self) -> float | None:
        return statistics.fmean(self._samples) if self._samples else None


def measure(what: str, job: work.Job, amount: float, seconds: float, device: str) -> Measured:
    """Repeats the job for at least ``seconds``, after a first run that doesn't count; each must do ``amount``."""
    work.proved(what, amount, job)
    turns, start, cpu = 0, time.perf_counter(), time.process_time()
    with Busy(device) as busy:
        while time.perf_counter() - start < seconds or not turns:
            work.proved(what, amount, job)
            turns += 1
        elapsed, cpu = time.perf_counter() - start, time.process_time() - cpu
    return Measured(turns * amount / elapsed, cpu / (turns * amount), busy.percent)


def in_flight(call: Callable[[list[Any]], Any], items: list[Any], count: Callable[[Any], int] = len) -> work.Job:
    """Gives the items to a model as a step does, in batches, two at a time, and counts its results."""
    batches = [items[i : i + BATCH] for i in range(0, len(items), BATCH)]
    return lambda: sum(count(future.result()) for future in overlapped(call, batches, 2))


class Bench:
    """The models, the work, and the table, printed line by line."""

    def __init__(self, args: argparse.Namespace, folder: Path):
        self.device, self.seconds, self.folder = args.device, args.seconds, folder
        self.configs = work.DETECTORS["tiny" if args.tiny else "m"], work.POSES["s" if args.tiny else "m"]
        self.photos = work.photos(4 if args.tiny else 4096)
        pixels = {photo.jpeg: photo.pixels for photo in self.photos}
        self.images = [pixels[photo.jpeg] for photo in self.photos]
        self.boxes = work.two_people(self.images)
        self.few = min(128, len(self.images))  # for the slow public functions
        self.api = work.PublicApi(*self.configs, score=0.3, flip_test=False, device=args.device)
        self.files = self.api.save(folder)
        self.detector, self.pose = self.load(args.precision)
        self.dtype = str(self.detector._placement.dtype).removeprefix("torch.")
        weights = work.random_clip(CLIP, folder / "clip.safetensors")
        options = {"precision": args.precision, "device": args.device}
        self.clip = OpenClip(weights, model=CLIP, tag="random", batch_size=256, **options)
        self.missed: dict[str, work.Job] = {}  # to be profiled
        self.rates: dict[str, float] = {}
        self.passes: dict[str, float] = {}  # by step: the rate of its model's forward pass alone

    def load(self, precision: str) -> tuple[RTMDet, RTMPose]:
        options = {"precision": precision, "device": self.device}
        return (
            RTMDet(self.files["detector"], config=self.configs[0], score=0.3, **options),
            RTMPose(self.files["pose"], config=self.configs[1], flip_test=False, **options),
        )

    def line(self, what: str, unit: str, ours: Measured, target: float = 0, peer: float = 0, model: str = "") -> bool:
        """Prints a line. Returns whether the target is reached: a ratio to the peer if there is one, else a rate.

        Raises BenchError if it is faster than the forward pass of its model alone: on a GPU, which nobody shares.
        """
        if model and self.device != "cpu" and ours.rate > BEYOND * self.passes[model]:
            raise work.BenchError(
                f"{what}: {ours.rate:,.1f} {unit}, and the model's pass alone {self.passes[model]:,.1f}: "
                "some work was left out"
            )
        reached = (ours.rate / peer if peer else ours.rate) >= target
        busy = "" if ours.busy is None else f"{ours.busy:5.0f} %"
        compared = f"{peer:9.1f}{ours.rate / peer:8.1f}x" if peer else ""
        wanted = "" if not target else f"{target:,.0f}{'x' if peer else ''} {'reached' if reached else 'MISSED'}"
        print(f"{what:34}{ours.rate:11,.1f} {unit:9}{busy:>8}{compared:18}   {wanted}", flush=True)
        return reached

    def models(self) -> None:
        """The wrappers on decoded images, against the public functions one image at a time."""
        bgr = [np.ascontiguousarray(image[..., ::-1]) for image in self.images[: self.few]]
        pairs = list(zip(self.images, self.boxes, strict=True))
        crops = [crop(image, box, Settings().crop_padding) for image, boxes in pairs for box in boxes]
        for dtype in dict.fromkeys((self.dtype, "float32")):
            chosen = dtype == self.dtype
            detector, pose = (self.detector, self.pose) if chosen else self.load("fp32")  # this turns TF32 off
            jobs = (
                ("detect", "images/s", detector.detect, self.images, len, lambda: len(self.api.detect(bgr)), 1),
                (
                    "pose", "people/s", partial(estimate, pose), pairs, work.poses,
                    lambda: work.poses(self.api.estimate(bgr, self.boxes[: self.few])), 2,
                ),
            )  # fmt: skip
            for name, unit, call, items, count, theirs, each in jobs:
                what = f"{name}, {dtype} / public, float32"
                mine = self.measure(what, in_flight(call, items, count), each * len(items))
                its = self.measure(what, theirs, each * self.few)
                reached = self.line(what, unit, mine, 5 if chosen else 0, its.rate, model=name)
                if chosen:
                    self.note(reached, mine, name, in_flight(call, items[:PROFILED], count))
        what, encode = f"{CLIP}, crops", self.clip.encode_images
        mine = self.measure(what, in_flight(encode, crops), len(crops))
        reached = self.line(what, "crops/s", mine, 5000, model="clip_filter")
        self.note(reached, mine, "clip", in_flight(encode, crops[:PROFILED]))

    def measure(self, what: str, job: work.Job, amount: float, seconds: float | None = None) -> Measured:
        return measure(what, job, amount, seconds or self.seconds, self.device)

    def note(self, reached: bool, measured: Measured, name: str, job: work.Job) -> None:
        if not reached or (measured.busy is not None and measured.busy < BUSY):
            self.missed[name] = job

    def steps(self) -> None:
        """The steps, from a shard to tables; each image has two people, whatever the detector finds."""
        store = LocalStore(self.folder / "store")
        with store.writer(f"images/{PARTITION}/00000.tar") as tar:
            work.write_shard(tar, [photo.jpeg for photo in self.photos])
        models = work.Models(detector=work.Found(self.detector), pose=self.pose, clip=self.clip)
        made = work.Made(store, models, STEPS)
        took: dict[str, float] = {}
        for name, each, rows in (("detect", 1, 2), ("pose", 2, 2), ("clip_filter", 2, 2)):
            what, amount = f"step {name}, shard to table", each * len(self.photos)
            mine = self.measure(what, lambda n=name, r=each / rows: made.rows(n, PARTITION) * r, amount)
            self.line(what, "images/s" if each == 1 else "people/s", mine, model=name)
            took[name] = amount / mine.rate
            self.rates |= {f"gpu:{name}": mine.rate, f"cpu:{name}": 1 / mine.core_seconds}
        both = Measured(len(self.photos) / (took["detect"] + took["pose"]), 0, None)
        if not self.line("steps detect + pose together", "images/s", both, 1000):
            images, boxes = self.images[:PROFILED], self.boxes[:PROFILED]
            self.missed.setdefault("detect", in_flight(self.detector.detect, images))
            pairs = list(zip(images, boxes, strict=True))
            self.missed.setdefault("pose", in_flight(partial(estimate, self.pose), pairs))

    def limits(self) -> None:
        """The rate of each stage alone; the lowest one is the limit."""
        with ThreadPoolExecutor(Settings().threads) as pool:
            what = f"limit: decode, {Settings().threads} threads"
            job = lambda: len(list(pool.map(lambda photo: np.asarray(decode(photo.jpeg)), self.photos)))  # noqa: E731
            self.line(what, "images/s", self.measure(what, job, len(self.photos), 1))
        if self.device.startswith("cuda"):
            host = torch.empty(256 << 20, dtype=torch.uint8, pin_memory=True)
            there, what = torch.empty_like(host, device=self.device), "limit: copy to the GPU"
            images = host.nbytes / float(np.mean([image.nbytes for image in self.images]))

            def copy() -> float:
                there.copy_(host, non_blocking=True)
                torch.cuda.synchronize()
                return images

            self.line(what, "images/s", self.measure(what, copy, images, 1))
        dtype, count = self.clip._placement.dtype, 4 if self.device == "cpu" else BATCH
        for name, model, side, unit in (
            ("detect", self.detector._model.extract_feat, (640, 640), "images/s"),
            ("pose", self.pose._model.extract_feat, (256, 192), "people/s"),
            ("clip_filter", self.clip._model.encode_image, (224, 224), "crops/s"),
        ):
            pixels = torch.rand(count, 3, *side, device=self.device).to(dtype, memory_format=torch.channels_last)
            what = f"limit: {name}'s forward pass"
            measured = self.measure(what, partial(forward, model, pixels), count, 1)
            self.line(what, unit, measured)
            self.passes[name] = measured.rate


def estimate(pose: RTMPose, pairs: list[tuple[np.ndarray, np.ndarray]]) -> Any:
    return pose.estimate(*zip(*pairs, strict=True))


@torch.inference_mode()
def forward(model: Callable[[torch.Tensor], Any], x: torch.Tensor) -> int:
    features = model(x)
    if x.is_cuda:
        torch.cuda.synchronize()
    return len(features[0] if isinstance(features, tuple) else features)


def profiles(missed: dict[str, work.Job]) -> Iterator[str]:
    """For each missed target: the time with a kernel on the GPU, and the most expensive operations."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    for name, job in missed.items():
        start = time.perf_counter()
        with torch.profiler.profile(activities=activities) as profile:
            job()
        elapsed = time.perf_counter() - start
        spans = sorted(
            (event.time_range.start, event.time_range.end)
            for event in profile.events()
            if event.device_type == torch.autograd.DeviceType.CUDA
        )
        busy, end = 0.0, 0.0
        for first, last in spans:
            busy += max(0.0, last - max(first, end))
            end = max(end, last)
        yield f"\n{name}: {elapsed:.2f} s under the profiler, {busy / 1e6:.2f} s in {len(spans)} kernels and copies"
        sort = "self_device_time_total" if spans else "self_cpu_time_total"
        yield profile.key_averages().table(sort_by=sort, row_limit=12, max_name_column_width=60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16", "fp16"))
    parser.add_argument("--seconds", type=float, default=5, help="that each thing is measured for, at least")
    parser.add_argument("--tiny", action="store_true", help="small models and few images")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to keep the rates")
    args = parser.parse_args()
    if args.json and (args.tiny or args.device == "cpu"):
        parser.error("--json is for rates of the profile standard on a GPU")
    warnings.simplefilter("ignore")
    logging.disable()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args, Path(folder))
        where = f"{work.environment()}, {bench.dtype}: tools/bench_gpu.py"
        print(where, f"\n{'':34}{'rate':>11} {'':9}{'GPU':>8}{'public':>9}{'ratio':>9}   target", flush=True)
        bench.limits()
        bench.models()
        bench.steps()
        if args.json:
            rates = {n: {"value": float(f"{v:.4g}"), "measured": True, "source": where} for n, v in bench.rates.items()}
            args.json.write_text(json.dumps({"standard": rates}, indent=1) + "\n")
        for text in profiles(bench.missed):
            print(text, flush=True)


if __name__ == "__main__":
    try:
        main()
    except work.BenchError as error:
        sys.exit(f"bench: {error}")
