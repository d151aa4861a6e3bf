"""The path of a request inside the test's own process, for bounds that would take minutes or gigabytes from outside.

Sockets, server and replicas are real; there is no broker, so the test says itself what the table knows.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from gateway.gateway_replica import NAMESPACE, Behaviour, Replica, echo
from gateway.gateway_world import entry

from headrace.events.messages import ReplicaState
from headrace.http.bodies import MAX_BODY_BYTES
from headrace.http.server import http_server
from headrace.routes import KeyGrant, Route
from headrace_gateway.access import AccessLog
from headrace_gateway.control import control_app
from headrace_gateway.gateway import guard_of
from headrace_gateway.inference import Inference
from headrace_gateway.metrics import GatewayMetrics
from headrace_gateway.model import ServedModel
from headrace_gateway.networks import PodNetworks
from headrace_gateway.operations import Operation, RequestInfo
from headrace_gateway.operations.openai import CHAT
from headrace_gateway.replica import Replica as KnownReplica
from headrace_gateway.settings import Settings
from headrace_gateway.table import Table

NETWORKS = PodNetworks.of(["127.0.0.0/8", "10.0.0.0/8", "fd00::/8"], api_server="10.96.0.1")


def request_info(operation: Operation = CHAT, *, stream: bool = False) -> RequestInfo:
    """What the gateway has read of some request for the model `echo`."""
    return RequestInfo(b"id", operation, {}, "default", "echo", stream)


@dataclass
class Inside:
    table: Table
    inference: Inference
    port: int
    replicas: list[Replica] = field(default_factory=list)

    def route(self, name: str = "echo", namespace: str = NAMESPACE) -> ServedModel:
        route = Route(namespace=namespace, name=name, public_name=name, created=1, queue_timeout_seconds=30)
        self.table.set_route(route.key, route.encode())
        return self.table.model(namespace, name)

    def key(self, key: str, namespace: str = NAMESPACE) -> None:
        self.table.set_key(entry(key), KeyGrant(namespace=namespace, name="k").encode())

    async def replica(
        self, model: ServedModel, pod: str = "echo-1", behaviour: Behaviour = echo, capacity: int = 8
    ) -> Replica:
        """Start a replica that is routed to, with one kept connection as the probe leaves it."""
        replica = await Replica(pod, behaviour=behaviour).start(None)
        self.replicas.append(replica)
        replica.capacity = capacity
        known = KnownReplica(replica.said(ReplicaState.READY), asyncio.get_running_loop().time())
        known.admitted = known.proven = True
        self.table.add_replica(model, known)
        known.pool.give_back(await known.pool.connect())
        return replica


@asynccontextmanager
async def inside(
    *, loaded: bool = True, local: bool = False, anonymous: str | None = NAMESPACE
) -> AsyncIterator[Inside]:
    """`local`: guarded as a gateway on the loopback interface is."""
    table = Table(anonymous, lambda _: None)
    if loaded:
        table.loaded.set()
    metrics = GatewayMetrics(table.models.values)
    silence = os.open(os.devnull, os.O_WRONLY)
    access = AccessLog(silence)
    inference = Inference(table, control_app(table, metrics), metrics, access, MAX_BODY_BYTES)
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    guard = guard_of(Settings.parse([]), listener, table) if local else None
    server = http_server(inference, grace_seconds=1, guard=guard)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)  # what a client does not read is seen soon
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    world = Inside(table, inference, int(listener.getsockname()[1]))
    try:
        yield world
    finally:
        for replica in world.replicas:
            await replica.stop()
        server.should_exit = server.force_exit = True
        await serving
        access.close()
        os.close(silence)
