"""What a task asks of its pod, from the settings: image, resources, environment, volumes, security, behaviour."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from kubernetes.client import models as k8s

from laion_people.engine.catalog import FOLLOWERS, STEPS, TASKS, Resources
from laion_people.errors import UsageError, without_logins
from laion_people.settings import PREFIX, Settings, to_environment

WORKER_USER = 10001  # of the worker's image; the sidecar's image has no user of its own
WEIGHTS = "/models"
SECURITY = {
    "security_context": k8s.V1PodSecurityContext(
        run_as_non_root=True,
        run_as_user=WORKER_USER,
        run_as_group=WORKER_USER,
        fs_group=WORKER_USER,
        fs_group_change_policy="OnRootMismatch",
        seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
    ),
    **dict.fromkeys(
        ("container_security_context", "xcom_sidecar_container_security_context"),
        k8s.V1SecurityContext(
            allow_privilege_escalation=False,
            read_only_root_filesystem=True,
            capabilities=k8s.V1Capabilities(drop=["ALL"]),
        ),
    ),
}
BEHAVIOUR = {
    "do_xcom_push": True,
    "get_logs": True,
    "container_name_log_prefix_enabled": False,
    # So the pod's status has the command's last words, which may be missing in a log that is followed.
    "termination_message_policy": "FallbackToLogsOnError",
    "log_pod_spec_on_failure": False,
    "log_events_on_failure": True,
    # "delete_active_pod" would keep only few pods to look at, since the sidecar of most still runs when they are done.
    # And the next try would take a pod that it finds dead (evicted, and the worker died too) for its own, and fail.
    "on_finish_action": "delete_pod",
    # After a restart of the scheduler or a worker, the next try finds the pod of the one before and goes on with it.
    "durable": True,
    # A deferred task goes on in another process when the pod has ended; a pod that is gone by then counts as a success.
    "deferrable": False,
}
# Settings that mean nothing in a pod, and the folder of models, which is WEIGHTS there.
AIRFLOW_ONLY = (
    "runner",
    "gpu_tasks_per_run",
    "partitions_at_once",
    "backfill_poll_seconds",
    "first_days",
    "deadline_hours",
    "models_dir",
)


def pod_options(settings: Settings, step: str) -> dict[str, Any]:
    """What a step's pod is to be like, as arguments of a KubernetesPodOperator. Raises UsageError."""
    if not settings.pod_image:
        raise UsageError(
            "bad-setting",
            f"{PREFIX}RUNNER=kubernetes needs the worker's image: set {PREFIX}POD_IMAGE, for example to "
            "registry.example.org/laion-people-worker:0.1.0",
        )
    resources = step_resources(settings, step)
    volumes, mounts = _volumes(settings, str(resources.shared_memory))
    on_gpu = bool(int(resources.gpu))
    secret = [k8s.V1EnvFromSource(secret_ref=k8s.V1SecretEnvSource(name=settings.pod_secret))]
    return {
        "name": f"laion-people-{step.replace('_', '-')}",
        "namespace": settings.pod_namespace or None,
        "image": settings.pod_image,
        "sidecar_image": settings.pod_sidecar_image,
        "image_pull_secrets": settings.pod_pull_secret or None,
        "env_vars": _environment(settings, str(resources.cpu)),
        "env_from": secret if settings.pod_secret else [],
        "labels": {"app.kubernetes.io/name": "laion-people", "app.kubernetes.io/component": step},
        # A pod that autoscalers move to another node starts its group of shards again.
        "annotations": {
            "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
            "karpenter.sh/do-not-disrupt": "true",
        },
        "container_resources": _requirements(resources, settings.pod_gpu_resource),
        "node_selector": _node_selector(settings, on_gpu),
        "tolerations": json.loads(settings.pod_tolerations or "[]"),
        "service_account_name": settings.pod_service_account or None,
        "automount_service_account_token": False,
        "volumes": volumes,
        "volume_mounts": mounts,
        **SECURITY,
        **BEHAVIOUR,
        "schedule_timeout_seconds": settings.pod_schedule_seconds,
        "startup_timeout_seconds": settings.pod_startup_seconds,
    }


