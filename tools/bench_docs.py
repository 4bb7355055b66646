"""Writes what `make bench` has measured into the docs and into rates.json, so that nobody types a number by hand.

    make bench ARGS="--peers --docs"       # measures, keeps docs/bench.json, and does this
    python -m tools.bench_docs             # does it again, from docs/bench.json

docs/speed.md is made of it; the plans of docs/capacity.md follow from rates.json. tests/test_bench.py compares them.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from laion_people.reports import capacity
from laion_people.settings import Settings
from tools.bench_work import Result

ROOT = Path(__file__).resolve().parent.parent
MEASURED = ROOT / "docs" / "bench.json"
SPEED, CAPACITY = ROOT / "docs" / "speed.md", ROOT / "docs" / "capacity.md"
PARTITION_ROWS = 18_125_000  # of one of the 128 of laion2B-en
PAGE = """# Speed

What `make bench ARGS="--peers --docs"` measured, which has written this page: {machine}
({versions}).
Medians of {rounds} rounds, with the smallest and the largest; [bench.json](bench.json) holds every round. The machine's
load was {before:.1f} before and {after:.1f} after. Where that is much more than its cores, others were busy too, and
threads that wait for one another, as torch's do in the public functions, lose most.

## Against other ways

Both sides do the same work in turns, in one run on the same cores, so that a busy machine is busy for both. Weights are
random where speed doesn't depend on them; models and images are loaded before. A ratio is the median of those of the
rounds: of speeds, ours to the peer's, or, where a target is at most something (<=), of seconds. Every round proves its
work, by rows of the tables that it wrote and results that the models gave: one that was skipped, or was faster than
physics allows, ends the run with an error.

| what | ours | peer | unit | ratio | spread | target | |
|---|---|---|---|---|---|---|---|
{ratios}

- *public functions* are mmdet's `inference_detector` and mmpose's `inference_topdown`, of RTMDet-tiny and RTMPose-s.
- *MediaPipe's calls alone* get crops that are already cut; of two faces, as in its guide, or exactly those that the
  step makes, which asks for one face first. Its tasks compute in threads of their own; one thread more than cores
  waits for them. The step reads, decodes, cuts and writes beside them, and has its tasks compute in the calling thread.
- *ViT-B-32-quickgelu alone* gets pixels and tokens that are already prepared, in batches of 64 for all of torch's
  threads, as users of open_clip do. The step reads, decodes, cuts, resizes and writes beside it.
- *clip-retrieval* runs its own reader and mapper, without writing, with a CLIP so small that decoding and resizing are
  the work.

## The steps

The built-in sample, times {copies}, with the models of the packaged profile. `bin/laion-people plan` reckons with
the rows a CPU second, which a busy machine doesn't change much: [capacity](capacity.md).

| step | rows | rows a second | rows a CPU second | spread |
|---|---|---|---|---|
{steps}
"""
DOWNLOAD = "\nThe download's CPU seconds include those of the server that it reads from.\n"


def speed(measured: dict[str, Any]) -> str:
    """docs/speed.md."""
    results = [Result(**result | {"ratios": tuple(result["ratios"])}) for result in measured["ratios"]]
    versions = ", ".join(f"{name} {version}" for name, version in measured["versions"].items())
    before, after = measured["load"]
    page = PAGE + (DOWNLOAD if "download" in measured["steps"] else "")
    return page.format(
        before=before,
        after=after,
        **{name: measured[name] for name in ("machine", "rounds", "copies")},
        versions=versions,
        ratios="\n".join(map(_ratio, results)),
        steps="\n".join(_step(name, rounds) for name, rounds in measured["steps"].items()),
    )


def _ratio(r: Result) -> str:
    target = f"{'<=' if r.less else '>='} {r.target:g}" if r.target else ""
    spread = f"{min(r.ratios):.2f} - {max(r.ratios):.2f}"
    return f"| {r.what} | {r.ours:.1f} | {r.peer:.1f} | {r.unit} | {r.ratio:.2f} | {spread} | {target} | {r.verdict} |"


def _step(name: str, rounds: list[dict[str, float]]) -> str:
    wall, cpu = ([each[clock] for each in rounds] for clock in ("wall", "cpu"))
    medians = f"{statistics.median(wall):,.1f} | {statistics.median(cpu):,.1f}"
    return f"| {name} | {rounds[0]['rows']} | {medians} | {min(cpu):,.1f} - {max(cpu):,.1f} |"


def rates(measured: dict[str, Any], kept: dict[str, Any]) -> dict[str, Any]:
    """rates.json: what it has, with the measured rates in the place of older ones."""
    return {
        section: {name: measured.get(section, {}).get(name, rate) for name, rate in known.items()}
        for section, known in kept.items()
    }


def plans(page: str) -> str:
    """docs/capacity.md with the plans of one partition and of all that follow from rates.json."""
    for partitions in (1, 128):
        rows = {f"laion2B-en/{part:05d}": PARTITION_ROWS for part in range(partitions)}
        known = capacity.read_rates(capacity.RATES, "standard")
        plan = capacity.format_plan(capacity.estimate(rows, Settings(profile="standard"), known))
        first = plan.partition("\n")[0]
        before, _, block = page.partition(f"```\n{first}\n")
        assert block, f"{CAPACITY}: no block that begins with {first}"
        _, end, after = block.partition("\n```\n")
        page = f"{before}```\n{plan}{end}{after}"
    return page


def main() -> None:
    measured = json.loads(MEASURED.read_text())
    kept = rates(measured, json.loads(capacity.RATES.read_text()))
    capacity.RATES.write_text(json.dumps(kept, indent=1) + "\n")
    SPEED.write_text(speed(measured))
    CAPACITY.write_text(plans(CAPACITY.read_text()))


if __name__ == "__main__":
    main()
