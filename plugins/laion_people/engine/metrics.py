"""Metrics: what each finished shard has cost and given, sent to a StatsD server (LAION_PEOPLE_STATSD).

StatsD and not OpenTelemetry: current OTLP exporters need a protobuf that MediaPipe refuses, a UDP packet cannot hold up
a step, and Airflow sends its own metrics either way. Names and meanings: docs/monitoring.md.
"""

from __future__ import annotations

import logging
import re
from functools import cached_property

from statsd import StatsClient

from laion_people.errors import coded
from laion_people.storage.manifest import Manifest

log = logging.getLogger(__name__)

PREFIX = "laion_people"


class Metrics:
    """Sends to ``address`` (host:port); to nobody when it is empty, or cannot be resolved, which is logged once."""

    def __init__(self, address: str):
        self.address = address

    def finished(self, manifest: Manifest) -> None:
        """Counts a finished shard of a step, or a finished release step."""
        if not self._client:
            return
        step = manifest.step
        with self._client.pipeline() as stats:  # a few packets of as many metrics as one may hold
            stats.incr(f"shards.{step}")
            stats.incr(f"rows_in.{step}", manifest.rows_in)
            stats.incr(f"rows.{step}", manifest.rows)
            stats.incr(f"bytes.{step}", sum(file.bytes for shard in manifest.shards for file in shard.files()))
            for reason, rows in manifest.rejected.items():
                stats.incr(f"rejected.{step}.{_word(reason)}", rows)
            stats.timing(f"duration.{step}", 1000 * manifest.seconds)
            for part, seconds in manifest.timings.items():
                stats.timing(f"time.{step}.{_word(part)}", 1000 * seconds)

    def failed(self, step: str) -> None:
        """Counts a shard of a step, or a release step, that has failed."""
        if self._client:
            self._client.incr(f"failures.{step}")

    @cached_property
    def _client(self) -> StatsClient | None:
        if not self.address:
            return None
        host, _, port = self.address.rpartition(":")
        try:
            return StatsClient(host, int(port), prefix=PREFIX)
        except OSError as error:
            log.warning(
                coded("no-metrics", "no metrics: LAION_PEOPLE_STATSD=%s cannot be resolved (%s)"),
                self.address,
                error.strerror,
            )
            return None


def _word(name: str) -> str:
    """A part of a metric's name, in which dots and colons have a meaning."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)
