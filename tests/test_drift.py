"""Partitions that are unlike the others of their collection are flagged, told once, and fail nothing."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pytest

from laion_people import cli
from laion_people.cli import main
from laion_people.engine.runner import Runner
from laion_people.reports import drift
from laion_people.reports.drift import flags, news, record
from laion_people.settings import Settings
from laion_people.steps.registry import STEPS
from laion_people.storage.layout import manifest_path
from laion_people.storage.manifest import PartitionManifest, ShardEntry
from laion_people.storage.store import LocalStore
from tests.fakes import FakeModels, image_shard
from tests.synthetic_store import change_manifest, make_store


def extracted(
    store: LocalStore,
    part: int,
    *,
    downloaded: int | None = 600,
    people: int = 400,
    similarity: float | Sequence[float] = 0.3,
    collection: str = "c",
    detector: str = "d",
    clip: str = "m",
) -> str:
    """A partition of 1000 rows of metadata and 1000 images as its manifests have it; a similarity for each shard."""
    partition = f"{collection}/{part:05d}"
    similarities = similarity if isinstance(similarity, Sequence) else [similarity]
    entries = []
    for index, value in enumerate(similarities):
        path = f"clip/{partition}/{index:05d}.parquet"
        with store.writer(path) as file:
            pa.parquet.write_table(pa.table({"similarity": pa.array([value] * 10, pa.float32())}), file)
        entries.append(ShardEntry(index, path, 10, 0, ""))
    rows = {"detect": (1000, people, {detector: "0" * 64}), "clip_filter": (10, 10, {clip: "0" * 64})}
    if downloaded is not None:
        rows["download"] = (1000, downloaded, {})
    for step, (rows_in, given, models) in rows.items():
        manifest = PartitionManifest(
            step=step,
            partition=partition,
            run_id="run",
            params={},
            inputs=(),
            models=models,
            shards=tuple(entries),
            rows_in=rows_in,
            rows=given,
        )
        store.write(manifest_path(step, partition), manifest.to_json())
    record(store, partition)
    return partition


def test_the_statistics_are_shares_of_what_the_steps_read(store: LocalStore) -> None:
    make_store(store, images=40)
    change_manifest(store, "clip_filter", "demo/00000", models={})
    statistics = record(store, "demo/00000")
    manifests = {
        step: PartitionManifest.from_json(store.read(manifest_path(step, "demo/00000")))
        for step in ("download", "detect")
    }
    assert statistics.download_success == 40 / 49
    assert statistics.people_per_image == manifests["detect"].rows / 40
    assert statistics.similarity == pytest.approx(0.27, abs=0.06)


def test_a_partition_that_lost_its_downloads_is_flagged_with_its_numbers(store: LocalStore) -> None:
    for part in range(10):
        extracted(store, part, downloaded=600 + part)
    extracted(store, 11, downloaded=310)
    [(partition, [sentence])] = flags(store).items()
    assert partition == "c/00011"
    assert sentence.startswith(
        "download success is 31.0%, usual for the 11 partitions of c is 54.4% to 66.4% (median 60.4%)"
    )
    assert "see what download rejected" in sentence


@pytest.mark.parametrize(
    ("unlike", "says"),
    [({"people": 900}, "people per image is 0.900"), ({"similarity": 0.2}, "mean similarity is 0.2000")],
)
def test_more_people_or_less_similarity_than_usual_is_flagged(
    store: LocalStore, unlike: dict[str, float], says: str
) -> None:
    for part in range(6):
        extracted(store, part)
    extracted(store, 6, **unlike)  # type: ignore[arg-type]
    assert [told[0].startswith(says) for told in flags(store).values()] == [True]


def test_what_varies_much_anyway_is_not_flagged(store: LocalStore) -> None:
    for part, downloaded in enumerate((400, 500, 600, 700, 800, 350)):
        extracted(store, part, downloaded=downloaded)
    assert flags(store) == {}


def test_a_small_difference_among_partitions_that_are_all_alike_is_not_flagged(store: LocalStore) -> None:
    for part in range(9):
        extracted(store, part, people=400)
    extracted(store, 9, people=430, similarity=0.29)
    assert flags(store) == {}


def test_few_partitions_are_not_compared(store: LocalStore) -> None:
    for part in range(drift.MIN_PARTITIONS - 1):
        extracted(store, part, downloaded=100 if part == 0 else 600)
    assert flags(store) == {}
    extracted(store, 9)
    assert list(flags(store)) == ["c/00000"]


def test_only_like_is_compared_with_like(store: LocalStore) -> None:
    for part in range(6):
        extracted(store, part)
    extracted(store, 0, collection="other", downloaded=100)
    extracted(store, 7, clip="another", similarity=0.1)
    extracted(store, 8, detector="another", people=900)
    assert flags(store) == {}


def test_images_made_elsewhere_have_no_download_to_compare(store: LocalStore) -> None:
    for part in range(6):
        extracted(store, part, downloaded=None)
    assert flags(store) == {}


def test_similarity_is_read_from_a_bounded_spread_of_shards_that_stays_the_same(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    read_columns = drift.columns
    monkeypatch.setattr(
        drift, "columns", lambda store, path, names: read.append(path) or read_columns(store, path, names)
    )
    values = [i / 100 for i in range(40)]
    for _ in range(2):
        extracted(store, 0, similarity=values)
    first, second = sorted(read[: drift.SAMPLED_SHARDS]), sorted(read[drift.SAMPLED_SHARDS :])
    assert first == second
    stretches = [int(path[-13:-8]) // (40 // drift.SAMPLED_SHARDS) for path in first]
    assert stretches == list(range(drift.SAMPLED_SHARDS))
    assert record(store, "c/00000").similarity == pytest.approx(0.195, abs=0.03)


def test_a_flag_is_news_once_and_again_after_it_was_gone(store: LocalStore) -> None:
    for part in range(6):
        extracted(store, part)
    extracted(store, 6, downloaded=100)
    assert list(news(store)) == ["c/00006"]
    assert news(store) == {}
    extracted(store, 6, downloaded=100)  # audited again
    assert news(store) == {} and list(flags(store)) == ["c/00006"]
    extracted(store, 6)
    assert news(store) == {}
    extracted(store, 6, downloaded=100)
    assert list(news(store)) == ["c/00006"]


def test_telling_leaves_the_numbers_of_other_audits_alone(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another partition's audit may end between the reading of all statistics and the end of the telling."""
    for part in range(6):
        extracted(store, part)
    extracted(store, 6, downloaded=100)
    flagged = drift._flagged

    def meanwhile(statistics: Mapping[str, drift.Statistics]) -> dict[str, dict[str, str]]:
        extracted(store, 6)
        return flagged(statistics)

    monkeypatch.setattr(drift, "_flagged", meanwhile)
    assert list(news(store)) == ["c/00006"]
    assert json.loads(store.read("statistics/c/00006.json"))["download_success"] == 0.6


