"""What holds for the files of a deployment on Kubernetes, read without a cluster."""

from __future__ import annotations

import ipaddress
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_validate import validate

from laion_people.settings import PREFIX, from_environment

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
KUBERNETES = "1.37"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
VALUES = yaml.safe_load((DEPLOY / "values.yaml").read_text())
TEMPLATE = yaml.safe_load((DEPLOY / "pod-template.yaml").read_text())
CLUSTER: list[dict[str, Any]] = list(yaml.safe_load_all((DEPLOY / "cluster.yaml").read_text()))
SETTINGS: dict[str, str] = next(o for o in CLUSTER if o["kind"] == "ConfigMap")["data"]
BASE = TEMPLATE["spec"]["containers"][0]


def named(kind: str, name: str) -> dict[str, Any]:
    return next(o for o in CLUSTER if o["kind"] == kind and o["metadata"]["name"] == name)


@pytest.mark.parametrize("what", [*CLUSTER, TEMPLATE], ids=lambda o: f"{o['kind']}/{o['metadata']['name']}")
def test_kubernetes_knows_every_field(what: dict[str, Any]) -> None:
    validate(what, KUBERNETES, strict=True)


def test_airflow_is_the_version_of_the_requirements_and_the_images_are_the_projects() -> None:
    airflow = re.search(r"^apache-airflow==(.*)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert airflow
    assert VALUES["airflowVersion"] == airflow[1]
    image = f"{VALUES['defaultAirflowRepository']}:{VALUES['defaultAirflowTag']}"
    assert image.endswith(f"/laion-people-airflow:{VERSION}")
    executor = VALUES["config"]["kubernetes_executor"]
    assert f"{executor['worker_container_repository']}:{executor['worker_container_tag']}" == BASE["image"] == image
    assert f"/laion-people-worker:{VERSION}-" in SETTINGS["LAION_PEOPLE_POD_IMAGE"]


def test_the_chart_is_pinned_wherever_it_is_named() -> None:
    named_in = [DEPLOY / "values.yaml", ROOT / "docs" / "kubernetes.md"]
    versions = {v for path in named_in for v in re.findall(r"airflow/airflow --version (\S+)", path.read_text())}
    assert versions == {"1.22.0"}


def test_no_secret_is_written_down() -> None:
    for path in (DEPLOY / name for name in ("values.yaml", "pod-template.yaml", "cluster.yaml")):
        assert not re.search(
            r"(?i)^\s*(\w*(password|secret|token)|pass|\w*fernetKey|\w*secretKey): \S", path.read_text()
        )
    assert not any(o["kind"] == "Secret" for o in CLUSTER)
    for name in ("fernetKeySecretName", "apiSecretKeySecretName", "jwtSecretName"):
        assert VALUES[name] == VALUES["data"]["metadataSecretName"]


def test_nobody_can_sign_in_with_the_charts_own_password() -> None:
    assert VALUES["createUserJob"]["defaultUser"]["enabled"] is False
    assert VALUES["config"]["core"]["auth_manager"].endswith("FabAuthManager")


def test_tasks_are_pods_and_dags_come_with_the_image() -> None:
    assert VALUES["executor"] == "KubernetesExecutor"
    assert VALUES["dags"] == {"gitSync": {"enabled": False}, "persistence": {"enabled": False}}
    assert VALUES["postgresql"]["enabled"] is VALUES["redis"]["enabled"] is False


def test_settings_are_valid_and_reach_airflow_and_its_tasks() -> None:
    settings = from_environment({k: v for k, v in SETTINGS.items() if k.startswith(PREFIX)})
    assert settings.runner == "kubernetes"
    sources = BASE["envFrom"]
    assert yaml.safe_load(VALUES["extraEnvFrom"]) == sources
    assert [next(iter(s.values()))["name"] for s in sources] == ["laion-people-settings", settings.pod_secret]


def test_a_task_may_start_pods_and_a_step_may_do_nothing() -> None:
    account = named("ServiceAccount", "laion-people-task")["metadata"]["name"]
    binding = named("RoleBinding", "laion-people-task")
    assert TEMPLATE["spec"]["serviceAccountName"] == account
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account}]
    rules = {r["resources"][0]: set(r["verbs"]) for r in named("Role", binding["roleRef"]["name"])["rules"]}
    assert rules["pods"] == {"create", "get", "list", "watch", "patch", "delete"}
    assert rules["pods/exec"] == {"create", "get"}
    assert "secrets" not in rules
    step = named("ServiceAccount", SETTINGS["LAION_PEOPLE_POD_SERVICE_ACCOUNT"])
    assert step["automountServiceAccountToken"] is False
    assert [o["kind"] for o in CLUSTER].count("RoleBinding") == 1


def test_the_documented_role_is_the_one_that_is_made() -> None:
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    assert "deploy/cluster.yaml" in text
    assert "deploy/values.yaml" in text
    assert "deploy/pod-template.yaml" in text


def test_a_task_is_no_root_and_has_limits() -> None:
    pod = TEMPLATE["spec"]
    assert pod["restartPolicy"] == "Never"
    assert BASE["name"] == "base"
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert BASE["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert BASE["securityContext"]["allowPrivilegeEscalation"] is False
    assert {"memory"} == BASE["resources"]["limits"].keys()
    for part in ("apiServer", "scheduler", "dagProcessor", "triggerer"):
        assert "memory" in VALUES[part]["resources"]["limits"]


def test_a_tasks_secrets_are_those_of_the_chart() -> None:
    keys = {e["valueFrom"]["secretKeyRef"]["key"] for e in BASE["env"] if "valueFrom" in e}
    secrets = {e["valueFrom"]["secretKeyRef"]["name"] for e in BASE["env"] if "valueFrom" in e}
    assert keys == {"connection", "fernet-key", "jwt-secret"}
    assert secrets == {VALUES["data"]["metadataSecretName"]}


@pytest.mark.parametrize("address", ["10.1.2.3", "172.20.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"])
def test_a_step_cannot_reach_the_clusters_addresses(address: str) -> None:
    policy = named("NetworkPolicy", "laion-people-step")["spec"]
    blocks = [to["ipBlock"] for rule in policy["egress"] for to in rule.get("to", []) if "ipBlock" in to]
    for block in blocks:
        closed = [ipaddress.ip_network(network) for network in block["except"]]
        assert any(ipaddress.ip_address(address) in network for network in closed)
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert "ingress" not in policy
    assert policy["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "laion-people"}  # as podoptions.py says


def test_nothing_is_called_latest() -> None:
    for path in DEPLOY.glob("*.yaml"):
        assert not re.search(r":\s*latest|:latest", path.read_text()), path
