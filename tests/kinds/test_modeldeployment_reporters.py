"""Which pods report about a ModelDeployment, and which containers are probed."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.api import vocabulary as v
from headrace.kinds.controller import ProbedPod
from headrace.kinds.modeldeployment.reporters import reporters
from headrace.kinds.modeldeployment.revision_info import RevisionInfo
from headrace.reconcile.world import ChildKey, Manifest, Observed

STARTED = "2026-01-01T00:00:10Z"


def probed(resource: Manifest, observed: Observed) -> tuple[ProbedPod, ...]:
    return reporters(resource, observed).probed


INFO = RevisionInfo(
    runtime="Container",
    public_name="m",
    port=9000,
    readiness_path="/ready",
    self_registers=False,
    explains_unready=True,
    capacity=5,
    operations=("chat",),
    capabilities=(),
)


def resource(spec: Any = None) -> Manifest:
    return {"metadata": {"name": "m"}, "spec": spec}


def observed(*pods: Manifest, **info: Any) -> Observed:
    record = INFO.model_copy(update=info).encode().decode()
    deployment = {
        "metadata": {"labels": {v.REVISION_LABEL: "r1"}, "annotations": {v.REVISION_INFO_ANNOTATION: record}},
    }
    return Observed(children={ChildKey("apps/v1", "Deployment", "default", "m-r1"): deployment}, pods=pods)


def seen(*, ready: bool = False, running: bool = True, ip: str | None = "10.1.0.7", **metadata: Any) -> Manifest:
    state = {"running": {"startedAt": STARTED}} if running else {"waiting": {"reason": "CrashLoopBackOff"}}
    return {
        "metadata": {"name": "p-1", "labels": {v.REVISION_LABEL: "r1"}, **metadata},
        "status": {"containerStatuses": [{"ready": ready, "state": state}], **({"podIP": ip} if ip else {})},
    }


def test_pods_when_running_then_described_by_status_and_record() -> None:
    (found,) = probed(resource(), observed(seen(ready=True)))
    assert found == ProbedPod("p-1", "r1", "10.1.0.7", 9000, "/ready", 5, 1767225610.0, ready=True, terminating=False)


def test_pod_when_self_registering_then_the_loop_reports_nothing() -> None:
    (found,) = probed(resource(), observed(seen(), self_registers=True))
    assert found.announces


def test_pod_when_it_is_being_deleted_then_it_is_leaving() -> None:
    (found,) = probed(resource(), observed(seen(deletionTimestamp=STARTED)))
    assert found.terminating


@pytest.mark.parametrize(
    "there",
    [
        observed(seen(running=False)),
        observed(seen(ip=None)),
        observed(seen(), self_registers=True, explains_unready=False),
        observed(),
    ],
    ids=["crashed", "no address", "own runtime", "none"],
)
def test_pods_when_there_is_nothing_to_report_then_none(there: Observed) -> None:
    assert probed(resource(), there) == ()


@pytest.mark.parametrize("spec", [None, {}, {"runtime": 3}, {"runtime": {"container": []}}])
def test_pods_when_the_spec_is_invalid_then_still_reported(spec: Any) -> None:
    (found,) = probed(resource(spec), observed(seen()))
    assert found.capacity == 5


@pytest.mark.parametrize(
    ("component", "reports"), [(v.COMPONENT_RUNTIME, frozenset({"p-1"})), (v.COMPONENT_FETCH, frozenset[str]())]
)
def test_reporters_are_the_runtime_pods(component: str, reports: frozenset[str]) -> None:
    pod = {"metadata": {"name": "p-1", "labels": {v.COMPONENT_LABEL: component}}}
    found = reporters(resource(), Observed(pods=(pod,)))
    assert (found.pods, found.fetches) == (reports, False)


def test_reporters_when_there_is_a_job_include_the_fetch() -> None:
    assert reporters(resource(), Observed(children={ChildKey("batch/v1", "Job", "default", "m-fetch"): {}})).fetches
