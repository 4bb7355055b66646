"""Tasks as pods: what is asked of the cluster, and what a task says of what the cluster does."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kubernetes_validate
import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from kubernetes.client import ApiClient

from laion_people.engine.catalog import FOLLOWERS, STEPS, TASKS
from laion_people.orchestration import pods
from laion_people.orchestration.pods import PodOperator
from laion_people.orchestration.process import ProcessOperator
from laion_people.orchestration.tasks import audit_task, step_task, worker_task
from tests.dags.conftest import ROOT
from tests.dags.fake_kubernetes import (
    FAIL,
    HANG,
    KUBERNETES,
    LIE,
    REFUSE,
    REJECT,
    SILENT,
    VANISH,
    WAIT,
    FakeKubernetes,
    Fate,
)

IMAGE = "registry.example.org/laion-people-worker:0.1.0"
PROFILES = sorted(path.stem for path in (ROOT / "include" / "models").glob("*.yaml"))
EXTRACT = ("download", "detect", "pose", "mesh", "clip_filter")
CLUSTER = ("cluster", "label")
CAPTION = ("assign", "compose", "embed", "caption", "describe")
OTHERS = ("list_metadata", "count", "plan", "audit", "relabel", "publish", "remove")
CLUSTER_SETTINGS = {
    "RUNNER": "kubernetes",
    "STORE": "s3://bucket/laion",
    "POD_IMAGE": IMAGE,
    "POD_SECRET": "laion-people-s3",
    "POD_NAMESPACE": "laion",
}
RESULT = {"manifests": [{"uri": "file:///x", "sha256": "0"}], "rows": 1, "shards": 1}


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The settings of a cluster, to be changed by a test."""
    set_all(monkeypatch, CLUSTER_SETTINGS)
    return monkeypatch


def set_all(monkeypatch: pytest.MonkeyPatch, settings: dict[str, str]) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(f"LAION_PEOPLE_{name}", value)


def tasks() -> list[PodOperator]:
    """Every kind of task that the DAGs have."""
    steps = [step_task(step, partitions="laion2B-en/00042", shards="0-15") for step in EXTRACT + CAPTION]
    release = [step_task(step, partitions=["a/1", "a/2"], clusters="v0007") for step in CLUSTER]
    others = [
        worker_task("count", "partitions"),
        worker_task("plan", "shard-groups", "--stage", "extract", partitions="laion2B-en/00042"),
        audit_task("extract", partitions="laion2B-en/00042"),
    ]
    return [*steps, *release, *others]


def sent(task: PodOperator) -> dict[str, Any]:
    """What the API server is sent for a task."""
    return ApiClient().sanitize_for_serialization(task.build_pod_request_obj(dry_run=True))


def variables(container: dict[str, Any]) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container["env"]}


def base(pod: dict[str, Any]) -> dict[str, Any]:
    (container,) = (c for c in pod["spec"]["containers"] if c["name"] == "base")
    return container


@pytest.fixture(scope="module", params=PROFILES)
def requests(request: pytest.FixtureRequest) -> dict[str, dict[str, Any]]:
    """The pod of every task, with every profile."""
    chosen = {
        "PROFILE": request.param,
        "POD_NODE_SELECTOR": '{"pool": "batch"}',
        "POD_GPU_NODE_SELECTOR": '{"gpu": "h100"}',
        "POD_TOLERATIONS": '[{"key": "nvidia.com/gpu", "operator": "Exists"}]',
        "POD_WEIGHTS_CLAIM": "weights",
    }
    with pytest.MonkeyPatch.context() as monkeypatch:
        set_all(monkeypatch, CLUSTER_SETTINGS | chosen)
        return {task.task_id: sent(task) for task in tasks()}


def test_every_pod_is_what_the_kubernetes_schema_says(requests: dict[str, dict[str, Any]]) -> None:
    for pod in requests.values():
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_the_schema_catches_a_typo(settings: pytest.MonkeyPatch) -> None:
    pod = sent(step_task("detect", partitions="a/1"))
    base(pod)["securityContext"]["readOnlyRootFileSystem"] = True
    with pytest.raises(kubernetes_validate.ValidationError, match="readOnlyRootFileSystem"):
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_a_pod_asks_for_what_its_step_needs_and_only_gpu_pods_go_to_gpu_nodes(
    requests: dict[str, dict[str, Any]],
) -> None:
    for step, pod in requests.items():
        resources = base(pod)["resources"]
        assert resources["requests"].keys() >= {"cpu", "memory", "ephemeral-storage"}
        assert resources["limits"]["memory"] == resources["requests"]["memory"]
        gpus = resources["limits"].get("nvidia.com/gpu")
        assert gpus == resources["requests"].get("nvidia.com/gpu")
        assert pod["spec"]["nodeSelector"] == {"pool": "batch"} | ({"gpu": "h100"} if gpus else {})
        if step in ("download", "mesh", "compose", "cluster", "plan", "audit"):
            assert gpus is None


