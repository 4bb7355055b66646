"""The schedule of the extracting DAG: the dates that Airflow's own backfill asks for."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.models.backfill import InvalidBackfillDate
from airflow.serialization.serialized_objects import DagSerialization
from airflow.timetables import trigger
from airflow.timetables.base import TimeRestriction
from airflow.utils.types import DagRunType

from laion_people.dates import FIRST_DAYS
from laion_people.errors import LaionPeopleError
from laion_people.orchestration.tasks import METADATA
from laion_people.orchestration.timetables import PartitionDates, PartitionTimetable
from laion_people.storage.store import LocalStore
from tools.local_airflow import ROOT

PARTS = ("laion2B-en/00041", "laion2B-en/00042", "laion2B-en/00044", "laion2B-multi/00042", "mine/00042")


@pytest.fixture
def timetable() -> PartitionTimetable:
    return PartitionTimetable(assets=METADATA, default_partition_mapper=PartitionDates(FIRST_DAYS))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for key in PARTS:
        collection, _, part = key.partition("/")
        path = tmp_path / "metadata" / collection / f"part-{part}-0-c000.snappy.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.setenv("LAION_PEOPLE_STORE", str(tmp_path))
    return tmp_path


def keys(timetable: PartitionTimetable, first: str, last: str) -> list[str]:
    earliest, latest = (datetime.fromisoformat(day).replace(tzinfo=UTC) for day in (first, last))
    infos = timetable.iter_partition_dagrun_infos(earliest=earliest, latest=latest)
    return [info.partition_key for info in infos if info.partition_key]


@pytest.mark.usefixtures("store")
def test_a_range_of_dates_is_the_parts_of_one_collection_that_have_metadata(timetable: PartitionTimetable) -> None:
    assert keys(timetable, "2001-02-12", "2001-02-20") == ["laion2B-en/00042", "laion2B-en/00044"]
    assert keys(timetable, "2002-02-12", "2002-02-12") == ["laion2B-multi/00042"]
    assert keys(timetable, "2001-01-01", "2001-01-31") == []
    assert keys(timetable, "1900-01-01", "2100-01-01") == list(PARTS[:4])  # a collection without a first day has none


@pytest.mark.usefixtures("store")
def test_a_run_of_a_backfill_has_the_date_that_its_key_has_elsewhere(timetable: PartitionTimetable) -> None:
    [info] = timetable.iter_partition_dagrun_infos(
        earliest=datetime(2002, 2, 12, tzinfo=UTC), latest=datetime(2002, 2, 12, tzinfo=UTC)
    )
    assert (
        info.partition_date == timetable.resolve_partition_date(info.partition_key) == datetime(2002, 2, 12, tzinfo=UTC)
    )
    assert info.run_after <= datetime.now(UTC) and info.logical_date is None


@pytest.mark.usefixtures("store")
def test_runs_of_a_backfill_have_ids_of_their_own_each_time(timetable: PartitionTimetable) -> None:
    def ids() -> list[str]:
        infos = timetable.iter_partition_dagrun_infos(
            earliest=datetime(2001, 1, 1, tzinfo=UTC), latest=datetime(2003, 1, 1, tzinfo=UTC)
        )
        given = [
            {"run_after": info.run_after, "data_interval": info.data_interval, "partition_key": info.partition_key}
            for info in infos
        ]
        return [timetable.generate_run_id(run_type=DagRunType.BACKFILL_JOB, **one) for one in given]

    made = ids() + ids()
    assert len(set(made)) == 8
    assert all("/" not in run_id for run_id in made)


@pytest.mark.parametrize("key", ["", "laion2B-en", "laion2B-en/42", "laion2B-en/00400", "mine/00042", "../00042"])
def test_any_other_key_is_a_run_without_a_date(timetable: PartitionTimetable, key: str) -> None:
    assert timetable.resolve_partition_date(key) is None


def test_a_store_that_fails_is_said_and_makes_no_runs(
    timetable: PartitionTimetable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(store: LocalStore, folder: str) -> list[str]:
        raise LaionPeopleError("store-away", f"{store.uri}/{folder}: Permission denied")

    monkeypatch.setattr(LocalStore, "list", fails)
    with pytest.raises(InvalidBackfillDate, match=r"/metadata: .*\[store-away\]$"):
        keys(timetable, "2001-01-01", "2001-12-31")


def test_airflow_reads_the_schedule_back_as_the_dag_file_has_it() -> None:
    from airflow.sdk import DAG

    days = {"mine": "2015-01-01"}
    schedule = PartitionTimetable(assets=METADATA, default_partition_mapper=PartitionDates(days))
    dag = DagSerialization.from_dict(DagSerialization.to_dict(DAG("d", schedule=schedule)))
    assert isinstance(dag.timetable, PartitionTimetable) and dag.timetable.periodic and dag.timetable.partitioned
    assert dag.timetable.resolve_partition_date("mine/00031") == datetime(2015, 2, 1, tzinfo=UTC)
    assert dag.timetable.get_partition_mapper(name=METADATA.name).to_downstream("mine/00031") == "mine/00031"


def test_a_new_airflow_waits_for_its_first_hour_of_discovery(monkeypatch: pytest.MonkeyPatch) -> None:
    (dag,) = DagBag(ROOT / "dags" / "laion_people_discover.py").dags.values()
    timetable = DagSerialization.from_dict(DagSerialization.to_dict(dag)).timetable
    monkeypatch.setattr(trigger, "utcnow", lambda: datetime(2026, 1, 1, 3, 1, tzinfo=UTC))
    never = TimeRestriction(earliest=None, latest=None, catchup=False)
    info = timetable.next_dagrun_info(last_automated_data_interval=None, restriction=never)
    assert info.run_after == datetime(2026, 1, 2, 3, tzinfo=UTC)
