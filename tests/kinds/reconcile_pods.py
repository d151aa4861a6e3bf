"""Pods of the small world in `kinds.reconcile_world`: they start, serve and crash as a test says."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from headrace.api import vocabulary as v
from headrace.events.messages import ReplicaReport, ReplicaState
from headrace.reconcile.world import Manifest


@dataclass
class Pods:
    """The pods of one resource, what their runtimes report, and which gateways admitted them."""

    pods: dict[str, Manifest] = field(default_factory=dict)
    reports: dict[str, ReplicaReport] = field(default_factory=dict)
    admissions: dict[str, frozenset[str]] = field(default_factory=dict)
    gateways: frozenset[str] = frozenset({"gw-1"})
    now: float = 1000.0

    @property
    def wall(self) -> float:
        return self.now + 1_700_000_000

    def stamp(self) -> str:
        return datetime.fromtimestamp(self.wall, UTC).isoformat()

    def runtimes(self, revision: str | None = None) -> list[str]:
        """Names of the runtime pods."""
        return [
            name
            for name, pod in self.pods.items()
            if pod["metadata"]["labels"][v.COMPONENT_LABEL] == v.COMPONENT_RUNTIME
            and revision in (None, pod["metadata"]["labels"][v.REVISION_LABEL])
        ]

    def has_place(self, pod: str) -> bool:
        """Whether a node has the pod."""
        conditions = self.pods[pod]["status"]["conditions"]
        return not any(each["type"] == "PodScheduled" and each["status"] == "False" for each in conditions)

    def container(self, pod: str, state: Manifest, **more: Any) -> None:
        statuses = self.pods[pod]["status"]["containerStatuses"]
        before = statuses[0] if statuses else {"name": "c", "restartCount": 0, "ready": False, "lastState": {}}
        statuses[:] = [{**before, "ready": False, **more, "state": state}]

    def report(self, pod: str, state: ReplicaState, stage: str = "", percent: int | None = None) -> None:
        revision = self.pods[pod]["metadata"]["labels"][v.REVISION_LABEL]
        self.reports[pod] = ReplicaReport(
            pod=pod, revision=revision, host="127.1.0.1", port=8000, started=1.0, sequence=1, state=state, stage=stage,
            percent=percent, capacity=16,
        )  # fmt: skip

    def load(self, pod: str, stage: str = "loading-weights", percent: int | None = None) -> None:
        """It runs and loads."""
        self.container(pod, {"running": {"startedAt": self.stamp()}})
        self.report(pod, ReplicaState.LOADING, stage, percent)

    def serve(self, pod: str, *, admitted: bool = True) -> None:
        """It is ready, and (if so told) every gateway routes to it."""
        self.container(pod, {"running": {"startedAt": self.stamp()}}, ready=True)
        self.report(pod, ReplicaState.READY)
        self.admissions[pod] = self.gateways if admitted else frozenset()

    def no_room(self, pod: str) -> None:
        """No node takes it."""
        set_condition(self.pods[pod], "PodScheduled", "False", "0/1 nodes are available: insufficient cpu")

    def depart(self) -> None:
        """Every pod that is being rolled out out is gone."""
        for name in [name for name, pod in self.pods.items() if going(pod)]:
            del self.pods[name]

    def crash(self, pod: str, message: str, *, code: int = 1, reason: str = "Error") -> None:
        """It ended and waits to be started again."""
        statuses = self.pods[pod]["status"]["containerStatuses"]
        restarts = statuses[0]["restartCount"] + 1 if statuses else 1
        started = statuses[0]["state"].get("running", {}).get("startedAt", self.stamp()) if statuses else self.stamp()
        ended = {"exitCode": code, "reason": reason, "message": message, "startedAt": started}
        waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
        self.container(pod, waiting, restartCount=restarts, lastState={"terminated": ended})
        self.reports.pop(pod, None)
        self.admissions.pop(pod, None)

    def fetch_pod(self) -> str | None:
        fetches = (
            name for name, pod in self.pods.items() if pod["metadata"]["labels"][v.COMPONENT_LABEL] == v.COMPONENT_FETCH
        )
        return next(fetches, None)


def going(pod: Manifest) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def set_condition(pod: Manifest, type_: str, status: str, message: str = "", at: str = "") -> None:
    others = [condition for condition in pod["status"]["conditions"] if condition["type"] != type_]
    made = {"type": type_, "status": status, "message": message, "lastTransitionTime": at}
    pod["status"]["conditions"] = [*others, made]


def gate_of(pod: Manifest) -> str:
    """Status of the readiness gate, which is not there before it is True for the first time."""
    return next((each["status"] for each in pod["status"]["conditions"] if each["type"] == v.ROUTABLE_GATE), "False")
