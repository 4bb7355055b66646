"""The report: one self-contained HTML page about what a store holds, to look at and to pass on.

It loads nothing: images are data URIs, and its content security policy allows neither scripts nor requests. Captions
come from the web; the template escapes them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from include.models.checkpoints import CHECKPOINTS
from include.models.profiles import Threshold
from laion_people.errors import LaionPeopleError, coded
from laion_people.language.facts import VALUES
from laion_people.reports import funnel
from laion_people.reports.examples import ShardExamples, largest_clusters, spread
from laion_people.reports.figures import BOX, LEFT, MESH, MIDDLE, RIGHT
from laion_people.reports.tables import columns
from laion_people.reports.templating import STATIC, environment
from laion_people.reports.views import KINDS
from laion_people.steps.registry import STEPS
from laion_people.storage.manifest import Manifest, added
from laion_people.storage.store import Store

log = logging.getLogger(__name__)

LIMITS = {"gallery": 24, "captioned": 9, "chosen": 12, "composed": 12}  # pictures in a section
CLUSTERS = 12  # of each kind
EXAMPLE_SHARDS = 3  # pictures come from one shard each of so many partitions
SAMPLED_SHARDS = 64  # whose similarities and facts are counted
BINS = 48
FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Bin:
    """A bar of the histogram: its range, how many people are in it, and whether they are in Subset A."""

    start: float
    stop: float
    people: int
    accepted: bool


@dataclass(frozen=True, slots=True)
class FactCounts:
    """How many people have a fact, whatever its value, and how many by value, the most frequent first."""

    name: str
    people: int
    values: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Model:
    """Weights as the manifests name them, with what the list of checkpoints says of them if it knows them."""

    name: str
    sha256: str
    steps: tuple[str, ...]
    licence: str
    source: str


def write_report(store: Store, out: Path) -> Path:
    """Writes ``index.html`` into a folder, which is made if need be; returns its path.

    Raises LaionPeopleError when no step has been run, a file of the store is damaged, or ``out`` cannot be written.
    """
    done = {key: steps for key in funnel.partitions(store) if (steps := funnel.manifests(store, key))}
    if not done:
        raise LaionPeopleError("nothing-to-report", f"{store.uri}: no step has been run, so there is nothing to report")
    style = (STATIC / "figures.css").read_text() + (FOLDER / "report.css").read_text()
    templates = environment(FOLDER)
    templates.filters |= {
        "words": lambda name: name.replace("_", " "),
        "short": lambda n: f"{n:,}" if n < 1_000_000 else f"{n / 1e6:,.1f} M",
        "settings": flat,
    }
    page = templates.get_template("report.html.j2").render(
        style=style,
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        store=store.uri,
        kinds=KINDS,
        colours={"box": BOX, "left": LEFT, "right": RIGHT, "trunk": MIDDLE, "face": MESH},
        **content(store, done),
    )
    path = out / "index.html"
    try:
        out.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise LaionPeopleError("cannot-write", f"{path} cannot be written: {error.strerror}") from error
    return path


def content(store: Store, done: Mapping[str, Mapping[str, Manifest]]) -> dict[str, Any]:
    """What the page says, by variable of the template; ``done`` has the manifests of each partition."""
    releases = funnel.release_manifests(store)
    version = next(reversed(releases), "")
    known = merged(done.values()) | releases.get(version, {})
    steps = {step: known[step] for step in STEPS if step in known}
    threshold = steps["subset_a"].params["threshold"] if "subset_a" in steps else None
    similarity, clip_model = _similarity(store, done)
    bins = histogram(similarity, threshold)
    looked_at, fact_counts = count_facts(store, done)
    sums = funnel.sums(store, list(done))
    return {
        "partitions": funnel.status(store, list(done))["partitions"],
        "notes": funnel.profile_notes(sums.values()),
        "rows": funnel.bars(list(funnel.stages(store, sums))),
        "threshold": threshold,
        "threshold_source": _source(steps["subset_a"]) if "subset_a" in steps else "",
        "bins": bins,
        "ticks": ticks(bins[0].start, bins[-1].stop) if bins else [],
        "clip_model": clip_model,
        "looked_at": looked_at,
        "fact_counts": fact_counts,
        "examples": _examples(store, done),
        "version": version,
        "clusters": largest_clusters(store, version, CLUSTERS) if version else [],
        "fit": _fit(store, releases[version]["cluster"]) if version else {},
        "steps": steps,
        "times": times(steps),
        "models": models(steps),
    }


def merged(done: Collection[Mapping[str, Manifest]]) -> dict[str, Manifest]:
    """One manifest for each step that has been run: the sum over the partitions, whose `manifests` ``done`` has."""
    by_step = {step: [steps[step] for steps in done if step in steps] for step in STEPS}
    return {step: _merged(of_partitions) for step, of_partitions in by_step.items() if of_partitions}


def _merged(manifests: Sequence[Manifest]) -> Manifest:
    last = manifests[-1]
    return Manifest(
        step=last.step,
        partition=last.partition,
        run_id=last.run_id,
        params=last.params,
        models=last.models,
        inputs=(),
        shards=tuple(shard for manifest in manifests for shard in manifest.shards),
        rows_in=sum(m.rows_in for m in manifests),
        rows=sum(m.rows for m in manifests),
        rejected=added(m.rejected for m in manifests),
        seconds=sum(m.seconds for m in manifests),
        timings=added(m.timings for m in manifests),
    )


def _source(subset_a: Manifest) -> str:
    """Where the threshold comes from."""
    if "calibrated" not in subset_a.params:
        return "as the settings have it (default 0.3, which is meant for OpenAI's ViT-B/32)"
    try:
        return Threshold(**subset_a.params["calibrated"]).provenance
    except (TypeError, ValueError, AttributeError) as error:
        raise LaionPeopleError(
            "wrong-manifest", f"manifest of subset_a {subset_a.partition}: {error}: run `clip_filter` again with force"
        ) from error


def histogram(similarity: np.ndarray, threshold: float | None) -> list[Bin]:
    """Bins of equal width, one of whose edges is the threshold, so that each is accepted or refused as a whole."""
    if not len(similarity):
        return []
    anchor = similarity.min() if threshold is None else threshold
    width = max(1e-3, float(np.ptp(similarity)) / BINS)
    below, above = (int(np.ceil(x / width)) for x in (anchor - similarity.min(), similarity.max() - anchor))
    edges = anchor + width * np.arange(-max(below, 0) - 1, max(above, 0) + 2)
    counts = np.histogram(similarity, edges)[0]
    return [
        Bin(float(start), float(stop), int(people), threshold is not None and start >= threshold - width / 2)
        for (start, stop), people in zip(pairwise(edges), counts, strict=True)
    ]


def ticks(start: float, stop: float) -> list[float]:
    """Round numbers between two, about six of them."""
    step = min((s * 10.0**e for e in range(-3, 2) for s in (1, 2, 5)), key=lambda s: abs((stop - start) / s - 6))
    return [n * step for n in range(math.ceil(start / step), math.floor(stop / step) + 1)]


def count_facts(store: Store, done: Mapping[str, Mapping[str, Manifest]]) -> tuple[int, dict[str, list[FactCounts]]]:
    """How many people were looked at, in shards spread over the partitions, and how many have which facts, by kind."""
    shards = [shard for steps in done.values() if "facts" in steps for shard in steps["facts"].shards]
    people, counts = 0, Counter[tuple[str, str]]()
    for shard in spread(shards, SAMPLED_SHARDS):
        table = columns(store, shard.uri, ["facts"])
        people += len(table)
        facts = pa.Table.from_struct_array(table["facts"].combine_chunks().flatten())
        for row in facts.group_by(["name", "value"]).aggregate([([], "count_all")]).to_pylist():
            counts[row["name"], row["value"]] += row["count_all"]
    return people, {kind: [_fact_counts(name, counts) for name in names] for kind, names in VALUES.items()}


def _fact_counts(name: str, counts: Mapping[tuple[str, str], int]) -> FactCounts:
    values = sorted(((value, n) for (fact, value), n in counts.items() if fact == name), key=lambda v: (-v[1], v[0]))
    return FactCounts(name, sum(n for _, n in values), tuple(values))


def models(steps: Mapping[str, Manifest]) -> list[Model]:
    """The weights that the steps have used, by name."""
    used: dict[tuple[str, str], list[str]] = defaultdict(list)
    for step, manifest in steps.items():
        for name, sha256 in manifest.models.items():
            used[name, sha256].append(step)
    known = {(c.name, c.sha256): c for c in CHECKPOINTS.values()}
    return [
        Model(*key, tuple(by), known[key].licence if key in known else "", known[key].source if key in known else "")
        for key, by in sorted(used.items())
    ]


def times(steps: Mapping[str, Manifest]) -> dict[str, dict[str, float]]:
    """Seconds of each step by part (model, decode, ...), the same parts for all; what was not clocked is ``other``."""
    parts = sorted({part for manifest in steps.values() for part in manifest.timings}, key=lambda p: (p != "model", p))
    return {
        step: {part: manifest.timings.get(part, 0.0) for part in parts}
        | {"other": max(0.0, manifest.seconds - sum(manifest.timings.values()))}
        for step, manifest in steps.items()
    }


def flat(params: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values of a manifest's parameters, those of a model without its role; lists are cut short."""
    pairs: list[tuple[str, str]] = []
    for name, value in params.items():
        if isinstance(value, dict):
            pairs += flat(value)
        elif isinstance(value, list):
            pairs.append((name, ", ".join(str(v) for v in value[:4]) + (", …" if len(value) > 4 else "")))
        else:
            pairs.append((name, str(value) or "none"))
    return pairs


