from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from gateway.gateway_world import Broker, Gateway, Loop, World


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(tmp_path / "nats")
    broker.start()
    yield broker
    broker.kill()


@pytest_asyncio.fixture
async def world(broker: Broker, tmp_path: Path) -> AsyncIterator[World]:
    """A gateway that has read the (empty) buckets, for whom nobody needs a key."""
    loop = Loop(broker)
    await loop.start()
    gateway = Gateway(broker, tmp_path)
    gateway.start()
    await gateway.ready()
    world = World(broker, loop, gateway)
    yield world
    gateway.close()
    for replica in world.replicas:
        await replica.stop()
    await loop.stop()
