"""The work of the benchmarks, photos of the sample and seeded random weights, and fair timing of it.

Every round proves its work: a job returns how much it did, counted from what it made, and a round that did less, or was
faster than it can have been, is an error and no result.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import save_file

import include.models.openmmlab  # noqa: F401  (makes mmdet, mmpose and open_clip importable anywhere)
from include.models import COCO_KEYPOINTS, Detections, Poses
from laion_people.engine.runner import Runner
from laion_people.engine.step import ReleaseStep, Step
from laion_people.settings import Settings
from laion_people.storage.manifest import ShardManifest
from laion_people.storage.store import Store

SAMPLE = Path(__file__).parent.parent / "include" / "sample"
SIDE = 384  # shortest side of a stored image
DETECTORS = {"tiny": "rtmdet/rtmdet_tiny_8xb32-300e_coco.py", "m": "rtmdet/rtmdet_m_8xb32-300e_coco.py"}
POSES = {
    "s": "body_2d_keypoint/rtmpose/coco/rtmpose-s_8xb256-420e_coco-256x192.py",
    "m": "body_2d_keypoint/rtmpose/body8/rtmpose-m_8xb256-420e_body8-256x192.py",
}


# So many times as well used as by the peer may a core be, at most: bf16 in matrix units does 16 times the float32 of
# vector units (Intel's AMX against AVX-512), and threads that wait for one another on a busy machine burn CPU seconds.
MOST = 16


class BenchError(Exception):
    """A round that did not do its work, or was faster than it can have been."""


@dataclass(frozen=True, slots=True)
class Took:
    """A round: the work that it proved, seconds by the clock, and CPU seconds of all threads and ended processes."""

    amount: float
    wall: float
    cpu: float


Job = Callable[[], float | Took]
"""Does the work, and returns how much, counted from what it made: rows of tables that it wrote, results of a model.
Where not all of its time counts, as when it starts a program, it returns what it `Took`."""


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the table: ours and a peer on the same work, and the target of their ratio.

    ours, peer: units a second, or, with ``less``, seconds for all the work; ratios: ours / peer, one a round, measured
    side by side; target: for their median, at least or, with ``less``, at most; 0 if there is none.
    """

    what: str
    unit: str
    ours: float
    peer: float
    ratios: tuple[float, ...]
    target: float
    less: bool = False

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def verdict(self) -> str:
        if not self.target:
            return ""
        return "reached" if (self.ratio <= self.target if self.less else self.ratio >= self.target) else "MISSED"


HEAD = f"{'what':44}{'ours':>10}{'peer':>10}  {'unit':10}{'ratio':>7}{'spread':>13}{'target':>9}  verdict"


def line(r: Result) -> str:
    spread = f"{min(r.ratios):.2f} - {max(r.ratios):.2f}"
    target = f"{'<=' if r.less else '>='} {r.target:g}" if r.target else ""
    return f"{r.what:44}{r.ours:10.1f}{r.peer:10.1f}  {r.unit:10}{r.ratio:7.2f}{spread:>13}{target:>9}  {r.verdict}"


def rounded(values: dict[str, Any]) -> dict[str, Any]:
    """The values fit for JSON, with four digits."""
    return json.loads(json.dumps(values), parse_float=lambda number: float(f"{float(number):.4g}"))


def show(results: Callable[[Path, int], Iterator[Result]]) -> None:
    """The command of a peer that runs in a process of its own, `python -m MODULE ROUNDS [FILE]`: prints the results,
    and keeps them in the file. results: gets a folder for its work, and the number of rounds."""
    told = []
    with tempfile.TemporaryDirectory() as folder:
        for result in results(Path(folder), int(sys.argv[1])):
            print(line(result), flush=True)
            told.append(rounded(asdict(result)))
    for file in sys.argv[2:]:
        Path(file).write_text(json.dumps(told))


