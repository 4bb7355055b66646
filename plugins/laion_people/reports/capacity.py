"""What partitions will cost: GPU-hours, CPU-hours, storage and requests, known before anything is launched.

An amount of work is counted in the rows that a step reads, and a rate is such rows per second of one GPU (``gpu:pose``)
or of one core (``cpu:pose``), rows out of others (``people_per_image``), or bytes that a table needs for each of its
rows (``bytes:pose``). A rate comes from what the store has of partitions that were run before, else from a file that
``make bench`` or ``tools/bench_gpu.py`` wrote, else from ``rates.json`` beside this module; each says whether it was
measured, and where. docs/capacity.md has the formula.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from laion_people.engine.catalog import KINDS_OF_CAPTION, STEPS
from laion_people.errors import UsageError
from laion_people.reports import funnel
from laion_people.settings import Settings
from laion_people.storage import metadata
from laion_people.storage.store import Store
from laion_people.storage.totals import added_up

RATES = Path(__file__).parent / "rates.json"
PART_BYTES = 8 << 20  # boto3's default: a file of at least as much is uploaded in parts of this size
MACHINE_CORES = 16  # of the machine that the hours of the download are given for
LISTED = 10  # of more partitions, only the sum is shown


@dataclass(frozen=True, slots=True)
class Rate:
    """A number of the formula; ``source`` says by what and where it was measured, or what it is assumed from."""

    value: float
    measured: bool
    source: str


@dataclass(frozen=True, slots=True)
class Cost:
    """What a step needs for the ``amount`` of rows that it reads: hours of GPUs and cores, and bytes of its table; None
    where no rate is known.

    ``rates`` names the rates that the numbers are made from.
    """

    step: str
    amount: float
    unit: str
    gpu_hours: float | None
    cpu_hours: float | None
    table: str
    bytes: float | None
    rates: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """The costs of partitions (key -> rows of metadata), and the rates that they are made from, by name.

    ``kept`` are the people of Subset A; ``writes`` and ``reads`` are requests to the store, were it S3; ``unknown``
    names the rates that the profile would need beside those.
    """

    profile: str
    partitions: dict[str, int]
    images: float
    people: float
    kept: float
    steps: tuple[Cost, ...]
    writes: int
    reads: int
    rates: dict[str, Rate]
    unknown: tuple[str, ...]

    def total(self, amount: str) -> float:
        """The sum of ``gpu_hours``, ``cpu_hours`` or ``bytes`` over the steps of which it is known."""
        return sum(getattr(cost, amount) or 0 for cost in self.steps)


def plan(store: Store, partitions: Sequence[str], settings: Settings, rates_file: Path | None = None) -> Plan:
    """The costs of partitions whose metadata is in the store; of a part, only the footer is read.

    Raises UsageError when a partition has no metadata or the file holds no rates.
    """
    rows = {p: metadata.count_rows(store, metadata.metadata_path(store, p)) for p in dict.fromkeys(partitions)}
    given = read_rates(rates_file, settings.profile) if rates_file else {}
    return estimate(rows, settings, read_rates(RATES, settings.profile) | given | measured_in(store))


def estimate(rows: dict[str, int], settings: Settings, rates: Mapping[str, Rate]) -> Plan:
    """The costs of partitions with so many rows, as far as the rates of their steps are known. Of the shares, some are
    always known."""
    unknown: list[str] = []

    def known(name: str) -> float | None:
        if name not in rates:
            unknown.append(name)
            return None
        return rates[name].value

    images = sum(rows.values()) * rates["images_per_row"].value
    people = images * rates["people_per_image"].value
    amounts = {
        "rows": sum(rows.values()),
        "images": images,
        "people": people,
        "kept": people * rates["kept_per_person"].value,
        "sampled": min(people, settings.cluster_sample),
        "captions": KINDS_OF_CAPTION * people,
    }
    shards = sum(math.ceil(n / settings.shard_rows) for n in rows.values())
    costs, writes, reads = [], 0, 0
    for name, entry in STEPS.items():
        if not entry.amount or (entry.optional and not getattr(settings, entry.optional)):
            continue  # label works on clusters, a thousandth of the rest
        amount, gpu, cpu, size = amounts[entry.amount], f"gpu:{name}", f"cpu:{name}", ""
        a_second = known(cpu)
        cpu_hours = amount / a_second / 3600 if a_second else None
        gpu_hours: float | None = 0.0  # a step with a rate of cores alone needs no GPU
        if gpu in rates or not a_second:
            on_gpu = known(gpu)
            gpu_hours = amount / on_gpu / 3600 if on_gpu else None
        written: float | None = 0.0
        if not entry.is_release:
            size = f"bytes:{entry.writes}"
            a_row = known(size)
            written = a_row * amounts[entry.written or entry.amount] if a_row else None
            writes += (
                shards * (_uploads((written or 0) / shards) + entry.beside + 1) if shards else 0
            )  # 1: the manifest
            reads += shards * 2 * len(entry.reads)  # a file, and the manifest that says what it must hash to
        used = tuple(n for n in (gpu, cpu, size) if n in rates)
        costs.append(Cost(name, amount, entry.amount, gpu_hours, cpu_hours, size[6:], written, used))
    named = ("images_per_row", "people_per_image", "kept_per_person", *(n for cost in costs for n in cost.rates))
    made_from = {n: rates[n] for n in named}
    kept = amounts["kept"]
    return Plan(settings.profile, rows, images, people, kept, tuple(costs), writes, reads, made_from, tuple(unknown))


def _uploads(size: float) -> int:
    """Requests that send a file to S3: one, or its parts and two that begin and end them."""
    return 1 if size < PART_BYTES else math.ceil(size / PART_BYTES) + 2


def read_rates(path: Path, profile: str) -> dict[str, Rate]:
    """The rates of a file for a profile: ``{"any": {name: {value, measured, source}}, "standard": {...}}``.

    Raises UsageError when the file holds something else.
    """
    try:
        content = json.loads(path.read_text())
        rates = {n: Rate(**r) for section in ("any", profile) for n, r in content.get(section, {}).items()}
        for name, rate in rates.items():
            if not (math.isfinite(rate.value) and rate.value > 0):
                raise ValueError(f"{name} is {rate.value}")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UsageError("no-rates", f"{path} holds no rates, as `make bench` writes them: {error}") from None
    return rates


def measured_in(store: Store) -> dict[str, Rate]:
    """Shares and sizes as what is done of a store's partitions has them; empty when no step has been run.

    A partition that is not finished counts with its finished shards. Manifests do not say on which machine a step ran,
    so that no rate follows from their seconds.
    """
    done = [steps for steps in funnel.sums(store).values() if steps]
    where = f"in what is done of {len(done)} partition{'s' * (len(done) != 1)} of {store.uri}"
    shares = {"download": "images_per_row", "detect": "people_per_image", "subset_a": "kept_per_person"}
    values: dict[str, float] = {}
    for name, entry in STEPS.items():
        of_partitions = [steps[name] for steps in done if name in steps]
        if not of_partitions or not (totals := added_up(of_partitions)).rows_in or not totals.rows:
            continue
        if name in shares:
            values[shares[name]] = totals.rows / totals.rows_in
        values[f"bytes:{entry.writes}"] = totals.bytes / (totals.rows if entry.written else totals.rows_in)
    return {name: Rate(value, True, where) for name, value in values.items()}


def to_json(plan: Plan) -> str:
    """The plan for programs."""
    totals = {amount: plan.total(amount) for amount in ("gpu_hours", "cpu_hours", "bytes")}
    return json.dumps(asdict(plan) | {"total": totals}, indent=1)


def format_plan(plan: Plan) -> str:
    """The plan for people: what is expected, hours by step, storage by table, requests, and where numbers are from."""
    sources = {(rate.measured, rate.source): 0 for rate in plan.rates.values()}
    sources = {source: number for number, source in enumerate(sources, 1)}

    def notes(*names: str) -> str:
        numbers = {sources[plan.rates[n].measured, plan.rates[n].source] for n in names}
        return " ".join(f"[{number}]" for number in sorted(numbers))

    rows = sum(plan.partitions.values())
    download = next(cost for cost in plan.steps if cost.step == "download")
    lines = [f"{len(plan.partitions)} partitions, profile {plan.profile}"] if len(plan.partitions) > 1 else []
    if len(plan.partitions) <= LISTED:
        lines += [f"{key}: {count:,} rows, profile {plan.profile}" for key, count in plan.partitions.items()]
    lines += [
        "",
        f"{'rows':12}{rows:>18,}   counted in the metadata",
        f"{'images':12}{plan.images:>18,.0f}   {notes('images_per_row')}",
        f"{'people':12}{plan.people:>18,.0f}   {notes('people_per_image')}",
        f"{'Subset A':12}{plan.kept:>18,.0f}   {notes('kept_per_person')}",
        "",
        f"{'step':12}{'reads':>18} {'':9}{'GPU-hours':>12}{'CPU-hours':>12}   table",
    ]
    for cost in plan.steps:
        written = f"{cost.table:12}{_size(cost.bytes):>10}" if cost.table else " " * 22
        lines.append(
            f"{cost.step:12}{cost.amount:>18,.0f} {cost.unit:9}{_hours(cost.gpu_hours):>12}{_hours(cost.cpu_hours):>12}"
            f"   {written}   {notes(*cost.rates)}"
        )
    lines += [
        f"{'total':40}{plan.total('gpu_hours'):>12,.1f}{plan.total('cpu_hours'):>12,.1f}"
        f"   {'':12}{_size(plan.total('bytes')):>10}",
        "",
        f"download: {rows:,} requests to the web, {(download.cpu_hours or 0) / MACHINE_CORES:,.1f} hours on a machine "
        f"of {MACHINE_CORES} cores",
        f"store, if it is S3: {plan.writes:,} writes (parts of 8 MiB), {plan.reads:,} reads at least",
        "",
    ]
    if plan.unknown:
        lines += [
            f"not in the totals, since the profile {plan.profile} has no rate of it: {', '.join(plan.unknown)}; "
            "what you have measured, give by --rates",
            "",
        ]
    for (measured, source), number in sources.items():
        used = [
            f"{n} {_number(r.value)}" for n, r in plan.rates.items() if (r.measured, r.source) == (measured, source)
        ]
        lines += [f"[{number}]".ljust(5) + ", ".join(used), f"     {'measured' if measured else 'assumed'}: {source}"]
    return "\n".join(lines)


def _hours(hours: float | None) -> str:
    return "no rate" if hours is None else f"{hours:,.1f}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _size(count: float | None) -> str:
    if count is None:
        return "no rate"
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"
