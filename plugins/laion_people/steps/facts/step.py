"""facts: what each person's own pose and mesh say. Follows mesh; new rules need this step only, and no model."""

from __future__ import annotations

from collections.abc import Iterator

from laion_people.engine.catalog import STEPS
from laion_people.engine.step import Row, Step
from laion_people.engine.work import Shard
from laion_people.steps.facts.facefacts import face_facts
from laion_people.steps.facts.posefacts import pose_facts


class Facts(Step):
    """One row a person, in the order of people. If nothing is certain about a person, the list is empty."""

    entry = STEPS["facts"]
    revision = 4  # 4: hanging arms are straighter, nods larger

    def apply(self, shard: Shard) -> Iterator[Row]:
        people, pose, mesh = (shard.table(name) for name in self.entry.reads)
        shard.rows_in = len(people)
        facts_of_all = zip(pose_facts(people, pose), face_facts(pose, mesh), strict=True)
        for person_id, (of_pose, of_face) in zip(people["person_id"].to_pylist(), facts_of_all, strict=True):
            facts = [{"name": f.name, "value": f.value, "confidence": f.confidence} for f in (*of_pose, *of_face)]
            yield {"person_id": person_id, "facts": facts}
