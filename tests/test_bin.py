"""The commands of bin/: whose code they run, wherever they are called."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHADOWS = ("random.py", "json.py", "numpy.py", "yaml.py", "sitecustomize.py", "usercustomize.py", "psutil.py")
PACKAGES = ("include", "laion_people", "airflow")


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder with modules that leave a mark when they are imported."""
    mark = f"open({str(tmp_path / 'mark')!r}, 'w').close()\n"
    for name in (*SHADOWS, *(f"{package}/__init__.py" for package in PACKAGES)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(mark)
    return tmp_path


@pytest.mark.parametrize("path", [None, "", ":", "/nowhere:", "::/nowhere", ".", "./include:.."])
@pytest.mark.parametrize("command", ["laion-people settings", "airflow-env python -m laion_people.dates"])
def test_no_code_comes_from_the_working_directory(hostile: Path, command: str, path: str | None) -> None:
    name, *arguments = command.split()
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | (
        {} if path is None else {"PYTHONPATH": path}
    )
    environ["AIRFLOW_HOME"] = str(hostile / "home")
    run = subprocess.run([ROOT / "bin" / name, *arguments], cwd=hostile, env=environ, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    assert not (hostile / "mark").exists()


def test_folders_that_a_user_names_stay_on_the_path_after_our_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("")
    environ = os.environ | {"PYTHONPATH": f"{tmp_path}:", "AIRFLOW_HOME": str(tmp_path / "home")}
    code = "import sys, mine, include; print(include.__path__[0]); print(sys.path[:3])"
    run = subprocess.run(
        [ROOT / "bin" / "airflow-env", "python", "-c", code], env=environ, capture_output=True, text=True
    )
    assert run.stdout.splitlines() == [str(ROOT / "include"), str([str(ROOT), str(ROOT / "plugins"), str(tmp_path)])]
