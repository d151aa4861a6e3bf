"""Warnings on the Secrets of API keys."""

from __future__ import annotations

import asyncio
import base64
from typing import cast

import pytest
from kubernetes_operator.operator_api import RecordingApi

from headrace.api import vocabulary as v
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

    def events(self) -> list[tuple[str, str, str]]:
        bodies = [body for (verb, _), body in zip(self.api.writes, self.api.bodies, strict=True) if verb == "create"]
        return [(body["involvedObject"]["kind"], body["metadata"]["namespace"], body["reason"]) for body in bodies]


@pytest.fixture
def keys() -> Keys:
    return Keys()


async def test_digest_when_copied_then_both_secrets_get_one_event(keys: Keys) -> None:
    keys.put("team-b", age=1)
    keys.put("team-a", age=2)
    await keys.written()
    keys.put("team-c", age=3, digest="b" * 64)  # another change
    await keys.written()
    assert sorted(keys.events()) == [("Secret", name, v.KEY_REJECTED) for name in ("team-a", "team-b")]


async def test_fault_when_it_comes_again_then_it_is_reported_again(keys: Keys) -> None:
    for version, (digest, events) in enumerate([("nonsense", 1), (DIGEST, 1), ("nonsense", 2)], start=1):
        keys.put("team-a", age=1, digest=digest, version=version)
        await keys.written()
        assert len(keys.api.writes) == events


async def test_event_when_it_is_refused_then_the_next_is_written(keys: Keys) -> None:
    keys.put("team-a", age=1, digest="nonsense")
    keys.put("team-b", age=1, digest="nonsense")
    keys.api.errors = [ApiError(403, "no")]
    await keys.written()
    assert keys.events()[-1] == ("Secret", "team-b", v.KEY_REJECTED)
