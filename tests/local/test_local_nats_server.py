"""The instance's NATS server: who may say what, and how it comes back."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import nats.errors
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from settle import settle

from headrace.broker.config import Credentials
from headrace.control.buckets import open_bucket
from headrace.events import subjects
from headrace.events.connection import connect
from headrace.local.home import InstanceHome
from headrace.local.nats_server import NatsServer

SECONDS = 10.0
REFUSAL_SECONDS = 0.3
"""How long a request waits for an answer that must not come; the broker's refusal is awaited by a flush before."""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    home = InstanceHome.of("default", tmp_path)
    home.make()
    server = NatsServer(home)
    await server.supervised.start()
    keeping = asyncio.create_task(server.supervised.run())
    try:
        yield server
    finally:
        await server.supervised.stop(SECONDS)
        await keeping
        server.close()


@asynccontextmanager
async def client_of(server: NatsServer, login: Credentials) -> AsyncIterator[Client]:
    async with asyncio.timeout(SECONDS):
        client = await connect(server.url, name="test", user=login.user, password=login.password)
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def buckets_of(server: NatsServer) -> AsyncIterator[Client]:
    """The reconciler's client, after it has made the buckets and one route."""
    async with client_of(server, server.reconciler) as client:
        jetstream = client.jetstream()
        for bucket in (subjects.ROUTES_BUCKET, subjects.KEYS_BUCKET, subjects.GATEWAYS_BUCKET):
            await open_bucket(jetstream, bucket)
        await (await jetstream.key_value(subjects.ROUTES_BUCKET)).put("a.model", b"route")
        yield client


async def heard(server: NatsServer, sender: Credentials, said: list[str]) -> list[str]:
    """Return which of the subjects the reconciler hears when a role publishes on all of them."""
    async with client_of(server, server.reconciler) as listener, client_of(server, sender) as speaker:
        messages = await listener.subscribe("headrace.>")
        await settle(listener)
        for subject in said:
            await speaker.publish(subject, b"x")
        await settle(speaker)
        await listener.publish("headrace.end")
        found: list[str] = []
        async with asyncio.timeout(SECONDS):
            async for message in messages.messages:
                if message.subject == "headrace.end":
                    return found
                found.append(message.subject)
    return found


async def test_runtime_cannot_publish_for_another_namespace(server: NatsServer) -> None:
    own = [subjects.replica("ns-a", "model", "pod"), subjects.progress("ns-a", "model")]
    foreign = [
        subjects.replica("ns-b", "model", "pod"),
        subjects.progress("ns-b", "model"),
        subjects.demand("ns-a", "model"),
        subjects.admission("ns-a", "model", "pod"),
        subjects.SOLICIT,
    ]
    assert await heard(server, server.admit("ns-a"), [*own, *foreign]) == own


async def test_gateway_when_it_speaks_for_a_replica_is_not_heard(server: NatsServer) -> None:
    own = [subjects.demand("a", "model"), subjects.admission("a", "model", "pod"), subjects.SOLICIT]
    foreign = [
        subjects.replica("a", "model", "pod"),
        subjects.container_report("a", "model", "pod"),
        subjects.progress("a", "model"),
    ]
    assert await heard(server, server.gateway, [*own, *foreign]) == own


async def test_runtime_cannot_subscribe_to_another_namespace(server: NatsServer) -> None:
    login = server.admit("ns-a")
    async with client_of(server, server.gateway) as gateway, client_of(server, login) as runtime:
        got: asyncio.Queue[str] = asyncio.Queue()

        async def on_message(message: Msg) -> None:
            got.put_nowait(message.subject)

        for subject in (
            subjects.admission("ns-b", "model", "pod"),
            subjects.ALL_DEMAND,
            f"{subjects.inbox('gateway')}.>",
            "$KV.>",
            ">",
            subjects.admission("ns-a", "model", "pod"),
        ):
            await runtime.subscribe(subject, cb=on_message)
        await settle(runtime)
        for subject in (
            subjects.admission("ns-b", "model", "pod"),
            subjects.demand("ns-a", "model"),
            subjects.admission("ns-a", "model", "pod"),
        ):
            await gateway.publish(subject, b"x")
        async with asyncio.timeout(SECONDS):
            assert await got.get() == subjects.admission("ns-a", "model", "pod")
        assert got.empty()


