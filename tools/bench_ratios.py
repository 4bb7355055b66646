"""Compares the speed of the models' wrappers and steps with their packages' own functions, on the same CPU cores."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from mediapipe.tasks.python import vision
from PIL import Image

from include.models import facemesh
from include.models.mediapipe_tasks import hidden
from include.models.openclip import OpenClip
from include.models.profiles import load_profile
from include.models.rtmdet import RTMDet
from include.models.rtmpose import RTMPose
from include.models.runtime import Pool
from laion_people.settings import Settings
from laion_people.steps.registry import STEPS
from laion_people.storage.store import LocalStore
from laion_people.vision.images import crop
from tools import bench_work as work

import open_clip  # isort: skip  (after openclip, which makes torchvision importable)

CLIP = "ViT-B-32-quickgelu"
PEOPLE = 2  # boxes at least that either side detects in an image


def ratios(rounds: int) -> Iterator[work.Result]:
    """The table's lines, one after the other. Takes minutes."""
    torch.set_num_threads(Settings().threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        yield from openmmlab(folder, rounds)
        yield from steps(folder, rounds)


def openmmlab(folder: Path, rounds: int, count: int = 8) -> Iterator[work.Result]:
    """RTMDet-tiny and RTMPose-s against mmdet's and mmpose's public functions, in float32 and in bf16."""
    detector, pose = work.DETECTORS["tiny"], work.POSES["s"]
    api = work.PublicApi(detector, pose, score=0.0, flip_test=False, device="cpu")
    files = api.save(folder)
    images = [photo.pixels for photo in work.photos(count)]
    bgr = [np.ascontiguousarray(image[..., ::-1]) for image in images]
    # Our detector has less to do where nobody is likely: some of these random boxes shall count as people.
    everybody = RTMDet(files["detector"], config=detector, score=0.0, precision="fp32", device="cpu").detect(images)
    score = min(float(people.scores[8 * PEOPLE]) for people in everybody)  # the best come first; bf16 rounds
    api.detector.bbox_head.test_cfg.score_thr = score
    boxes = work.two_people(images)

    def both(detect: Any, estimate: Any, images: list[np.ndarray]) -> int:
        """The images that got detections and two poses each."""
        return min(crowded(detect(images)), work.poses(estimate(images, boxes)) // 2)

    for precision in ("fp32", "bf16"):
        options = {"precision": precision, "device": "cpu"}
        detect = RTMDet(files["detector"], config=detector, score=score, **options).detect
        estimate = RTMPose(files["pose"], config=pose, flip_test=False, **options).estimate
        if precision == "fp32":
            ours, theirs = (partial(counted, crowded, *call) for call in ((detect, images), (api.detect, bgr)))
            yield work.compare("RTMDet / inference_detector", "images/s", count, ours, theirs, 0, rounds)
            calls = ((estimate, images, boxes), (api.estimate, bgr, boxes))
            ours, theirs = (partial(counted, work.poses, *call) for call in calls)
            yield work.compare("RTMPose / inference_topdown", "people/s", 2 * count, ours, theirs, 0, rounds)
        ours, theirs = partial(both, detect, estimate, images), partial(both, api.detect, api.estimate, bgr)
        what = f"detect + pose, {precision} / public functions"
        yield work.compare(what, "images/s", count, ours, theirs, 2.5 if precision == "fp32" else 2.0, rounds)


def crowded(detected: list[Any]) -> int:
    """The images in which enough people were detected, by either side."""
    return sum(len(people.scores) >= PEOPLE for people in detected)


def counted(count: Any, call: Any, *inputs: Any) -> int:
    return count(call(*inputs))


def steps(folder: Path, rounds: int) -> Iterator[work.Result]:
    """The steps mesh and clip_filter, tar to table, against loops of their models' calls on prepared input."""
    store = LocalStore(folder / "store")
    photos = work.photos(384)  # six batches: a shard has many more, in which its begin and end are lost
    packaged, weights = load_profile("packaged"), work.random_clip(CLIP, folder / "clip.safetensors")
    clip = OpenClip(weights, model=CLIP, tag="random", precision="fp32", device="cpu", batch_size=64)
    known = work.Known(photos)
    models = work.Models(detector=known, pose=known, mesh=packaged.load("mesh"), clip=clip)
    made = work.Made(store, models, STEPS)

    def prepared(step: str, some: list[work.Photo]) -> str:
        partition = f"bench/{step}"
        with store.writer(f"images/{partition}/00000.tar") as tar:
            work.write_shard(tar, [photo.jpeg for photo in some])
        for before in ("detect", "pose"):
            made.rows(before, partition)
        return partition

    ours = partial(made.rows, "mesh", prepared("mesh", photos), "face_score")
    for what, tasks, target in (("two faces", slice(1, 2), 1.0), ("exactly its own", slice(2), 0)):
        amount, loop = mesh_loop(packaged, photos, tasks)
        yield work.compare(f"mesh / MediaPipe's calls alone, {what}", "faces/s", amount, ours, loop, target, rounds, 2)
    few = photos[:32]  # the model is slow
    ours = partial(made.rows, "clip_filter", prepared("clip_filter", few), "similarity")
    people = sum(len(photo.boxes) for photo in few)
    loop = clip_loop(weights, few)
    yield work.compare(f"clip_filter / {CLIP} alone", "people/s", people, ours, loop, 0.9, rounds)


def mesh_loop(profile: Any, photos: list[work.Photo], chosen: slice) -> tuple[int, work.Job]:
    """A loop of the calls that MediaPipe gets for these people, recorded once, of tasks as in its guide: people with a
    face, and the job, which counts those for whom each call found as many faces again.

    chosen: of the landmarkers of one face and of two; that of two alone, as in MediaPipe's guide, finds the same.
    """
    calls: list[list[tuple[int, Any, int]]] = []  # of each person: the task, its image, faces that it found

    class Recorded:
        def __init__(self, place: int, task: Any):
            self._place, self._task = place, task

        def detect(self, image: Any) -> Any:
            return self._noted(image, self._task.detect(image))

        def faces(self, image: Any) -> Any:
            return self._noted(image, self._task.faces(image))

        def _noted(self, image: Any, result: Any) -> Any:
            calls[-1].append((self._place, image, faces(result)))
            return result

    estimator = profile.load("mesh", threads=1)
    bundle, score, presence = estimator._options
    own = facemesh._Tasks(bundle, score, presence)
    detector, *landmarkers = [Recorded(n, task) for n, task in enumerate([own.detector, *own.landmarkers[chosen]])]
    estimator._local.tasks = SimpleNamespace(detector=detector, landmarkers=landmarkers)
    known: list[bool] = []
    for photo in photos:
        for box, body in zip(photo.boxes, photo.keypoints, strict=True):
            calls.append([])
            known.append(estimator._estimate(photo.pixels, box, body) is not None)  # this thread's tasks are recorded

    pool, local = Pool(Settings().threads + 1), threading.local()  # MediaPipe computes in others, for which these wait

    def replay(person: list[tuple[int, Any, int]]) -> bool:
        if not hasattr(local, "tasks"):
            each = [facemesh.landmarker_options(bundle, presence, most) for most in facemesh.FACES[chosen]]
            with hidden():
                detector = vision.FaceDetector.create_from_options(facemesh.detector_options(bundle, score))
                local.tasks = [detector, *map(vision.FaceLandmarker.create_from_options, each)]
        return all(faces(local.tasks[place].detect(image)) == found for place, image, found in person)

    def loop() -> int:
        return sum(face and same for face, same in zip(known, pool.map(replay, calls), strict=True))

    return sum(known), loop


def faces(result: Any) -> int:
    """The faces in a result of MediaPipe's detector or landmarker, or in that of our landmarker: a list."""
    if isinstance(result, list):
        return len(result)
    return len(result.detections if hasattr(result, "detections") else result.face_landmarks)


def clip_loop(weights: Path, photos: list[work.Photo], size: int = 64) -> work.Job:
    """A loop of open_clip's own calls on crops and captions that are already pixels and tokens."""
    model, prepare = open_clip.create_model_from_pretrained(CLIP, pretrained=str(weights))
    model.eval()
    crops = [crop(photo.pixels, box, Settings().crop_padding) for photo in photos for box in photo.boxes]
    pixels = torch.stack([prepare(Image.fromarray(c)) for c in crops]).split(size)
    captions = [work.caption(i) for i in range(len(photos))]
    tokens = open_clip.get_tokenizer(CLIP)(captions).split(size)

    @torch.inference_mode()
    def loop() -> int:
        people = sum(len(model.encode_image(batch, normalize=True).numpy()) for batch in pixels)
        texts = sum(len(model.encode_text(batch, normalize=True).numpy()) for batch in tokens)
        return people if texts == len(captions) else 0

    return loop
