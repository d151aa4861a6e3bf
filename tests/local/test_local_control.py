"""The reconcile loop on a local cluster: a refused child, and cluster-scoped children."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from control.control_world import Broker
from local.local_cluster import MODEL, model, running, until

from headrace.api.kinds import Kind
from headrace.control.loop import ControlLoop
from headrace.control.world import ChildRefused
from headrace.events.connection import connect
from headrace.kinds.modeldeployment import reconcile as rule
from headrace.local.cluster import CARRIED_OUT, LocalCluster
from headrace.reconcile.ownership import controls, owner_annotation
from headrace.reconcile.world import Child, ChildKey, Manifest, ObjectKey, ResourceKey, Settings


@asynccontextmanager
async def reconciled(cluster: LocalCluster, models: Path) -> AsyncIterator[None]:
    """Run the reconcile loop of the cluster with a real broker."""
    broker = Broker()
    broker.start()
    client = await connect(broker.url, name="reconciler")
    loop = ControlLoop(cluster, client, Settings("http://gateway", broker.url, str(models), runs_images=False))
    running = asyncio.create_task(loop.run())
    try:
        yield
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        await client.close()
        broker.stop()


def ready(resource: Manifest) -> Manifest:
    conditions = resource.get("status", {}).get("conditions", [])
    return next((condition for condition in conditions if condition["type"] == "Ready"), {})


async def test_child_of_unsupported_kind_is_refused_in_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ready says which child and why, and the resource's other children exist."""
    monkeypatch.delitem(CARRIED_OUT, "Service")
    async with running(tmp_path) as cluster, reconciled(cluster, tmp_path):
        cluster.apply_object(model())
        (found,) = await until(cluster, MODEL.kind, lambda models: ready(models[0]).get("reason") == "Refused")
        assert ready(found)["status"] == "False"
        assert ready(found)["message"].startswith(
            "the cluster refuses the Service smol: local mode does not support the kind Service. Use a Kubernetes"
        )
        assert [key.kind for key in cluster.observe(MODEL).children] == ["Deployment", "Job"]


# -- cluster-scoped children ---------------------------------------------------------------------------------

PRIORITY_CLASS = Kind("scheduling.k8s.io/v1", "PriorityClass", "priorityclasses", "priorityclass", namespaced=False)


@pytest.fixture
def _cluster_scoped(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if local mode supported a cluster-scoped kind."""
    monkeypatch.setitem(CARRIED_OUT, PRIORITY_CLASS.kind, PRIORITY_CLASS)


def priority_class(owner: Manifest) -> Child:
    metadata = {"name": "smol", "annotations": owner_annotation(owner)}
    manifest = {"apiVersion": PRIORITY_CLASS.api_version, "kind": PRIORITY_CLASS.kind, "metadata": metadata}
    return Child(ChildKey.of(manifest), manifest)


@pytest.fixture
def desired(monkeypatch: pytest.MonkeyPatch, _cluster_scoped: None) -> None:
    """As if every ModelDeployment desired a cluster-scoped child."""
    monkeypatch.setattr(rule, "_pod_prerequisites", lambda facts: iter((priority_class(facts.manifest),)))


@pytest.mark.usefixtures("desired")
async def test_cluster_scoped_child_lives_as_long_as_its_resource(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster, reconciled(cluster, tmp_path):
        now, _ = cluster.apply_object(model())
        (child,) = await until(cluster, PRIORITY_CLASS.kind, lambda found: len(found) == 1)
        await until(cluster, MODEL.kind, lambda models: bool(ready(models[0])))
        assert priority_class(now).key in cluster.observe(MODEL).children
        cluster.delete_object(ObjectKey.of(now))
        assert cluster.index.list(PRIORITY_CLASS.kind) == [child]
        await until(cluster, PRIORITY_CLASS.kind, lambda found: not found)


@pytest.mark.usefixtures("desired")
async def test_cluster_scoped_child_is_adopted_by_the_next_resource(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster, reconciled(cluster, tmp_path):
        former, _ = cluster.apply_object(model())
        (child,) = await until(cluster, PRIORITY_CLASS.kind, lambda found: len(found) == 1)
        cluster.delete_object(ObjectKey.of(former))
        now, _ = cluster.apply_object(model())
        (adopted,) = await until(cluster, PRIORITY_CLASS.kind, lambda found: controls(now, found[0]))
        assert adopted["metadata"]["uid"] == child["metadata"]["uid"]


@pytest.mark.usefixtures("_cluster_scoped")
async def test_unwanted_cluster_scoped_child_is_deleted(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        former, _ = cluster.apply_object(model())
        cluster.delete_object(ObjectKey.of(former))
        await cluster.apply(MODEL, priority_class(former))
        assert cluster.keys() == [MODEL]
        cluster.apply_object(model())
        async with reconciled(cluster, tmp_path):
            await until(cluster, PRIORITY_CLASS.kind, lambda found: not found)


@pytest.mark.usefixtures("_cluster_scoped")
async def test_cluster_scoped_child_is_deleted_after_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        former, _ = cluster.apply_object(model())
        cluster.delete_object(ObjectKey.of(former))
        await cluster.apply(MODEL, priority_class(former))
        async with reconciled(cluster, tmp_path):
            await until(cluster, PRIORITY_CLASS.kind, lambda found: not found)


@pytest.mark.usefixtures("_cluster_scoped")
async def test_cluster_scoped_child_of_another_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        mine, _ = cluster.apply_object(model())
        other, _ = cluster.apply_object(model("other"))
        await cluster.apply(ResourceKey.of(other), priority_class(other))
        with pytest.raises(ChildRefused, match="PriorityClass smol exists and has another owner"):
            await cluster.apply(MODEL, priority_class(mine))
        await cluster.delete(MODEL, priority_class(mine).key)
        assert cluster.observe(MODEL).children == {}
        assert len(cluster.observe(ResourceKey.of(other)).children) == 1
