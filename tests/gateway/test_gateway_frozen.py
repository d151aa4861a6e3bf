"""Processes that are stopped (SIGSTOP) in mid-flight: their kernel goes on taking connections, and nobody answers."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest
from gateway.gateway_client import Answer as Reply
from gateway.gateway_client import chat, request, send, sent
from gateway.gateway_inside import NETWORKS, inside
from gateway.gateway_replica import DEADLINE_SECONDS, NAMESPACE, Received
from gateway.gateway_world import World, until
from nats.aio.client import Client
from serving.serving_echo import MODEL, EchoSettings
from serving.serving_processes import Server, free_port

from headrace.api.vocabulary import MODEL_DEPLOYMENT
from headrace.control.signals import SignalStore
from headrace.events.messages import ReplicaState
from headrace.reconcile.world import ResourceKey
from headrace_gateway import link, liveness
from headrace_gateway.admission import Admissions
from headrace_gateway.link import Link
from headrace_gateway.outbox import Outbox
from headrace_gateway.probe import Answer, Finding
from headrace_gateway.settings import Settings

SLOW_SECONDS = 60.0
"""For a token: a request that is stopped before its first."""


def completion(*, stream: bool = False, tokens: int = 5) -> bytes:
    body = {"model": MODEL, "prompt": "hello", "max_tokens": tokens, "stream": stream}
    return request(path="/v1/completions", body=body)


class Connected:
    """All that a tick asks of a client of NATS."""

    is_connected = True


@contextmanager
def runtime(world: World, directory: Path, step_seconds: float) -> Iterator[Server]:
    """Run a real runtime process, which reports itself."""
    directory.mkdir()
    settings = EchoSettings(port=free_port(), step_seconds=step_seconds)
    server = Server(settings, directory, world.broker, pod="frozen")
    try:
        yield server
    finally:
        server.stop()


async def answered(world: World, raw: bytes) -> Reply:
    async with asyncio.timeout(DEADLINE_SECONDS):
        return await send(world.port, raw)


async def test_request_when_its_replica_is_frozen_then_another_one_answers(world: World, tmp_path: Path) -> None:
    await world.loop.route(MODEL)
    with runtime(world, tmp_path / "frozen", SLOW_SECONDS) as frozen:
        await world.loop.hears_admission("frozen", ReplicaState.READY)
        asking = asyncio.create_task(answered(world, completion()))
        await until(lambda: any(demand.in_flight for demand in world.loop.demands), "the replica has it")
        frozen.process.send_signal(signal.SIGSTOP)
        await world.replica("healthy")
        answer = await asking
    assert (answer.status, answer.headers["x-headrace-decision"].split("/")[0]) == (200, "healthy")
    await until(lambda: "default/frozen is unresponsive: no sign of life" in world.gateway.log, "the log says so")


async def test_stream_when_its_replica_is_frozen_after_the_first_token_then_it_ends_with_an_error(
    world: World, tmp_path: Path
) -> None:
    await world.loop.route(MODEL)
    with runtime(world, tmp_path / "frozen", 0.1) as frozen:
        await world.loop.hears_admission("frozen", ReplicaState.READY)
        async with asyncio.timeout(DEADLINE_SECONDS), sent(world.port, completion(stream=True, tokens=4000)) as stream:
            events = stream.events()
            assert "replica_lost" not in await anext(events)
            frozen.process.send_signal(signal.SIGSTOP)
            rest = [event async for event in events]
    assert "replica_lost" in rest[-2]
    assert rest[-1] == "data: [DONE]"


async def test_requests_when_nats_and_a_replica_are_frozen_then_none_fails_and_a_thawed_replica_is_used_again(
    world: World, tmp_path: Path
) -> None:
    """A frozen node has both: nobody says then that the replica is silent."""
    await world.loop.route(MODEL)
    with runtime(world, tmp_path / "frozen", 0.0) as frozen:
        await world.loop.hears_admission("frozen", ReplicaState.READY)
        healthy = await world.replica("healthy")
        world.broker.signal(signal.SIGSTOP)
        try:
            frozen.process.send_signal(signal.SIGSTOP)
            answers = await asyncio.gather(*(answered(world, completion()) for _ in range(6)))
            assert {each.status for each in answers} == {200}
            assert len(healthy.requests) == 6
            frozen.process.send_signal(signal.SIGCONT)
            async with asyncio.timeout(DEADLINE_SECONDS):
                while (await send(world.port, completion())).headers["x-headrace-decision"].startswith("healthy"):
                    await asyncio.sleep(0.05)
        finally:
            world.broker.signal(signal.SIGCONT)


async def test_request_when_the_only_replica_is_frozen_then_it_fails_within_the_routes_deadline(
    world: World, tmp_path: Path
) -> None:
    await world.loop.route(MODEL, queue_timeout_seconds=6)
    with runtime(world, tmp_path / "frozen", SLOW_SECONDS) as frozen:
        await world.loop.hears_admission("frozen", ReplicaState.READY)
        asking = asyncio.create_task(answered(world, completion()))
        await until(lambda: any(demand.in_flight for demand in world.loop.demands), "the replica has it")
        frozen.process.send_signal(signal.SIGSTOP)
        answer = await asking
    assert (answer.status, answer.code) == (503, "queue_timeout")


async def test_request_when_its_replica_reports_and_says_nothing_else_then_it_is_neither_probed_nor_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A long prompt."""
    monkeypatch.setattr(liveness, "QUIET_SECONDS", 0.05)
    monkeypatch.setattr(liveness, "UNRESPONSIVE_SECONDS", 0.1)
    finish = asyncio.Event()

    async def think(request: Received) -> None:
        await finish.wait()
        request.answer(b"{}")

    async with inside() as world, asyncio.TaskGroup() as tasks:
        model = world.route()
        replica = await world.replica(model, behaviour=think)
        admissions = Admissions(world.table, Outbox("g"), tasks, NETWORKS)
        asking = asyncio.create_task(send(world.port, chat()))
        await until(lambda: bool(replica.requests), "the replica has it")
        connections, (known,) = replica.connections, model.replicas.values()
        began = known.busy_since
        while known.quiet_seconds(asyncio.get_running_loop().time()) < 0.04 and known.alive < began + 0.5:
            admissions.on_report(NAMESPACE, "echo", replica.said(ReplicaState.READY))
            admissions.liveness.check()
            await asyncio.sleep(0.001)
        assert replica.connections == connections
        finish.set()
        assert (await asking).status == 200
        assert len(replica.requests) == 1


