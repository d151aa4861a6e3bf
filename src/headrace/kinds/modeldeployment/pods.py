"""State of runtime pods, from their status (as a kubelet or the local cluster writes it) and their reports."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from headrace.api import vocabulary as v
from headrace.events.messages import ReplicaReport, ReplicaState
from headrace.kinds.controller import STARTING
from headrace.kinds.modeldeployment.deployments import deployments
from headrace.kinds.modeldeployment.exit_message import exit_description, out_of_memory
from headrace.reconcile.world import Manifest, Observed, Signals
from headrace.termination import quotes_log

_IMAGE_REASONS = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
_CONFIG_REASONS = frozenset({"CreateContainerError", "CreateContainerConfigError", "RunContainerError"})
_ENDED = frozenset({v.CRASH_LOOP, v.OOM_KILLED})
_NOT_REGISTERED = "its readiness probe succeeds, but it does not register itself on NATS"


@dataclass(frozen=True, slots=True)
class Failure:
    """Cause of a failure, for a condition."""

    reason: str
    message: str
    waiting: bool = False
    """Whether the failure may end without a change of the spec, for example when a node is added."""


@dataclass(frozen=True, slots=True)
class RuntimePod:
    """A runtime pod that is not terminating."""

    name: str
    revision: str
    serving: bool
    """Whether it reports Ready. Without signals, the result of its readiness probe."""
    was_ready: bool
    """Whether gateways route to it or did before; then its readiness gate has been set."""
    routable: bool
    """Whether every live gateway routes to it."""
    failure: Failure | None
    crash: Failure | None
    """Failure while its container waits for a restart. It is also the `failure`, unless it was ready before."""
    exit_failure: Failure | None
    """Failure of a pod that was ready, has exited, and is not ready again yet."""
    report: ReplicaReport | None
    fault: str
    """Why no gateway routes to a running pod, or why its readiness path does not return 200."""
    last_exit: str
    """Description of the last exit of its container; empty before the first one."""
    node: str = ""
    """Its node; empty until it is scheduled."""
    unrouted: bool = False
    """Whether its `fault` is that no gateway routes to it although it reports Ready, for no known cause."""


def runtime_pods(observed: Observed, before: Manifest, signals: Signals, *, listening: bool) -> tuple[RuntimePod, ...]:
    """Return the runtime pods that are not terminating.

    Args:
        observed: what exists.
        before: the resource's present status.
        signals: demand and reports.
        listening: whether every sender had time to report since the loop (re)started.
    """
    crash_looping = any(
        condition["type"] == v.WORKLOADS_READY and condition["reason"] in _ENDED
        for condition in before.get("conditions", [])
    )
    templates = {name: manifest["spec"]["template"]["spec"] for name, manifest in deployments(observed).items()}
    log_quoting = frozenset(revision for revision, template in templates.items() if quotes_log(template))
    return tuple(
        _runtime_pod(pod, signals, log_quoting, crash_looping=crash_looping, listening=listening)
        for pod in observed.pods
        if component_of(pod) == v.COMPONENT_RUNTIME
        and not pod["metadata"].get("deletionTimestamp")
        and not _is_over(pod)
    )


def _is_over(pod: Manifest) -> bool:
    """Whether a pod was evicted or its node was shut down; its Deployment replaces it."""
    return pod.get("status", {}).get("phase") in ("Failed", "Succeeded")


def terminating_revisions(observed: Observed) -> frozenset[str]:
    """Return the revisions with terminating runtime pods, which still occupy capacity."""
    return frozenset(
        str(pod["metadata"]["labels"].get(v.REVISION_LABEL, ""))
        for pod in observed.pods
        if component_of(pod) == v.COMPONENT_RUNTIME and pod["metadata"].get("deletionTimestamp")
    )


def pods_of_other_revisions(revision: str, observed: Observed) -> list[str]:
    """Return the names of the runtime pods of other revisions, including terminating ones."""
    return [
        pod["metadata"]["name"]
        for pod in observed.pods
        if component_of(pod) == v.COMPONENT_RUNTIME and pod["metadata"]["labels"].get(v.REVISION_LABEL) != revision
    ]


def component_of(pod: Manifest) -> str:
    """Return the component that a pod belongs to."""
    return str(pod["metadata"].get("labels", {}).get(v.COMPONENT_LABEL, ""))


def last_termination(pod: Manifest) -> Manifest | None:
    """Return the last `terminated` state of the pod's container; None before its first exit."""
    for status in _containers(pod):
        for state in (status.get("state", {}), status.get("lastState", {})):
            if "terminated" in state:
                ended: Manifest = state["terminated"]
                return ended
    return None


