"""The reconcile loop on a local cluster: what a refused child shows in the status."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from control.control_world import Broker
from local.local_cluster import MODEL, model, running, until

from headrace.control.loop import ControlLoop
from headrace.events.connection import connect
from headrace.local.cluster import CARRIED_OUT, LocalCluster
from headrace.reconcile.world import Manifest, Settings


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
