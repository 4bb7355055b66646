"""The runbook has an entry for each reason that the code can give, and no others."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.messages import GAP, ROOT, Module, Said, collect

RUNBOOK = ROOT / "docs" / "operations.md"
SPAN = re.compile(r"`([^`]+)`")
FEW_LETTERS = 8  # an entry with fewer says too little to stand for other messages than its very own


@dataclass(frozen=True)
class Entry:
    """A message (``step`` is empty), or a reason that ``step`` counts lost rows under, in the runbook's ``line``."""

    text: str
    line: int
    step: str = ""

    def covers(self, said: Said) -> bool:
        """Whether this is the entry of what the code says; gaps of either may stand for the other's words."""
        if self.step != said.step:
            return False
        if self.text == said.text:
            return True
        return (self._is_like(said.text, self.text) or (bool(self.step) and self._is_like(self.text, said.text))) and (
            bool(self.step) or len(re.findall(r"[^\W\d_]", self.text)) >= FEW_LETTERS
        )

    @staticmethod
    def _is_like(text: str, template: str) -> bool:
        return bool(re.fullmatch(".*".join(map(re.escape, template.split(GAP))), text))


def entries(text: str) -> list[Entry]:
    """The code spans of the first cells of tables whose first column is called message or reason.

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
        elif column in ("message", "reason"):
            found += [Entry(span, number, step if column == "reason" else "") for span in SPAN.findall(cell)]
    return found


@pytest.fixture(scope="module")
def runbook() -> list[Entry]:
    return entries(RUNBOOK.read_text())


@pytest.fixture(scope="module")
def said() -> list[Said]:
    messages, reasons = collect()
    return messages + reasons


def test_the_runbook_has_an_entry_for_everything_that_the_code_can_say(runbook: list[Entry], said: list[Said]) -> None:
    missing = [s for s in said if not any(entry.covers(s) for entry in runbook)]
    lines = [f"{s.place}: {f'{s.step} rejects rows as ' if s.step else ''}`{s.text}`" for s in missing]
    if missing:
        pytest.fail("docs/operations.md has no entry for\n" + "\n".join(lines), pytrace=False)


def test_the_runbook_has_no_entry_for_what_the_code_no_longer_says(runbook: list[Entry], said: list[Said]) -> None:
    gone = [entry for entry in runbook if not any(entry.covers(s) for s in said)]
    lines = [f"docs/operations.md:{entry.line}: {entry.step} `{entry.text}`" for entry in gone]
    if gone:
        pytest.fail("the code no longer says, or says otherwise\n" + "\n".join(lines), pytrace=False)


def test_no_entry_stands_twice(runbook: list[Entry]) -> None:
    keys = [(entry.step, entry.text) for entry in runbook]
    assert [key for key in keys if keys.count(key) > 1] == []


SOURCE = """
class Wrong(LaionPeopleError): ...

WHERE = "the store"

def run(shard, step, names):
    if step:
        raise Wrong(f"{step} cannot read {WHERE}: " + ("try again" if names else f"run `{step}`"))
    shard.reject("too_late")
    raise (AirflowFailException if names else AirflowException)("the " f"{step}\\n stopped")
    raise ValueError("never shown")

def _fault(step):
    if reason := step.fault:
        return reason
    return f"{step} is missing"

def page(error):
    raise HTTPException(404, detail="no such shard") from LaionPeopleError(str(error))
"""


def test_messages_are_collected_as_templates_with_their_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.messages.ROOT", tmp_path)
    path = tmp_path / "steps" / "crop.py"
    path.parent.mkdir()
    path.write_text(SOURCE)
    module = Module(path)
    assert list(module.messages({"Wrong", "LaionPeopleError", "AirflowFailException", "HTTPException"}, {})) == [
        Said("… cannot read the store: run …", "steps/crop.py:8"),
        Said("… cannot read the store: try again", "steps/crop.py:8"),
        Said("the … stopped", "steps/crop.py:10"),
        Said("… is missing", "steps/crop.py:16"),
        Said("no such shard", "steps/crop.py:19"),
    ]
    assert list(module.reasons()) == [Said("too_late", "steps/crop.py:9", "crop")]


def test_an_entry_is_told_from_prose_by_its_column() -> None:
    text = "| message | do |\n|---|---|\n| `a`, `b …` | `d` |\n\n| task | do |\n|---|---|\n| `e` | f |\n"
    text += "### Rows lost to `download`\n| reason | do |\n|---|---|\n| `dns` | g |\n"
    assert entries(text) == [Entry("a", 3), Entry("b …", 3), Entry("dns", 11, "download")]


def test_an_entry_covers_its_message_and_no_other() -> None:
    entry = Entry("… is damaged: …", 1)
    assert entry.covers(Said("… is damaged: …", "store.py:1"))
    assert entry.covers(Said("… is damaged: it has been cut off", "store.py:1"))
    assert not entry.covers(Said("… is missing: …", "store.py:1"))
    assert not Entry("pod …: …", 1).covers(Said("pod …: it was deleted", "pods.py:1"))  # says too little
    assert Entry("no_pose_cluster", 1, "caption").covers(Said("no_…_cluster", "caption.py:1", "caption"))
    assert not Entry("too_small", 1, "compose").covers(Said("too_small", "download.py:1", "download"))
