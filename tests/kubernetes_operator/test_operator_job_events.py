"""A Job that gets no pod: why is read from its events, seldom, and is put where the rule looks for it."""

from __future__ import annotations

from typing import Any

import pytest
from kubernetes_operator.operator_api import RecordingApi
from kubernetes_operator.test_operator_world import CONTROLLED, OWNER, world

from headrace.api import vocabulary as v
from headrace.kinds.modeldeployment.refusals import refused_pods
from headrace.reconcile.world import Child, ChildKey, Manifest
from headrace_operator.client import FORBIDDEN, ApiError
from headrace_operator.world import KubernetesWorld

QUOTA = 'pods "smollm2-fetch-1-x" is forbidden: exceeded quota: small, requested: cpu=100m, used: cpu=1, limited: cpu=1'
LABELS = {v.MANAGED_BY: "headrace", v.MODEL_LABEL: "smollm2", v.COMPONENT_LABEL: v.COMPONENT_FETCH}


def job() -> Child:
    metadata = {"name": "smollm2-fetch-1", "namespace": "default", "labels": LABELS, "ownerReferences": [CONTROLLED]}
    manifest = {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {"template": {}}}
    return Child(ChildKey.of(manifest), manifest)


def event(message: str, first: str, last: str) -> Manifest:
    return {
        "metadata": {"creationTimestamp": first},
        "message": message,
        "firstTimestamp": first,
        "lastTimestamp": last,
    }


class Watched:
    """The world with a Job, on a clock of ours."""

    def __init__(self) -> None:
        self.now = 0.0
        made, api = world(lambda: self.now)
        self.world: KubernetesWorld = made
        self.api: RecordingApi = api
        self.told: list[Any] = []
        self.world.subscribe(self.told.append)

    async def look_at(self, now: float) -> Manifest:
        """Apply the Job at a time; return it as the rule would see it."""
        self.now = now
        await self.world.apply(OWNER, job())
        return dict(self.world.observe(OWNER).children[job().key])


async def test_job_when_it_gets_no_pod_then_its_newest_event_says_why() -> None:
    watched = Watched()
    watched.api.found = [
        event("Error creating: failed calling webhook", "2026-01-01T00:00:01Z", "2026-01-01T00:00:01Z"),
        event(f"Error creating: {QUOTA}", "2026-01-01T00:00:02Z", "2026-01-01T00:00:09Z"),
    ]
    for now in (0.0, 0.0, 3.0):
        assert refused_pods(await watched.look_at(now), wall=0.0) is None
    assert watched.api.selected == []
    watched.told.clear()
    failure = refused_pods(await watched.look_at(4.5), wall=0.0)
    assert failure is not None
    assert (failure.reason, failure.message) == (v.UNSCHEDULABLE, f"the cluster refuses the pods: {QUOTA}")
    assert OWNER in watched.told
    (uid,) = {entry.uid for key, entry in watched.world.index.owned(OWNER) if key.kind == "Job"}
    fields = f"involvedObject.uid={uid},reason=FailedCreate"
    assert watched.api.selected == [f"/api/v1/namespaces/default/events?{fields}"]


async def test_job_when_it_runs_without_pod_then_events_read_seldom() -> None:
    watched = Watched()
    for now in range(30):
        await watched.look_at(float(now))
    assert len(watched.api.selected) == 3


@pytest.mark.parametrize("error", [None, ApiError(FORBIDDEN, "an older role")])
async def test_job_when_its_events_say_nothing_then_nothing_is_known(error: ApiError | None) -> None:
    watched = Watched()
    await watched.look_at(0.0)
    await watched.look_at(0.0)
    watched.api.errors = [] if error is None else [error]
    assert refused_pods(await watched.look_at(5.0), wall=0.0) is None


@pytest.mark.parametrize("ended", [False, True])
async def test_job_when_it_has_a_pod_or_ended_then_events_are_not_read(*, ended: bool) -> None:
    watched = Watched()
    watched.api.found = [event(f"Error creating: {QUOTA}", "2026-01-01T00:00:02Z", "2026-01-01T00:00:09Z")]
    await watched.look_at(0.0)
    await watched.look_at(0.0)
    assert refused_pods(await watched.look_at(5.0), wall=0.0) is not None
    (found,) = [entry.manifest for key, entry in watched.world.index.owned(OWNER) if key.kind == "Job"]
    if ended:
        metadata = {**found["metadata"], "resourceVersion": "5000"}
        watched.world.index.put({**found, "metadata": metadata, "status": {"succeeded": 1}})
    else:
        owner = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "name": "x",
            "uid": found["metadata"]["uid"],
            "controller": True,
        }
        metadata = {"name": "p", "namespace": "default", "uid": "p", "resourceVersion": "5000", "labels": LABELS}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {**metadata, "ownerReferences": [owner]}}
        watched.world.index.put(pod)
    assert refused_pods(await watched.look_at(30.0), wall=0.0) is None
    assert len(watched.api.selected) == 1
