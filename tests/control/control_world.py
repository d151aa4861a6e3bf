"""A world of plain dictionaries for the loop: what an adapter implements, without processes."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from headrace.api.vocabulary import MODEL_DEPLOYMENT
from headrace.control.world import Changed, ChildRefused
from headrace.kinds.modeldeployment.resource import SCHEMA
from headrace.reconcile.world import Child, ChildKey, Conversion, Event, Manifest, Observed, ResourceKey
from headrace.routes import KeyGrant

ROOT = Path(__file__).parents[2]
KEY = ResourceKey(MODEL_DEPLOYMENT, "default", "smollm2")
SECONDS = 20.0


async def until(look: Callable[[], Awaitable[bool]], what: str | Callable[[], str]) -> None:
    deadline = time.monotonic() + SECONDS
    while not await look():
        assert time.monotonic() < deadline, f"not within {SECONDS} s: {what if isinstance(what, str) else what()}"
        await asyncio.sleep(0.02)


class Broker:
    """A real nats-server with JetStream."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = int(probe.getsockname()[1])
        self._store = tempfile.mkdtemp(prefix="js")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        program = shutil.which("nats-server", path=str(Path(sys.executable).parent))
        assert program is not None
        command = [program, "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", self._store]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def freeze(self) -> None:
        """Stop the process: its kernel goes on taking what is sent, and it says nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        self.kill()
        shutil.rmtree(self._store, ignore_errors=True)


class DictWorld:
    """Resources and children as dictionaries. `broken` makes every apply fail."""

    def __init__(self) -> None:
        self.resources: dict[ResourceKey, Manifest] = {}
        self.children: dict[ChildKey, Manifest] = {}
        self.grants: dict[str, KeyGrant] = {}
        self.events: list[Event] = []
        self.broken = False
        self.refused: set[str] = set()
        """Kinds that are not taken."""
        self.applied = 0
        self._changed: list[Changed] = []

    def add(self) -> None:
        """Add the example."""
        manifest: dict[str, Any] = SCHEMA.with_defaults(yaml.safe_load((ROOT / "examples/smollm2.yaml").read_text()))
        manifest["metadata"].update(uid="u1", generation=1, creationTimestamp="2026-01-01T00:00:00Z")
        self.resources[KEY] = manifest
        self.tell(KEY)

    def change(self) -> None:
        """Change the spec so that it is another revision."""
        resource = self.resources[KEY]
        resource["spec"]["template"] = {"env": [{"name": "A", "value": "B"}]}
        resource["metadata"]["generation"] += 1
        self.tell(KEY)

    def remove(self) -> None:
        del self.resources[KEY]
        self.tell(KEY)

    def finish_fetch(self) -> None:
        """As if the fetch Job had succeeded, and its pod was cleaned up: what it got is in the status."""
        for key, child in self.children.items():
            if key.kind == "Job":
                self.children[key] = {**child, "status": {"succeeded": 1}}
        uri = self.resources[KEY]["spec"]["model"]["source"]["uri"]
        source = {"uri": uri, "digest": "sha256:" + "0" * 64, "path": "x", "bytes": 1}
        self.resources[KEY]["status"]["source"] = source
        self.tell(KEY)

    def replicas(self) -> int:
        return sum(int(child["spec"]["replicas"]) for key, child in self.children.items() if key.kind == "Deployment")

    def condition(self, type_: str) -> Manifest:
        conditions = self.resources[KEY].get("status", {}).get("conditions", [])
        return next((dict(item) for item in conditions if item["type"] == type_), {})

    def tell(self, key: ResourceKey | None) -> None:
        for changed in self._changed:
            changed(key)

    def subscribe(self, changed: Changed) -> None:
        self._changed.append(changed)

    def keys(self) -> list[ResourceKey]:
        return list(self.resources)

    def resource(self, key: ResourceKey) -> Manifest | None:
        return self.resources.get(key)

    def observe(self, key: ResourceKey) -> Observed:
        return Observed(children=dict(self.children))

    def api_keys(self) -> Mapping[str, KeyGrant]:
        return self.grants

    async def apply(self, owner: ResourceKey, child: Child) -> None:
        if self.broken:
            raise OSError("the world is broken")
        if child.key.kind in self.refused:
            raise ChildRefused("spec.template: must be less than the limit", retry_seconds=0.05)
        self.applied += 1
        status = self.children.get(child.key, {}).get("status")
        self.children[child.key] = child.manifest if status is None else {**child.manifest, "status": status}

    async def delete(self, owner: ResourceKey, child: ChildKey) -> None:
        del self.children[child]

    async def set_routable(self, owner: ResourceKey, pods: frozenset[str]) -> None:
        """There are no pods."""

    async def convert(self, owner: ResourceKey, conversion: Conversion) -> str | None:
        """There are no pods."""

    def keep_objects(self, owner: ResourceKey, names: frozenset[str]) -> None:
        """There is no node agent."""

    async def write_status(self, key: ResourceKey, status: Manifest) -> None:
        if key in self.resources:
            self.resources[key] = {**self.resources[key], "status": status}

    async def record(self, key: ResourceKey, event: Event) -> None:
        self.events.append(event)