def compare(
    what: str, unit: str, amount: float, ours: Job, peer: Job, target: float, rounds: int, most: float = MOST
) -> Result:
    """The ratio of speeds, ours to the peer's, on ``amount`` units of the same work. Raises BenchError."""
    turns = in_turns(what, amount, ours, peer, rounds, most)
    mine, its = (amount / statistics.median(took.wall for took in column) for column in zip(*turns, strict=True))
    return Result(what, unit, mine, its, tuple(b.wall / a.wall for a, b in turns), target)


def costs(what: str, clock: str, turns: list[tuple[Took, Took]], target: float) -> Result:
    """The ratio of seconds, ours to the peer's, which should be at most ``target``. clock: wall or cpu."""
    seconds = [(getattr(a, clock), getattr(b, clock)) for a, b in turns]
    mine, its = (statistics.median(column) for column in zip(*seconds, strict=True))
    unit = "CPU-s" if clock == "cpu" else "s"
    return Result(what, unit, mine, its, tuple(a / b for a, b in seconds), target, less=True)


def in_turns(
    what: str, amount: float, ours: Job, peer: Job, rounds: int, most: float = MOST
) -> list[tuple[Took, Took]]:
    """Runs ours and the peer in turns, after a round that doesn't count: (ours, peer) of each round.

    If the machine is busy for a while, it is busy for both. Raises BenchError for a round that did not do ``amount`` of
    work, or in which ours was faster than physics allows: with less than 1 / ``most`` of the peer's CPU seconds, or
    ``most`` times as fast by the clock on each core, if the peer kept one busy and ours all of them.
    """
    turns: list[tuple[Took, Took]] = []
    for turn in range(rounds + 1):
        pair = (("ours", ours), ("the peer", peer))
        took = {who: proved(f"{what}, {who}", amount, job) for who, job in (pair if turn % 2 else pair[::-1])}
        a, b = took["ours"], took["the peer"]
        if a.cpu * most < b.cpu or a.wall * most * Settings().threads < b.wall:
            raise BenchError(
                f"{what}: ours took {a.wall:.3g} s and {a.cpu:.3g} CPU seconds, the peer {b.wall:.3g} and {b.cpu:.3g}: "
                f"more than {most:g} times as fast a core cannot be, so that some work was left out"
            )
        if turn:
            turns.append((a, b))
    return turns


def proved(what: str, amount: float, job: Job) -> Took:
    """Runs a job once. Raises BenchError if it did not do ``amount`` of work."""
    wall, cpu = time.perf_counter(), sum(os.times()[:4])
    done = job()
    took = done if isinstance(done, Took) else Took(done, time.perf_counter() - wall, sum(os.times()[:4]) - cpu)
    if took.amount != amount:
        raise BenchError(f"{what}: a round did {took.amount:g} of {amount:g}")
    return took


class Alone(Runner):
    """Runs a step without those that follow it. One for each round: what a run has made, it leaves alone."""

    def steps_with(self, name: str) -> list[str]:
        return [name]

    def written(self, step: str, partition: str) -> list[ShardManifest]:
        """Runs the step anew, and gives the manifests that this has written. Raises BenchError if there is none."""
        folder = f"manifests/{step}"
        before = self.store.tags(folder)
        self.run(step, partition, force=True)
        tags = {path: tag for path, tag in self.store.tags(folder).items() if f"/{partition}/" in path}
        new = [path for path, tag in tags.items() if tag != before.get(path)]
        if not new:
            raise BenchError(f"{step} {partition}: this round has written nothing")
        return [ShardManifest.parse(path, self.store.read(path)) for path in new]


@dataclass(frozen=True, slots=True)
class Made:
    """Runs steps on a store, in a run of its own each time."""

    store: Store
    models: Any
    steps: Mapping[str, Step | ReleaseStep]
    run_id: str = ""

    def rows(self, step: str, partition: str, column: str = "person_id") -> int:
        """Runs a step anew. Returns the rows with a value in ``column`` of the tables that this has written."""
        runner = Alone(self.store, Settings(), self.models, self.steps, self.run_id)
        rows = 0
        for manifest in runner.written(step, partition):
            with self.store.local(manifest.shard.uri) as table:
                values = pq.read_table(table, columns=[column])[column]
            rows += len(values) - values.null_count
        return rows