async def test_gateway_when_it_reads_routes_and_keys_then_it_may(server: NatsServer) -> None:
    async with buckets_of(server), client_of(server, server.gateway) as gateway:
        routes = await gateway.jetstream().key_value(subjects.ROUTES_BUCKET)
        assert (await routes.get("a.model")).value == b"route"
        assert await routes.keys() == ["a.model"]
        assert await (await gateway.jetstream().key_value(subjects.KEYS_BUCKET)).status()


async def test_gateway_when_it_writes_its_presence_then_it_may(server: NatsServer) -> None:
    async with buckets_of(server), client_of(server, server.gateway) as gateway:
        presence = await gateway.jetstream().key_value(subjects.GATEWAYS_BUCKET)
        await presence.put("gateway-1", b"1")
        assert (await presence.get("gateway-1")).value == b"1"
        await presence.delete("gateway-1")


async def test_gateway_when_it_writes_a_route_or_a_key_is_refused(server: NatsServer) -> None:
    async with buckets_of(server) as reconciler, client_of(server, server.gateway) as gateway:
        jetstream = gateway.jetstream(timeout=REFUSAL_SECONDS)
        routes = await jetstream.key_value(subjects.ROUTES_BUCKET)
        keys = await jetstream.key_value(subjects.KEYS_BUCKET)
        with pytest.raises(nats.errors.TimeoutError):
            await routes.put("a.model", b"forged")
        with pytest.raises(nats.errors.TimeoutError):
            await keys.put("0" * 64, b"forged")
        for request in (jetstream.delete_stream, jetstream.purge_stream):
            with pytest.raises(nats.errors.TimeoutError):
                await request(f"KV_{subjects.ROUTES_BUCKET}")
        table = await reconciler.jetstream().key_value(subjects.ROUTES_BUCKET)
        assert (await table.get("a.model")).value == b"route"


async def test_client_without_credentials_is_refused(server: NatsServer) -> None:
    for login in ({}, {"user": "gateway", "password": "wrong"}):
        with pytest.raises(nats.errors.Error, match="Authorization"):
            await nats.connect(server.url, allow_reconnect=False, **login)


async def test_admit_when_namespace_is_new_keeps_connections(server: NatsServer) -> None:
    async with client_of(server, server.gateway) as gateway:
        async with client_of(server, server.admit("late")):
            pass
        assert gateway.is_connected
        assert gateway.stats["reconnects"] == 0


async def test_server_when_killed_is_back_on_its_port_within_a_second(server: NatsServer) -> None:
    async with buckets_of(server):
        pass
    back = asyncio.Event()
    login = server.reconciler
    client = await connect(server.url, name="test", user=login.user, password=login.password, on_reconnect=back.set)
    assert server.supervised.pid is not None
    os.kill(server.supervised.pid, signal.SIGKILL)
    async with asyncio.timeout(SECONDS):
        await back.wait()
    routes = await client.jetstream().key_value(subjects.ROUTES_BUCKET)
    assert (await routes.get("a.model")).value == b"route"
    await client.close()


async def test_namespace_admitted_while_server_restarts_is_known(server: NatsServer) -> None:
    killed = server.supervised.pid
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    async with client_of(server, server.admit("meanwhile")) as runtime:
        assert runtime.is_connected


async def test_port_when_the_server_is_away_cannot_be_taken(server: NatsServer) -> None:
    await server.supervised.stop(SECONDS)
    port = int(server.url.rpartition(":")[2])
    with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
        stranger.bind(("127.0.0.1", port))


def test_config_when_written_is_private_and_on_loopback(server: NatsServer, tmp_path: Path) -> None:
    config = tmp_path / "instances/default/nats/nats.conf"
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert json.loads(config.read_text())["host"] == "127.0.0.1"
    assert server.gateway.password not in repr(server.gateway)
