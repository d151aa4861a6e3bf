"""The two servers that clients reach: a gateway, in front of a runtime, and a runtime that stands alone."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway.gateway_inside import inside
from gateway.gateway_world import Broker, Gateway, Loop
from serving.serving_echo import MODEL, EchoEngine, EchoSettings
from serving.serving_processes import Server, free_port

from headrace.http.server import http_server
from headrace.serving.exchange import Endpoints
from headrace.serving.metrics import RuntimeMetrics
from headrace.serving.openai.endpoints import OpenAIEndpoints
from headrace.serving.replica import Replica

GATEWAY, RUNTIME = "gateway", "runtime"


@dataclass(frozen=True, slots=True)
class Ports:
    gateway: int
    runtime: int

    def of(self, server: str) -> int:
        return self.gateway if server == GATEWAY else self.runtime


@contextmanager
def processes(directory: Path) -> Iterator[Ports]:
    """Both as real processes; behind the gateway NATS, and a runtime that reports itself and serves gateways only."""
    broker = Broker(directory / "nats")
    broker.start()
    gateway = Gateway(broker, directory / "gateway")
    gateway.start()
    runtime = Server(EchoSettings(free_port()), directory, broker)
    (directory / "alone").mkdir()
    alone = Server(EchoSettings(free_port()), directory / "alone")

    async def route() -> None:
        loop = Loop(broker)
        await loop.start()
        await loop.route(MODEL)
        await gateway.ready()
        await asyncio.gather(runtime.ready(), alone.ready())
        while not any(admission.gateway for admission in loop.admissions):
            await asyncio.sleep(0.01)
        await loop.stop()

    try:
        asyncio.run(asyncio.wait_for(route(), 60))
        yield Ports(gateway.port, alone.settings.port)
    finally:
        alone.stop()
        runtime.stop()
        gateway.close()
        broker.kill()


@asynccontextmanager
async def within(server: str) -> AsyncIterator[int]:
    """One of them in this process, where it can be seen what it has read; its port."""
    if server == GATEWAY:
        async with inside() as world:
            await world.replica(world.route())
            yield world.port
        return
    replica: Replica[EchoEngine] = Replica()
    replica.loaded(EchoEngine(0.0))
    endpoints = Endpoints(OpenAIEndpoints(replica, MODEL, RuntimeMetrics(replica, MODEL)).handlers())  # type: ignore[arg-type]  # an EchoEngine is a TextEngine
    http = http_server(endpoints)
    listener = socket.create_server(("127.0.0.1", 0))
    serving = asyncio.create_task(http.serve(sockets=[listener]))
    try:
        yield int(listener.getsockname()[1])
    finally:
        http.should_exit = http.force_exit = True
        await serving
