"""What partitions will cost, told before anything is launched."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from laion_people.cli import main
from laion_people.engine.catalog import STEPS
from laion_people.errors import UsageError
from laion_people.reports import capacity
from laion_people.reports.capacity import Rate, estimate, format_plan, measured_in, plan, read_rates
from laion_people.settings import Settings
from laion_people.storage.store import LocalStore, open_store
from tests.s3 import moto_server
from tests.synthetic_store import make_store

PAGE = Path(__file__).parent.parent / "docs" / "capacity.md"
STANDARD = Settings(profile="standard")


def put_metadata(store: LocalStore, partition: str, rows: int) -> None:
    collection, part = partition.split("/")
    with store.writer(f"metadata/{collection}/part-{part}-x.parquet") as path:
        pq.write_table(pa.table({"url": ["u"] * rows, "caption": ["c"] * rows}), path)


def rates(**values: float) -> dict[str, Rate]:
    """The packaged rates, with some replaced; ``_`` stands for the colon in a name."""
    replaced = {name.replace("_", ":", 1): Rate(value, True, "a test") for name, value in values.items()}
    return read_rates(capacity.RATES, "standard") | replaced


def cost(planned: capacity.Plan, step: str) -> capacity.Cost:
    return next(cost for cost in planned.steps if cost.step == step)


def test_rows_become_images_people_and_hours() -> None:
    known = rates(gpu_pose=100, cpu_pose=10, bytes_pose=500) | {
        "images_per_row": Rate(0.5, True, "a test"),
        "people_per_image": Rate(2.0, True, "a test"),
    }
    planned = estimate({"a/00000": 600_000, "a/00001": 120_000}, STANDARD, known)
    assert (planned.images, planned.people) == (360_000, 720_000)
    pose = cost(planned, "pose")
    assert (pose.gpu_hours, pose.cpu_hours, pose.bytes) == (2, 20, 360_000_000)
    assert planned.total("gpu_hours") == sum(c.gpu_hours for c in planned.steps)


@pytest.mark.parametrize("profile", ["packaged", "standard", "wholebody", "large", "vlm"])
def test_every_step_has_a_rate_for_every_profile(profile: str) -> None:
    planned = estimate({"a/0": 1000}, Settings(profile=profile, describe=True), read_rates(capacity.RATES, profile))
    assert {c.step for c in planned.steps} == STEPS.keys() - {"label"}
    on_gpu = {name for name, entry in STEPS.items() if entry.pool == "gpu"}
    unmeasured = {"describe"} if profile == "vlm" else set()  # nobody has published how fast its captioner is
    assert {rate.partition(":")[2] for rate in planned.unknown} == unmeasured
    assert {c.step for c in planned.steps if c.gpu_hours} == (set() if profile == "packaged" else on_gpu - unmeasured)
    assert all(c.cpu_hours for c in planned.steps if c.step not in unmeasured)


def test_a_fit_looks_at_no_more_people_than_the_setting_says() -> None:
    few, many = (estimate({"a/0": rows}, STANDARD, rates()) for rows in (10_000_000, 100_000_000))
    assert cost(few, "cluster").cpu_hours == cost(many, "cluster").cpu_hours


def test_describe_is_counted_only_where_it_is_run() -> None:
    assert "describe" not in {c.step for c in estimate({"a/0": 9}, STANDARD, rates()).steps}


def test_a_plan_reads_the_footer_of_each_part_and_nothing_else(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_metadata(store, "a/00000", 70)
    put_metadata(store, "a/00001", 30)
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", None)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", None)
    assert plan(store, ["a/00001", "a/00000", "a/00001"], STANDARD).partitions == {"a/00001": 30, "a/00000": 70}


def test_metadata_may_lie_on_s3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    put_metadata(LocalStore(tmp_path), "a/00042", 12)
    with moto_server() as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        store = open_store("s3://bucket/people")
        store.client.create_bucket(Bucket="bucket")
        store.write("metadata/a/part-00042-x.parquet", (tmp_path / "metadata/a/part-00042-x.parquet").read_bytes())
        assert plan(store, ["a/00042"], STANDARD).partitions == {"a/00042": 12}


def test_a_partition_without_metadata_is_one_readable_line(
    store: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    put_metadata(store, "a/00000", 3)
    assert main(["plan", "a/00000", "a/00007", "--store", store.uri, "--profile", "standard"]) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1
    assert "no metadata for partition a/00007" in output.err


def test_what_the_store_has_replaces_assumptions(store: LocalStore) -> None:
    make_store(store, "a/00000")
    rates = measured_in(store)
    people = pq.read_table(store.root / "people/a/00000/00000.parquet")
    assert rates["images_per_row"].value == pytest.approx(30 / 39)
    assert rates["people_per_image"].value == pytest.approx(len(people) / 30)
    table = store.size("pose/a/00000/00000.parquet")
    assert rates["bytes:pose"].value == pytest.approx(table / len(people))
    subset_a = pq.read_table(store.root / "subset_a/a/00000/00000.parquet")
    assert rates["kept_per_person"].value == pytest.approx(len(subset_a) / len(people))
    assert {(rate.measured, rate.source) for rate in rates.values()} == {
        (True, f"in what is done of 1 partition of {store.uri}")
    }


def test_sizes_of_a_partition_are_those_that_a_plan_of_it_tells(store: LocalStore) -> None:
    make_store(store, "a/00000")
    told = {c.table: c.bytes for c in plan(store, ["a/00000"], STANDARD).steps}
    for table in ("people", "pose", "subset_a"):
        assert told[table] == pytest.approx(store.size(f"{table}/a/00000/00000.parquet"))


def test_a_store_where_nothing_was_run_measures_nothing(store: LocalStore) -> None:
    put_metadata(store, "a/00000", 3)
    assert measured_in(store) == {}


def test_a_file_of_rates_wins_over_assumptions_and_only_for_its_profile(store: LocalStore, tmp_path: Path) -> None:
    put_metadata(store, "a/00000", 39)
    given = {"value": 0.25, "measured": True, "source": "my bench"}
    file = tmp_path / "rates.json"
    file.write_text(json.dumps({"any": {"images_per_row": given}, "large": {"gpu:pose": given}}))
    planned = plan(store, ["a/00000"], STANDARD, file)
    assert planned.rates["images_per_row"] == Rate(0.25, True, "my bench")
    assert planned.rates["gpu:pose"].value != 0.25
    assert plan(store, ["a/00000"], Settings(profile="large"), file).rates["gpu:pose"].value == 0.25


def test_what_the_store_has_wins_over_a_file_of_rates(store: LocalStore, tmp_path: Path) -> None:
    make_store(store, "a/00000")
    given = {"value": 0.25, "measured": True, "source": "my bench"}
    file = tmp_path / "rates.json"
    file.write_text(json.dumps({"any": {"images_per_row": given, "cpu:pose": given}}))
    rates = plan(store, ["a/00000"], Settings(profile="packaged"), file).rates
    assert rates["images_per_row"].value == pytest.approx(30 / 39)
    assert rates["cpu:pose"] == Rate(**given)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"any": []}',
        '{"any": {"gpu:pose": 3}}',
        '{"any": {"gpu:pose": {"value": 3}}}',
        '{"any": {"gpu:pose": {"value": 0, "measured": true, "source": ""}}}',
        '{"any": {"gpu:pose": {"value": "3", "measured": true, "source": ""}}}',
    ],
)
def test_a_file_without_rates_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "rates.json"
    file.write_text(content)
    with pytest.raises(UsageError, match=r"rates\.json .*\[no-rates\]$"):
        read_rates(file, "standard")


def test_a_role_without_a_rate_is_named_and_the_others_are_planned() -> None:
    settings = Settings(profile="vlm", describe=True)
    planned = estimate({"a/0": 1_000_000}, settings, read_rates(capacity.RATES, "vlm"))
    assert planned.unknown == ("cpu:describe", "gpu:describe")
    standard = estimate({"a/0": 1_000_000}, STANDARD, rates())
    assert [c for c in planned.steps if c.step != "describe"] == list(standard.steps)
    assert (cost(planned, "describe").gpu_hours, cost(planned, "describe").cpu_hours) == (None, None)
    assert planned.total("cpu_hours") == standard.total("cpu_hours")
    text = format_plan(planned)
    assert re.search(r"^describe +402,000 people +no rate +no rate +subset_d ", text, re.MULTILINE)
    assert "\nnot in the totals, since the profile vlm has no rate of it: cpu:describe, gpu:describe; " in text
    assert "no rate" not in format_plan(standard)
    given = {f"{device}:describe": Rate(2.0, True, "a test") for device in ("cpu", "gpu")}
    measured = estimate({"a/0": 1_000_000}, settings, read_rates(capacity.RATES, "vlm") | given)
    assert measured.unknown == () and cost(measured, "describe").gpu_hours == 402_000 / 2 / 3600


def test_a_profile_of_ones_own_is_planned_as_far_as_it_goes() -> None:
    planned = estimate({"a/0": 10_000}, Settings(profile="mine"), read_rates(capacity.RATES, "mine"))
    assert {"cpu:detect", "cpu:pose", "cpu:clip_filter", "cpu:embed", "bytes:vectors"} <= set(planned.unknown)
    assert cost(planned, "mesh").cpu_hours and cost(planned, "detect").cpu_hours is None
    assert cost(planned, "embed").bytes is None and "vectors        no rate" in format_plan(planned)
    json.loads(capacity.to_json(planned))


def test_every_number_says_whether_it_was_measured() -> None:
    planned = estimate({"a/0": 10_000}, STANDARD, rates(gpu_pose=321))
    text = format_plan(planned)
    notes = re.findall(r"^\[\d+\] +(.+)\n +(?:measured|assumed): \S", text, re.MULTILINE)
    assert sorted(rate.split()[0] for note in notes for rate in note.split(", ")) == sorted(planned.rates)
    assert re.search(r"gpu:pose 321\n +measured: a test", text)
    for line in text.splitlines():
        if line.startswith(tuple(f"{step} " for step in STEPS)):
            assert re.search(r"\[\d+\]$", line), line


def test_large_files_go_up_in_parts() -> None:
    small, large = (estimate({"a/0": 20_000}, STANDARD, rates(bytes_mesh=size)) for size in (100, 4000))
    file = 4000 * large.people / 2  # of each of two shards: more than 8 MiB, less than 16
    assert 8 << 20 < file < 16 << 20
    assert large.writes - small.writes == 2 * 3  # two parts, the beginning and the end, in place of one request


def test_nothing_to_do_costs_nothing() -> None:
    planned = estimate({"a/0": 0}, STANDARD, rates())
    assert planned.total("gpu_hours") == planned.total("bytes") == planned.writes == 0
    format_plan(planned)


def test_json_holds_the_totals(store: LocalStore, capsys: pytest.CaptureFixture[str]) -> None:
    put_metadata(store, "a/00000", 5000)
    assert main(["plan", "a/00000", "--store", store.uri, "--profile", "standard", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["partitions"] == {"a/00000": 5000}
    assert told["total"]["gpu_hours"] == pytest.approx(sum(step["gpu_hours"] for step in told["steps"]))


@pytest.mark.parametrize("partitions", [1, 128])
def test_the_page_shows_what_the_code_says(partitions: int) -> None:
    rows = {f"laion2B-en/{i:05d}": 18_125_000 for i in range(partitions)}
    planned = estimate(rows, STANDARD, read_rates(capacity.RATES, "standard"))
    assert f"```\n{format_plan(planned)}\n```" in PAGE.read_text()