@pytest.mark.parametrize(("cpu", "threads"), [("12", "12"), ("2.5", "3"), ("0.5", "1"), ("2500m", "3"), ("500m", "1")])
def test_a_pod_has_as_many_threads_as_it_asks_for_cores(settings: pytest.MonkeyPatch, cpu: str, threads: str) -> None:
    settings.setenv("LAION_PEOPLE_POD_RESOURCES", json.dumps({"detect": {"cpu": cpu}}))
    pod = base(sent(step_task("detect", partitions="a/1")))
    assert pod["resources"]["requests"]["cpu"] == cpu
    assert variables(pod).items() >= {"LAION_PEOPLE_CORES": threads, "OMP_NUM_THREADS": threads}.items()


def test_threads_that_are_chosen_are_kept(settings: pytest.MonkeyPatch) -> None:
    settings.setenv("LAION_PEOPLE_CORES", "3")
    assert variables(base(sent(step_task("detect", partitions="a/1"))))["LAION_PEOPLE_CORES"] == "3"


def test_a_pod_gets_no_variables_of_services_that_look_like_settings(
    requests: dict[str, dict[str, Any]],
) -> None:
    assert not any(pod["spec"]["enableServiceLinks"] for pod in requests.values())


def test_waiting_for_a_node_and_an_image_is_not_time_of_the_work(settings: pytest.MonkeyPatch) -> None:
    settings.setenv("LAION_PEOPLE_POD_SCHEDULE_SECONDS", "7200")
    settings.setenv("LAION_PEOPLE_POD_STARTUP_SECONDS", "600")
    plan = worker_task("plan", "shard-groups", partitions="a/1", execution_timeout=timedelta(hours=1))
    assert plan.execution_timeout == timedelta(hours=3, minutes=10)
    with DAG("inherits", default_args={"execution_timeout": timedelta(hours=1)}):
        assert worker_task("count", "partitions").execution_timeout == timedelta(hours=3, minutes=10)


def test_the_models_of_the_hubs_run_on_gpus_and_the_packaged_ones_on_cpus(settings: pytest.MonkeyPatch) -> None:
    for profile, gpus in (("packaged", None), ("standard", "1"), ("large", "1"), ("my_own", "1")):
        settings.setenv("LAION_PEOPLE_PROFILE", profile)
        pod = sent(step_task("detect", partitions="a/1"))
        assert base(pod)["resources"]["limits"].get("nvidia.com/gpu") == gpus


def test_a_pod_is_not_root_and_writes_to_mounts_only(requests: dict[str, dict[str, Any]]) -> None:
    for pod in requests.values():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False and not spec["hostNetwork"]
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"]
            assert context["capabilities"] == {"drop": ["ALL"]}
        mounts = {mount["mountPath"] for mount in base(pod)["volumeMounts"]}
        assert mounts == {"/tmp", "/dev/shm", "/models", "/airflow/xcom"}
        assert not any("hostPath" in volume for volume in spec["volumes"])


def test_images_are_named_by_version_and_secrets_by_reference(settings: pytest.MonkeyPatch) -> None:
    settings.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    settings.setenv("LAION_PEOPLE_THRESHOLD", "0.28")
    for task in tasks():
        pod = sent(task)
        assert "hush" not in json.dumps(pod)
        assert base(pod)["envFrom"] == [{"secretRef": {"name": "laion-people-s3"}}]
        cores = base(pod)["resources"]["requests"]["cpu"]
        assert variables(base(pod)) == {
            "HOME": "/tmp",
            "LAION_PEOPLE_CORES": cores,
            "LAION_PEOPLE_MODELS_DIR": "/models",
            "LAION_PEOPLE_STORE": "s3://bucket/laion",
            "LAION_PEOPLE_THRESHOLD": "0.28",
            "OMP_NUM_THREADS": cores,
        }
        for container in pod["spec"]["containers"]:
            assert container["image"].rpartition(":")[2] not in ("", "latest", container["image"])


