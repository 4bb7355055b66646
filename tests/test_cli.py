"""The command line as a user meets it: exit codes, one-line errors, results on stdout."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laion_people import cli
from laion_people.cli import main
from laion_people.engine.runner import Runner
from laion_people.settings import Settings
from laion_people.steps.registry import STEPS
from laion_people.storage.store import LocalStore
from tests.fakes import FakeModels, image_shard

COMMAND = Path(__file__).parent.parent / "bin" / "laion-people"

EXTRACT = ("detect", "pose", "mesh", "clip_filter")


def call(*args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *args], capture_output=True, text=True, env=os.environ | environ)


@pytest.mark.parametrize(
    ("args", "environ", "code", "says"),
    [
        (["run", "detect", "nothing/here", "--store", "{tmp}"], {}, 2, "no metadata for partition nothing/here"),
        (["run", "detect", "../etc", "--store", "{tmp}"], {}, 2, "[bad-partition-key]"),
        (["run", "paint", "a/b"], {}, 2, "invalid choice"),
        (["run", "detect", "a/b", "--shards", "3-x"], {}, 2, "'3-x' should look like 0,3-5 [bad-argument]"),
        (["run", "detect", "a/b", "--shards", "5-3"], {}, 2, "from the smaller to the larger number"),
        (["run", "cluster", "a/b", "--shards", "0", "--store", "{tmp}"], {}, 2, "--shards does not go with cluster"),
        (["run", "cluster", "a/b", "--store", "{tmp}"], {}, 2, "no metadata for partition a/b"),
        (["status", "a/b", "--store", "{tmp}"], {}, 2, "no metadata for partition a/b"),
        (["run", "assign", "a/b", "--clusters", "../x", "--store", "{tmp}"], {}, 2, "v0001 [bad-setting]"),
        (["run", "detect", "a/b", "c/d", "--store", "{tmp}"], {}, 2, "takes one partition"),
        (["pipeline", "a/b", "--store", "{tmp}"], {}, 2, "no metadata for partition a/b"),
        (["run", "detect", "a/b", "--profile", "huge", "--store", "{tmp}"], {}, 2, "huge"),
        (["audit", "a/b", "--set", "treshold=0.2"], {}, 2, "[bad-argument]"),
        (["audit", "a/b", "--set", "threshold"], {}, 2, "[bad-argument]"),
        (["audit", "a/b", "--set", "environ=x"], {}, 2, "[bad-argument]"),
        (["audit", "a/b", "--set", "threshold=much"], {}, 2, "a number [bad-setting]"),
        (["audit", "a/b", "--set", "threshold=1.5"], {}, 2, "at most 1 [bad-setting]"),
        (["settings"], {"LAION_PEOPLE_TRESHOLD": "1"}, 2, "unknown setting LAION_PEOPLE_TRESHOLD"),
        (["status", "--store", "ftp://x"], {}, 2, "[bad-setting]"),
    ],
)
def test_errors_are_one_readable_line_with_the_right_exit_code(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    args: list[str],
    environ: dict[str, str],
    code: int,
    says: str,
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    try:
        returned = main([a.format(tmp=tmp_path) for a in args])
    except SystemExit as stop:
        returned = int(stop.code or 0)
    err = capfd.readouterr().err
    assert returned == code
    assert says in err
    assert "Traceback" not in err


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = call("run", "detect", "a/b", "--store", str(tmp_path), "--debug")
    assert done.returncode == 2 and "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("laion-people: no metadata for partition a/b")


def test_a_key_that_does_not_exist_ends_a_command_before_it_works_on_any_other(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    image_shard(store, "a/b", 0)
    done = call("pipeline", "a/b", "a/typo", "--store", str(tmp_path))
    assert done.returncode == 2 and "no metadata for partition a/typo" in done.stderr.splitlines()[-1]
    assert store.list("manifests") == store.list("people") == []


def test_the_reason_is_the_last_line_whatever_libraries_say_while_the_interpreter_ends(tmp_path: Path) -> None:
    noise = tmp_path / "noise" / "sitecustomize.py"
    noise.parent.mkdir()
    noise.write_text("import atexit, os; atexit.register(os.write, 2, b'libtiff: and another thing\\n')")
    environ = {"PYTHONPATH": str(noise.parent)}
    assert "another thing" in call("status", "--store", str(tmp_path), **environ).stderr
    failed = call("status", "a/b", "--store", str(tmp_path), **environ)
    assert failed.stderr.splitlines()[-1].startswith("laion-people: no metadata for partition a/b")


def test_output_is_printed_under_any_encoding(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    image_shard(store, "a/b", 0)
    Runner(store, Settings(), FakeModels(), STEPS).run("detect", "a/b")
    done = call("status", "--store", str(tmp_path), PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and "a/b" in done.stdout and done.stderr == ""


def test_a_step_prints_its_result_as_json_on_the_last_line_and_only_there(tmp_path: Path) -> None:
    image_shard(LocalStore(tmp_path), "a/b", 0)
    done = call("run", "detect", "a/b", "--store", str(tmp_path))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    [manifest] = result["manifests"]
    assert result.keys() == {"manifests", "rows", "shards"}
    assert manifest["uri"] == f"{tmp_path.as_uri()}/manifests/detect/a/b.json"
    assert "detect a/b shard 00000 (1 of 1): 12 in, " in done.stderr


def test_a_result_is_left_in_a_file_too_when_the_command_succeeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = tmp_path / "xcom" / "return.json"
    result.parent.mkdir()
    assert main(["audit", "a/b", "--store", str(tmp_path / "store"), f"--result={result}"]) == 2
    assert list(result.parent.iterdir()) == []
    capsys.readouterr()
    assert main(["partitions", "--store", str(tmp_path / "store"), f"--result={result}"]) == 0
    nothing = {"extracted": [], "begun": [], "pending": []}
    assert json.loads(result.read_text()) == json.loads(capsys.readouterr().out) == nothing
    assert list(result.parent.iterdir()) == [result]


def test_a_setting_may_be_another_for_one_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAION_PEOPLE_SHARDS_PER_TASK", "16")
    for index in range(5):
        image_shard(LocalStore(tmp_path), "a/b", index, images=1)
    groups = ["shard-groups", "a/b", "--store", str(tmp_path)]
    for more in ([], ["--unfinished"], ["--skip-finished"]):
        assert main([*groups, *more, "--set", "shards_per_task=2", "--set=threshold=0.2"]) == 0
        given = json.loads(capsys.readouterr().out)
        keys = ("shards", *EXTRACT) if more else ("shards",)
        assert given == [dict.fromkeys(keys, text) for text in ("0-1", "2-3", "4")]
    assert main(groups) == 0
    assert json.loads(capsys.readouterr().out) == [{"shards": "0-4"}]


def test_unfinished_shards_are_found_without_a_look_into_their_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path)
    for index in range(3):
        image_shard(store, "a/b", index)
    runner = Runner(store, Settings(), FakeModels(), STEPS)
    for step in ("detect", "pose", "mesh", "clip_filter"):
        runner.run(step, "a/b")
    store.write("pose/a/b/00001.parquet", b"half")
    read, sha256 = [], LocalStore.sha256
    monkeypatch.setattr(LocalStore, "sha256", lambda self, path: read.append(path) or sha256(self, path))
    assert [i for i in range(3) if runner.planner.unfinished("pose", "a/b", i)] == [1]
    assert {path.split("/")[0] for path in read} == {"pose"}  # which was written since


def test_a_group_names_for_each_step_the_shards_that_it_has_to_make(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = LocalStore(tmp_path)
    for index in range(3):
        image_shard(store, "a/b", index, images=1)
    for step in EXTRACT:
        assert main(["run", step, "a/b", "--store", str(tmp_path)]) == 0
    store.delete("pose/a/b/00001.parquet")
    capsys.readouterr()
    to_make = {"detect": "", "pose": "1", "mesh": "1", "clip_filter": ""}
    for option, shards in (("--unfinished", "1"), ("--skip-finished", "0-2")):
        assert main(["shard-groups", "a/b", option, "--store", str(tmp_path)]) == 0
        assert json.loads(capsys.readouterr().out) == [{"shards": shards} | to_make]


@given(st.sets(st.integers(0, 99999), min_size=1))
def test_shards_are_written_as_they_are_read(shards: set[int]) -> None:
    assert cli._shards(cli._ranges(sorted(shards))) == sorted(shards)


@pytest.mark.parametrize(
    "command", [[], ["run"], ["pipeline"], ["status"], ["report"], ["settings"], ["audit"], ["models"]]
)
def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    assert "usage: laion-people" in capsys.readouterr().out
