"""The first page: what has been done of which partition, and how fast."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from laion_people.engine.catalog import PARTITION_STAGES, PARTITION_STEPS, STEPS, steps_of
from laion_people.reports.funnel import made_elsewhere
from laion_people.storage.totals import Totals
from laion_people.web import source
from laion_people.web.auth import CAPTION, EXTRACT
from laion_people.web.pages import render
from laion_people.web.source import Run, State

DAG_OF_STAGE = {"extract": EXTRACT, "caption": CAPTION}
OPTIONAL = {name for name, entry in STEPS.items() if entry.optional}  # steps that few ask for
ROWS = 128  # partitions on a page: all parts of LAION-2B
Show = Literal["all", "unfinished", "failed", "running", "drift"]

router = APIRouter()


@dataclass(frozen=True, slots=True)
class Row:
    """A partition: its totals by step, the shards of steps that no audit has counted yet, its newest run by stage, and
    the sentences on what is unusual about it."""

    key: str
    steps: Mapping[str, Totals]
    so_far: Mapping[str, int]
    runs: Mapping[str, Run]
    flags: Sequence[str]

    @property
    def collection(self) -> str:
        return self.key.split("/")[0]

    @property
    def part(self) -> str:
        return self.key.split("/")[1]

    @property
    def images(self) -> int:
        """Those that were downloaded or, of images made elsewhere, read."""
        if "download" in self.steps:
            return self.steps["download"].rows
        return made_elsewhere(self.steps)

    @property
    def _elsewhere(self) -> bool:
        """Whether the images were made elsewhere, so that `download` will never run."""
        return "detect" in self.steps and "download" not in self.steps

    def states(self) -> set[str]:
        """Under which choices of ``Show`` the partition is found."""
        runs = {run.state for run in self.runs.values()}
        needless = OPTIONAL | ({"download"} if self._elsewhere else set())
        done = all(step in self.steps and self.steps[step].done for step in PARTITION_STEPS if step not in needless)
        applies = {"all": True, "unfinished": not done, "failed": "failed" in runs, "drift": bool(self.flags)}
        applies["running"] = bool(runs & {"queued", "running"})
        return {state for state, does in applies.items() if does}


@dataclass(frozen=True, slots=True)
class StepSum:
    """A step over several partitions: how many are done, and the sums of their totals."""

    done: int
    rows_in: int
    rows: int
    lost: int
    seconds: float


@router.get("/")
def overview(
    request: Request,
    collection: str = "",
    show: Show = "all",
    q: str = "",
    page: Annotated[int, Query(ge=1)] = 1,
) -> HTMLResponse:
    """The matrix of the partitions that are chosen by collection, state and a part of their key."""
    state = source.state()
    rows = _rows(state)
    named = [row for row in rows if row.key.startswith(f"{collection}/" if collection else "") and q in row.key]
    states = [row.states() for row in named]
    chosen = [row for row, shows in zip(named, states, strict=True) if show in shows]
    pages = max(1, -(-len(chosen) // ROWS))
    page = min(page, pages)
    left_out = {step for step in OPTIONAL if not any(step in row.steps for row in rows)}
    return render(
        request,
        "overview.html.j2",
        store=source.store().uri,
        collections=sorted({row.key.split("/")[0] for row in rows}),
        collection=collection,
        show=show,
        counts={choice: sum(choice in shows for shows in states) for choice in get_args(Show)},
        q=q,
        page=page,
        pages=pages,
        first=(page - 1) * ROWS,
        rows=chosen[(page - 1) * ROWS : page * ROWS],
        chosen=len(chosen),
        stages={
            stage: [entry.name for entry in steps_of(stage) if entry.name not in left_out] for stage in PARTITION_STAGES
        },
        sums=_sums(chosen),
        images=sum(row.images for row in chosen),
        stored=sum(step.bytes for row in chosen for step in row.steps.values()),
        versions=[(version, state.totals[version]) for version in state.versions],
    )


def _rows(state: State) -> list[Row]:
    """All partitions, in the order of their keys."""
    runs = source.latest_runs()
    return [
        Row(
            key,
            state.totals.get(key, {}),
            state.so_far.get(key, {}),
            {stage: runs[dag, key] for stage, dag in DAG_OF_STAGE.items() if (dag, key) in runs},
            state.flags.get(key, ()),
        )
        for key in state.partitions
    ]


def _sums(rows: Iterable[Row]) -> dict[str, StepSum]:
    totals = {step: [row.steps[step] for row in rows if step in row.steps] for step in PARTITION_STEPS}
    return {
        step: StepSum(
            done=sum(t.done for t in of_step),
            rows_in=sum(t.rows_in for t in of_step),
            rows=sum(t.rows for t in of_step),
            lost=sum(sum(t.rejected.values()) for t in of_step),
            seconds=sum(t.seconds for t in of_step),
        )
        for step, of_step in totals.items()
    }