def test_what_was_told_is_told_again_when_its_file_is_damaged(
    store: LocalStore, caplog: pytest.LogCaptureFixture
) -> None:
    for part in range(6):
        extracted(store, part)
    extracted(store, 6, downloaded=100)
    news(store)
    for damaged in (b"[", b"7", b"[" * 100_000):
        store.write("notified/c/00006.json", damaged)
        assert list(news(store)) == ["c/00006"]
        assert news(store) == {}
    assert len(caplog.records) == 3


def test_a_share_is_never_said_to_be_more_than_all(store: LocalStore) -> None:
    for part in range(10):
        extracted(store, part, downloaded=960)
    extracted(store, 11, downloaded=310)
    [[sentence]] = flags(store).values()
    assert "is 86.4% to 100.0% (median 96.0%)" in sentence


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b": 0.6", b': "x"'), (b": 0.6", b": NaN"), (b": 0.6", b": 1" + b"0" * 400),
        (b'"c/00002"', b"[]"), (b'"c/00002"', b"7"), (b"{", b"[" * 100_000),
    ],
)  # fmt: skip
def test_statistics_that_are_none_are_damaged_too(store: LocalStore, old: bytes, new: bytes) -> None:
    for part in range(6):
        extracted(store, part)
    extracted(store, 6, downloaded=100)
    before = store.read("statistics/c/00002.json")
    assert old in before
    store.write("statistics/c/00002.json", before.replace(old, new, 1))
    assert list(flags(store)) == ["c/00006"]


def test_damaged_statistics_are_left_out_and_said_once(store: LocalStore, caplog: pytest.LogCaptureFixture) -> None:
    for part in range(6):
        extracted(store, part)
    extracted(store, 6, downloaded=100)
    store.write("statistics/c/00002.json", b"{")
    with caplog.at_level(logging.WARNING):
        assert list(flags(store)) == list(flags(store)) == ["c/00006"]
    assert [r.getMessage() for r in caplog.records] == [
        "statistics/c/00002.json is damaged (JSONDecodeError('Expecting property name enclosed in double quotes: "
        "line 1 column 2 (char 1)')): audit its partition again [damaged-sums]"
    ]


def test_files_that_have_not_changed_are_not_read_again(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in range(6):
        extracted(store, part)
    flags(store)
    read: list[str] = []
    monkeypatch.setattr(store, "read", lambda path: read.append(path) or type(store).read(store, path))
    flags(store)
    assert read == []


def test_status_tells_the_flags(store: LocalStore, capsys: pytest.CaptureFixture[str]) -> None:
    for part in range(6):
        extracted(store, part)
    extracted(store, 6, downloaded=100)
    assert main(["status", "c/00006", "--json", "--store", store.uri]) == 0
    assert list(json.loads(capsys.readouterr().out)["drift"]) == ["c/00006"]
    assert main(["status", "c/00000", "--json", "--store", store.uri]) == 0
    assert json.loads(capsys.readouterr().out)["drift"] == {}


def test_the_extract_audit_leaves_the_funnel_and_the_flags_in_its_log(
    store: LocalStore, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "_runner", lambda args: runner)
    runner = Runner(store, Settings(), FakeModels(), STEPS)
    image_shard(store, "c/00042", 0)
    for step in ("detect", "pose", "mesh", "clip_filter"):
        runner.run(step, "c/00042")
    for part in range(6):
        extracted(store, part, downloaded=None, people=90, detector="fake-detector")
    assert main(["audit", "c/00042"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out).keys() == {"manifests", "rows", "shards"}
    assert re.search(r"images made elsewhere +12  █+\n +images with people +\d+ .*lost \d no_people", err, re.S)
    assert re.search(r"^drift c/00042: people per image is \d", err, re.M)
