"""Writes DAGs.md, the reference of the DAGs from Airflow's view: bin/airflow-env python tools/dag_docs.py

tests/dags/test_dag_docs.py compares the file with the DAGs. The same DAGs give the same bytes on every machine.
"""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "DAGs.md"
COMMAND = "bin/airflow-env python tools/dag_docs.py"
RUNBOOK = re.compile(r'docs/operations\.md, ((?:"[^"]+"(?: and )?)+)')
HEAD = f"""\
# The DAGs

Written by `{COMMAND}` from the DAGs themselves; don't edit it. How they work together, and how to do what:
[docs/dags.md](docs/dags.md).
"""
BOUNDS = ("minimum", "maximum", "minLength", "maxLength", "maxItems")


def reference() -> str:
    """The whole file. Raises RuntimeError when a DAG cannot be imported."""
    for name in [n for n in os.environ if n.startswith("LAION_PEOPLE_")]:
        del os.environ[name]  # settings of this shell don't belong to the DAGs
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(ROOT / "dags")
    if bag.import_errors:
        raise RuntimeError("\n".join(bag.import_errors.values()))
    links = sorted(set(_links(bag.dags.values())))
    order = {dag_id: {a for a, _, b in links if b == dag_id and a != dag_id} for dag_id in sorted(bag.dags)}
    dags = [bag.dags[dag_id] for dag_id in TopologicalSorter(order).static_order()]
    edges = [f"  {a} -->|{label}| {b}" for a, label, b in links]
    lines = [HEAD, *_graph("LR", [f"  {dag.dag_id}" for dag in dags], edges)]
    for dag in dags:
        lines += ["", *_described(dag)]
    return "\n".join(lines) + "\n"


def _links(dags: Iterable[Any]) -> Iterator[tuple[str, str, str]]:
    """Which DAG starts which, and how: by an asset that it announces, or a task that triggers it."""
    dags = list(dags)
    consumers = defaultdict(list)
    for dag in dags:
        for asset in _assets(dag):
            consumers[asset].append(dag.dag_id)
    for dag in dags:
        for task in dag.tasks:
            for asset in task.outlets:
                yield from ((dag.dag_id, asset.name, consumer) for consumer in consumers[asset.name])
            if triggered := getattr(task, "trigger_dag_id", ""):
                yield dag.dag_id, task.task_id, triggered


def _described(dag: Any) -> Iterator[str]:
    yield f"## `{dag.dag_id}`"
    yield ""
    yield _linked(dag.doc_md.strip())
    yield ""
    yield f"**Runs**: {_schedule(dag)}. At most {dag.max_active_runs} at a time."
    if dag.params:
        yield ""
        yield "| parameter | type | default | |"
        yield "|---|---|---|---|"
        for name in dag.params:
            yield _parameter(name, dag.params.get_param(name))
    yield ""
    tasks = list(dag.topological_sort())
    yield from _graph("LR", _nodes(tasks), list(_edges(tasks)))
    for task in tasks:
        yield ""
        yield f"#### `{task.task_id}`"
        yield ""
        yield _linked((task.doc_md or "").strip())


def _schedule(dag: Any) -> str:
    if assets := _assets(dag):
        return "once for each partition of " + " or ".join(f"`{asset}`" for asset in assets)
    if expression := getattr(dag.timetable, "expression", ""):
        return f"by cron, `{expression}` {dag.timetable.timezone}"
    return "when it is triggered"


def _assets(dag: Any) -> list[str]:
    """The names of the assets that start a DAG."""
    condition = getattr(dag.timetable, "asset_condition", None)
    return sorted(asset.name for asset in getattr(condition, "objects", [condition]) if asset)


def _parameter(name: str, param: Any) -> str:
    schema = param.schema
    types = schema.get("type", "any")
    rules = [" or ".join(types) if isinstance(types, list) else types]
    rules += [" or ".join(f"`{value}`" for value in schema["enum"])] if "enum" in schema else []
    rules += [f"{bound} {schema[bound]}" for bound in BOUNDS if bound in schema]
    rules += [f"like `{_cell(s['pattern'])}`" for s in (schema, schema.get("items", {})) if "pattern" in s]
    default = json.dumps(param.value, ensure_ascii=False)
    return f"| `{name}` | {', '.join(rules)} | `{_cell(default)}` | {_cell(param.description or '')} |"


def _nodes(tasks: Iterable[Any]) -> list[str]:
    """The tasks; a mapped group is a box."""
    groups: dict[str, list[str]] = defaultdict(list)
    for task in tasks:
        group = task.task_group.group_id if task.task_group else None
        groups[group or ""].append(f"{_id(task.task_id)}[{task.task_id.removeprefix(f'{group}.')}]")
    lines = [f"  {node}" for node in groups.pop("", [])]
    for group, nodes in groups.items():
        lines += [f'  subgraph {_id(group)}_group ["{group}, mapped"]']
        lines += [f"    {node}" for node in nodes]
        lines += ["  end"]
    return lines


def _edges(tasks: Iterable[Any]) -> Iterator[str]:
    """The dependencies, without implied ones, such as those of all mapped tasks on what they are mapped over."""
    follow = {task.task_id: set(task.downstream_task_ids) for task in tasks}

    def later(task_id: str) -> set[str]:
        return follow[task_id].union(*map(later, follow[task_id]))

    for task_id, following in follow.items():
        for downstream in sorted(following - set().union(*map(later, following))):
            yield f"  {_id(task_id)} --> {_id(downstream)}"


def _graph(direction: str, nodes: Iterable[str], edges: Iterable[str]) -> list[str]:
    """A Mermaid graph, as GitHub draws it."""
    return ["```mermaid", f"graph {direction}", *nodes, *edges, "```"]


def _id(name: str) -> str:
    """A node's name without characters that mean something to Mermaid; ``end`` is a word of Mermaid, too."""
    return f"t_{re.sub(r'[^A-Za-z0-9_]', '_', name)}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _linked(text: str) -> str:
    """A text of the UI in which the names of the runbook's headings become links."""

    def link(match: re.Match[str]) -> str:
        return re.sub(r'"([^"]+)"', lambda m: f"[{m[1]}](docs/operations.md#{_anchor(m[1])})", match[1])

    return RUNBOOK.sub(link, text)


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


if __name__ == "__main__":
    FILE.write_text(reference())
