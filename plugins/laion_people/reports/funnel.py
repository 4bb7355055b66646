"""The funnel: what became of a partition's rows, step by step, and which step has been run on which partition."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any

from include.models.profiles import Profile, available, load_profile
from laion_people.engine.catalog import PARTITION_STEPS, RELEASE_STEPS
from laion_people.engine.stages import begun, begun_partitions
from laion_people.reports.tables import columns
from laion_people.storage import metadata
from laion_people.storage.manifest import Manifest, PartitionManifest
from laion_people.storage.manifestindex import READERS, ManifestIndex
from laion_people.storage.removals import REMOVED
from laion_people.storage.store import Store
from laion_people.storage.totals import Totals, TotalsReader, added_up, totals_of
from laion_people.storage.versions import manifest_of, versions

FUNNEL_PARTITIONS = 8  # `status` adds up their funnels; of more, counting the meshes in every shard would take minutes
WIDTH = 100  # columns of a terminal


@dataclass(frozen=True, slots=True)
class Stage:
    """How many of a ``unit`` (images, people, ...) are left, and how many were lost on the way there, by reason."""

    name: str
    unit: str
    rows: int
    rejected: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bar:
    """A stage as a picture: what came in and what was kept, as shares (0 to 1) of the most of its unit."""

    stage: Stage
    came: float
    kept: float
    lost: int


def partitions(store: Store) -> list[str]:
    """All partitions: those of the metadata, and those whose images were made elsewhere."""
    return sorted({*metadata.partitions(store), *begun_partitions(store)})


def manifests(store: Store, partition: str) -> dict[str, PartitionManifest]:
    """The manifests of the steps that have been run on a partition, in the order of the steps; of those that no audit
    has seen, the sums of the shards that are finished so far."""
    index, started = ManifestIndex(store), begun(store)
    read = {
        step: index.partition(step, partition) or _sum_so_far(index, step, partition, started)
        for step in PARTITION_STEPS
    }
    return {step: manifest for step, manifest in read.items() if manifest}


def sums(store: Store, chosen: Sequence[str] | None = None) -> dict[str, dict[str, Totals]]:
    """The totals by partition and step, in the order of the steps; of those that no audit has seen, the sums of the
    shards that are finished so far.

    Reads a few hundred bytes of each step and partition that is audited, and the manifest of every other shard.
    """
    read, started = TotalsReader(store).read(), begun(store)

    def of_partition(key: str) -> dict[str, Totals]:
        index, known = ManifestIndex(store), dict(read.get(key, {}))
        for step in PARTITION_STEPS:
            if step not in known and (so_far := _sum_so_far(index, step, key, started)):
                known[step] = totals_of(so_far)
        return {step: known[step] for step in PARTITION_STEPS if step in known}

    keys = partitions(store) if chosen is None else chosen
    with ThreadPoolExecutor(READERS) as pool:
        return dict(zip(keys, pool.map(of_partition, keys), strict=True))


def shards_so_far(store: Store, read: Mapping[str, Mapping[str, Totals]]) -> dict[str, dict[str, int]]:
    """How many shards are finished of steps that no audit has seen, by partition and step; ``read`` are the totals."""
    index = ManifestIndex(store)
    counted: dict[str, dict[str, int]] = defaultdict(dict)
    for step, partitions in begun(store).items():
        for key, scope in partitions.items():
            if step not in read.get(key, {}) and (paths := index.paths(step, key, scope)):
                counted[key][step] = len(paths)
    return dict(counted)


def _sum_so_far(
    index: ManifestIndex, step: str, partition: str, started: Mapping[str, Mapping[str, str]]
) -> PartitionManifest | None:
    scope = started[step].get(partition)
    return None if scope is None else index.sum(step, partition, scope)


def release_manifests(store: Store) -> dict[str, dict[str, Manifest]]:
    """The manifests of cluster and label for each cluster version, oldest first; damaged ones are passed over."""
    read = {v: {step: manifest_of(store, step, v) for step in RELEASE_STEPS} for v in versions(store)}
    return {v: {step: made for step, made in steps.items() if made} for v, steps in read.items() if steps["cluster"]}


def profile_notes(done: Collection[Mapping[str, Totals]]) -> list[str]:
    """What users must know of the profiles whose CLIP the partitions were filtered with."""
    used = [{name for step in steps.values() for name in step.models} for steps in done if "clip_filter" in steps]
    profiles = [load_profile(name) for name in available()]
    return [p.note for p in profiles if p.note and any(_is_of(names, p) for names in used)]


def _is_of(names: set[str], profile: Profile) -> bool:
    """Whether checkpoints of these names were used by the profile; profiles may share a CLIP."""
    return set(profile.roles["clip"].checkpoints.values()) <= names <= set(profile.checkpoints())


def stages(store: Store, done: Mapping[str, Mapping[str, Totals]]) -> Iterator[Stage]:
    """The stages of one or more partitions (``done``: their `sums`), added up, as far as steps have been run."""
    by_step = {step: [steps[step] for steps in done.values() if step in steps] for step in PARTITION_STEPS}
    steps = {step: added_up(of_partitions) for step, of_partitions in by_step.items() if of_partitions}
    meshes = (
        sum(count_meshes(store, key) for key, steps in done.items() if "mesh" in steps) if "mesh" in steps else None
    )
    return stages_of(steps, sum(map(made_elsewhere, done.values())), meshes)


def made_elsewhere(steps: Mapping[str, Totals]) -> int:
    """How many images of a partition `download` did not fetch: it has not been run, and `detect` has read some."""
    return steps["detect"].rows_in - steps["detect"].removed_in if "detect" in steps and "download" not in steps else 0


def stages_of(steps: Mapping[str, Totals], elsewhere: int, meshes: int | None) -> Iterator[Stage]:
    """The stages as the counts of the steps tell them.

    ``elsewhere`` counts images that `download` did not fetch. ``meshes`` counts people with a face mesh, which no step
    counts; None leaves that stage out.
    """
    if download := steps.get("download"):
        yield Stage("rows of metadata", "images", download.rows_in)
        yield Stage("downloaded", "images", download.rows, download.rejected)
    if elsewhere:
        yield Stage("images made elsewhere", "images", elsewhere)
    if detect := steps.get("detect"):
        yield Stage("images with people", "images", detect.rows_in - sum(detect.rejected.values()), _lost_in(detect))
        yield Stage("people", "people", detect.rows)
    if pose := steps.get("pose"):
        yield Stage("poses", "people", pose.rows, _lost_in(pose))
    if meshes is not None:
        faceless = steps["mesh"].rows - meshes
        yield Stage("face meshes", "people", meshes, {"no_face_seen": faceless} if faceless else {})
    if subset_a := steps.get("subset_a"):
        yield Stage("Subset A", "people", subset_a.rows, _lost_in(subset_a))
    if compose := steps.get("compose"):
        used = compose.rows_in - sum(compose.rejected.values())
        yield Stage("people composed", "people", used, _lost_in(compose))
        yield Stage("Subset B", "composed images", compose.rows)
    if caption := steps.get("caption"):
        yield Stage("Subset C", "captions", caption.rows, _lost_in(caption))
    if describe := steps.get("describe"):
        yield Stage("Subset D", "descriptions", describe.rows, _lost_in(describe))


def _lost_in(step: Totals) -> dict[str, int]:
    """The rows that were lost in a step by reason. Those that a removal took out of its input are lost before it."""
    removed = step.rejected.get(REMOVED, 0) - step.removed_in
    lost = {reason: rows for reason, rows in step.rejected.items() if reason != REMOVED}
    return dict(sorted((lost | {REMOVED: removed}).items())) if removed > 0 else lost


def bars(stages: Sequence[Stage]) -> list[Bar]:
    """Shares for the picture of a funnel."""
    shares = []
    for stage in stages:
        lost = sum(stage.rejected.values())
        most = max(1, *(s.rows + sum(s.rejected.values()) for s in stages if s.unit == stage.unit))
        shares.append(Bar(stage, (stage.rows + lost) / most, stage.rows / most, lost))
    return shares


def partition_funnel(store: Store, partition: str) -> list[Stage]:
    """The stages of a partition."""
    return list(stages(store, sums(store, [partition])))


def status(store: Store, chosen: Sequence[str] | None = None) -> dict[str, Any]:
    """All that `status` shows, for programs: the steps of each partition, their funnel, and the cluster versions.

    Of a step that has not been run there is only ``missing``. The funnel is null for more than FUNNEL_PARTITIONS.
    """
    done = sums(store, chosen)
    return {
        "store": store.uri,
        "notes": profile_notes(done.values()),
        "partitions": {
            key: {step: _counts(steps.get(step)) for step in PARTITION_STEPS} for key, steps in done.items()
        },
        "funnel": [asdict(s) for s in stages(store, done)] if len(done) <= FUNNEL_PARTITIONS else None,
        "clusters": {
            version: {step: _counts(totals_of(steps[step]) if step in steps else None) for step in RELEASE_STEPS}
            for version, steps in release_manifests(store).items()
        },
    }


def format_status(store: Store, chosen: Sequence[str] | None = None) -> str:
    """What `status` prints: the steps of one partition or a table of several, the funnel, and the cluster versions."""
    summary = status(store, chosen)
    of_partitions = summary["partitions"]
    if not of_partitions:
        return f"{store.uri}: no partitions; put LAION metadata parts into {store.uri}/metadata/<collection>/"
    if len(of_partitions) == 1:
        [(title, steps)] = of_partitions.items()
        blocks = [_steps_table(steps)]
    else:
        title = f"{len(of_partitions)} partitions"
        blocks = [_matrix(of_partitions)]
    if summary["funnel"] is None:
        blocks.append("The funnel of one of them: bin/laion-people status PARTITION")
    else:
        blocks.append(format_funnel([Stage(**stage) for stage in summary["funnel"]], title))
    blocks += [textwrap.fill(f"Note: {note}", WIDTH) for note in summary["notes"]]
    blocks += [_steps_table(steps, f"clusters {version}") for version, steps in summary["clusters"].items()]
    return "\n\n".join(blocks)


def format_funnel(funnel: Sequence[Stage], title: str) -> str:
    """The funnel as text; the bars of one unit share a scale."""
    if not funnel:
        return f"{title}: no step has been run"
    lines = [title]
    wide = max(len(s.name) for s in funnel)
    for _, group in groupby(funnel, key=lambda s: s.unit):
        same = list(group)
        most = max(1, *(s.rows for s in same))
        for stage in same:
            bar = "█" * round(40 * stage.rows / most) if len(same) > 1 else ""
            lines.append(f"  {stage.name:{wide}} {stage.rows:>13,}  {bar}".rstrip())
            if stage.rejected:
                lines += _lost(stage.rejected, " " * (wide + 18))
    return "\n".join(lines)


def count_meshes(store: Store, partition: str) -> int:
    """People with a face mesh: rows of the mesh tables whose face_score is not null."""
    shards = manifests(store, partition)["mesh"].shards
    with ThreadPoolExecutor(READERS) as pool:
        tables = pool.map(lambda shard: columns(store, shard.uri, ["face_score"]), shards)
        return sum(table.num_rows - table["face_score"].null_count for table in tables)


def _lost(rejected: dict[str, int], indent: str) -> list[str]:
    """Lines with the reasons, the most frequent first; no line ends between a number and its reason."""
    glue = "\N{NO-BREAK SPACE}"
    reasons = sorted(rejected.items(), key=lambda item: -item[1])
    text = f"lost{glue}" + ", ".join(f"{n:,}{glue}{reason}" for reason, n in reasons)
    lines = textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent + " " * 5)
    return [line.replace(glue, " ") for line in lines]


def _counts(totals: Totals | None) -> dict[str, Any]:
    if totals is None:
        return {"missing": True}
    names = ("shards", "rows_in", "rows", "rejected", "seconds")
    return {"missing": False} | {name: getattr(totals, name) for name in names}


def _steps_table(steps: dict[str, dict[str, Any]], title: str = "step") -> str:
    rows: list[tuple[str, ...]] = [(title, "shards", "rows in", "rows", "rejected", "seconds", "rows/s")]
    for step, counts in steps.items():
        if counts["missing"]:
            rows.append((step, "-", "not run", "", "", "", ""))
            continue
        speed = f"{counts['rows_in'] / counts['seconds']:,.0f}" if counts["seconds"] else ""
        numbers = (counts["shards"], counts["rows_in"], counts["rows"], sum(counts["rejected"].values()))
        rows.append((step, *(f"{n:,}" for n in numbers), f"{counts['seconds']:,.1f}", speed))
    return _columns(rows)


def _matrix(of_partitions: dict[str, dict[str, Any]]) -> str:
    """Rows written, by partition (under its collection, whose name may be long) and step."""
    described = any(not steps["describe"]["missing"] for steps in of_partitions.values())
    shown = [step for step in PARTITION_STEPS if described or step != "describe"]  # few ask for that one
    rows: list[tuple[str, ...]] = [("rows", *shown)]
    for collection, keys in groupby(of_partitions, key=lambda key: key.split("/")[0]):
        rows.append((collection,))
        for key in keys:
            steps = of_partitions[key]
            shards = max(counts.get("shards", 0) for counts in steps.values())
            rows.append((f"  {key.split('/')[1]}", *(_cell(steps[step], shards) for step in shown)))
    legend = "rows written; -: not run; 3/5: shards that are finished, of those that another step has"
    return _columns(rows) + "\n" + legend


def _cell(counts: dict[str, Any], shards: int) -> str:
    if counts["missing"]:
        return "-"
    if counts["shards"] < shards:
        return f"{counts['shards']}/{shards}"
    return f"{counts['rows']:,}" if counts["rows"] < 10_000_000 else f"{counts['rows'] / 1e6:,.1f}M"


def _columns(rows: Sequence[tuple[str, ...]]) -> str:
    """Text columns: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows if i < len(row) and len(row) > 1) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(f"{cell:{'<' if i == 0 else '>'}{widths[i]}}" for i, cell in enumerate(row)).rstrip() for row in rows
    )