async def test_request_when_nats_is_away_and_its_replica_answers_probes_then_it_has_all_the_time_it_needs(
    world: World,
) -> None:
    finish = asyncio.Event()

    async def think(request: Received) -> None:
        await finish.wait()
        request.answer(b"{}")

    await world.loop.route()
    replica = await world.replica(behaviour=think)
    connections = replica.connections
    asking = asyncio.create_task(answered(world, chat()))
    await until(lambda: bool(replica.requests), "the replica has it")
    world.broker.kill()
    await until(lambda: replica.connections >= connections + 4, "it is probed again and again")
    finish.set()
    assert (await asking).status == 200
    assert len(replica.requests) == 1


async def test_gateway_when_frozen_then_it_is_neither_live_nor_routing_until_it_thaws(world: World) -> None:
    hub = SignalStore(world.loop.client, lambda _: None)
    await hub.start()
    await world.loop.route()
    replica = await world.replica()
    await replica.be_ready()
    await until(lambda: len(hub.live_gateways()) == 1, "the gateway is live")
    (gateway,) = hub.live_gateways()

    async def routing() -> frozenset[str]:
        await replica.be_ready()
        return hub.signals(ResourceKey(MODEL_DEPLOYMENT, NAMESPACE, "echo")).admissions.get("echo-1", frozenset())

    async with asyncio.timeout(DEADLINE_SECONDS):
        while await routing() != {gateway}:
            await asyncio.sleep(0.05)
    assert world.gateway.process is not None
    world.gateway.process.send_signal(signal.SIGSTOP)
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while await routing() or hub.live_gateways():
                await asyncio.sleep(0.1)
    finally:
        world.gateway.process.send_signal(signal.SIGCONT)
    async with asyncio.timeout(DEADLINE_SECONDS):
        while await routing() != {gateway}:
            await asyncio.sleep(0.05)


async def test_replica_when_the_gateway_was_stopped_then_it_is_probed_anew_and_not_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its answer to the probe before may wait in the socket, or have come too late for the clock alone."""
    monkeypatch.setattr(liveness, "QUIET_SECONDS", 0.1)
    monkeypatch.setattr(liveness, "UNRESPONSIVE_SECONDS", 0.2)
    finish, probing, stopped = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def think(request: Received) -> None:
        await finish.wait()
        request.answer(b"{}")

    async def unanswered(*_: object) -> Finding:
        probing.set()
        await stopped.wait()
        return Finding(Answer.NONE)

    async with inside() as world, asyncio.TaskGroup() as tasks:
        model = world.route()
        replica = await world.replica(model, behaviour=think)
        admissions = Admissions(world.table, Outbox("g"), tasks, NETWORKS)
        asking = asyncio.create_task(send(world.port, chat()))
        await until(lambda: bool(replica.requests), "the replica has it")
        (known,) = model.replicas.values()
        with monkeypatch.context() as patch:
            patch.setattr(liveness, "probe", unanswered)
            await asyncio.sleep(0.15)
            admissions.liveness.check()
            await probing.wait()
            time.sleep(0.3)
            admissions.liveness.resume()
            stopped.set()
            await until(lambda: not known.probing, "the probe ended")
        admissions.liveness.check()
        assert (known.admitted, known.unanswered) == (True, False)
        finish.set()
        assert (await asking).status == 200


async def test_replicas_when_the_gateway_itself_did_not_run_for_long_then_none_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link, "TICK_SECONDS", 0.01)
    monkeypatch.setattr(link, "STOPPED_SECONDS", 0.3)
    monkeypatch.setattr(liveness, "REMOVE_SECONDS", 0.5)
    async with inside() as world:
        model = world.route()
        await world.replica(model)
        (known,) = model.replicas.values()
        async with asyncio.TaskGroup() as tasks:
            outbox = Outbox("g")
            admissions = Admissions(world.table, outbox, tasks, NETWORKS)
            ticking = Link(Settings.parse([]), world.table, outbox, admissions)
            ticking._client = cast(Client, Connected())
            running = tasks.create_task(ticking._tick_forever())
            await asyncio.sleep(0.05)
            time.sleep(0.7)
            await asyncio.sleep(0.1)
            assert list(model.replicas.values()) == [known]
            running.cancel()
