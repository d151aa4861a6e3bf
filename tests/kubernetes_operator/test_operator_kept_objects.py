"""The ConfigMap with the objects that node agents pin: when it is written, and with what."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import cast

import pytest
import pytest_asyncio
from kubernetes_operator.operator_api import RecordingApi

from headrace.agent.kept import decode
from headrace.api import vocabulary as v
from headrace.reconcile.world import ResourceKey
from headrace_operator import kept_objects
from headrace_operator.client import UNREACHABLE, ApiError, ApiServer
from headrace_operator.kept_objects import KeptObjects

A, B = (ResourceKey(v.MODEL_DEPLOYMENT, namespace, "smol") for namespace in ("team-a", "team-b"))
NAMES = ("aa" * 32, "bb" * 32)
PATH = "/api/v1/namespaces/headrace-system/configmaps/kept"


class Kept:
    """What is kept of two resources, one of which may not be reconciled yet."""

    def __init__(self) -> None:
        self.api = RecordingApi()
        self.resources = {A, B}
        self.checks = 0
        """How often it was checked whether all are reconciled."""
        self.objects = KeptObjects(cast("ApiServer", self.api), self._existing)

    def _existing(self) -> set[ResourceKey]:
        self.checks += 1
        return self.resources

    def written(self) -> list[frozenset[tuple[str, str]]]:
        return [decode(body["data"]["objects"]) for body in self.api.bodies]

    async def writes(self, count: int) -> None:
        await until(lambda: len(self.api.writes) == count)


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


@pytest_asyncio.fixture
async def kept(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Kept]:
    monkeypatch.setattr(kept_objects, "WRITE_SECONDS", 0.001)
    monkeypatch.setattr(kept_objects, "RETRY_SECONDS", 0.001)
    made = Kept()
    task = asyncio.create_task(made.objects.run("headrace-system", "kept"))
    yield made
    task.cancel()
    await asyncio.wait([task])


async def test_list_when_all_are_reconciled_then_written(kept: Kept) -> None:
    """Before, an object of a resource that is not reconciled yet would be missing, and agents would remove it."""
    kept.objects.update(A, frozenset({NAMES[0]}))
    await until(lambda: kept.checks == 1)
    kept.objects.update(B, frozenset())
    await kept.writes(1)
    assert kept.api.writes == [("merge", PATH)]
    assert kept.written() == [{("team-a", NAMES[0])}]


async def test_list_when_resource_is_deleted_then_without_its_objects(kept: Kept) -> None:
    kept.objects.update(A, frozenset({NAMES[0]}))
    kept.objects.update(B, frozenset({NAMES[1]}))
    await kept.writes(1)
    kept.resources.remove(A)
    kept.objects.update(A, None)
    await kept.writes(2)
    assert kept.written()[-1] == {("team-b", NAMES[1])}


async def test_list_when_write_fails_then_tried_again(kept: Kept) -> None:
    kept.api.errors = [ApiError(UNREACHABLE, "no")]
    kept.objects.update(A, frozenset({NAMES[0]}))
    kept.objects.update(B, frozenset())
    await kept.writes(1)
    assert kept.written() == [{("team-a", NAMES[0])}]
