"""Deployments and Jobs: the controllers that make pods and count them."""

from __future__ import annotations

import secrets
from pathlib import Path

from headrace.local.index import ObjectIndex, ObjectKey
from headrace.local.pods import Addresses, Backoff, LocalPod
from headrace.local.template import check_pod_spec
from headrace.reconcile.world import Manifest


class PodSet:
    """Every pod of the cluster; `make` starts one for an owner."""

    def __init__(self, index: ObjectIndex, logs: Path, backoff: Backoff) -> None:
        self._index = index
        self._logs = logs
        self._backoff = backoff
        self._addresses = Addresses(secrets.randbelow(1 << 22))
        self._pods: dict[ObjectKey, LocalPod] = {}

    def make(self, owner: Manifest) -> LocalPod:
        """Start a pod of the owner's template."""
        template = owner["spec"]["template"]
        name = f"{owner['metadata']['name']}-{secrets.token_hex(3)[:5]}"
        manifest: Manifest = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": owner["metadata"]["namespace"],
                "uid": secrets.token_hex(16),
                "labels": dict(template.get("metadata", {}).get("labels", {})),
                "annotations": dict(template.get("metadata", {}).get("annotations", {})),
                "ownerReferences": [
                    {
                        "apiVersion": owner["apiVersion"],
                        "kind": owner["kind"],
                        "name": owner["metadata"]["name"],
                        "uid": owner["metadata"]["uid"],
                        "controller": True,
                    }
                ],
            },
            "spec": template["spec"],
        }
        ports = [port["containerPort"] for port in template["spec"]["containers"][0].get("ports", [])]
        pod = LocalPod(manifest, self._index, self._logs, self._addresses.take(ports), self._backoff)
        self._pods[pod.key] = pod
        pod.start()
        return pod

    def of(self, owner: ObjectKey) -> list[LocalPod]:
        """Return the owner's pods that are not going, oldest first."""
        return [pod for pod in self._pods.values() if not pod.terminating and self._owner(pod) == owner]

    def all(self) -> list[LocalPod]:
        """Return every pod, going ones too."""
        return list(self._pods.values())

    def get(self, key: ObjectKey) -> LocalPod | None:
        """Return a pod."""
        return self._pods.get(key)

    def forget(self, key: ObjectKey) -> None:
        """Note that a pod is gone."""
        self._pods.pop(key, None)

    def _owner(self, pod: LocalPod) -> ObjectKey | None:
        manifest = self._index.get(pod.key)
        if manifest is None:
            return None
        reference = manifest["metadata"]["ownerReferences"][0]
        return ObjectKey(reference["kind"], pod.key.namespace, reference["name"])


def check_workload(manifest: Manifest) -> None:
    """Raise UnsupportedKind for a workload whose pods could not run here."""
    check_pod_spec(manifest["spec"]["template"]["spec"])


def reconcile_deployment(deployment: Manifest, pods: PodSet, index: ObjectIndex) -> None:
    """Make as many pods as are wanted, and write the status. A pod that is not ready goes first, then the newest."""
    key = ObjectKey.of(deployment)
    wanted = int(deployment["spec"].get("replicas", 1))
    present = pods.of(key)
    template = deployment["spec"]["template"]["spec"]
    for pod in [pod for pod in present if _spec_of(pod, index) != template]:
        pod.terminate()  # strategy Recreate
        present.remove(pod)
    present.reverse()  # the newest first, and sorting keeps that order among equals
    surplus = sorted(present, key=lambda pod: pod.ready)[: max(len(present) - wanted, 0)]
    for pod in surplus:
        pod.terminate()
    for _ in range(wanted - len(present)):
        pods.make(deployment)
    write_deployment_status(key, pods, index)


def write_deployment_status(key: ObjectKey, pods: PodSet, index: ObjectIndex) -> None:
    """Write what a deployment controller would say of the pods that there are."""
    deployment = index.get(key)
    if deployment is None:
        return
    present = pods.of(key)
    ready = sum(_is_ready(pod, index) for pod in present)
    wanted = int(deployment["spec"].get("replicas", 1))
    available = {"type": "Available", "status": "True" if ready >= wanted else "False", "reason": "MinimumReplicas"}
    status = {
        "observedGeneration": deployment["metadata"]["generation"],
        "replicas": len(present),
        "updatedReplicas": len(present),
        "readyReplicas": ready,
        "availableReplicas": ready,
        "unavailableReplicas": max(wanted - ready, 0),
        "conditions": [{**available, "message": f"{ready} of {wanted} replicas are ready"}],
    }
    index.put({**deployment, "status": status})


def reconcile_job(job: Manifest, pods: PodSet, index: ObjectIndex) -> None:
    """Make the job's one pod, and write the status when it has ended."""
    key = ObjectKey.of(job)
    if job.get("status", {}).get("conditions"):
        return
    present = pods.of(key)
    if not present:
        pods.make(job)
    write_job_status(key, pods, index)


def write_job_status(key: ObjectKey, pods: PodSet, index: ObjectIndex) -> None:
    """Write what a job controller would say of its pod."""
    job = index.get(key)
    if job is None:
        return
    phases = [(index.get(pod.key) or {}).get("status", {}).get("phase") for pod in pods.of(key)]
    if "Succeeded" in phases:
        status = {"succeeded": 1, "conditions": [{"type": "Complete", "status": "True"}]}
    elif "Failed" in phases:
        status = {"failed": 1, "conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}]}
    else:
        status = {"active": len(phases)}
    index.put({**job, "status": status})


def _spec_of(pod: LocalPod, index: ObjectIndex) -> Manifest:
    manifest = index.get(pod.key)
    return manifest["spec"] if manifest is not None else {}


def _is_ready(pod: LocalPod, index: ObjectIndex) -> bool:
    conditions = (index.get(pod.key) or {}).get("status", {}).get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
