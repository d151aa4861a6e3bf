from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from gateway.gateway_world import Broker, Gateway, Loop, World

from headrace.broker.config import GATEWAY, RECONCILER, Credentials, Users


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(tmp_path / "nats")
    broker.start()
    yield broker
    broker.kill()


@pytest_asyncio.fixture
async def world(broker: Broker, tmp_path: Path) -> AsyncIterator[World]:
    """A gateway that has read the (empty) buckets, for whom nobody needs a key."""
    async with running_world(broker, tmp_path) as world:
        yield world


@pytest_asyncio.fixture
async def guarded_world(tmp_path: Path) -> AsyncIterator[World]:
    """The same on a broker that holds each role to its permissions."""
    users = Users(Credentials(RECONCILER, "secret-r"), Credentials(GATEWAY, "secret-g"), {})
    broker = Broker(tmp_path / "guarded", users)
    broker.start()
    try:
        async with running_world(broker, tmp_path) as world:
            yield world
    finally:
        broker.kill()


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a gateway that serves no model, shared by the tests that only knock."""
    directory = tmp_path_factory.mktemp("door")
    broker = Broker(directory / "nats")
    broker.start()
    gateway = Gateway(broker, directory)
    gateway.start()

    async def make_buckets() -> None:
        loop = Loop(broker)
        await loop.start()
        await gateway.ready()
        await loop.stop()

    try:
        asyncio.run(make_buckets())
        yield gateway.port
    finally:
        gateway.close()
        broker.kill()


@asynccontextmanager
async def running_world(broker: Broker, tmp_path: Path, **options: Any) -> AsyncIterator[World]:
    loop = Loop(broker)
    await loop.start()
    gateway = Gateway(broker, tmp_path, **options)
    gateway.start()
    await gateway.ready()
    world = World(broker, loop, gateway)
    try:
        yield world
    finally:
        gateway.close()
        for replica in world.replicas:
            await replica.stop()
        await loop.stop()