def _similarity(store: Store, done: Mapping[str, Mapping[str, Manifest]]) -> tuple[np.ndarray, str]:
    """Similarities of people in shards spread over the partitions, and the name of the CLIP that gave them."""
    shards = [shard for steps in done.values() if "clip_filter" in steps for shard in steps["clip_filter"].shards]
    tables = [columns(store, s.uri, ["similarity", "clip_model"]) for s in spread(shards, SAMPLED_SHARDS)]
    names = sorted({name for table in tables for name in table["clip_model"].unique().to_pylist()})
    similarity = [table["similarity"].to_numpy() for table in tables]
    return np.concatenate([np.empty(0, np.float32), *similarity]), ", ".join(names)


def _examples(store: Store, done: Mapping[str, Mapping[str, Manifest]]) -> dict[str, list[Any]]:
    """Pictures for each section, from the first shard with people of some partitions."""
    shards = [
        (key, next(s.index for s in steps["detect"].shards if s.rows), steps)
        for key, steps in done.items()
        if "detect" in steps and steps["detect"].rows
    ]
    chosen = spread(shards, EXAMPLE_SHARDS)
    limits = {section: limit // max(1, len(chosen)) for section, limit in LIMITS.items()}
    examples: dict[str, list[Any]] = {s: [] for s in ("gallery", "accepted", "refused", "composed", "chosen")}
    for key, index, steps in chosen:
        of_shard = ShardExamples(store, key, index, steps, limits)
        for section, of_section in examples.items():
            of_section += getattr(of_shard, section)()
    return examples


def _fit(store: Store, cluster: Manifest) -> dict[str, Any]:
    """The kinds of a version's ``fit.json``; empty when there is none, or, with a warning, when it is damaged."""
    file = cluster.shards[0]
    data = store.read(file.uri) if store.exists(file.uri) else b""
    if hashlib.sha256(data).hexdigest() != file.sha256:
        log.warning(coded("damaged-version", "%s is missing or damaged, and passed over"), file.uri)
        return {}
    kinds: dict[str, Any] = json.loads(data)["kinds"]
    return kinds
