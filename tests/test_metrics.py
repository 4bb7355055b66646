"""Metrics: what is sent is what docs/monitoring.md names, the dashboard asks for nothing else, and nothing waits."""

from __future__ import annotations

import json
import logging
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from laion_people.engine.metrics import Metrics
from laion_people.engine.runner import Runner
from laion_people.engine.step import Row
from laion_people.engine.work import Shard
from laion_people.settings import Settings
from laion_people.steps.registry import STEPS
from laion_people.storage.store import LocalStore
from tests.fakes import FakeModels, image_shard

ROOT = Path(__file__).parent.parent
PARTITION = "c/00000"
# | `laion_people.rows.<step>` | counter | meaning | `laion_people_rows_total{step}` |
DOCUMENTED = re.compile(r"^\| `([\w.<>]+)` \| (counter|timer|gauge) \| .+ \| `(\w+)(?:\{([\w,]+)\})?` \|$", re.M)
KINDS = {"c": "counter", "ms": "timer", "g": "gauge"}


class Listener:
    """A StatsD server that has every packet."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(0.2)
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"

    def received(self) -> list[tuple[str, float, str]]:
        """Name, value and kind of what has come since the last call."""
        metrics = []
        try:
            while True:
                for line in self.socket.recv(65535).decode().splitlines():
                    name, value, kind = re.fullmatch(r"([\w.-]+):([\d.]+)\|(\w+)", line).groups()  # type: ignore[union-attr]
                    metrics.append((name, float(value), KINDS[kind]))
        except TimeoutError:
            return metrics


@pytest.fixture
def statsd() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.socket.close()


def runner(store: LocalStore, address: str, **steps: Any) -> Runner:
    return Runner(store, Settings(statsd=address), FakeModels(), STEPS | steps)


class Fails(type(STEPS["pose"])):  # type: ignore[misc]
    def apply(self, shard: Shard) -> Iterator[Row]:
        raise OSError("disk on fire")


def everything(store: LocalStore, statsd: Listener) -> list[tuple[str, float, str]]:
    """What a partition of two shards sends, one of which fails once in one step."""
    for index in (0, 1):
        image_shard(store, PARTITION, index)
    run = runner(store, statsd.address)
    run.run("detect", PARTITION)
    with pytest.raises(OSError, match="disk on fire"):
        runner(store, statsd.address, pose=Fails()).run("pose", PARTITION)
    for step in ("pose", "mesh", "clip_filter"):
        run.run(step, PARTITION)
    run.run_release("cluster", [PARTITION])
    return statsd.received()


def documented() -> dict[str, tuple[str, str, list[str]]]:
    """StatsD name (with <parts>) -> kind, Prometheus name, labels."""
    text = (ROOT / "docs" / "monitoring.md").read_text()
    return {
        name: (kind, prometheus, labels.split(",") if labels else [])
        for name, kind, prometheus, labels in DOCUMENTED.findall(text)
    }


def pattern(name: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"<\w+>", r"([\\w-]+)", name.replace(".", r"\.")))


def mapped(name: str) -> tuple[str, dict[str, str]]:
    """Prometheus name and labels of a StatsD name, as statsd_exporter's glob mapping makes them."""
    for rule in yaml.safe_load((ROOT / "deploy" / "statsd-mapping.yaml").read_text())["mappings"]:
        if match := re.fullmatch(rule["match"].replace(".", r"\.").replace("*", r"([^.]*)"), name):
            labels = {label: match[int(value[1:])] for label, value in rule.get("labels", {}).items()}
            return rule["name"], labels
    raise AssertionError(f"{name} is not mapped")


def test_a_finished_shard_sends_its_counts(store: LocalStore, statsd: Listener) -> None:
    image_shard(store, PARTITION, 0)
    manifest = runner(store, statsd.address).run("detect", PARTITION)
    sent = {name: value for name, value, _ in statsd.received()}
    assert sent["laion_people.shards.detect"] == 1
    assert sent["laion_people.rows_in.detect"] == manifest.rows_in == 12
    assert sent["laion_people.rows.detect"] == manifest.rows
    assert sent["laion_people.rejected.detect.no_people"] == manifest.rejected["no_people"]
    assert sent["laion_people.bytes.detect"] == manifest.shards[0].bytes
    assert sent["laion_people.duration.detect"] == pytest.approx(1000 * manifest.seconds)
    parts = {name.rsplit(".")[-1]: value / 1000 for name, value in sent.items() if ".time." in name}
    assert parts == pytest.approx(manifest.timings)


