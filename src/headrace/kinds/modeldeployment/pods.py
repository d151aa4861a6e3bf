"""What a pod's status says, in the shapes that a kubelet (or the local cluster) writes, beside what was heard of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from headrace.api import vocabulary as v
from headrace.events.messages import ReplicaReport, ReplicaState
from headrace.kinds.controller import STARTING
from headrace.kinds.modeldeployment.deployments import deployments
from headrace.kinds.modeldeployment.last_words import end_of, out_of_memory
from headrace.reconcile.world import Manifest, Observed, Signals
from headrace.termination import quotes_log

_IMAGE_REASONS = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
_CONFIG_REASONS = frozenset({"CreateContainerError", "CreateContainerConfigError", "RunContainerError"})
_ENDED = frozenset({v.CRASH_LOOP, v.OOM_KILLED})
_SILENT = "its readiness probe succeeds, but it does not register itself on NATS"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a pod does not work, and what to do."""

    reason: str
    message: str
    waiting: bool = False
    """Whether waiting is all that is needed: room may come, an autoscaler of nodes may make it."""


@dataclass(frozen=True, slots=True)
class RuntimePod:
    """A runtime pod that is not being deleted."""

    name: str
    revision: str
    serving: bool
    """It says that it is ready; while nobody could be heard, its readiness probe says so."""
    was_ready: bool
    """Gateways route to it, or did once: then its readiness gate has been written."""
    routable: bool
    """Every live gateway routes to it."""
    failure: Failure | None
    crash: Failure | None
    """That it waits to be started again after an exit. It is the `failure` too, unless it was ready before that."""
    lost: Failure | None
    """That it was ready, has exited, and is not ready again yet."""
    report: ReplicaReport | None
    fault: str
    """Why it is not routed to although it seems to be well, or what keeps its readiness path from answering."""
    ended: str
    """How its process last ended; empty while the first one lives."""


def runtime_pods(observed: Observed, before: Manifest, signals: Signals, *, listening: bool) -> tuple[RuntimePod, ...]:
    """Return the runtime pods that are to stay.

    Args:
        observed: what exists.
        before: the resource's present status.
        signals: what was heard.
        listening: whether everybody had time to speak since the loop (re)started.
    """
    crash_looping = any(
        condition["type"] == v.WORKLOADS_READY and condition["reason"] in _ENDED
        for condition in before.get("conditions", [])
    )
    templates = {name: manifest["spec"]["template"]["spec"] for name, manifest in deployments(observed).items()}
    logging = frozenset(revision for revision, template in templates.items() if quotes_log(template))
    return tuple(
        _runtime_pod(pod, signals, logging, crash_looping=crash_looping, listening=listening)
        for pod in observed.pods
        if component_of(pod) == v.COMPONENT_RUNTIME
        and not pod["metadata"].get("deletionTimestamp")
        and not _is_over(pod)
    )


def _is_over(pod: Manifest) -> bool:
    """Whether it was evicted, or its node shut down: another one is made in its place."""
    return pod.get("status", {}).get("phase") in ("Failed", "Succeeded")


def terminating_revisions(observed: Observed) -> frozenset[str]:
    """Return the revisions with runtime pods on their way out, which still hold what they hold of a node."""
    return frozenset(
        str(pod["metadata"]["labels"].get(v.REVISION_LABEL, ""))
        for pod in observed.pods
        if component_of(pod) == v.COMPONENT_RUNTIME and pod["metadata"].get("deletionTimestamp")
    )


def runtimes_of_others(revision: str, observed: Observed) -> list[str]:
    """Return the names of other revisions' runtime pods, those on their way out included."""
    return [
        pod["metadata"]["name"]
        for pod in observed.pods
        if component_of(pod) == v.COMPONENT_RUNTIME and pod["metadata"]["labels"].get(v.REVISION_LABEL) != revision
    ]


def component_of(pod: Manifest) -> str:
    """Return the component that a pod belongs to."""
    return str(pod["metadata"].get("labels", {}).get(v.COMPONENT_LABEL, ""))


def last_termination(pod: Manifest) -> Manifest | None:
    """Return how the pod's container last ended, or None while its first life lasts."""
    for status in _containers(pod):
        for state in (status.get("state", {}), status.get("lastState", {})):
            if "terminated" in state:
                ended: Manifest = state["terminated"]
                return ended
    return None


