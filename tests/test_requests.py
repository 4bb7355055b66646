"""What a store of many shards costs: counted in requests to a bucket for each further shard (docs/architecture.md)."""

from __future__ import annotations

from pathlib import Path

import pytest

from laion_people.engine.audit import audit
from laion_people.engine.catalog import PARTITION_STEPS
from laion_people.engine.runner import Runner
from laion_people.engine.stages import progress, unfinished
from laion_people.settings import Settings
from laion_people.steps.registry import STEPS
from laion_people.storage.store import open_store
from tests.bucket import Bucket, bucket
from tests.counting import CountingStore
from tests.fakes import FakeModels, image_shard

PARTITION = "laion2B-en/00042"
EXTRACT = ("detect", "pose", "mesh", "clip_filter")  # facts and subset_a follow
CAPTION = ("assign", "compose", "embed", "caption", "describe")
FEW, MANY = 2, 6  # shards


def runner(store: CountingStore) -> Runner:
    return Runner(store, Settings(composites=1), FakeModels(), STEPS)


class Counts:
    """Requests of each piece of work on stores of FEW and of MANY shards."""

    def __init__(self, folder: Path):
        self.counted: dict[tuple[str, int], list[tuple[str, str]]] = {}
        for shards in (FEW, MANY):
            store = CountingStore(folder / str(shards))
            for index in range(shards):
                image_shard(store, PARTITION, index)
            self._work(store, shards)

    def per_shard(self, work: str) -> float:
        return (len(self.counted[work, MANY]) - len(self.counted[work, FEW])) / (MANY - FEW)

    def read(self, work: str) -> set[str]:
        """The tables whose files were read."""
        return {path.split("/")[0] for kind, path in self.counted[work, MANY] if kind == "get"}

    def _work(self, store: CountingStore, shards: int) -> None:
        def count(work: str) -> None:
            self.counted[work, shards] = store.paths
            store.paths = []

        store.paths = []
        some = list(range(shards))
        for step in EXTRACT:
            runner(store).run(step, PARTITION, some)
            count(step)
        store.delete(f"people/{PARTITION}/00001.parquet")
        store.paths = []
        runner(store).run("detect", PARTITION, [1])
        count("late")
        assert audit(runner(store), PARTITION, "extract") == []
        count("audit extract")
        assert not any(unfinished(runner(store).planner, PARTITION, "extract").values())
        count("plan of an audited partition")
        assert progress(runner(store).planner)["extracted"] == []  # it has no metadata
        count("progress")
        runner(store).run_release("cluster", [PARTITION])
        count("cluster")
        assert runner(store).run_release("cluster", [PARTITION]).partition == "v0001"
        count("cluster again")
        runner(store).run_release("label", [PARTITION])
        count("label")
        for step in CAPTION:
            runner(store).run(step, PARTITION, some)
            count(step)
        assert audit(runner(store), PARTITION, "caption") == []
        count("audit caption")
        assert audit(runner(store), PARTITION, "extract", deep=True) == []
        count("deep")


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> Counts:
    return Counts(tmp_path_factory.mktemp("stores"))


@pytest.mark.parametrize("step", [*EXTRACT, *CAPTION])
def test_a_step_asks_ten_times_a_shard_at_most(counts: Counts, step: str) -> None:
    assert 0 < counts.per_shard(step) <= 10


def test_an_audit_asks_fourteen_times_a_shard_at_most_and_reads_no_file_of_it(counts: Counts) -> None:
    for work in ("audit extract", "audit caption"):
        assert 0 < counts.per_shard(work) <= 14
        assert counts.read(work) <= {"manifests", "totals", "clusters"}
    assert counts.read("deep") >= {"images", "people", "pose", "mesh", "facts", "clip", "subset_a"}


@pytest.mark.parametrize("work", ["late", "progress", "plan of an audited partition", "cluster again", "label"])
def test_what_others_have_finished_costs_nothing(counts: Counts, work: str) -> None:
    assert counts.per_shard(work) <= 0.3


def test_clustering_costs_nothing_per_shard_until_it_reads_its_sample(counts: Counts) -> None:
    bookkeeping = [
        sum(path.split("/")[0] in ("manifests", "totals") for _, path in counts.counted["cluster", shards])
        for shards in (FEW, MANY)
    ]
    assert bookkeeping[0] == bookkeeping[1]


def test_label_hashes_the_fit_once(counts: Counts) -> None:
    """And reads it once more."""
    assert counts.counted["label", MANY].count(("get", "clusters/v0001/fit.json")) == 2


def test_every_step_is_counted() -> None:
    assert {*EXTRACT, *CAPTION, "download", "facts", "subset_a"} == set(PARTITION_STEPS)


def test_a_bucket_is_asked_as_seldom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The counts above are a model of S3; these are requests that boto3 really sends."""
    for name, value in (("ACCESS_KEY_ID", "none"), ("SECRET_ACCESS_KEY", "none"), ("DEFAULT_REGION", "none")):
        monkeypatch.setenv(f"AWS_{name}", value)
    counted: dict[tuple[str, int], int] = {}
    for shards in (FEW, MANY):
        with bucket(tmp_path / str(shards)) as served:
            monkeypatch.setenv("AWS_ENDPOINT_URL", served.url)
            store = open_store("s3://bucket/prefix")
            for index in range(shards):
                image_shard(store, PARTITION, index)

            def count(work: str, shards: int = shards, served: Bucket = served) -> None:
                counted[work, shards] = served.requests()
                served.counts.clear()

            served.counts.clear()
            for step in EXTRACT:
                Runner(store, Settings(), FakeModels(), STEPS).run(step, PARTITION, list(range(shards)))
                count(step)
            assert audit(Runner(store, Settings(), FakeModels(), STEPS), PARTITION, "extract") == []
            count("audit")
    per_shard = {work: (counted[work, MANY] - counted[work, FEW]) / (MANY - FEW) for work in (*EXTRACT, "audit")}
    assert all(0 < per_shard[step] <= 10 for step in EXTRACT), per_shard
    assert 0 < per_shard["audit"] <= 14, per_shard
