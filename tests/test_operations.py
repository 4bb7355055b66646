"""The runbook has an entry for each code of an error and each reason of a lost row, and no others."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.said import ROOT, Module, Said, codes, reasons

RUNBOOK = ROOT / "docs" / "operations.md"
SPAN = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Entry:
    """A code (``step`` is empty), or a reason that ``step`` counts lost rows under, in the runbook's ``line``."""

    text: str
    line: int
    step: str = ""

    def covers(self, said: Said) -> bool:
        """Whether this is the entry of what the code says, of a reason with a gap for each that it can be."""
        return self.step == said.step and bool(re.fullmatch(re.escape(said.text).replace("…", ".*"), self.text))


def entries(text: str) -> list[Entry]:
    """The code spans of the first cells of tables whose first column is called code or reason.

    Rows are lost to a step: the last one that a heading names.
    """
    found: list[Entry] = []
    column = step = ""
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("#"):
            step = (SPAN.findall(line) or [""])[-1]
        if not line.startswith("|"):
            column = ""
            continue
        cell = line.split("|")[1].strip()
        if not column:
            column = cell
        elif column in ("code", "reason"):
            found += [Entry(span, number, step if column == "reason" else "") for span in SPAN.findall(cell)]
    return found


@pytest.fixture(scope="module")
def runbook() -> list[Entry]:
    return entries(RUNBOOK.read_text())


@pytest.fixture(scope="module")
def said() -> list[Said]:
    return codes() + reasons()


def test_every_error_has_a_code(said: list[Said]) -> None:
    assert [s.place for s in said if not s.text] == []


def test_the_runbook_has_an_entry_for_everything_that_the_code_can_say(runbook: list[Entry], said: list[Said]) -> None:
    missing = [s for s in said if s.text and not any(entry.covers(s) for entry in runbook)]
    lines = [f"{s.place}: {f'{s.step} rejects rows as ' if s.step else ''}`{s.text}`" for s in missing]
    if missing:
        pytest.fail("docs/operations.md has no entry for\n" + "\n".join(lines), pytrace=False)


def test_the_runbook_has_no_entry_for_what_the_code_no_longer_says(runbook: list[Entry], said: list[Said]) -> None:
    gone = [f"docs/operations.md:{e.line}: {e.step} `{e.text}`" for e in runbook if not any(e.covers(s) for s in said)]
    if gone:
        pytest.fail("the code no longer says\n" + "\n".join(gone), pytrace=False)


def test_no_entry_stands_twice(runbook: list[Entry]) -> None:
    keys = [(entry.step, entry.text) for entry in runbook]
    assert [key for key in keys if keys.count(key) > 1] == []


SOURCE = """
class Wrong(CodedError): ...

def run(shard, step, error):
    if step:
        raise Wrong("too-late" if shard else "too-early", f"{step} cannot read")
    shard.reject("too_late")
    raise (AirflowFailException if shard else AirflowException)(coded("stopped", f"the {step} stopped"))
    raise ValueError("never shown")

def page(error, code):
    raise Wrong(error.code, f"no page: {error.message}")
    raise Wrong(f"no page: {error}", "it has no code")
    raise HTTPException(404, f"no such {error}")
    raise HTTPException(404, str(error))
"""


def test_codes_and_reasons_are_collected_with_their_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.said.ROOT", tmp_path)
    path = tmp_path / "steps" / "crop.py"
    path.parent.mkdir()
    path.write_text(SOURCE)
    module = Module(path)
    assert module.classes == {"Wrong": {"CodedError"}}
    assert sorted(module.codes({"CodedError", "Wrong", "coded"})) == [
        Said("", "steps/crop.py:13"),
        Said("", "steps/crop.py:14"),
        Said("stopped", "steps/crop.py:8"),
        Said("too-early", "steps/crop.py:6"),
        Said("too-late", "steps/crop.py:6"),
    ]
    assert list(module.reasons()) == [Said("too_late", "steps/crop.py:7", "crop")]


def test_an_entry_is_told_from_prose_by_its_column() -> None:
    text = "| code | do |\n|---|---|\n| `a`, `b` | `d` |\n\n| task | do |\n|---|---|\n| `e` | f |\n"
    text += "### Rows lost to `download`\n| reason | do |\n|---|---|\n| `dns` | g |\n"
    assert entries(text) == [Entry("a", 3), Entry("b", 3), Entry("dns", 11, "download")]


def test_an_entry_covers_its_code_or_reason_and_no_other() -> None:
    assert Entry("damaged-file", 1).covers(Said("damaged-file", "store.py:1"))
    assert not Entry("damaged-file", 1).covers(Said("damaged", "store.py:1"))
    assert Entry("no_pose_cluster", 1, "caption").covers(Said("no_…_cluster", "caption.py:1", "caption"))
    assert not Entry("too_small", 1, "compose").covers(Said("too_small", "download.py:1", "download"))
