"""assign: the nearest pose, face and head cluster of every person."""

from __future__ import annotations

from collections.abc import Iterator

from laion_people.clusters import load_fit
from laion_people.step import Row, Shard, Step


class Assign(Step):
    """One row a person, in the order of people.

    A cluster is null where too little is seen: a pose needs the shoulders, both elbows and a wrist (and is compared to
    whole bodies if both knees and an ankle are seen too, else to upper bodies), a face and a head need the mesh.
    """

    name = "assign"
    summary = "finds the nearest pose, face and head cluster of every person"
    reads = ("pose", "mesh", "fit")
    writes = "assignments"

    def apply(self, shard: Shard) -> Iterator[Row]:
        pose, mesh = shard.table("pose"), shard.table("mesh")
        fit = load_fit(shard.path("fit").read_bytes())
        shard.rows_in = len(pose)
        nearest = {name: kind.nearest(kind.features(pose, mesh)) for name, kind in fit.kinds.items()}
        for row, person_id in enumerate(pose["person_id"].to_pylist()):
            assigned: Row = {"person_id": person_id}
            for name, (clusters, distances) in nearest.items():
                seen = clusters[row] >= 0
                assigned[f"{name}_cluster"] = fit.kinds[name].clusters[clusters[row]].cluster_id if seen else None
                assigned[f"{name}_distance"] = distances[row] if seen else None
            yield assigned