def _runtime_pod(
    pod: Manifest, signals: Signals, logging: frozenset[str], *, crash_looping: bool, listening: bool
) -> RuntimePod:
    """Return a pod; `logging` are the revisions whose termination message may be the end of a log."""
    name, revision = pod["metadata"]["name"], str(pod["metadata"]["labels"].get(v.REVISION_LABEL, ""))
    ended = _ended(pod, may_be_log=revision in logging)
    report = _report_of_this_life(pod, signals.replicas.get(name))
    probed = any(container.get("ready", False) for container in _containers(pod))
    admitting = signals.admissions.get(name, frozenset())
    admitted = bool(signals.gateways) and signals.gateways <= admitting
    # While nobody could be asked, what was true of a pod that still runs stays true.
    unheard = not listening or not signals.connected or not signals.gateways
    serving = (probed and unheard) if report is None else report.state is ReplicaState.READY
    fault = "" if admitting or unheard else _fault(name, report, signals, probed=probed)
    crash = None if serving or probed else _crash(pod, ended, crash_looping=crash_looping)
    gate, well = _gate(pod), serving or probed
    was_ready_before = _was_ready_before(pod)
    return RuntimePod(
        name=name,
        revision=revision,
        serving=serving,
        was_ready=(serving and not fault) or bool(gate),
        routable=serving and (admitted or (unheard and gate.get("status") == "True")),
        failure=None if well else never_began(pod) or (None if was_ready_before else crash),
        crash=crash,
        lost=_loss(pod, ended) if ended and was_ready_before and not well else None,
        report=report,
        fault=fault,
        ended=ended,
    )


def _fault(name: str, report: ReplicaReport | None, signals: Signals, *, probed: bool) -> str:
    probe_fault = signals.probe_faults.get(name, "")
    if report is not None and report.state is ReplicaState.READY:
        said = f"it reports Ready at {report.host}, port {report.port}, but no gateway routes to it"
        return f"{said}: {probe_fault or 'see the logs of the gateways'}"
    if report is not None:
        loads = report.percent is not None or report.stage not in ("", STARTING)
        return "" if loads or report.state is ReplicaState.DRAINING else probe_fault
    if not probed:
        return probe_fault
    ignored = signals.ignored.get(name, "")
    return f"its readiness probe succeeds, but its reports are ignored ({ignored})" if ignored else _SILENT


def _report_of_this_life(pod: Manifest, report: ReplicaReport | None) -> ReplicaReport | None:
    """Return the report, unless the process that spoke is known to have ended: then nobody speaks for the pod yet."""
    ended = last_termination(pod)
    if report is None or ended is None or "finishedAt" not in ended:
        return report
    return report if report.started >= datetime.fromisoformat(ended["finishedAt"]).timestamp() else None


def _containers(pod: Manifest) -> Iterator[Manifest]:
    yield from pod.get("status", {}).get("containerStatuses", [])


def _gate(pod: Manifest) -> Manifest:
    """Return the readiness gate's condition; empty until it is set for the first time, to True."""
    conditions = pod.get("status", {}).get("conditions", [])
    return next((condition for condition in conditions if condition["type"] == v.ROUTABLE_GATE), {})


def _was_ready_before(pod: Manifest) -> bool:
    """Whether the process that ended last had been ready: then its end is the first failure in a row.

    A kubelet's back-off does not know that, but the readiness gate does: it is True, or was until after that process
    was started.
    """
    gate, ended = _gate(pod), last_termination(pod) or {}
    if gate.get("status") == "True":
        return True
    taken_back, started = gate.get("lastTransitionTime"), ended.get("startedAt")
    if not taken_back or not started:
        return False
    return datetime.fromisoformat(taken_back) >= datetime.fromisoformat(started)


def never_began(pod: Manifest) -> Failure | None:
    """Return what keeps a pod from running at all: no room, no image, or something it refers to that is not there."""
    for condition in pod.get("status", {}).get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            message = str(condition.get("message") or "no node has room for the pod")
            return Failure(v.UNSCHEDULABLE, message, waiting=True)
    for container in _containers(pod):
        waiting = container.get("state", {}).get("waiting", {})
        reason = waiting.get("reason", "")
        if reason in _IMAGE_REASONS:
            return Failure(v.IMAGE_PULL_FAILED, str(waiting.get("message") or reason))
        if reason in _CONFIG_REASONS:
            return Failure(v.CRASH_LOOP, f"the container cannot be created: {waiting.get('message') or reason}")
    return None


def _crash(pod: Manifest, ended: str, *, crash_looping: bool) -> Failure | None:
    for container in _containers(pod):
        reason = container.get("state", {}).get("waiting", {}).get("reason", "")
        # Between two crashes the container runs for a moment; that is no recovery until it serves.
        if reason == "CrashLoopBackOff" or (crash_looping and container.get("restartCount", 0) > 0):
            if out_of_memory(last_termination(pod) or {}):
                return Failure(v.OOM_KILLED, f"the runtime keeps exiting {ended}")
            return Failure(v.CRASH_LOOP, f"the runtime keeps exiting {ended or end_of({}, may_be_log=False)}")
    return None


def _loss(pod: Manifest, ended: str) -> Failure:
    reason = v.OOM_KILLED if out_of_memory(last_termination(pod) or {}) else v.CRASH_LOOP
    return Failure(reason, f"the replica {pod['metadata']['name']} was ready, and exited {ended}. It is started again")


def _ended(pod: Manifest, *, may_be_log: bool) -> str:
    terminated = last_termination(pod)
    return "" if terminated is None else end_of(terminated, may_be_log=may_be_log)
