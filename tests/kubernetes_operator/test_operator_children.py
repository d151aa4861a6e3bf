"""Children of other kinds in the operator: DaemonSets with their pods, and cluster-scoped objects."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import kopf
import pytest
from aiohttp import web
from control.control_world import Broker, until
from kubernetes_operator.operator_api import RecordingApi
from kubernetes_operator.test_operator_world import CONTROLLED, OWNER, Provided, resource, world

from headrace.api import kinds
from headrace.api import vocabulary as v
from headrace.api.kinds import Kind
from headrace.control.loop import ControlLoop
from headrace.control.world import ChildRefused
from headrace.events.connection import connect
from headrace.kinds.registry import RESOURCE_KINDS
from headrace.reconcile.ownership import owner_annotation
from headrace.reconcile.world import Child, ChildKey, Manifest, ObjectKey, ResourceKey, Settings
from headrace_operator.client import ApiServer, Listed
from headrace_operator.connection import Connection
from headrace_operator.kinds import Watched, watched_kinds
from headrace_operator.namespaces import Namespaces
from headrace_operator.world import KubernetesWorld

PRIORITY_CLASS = Kind(
    "scheduling.k8s.io/v1", "PriorityClass", "priorityclasses", "priorityclass", ("pc",), namespaced=False
)
PATH = "/apis/scheduling.k8s.io/v1/priorityclasses/smollm2"
LABELS = {v.MANAGED_BY: "headrace", v.MODEL_LABEL: OWNER.name, v.COMPONENT_LABEL: v.COMPONENT_RUNTIME}


@pytest.fixture(autouse=True)
def _more_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the kind of resource could own them."""
    resource_kind = RESOURCE_KINDS[OWNER.kind]
    children = (*resource_kind.children, kinds.DAEMON_SET, PRIORITY_CLASS)
    monkeypatch.setitem(RESOURCE_KINDS, OWNER.kind, replace(resource_kind, children=children))


def daemon_set() -> Child:
    template = {"metadata": {"labels": LABELS}, "spec": {"containers": [{"name": "main", "image": "i"}]}}
    metadata = {"name": "agent", "namespace": "default", "labels": LABELS, "ownerReferences": [CONTROLLED]}
    spec = {"selector": {"matchLabels": LABELS}, "template": template}
    manifest = {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": metadata, "spec": spec}
    return Child(ChildKey.of(manifest), manifest)


def priority_class(uid: str = "r1", owner: ResourceKey = OWNER) -> Child:
    named = {**resource(), "kind": owner.kind}
    named["metadata"].update(namespace=owner.namespace, name=owner.name, uid=uid)
    metadata = {"name": "smollm2", "labels": LABELS, "annotations": owner_annotation(named)}
    manifest = {"apiVersion": PRIORITY_CLASS.api_version, "kind": "PriorityClass", "metadata": metadata, "value": 1}
    return Child(ChildKey.of(manifest), manifest)


def served(child: Child, version: int = 5, **metadata: Any) -> Manifest:
    """The child as an API server has it."""
    added = {"uid": "c1", "resourceVersion": str(version), **metadata}
    return {**child.manifest, "metadata": {**child.manifest["metadata"], **added}}


# -- DaemonSets ----------------------------------------------------------------------------------------------


async def test_daemon_set_is_applied_and_observed_with_its_pods() -> None:
    made, api = world()
    await made.apply(OWNER, daemon_set())
    await made.apply(OWNER, daemon_set())
    assert api.writes == [("apply", "/apis/apps/v1/namespaces/default/daemonsets/agent")]
    (found,) = made.observe(OWNER).children.values()
    reference = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "agent", "controller": True}
    metadata = {"name": "agent-x", "namespace": "default", "uid": "p", "resourceVersion": "7", "labels": LABELS}
    owners = [{**reference, "uid": found["metadata"]["uid"]}]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {**metadata, "ownerReferences": owners}}
    made.index.put({**pod, "spec": {"nodeName": "node-1", "containers": []}})
    assert [pod["spec"] for pod in made.observe(OWNER).pods] == [{"nodeName": "node-1"}]


async def test_daemon_set_is_deleted_by_uid() -> None:
    made, api = world()
    made.index.put(served(daemon_set()))
    await made.delete(OWNER, daemon_set().key)
    assert api.writes == [("delete", "/apis/apps/v1/namespaces/default/daemonsets/agent")]
    assert api.bodies == ["c1"]


# -- cluster-scoped objects ----------------------------------------------------------------------------------


async def test_cluster_scoped_child_is_applied_and_observed() -> None:
    made, api = world()
    enqueued: list[ResourceKey | None] = []
    made.subscribe(enqueued.append)
    for _ in range(2):
        await made.apply(OWNER, priority_class())
    assert api.writes == [("apply", PATH)]
    assert made.observe(OWNER).children.keys() == {priority_class().key}
    assert made.keys() == [OWNER]
    assert enqueued == [OWNER]


