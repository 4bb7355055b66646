"""What the KubernetesExecutor makes of deploy/pod-template.yaml."""

from __future__ import annotations

from datetime import UTC, datetime

import kubernetes_validate
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
from kubernetes.client import ApiClient

from tests.dags.fake_kubernetes import KUBERNETES
from tools.local_airflow import ROOT


def test_the_executor_makes_a_pod_of_a_task_that_kubernetes_knows() -> None:
    pod = PodGenerator.construct_pod(
        dag_id="laion_people_extract",
        task_id="shards.detect",
        pod_id="detect-1",
        try_number=1,
        kube_image="registry.example.org/laion-people-airflow:0.1.0",
        date=datetime(2026, 1, 1, tzinfo=UTC),
        args=["python", "-m", "airflow.sdk.execution_time.execute_workload"],
        pod_override_object=None,
        base_worker_pod=PodGenerator.deserialize_model_file(str(ROOT / "deploy" / "pod-template.yaml")),
        namespace="laion-people",
        scheduler_job_id="1",
        map_index=3,
    )
    made = ApiClient().sanitize_for_serialization(pod)
    kubernetes_validate.validate(made, KUBERNETES, strict=True)
    base = made["spec"]["containers"][0]
    assert made["metadata"]["namespace"] == "laion-people"
    assert made["spec"]["serviceAccountName"] == "laion-people-task"
    assert base["name"] == "base"
    assert base["args"][:2] == ["python", "-m"]
    assert {"name": "AIRFLOW__CORE__EXECUTOR", "value": "LocalExecutor"} in base["env"]
