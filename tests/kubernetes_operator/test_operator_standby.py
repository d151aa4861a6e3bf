"""A standby pod in the world of an API server: which one becomes a replica, and by which labels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from kubernetes_operator.operator_api import RecordingApi
from kubernetes_operator.test_operator_world import METADATA, OWNER, world

from headrace.api import vocabulary as v
from headrace.events.messages import Launch
from headrace.reconcile.world import Conversion, Manifest, ResourceKey
from headrace_operator.client import NOT_FOUND, ApiError
from headrace_operator.world import KubernetesWorld


def standby_world(**status: Any) -> tuple[KubernetesWorld, RecordingApi, Conversion]:
    """A world with a pool of one standby pod of `smollm2`, and a starting replica of `other`."""
    made, api = world()
    pool = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "spec": {},
        "metadata": {
            **METADATA,
            "name": "pool",
            "uid": "d1",
            "resourceVersion": "2",
            "labels": {v.MANAGED_BY: "headrace"},
        },
    }
    made.index.put(pool)
    warm = _pod("warm", {v.MODEL_LABEL: "smollm2", v.COMPONENT_LABEL: v.COMPONENT_STANDBY, v.STANDBY_LABEL: "p1"})
    warm["status"] = {"phase": "Running", **status}
    starting = _pod("starting", {v.MODEL_LABEL: "other", v.COMPONENT_LABEL: v.COMPONENT_RUNTIME, v.REVISION_LABEL: "r"})
    for pod in (warm, starting):
        made.index.put(pod)
        api.objects[f"/api/v1/namespaces/default/pods/{pod['metadata']['name']}"] = pod
    return made, api, Conversion("starting", OWNER, "p1", Launch(arguments=(), variables={}))


def _pod(name: str, labels: dict[str, str]) -> Manifest:
    reference = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "pool-1", "uid": "rs1", "controller": True}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": f"uid-{name}",
            "resourceVersion": "3",
            "labels": {v.MANAGED_BY: "headrace", "pod-template-hash": "1", **labels},
            "ownerReferences": [reference],
        },
        "status": {"phase": "Pending"},
    }


async def test_convert_when_standby_pod_runs_then_has_the_labels() -> None:
    """All of the starting replica, by which the revision's ReplicaSet adopts it; it is not taken twice."""
    made, api, conversion = standby_world()
    owner = ResourceKey(v.MODEL_DEPLOYMENT, "default", "other")
    assert await made.convert(owner, conversion) == "warm"
    ((verb, path),) = api.writes
    assert (verb, path) == ("merge", "/api/v1/namespaces/default/pods/warm")
    labels = api.objects[path]["metadata"]["labels"]
    starting = api.objects["/api/v1/namespaces/default/pods/starting"]["metadata"]["labels"]
    assert labels == {**starting, v.STANDBY_LABEL: "p1"}
    assert await made.convert(owner, conversion) is None


@pytest.mark.parametrize(("status", "program"), [({"phase": "Pending"}, "p1"), ({}, "p2")])
async def test_convert_when_none_fits_then_nothing_written(status: dict[str, str], program: str) -> None:
    made, api, conversion = standby_world(**status)
    owner = ResourceKey(v.MODEL_DEPLOYMENT, "default", "other")
    assert await made.convert(owner, replace(conversion, program=program)) is None
    assert api.writes == []


async def test_convert_when_standby_pod_is_gone_then_none() -> None:
    made, api, conversion = standby_world()
    api.errors = [ApiError(NOT_FOUND, "gone")]
    assert await made.convert(ResourceKey(v.MODEL_DEPLOYMENT, "default", "other"), conversion) is None
