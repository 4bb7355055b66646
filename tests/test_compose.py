"""What holds for docker-compose.yaml and bin/compose, read or run without Docker."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
FILES = ("docker-compose.yaml", "docker/compose.demo.yaml", "docker/compose.gpu.yaml")
STACK = yaml.safe_load((ROOT / FILES[0]).read_text())
SERVICES: dict[str, Any] = STACK["services"]
DEMO: dict[str, Any] = yaml.safe_load((ROOT / FILES[1]).read_text())["services"]
IMAGES = {name: service for name, service in {**DEMO, **SERVICES}.items() if "image" in service}
LONG_RUNNING = {name: service for name, service in IMAGES.items() if name not in ("init", "demo")}
AIRFLOW = ("api-server", "scheduler", "dag-processor", "triggerer")
SECRET = re.compile(r"PASSWORD|SECRET|KEY|SQL_ALCHEMY_CONN")

each = pytest.mark.parametrize("service", IMAGES.values(), ids=IMAGES)
each_long_running = pytest.mark.parametrize("service", LONG_RUNNING.values(), ids=LONG_RUNNING)


def test_the_stack_is_airflow_with_a_database_and_a_store() -> None:
    assert set(SERVICES) == {"postgres", "store", "init", *AIRFLOW}


@each
def test_images_are_pinned(service: dict[str, Any]) -> None:
    name, _, tag = service["image"].partition(":")
    assert re.match(r"v?\d", tag), service["image"]
    if name.startswith("laion-people"):
        assert tag == f"{VERSION}-${{TORCH:-cpu}}"


@each
def test_no_service_may_do_more_than_it_needs(service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "network_mode", "pid", "cap_add", "devices"} & service.keys()
    assert not any("docker.sock" in volume or volume.startswith((".", "/")) for volume in service.get("volumes", []))


@each
def test_no_volume_is_without_a_name(service: dict[str, Any]) -> None:
    places = {volume.split(":")[1] for volume in service.get("volumes", [])}
    places |= {path.split(":")[0] for path in service.get("tmpfs", [])}
    of_the_image = {
        "laion-people-local": "/models",
        "postgres": "/var/lib/postgresql/data",
        "chrislusf/seaweedfs": "/data",
    }
    assert of_the_image[service["image"].partition(":")[0]] in places


@each_long_running
def test_what_runs_on_is_started_again_and_asked_for_its_health(service: dict[str, Any]) -> None:
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"][0] == "CMD"
    assert "interval" in service["healthcheck"]


def test_each_part_of_airflow_is_asked_for_its_own_health() -> None:
    asked = {name: SERVICES[name]["healthcheck"]["test"] for name in AIRFLOW}
    assert asked["api-server"] == ["CMD", "health", "metadatabase"]
    for name in AIRFLOW[1:]:
        assert asked[name] == ["CMD", "health", name.replace("-", "_")]


def test_nothing_starts_before_what_it_needs() -> None:
    healthy, done = {"condition": "service_healthy"}, {"condition": "service_completed_successfully"}
    assert SERVICES["init"]["depends_on"] == {"postgres": healthy, "store": healthy}
    assert SERVICES["api-server"]["depends_on"] == {"init": done}
    assert all(SERVICES[name]["depends_on"] == {"api-server": healthy} for name in AIRFLOW[1:])


def test_the_ui_is_the_only_port_and_on_loopback_by_default() -> None:
    ports = {name: service["ports"] for name, service in IMAGES.items() if "ports" in service}
    assert ports == {"api-server": ["${UI_ADDRESS:-127.0.0.1}:${UI_PORT:-8080}:8080"]}


def test_the_database_and_the_store_have_no_way_out() -> None:
    assert STACK["networks"]["inside"] == {"internal": True}
    assert SERVICES["postgres"]["networks"] == SERVICES["store"]["networks"] == ["inside"]


def test_of_the_store_only_the_s3_side_can_be_reached() -> None:
    command = SERVICES["store"]["command"]
    assert {"-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3.ip.bind=0.0.0.0"} <= set(command)
    assert not {"-webdav", "-sftp", "-iam"} & set(command)
    assert {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} <= SERVICES["store"]["environment"].keys()


def test_data_is_kept_in_named_volumes() -> None:
    kept = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert kept == set(STACK["volumes"]) == {"database", "store", "logs", "scratch", "weights"}


@pytest.mark.parametrize("name", IMAGES)
def test_every_secret_comes_from_the_environment_and_is_missed_when_it_is_not_there(name: str) -> None:
    for variable, value in IMAGES[name].get("environment", {}).items():
        if SECRET.search(variable):
            assert re.search(r"\$\{\w+:\?[^}]+\}", value), f"{name}: {variable}"
        assert "airflow" not in re.findall(r"//(\w+):", value)


def test_only_the_first_start_knows_the_password_of_the_ui() -> None:
    assert [name for name, s in SERVICES.items() if "ADMIN_PASSWORD" in s.get("environment", {})] == ["init"]


def test_private_addresses_may_be_fetched_in_the_demo_only() -> None:
    assert "PRIVATE" not in (ROOT / FILES[0]).read_text()
    assert DEMO["scheduler"]["environment"]["LAION_PEOPLE_ALLOW_PRIVATE_ADDRESSES"] == "1"


def test_people_sign_in_with_a_role() -> None:
    assert SERVICES["api-server"]["environment"]["AIRFLOW__CORE__AUTH_MANAGER"].endswith("FabAuthManager")
    assert "--role Admin" in (ROOT / "docker" / "init").read_text()


def test_gpus_are_given_to_what_uses_or_counts_them() -> None:
    services = yaml.safe_load((ROOT / FILES[2]).read_text())["services"]
    assert set(services) == {"init", "scheduler"}
    for service in services.values():
        assert service["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]


def test_the_first_start_makes_the_pools_of_the_dags() -> None:
    pools = re.findall(r"^make_pool (\w+)", (ROOT / "docker" / "init").read_text(), re.MULTILINE)
    tasks = (ROOT / "plugins" / "laion_people" / "orchestration" / "tasks.py").read_text()
    (named,) = re.findall(r"^POOLS = {(.*)}", tasks, re.MULTILINE)
    assert sorted(pools) == sorted(re.findall(r'"(laion_people_\w+)"', named))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with bin/compose in it and a `docker` in bin/ that prints its arguments."""
    (tmp_path / "bin").mkdir()
    shutil.copy(ROOT / "bin" / "compose", tmp_path / "bin")
    docker = tmp_path / "bin" / "docker"
    docker.write_text('#!/bin/sh\n[ "$2" = version ] || echo "$@"\n')
    docker.chmod(0o755)
    return tmp_path