def step_resources(settings: Settings, step: str) -> Resources:
    """What the pod of a step (or of another task) asks for. Raises UsageError."""
    pods = {name: entry.pods for name, entry in STEPS.items() if name not in FOLLOWERS} | TASKS
    on_cluster = json.loads(settings.pod_resources or "{}")
    if unknown := sorted(on_cluster.keys() - pods.keys()):
        raise UsageError("bad-setting", f"{PREFIX}POD_RESOURCES: no step {unknown[0]}; there are {', '.join(pods)}")
    asked = pods[step].get(settings.profile, pods[step][""])
    return replace(asked, **on_cluster.get(step, {}))


def _requirements(resources: Resources, gpu_resource: str) -> k8s.V1ResourceRequirements:
    gpus = {gpu_resource: str(resources.gpu)} if int(resources.gpu) else {}
    limits = {"memory": str(resources.memory)} | gpus
    unlimited = {"cpu": str(resources.cpu), "ephemeral-storage": str(resources.ephemeral_storage)}
    return k8s.V1ResourceRequirements(requests=unlimited | limits, limits=limits)


def _node_selector(settings: Settings, on_gpu: bool) -> dict[str, str]:
    for_gpu = settings.pod_gpu_node_selector if on_gpu else ""
    return json.loads(settings.pod_node_selector or "{}") | json.loads(for_gpu or "{}")


def _environment(settings: Settings, cpu: str) -> list[k8s.V1EnvVar]:
    """The settings that a step reads. Passwords come from the cluster's secret, and Airflow never sees them.

    A pod sees all cores of its node. It is set to use only the ``cpu`` that it asks for, since its memory doesn't grow
    with the node. Raises UsageError for a password.
    """
    cores = str(settings.cores or max(1, math.ceil(int(cpu[:-1]) / 1000 if cpu.endswith("m") else float(cpu))))
    variables = {
        name: value
        for name, value in to_environment(settings).items()
        if name.removeprefix(PREFIX).lower() not in AIRFLOW_ONLY and not name.startswith(f"{PREFIX}POD_")
    }
    variables |= {f"{PREFIX}STORE": settings.store, f"{PREFIX}MODELS_DIR": WEIGHTS, "HOME": "/tmp"}  # noqa: S108
    variables |= {f"{PREFIX}CORES": cores, "OMP_NUM_THREADS": cores}
    if secret := [name for name, value in variables.items() if without_logins(value) != value]:
        raise UsageError(
            "exposed-password",
            f"{secret[0]} has a password, which everyone who may see pods could read: make it a key of the secret that "
            f"{PREFIX}POD_SECRET names, and don't set it for Airflow",
        )
    return [k8s.V1EnvVar(name=name, value=value) for name, value in sorted(variables.items())]


def _volumes(settings: Settings, shared_memory: str) -> tuple[list[k8s.V1Volume], list[k8s.V1VolumeMount]]:
    """What a pod may write to, its root being read-only: /tmp, /dev/shm, the weights, and a store that is a folder."""
    volumes = {
        "/tmp": _empty("tmp"),  # noqa: S108
        "/dev/shm": _empty("shared-memory", medium="Memory", size_limit=shared_memory),  # noqa: S108
        WEIGHTS: _claimed("weights", settings.pod_weights_claim) if settings.pod_weights_claim else _empty("weights"),
    }
    if not settings.store.startswith("s3://"):
        folder = Path(settings.store.removeprefix("file://"))
        if not (folder.is_absolute() and settings.pod_store_claim):
            raise UsageError(
                "bad-setting",
                f"pods cannot see the store {settings.store}: {PREFIX}STORE should be s3://bucket/prefix, or an "
                f"absolute folder where {PREFIX}POD_STORE_CLAIM, the volume claim that holds it, is mounted",
            )
        volumes[str(folder)] = _claimed("store", settings.pod_store_claim)
    mounts = [k8s.V1VolumeMount(name=volume.name, mount_path=path) for path, volume in volumes.items()]
    return list(volumes.values()), mounts


def _empty(name: str, **options: str) -> k8s.V1Volume:
    return k8s.V1Volume(name=name, empty_dir=k8s.V1EmptyDirVolumeSource(**options))


def _claimed(name: str, claim: str) -> k8s.V1Volume:
    source = k8s.V1PersistentVolumeClaimVolumeSource(claim_name=claim)
    return k8s.V1Volume(name=name, persistent_volume_claim=source)