def environment() -> str:
    """The machine. Raises BenchError if it was told to be slower than it is."""
    if kernel := os.environ.get("OPENBLAS_CORETYPE"):
        raise BenchError(f"OPENBLAS_CORETYPE={kernel} has NumPy run on another processor's code: unset it")
    model = [row.split(":")[1].strip() for row in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in row]
    gpu = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    python = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{date.today()}, {gpu}{Settings().threads} cores {model[0]}, {python}"


@dataclass(frozen=True, slots=True)
class Photo:
    """An image of the sample as `download` stores it, with its people: boxes [n, 4] and keypoints [n, 17, 3]."""

    jpeg: bytes
    boxes: np.ndarray
    keypoints: np.ndarray

    @property
    def pixels(self) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(self.jpeg)))


def photos(count: int) -> list[Photo]:
    """``count`` photos: those of the sample that show people, again and again."""
    entries = [entry for entry in json.loads((SAMPLE / "truth.json").read_text())["images"] if entry["people"]]
    shown = [_photo(entry) for entry in entries[:count]]
    return [shown[i % len(shown)] for i in range(count)]


def _photo(entry: dict[str, Any]) -> Photo:
    image = Image.open(SAMPLE / entry["file"]).convert("RGB")
    scale = min(1.0, SIDE / min(image.size))
    file = io.BytesIO()
    image.resize((round(image.width * scale), round(image.height * scale))).save(file, "JPEG", quality=92)
    boxes = np.array([person["bbox"] for person in entry["people"]], np.float32) * scale
    joints = [[person["joints"][name] for name in COCO_KEYPOINTS] for person in entry["people"]]
    keypoints = np.array(joints, np.float32) * np.array([scale, scale, 1], np.float32)
    return Photo(file.getvalue(), boxes, keypoints)


def caption(number: int) -> str:
    """A caption of twenty tokens or so, as many in LAION are."""
    return f"Two people in picture {number:,} walk along the beach in the evening sun, summer holidays - stock photo"