def compose(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": f"{checkout / 'bin'}:/usr/bin:/bin"}
    command = [str(checkout / "bin" / "compose"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environ, cwd="/")


def test_calls_at_once_make_one_file_and_leave_no_other(checkout: Path) -> None:
    (checkout / ".env.draft.aB3dEf").write_text("secrets of a call that was killed")
    os.utime(checkout / ".env.draft.aB3dEf", (0, 0))
    environ = {"PATH": f"{checkout / 'bin'}:/usr/bin:/bin"}
    calls = [
        subprocess.Popen(
            [checkout / "bin" / "compose", "ps"], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(8)
    ]
    errors = [call.communicate(timeout=60)[1] for call in calls]
    assert [call.returncode for call in calls] == [0] * 8
    assert sum(b"made .env" in text for text in errors) == 1
    assert sorted(p.name for p in checkout.iterdir()) == [".env", "bin", "settings.env"]
    assert len(secrets(checkout)) > 7


def test_the_first_users_password_is_on_no_command_line(tmp_path: Path) -> None:
    """Every user of the machine sees command lines."""
    log, password = tmp_path / "commands", "S3cret of .env"
    stubs = {
        "bin/airflow": f'#!/bin/sh\necho "airflow $@" >>{log}\n',
        "bin/python": f'#!/bin/sh\necho "python $@" >>{log}\nexec {sys.executable} "$@"\n',
        "airflow/__init__.py": "",
        "airflow/__main__.py": f"import json, sys\ndef main(): json.dump(sys.argv, open('{tmp_path}/argv', 'w'))",
        "boto3.py": "class client:\n  def __init__(self, _): self.list_buckets = lambda: {'Buckets': [{'Name': 'x'}]}",
    }
    for name, text in stubs.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environ = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "PYTHONPATH": str(tmp_path), "ADMIN_USER": "admin"}
    environ |= {"ADMIN_PASSWORD": password, "LAION_PEOPLE_STORE": "s3://x"}
    subprocess.run(["bash", ROOT / "docker" / "init"], env=environ, check=True)
    assert password not in log.read_text()
    made = json.loads((tmp_path / "argv").read_text())
    assert made[:3] == ["airflow", "users", "create"] and f"--password={password}" in made and "admin" in made


def secrets(checkout: Path) -> dict[str, str]:
    lines = (checkout / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_the_first_call_makes_secrets_that_only_their_owner_can_read(checkout: Path) -> None:
    result = compose(checkout, "up", "--detach")
    assert result.stdout.split() == ["compose", "up", "--detach"]
    assert ".env" in result.stderr
    for name in (".env", "settings.env"):
        assert stat.S_IMODE((checkout / name).stat().st_mode) == 0o600
    made = secrets(checkout)
    assert made["ADMIN_PASSWORD"] not in result.stderr + result.stdout
    assert made["UI_ADDRESS"] == "127.0.0.1"
    assert sorted(p.name for p in checkout.iterdir()) == [".env", "bin", "settings.env"]


def test_secrets_are_long_random_and_safe_in_addresses(checkout: Path) -> None:
    compose(checkout, "ps")
    first = secrets(checkout)
    (checkout / ".env").unlink()
    compose(checkout, "ps")
    second = secrets(checkout)
    names = [name for name in first if re.search("PASSWORD|KEY|SECRET", name)]
    assert len(names) == 7
    for name in names:
        assert re.fullmatch(r"[\w-]{20,}=?", first[name]), name
        assert first[name] != second[name]
    assert len(base64.urlsafe_b64decode(first["FERNET_KEY"])) == 32
    assert len({first[name] for name in names}) == len(names)


def test_what_is_there_is_left_alone(checkout: Path) -> None:
    (checkout / ".env").write_text("ADMIN_PASSWORD=mine\n")
    (checkout / "settings.env").write_text("LAION_PEOPLE_PROFILE=standard\n")
    assert compose(checkout, "ps").stderr == ""
    assert (checkout / ".env").read_text() == "ADMIN_PASSWORD=mine\n"
    assert (checkout / "settings.env").read_text() == "LAION_PEOPLE_PROFILE=standard\n"


def test_the_file_asks_for_nothing_that_is_not_made(checkout: Path) -> None:
    compose(checkout, "config")
    asked = set(re.findall(r"\$\{(\w+)", "".join((ROOT / name).read_text() for name in FILES)))
    assert asked == secrets(checkout).keys() - {"COMPOSE_PROJECT_NAME"}


def test_without_the_plugin_the_old_docker_compose_is_used(checkout: Path) -> None:
    (checkout / "bin" / "docker").write_text("#!/bin/sh\nexit 1\n")
    old = checkout / "bin" / "docker-compose"
    old.write_text('#!/bin/sh\necho old "$@"\n')
    old.chmod(0o755)
    assert compose(checkout, "ps").stdout == "old ps\n"


def test_the_secrets_are_never_committed_nor_sent_to_docker() -> None:
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {".env*", "settings.env*"} <= set(ignored)
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"
