"""The controllers of Deployments, DaemonSets and Jobs: they start pods and count them.

Each compares the pods that exist with the pods that are wanted, whatever has changed.
"""

from __future__ import annotations

import asyncio
import secrets

from headrace.control.world import ChildRefused
from headrace.local.addresses import Addresses
from headrace.local.fields import check_fields
from headrace.local.index import ObjectIndex
from headrace.local.node import node_name
from headrace.local.pods import ON_FAILURE, Backoff, LocalPod
from headrace.local.standby import StandbyPool
from headrace.local.template import check_pod_spec
from headrace.local.volumes import Directories
from headrace.reconcile.world import Manifest, ObjectKey

DEFAULT_BACKOFF_LIMIT = 6
"""Restarts after which a Job has failed, as in Kubernetes."""
_FIELDS = {
    "Deployment": frozenset(
        {"replicas", "selector", "template", "strategy", "revisionHistoryLimit", "progressDeadlineSeconds"}
    ),
    "DaemonSet": frozenset({"selector", "template", "updateStrategy", "revisionHistoryLimit"}),
    "Job": frozenset({"template", "backoffLimit", "ttlSecondsAfterFinished"}),
}
_RESTART_POLICY = {"Deployment": "Always", "DaemonSet": "Always", "Job": ON_FAILURE}
WORKLOADS = _FIELDS.keys()
"""The kinds that have pods."""


class PodSet:
    """Every pod of the cluster; `make` starts one for an owner."""

    def __init__(self, index: ObjectIndex, directories: Directories, backoff: Backoff) -> None:
        self._index = index
        self._directories = directories
        self._backoff = backoff
        self._addresses = Addresses(secrets.randbelow(1 << 22))
        self._pods: dict[ObjectKey, LocalPod] = {}
        self._standby = StandbyPool(index, directories.pods)

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
            "spec": _pod_spec(owner),
        }
        ports = [port["containerPort"] for port in template["spec"]["containers"][0].get("ports", [])]
        address = self._addresses.take(ports)
        pod = LocalPod(manifest, self._index, self._directories, address, self._backoff, self._standby)
        self._pods[pod.key] = pod
        pod.start()
        return pod

    def terminate(self) -> list[LocalPod]:
        """Terminate every pod, and end the warm processes; return the pods."""
        self._standby.stop()
        pods = self.all()
        for pod in pods:
            pod.terminate()
        return pods

    def of(self, owner: ObjectKey) -> list[LocalPod]:
        """Return the owner's pods, oldest first, including terminating ones."""
        return [pod for pod in self._pods.values() if pod.owner == owner]

    def all(self) -> list[LocalPod]:
        """Return every pod, including terminating ones."""
        return list(self._pods.values())

    def get(self, key: ObjectKey) -> LocalPod | None:
        """Return a pod."""
        return self._pods.get(key)

    def forget(self, key: ObjectKey) -> None:
        """Remove a pod that has ended."""
        self._pods.pop(key, None)


def check_workload(manifest: Manifest) -> None:
    """Raise ChildRefused for a Deployment, DaemonSet or Job with a field or value that local mode does not support."""
    kind, spec = manifest["kind"], manifest["spec"]
    check_fields(spec, _FIELDS[kind], "spec")
    pod = spec["template"]["spec"]
    check_pod_spec(pod)
    if pod.get("restartPolicy", "Always") != _RESTART_POLICY[kind]:
        raise ChildRefused(
            f"the pods of a {kind} have the restartPolicy {_RESTART_POLICY[kind]} in local mode",
            hint="Set spec.template.spec.restartPolicy",
        )
    if kind == "Deployment" and spec.get("strategy", {}).get("type") != "Recreate":
        raise ChildRefused("a Deployment has the strategy Recreate in local mode", hint="Set spec.strategy.type")
    if kind == "DaemonSet" and spec.get("updateStrategy", {"type": "RollingUpdate"}) != {"type": "RollingUpdate"}:
        raise ChildRefused(
            "a DaemonSet has the update strategy RollingUpdate without maxSurge in local mode",
            hint="Leave spec.updateStrategy out",
        )


