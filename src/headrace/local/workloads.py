"""Deployments and Jobs: the controllers that make pods and count them.

Each looks at what is there and does what is missing, whatever it was that happened.
"""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path

from headrace.control.world import ChildRefused
from headrace.local.addresses import Addresses
from headrace.local.index import ObjectIndex, ObjectKey
from headrace.local.pods import ON_FAILURE, Backoff, LocalPod
from headrace.local.template import check_fields, check_pod_spec
from headrace.reconcile.world import Manifest

DEFAULT_BACKOFF_LIMIT = 6
"""Kubernetes' own: restarts after which a Job has failed."""
_FIELDS = {
    "Deployment": frozenset(
        {"replicas", "selector", "template", "strategy", "revisionHistoryLimit", "progressDeadlineSeconds"}
    ),
    "Job": frozenset({"template", "backoffLimit", "ttlSecondsAfterFinished"}),
}
_RESTART_POLICY = {"Deployment": "Always", "Job": ON_FAILURE}


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
        """Return the owner's pods, oldest first, going ones too."""
        return [pod for pod in self._pods.values() if pod.owner == owner]

    def all(self) -> list[LocalPod]:
        """Return every pod, going ones too."""
        return list(self._pods.values())

    def get(self, key: ObjectKey) -> LocalPod | None:
        """Return a pod."""
        return self._pods.get(key)

    def forget(self, key: ObjectKey) -> None:
        """Note that a pod is gone."""
        self._pods.pop(key, None)


def check_workload(manifest: Manifest) -> None:
    """Raise ChildRefused for a workload that would not be carried out here as it is meant."""
    kind, spec = manifest["kind"], manifest["spec"]
    check_fields(spec, _FIELDS[kind], "spec")
    pod = spec["template"]["spec"]
    check_pod_spec(pod)
    if pod.get("restartPolicy", "Always") != _RESTART_POLICY[kind]:
        raise ChildRefused(
            f"the pods of a {kind} have the restartPolicy {_RESTART_POLICY[kind]} on this machine", hint="Set it"
        )
    if kind == "Deployment" and spec.get("strategy", {}).get("type") != "Recreate":
        raise ChildRefused("a Deployment's strategy on this machine is Recreate", hint="Set spec.strategy.type")


def reconcile_deployment(key: ObjectKey, pods: PodSet, index: ObjectIndex) -> None:
    """Make as many pods as are wanted, and write the status. A pod that is not ready goes first, then the newest.

    Pods of another template go before new ones come, as the strategy Recreate says.
    """
    deployment = index.get(key)
    if deployment is None:
        return
    template = deployment["spec"]["template"]["spec"]
    wanted = int(deployment["spec"].get("replicas", 1))
    every = pods.of(key)
    present = [pod for pod in every if pod.spec == template and not pod.terminating]
    old = [pod for pod in every if pod.spec != template]
    present.reverse()  # the newest first, and sorting keeps that order among equals
    surplus = sorted(present, key=lambda pod: pod.ready)[: max(len(present) - wanted, 0)]
    for pod in (*old, *surplus):
        pod.terminate()
    if not old:
        for _ in range(wanted - len(present)):
            pods.make(deployment)
    write_deployment_status(key, pods, index)


def write_deployment_status(key: ObjectKey, pods: PodSet, index: ObjectIndex) -> None:
    """Count the pods; that alone is called for in the midst of making or ending them."""
    deployment = index.get(key)
    if deployment is None:
        return
    present = [pod for pod in pods.of(key) if not pod.terminating]
    ready = sum(pod.ready for pod in present)
    wanted = int(deployment["spec"].get("replicas", 1))
    enough = ready >= wanted
    available = {
        "type": "Available",
        "status": str(enough),
        "reason": "MinimumReplicasAvailable" if enough else "MinimumReplicasUnavailable",
        "message": f"{ready} of {wanted} replicas are ready",
    }
    status = {
        "observedGeneration": deployment["metadata"]["generation"],
        "replicas": len(present),
        "updatedReplicas": len(present),
        "readyReplicas": ready,
        "availableReplicas": ready,
        "unavailableReplicas": max(wanted - ready, 0),
        "conditions": [available],
    }
    index.put({**deployment, "status": status})


def reconcile_job(key: ObjectKey, pods: PodSet, index: ObjectIndex) -> None:
    """Make the job's one pod, and write the status; a job that has ended stays for its ttlSecondsAfterFinished."""
    job = index.get(key)
    if job is None or job.get("status", {}).get("conditions"):
        return
    present = [pod for pod in pods.of(key) if not pod.terminating]
    limit = int(job["spec"].get("backoffLimit", DEFAULT_BACKOFF_LIMIT))
    status: Manifest
    if any(pod.phase == "Succeeded" for pod in present):
        done = {"type": "Complete", "status": "True", "reason": "CompletionsReached", "message": "its pod succeeded"}
        status = {"succeeded": 1, "conditions": [done]}
    elif any(pod.restarts >= max(limit, 1) for pod in present):
        message = f"its container was started again {max(limit, 1)} times"
        gave_up = {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": message}
        status = {"failed": 1, "conditions": [gave_up]}
    else:
        status = {"active": 1}
    index.put({**job, "status": status})
    if "failed" in status:
        for pod in present:
            pod.terminate()
    if "active" not in status and (seconds := job["spec"].get("ttlSecondsAfterFinished")) is not None:
        asyncio.get_running_loop().call_later(seconds, _remove_job, job, pods, index)
    if "active" in status and not present:
        pods.make(job)


def _remove_job(job: Manifest, pods: PodSet, index: ObjectIndex) -> None:
    """Remove a job that ended some time ago, with its pod, unless another one has its name."""
    key = ObjectKey.of(job)
    found = index.get(key)
    if found is not None and found["metadata"]["uid"] == job["metadata"]["uid"]:
        index.remove(key)
        for pod in pods.of(key):
            pod.terminate()
