"""Children for a real local cluster, whose processes are small shell and Python scripts."""

from __future__ import annotations

import asyncio
import base64
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from headrace.api import vocabulary as v
from headrace.local.cluster import LocalCluster
from headrace.local.pods import Backoff
from headrace.reconcile.world import Child, ChildKey, Manifest, ObjectKey, ResourceKey

SECONDS = 10.0
MODEL = ResourceKey(v.MODEL_DEPLOYMENT, "default", "smol")
QUICK = Backoff(first_seconds=0.05, longest_seconds=0.2)
LABELS = {v.MODEL_LABEL: MODEL.name, v.COMPONENT_LABEL: v.COMPONENT_RUNTIME}
SLEEPER = "exec sleep 600"
OWNER = {"apiVersion": v.API_VERSION, "kind": "ModelDeployment", "name": MODEL.name, "uid": "uid-1", "controller": True}
SERVER = """
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if os.path.exists(sys.argv[2] + self.path) else 503)
        self.end_headers()
http.server.HTTPServer((sys.argv[1], 8000), Handler).serve_forever()
"""
"""Answers well for each path that exists as a file in a directory."""


def container(script: str, **fields: Any) -> Manifest:
    return {"name": "main", "command": ["sh", "-c", script], **fields}


def server(state: Path, **fields: Any) -> Manifest:
    """A container that is as healthy as the files of the directory say."""
    address = {"name": "ADDRESS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    return {
        "name": "main",
        "command": [sys.executable, "-c", SERVER],
        "args": ["$(ADDRESS)", str(state)],
        "env": [address],
        "ports": [{"name": "http", "containerPort": 8000}],
        **fields,
    }


def probe(path: str, **fields: Any) -> Manifest:
    return {"httpGet": {"path": path, "port": "http"}, "periodSeconds": 0.05, **fields}


def deployment(container: Manifest, replicas: int = 1, name: str = "smol-1", **pod: Any) -> Child:
    spec = {
        "replicas": replicas,
        "selector": {"matchLabels": LABELS},
        "strategy": {"type": "Recreate"},
        "template": {"metadata": {"labels": LABELS}, "spec": {"containers": [container], **pod}},
    }
    return _child("apps/v1", "Deployment", name, spec)


def daemon_set(container: Manifest, name: str = "smol-agent", **pod: Any) -> Child:
    spec = {
        "selector": {"matchLabels": LABELS},
        "template": {"metadata": {"labels": LABELS}, "spec": {"containers": [container], **pod}},
    }
    return _child("apps/v1", "DaemonSet", name, spec)


def job(container: Manifest, name: str = "smol-fetch-1", **fields: Any) -> Child:
    pod = {"containers": [container], "restartPolicy": "OnFailure"}
    return _child("batch/v1", "Job", name, {"template": {"metadata": {"labels": LABELS}, "spec": pod}, **fields})


def _child(api_version: str, kind: str, name: str, spec: Manifest) -> Child:
    metadata = {"name": name, "namespace": MODEL.namespace, "labels": LABELS, "ownerReferences": [OWNER]}
    manifest = {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec}
    return Child(ChildKey.of(manifest), manifest)


def owned_by(resource: Manifest, child: Child) -> Child:
    """The child with this resource as its controller."""
    metadata = resource["metadata"]
    reference = {**OWNER, "kind": resource["kind"], "name": metadata["name"], "uid": metadata["uid"]}
    manifest = {**child.manifest, "metadata": {**child.manifest["metadata"], "ownerReferences": [reference]}}
    return Child(child.key, manifest)


def model(name: str = MODEL.name, **spec: Any) -> Manifest:
    return {
        "apiVersion": v.API_VERSION,
        "kind": "ModelDeployment",
        "metadata": {"name": name, "namespace": MODEL.namespace},
        "spec": {"model": {"source": {"uri": "https://example.com/model.gguf"}}, **spec},
    }


def secret(name: str, labels: dict[str, str] | None = None, **data: str) -> Manifest:
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    metadata = {"name": name, "namespace": MODEL.namespace, "labels": labels or {}}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": encoded}


@asynccontextmanager
async def running(directory: Path, backoff: Backoff = QUICK) -> AsyncIterator[LocalCluster]:
    cluster = LocalCluster(directory / "state.sqlite", directory / "pods", backoff, volumes=directory / "node")
    await cluster.start()
    try:
        yield cluster
    finally:
        await cluster.stop(SECONDS)


async def until(cluster: LocalCluster, kind: str, holds: Callable[[list[Manifest]], bool]) -> list[Manifest]:
    """Return the objects of a kind as soon as that holds of them."""

    async def watch() -> list[Manifest]:
        while True:
            async for _ in cluster.index.watch(kind):
                if holds(found := cluster.index.list(kind)):
                    return found

    if holds(found := cluster.index.list(kind)):
        return found
    async with asyncio.timeout(SECONDS):
        return await watch()


async def until_pod(cluster: LocalCluster, holds: Callable[[Manifest], bool]) -> Manifest:
    """Return the only pod's container status as soon as that holds of it."""
    pods = await until(cluster, "Pod", lambda pods: len(pods) == 1 and holds(status_of(pods[0])))
    return status_of(pods[0])


async def eventually(holds: Callable[[], bool]) -> None:
    """Return when it holds."""
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline, "it did not come true"
        await asyncio.sleep(0.005)


async def until_file(path: Path, count: int = 1) -> list[str]:
    """Return the lines of a file that a pod writes, when there are so many."""
    await eventually(lambda: len(lines_of(path)) >= count)
    return lines_of(path)


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def status_of(pod: Manifest) -> Manifest:
    status: Manifest = pod["status"]["containerStatuses"][0]
    return status


def conditions(pod: Manifest) -> dict[str, str]:
    return {condition["type"]: condition["status"] for condition in pod["status"]["conditions"]}


def get(cluster: LocalCluster, kind: str, name: str) -> Manifest:
    found = cluster.index.get(ObjectKey(kind, MODEL.namespace, name))
    assert found is not None
    return found
