"""Warnings on the Secrets of API keys."""

from __future__ import annotations

import asyncio
import base64
from typing import cast

import pytest
from operator_room.operator_api import RecordingApi

from headrace.api import vocabulary as v
from headrace.reconcile.world import Manifest
from headrace_operator.client import ApiError, ApiServer
from headrace_operator.kinds import SECRET
from headrace_operator.world import KubernetesWorld

DIGEST = "a" * 64


class Keys:
    """An operator's world with Secrets, and its warnings."""

    def __init__(self) -> None:
        self.api = RecordingApi()
        self.world = self.new_leader()

    def new_leader(self) -> KubernetesWorld:
        self.world = KubernetesWorld(cast("ApiServer", self.api), "operator-0")
        for secret in self.api.objects.values():
            self.world.index.put(secret)
        return self.world

    def put(self, namespace: str, age: int, digest: str = DIGEST, version: int = 1) -> None:
        metadata = {
            "name": "app",
            "namespace": namespace,
            "uid": namespace,
            "resourceVersion": str(version),
            "creationTimestamp": f"2026-01-01T00:00:{age:02}Z",
            "labels": {v.API_KEY_LABEL: "true"},
        }
        data = {"sha256": base64.b64encode(digest.encode()).decode()}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}
        self.api.objects[SECRET.path(namespace, "app")] = secret
        self.world.index.put(secret)

    async def written(self) -> None:
        """Let the warnings come to rest."""
        writing = asyncio.create_task(self.world.key_warnings.run())
        for _ in range(20):
            await asyncio.sleep(0)
        writing.cancel()

    def warning(self, namespace: str) -> str | None:
        found: Manifest = self.api.objects[SECRET.path(namespace, "app")]
        annotation: str | None = (found["metadata"].get("annotations") or {}).get(v.WARNING_ANNOTATION)
        return annotation

    def events(self) -> list[tuple[str, str, str]]:
        bodies = [body for (verb, _), body in zip(self.api.writes, self.api.bodies, strict=True) if verb == "create"]
        return [(body["involvedObject"]["kind"], body["metadata"]["namespace"], body["reason"]) for body in bodies]


@pytest.fixture
def keys() -> Keys:
    return Keys()


async def test_digest_when_copied_then_the_later_secret_has_a_warning_and_one_event(keys: Keys) -> None:
    keys.put("team-b", age=1)
    keys.put("team-a", age=2)
    await keys.written()
    keys.new_leader()
    await keys.written()
    assert keys.warning("team-b") is None
    assert "opens nothing" in str(keys.warning("team-a"))
    assert keys.events() == [("Secret", "team-a", v.KEY_REJECTED)]


async def test_warning_when_the_fault_is_mended_then_it_goes(keys: Keys) -> None:
    keys.put("team-a", age=1, digest="nonsense")
    await keys.written()
    assert "data.sha256" in str(keys.warning("team-a"))
    mended = keys.api.objects[SECRET.path("team-a", "app")]
    mended["data"] = {"sha256": base64.b64encode(DIGEST.encode()).decode()}
    keys.world.index.put({**mended, "metadata": {**mended["metadata"], "resourceVersion": "9999"}})
    await keys.written()
    assert keys.warning("team-a") is None
    assert len(keys.events()) == 1


async def test_warning_when_it_is_refused_then_it_is_written_with_the_next_change(keys: Keys) -> None:
    keys.put("team-a", age=1, digest="nonsense")
    keys.put("team-b", age=1, digest="nonsense")
    keys.api.errors = [ApiError(403, "no")]
    await keys.written()
    assert keys.warning("team-b") is not None
    assert keys.warning("team-a") is not None
