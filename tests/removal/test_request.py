"""Names that a form of Airflow left in the store: what `remove` makes of them, and what its task hands on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from laion_people.cli import main
from laion_people.storage.removals import read_removals, request_path
from laion_people.storage.store import LocalStore

REQUEST = "0123456789abcdef"
URL = "https://example.org/somebody.jpg"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def remove(store: LocalStore, *arguments: str, request: str = REQUEST) -> int:
    """The exit code of what the task runs."""
    given = ["--store", store.uri, f"--request={request}", "--reason=asked for by mail", "--by=anna", *arguments]
    return main(["remove", *given])


def test_the_result_is_json_and_names_nothing(
    store: LocalStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.write(request_path(REQUEST), f"url {URL}\n{URL}2\n".encode())
    assert remove(store, f"--result={tmp_path / 'result.json'}") == 0
    said = capsys.readouterr()
    (removal,) = read_removals(store)
    assert json.loads(said.out) == {"removal": removal.id, "dry_run": False, "rows": {}}
    assert json.loads((tmp_path / "result.json").read_text()) == json.loads(said.out)
    assert (removal.by, removal.reason, removal.asked) == ("anna", "asked for by mail", {"url": 2})
    assert URL not in said.out + said.err


def test_only_looking_records_nothing(store: LocalStore, capsys: pytest.CaptureFixture[str]) -> None:
    store.write(request_path(REQUEST), f"url {URL}\n".encode())
    assert remove(store, "--dry-run") == 0
    assert json.loads(capsys.readouterr().out)["dry_run"] is True
    assert read_removals(store) == []


def test_a_request_that_was_forgotten_is_asked_for_again_in_one_line(
    store: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert remove(store) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"there is no request removals/requests/{REQUEST}.txt: in Airflow clear `ask`" in line
    assert line.endswith("[bad-argument]")


@pytest.mark.parametrize("request_id", ["../../etc/passwd", "", "a/b", "0123\n", "xyz"])
def test_a_request_is_no_path(store: LocalStore, request_id: str) -> None:
    with pytest.raises(SystemExit) as caught:
        remove(store, request=request_id)
    assert caught.value.code == 2
