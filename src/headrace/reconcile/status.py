"""The conditions that follow from all the others: WorkloadsReady, Routable, Progressing, and Ready, their summary."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.api import vocabulary as v
from headrace.reconcile.conditions import Condition
from headrace.reconcile.demand import Wanted
from headrace.reconcile.pods import Failure, RuntimePod
from headrace.reconcile.rollout import Rollout
from headrace.reconcile.source import SourceState
from headrace.reconcile.world import Signals


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found out about a resource whose spec is accepted."""

    wanted: Wanted
    source: SourceState
    failure: Failure | None
    pods: tuple[RuntimePod, ...]
    rollout: Rollout
    revision: str
    signals: Signals

    @property
    def routable(self) -> int:
        """Pods, of any revision, that every live gateway routes to."""
        return sum(pod.routable for pod in self.pods)

    @property
    def routable_of_target(self) -> int:
        """Pods of the wanted revision that every live gateway routes to."""
        return sum(pod.routable and pod.revision == self.revision for pod in self.pods)


def workloads_ready(found: Findings) -> Condition:
    """Whether the wanted number of runtime pods of the wanted revision run."""

    def said(status: bool, reason: str, message: str) -> Condition:  # noqa: FBT001 - a local shorthand
        return Condition(v.WORKLOADS_READY, "True" if status else "False", reason, message)

    wanted = found.wanted.replicas
    if found.failure is not None:
        return said(False, found.failure.reason, found.failure.message)
    if found.wanted.off is not None:
        return said(False, found.wanted.off.reason, found.wanted.off.message)
    if wanted == 0:
        return said(True, v.IDLE, "at zero: the next request wakes it")
    if not found.source.cached and found.routable_of_target < wanted:
        return said(False, v.WAITING_FOR_MODEL, f"waiting for the model's file: {found.source.condition.message}")
    serving = sum(pod.serving and pod.revision == found.revision for pod in found.pods)
    if serving >= wanted:
        return said(True, v.RUNNING, f"{serving} of {wanted} replicas run")
    return said(False, v.STARTING, f"{serving} of {wanted} replicas run{_stages(found)}")


def _stages(found: Findings) -> str:
    for pod in found.pods:
        if pod.report is not None and not pod.serving and pod.report.stage:
            percent = "" if pod.report.percent is None else f" {pod.report.percent}%"
            return f"; {pod.name}: {pod.report.stage}{percent}"
    return ""


def routable(found: Findings) -> Condition:
    """Whether every live gateway routes to every pod that serves."""
    serving = sum(pod.serving for pod in found.pods)
    if not found.pods or serving == 0:
        return Condition(v.ROUTABLE, "False", v.NO_REPLICAS, "no replica serves")
    if not found.signals.gateways:
        return Condition(v.ROUTABLE, "False", v.NO_GATEWAY, "no gateway is alive")
    if found.routable < serving:
        message = f"{found.routable} of {serving} serving replicas are admitted by every gateway"
        return Condition(v.ROUTABLE, "False", v.WAITING_FOR_GATEWAYS, message)
    gateways = len(found.signals.gateways)
    return Condition(v.ROUTABLE, "True", v.ADMITTED, f"{serving} replicas are admitted by {gateways} gateways")


def progressing(found: Findings) -> Condition:
    """Whether a rollout is in motion."""
    if found.rollout.rolling:
        message = f"revision {found.revision}: {found.routable_of_target} of {found.wanted.replicas} replicas take over"
        if found.failure is not None:
            message = f"revision {found.revision} fails, the old one serves on: {found.failure.message}"
        return Condition(v.PROGRESSING, "True", v.ROLLING_OUT, message)
    return Condition(v.PROGRESSING, "False", v.STABLE, f"revision {found.revision} is the only one")


def ready(found: Findings, workloads: Condition, admitted: Condition) -> Condition:
    """The summary: True when requests are answered, or held and answered soon because the model is at zero."""
    if found.wanted.off is not None:
        return Condition(v.READY, "False", found.wanted.off.reason, found.wanted.off.message)
    if found.wanted.replicas == 0:
        if found.source.cached:
            return Condition(v.READY, "True", v.IDLE, workloads.message)
        return Condition(v.READY, found.source.condition.status, *_why(found.source.condition))
    if admitted.status == "True" and found.routable > 0 and (workloads.status == "True" or found.rollout.rolling):
        return Condition(v.READY, "True", v.RUNNING, f"{found.routable} replicas take requests")
    if workloads.status != "True":
        cause = found.source.condition if workloads.reason == v.WAITING_FOR_MODEL else workloads
        return Condition(v.READY, "False", *_why(cause))
    return Condition(v.READY, "False", *_why(admitted))


def _why(condition: Condition) -> tuple[str, str]:
    return condition.reason, condition.message