def write_shard(tar: Path, images: list[bytes]) -> None:
    with tarfile.open(tar, "w") as archive:
        for i, data in enumerate(images):
            fields = {"key": f"{i:09d}", "url": f"http://example.org/{i}.jpg", "caption": caption(i)}
            for suffix, content in (
                ("jpg", data),
                ("txt", fields["caption"].encode()),
                ("json", json.dumps(fields).encode()),
            ):
                member = tarfile.TarInfo(f"{i:09d}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def two_people(images: list[np.ndarray]) -> list[np.ndarray]:
    """Boxes float32 [2, 4] an image: random weights find nobody."""
    rng = np.random.default_rng(0)
    boxes = []
    for image in images:
        height, width = image.shape[:2]
        x1, y1 = rng.uniform(0, 0.4 * width, 2), rng.uniform(0, 0.3 * height, 2)
        x2, y2 = x1 + rng.uniform(0.2, 0.6, 2) * width, y1 + rng.uniform(0.4, 0.7, 2) * height
        boxes.append(np.stack([x1, y1, x2, y2], axis=1).astype(np.float32))
    return boxes


class Models:
    """A profile for the runner, with models that are already loaded."""

    def __init__(self, **roles: Any):
        self._roles = roles

    def load(self, role: str) -> Any:
        return self._roles[role]

    def params(self, role: str) -> dict[str, Any]:
        return {}

    def fingerprint(self, role: str) -> dict[str, str]:
        return {}


class Known:
    """Takes the place of detector and pose, as random weights would find nobody: it knows the photos' people."""

    def __init__(self, photos: list[Photo]):
        self._of = {digest(photo.pixels): photo for photo in photos}

    def detect(self, images: list[np.ndarray]) -> list[Detections]:
        known_boxes = [self._of[digest(image)].boxes for image in images]
        return [Detections(boxes, np.ones(len(boxes), np.float32)) for boxes in known_boxes]

    def estimate(self, images: list[np.ndarray], boxes: list[np.ndarray]) -> list[Poses]:
        known_keypoints = [self._of[digest(image)].keypoints for image in images]
        return [Poses(keypoints, np.ones(len(keypoints), np.float32)) for keypoints in known_keypoints]


def digest(image: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(image)).digest()


class Found:
    """A detector that does its work, and then gives two people an image, whatever it has found."""

    def __init__(self, detector: Any):
        self._detector = detector

    def detect(self, images: list[np.ndarray]) -> list[Detections]:
        self._detector.detect(images)
        return [Detections(boxes, np.ones(len(boxes), np.float32)) for boxes in two_people(images)]


def poses(results: list[Any]) -> int:
    """The people with a pose, in the results of `RTMPose` or of `PublicApi`."""
    return sum(len(result.keypoints) if isinstance(result, Poses) else len(result) for result in results)


class PublicApi:
    """mmdet's and mmpose's own functions ``inference_detector`` and ``inference_topdown``, one BGR image at a time."""

    def __init__(self, detector: str, pose: str, score: float, flip_test: bool, device: str):
        import mmdet
        import mmpose
        from mmdet.apis import init_detector
        from mmpose.apis import init_model
        from mmpose.utils import adapt_mmdet_pipeline

        torch.manual_seed(0)
        configs = [Path(str(m.__file__)).parent / ".mim" / "configs" for m in (mmdet, mmpose)]
        self.detector = init_detector(str(configs[0] / detector), None, device=device)
        self.detector.cfg = adapt_mmdet_pipeline(self.detector.cfg)  # mmpose has changed the default scope
        self.detector.bbox_head.test_cfg.score_thr = score
        self.pose = init_model(str(configs[1] / pose), None, device=device)
        self.pose.test_cfg["flip_test"] = flip_test
        for model, size in ((self.detector, (320, 320)), (self.pose, (192, 256))):
            calibrate(model, size)
        for conv in self.detector.bbox_head.rtm_cls:  # else thousands of boxes would be found in each image
            torch.nn.init.normal_(conv.weight, std=0.1)
            torch.nn.init.constant_(conv.bias, -12)
            torch.nn.init.constant_(conv.bias[:1], -4)  # of people, whom alone our wrapper looks for

    def save(self, folder: Path) -> dict[str, Path]:
        """Writes the weights in the form that the wrappers read."""
        files = {}
        for name in ("detector", "pose"):
            files[name] = folder / f"{name}.safetensors"
            state = getattr(self, name).state_dict()
            save_file({k: v.detach().cpu().clone().contiguous() for k, v in state.items()}, files[name])
        return files

    def detect(self, images: list[np.ndarray]) -> list[Any]:
        from mmdet.apis import inference_detector

        return [inference_detector(self.detector, image).pred_instances.numpy() for image in images]

    def estimate(self, images: list[np.ndarray], boxes: list[np.ndarray]) -> list[Any]:
        from mmpose.apis import inference_topdown

        return [inference_topdown(self.pose, image, its) for image, its in zip(images, boxes, strict=True)]


@torch.no_grad()
def calibrate(model: torch.nn.Module, size: tuple[int, int]) -> None:
    """Gives normalisation layers the statistics of real images: else signals fade to denormal numbers, which make a CPU
    ten times slower. size: width and height of the input."""
    norms = [layer for layer in model.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    pixels = np.stack([np.asarray(Image.fromarray(photo.pixels).resize(size)) for photo in photos(4)])
    inputs = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().sub(115).div(58)
    model.train()(inputs.to(next(model.parameters()).device), None, "tensor")
    model.eval()


def random_clip(model: str, file: Path) -> Path:
    """Random weights of an open_clip architecture, in the form of its checkpoints."""
    import open_clip

    torch.manual_seed(0)
    save_file({k: v.clone().contiguous() for k, v in open_clip.create_model(model).state_dict().items()}, file)
    return file