def _runtime_pod(
    pod: Manifest, signals: Signals, log_quoting: frozenset[str], *, crash_looping: bool, listening: bool
) -> RuntimePod:
    """Return a pod; `logging` are the revisions whose termination message may be a log."""
    name, revision = pod["metadata"]["name"], str(pod["metadata"]["labels"].get(v.REVISION_LABEL, ""))
    last_exit = _last_exit(pod, may_be_log=revision in log_quoting)
    report = _current_report(pod, signals.replicas.get(name))
    probed = any(container.get("ready", False) for container in _containers(pod))
    admitting = signals.admissions.get(name, frozenset())
    admitted = bool(signals.gateways) and signals.gateways <= admitting
    # Without signals, the last known state of a running pod is kept.
    no_signals = not listening or not signals.connected or not signals.gateways
    serving = (probed and no_signals) if report is None else report.state is ReplicaState.READY
    fault = "" if admitting or no_signals else _fault(name, report, signals, probed=probed)
    crash = None if serving or probed else _crash(pod, last_exit, crash_looping=crash_looping)
    gate, healthy = _gate(pod), serving or probed
    was_ready_before = _was_ready_before(pod)
    return RuntimePod(
        name=name,
        revision=revision,
        serving=serving,
        was_ready=(serving and not fault) or bool(gate),
        routable=serving and (admitted or (no_signals and gate.get("status") == "True")),
        failure=None if healthy else start_obstacle(pod) or (None if was_ready_before else crash),
        crash=crash,
        exit_failure=_exit_failure(pod, last_exit) if last_exit and was_ready_before and not healthy else None,
        report=report,
        fault=fault,
        last_exit=last_exit,
        node=pod.get("spec", {}).get("nodeName", ""),
        unrouted=bool(fault) and report is not None and serving and not signals.probe_faults.get(name),
    )


def _fault(name: str, report: ReplicaReport | None, signals: Signals, *, probed: bool) -> str:
    probe_fault = signals.probe_faults.get(name, "")
    if report is not None and report.state is ReplicaState.READY:
        fault = f"it reports Ready at {report.host}, port {report.port}, but no gateway routes to it"
        return f"{fault}: {probe_fault or 'see the logs of the gateways'}"
    if report is not None:
        loads = report.percent is not None or report.stage not in ("", STARTING)
        return "" if loads or report.state is ReplicaState.DRAINING else probe_fault
    if not probed:
        return probe_fault
    ignored = signals.ignored.get(name, "")
    return f"its readiness probe succeeds, but its reports are ignored ({ignored})" if ignored else _NOT_REGISTERED


def _current_report(pod: Manifest, report: ReplicaReport | None) -> ReplicaReport | None:
    """Return the report, unless the process that sent it has exited."""
    ended = last_termination(pod)
    if report is None or ended is None or "finishedAt" not in ended:
        return report
    return report if report.started >= datetime.fromisoformat(ended["finishedAt"]).timestamp() else None


def _containers(pod: Manifest) -> Iterator[Manifest]:
    yield from pod.get("status", {}).get("containerStatuses", [])


def _gate(pod: Manifest) -> Manifest:
    """Return the condition of the readiness gate; empty until it is True for the first time."""
    conditions = pod.get("status", {}).get("conditions", [])
    return next((condition for condition in conditions if condition["type"] == v.ROUTABLE_GATE), {})


def _was_ready_before(pod: Manifest) -> bool:
    """Whether the process that exited last had been ready, so its exit is the first of possibly several failures.

    The kubelet's back-off does not show this. The readiness gate does: it is True, or became False only after that
    process had started.
    """
    gate, ended = _gate(pod), last_termination(pod) or {}
    if gate.get("status") == "True":
        return True
    withdrawn, started = gate.get("lastTransitionTime"), ended.get("startedAt")
    if not withdrawn or not started:
        return False
    return datetime.fromisoformat(withdrawn) >= datetime.fromisoformat(started)


def start_obstacle(pod: Manifest) -> Failure | None:
    """Return why the pod's container cannot be created: no capacity, no image, or a missing referenced object."""
    for condition in pod.get("status", {}).get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            message = str(condition.get("message") or "no node has capacity for the pod")
            return Failure(v.UNSCHEDULABLE, message, waiting=True)
    for container in _containers(pod):
        waiting = container.get("state", {}).get("waiting", {})
        reason = waiting.get("reason", "")
        if reason in _IMAGE_REASONS:
            return Failure(v.IMAGE_PULL_FAILED, str(waiting.get("message") or reason))
        if reason in _CONFIG_REASONS:
            return Failure(v.CRASH_LOOP, f"the container cannot be created: {waiting.get('message') or reason}")
    return None


def _crash(pod: Manifest, last_exit: str, *, crash_looping: bool) -> Failure | None:
    for container in _containers(pod):
        reason = container.get("state", {}).get("waiting", {}).get("reason", "")
        # The container runs between two crashes; it has recovered only when it serves.
        if reason == "CrashLoopBackOff" or (crash_looping and container.get("restartCount", 0) > 0):
            if out_of_memory(last_termination(pod) or {}):
                return Failure(v.OOM_KILLED, f"the runtime keeps exiting {last_exit}")
            return Failure(
                v.CRASH_LOOP, f"the runtime keeps exiting {last_exit or exit_description({}, may_be_log=False)}"
            )
    return None


def _exit_failure(pod: Manifest, last_exit: str) -> Failure:
    reason = v.OOM_KILLED if out_of_memory(last_termination(pod) or {}) else v.CRASH_LOOP
    return Failure(
        reason, f"the replica {pod['metadata']['name']} was ready, and exited {last_exit}. It is being restarted"
    )


def _last_exit(pod: Manifest, *, may_be_log: bool) -> str:
    terminated = last_termination(pod)
    return "" if terminated is None else exit_description(terminated, may_be_log=may_be_log)
