"""What must not grow, overflow or be lost in the loop, however long it lives and whatever happens between two waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from control.control_world import KEY, Broker
from control.test_control_loop import Control
from nats.aio.msg import Msg

from headrace.control import buckets
from headrace.control.buckets import BucketWriter
from headrace.control.loop import LAST_BACKOFF_SECONDS, _backoff_seconds
from headrace.control.signals import SignalStore
from headrace.events import subjects
from headrace.events.messages import Demand, FetchProgress


class FakeBucket:
    """Entries; `on_get` is what happens elsewhere while one is being read."""

    def __init__(self, entries: dict[str, bytes]) -> None:
        self.entries = entries
        self.deletes = 0
        self.on_get: Callable[[], None] = lambda: None

    async def keys(self) -> list[str]:
        return list(self.entries)

    async def get(self, key: str) -> Any:
        self.on_get()
        return SimpleNamespace(value=self.entries[key])

    async def put(self, key: str, value: bytes) -> None:
        self.entries[key] = value

    async def delete(self, key: str) -> None:
        self.deletes += 1
        self.entries.pop(key, None)


async def running(bucket: FakeBucket, monkeypatch: pytest.MonkeyPatch) -> tuple[BucketWriter, asyncio.Task[None]]:
    async def opened(*_: object) -> FakeBucket:
        return bucket

    monkeypatch.setattr(buckets, "open_bucket", opened)
    client: Any = SimpleNamespace(jetstream=lambda **_: None)
    writer = BucketWriter(client, subjects.ROUTES_BUCKET)
    return writer, asyncio.create_task(writer.run())


@pytest.fixture
async def control() -> AsyncIterator[Control]:
    control = Control()
    control.broker = Broker()
    control.broker.start()
    await control.start()
    yield control
    await control.stop()
    control.broker.stop()


@pytest.mark.parametrize(("failures", "seconds"), [(1, 1.0), (2, 2.0), (7, 60.0), (5000, LAST_BACKOFF_SECONDS)])
def test_backoff_when_passes_keep_failing_then_grows_to_bound(failures: int, seconds: float) -> None:
    assert _backoff_seconds(failures) == seconds


async def test_bucket_when_entry_dropped_during_compare_then_removed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bucket = FakeBucket({"a.b": b"old"})
    writer, task = await running(bucket, monkeypatch)
    writer.set_desired("a.b", b"new")
    bucket.on_get = lambda: writer.set_desired("a.b", None)
    await asyncio.wait_for(writer.written(), 5)
    assert not task.done()
    assert bucket.entries == {}
    task.cancel()


async def test_bucket_when_a_missing_entry_is_dropped_then_no_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bucket = FakeBucket({})
    writer, task = await running(bucket, monkeypatch)
    writer.complete()
    await asyncio.wait_for(writer.written(), 5)
    for _ in range(3):
        writer.set_desired("a.b", None)
        await asyncio.wait_for(writer.written(), 5)
    assert bucket.deletes == 0
    task.cancel()


async def test_route_when_first_pass_of_a_restart_fails_then_it_stays(control: Control) -> None:
    control.world.add()
    await control.loop.settled()
    await control.stop()
    control.world.broken = True
    await control.start()
    await control.loop.settled()
    assert await control.has_route()


def hub_at(time: list[float]) -> tuple[SignalStore, list[object]]:
    client: Any = SimpleNamespace(is_connected=True, stats={"reconnects": 0})
    changed: list[object] = []
    return SignalStore(client, changed.append, clock=lambda: time[0]), changed


def said(subject: str, data: bytes = b"") -> Msg:
    client: Any = None
    return Msg(_client=client, subject=subject, data=data)


async def test_progress_when_the_size_is_unknown_then_bytes_are_known() -> None:
    hub, changed = hub_at([0.0])
    for received in (0, 5, 9):
        progress = FetchProgress(uri="https://host/m", received_bytes=received)
        await hub._on_progress(said(subjects.progress(KEY.namespace, KEY.name), progress.encode()))
    fetch = hub.signals(KEY).fetch
    assert fetch is not None
    assert fetch.received_bytes == 9
    assert len(changed) == 1


async def test_gateways_when_many_came_and_went_then_only_live_kept() -> None:
    time = [0.0]
    hub, _ = hub_at(time)
    for number in range(100):
        time[0] += 1.0
        demand = Demand(gateway=f"g{number}", queued=1, in_flight=0)
        await hub._on_presence(said(f"$KV.{subjects.GATEWAYS_BUCKET}.g{number}"))
        await hub._on_demand(said(subjects.demand(KEY.namespace, KEY.name), demand.encode()))
    assert len(hub._gateways) <= 6
    assert len(hub._received[KEY].demand) <= 6
