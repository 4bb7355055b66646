"""What holds for the images, read from their Dockerfiles: nothing here needs Docker."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """The instructions of a Dockerfile, in order: name and arguments, continuation lines joined."""

    name: str
    instructions: list[tuple[str, str]]

    def all(self, name: str) -> list[str]:
        return [arguments for instruction, arguments in self.instructions if instruction == name]

    @property
    def final(self) -> Dockerfile:
        """The stage that becomes the image."""
        last = max(i for i, (instruction, _) in enumerate(self.instructions) if instruction == "FROM")
        return Dockerfile(self.name, self.instructions[last:])

    @property
    def environment(self) -> dict[str, str]:
        return dict(re.findall(r'(\w+)=("[^"]*"|\S*)', " ".join(self.all("ENV"))))

    @property
    def context(self) -> list[str]:
        """The paths that are copied from the project."""
        copies = [arguments.split() for arguments in self.all("COPY")]
        return [path for words in copies if not words[0].startswith("--from=") for path in words[:-1]]


def read(name: str) -> Dockerfile:
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "docker" / name).read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    words = (line.partition(" ") for line in text.splitlines() if line.strip())
    return Dockerfile(name, [(instruction, " ".join(arguments.split())) for instruction, _, arguments in words])


IMAGES = [read(f"{name}.Dockerfile") for name in ("worker", "airflow", "local")]
WORKER, AIRFLOW, LOCAL = IMAGES
each = pytest.mark.parametrize("dockerfile", IMAGES, ids=lambda d: d.name)


@each
def test_bases_are_pinned_by_tag_and_a_digest_can_be_set(dockerfile: Dockerfile) -> None:
    first = [name for name, _ in dockerfile.instructions].index("FROM")
    defaults = dict(a.split("=") for name, a in dockerfile.instructions[:first] if name == "ARG")
    for base in dockerfile.all("FROM"):
        argument = re.fullmatch(r"\$\{(\w+)\}( AS \w+)?", base)
        assert argument, f"{base}: should be an argument, so that it may be given with its digest"
        assert re.fullmatch(r"[a-z/-]+:[\w.-]*\d+\.\d+[\w.-]*", defaults[argument[1]])


@each
def test_nothing_runs_as_root(dockerfile: Dockerfile) -> None:
    *_, user = dockerfile.final.all("USER")
    assert int(user) > 0, "a number, since a cluster can't see that a name isn't root"


@each
def test_an_image_is_made_of_the_project_and_of_pinned_packages_only(dockerfile: Dockerfile) -> None:
    assert not dockerfile.all("ADD")
    for command in dockerfile.all("RUN"):
        assert not re.search(r"\b(curl|wget|git|apt-get|sudo)\b", command), command
        for installer in re.findall(r"pip install [^&|;]*", command):
            assert "==" in installer or "--requirement" in installer
            assert "--no-cache" in installer
    for path in dockerfile.context:
        assert list(ROOT.glob(path)), path


@pytest.mark.parametrize("path", sorted({p for d in IMAGES for p in d.context if "requirements" in p}))
def test_requirements_are_pinned(path: str) -> None:
    lines = [line.partition("#")[0].strip() for line in (ROOT / path).read_text().splitlines()]
    for line in filter(None, lines):
        assert re.search(r'==\d|<\d|python_version < "3.0"', line), f"{path}: {line}"


def test_the_build_context_holds_what_is_copied_and_nothing_else() -> None:
    everything, *patterns = [p for p in (ROOT / ".dockerignore").read_text().splitlines() if not p.startswith("#")]
    kept = [pattern.removeprefix("!") for pattern in patterns if pattern.startswith("!")]
    copied = [path for dockerfile in IMAGES for path in dockerfile.context]
    assert everything == "*", "so that .git, environments, data and secrets stay out, whatever they are called"
    assert [path for path in copied if not any(covers(pattern, path) for pattern in kept)] == []
    assert [pattern for pattern in kept if not any(covers(pattern, path) for path in copied)] == []
    assert {"requirements-dev.txt", "**/__pycache__"} <= set(patterns)


def covers(pattern: str, path: str) -> bool:
    return fnmatch(path, pattern) or path.startswith(f"{pattern}/")


@each
def test_no_secret_has_a_place_in_an_image(dockerfile: Dockerfile) -> None:
    names = " ".join(dockerfile.all("ARG") + dockerfile.all("ENV"))
    assert not re.search(r"TOKEN|PASSWORD|SECRET|CREDENTIAL|ACCESS_KEY|PROXY", names, re.IGNORECASE)


def test_the_worker_runs_the_command_line() -> None:
    assert json.loads(WORKER.final.all("ENTRYPOINT")[0]) == ["laion-people"]
    assert WORKER.environment["PATH"].startswith("/opt/laion-people/bin:")
    assert WORKER.final.all("WORKDIR") == ["/opt/laion-people"]
    assert {"bin/laion-people bin/", "bin/python-path bin/"} <= set(WORKER.final.all("COPY"))
    # bin/laion-people looks for the environment that bin/setup has made, at the place where both stages have it
    assert "bin/setup worker" in WORKER.all("RUN")
    assert "--from=build /opt/laion-people/.venv .venv" in WORKER.final.all("COPY")


@pytest.mark.parametrize("dockerfile", [WORKER, AIRFLOW], ids=lambda d: d.name)
def test_no_code_comes_from_the_working_directory(dockerfile: Dockerfile) -> None:
    assert dockerfile.environment["PYTHONSAFEPATH"] == "1"


def test_the_worker_has_no_compiler_and_no_installer() -> None:
    assert not any(re.search(r"\b(pip|uv|apt-get|gcc)\b", command) for command in WORKER.final.all("RUN"))


def test_the_worker_needs_no_writable_root() -> None:
    assert WORKER.environment["HOME"] == "/tmp"
    assert WORKER.environment["LAION_PEOPLE_STORE"] == "/data"
    assert json.loads(WORKER.final.all("VOLUME")[0]) == [WORKER.environment["LAION_PEOPLE_MODELS_DIR"]]


def test_the_worker_is_built_for_cpu_or_cuda_by_an_argument() -> None:
    assert "TORCH=cpu" in WORKER.all("ARG")
    assert "TORCH_INDEX_URL=https://download.pytorch.org/whl/${TORCH}" in WORKER.all("ARG")
    assert "${TORCH_INDEX_URL:-}" in (ROOT / "bin" / "setup").read_text()


def test_the_worker_shows_no_gpu_to_pods_that_asked_for_none() -> None:
    assert "NVIDIA_VISIBLE_DEVICES" not in WORKER.environment


def test_pods_run_as_the_workers_user_and_mount_weights_where_it_looks_for_them() -> None:
    pods = (ROOT / "plugins" / "laion_people" / "orchestration" / "podoptions.py").read_text()
    assert f"WORKER_USER = {WORKER.final.all('USER')[-1]} " in pods
    assert f'WEIGHTS = "{WORKER.environment["LAION_PEOPLE_MODELS_DIR"]}"' in pods


def test_airflow_is_the_version_that_the_requirements_name() -> None:
    airflow = re.search(r"^apache-airflow==(.*)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    python = PROJECT["requires-python"].removeprefix(">=").split(",")[0]
    assert airflow
    assert AIRFLOW.all("ARG") == [f"AIRFLOW_IMAGE=apache/airflow:slim-{airflow[1]}-python{python}"]
    assert WORKER.all("ARG")[0].startswith(f"PYTHON_IMAGE=python:{python}-")


def test_airflow_starts_pods_since_its_image_has_no_models() -> None:
    assert AIRFLOW.environment["LAION_PEOPLE_RUNNER"] == "kubernetes"
    assert not any("worker" in path or path in ("include", "include/models") for path in AIRFLOW.context)


def test_airflow_has_what_its_page_reads_of_the_models_and_no_weights() -> None:
    assert {"include/__init__.py", "include/models/*.py", "include/models/*.yaml"} <= set(AIRFLOW.context)


def test_steps_come_without_the_sample() -> None:
    assert "include/models" in WORKER.context
    assert not any(path in ("include", "include/sample") for path in WORKER.context)


def test_one_machine_has_both_environments_where_the_worker_and_the_dags_look_for_them() -> None:
    assert LOCAL.all("FROM") == ["${PYTHON_IMAGE} AS build", "${WORKER_IMAGE}"]
    assert f"PYTHON_IMAGE={WORKER.all('ARG')[0].partition('=')[2]}" in LOCAL.all("ARG")
    assert f"WORKER_IMAGE=laion-people-worker:{PROJECT['version']}-cpu" in LOCAL.all("ARG")
    assert any("bin/setup airflow" in command for command in LOCAL.all("RUN"))
    assert "--from=build /opt/laion-people/.venv/airflow .venv/airflow" in LOCAL.final.all("COPY")
    assert LOCAL.final.all("USER")[-1] == WORKER.final.all("USER")[-1]
    assert "LAION_PEOPLE_RUNNER" not in LOCAL.environment, "a task is a process"


@pytest.mark.parametrize("torch", ["cpu", "cu130"])
def test_make_images_builds_all_under_the_projects_version(torch: str) -> None:
    command = ["make", "--dry-run", "--directory", str(ROOT), "images", f"TORCH={torch}"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert f"--tag laion-people-airflow:{PROJECT['version']} ." in output
    assert f"--build-arg TORCH={torch} --tag laion-people-worker:{PROJECT['version']}-{torch} ." in output
    worker = f"--build-arg WORKER_IMAGE=laion-people-worker:{PROJECT['version']}-{torch}"
    assert f"{worker} --tag laion-people-local:{PROJECT['version']}-{torch} ." in output


def test_nothing_is_called_latest() -> None:
    for path in [*(ROOT / "docker").iterdir(), ROOT / "Makefile", ROOT / "docs" / "images.md"]:
        assert not re.search(r"[\w}]:latest", path.read_text()), path
