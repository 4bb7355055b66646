"""Releases and their cluster versions: which partitions are clustered together, and which version a run is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from laion_people.errors import coded
from laion_people.storage.store import deployment_uri, open_store
from laion_people.storage.versions import manifest_of


def partitions_of_release(state: Mapping[str, list[str]], collection: str | None, asked: Sequence[str]) -> list[str]:
    """The partitions to cluster together: those asked for, else all of the collection once they are extracted."""
    if not asked and not collection:
        raise AirflowFailException(
            coded(
                "no-partition-key",
                "this run has no release: trigger the DAG with a collection as its partition key, for example "
                "laion2B-en, or with the partitions as its parameter",
            )
        )
    known = [key for keys in state.values() for key in keys]
    release = sorted(asked or (key for key in known if key.startswith(f"{collection}/")))
    waiting = sorted(set(release) - set(state["extracted"]))
    if not release or (asked and waiting):
        name = waiting[0] if waiting else collection
        raise AirflowFailException(coded("not-extracted", f"{name} is not extracted: run laion_people_extract first"))
    if waiting:
        raise AirflowSkipException(
            coded(
                "not-yet",
                f"{len(waiting)} of {len(release)} partitions wait for extraction: {waiting[0]} ...",
            )
        )
    return release


def partitions_of_version(version: str) -> list[str]:
    """The partitions that a cluster version was fitted on."""
    manifest = manifest_of(open_store(deployment_uri()), "cluster", version)
    if manifest is None:
        raise AirflowFailException(
            coded(
                "unknown-version", f"there is no cluster version {version}: leave the parameter empty to fit a new one"
            )
        )
    return list(manifest.params["partitions"])


def skip_when_version_given(context: Any) -> None:
    """For the task that fits clusters (``pre_execute``)."""
    if context["params"]["clusters"]:
        raise AirflowSkipException(coded("nothing-to-do", "this run was given a cluster version: nothing is fitted"))


def version_of(result: Mapping[str, Any]) -> str:
    """The cluster version that the result of the cluster step speaks of."""
    [manifest] = result["manifests"]
    return str(manifest["uri"]).rpartition("/")[2].removesuffix(".json")


def announced_version(triggering_asset_events: Mapping[Any, Sequence[Any]]) -> str:
    """The cluster version that the event which started a run was sent for; empty (the newest) for other runs."""
    events = [event for events in triggering_asset_events.values() for event in events]
    return str(events[-1].extra.get("clusters", "")) if events else ""
