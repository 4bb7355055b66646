"""The schedule of the extracting DAG: a run for each partition that is announced, and Airflow's own backfill.

Airflow's backfills ask for dates, and its timetable for partitioned assets refuses them. This one gives partitions a
date.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, time
from typing import Any

from airflow.partition_mappers.identity import IdentityMapper
from airflow.timetables.base import DagRunInfo
from airflow.timetables.simple import PartitionedAssetTimetable
from airflow.utils.types import DagRunType

from laion_people.dates import partition_date
from laion_people.errors import LaionPeopleError


class PartitionDates(IdentityMapper):
    """Leaves a key as it is and gives it a date, which Airflow notes with every run of the key, whatever started it.

    ``first_days``: collection -> ISO date.
    """

    def __init__(self, first_days: Mapping[str, str], *, max_downstream_keys: int | None = None):
        super().__init__(max_downstream_keys=max_downstream_keys)
        self.first_days = dict(first_days)

    def to_partition_date(self, downstream_key: str) -> datetime | None:
        day = partition_date(downstream_key, self.first_days)
        return datetime.combine(day, time(), UTC) if day else None

    def serialize(self) -> dict[str, Any]:
        return super().serialize() | {"first_days": self.first_days}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> PartitionDates:
        return cls(data["first_days"], max_downstream_keys=data.get("max_downstream_keys"))


class PartitionTimetable(PartitionedAssetTimetable):
    """A run for each key of a partitioned asset; its ``default_partition_mapper`` is a PartitionDates.

    A backfill of a range of dates runs the partitions that have metadata in the store and a date in that range. For
    that, the store is read where backfills are made: by the API server and by ``airflow backfill create``.
    """

    periodic = True  # or Airflow offers no backfill
    description = "A run for each partition that is announced"

    @property
    def summary(self) -> str:
        return "Partitions"

    def iter_partition_dagrun_infos(self, *, earliest: datetime, latest: datetime) -> Iterator[DagRunInfo]:
        """The partitions from date ``earliest`` to ``latest`` in order.

        Raises InvalidBackfillDate, which the form shows, with what is wrong with the store or the settings.
        """
        from airflow.models.backfill import InvalidBackfillDate

        from laion_people.storage import metadata
        from laion_people.storage.store import deployment_uri, open_store

        try:
            known = metadata.partitions(open_store(deployment_uri()))
        except LaionPeopleError as error:
            raise InvalidBackfillDate(str(error)) from error
        dates = {key: self.default_partition_mapper.to_partition_date(key) for key in known}
        now = datetime.now(UTC)  # not the date, which the UI would sort the runs by
        for day, key in sorted((day, key) for key, day in dates.items() if day and earliest <= day <= latest):
            yield DagRunInfo(run_after=now, data_interval=None, partition_date=day, partition_key=key)

    def generate_run_id(self, *, run_type: DagRunType, run_after: datetime, **extra: Any) -> str:
        """Airflow's own ids have only the time, which all runs of a backfill share."""
        if not (key := extra.get("partition_key")):
            return super().generate_run_id(run_type=run_type, run_after=run_after, **extra)
        return f"{run_type.value}__{key.replace('/', '.')}__{run_after.isoformat()}"
