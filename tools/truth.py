"""`make truth`: measures how true the facts and captions of labelled people are.

    python tools/truth.py [FOLDER] [--store DIR] [--worst N]

FOLDER holds photos/NAME.jpg and labels.jsonl, a person a line: `photo` (NAME; leading zeros don't matter), `bbox` (x1,
y1, x2, y2 in pixels of the file) and the fields that docs/truth.md lists; by default include/truth, rendered people
with exact joints. Runs the pipeline on them with the profile `packaged`, twice: with the 3D landmarks of its pose
model, and lifted from 2D, as for models without depth. A labelled person is the detected one whose box overlaps most,
by half or more. Intervals are Wilson's, of 95 %.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import math
import sys
import tarfile
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from include.models import Poses
from include.models.profiles import load_profile
from include.models.regions import iou
from laion_people import settings
from laion_people.engine.runner import Runner
from laion_people.errors import LaionPeopleError, UsageError
from laion_people.steps.registry import STEPS
from laion_people.storage.store import open_store
from tools.truth_labels import KIND_OF, Label, holds

TRUTH = Path(__file__).resolve().parent.parent / "include" / "truth"
PARTITION = "truth/00000"
PROFILE = "packaged"
EXTRACT, CAPTION = ("detect", "pose", "mesh", "facts"), ("assign", "embed", "caption")
WAYS = ("3D landmarks", "lifted from 2D")
KINDS = ("pose", "face", "head")
MINIMUM_IOU = 0.5
NAMED_BOXES = {"ok", "loose", "part"}  # labels of boxes that hold one person
COMMONEST = 10  # sentences


@dataclass
class Tally:
    """How often a claim was true, false, or undecided (None) by the label."""

    counts: Counter[bool | None] = field(default_factory=Counter)

    @property
    def decided(self) -> int:
        return self.counts[True] + self.counts[False]

    @property
    def share(self) -> float:
        return self.counts[True] / self.decided if self.decided else math.nan

    def __str__(self) -> str:
        return rate(self.counts[True], self.decided)


@dataclass(frozen=True)
class Measured:
    """The results for labelled people. `facts`, `captions`: tallies by claim, by name and by kind; `claims`: number of
    claims of each caption, by kind; `fitting`: whether a cluster's first claims hold for a member, by kind; `false`: a
    line for each false claim."""

    labelled: int
    people: int
    facts: dict[str, Tally]
    captions: dict[str, Tally]
    claims: dict[str, list[int]]
    fitting: dict[str, Tally]
    sentences: Counter[str]
    false: list[str]


class WithoutDepth:
    """A profile whose pose model gives no 3D landmarks."""

    def __init__(self, profile: Any):
        self._profile = profile
        self.params, self.fingerprint = profile.params, profile.fingerprint

    def load(self, role: str, **options: Any) -> Any:
        model = self._profile.load(role, **options)
        return _FlatPose(model) if role == "pose" else model


class _FlatPose:
    def __init__(self, model: Any):
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def estimate(self, *args: Any, **options: Any) -> list[Poses]:
        return [replace(poses, world=None) for poses in self._model.estimate(*args, **options)]


def read_labels(folder: Path) -> list[Label]:
    """The labels of a folder. Raises UsageError if there are none, or one lacks its photo or box."""
    file = folder / "labels.jsonl"
    if not file.exists() or not any((folder / "photos").glob("*.jpg")):
        raise UsageError("bad-argument", f"{folder} has no labels.jsonl beside photos/NAME.jpg")
    labels = []
    for number, line in enumerate(filter(str.strip, file.read_text().splitlines()), 1):
        label = json.loads(line)
        if missing := {"photo", "bbox"} - label.keys():
            raise UsageError("bad-argument", f"{file}, line {number}: a label needs {' and '.join(sorted(missing))}")
        if NAMED_BOXES & set(label.get("box", "ok").split("|")):
            labels.append(label)
    return labels


def write_shard(folder: Path, store: Path) -> dict[int, str]:
    """Puts the photographs of a folder into a store, as img2dataset would. Returns the photo's name for each
    sample_id."""
    target = store / "images" / PARTITION
    target.mkdir(parents=True)
    names = {}
    with tarfile.open(target / "00000.tar", "w") as tar:
        for number, photo in enumerate(sorted((folder / "photos").glob("*.jpg"))):
            data, key = photo.read_bytes(), f"{number:09d}"
            width, height = Image.open(io.BytesIO(data)).size
            row = {
                "key": key,
                "SAMPLE_ID": number,
                "url": f"http://truth.invalid/{photo.name}",
                "caption": "",
                "status": "success",
                "width": width,
                "height": height,
                "original_width": width,
                "original_height": height,
            }
            for suffix, body in (("jpg", data), ("json", json.dumps(row).encode()), ("txt", b"")):
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(body)
                tar.addfile(member, io.BytesIO(body))
            names[number] = _name(photo.stem)
    return names


def _name(photo: object) -> str:
    return str(photo).lstrip("0") or "0"


def measure(folder: Path, store: Path, depth: bool, captions: bool = True) -> Measured:
    """Runs the pipeline on a folder's photographs in an empty store, and compares its results with the labels.

    depth: whether the pose model's 3D landmarks are used; captions: whether people are also clustered and captioned.
    """
    labels, names = read_labels(folder), write_shard(folder, store)
    chosen = settings.from_environment(store=store.as_uri(), profile=PROFILE)
    profile = load_profile(PROFILE, chosen.precision, device=chosen.device)
    runner = Runner(open_store(chosen.store), chosen, profile if depth else WithoutDepth(profile), STEPS)
    for step in EXTRACT:
        runner.run(step, PARTITION)
    if captions:
        for step in ("cluster", "label"):
            runner.run_release(step, [PARTITION])
        for step in CAPTION:
            runner.run(step, PARTITION)
    return compare(labels, names, store, captions)


def compare(labels: Sequence[Label], names: Mapping[int, str], store: Path, captions: bool) -> Measured:
    """Compares the facts, captions and clusters of a store with labels."""
    people = match(labels, names, _rows(store, f"people/{PARTITION}"))
    out = Measured(len(labels), len(people), {}, {}, {k: [] for k in KINDS}, {k: Tally() for k in KINDS}, Counter(), [])
    for row in _rows(store, f"facts/{PARTITION}"):
        if label := people.get(row["person_id"]):
            for fact in row["facts"]:
                _count(out.facts, label, f"{fact['name']}={fact['value']}", out.false)
    if captions:
        for row in _rows(store, f"subset_c/*/{PARTITION}"):
            out.sentences[row["caption"]] += 1
            if label := people.get(row["person_id"]):
                out.claims[row["kind"]].append(len(row["claims"]))
                for claim in row["claims"]:
                    _count(out.captions, label, claim, out.false, f": {row['caption']!r}")
        _count_members(out, people, store)
    return out


def match(labels: Iterable[Label], names: Mapping[int, str], rows: Iterable[Mapping[str, Any]]) -> dict[str, Label]:
    """person_id -> label, for detected people who are labelled."""
    of_photo = defaultdict(list)
    for row in rows:
        of_photo[names[row["sample_id"]]].append(row)
    matched: dict[str, Label] = {}
    for label in labels:
        rows_there = of_photo[_name(label["photo"])]
        boxes = np.array([row["bbox"] for row in rows_there], np.float32).reshape(-1, 4)
        overlaps = iou(np.array([label["bbox"]], np.float32), boxes)[0]
        if overlaps.max(initial=0) >= MINIMUM_IOU:
            matched[rows_there[int(overlaps.argmax())]["person_id"]] = label
    return matched


def _rows(store: Path, pattern: str) -> list[dict[str, Any]]:
    return [row for file in sorted(store.glob(f"{pattern}/*.parquet")) for row in pq.read_table(file).to_pylist()]


def _count(tallies: dict[str, Tally], label: Label, claim: str, false: list[str], text: str = "") -> None:
    is_true = holds(label, claim)
    name = claim.partition("=")[0]
    for key in (claim, name, KIND_OF[name]):
        tallies.setdefault(key, Tally()).counts[is_true] += 1
    if is_true is False:
        false.append(f"photo {label['photo']}: {claim}{text}")


def _count_members(out: Measured, people: Mapping[str, Label], store: Path) -> None:
    """Counts how often a cluster's first caption with claims fits its members."""
    clusters = {row["cluster_id"]: row for row in _rows(store, "clusters/*")}
    for row in _rows(store, f"assignments/*/{PARTITION}"):
        for kind in KINDS:
            cluster = clusters.get(row[f"{kind}_cluster"])
            label = people.get(row["person_id"])
            first = next(filter(None, cluster["claims"]), None) if cluster else None
            if label and first:
                are_true = [holds(label, claim) for claim in first]
                out.fitting[kind].counts[False if False in are_true else None if None in are_true else True] += 1


