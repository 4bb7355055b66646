"""The steps, in the order in which a partition goes through them."""

from __future__ import annotations

from laion_people.engine.step import ReleaseStep, Step
from laion_people.steps.assign import Assign
from laion_people.steps.caption import Caption
from laion_people.steps.clip_filter import ClipFilter
from laion_people.steps.cluster.step import Cluster
from laion_people.steps.compose.step import Compose
from laion_people.steps.describe import Describe
from laion_people.steps.detect import Detect
from laion_people.steps.download.step import Download
from laion_people.steps.embed import Embed
from laion_people.steps.facts.step import Facts
from laion_people.steps.label import Label
from laion_people.steps.mesh import Mesh
from laion_people.steps.pose import Pose
from laion_people.steps.subset_a import SubsetA

STEPS: dict[str, Step | ReleaseStep] = {
    step.entry.name: step
    for step in (
        Download(),
        Detect(),
        Pose(),
        Mesh(),
        Facts(),
        ClipFilter(),
        SubsetA(),
        Cluster(),
        Label(),
        Assign(),
        Compose(),
        Embed(),
        Caption(),
        Describe(),
    )
}