def test_a_pod_runs_the_same_command_line_as_the_process(settings: pytest.MonkeyPatch) -> None:
    hostile = "$(touch pwned); --store=/tmp"
    pod = sent(step_task("detect", partitions=hostile, shards=hostile))
    result = "--result=/airflow/xcom/return.json"
    assert base(pod)["args"] == ["run", "detect", f"--shards={hostile}", result, "--", hostile]
    assert base(pod)["command"] == []  # the image's entry point; no shell
    kubernetes_validate.validate(pod, KUBERNETES, strict=True)
    assert pod["metadata"]["labels"]["laion-people/partition"].isascii()


def test_parameters_of_a_run_reach_the_pod_as_single_arguments() -> None:
    hostile = "0.2; touch pwned"
    flags = {"force": "True", "retry_failed": "False"}
    pod = sent(step_task("clip_filter", partitions="a/1", overrides={"threshold": hostile}, flags=flags))
    assert {f"--set=threshold={hostile}", "--force"} < set(base(pod)["args"])
    assert "--retry-failed" not in base(pod)["args"]


def test_settings_reach_the_pod(settings: pytest.MonkeyPatch) -> None:
    digest = f"{IMAGE}@sha256:{'0' * 64}"
    for name, value in {
        "IMAGE": digest,
        "SIDECAR_IMAGE": "registry.example.org/alpine:3.24.2",
        "PULL_SECRET": "registry",
        "SERVICE_ACCOUNT": "worker",
        "WEIGHTS_CLAIM": "weights",
        "GPU_RESOURCE": "amd.com/gpu",
        "RESOURCES": '{"detect": {"memory": "48Gi", "gpu": 2, "shared_memory": "8Gi", "ephemeral_storage": "9Gi"}}',
    }.items():
        settings.setenv(f"LAION_PEOPLE_POD_{name}", value)
    pod = sent(step_task("detect", partitions="a/1", hours=3))
    spec, limits = pod["spec"], base(pod)["resources"]["limits"]
    assert [container["image"] for container in spec["containers"]] == [digest, "registry.example.org/alpine:3.24.2"]
    assert (spec["serviceAccountName"], spec["imagePullSecrets"]) == ("worker", [{"name": "registry"}])
    assert limits == {"memory": "48Gi", "amd.com/gpu": "2"}
    assert base(pod)["resources"]["requests"]["ephemeral-storage"] == "9Gi"
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert volumes["weights"]["persistentVolumeClaim"] == {"claimName": "weights"}
    assert volumes["shared-memory"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "8Gi"}
    assert spec["activeDeadlineSeconds"] == timedelta(hours=5.5).total_seconds()  # so that no orphan keeps a GPU


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("POD_IMAGE", "", r"LAION_PEOPLE_POD_IMAGE.*\[bad-setting\]$"),
        ("POD_IMAGE", "laion-people-worker", r"should look like .*never :latest"),
        ("POD_IMAGE", "localhost:5000/laion-people-worker", r"should look like .*never :latest"),
        ("POD_IMAGE", "laion-people-worker:latest", r"should look like .*never :latest"),
        ("POD_IMAGE", "laion-people-worker@sha256:123", r"should look like .*never :latest"),
        ("POD_SIDECAR_IMAGE", "alpine", r"should look like .*never :latest"),
        ("POD_NODE_SELECTOR", "pool=gpu", r'should look like {"pool": "batch"}'),
        ("POD_NODE_SELECTOR", '{"pool": 1}', r'should look like {"pool": "batch"}'),
        ("POD_TOLERATIONS", '[{"keys": "gpu"}]', r"should look like \[{.*NoSchedule"),
        ("POD_RESOURCES", '{"detect": {"memory": "24 GB"}}', r'should look like {"detect": {"gpu": 1'),
        ("POD_RESOURCES", '{"detect": {"mem": "24Gi"}}', r'should look like {"detect": {"gpu": 1'),
        ("POD_RESOURCES", '{"detekt": {"cpu": 8}}', r"detekt; .* download, detect, .* audit \[bad-setting\]$"),
        ("MODELS_MIRROR", "https://me:hush@example.org/m", r"LAION_PEOPLE_POD_SECRET .*\[exposed-password\]$"),
        ("STORE", "s3://me:hu/sh@bucket/x", r"^LAION_PEOPLE_STORE .*\[exposed-password\]$"),
        ("POD_SECRET", "Not A Name", "should look like laion-people"),
        ("STORE", "./data", r" \./data: LAION_PEOPLE_STORE .*\[bad-setting\]$"),
        ("STORE", "/data", r" /data: .* LAION_PEOPLE_POD_STORE_CLAIM.*\[bad-setting\]$"),
        ("GPU_TASKS_PER_RUN", "-1", r"at least 0 \[bad-setting\]$"),
        ("RUNNER", "docker", r"process, kubernetes \[bad-setting\]$"),
    ],
)
def test_a_wrong_setting_is_said_by_the_task_and_not_retried(
    settings: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    settings.setenv(f"LAION_PEOPLE_{name}", value)
    with pytest.raises(AirflowFailException, match=says):
        step_task("detect", partitions="a/1").execute({})


def test_a_store_that_is_a_folder_is_mounted_where_it_is(settings: pytest.MonkeyPatch) -> None:
    settings.setenv("LAION_PEOPLE_STORE", "file:///mnt/laion")
    settings.setenv("LAION_PEOPLE_POD_STORE_CLAIM", "laion-store")
    pod = sent(step_task("detect", partitions="a/1"))
    assert {"name": "store", "mountPath": "/mnt/laion"} in base(pod)["volumeMounts"]
    assert {"name": "store", "persistentVolumeClaim": {"claimName": "laion-store"}} in pod["spec"]["volumes"]


def test_a_run_may_be_kept_from_taking_all_gpus(settings: pytest.MonkeyPatch) -> None:
    assert step_task("detect", partitions="a/1").max_active_tis_per_dagrun is None
    settings.setenv("LAION_PEOPLE_GPU_TASKS_PER_RUN", "3")
    assert step_task("detect", partitions="a/1").max_active_tis_per_dagrun == 3
    assert step_task("mesh", partitions="a/1").max_active_tis_per_dagrun is None


@pytest.mark.parametrize("runner", ["process", "kubernetes"])
def test_describe_is_skipped_unless_it_is_asked_for(settings: pytest.MonkeyPatch, runner: str) -> None:
    settings.setenv("LAION_PEOPLE_RUNNER", runner)
    task = step_task("describe", partitions="a/1")
    assert isinstance(task, ProcessOperator if runner == "process" else PodOperator)
    with pytest.raises(AirflowSkipException, match=r"LAION_PEOPLE_DESCRIBE=1 .*\[experimental\]$"):
        task._pre_execute_hook({})
    settings.setenv("LAION_PEOPLE_DESCRIBE", "1")
    task._pre_execute_hook({})


def test_resources_are_given_for_steps_and_profiles_that_exist() -> None:
    asked = {name: entry.pods for name, entry in STEPS.items() if name not in FOLLOWERS} | TASKS
    assert asked.keys() == {*EXTRACT, *CLUSTER, *CAPTION, *OTHERS}
    assert all({""} <= pods.keys() <= {"", *PROFILES} for pods in asked.values())


# What a task says of what the cluster does, with pods that run.


@pytest.fixture
def cluster(tmp_path: Path, settings: pytest.MonkeyPatch) -> Iterator[FakeKubernetes]:
    with FakeKubernetes(tmp_path / "cluster") as cluster:
        for name, value in cluster.environ.items():
            settings.setenv(name, value)
        settings.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", cluster.environ["KUBECONFIG"])
        yield cluster


def context(attempt: int = 1, state: dict[str, Any] | None = None) -> dict[str, Any]:
    """What Airflow gives a task; ``state`` is what it keeps for the next attempt."""
    kept = {} if state is None else state
    ti = SimpleNamespace(
        dag_id="laion_people_extract",
        task_id="shards.detect",
        map_index=0,
        try_number=attempt,
        xcom_push=lambda **kv: None,
    )
    store = SimpleNamespace(get=kept.get, set=kept.__setitem__)
    return {"ti": ti, "run_id": "manual__2026-11-23", "dag": SimpleNamespace(), "task_state_store": store}


def detect(**options: Any) -> PodOperator:
    task = step_task("detect", partitions="tiny/00000", shards="0")
    task.startup_check_interval_seconds = 0
    for name, value in options.items():
        setattr(task, name, value)
    return task


def test_a_pod_hands_its_result_on_and_knows_its_run(cluster: FakeKubernetes) -> None:
    cluster.fate("detect", LIE)
    assert detect().execute(context()) == RESULT
    (pod,) = cluster.pods_of("detect")
    assert {"name": "AIRFLOW_CTX_DAG_RUN_ID", "value": "manual__2026-11-23"} in base(pod)["env"]
    labels = pod["metadata"]["labels"]
    wanted = {"dag_id": "laion_people_extract", "task_id": "shards.detect", "map_index": "0", "try_number": "1"}
    assert labels.items() >= (wanted | {"laion-people/partition": "tiny.00000", "run_id": "manual__2026-11-23"}).items()


@pytest.mark.parametrize(
    ("fate", "says"),
    [
        (FAIL, r"^laion-people: no luck$"),
        (VANISH, r"^pod laion-people-detect-\w+ .*\[pod-lost\]$"),
        (REJECT, r"^pod laion-people-detect-\w+: UnexpectedAdmissionError: Allocate failed.*\[pod-lost\]$"),
        (SILENT, r"\[result-lost\]$"),
    ],
)
def test_a_failure_is_one_line_and_the_next_attempt_is_another_pod(
    cluster: FakeKubernetes, fate: Fate, says: str
) -> None:
    cluster.fate("detect", fate, LIE)
    state: dict[str, Any] = {}
    with pytest.raises(AirflowException, match=says) as caught:
        detect().execute(context(1, state))
    assert not isinstance(caught.value, AirflowFailException)
    assert detect().execute(context(2, state)) == RESULT
    assert len(cluster.pods_of("detect")) == 2
    assert cluster.pods == {}


def test_bad_usage_is_not_retried(cluster: FakeKubernetes) -> None:
    cluster.fate("detect", REFUSE)
    with pytest.raises(AirflowFailException, match=r"^laion-people: no such partition$"):
        detect().execute(context())


def test_a_run_without_a_key_fails_at_once_and_makes_no_pod(cluster: FakeKubernetes) -> None:
    with pytest.raises(AirflowFailException, match=r"\[no-partition-key\]$"):
        detect(partitions="").execute(context())
    assert cluster.created == []


def test_a_sidecar_that_hangs_does_not_hang_the_task(cluster: FakeKubernetes, settings: pytest.MonkeyPatch) -> None:
    settings.setattr(pods, "RESULT_SECONDS", 1.0)
    cluster.fate("detect", HANG)
    with pytest.raises(AirflowException, match=r" 1 s \[result-lost\]$"):
        detect().execute(context())
    assert cluster.pods == {}


def test_a_drained_worker_leaves_no_green_task_and_no_pod(cluster: FakeKubernetes) -> None:
    cluster.fate("detect", WAIT)
    task = detect()

    def drain() -> None:  # as Airflow's SIGTERM handler does, in the middle of execute()
        while not cluster.pods:
            time.sleep(0.01)
        task.on_kill()

    threading.Thread(target=drain).start()
    with pytest.raises(AirflowException, match=r"\[pod-lost\]$"):
        task.execute(context())
    assert cluster.pods == {}


def test_a_task_that_is_stopped_before_it_has_a_pod_makes_none(cluster: FakeKubernetes) -> None:
    task = detect()
    task.on_kill()
    with pytest.raises(AirflowException, match=r"\[pod-lost\]$"):
        task.execute(context())
    assert cluster.created == []


def test_the_next_attempt_goes_on_with_the_pod_of_a_task_that_was_killed(cluster: FakeKubernetes) -> None:
    cluster.fate("detect", replace(LIE, wait=True))
    state: dict[str, Any] = {}
    killed, first = detect(), context(1, state)
    killed.get_or_create_pod(killed.build_pod_request_obj(first), first)  # and then nothing more
    cluster.release()
    assert detect().execute(context(2, state)) == RESULT
    assert len(cluster.created) == 1


def test_the_next_attempt_makes_a_pod_in_place_of_one_that_was_evicted(cluster: FakeKubernetes) -> None:
    cluster.fate("detect", WAIT, LIE)
    state: dict[str, Any] = {}
    killed, first = detect(), context(1, state)
    killed.get_or_create_pod(killed.build_pod_request_obj(first), first)  # and then nothing more
    (pod,) = cluster.pods.values()
    pod.end("base", 137)
    pod.body["status"] |= {"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory."}
    assert detect().execute(context(2, state)) == RESULT
    assert len(cluster.created) == 2
    assert cluster.pods == {}