def rate(part: int, whole: int) -> str:
    """A share with its Wilson interval of 95 %."""
    if not whole:
        return "-"
    z, share = 1.96, part / whole
    middle = (share + z * z / (2 * whole)) / (1 + z * z / whole)
    half = z * math.sqrt(share * (1 - share) / whole + z * z / (4 * whole**2)) / (1 + z * z / whole)
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return f"{part} of {whole}, {100 * share:.0f} % [{100 * low:.0f}-{100 * high:.0f}]"


def table(ways: Sequence[Measured]) -> str:
    """Both ways side by side: each fact, each kind, and the captions."""
    lines = [_line("", WAYS), _line("labelled people found", [rate(m.people, m.labelled) for m in ways])]
    for title, tallies in (
        ("facts that are true", [m.facts for m in ways]),
        ("claims that are true", [m.captions for m in ways]),
    ):
        keys = {key for one in tallies for key in one}
        if keys:
            lines += ["", title]
            names = sorted(keys - set(KINDS), key=lambda k: (KINDS.index(KIND_OF[k.partition("=")[0]]), k))
            lines += [_line(f"  {key}", [str(one.get(key, Tally())) for one in tallies]) for key in names]
            lines += [_line(kind, [str(one.get(kind, Tally())) for one in tallies], "95 %") for kind in KINDS]
    if any(m.sentences for m in ways):
        lines += ["", "captions"]
        for kind in KINDS:
            captioned = [[n for n in m.claims[kind] if n] for m in ways]
            goal = "75 %" if kind == "pose" else ""
            shares = [rate(len(one), m.people) for one, m in zip(captioned, ways, strict=True)]
            lines.append(_line(f"people with a {kind} caption that says something", shares, goal))
            silent = [str(len(m.claims[kind]) - len(one)) for one, m in zip(captioned, ways, strict=True)]
            lines.append(_line(f"  {kind} captions that say nothing", silent, "0"))
            mean = [f"{np.mean(one):.2f}" if one else "-" for one in captioned]
            lines.append(_line(f"  claims a {kind} caption", mean, "2.5" if kind == "pose" else ""))
            fits = [str(m.fitting[kind]) for m in ways]
            lines.append(_line(f"  members that fit their {kind} cluster's first caption", fits, "90 %"))
        lines.append(
            _line("distinct sentences, of rows", [f"{len(m.sentences)} of {m.sentences.total()}" for m in ways])
        )
        most = [(sum(n for _, n in m.sentences.most_common(COMMONEST)), m.sentences.total()) for m in ways]
        lines.append(
            _line(
                f"share of the {COMMONEST} commonest", [f"{100 * n / max(1, total):.0f} %" for n, total in most], "20 %"
            )
        )
    return "\n".join(lines)


def _line(what: str, cells: Sequence[str], goal: str = "") -> str:
    return f"{what:54}" + "".join(f"{cell:32}" for cell in cells) + (f"goal {goal}" if goal else "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=TRUTH, help="photos/NAME.jpg and labels.jsonl")
    parser.add_argument("--store", type=Path, help="keep the stores in this new folder, to look at them")
    parser.add_argument("--worst", type=int, default=0, metavar="N", help="show so many false claims, too")
    args = parser.parse_args()
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.WARNING)
    try:
        with nullcontext(args.store) if args.store else tempfile.TemporaryDirectory() as scratch:
            stores = [Path(scratch).resolve() / name for name in ("depth", "lifted")]
            if any(store.exists() for store in stores):
                raise UsageError("bad-argument", f"{scratch} holds stores already: give a new folder")
            ways = [measure(args.folder, store, depth) for store, depth in zip(stores, (True, False), strict=True)]
    except LaionPeopleError as error:
        print(f"truth: {error}", file=sys.stderr)
        return error.exit_code
    print(table(ways))
    for way, measured in zip(WAYS, ways, strict=True):
        for line in measured.false[: args.worst]:
            print(f"false, {way}: {line}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
