from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from serving.serving_echo import EchoSettings
from serving.serving_processes import Broker, Gateway, Server, free_port

Start = Callable[..., Server]


@pytest.fixture
def broker() -> Iterator[Broker]:
    broker = Broker()
    broker.start()
    yield broker
    broker.kill()


@pytest_asyncio.fixture
async def gateway(broker: Broker) -> AsyncIterator[Gateway]:
    gateway = Gateway()
    await gateway.join(broker)
    yield gateway
    await gateway.leave()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start echo servers: `start(broker=…, grace_seconds=…, step_seconds=…, gate=…, failure=…)`."""
    servers: list[Server] = []

    def start(
        broker: Broker | None = None, grace_seconds: float = 20.0, port: int | None = None, **engine: object
    ) -> Server:
        directory = tmp_path / f"server-{len(servers)}"
        directory.mkdir()
        settings = EchoSettings(port=port or free_port(), **engine)  # type: ignore[arg-type]  # named where it is called
        servers.append(Server(settings, directory, broker, grace_seconds))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
