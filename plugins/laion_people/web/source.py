"""What the pages read: the store of the deployment, its totals, and Airflow's runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial
from urllib.parse import quote

from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from sqlalchemy import func, select

from laion_people.engine.catalog import RELEASE_STEPS
from laion_people.errors import LaionPeopleError
from laion_people.reports import drift
from laion_people.reports.funnel import shards_so_far
from laion_people.storage import metadata
from laion_people.storage.layout import ClusterVersion
from laion_people.storage.store import Store, deployment_uri, open_store
from laion_people.storage.totals import Totals, TotalsReader
from laion_people.web.auth import CAPTION, DAGS, EXTRACT

Read = Mapping[str, Mapping[str, Totals]]  # by partition (or cluster version) and step


@dataclass(frozen=True, slots=True)
class Run:
    """A DAG run of a partition; ``path`` is its page in Airflow's UI."""

    dag_id: str
    run_id: str
    partition: str
    state: str
    queued: datetime | None

    @property
    def path(self) -> str:
        return f"/dags/{quote(self.dag_id, safe='')}/runs/{quote(self.run_id, safe='')}"


@dataclass(frozen=True, slots=True)
class State:
    """The totals by partition (or cluster version) and step; the keys of all partitions, those with metadata and those
    of which something has been made; sentences on partitions that are unlike their collection; and, by partition and
    step, how many shards are finished of what no audit has counted yet."""

    totals: Read
    partitions: Sequence[str]
    flags: Mapping[str, Sequence[str]]
    so_far: Mapping[str, Mapping[str, int]]

    @property
    def versions(self) -> Sequence[str]:
        """The cluster versions, newest first."""
        names = [ClusterVersion(key) for key, steps in self.totals.items() if "cluster" in steps]
        return sorted(names, key=lambda version: version.number, reverse=True)


def store() -> Store:
    """The store of the deployment's settings. Raises UsageError when they are wrong."""
    return _open(deployment_uri())


def totals() -> Read:
    """The totals by partition (or cluster version) and step. Only files that have changed are read."""
    return _shared(store()).read()


def state() -> State:
    """What pages about partitions start from, asked for all at once: a bucket takes its time for each answer."""
    place = store()
    with ThreadPoolExecutor(3) as pool:
        reading = pool.submit(totals)
        flags = pool.submit(drift.flags, place)
        keys = pool.submit(metadata.partitions, place)
        so_far = shards_so_far(place, reading.result())
        made = {key for key, steps in reading.result().items() if not steps.keys() <= set(RELEASE_STEPS)}
        everything = sorted(made | so_far.keys() | keys.result().keys())
        return State(reading.result(), everything, flags.result(), so_far)


def latest_runs() -> dict[tuple[str, str], Run]:
    """The newest run of each DAG and partition that ever had one."""
    newest = (
        select(func.max(DagRun.id))
        .where(DagRun.dag_id.in_((EXTRACT, CAPTION)), DagRun.partition_key.is_not(None))
        .group_by(DagRun.dag_id, DagRun.partition_key)
    )
    return {(run.dag_id, run.partition): run for run in _runs(DagRun.id.in_(newest))}


def runs_of(partition: str, run_ids: Iterable[str] = ()) -> list[Run]:
    """The runs of our DAGs on a partition, and those with these ids, newest first."""
    wanted = (DagRun.partition_key == partition) | DagRun.run_id.in_(tuple(run_ids))
    return _runs(DagRun.dag_id.in_(DAGS) & wanted)


def partition_of(dag_id: str, run_id: str) -> str | None:
    """The partition key of a run; None when there is no such run or it has none."""
    runs = _runs((DagRun.dag_id == dag_id) & (DagRun.run_id == run_id))
    return runs[0].partition or None if runs else None


def _runs(condition: object) -> list[Run]:
    columns = (DagRun.dag_id, DagRun.run_id, DagRun.partition_key, DagRun.state, DagRun.queued_at)
    query = select(*columns).where(condition).order_by(DagRun.id.desc())
    with create_session() as session:
        return [Run(dag, run, key or "", str(state), queued) for dag, run, key, state, queued in session.execute(query)]


class Shared:
    """Readings that take their time, of which those who ask at the same time share one."""

    def __init__(self, read: Callable[[], Read]):
        self._read, self._lock = read, threading.Lock()
        self._began, self._latest = -1.0, Future[Read]()

    def read(self) -> Read:
        """The first reading that began after this was called, or its error."""
        asked = time.monotonic()
        with self._lock:
            if self._began < asked:
                began, latest = time.monotonic(), Future[Read]()
                try:
                    latest.set_result(self._read())
                except LaionPeopleError as error:
                    latest.set_exception(error)
                self._began, self._latest = began, latest
            latest = self._latest
        return latest.result()


_open = cache(partial(open_store, attempts=2, connect_seconds=3))  # somebody is waiting, and may ask again
_shared = cache(lambda store: Shared(TotalsReader(store).read))
