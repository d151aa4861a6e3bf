"""What a pod's status says, in the shapes that a kubelet (or the local cluster) writes."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.api import vocabulary as v
from headrace.events.messages import ReplicaReport, ReplicaState
from headrace.reconcile.world import Manifest, Signals

_IMAGE_REASONS = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
_CONFIG_REASONS = frozenset({"CreateContainerError", "CreateContainerConfigError", "RunContainerError"})


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a pod does not work, and what to do."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class RuntimePod:
    """A runtime pod that is not being deleted."""

    name: str
    revision: str
    routable: bool
    """Every live gateway routes to it."""
    serving: bool
    """It says of itself that it is ready."""
    failure: Failure | None
    report: ReplicaReport | None
    restarts: int


def component_of(pod: Manifest) -> str:
    """Return the component that a pod belongs to."""
    return str(pod["metadata"].get("labels", {}).get(v.COMPONENT_LABEL, ""))


def last_termination(pod: Manifest) -> Manifest | None:
    """Return how the pod's container last ended, or None while its first life lasts."""
    for status in pod.get("status", {}).get("containerStatuses", []):
        for state in (status.get("state", {}), status.get("lastState", {})):
            if "terminated" in state:
                ended: Manifest = state["terminated"]
                return ended
    return None


def runtime_pod(pod: Manifest, signals: Signals, *, crash_looping: bool) -> RuntimePod:
    """Return the facts of a pod. `crash_looping`: the resource was in CrashLoop when last looked at."""
    name = pod["metadata"]["name"]
    report = signals.replicas.get(name)
    serving = report is not None and report.state is ReplicaState.READY
    statuses = pod.get("status", {}).get("containerStatuses", [])
    return RuntimePod(
        name=name,
        revision=str(pod["metadata"]["labels"].get(v.REVISION_LABEL, "")),
        routable=_routable(pod, serving=serving, signals=signals),
        serving=serving,
        failure=None if serving else _failure(pod, crash_looping=crash_looping),
        report=report,
        restarts=sum(int(status.get("restartCount", 0)) for status in statuses),
    )


def _routable(pod: Manifest, *, serving: bool, signals: Signals) -> bool:
    """Whether every live gateway routes to the pod. While nobody can be asked, what was true stays true."""
    if not signals.connected or not signals.gateways:
        gates = pod.get("status", {}).get("conditions", [])
        return any(gate["type"] == v.ROUTABLE_GATE and gate["status"] == "True" for gate in gates)
    return serving and signals.gateways <= signals.admissions.get(pod["metadata"]["name"], frozenset())


def _failure(pod: Manifest, *, crash_looping: bool) -> Failure | None:
    status = pod.get("status", {})
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return Failure(v.UNSCHEDULABLE, str(condition.get("message") or "no node has room for the pod"))
    for container in status.get("containerStatuses", []):
        failure = _container_failure(pod, container, crash_looping=crash_looping)
        if failure is not None:
            return failure
    return None


def _container_failure(pod: Manifest, container: Manifest, *, crash_looping: bool) -> Failure | None:
    waiting = container.get("state", {}).get("waiting", {})
    reason = waiting.get("reason", "")
    if reason in _IMAGE_REASONS:
        return Failure(v.IMAGE_PULL_FAILED, str(waiting.get("message") or reason))
    if reason in _CONFIG_REASONS:
        return Failure(v.CRASH_LOOP, f"the container cannot be created: {waiting.get('message') or reason}")
    # Between two crashes the container runs for a moment; that is no recovery until it serves.
    if reason == "CrashLoopBackOff" or (crash_looping and container.get("restartCount", 0) > 0):
        ended = last_termination(pod) or {}
        if ended.get("reason") == "OOMKilled":
            return Failure(v.OOM_KILLED, "the runtime was killed for using more memory than its limit. Raise the limit")
        cause = str(ended.get("message") or "").strip()
        how = f"exit code {ended.get('exitCode', '?')}"
        return Failure(v.CRASH_LOOP, f"the runtime keeps ending ({how}): {cause or 'it did not say why; see its log'}")
    return None
