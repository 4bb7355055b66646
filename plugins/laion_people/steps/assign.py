"""assign: the nearest pose, face and head cluster of every person."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from laion_people.engine.catalog import STEPS
from laion_people.engine.step import Row, Step
from laion_people.engine.work import Shard
from laion_people.steps.cluster.clusters import load_fit


class Assign(Step):
    """One row a person, in the order of people.

    A pose is compared by the fullest part that is seen: the whole body, the upper body, one arm, the legs or only the
    shoulders. A face and a head need a mesh with enough certainty. The cluster is null, with a distance, if the nearest
    one is farther than the tolerance; cluster and distance are null if too little is seen.
    """

    entry = STEPS["assign"]
    revision = 2  # 2: nobody is assigned to a cluster beyond its tolerance

    def apply(self, shard: Shard) -> Iterator[Row]:
        pose, mesh = shard.table("pose"), shard.table("mesh")
        fit = load_fit(shard.path("fit").read_bytes())
        shard.rows_in = len(pose)
        nearest = {
            name: cluster_set.nearest(cluster_set.features(pose, mesh))
            for name, cluster_set in fit.cluster_sets.items()
        }
        for row, person_id in enumerate(pose["person_id"].to_pylist()):
            assigned: Row = {"person_id": person_id}
            for name, (clusters, distances) in nearest.items():
                near = clusters[row] >= 0
                assigned[f"{name}_cluster"] = (
                    fit.cluster_sets[name].clusters[clusters[row]].cluster_id if near else None
                )
                assigned[f"{name}_distance"] = None if np.isnan(distances[row]) else distances[row]
            yield assigned
