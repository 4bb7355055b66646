"""The numbers that a card states: from the manifests of what was published, or counted from what was written.

Each is ``{"value": ..., "source": ...}``. A stage of the funnel, ``funnel: NAME``, has its ``unit`` and what was
``lost`` on the way there, by reason, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from laion_people.engine.catalog import PARTITION_STEPS
from laion_people.publication.release import Publication
from laion_people.publication.sources import Sources
from laion_people.reports import funnel
from laion_people.storage.layout import manifest_path
from laion_people.storage.totals import Totals, added_up

Numbers = dict[str, dict[str, Any]]
STAGES = {  # of the funnel: the step whose manifests tell
    "rows of metadata": "download",
    "downloaded": "download",
    "images made elsewhere": "detect",
    "images with people": "detect",
    "people": "detect",
    "poses": "pose",
    "face meshes": "mesh",
    "Subset A": "subset_a",
    "people composed": "compose",
    "Subset B": "compose",
    "Subset C": "caption",
    "Subset D": "describe",
}

MADE_WITH: dict[str, tuple[str, Callable[[Totals], Any]]] = {  # the step that tells, and how
    "threshold of Subset A": ("subset_a", lambda totals: totals.params["threshold"]),
    "CLIP of Subset A": ("clip_filter", lambda totals: " and ".join(totals.models)),
    "CLIP of Subset C": ("caption", lambda totals: " and ".join(totals.models)),
}


def recorded(sources: Sources) -> Numbers:
    """The funnel of the partitions, before anything is left out of them for a publication, and what they were made
    with."""
    partitions = list(sources.partitions)
    done = {key: partition.totals for key, partition in sources.partitions.items()}
    steps = {
        s: added_up(its) for s in PARTITION_STEPS if (its := [totals[s] for totals in done.values() if s in totals])
    }
    elsewhere = sum(map(funnel.made_elsewhere, done.values()))
    meshes = sum(funnel.count_meshes(sources.store, key) for key in partitions)
    numbers: Numbers = {}
    for stage in funnel.stages_of(steps, elsewhere, meshes):
        step = STAGES[stage.name]
        numbers[f"funnel: {stage.name}"] = {
            "value": stage.rows,
            "unit": stage.unit,
            "lost": stage.rejected,
            "source": _source(step, [key for key in partitions if step in done[key]]),
        }
    for name, (step, value) in MADE_WITH.items():
        of = [key for key in partitions if step in done[key]]
        values = sorted({value(done[key][step]) for key in of})
        if values:
            one = values[0] if len(values) == 1 else ", ".join(map(str, values))
            numbers[name] = {"value": one, "source": _source(step, of)}
    fit = sources.release["cluster"]
    numbers["people that the clusters were fitted on"] = {
        "value": fit.rows_in,
        "source": manifest_path("cluster", sources.version),
    }
    return numbers


class Tally:
    """Counts rows on their way into a publication."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def seen(self, config: str, tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
        """The tables, counted."""
        for table in tables:
            self._count(config, table)
            yield table

    def numbers(self, publication: Publication) -> Numbers:
        """What was counted, and the rows of each config."""
        numbers: Numbers = {
            f"rows of {config}": {"value": publication.rows(config), "source": f"{config}/train-*.parquet"}
            for config in publication.configs()
        }
        if tars := [file for file in publication.files if file.path.endswith(".tar")]:
            numbers["pictures of subset_b"] = {"value": sum(tar.rows for tar in tars), "source": "subset_b/train-*.tar"}
        for name, (config, column, _) in COUNTED.items():
            if config in publication.configs():
                source = f"{config}/train-*.parquet, column {column}"
                numbers[name] = {"value": self._counts[name], "source": source}
        return numbers

    def _count(self, config: str, table: pa.Table) -> None:
        for name, (of, column, weigh) in COUNTED.items():
            if of == config:
                self._counts[name] += int(weigh(table[column].to_numpy()).sum())


COUNTED: dict[str, tuple[str, str, Callable[[np.ndarray], np.ndarray]]] = {  # config, column, what a row counts for
    "people with a face mesh": ("meshes", "face_score", lambda scores: ~np.isnan(scores)),
    "people in pictures of subset_b, as often as they are shown": ("subset_b", "n_people", lambda people: people),
    "captions of subset_c that were compared with false ones": ("subset_c", "foil_margin", lambda m: ~np.isnan(m)),
    "captions of subset_c that CLIP scores above all false ones": ("subset_c", "foil_margin", lambda m: m > 0),
    "clusters whose captions a person has reviewed": ("clusters", "reviewed", lambda reviewed: reviewed),
}


def _source(step: str, partitions: Sequence[str]) -> str:
    """Where a number of some partitions was read."""
    if len(partitions) == 1:
        return manifest_path(step, partitions[0])
    return f"{manifest_path(step, '<partition>')} of {len(partitions)} partitions"