def reconcile_workload(key: ObjectKey, pods: PodSet, index: ObjectIndex) -> None:
    """Start and end pods until the workload has those that it wants, and write its status."""
    if key.kind == "Job":
        _reconcile_job(key, pods, index)
    else:
        _reconcile_replicas(key, pods, index)


def on_pod_change(key: ObjectKey, pods: PodSet, index: ObjectIndex, *, removed: bool) -> None:
    """Count the pods of a workload of which one has changed, and replace it if it was removed.

    Nothing else: pods change while `reconcile_workload` starts and ends them.
    """
    if removed or key.kind == "Job":
        reconcile_workload(key, pods, index)
    else:
        _write_status(key, pods, index)


def _reconcile_replicas(key: ObjectKey, pods: PodSet, index: ObjectIndex) -> None:
    """Have as many pods as are wanted. A pod that is not ready is ended first, then the newest.

    All pods of another template end before new ones start: the strategy Recreate, and a DaemonSet's RollingUpdate
    on one node.
    """
    workload = index.get(key)
    if workload is None:
        return
    spec, wanted = _pod_spec(workload), _replicas(workload)
    every = pods.of(key)
    present = [pod for pod in every if pod.spec == spec and not pod.terminating]
    old = [pod for pod in every if pod.spec != spec]
    present.reverse()  # the newest first, and sorting keeps that order among equals
    surplus = sorted(present, key=lambda pod: pod.ready)[: max(len(present) - wanted, 0)]
    for pod in (*old, *surplus):
        pod.terminate()
    if not old:
        for _ in range(wanted - len(present)):
            pods.make(workload)
    _write_status(key, pods, index)


def _write_status(key: ObjectKey, pods: PodSet, index: ObjectIndex) -> None:
    workload = index.get(key)
    if workload is None:
        return
    present = [pod for pod in pods.of(key) if not pod.terminating]
    ready, wanted = sum(pod.ready for pod in present), _replicas(workload)
    counts = _daemon_set_counts if key.kind == "DaemonSet" else _deployment_counts
    status = {
        "observedGeneration": workload["metadata"]["generation"],
        **counts(present=len(present), ready=ready, wanted=wanted),
    }
    index.put({**workload, "status": status})


def _deployment_counts(*, present: int, ready: int, wanted: int) -> Manifest:
    enough = ready >= wanted
    available = {
        "type": "Available",
        "status": str(enough),
        "reason": "MinimumReplicasAvailable" if enough else "MinimumReplicasUnavailable",
        "message": f"{ready} of {wanted} replicas are ready",
    }
    return {
        "replicas": present,
        "updatedReplicas": present,
        "readyReplicas": ready,
        "availableReplicas": ready,
        "unavailableReplicas": max(wanted - ready, 0),
        "conditions": [available],
    }


def _daemon_set_counts(*, present: int, ready: int, wanted: int) -> Manifest:
    return {
        "desiredNumberScheduled": wanted,
        "currentNumberScheduled": present,
        "updatedNumberScheduled": present,
        "numberMisscheduled": 0,
        "numberReady": ready,
        "numberAvailable": ready,
        "numberUnavailable": max(wanted - ready, 0),
    }


def _replicas(workload: Manifest) -> int:
    """Return how many pods a Deployment or a DaemonSet wants: there is one node."""
    return 1 if workload["kind"] == "DaemonSet" else int(workload["spec"].get("replicas", 1))


def _pod_spec(workload: Manifest) -> Manifest:
    """Return the spec of the workload's pods, which are all on the one node."""
    return {**workload["spec"]["template"]["spec"], "nodeName": node_name()}


def _reconcile_job(key: ObjectKey, pods: PodSet, index: ObjectIndex) -> None:
    """Start the Job's one pod, and write the status; a finished Job is kept for its ttlSecondsAfterFinished."""
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
        message = f"its container was restarted {max(limit, 1)} times"
        failed = {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": message}
        status = {"failed": 1, "conditions": [failed]}
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
    """Remove a finished Job and its pod, unless another Job has its name now."""
    key = ObjectKey.of(job)
    found = index.get(key)
    if found is not None and found["metadata"]["uid"] == job["metadata"]["uid"]:
        index.remove(key)
        for pod in pods.of(key):
            pod.terminate()
