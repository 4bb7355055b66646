"""A task as a pod: what LAION_PEOPLE_RUNNER=kubernetes makes of the worker's command line.

A pod runs the same arguments as the process would, on the worker's image. Whatever goes wrong between Airflow and the
cluster costs a retry and no data: steps are idempotent, and the audit recounts the store whatever the tasks say.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from typing import Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.pod_generator import make_safe_label_value
from airflow.providers.cncf.kubernetes.utils.container import container_is_succeeded, get_container_status
from airflow.providers.cncf.kubernetes.utils.xcom_sidecar import PodDefaults
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from kubernetes.client import ApiException
from kubernetes.client import models as k8s

from laion_people.errors import UsageError, coded
from laion_people.orchestration.commandline import CommandLineMixin
from laion_people.orchestration.podoptions import pod_options
from laion_people.settings import PREFIX, Settings

RESULT = f"{PodDefaults.XCOM_MOUNT_PATH}/return.json"
RESULT_SECONDS = 300.0
STOPPED = coded("pod-lost", "the task was stopped before its pod was done")
GRACE = timedelta(hours=1)  # by which a pod may outlive the time limit of its task


class PodOperator(CommandLineMixin, KubernetesPodOperator):
    """Runs the worker's command line as a pod and returns the JSON that it leaves in the sidecar's folder.

    Raises AirflowFailException, which is not retried, for bad usage; AirflowException with the command's last words, or
    with what became of the pod, when it fails.
    """

    labels: dict[str, str]

    def __init__(self, *, sidecar_image: str = "", **kwargs: Any):
        super().__init__(**kwargs)
        self.sidecar_image = sidecar_image
        if self.execution_timeout:  # which is meant for the work alone, and a pod may have to wait before it
            waiting = self.schedule_timeout_seconds + self.startup_timeout_seconds
            self.execution_timeout += timedelta(seconds=waiting)

    def build_pod_request_obj(self, context: Any = None, *, dry_run: bool = False) -> k8s.V1Pod:
        self.arguments = self.command_line(result=RESULT)
        if isinstance(self.partitions, str):
            label = make_safe_label_value(self.partitions.replace("/", "."))
            self.labels = self.labels | {"laion-people/partition": label}
        if self.execution_timeout:
            # The sidecar of a pod that nobody waits for any more would run for ever and keep its GPU from others.
            self.active_deadline_seconds = int((self.execution_timeout + GRACE).total_seconds())
        pod = super().build_pod_request_obj(context, dry_run=dry_run)
        # A service whose name begins with laion-people would look like settings that don't exist.
        pod.spec.enable_service_links = False
        worker, sidecar = pod.spec.containers[:2]  # others are the cluster's own
        if context:
            worker.env = [*worker.env, k8s.V1EnvVar(name="AIRFLOW_CTX_DAG_RUN_ID", value=context["run_id"])]
        if self.sidecar_image:
            sidecar.image = self.sidecar_image
        return pod

    def execute(self, context: Any) -> Any:
        try:
            result = super().execute(context)
        finally:
            # When its worker is drained, Airflow stops the task, deletes the pod and may then call the task a success
            # (https://github.com/apache/airflow/issues/73006, https://github.com/apache/airflow/issues/71202).
            if self._killed:
                raise AirflowException(STOPPED)
        if result is None:
            raise AirflowException(
                coded("result-lost", "the pod ended well but left no result; what it has done is kept")
            )
        return result

    def get_or_create_pod(self, pod_request_obj: k8s.V1Pod, context: Any) -> k8s.V1Pod:
        """As Airflow does, but a task that is stopped just before or meanwhile leaves no pod."""
        if not self._killed:
            self.pod = super().get_or_create_pod(pod_request_obj, context)
        if self._killed:
            self.on_kill()
            raise AirflowException(STOPPED)
        return self.pod

    def extract_xcom(self, pod: k8s.V1Pod, **options: Any) -> Any:
        """Reads the result from the sidecar, for at most RESULT_SECONDS.

        Airflow waits without a limit for the commands that it runs in the sidecar, and a sidecar that does not stop
        keeps the pod alive (https://github.com/apache/airflow/pull/72068,
        https://github.com/apache/airflow/issues/36218). A lost result costs a retry, and no work.
        """
        reader = ThreadPoolExecutor(1)
        try:
            return reader.submit(super().extract_xcom, pod, **options).result(RESULT_SECONDS)
        except TimeoutError:
            raise AirflowException(
                coded("result-lost", f"the sidecar did not hand on the result within {RESULT_SECONDS:.0f} s")
            ) from None
        finally:
            reader.shutdown(wait=False)

    def cleanup(self, pod: k8s.V1Pod, remote_pod: k8s.V1Pod, *args: Any, **kwargs: Any) -> None:
        if self._killed or not remote_pod or container_is_succeeded(remote_pod, self.base_container_name):
            super().cleanup(pod, remote_pod, *args, **kwargs)
            return
        failure = self._failure(pod)
        with suppress(AirflowException):  # whose message is that the pod has failed; Airflow deletes the pod before
            super().cleanup(pod, remote_pod, *args, **kwargs)
        raise failure

    def _failure(self, pod: k8s.V1Pod) -> AirflowException:
        """What became of a pod that is not done: the container's last words, or one line about the pod."""
        name, interruption = pod.metadata.name, sys.exception()
        try:
            remote = self.pod_manager.read_pod(pod)
        except ApiException as error:
            if error.status != 404:
                raise
            return AirflowException(coded("pod-lost", f"pod {name} is gone: it was deleted, or lost with its node"))
        if remote.status.reason:
            # Evicted, NodeShutdown, ... and UnexpectedAdmissionError: after a node has restarted, pods reach it before
            # its GPUs do (https://github.com/kubernetes/kubernetes/issues/125579). The retry is another pod, later.
            return AirflowException(coded("pod-lost", f"pod {name}: {remote.status.reason}: {remote.status.message}"))
        container = get_container_status(remote, self.base_container_name)
        ended = container.state.terminated if container else None
        words = (ended.message or "").strip().splitlines() if ended else []
        if ended and ended.reason == "OOMKilled":
            at_work = f" (it was at: {words[-1]})" if words else ""
            return AirflowException(
                coded(
                    "out-of-memory",
                    f"pod {name} needs more than its memory: give {self.task_id} more by "
                    f"{PREFIX}POD_RESOURCES{at_work}",
                )
            )
        if ended and ended.exit_code:
            kind = AirflowFailException if ended.exit_code == UsageError.exit_code else AirflowException
            return kind(words[-1] if words else coded("pod-lost", f"pod {name} ended with exit code {ended.exit_code}"))
        told = f"pod {name} was stopped: {interruption}"
        return AirflowException(told if told.endswith("]") else coded("pod-stopped", told))  # ours has its own code


def pod_task(settings: Settings, task_id: str, **options: Any) -> PodOperator:
    """The task ``task_id`` as a pod. Raises UsageError for settings that no pod can run with."""
    return PodOperator(task_id=task_id, **(pod_options(settings, task_id) | options))