async def test_cluster_scoped_child_of_another_is_refused() -> None:
    made, api = world()
    other = ResourceKey(OWNER.kind, "team-b", OWNER.name)
    made.index.put(served(priority_class("o1", other)))
    assert made.observe(OWNER).children == {}
    with pytest.raises(ChildRefused, match="PriorityClass smollm2 exists and has another owner"):
        await made.apply(OWNER, priority_class())
    await made.delete(OWNER, priority_class().key)
    assert api.writes == []


async def test_cluster_scoped_child_of_a_former_resource_is_adopted() -> None:
    made, api = world()
    made.index.put(served(priority_class("former")))
    assert made.observe(OWNER).children.keys() == {priority_class().key}
    await made.apply(OWNER, priority_class())
    assert api.writes == [("apply", PATH)]
    assert api.forced == [True]


async def test_cluster_scoped_child_when_restricted_is_refused() -> None:
    api = RecordingApi()
    made = KubernetesWorld(cast("ApiServer", api), "operator-0", ("team-a", "team-b"))
    made.lead(cast("Namespaces", Provided()))
    made.index.put(resource())
    with pytest.raises(ChildRefused, match=r"restricted to the namespaces team-a, team-b.*watchNamespaces"):
        await made.apply(OWNER, priority_class())
    await made.apply(OWNER, daemon_set())
    assert len(api.writes) == 1


def test_cluster_scoped_kind_when_restricted_is_not_watched() -> None:
    assert "PriorityClass" in watched_kinds(())
    assert watched_kinds(("team-a",)).keys() == watched_kinds().keys() - {"PriorityClass"}


def test_path_of_a_cluster_scoped_kind_has_no_namespace() -> None:
    watched = Watched.of(PRIORITY_CLASS)
    assert watched.path("", "smollm2") == PATH
    assert watched.path("team-a") == watched.path(None) == PATH.removesuffix("/smollm2")


async def test_listing_of_a_cluster_scoped_kind() -> None:
    async def answer(request: web.Request) -> web.Response:
        assert request.path == PATH.removesuffix("/smollm2")
        items = [{"metadata": {"name": "smollm2", "uid": "c1"}}]
        return web.json_response({"metadata": {"resourceVersion": "9"}, "items": items})

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    info = kopf.ConnectionInfo(server=f"http://127.0.0.1:{runner.addresses[0][1]}")
    async with ApiServer(Connection(info, "operator-0")) as api:
        found = await api.listing(Watched.of(PRIORITY_CLASS), None)
    await runner.cleanup()
    assert found.objects == (Listed("", "smollm2", "c1"),)


@asynccontextmanager
async def reconciling(made: KubernetesWorld) -> AsyncIterator[None]:
    """Run the reconcile loop with a real broker."""
    broker = Broker()
    broker.start()
    client = await connect(broker.url, name="reconciler")
    control = ControlLoop(made, client, Settings("http://gateway", broker.url, "/models"))
    loop = asyncio.create_task(control.run())
    try:
        await control.settled()
        yield
    finally:
        loop.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await loop
        await client.close()
        broker.stop()


async def until_deleted(api: RecordingApi) -> None:
    async def deleted() -> bool:
        return ("delete", PATH) in api.writes

    await until(deleted, "the cluster-scoped child is deleted")
    assert api.bodies[api.writes.index(("delete", PATH))] == "c1"


async def test_cluster_scoped_child_is_deleted_with_its_resource() -> None:
    """Of a resource's children the API server deletes the namespaced ones alone."""
    made, api = world()
    made.index.put({**resource(2), "spec": {"model": None}})  # it is rejected, and so keeps its children
    made.index.put(served(priority_class()))
    made.index.put(served(daemon_set()))
    async with reconciling(made):
        made.index.put(resource(9, deletionTimestamp="2026-01-01T00:00:01Z"))
        await until_deleted(api)
    assert [path for verb, path in api.writes if verb == "delete"] == [PATH]


async def test_cluster_scoped_child_without_owner_is_deleted() -> None:
    made, api = world()
    made.index.remove(ObjectKey(OWNER.kind, OWNER.namespace, OWNER.name), "r1")
    async with reconciling(made):
        made.index.put(served(priority_class()))
        await until_deleted(api)


async def test_cluster_scoped_child_of_an_unknown_kind_is_left_alone() -> None:
    """It may be of a newer release, whose resources this one does not watch."""
    made, api = world()
    enqueued: list[ResourceKey | None] = []
    made.subscribe(enqueued.append)
    made.index.put(served(priority_class("n1", ResourceKey("Newer", "default", "smollm2"))))
    assert (made.keys(), enqueued, api.writes) == ([OWNER], [], [])


async def test_cluster_scoped_child_is_deleted_after_a_restart() -> None:
    made, api = world()
    made.index.remove(ObjectKey(OWNER.kind, OWNER.namespace, OWNER.name), "r1")
    made.index.put(served(priority_class()))
    assert made.keys() == [OWNER]
    async with reconciling(made):
        await until_deleted(api)


async def test_unwanted_cluster_scoped_child_is_deleted() -> None:
    made, api = world()
    source = {"source": {"uri": "https://example.org/m.gguf"}}
    made.index.put({**resource(2, generation=1), "spec": {"model": source}})
    made.index.put(served(priority_class("former")))
    async with reconciling(made):
        await until_deleted(api)