def test_shards_that_are_done_send_nothing_again(store: LocalStore, statsd: Listener) -> None:
    image_shard(store, PARTITION, 0)
    runner(store, statsd.address).run("detect", PARTITION)
    statsd.received()
    runner(store, statsd.address).run("detect", PARTITION)
    assert statsd.received() == []


def test_every_metric_is_documented_and_every_documented_one_is_sent(store: LocalStore, statsd: Listener) -> None:
    ours = {name: of for name, of in documented().items() if name.startswith("laion_people.")}
    sent = everything(store, statsd)
    used = set()
    for name, _, kind in sent:
        [of] = [doc for doc in ours if pattern(doc).fullmatch(name)]
        assert ours[of][0] == kind
        used.add(of)
    assert used == set(ours)
    assert ("laion_people.failures.pose", 1, "counter") in sent


def test_the_mapping_gives_prometheus_the_documented_names_and_labels(store: LocalStore, statsd: Listener) -> None:
    for name, (_, prometheus, labels) in documented().items():
        example = re.sub(r"<(\w+)>", r"a_\1", name)
        counted, values = mapped(example)
        assert (counted, sorted(values)) == (prometheus, sorted(labels)), name
    assert mapped("laion_people.rejected.download.timeout") == (
        "laion_people_rejected_total",
        {"step": "download", "reason": "timeout"},
    )
    for name, _, _ in everything(store, statsd):
        mapped(name)


def test_the_dashboard_asks_for_documented_metrics_only_and_for_each_of_ours() -> None:
    dashboard = json.loads((ROOT / "deploy" / "grafana-dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [v["definition"] for v in dashboard["templating"]["list"] if v["type"] == "query"]
    asked = {name for query in queries for name in re.findall(r"\b(?:laion_people|airflow)_\w+\b(?=[\[{),])", query)}
    timers = {of[1] for of in documented().values() if of[0] == "timer"}
    plain = {re.sub(r"_(sum|count)$", "", name) if name not in timers else name for name in asked}
    known = {prometheus for _, prometheus, _ in documented().values()}
    assert plain == known
    assert all(name.endswith(("_sum", "_count")) for name in asked if re.sub(r"_(sum|count)$", "", name) in timers)


def test_the_dashboard_takes_its_data_source_from_a_variable() -> None:
    dashboard = json.loads((ROOT / "deploy" / "grafana-dashboard.json").read_text())
    [variable] = [v for v in dashboard["templating"]["list"] if v["type"] == "datasource"]
    sources = [panel["datasource"]["uid"] for panel in dashboard["panels"]]
    assert set(sources) == {f"${{{variable['name']}}}"}
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_nothing_is_sent_unless_asked_for(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "laion_people.engine.metrics.StatsClient", lambda *args, **options: pytest.fail("a client was made")
    )
    image_shard(store, PARTITION, 0)
    Runner(store, Settings(), FakeModels(), STEPS).run("detect", PARTITION)


def test_a_step_neither_waits_nor_fails_when_nobody_listens(store: LocalStore) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    image_shard(store, PARTITION, 0)
    manifest = runner(store, address).run("detect", PARTITION)
    metrics = Metrics(address)
    start = time.perf_counter()
    for _ in range(100):
        metrics.finished(manifest)
    assert time.perf_counter() - start < 1


def test_a_server_that_cannot_be_resolved_is_said_once(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unknown(*args: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    for index in (0, 1):
        image_shard(store, PARTITION, index)
    with caplog.at_level(logging.WARNING):
        assert len(runner(store, "statsd.example:8125").run("detect", PARTITION).shards) == 2
    assert [record.getMessage() for record in caplog.records] == [
        "no metrics: LAION_PEOPLE_STATSD=statsd.example:8125 cannot be resolved (Name or service not known) "
        "[no-metrics]"
    ]
