"""The gateway when parts of the platform die: the broker, its data, the gateway itself; and how it stops."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

from gateway.gateway_client import KEY_A, chat, get, send, sent
from gateway.gateway_replica import Received
from gateway.gateway_world import Broker, Gateway, World, until

from headrace.events.messages import ReplicaState


async def test_models_when_the_broker_dies_then_they_are_served_on(world: World) -> None:
    await world.loop.route()
    await world.replica()
    world.broker.kill()
    for _ in range(3):
        assert (await send(world.port, chat())).status == 200


async def test_replica_when_its_connection_fails_while_the_broker_is_away_then_it_is_probed_and_used_again(
    world: World,
) -> None:
    await world.loop.route()
    replica = await world.replica()
    world.broker.kill()
    await replica.stop()
    asking = asyncio.create_task(send(world.port, chat()))
    await until(lambda: "lost default/echo-1" in world.gateway.log, "the gateway finds nobody there")
    await replica.start(None)
    assert (await asking).status == 200


async def test_wake_when_the_broker_returns_then_what_waited_is_asked_for_and_answered(world: World) -> None:
    await world.loop.route()
    await world.gateway_knows_route()
    world.broker.kill()
    asking = asyncio.create_task(send(world.port, chat()))
    async with asyncio.timeout(10):
        while b'held_requests{model="echo",namespace="default"} 1.0' not in (await get(world.port, "/metrics")).body:
            await asyncio.sleep(0.01)
    world.broker.start()
    await world.loop.hears_demand(1)
    await world.replica()
    assert (await asking).status == 200


async def test_admission_when_the_broker_returns_then_it_is_said_again(world: World) -> None:
    await world.loop.route()
    replica = await world.replica()
    since = len(world.loop.admissions)
    world.broker.kill()
    world.broker.start()
    await until(lambda: "is connected again" in world.gateway.log and world.loop.client.is_connected, "both are back")
    await replica.be_ready()
    await world.loop.hears_admission("echo-1", ReplicaState.READY, since)


async def test_routes_when_the_broker_loses_its_data_then_they_are_kept_until_the_loop_writes_them_again(
    world: World,
) -> None:
    await world.loop.route()
    await world.replica()
    world.broker.kill(lose_everything=True)
    world.broker.start()
    await until(lambda: "is connected again" in world.gateway.log and world.loop.client.is_connected, "both are back")
    assert (await send(world.port, chat())).status == 200
    await world.loop.make_buckets()
    await world.loop.route("new")
    await world.gateway_knows_route("new")
    assert (await send(world.port, chat())).status == 200


async def test_gateway_when_killed_and_started_without_a_broker_then_it_serves_what_runs(world: World) -> None:
    await world.loop.route()
    await world.loop.key(KEY_A)
    await world.replica()
    async with asyncio.timeout(10):
        while (await send(world.port, chat())).status != 401:
            await asyncio.sleep(0.01)
    file = world.gateway.state / "gateway.json"
    await until(lambda: "echo-1" in file.read_text() and "key-of" in file.read_text(), "the copy on disk")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert KEY_A not in file.read_text()
    gateway = world.loop.present[0]
    world.broker.kill()
    world.gateway.kill()
    asking = asyncio.create_task(send(world.port, chat(key=KEY_A)))  # waits in the backlog of the socket
    world.gateway.start()
    assert (await asking).status == 200
    assert (await send(world.port, chat())).status == 401
    world.broker.start()
    await until(lambda: world.loop.present == [gateway], "it goes by the same name")


async def test_gateway_when_restarted_without_a_broker_then_it_serves_what_was_loading_when_first_heard(
    world: World,
) -> None:
    await world.loop.route()
    await world.gateway_knows_route()
    file = world.gateway.state / "gateway.json"
    replica = await world.replica(announce=False)
    await replica.report(ReplicaState.LOADING)
    await replica.be_ready()
    await until(lambda: '"state":"Ready"' in file.read_text(), "the copy on disk")
    world.broker.kill()
    world.gateway.kill()
    world.gateway.start()
    assert (await send(world.port, chat())).status == 200


async def test_gateway_when_nats_holds_it_to_its_role_then_nothing_that_it_does_is_refused(
    guarded_world: World,
) -> None:
    world = guarded_world
    await world.loop.route()
    asking = asyncio.create_task(send(world.port, chat()))
    await world.loop.hears_demand(1)
    replica = await world.replica()
    assert (await asking).status == 200
    await until(lambda: bool(world.loop.present), "its presence")
    await replica.report(ReplicaState.DRAINING)
    await world.loop.hears_admission("echo-1", ReplicaState.DRAINING)
    assert await world.gateway.terminate() == 0
    await until(lambda: not world.loop.present, "its presence is taken back")
    assert "ermission" not in world.gateway.log
    assert "secret" not in world.gateway.log


async def test_gateway_when_its_copy_on_disk_is_broken_then_it_starts_without(broker: Broker, tmp_path: Path) -> None:
    gateway = Gateway(broker, tmp_path)
    gateway.state.mkdir()
    (gateway.state / "gateway.json").write_text('{"gateway": ')
    gateway.start()
    try:
        assert (await get(gateway.port, "/healthz")).status == 200
    finally:
        gateway.close()


async def test_gateway_when_it_knows_no_table_yet_then_503_and_not_404(broker: Broker, tmp_path: Path) -> None:
    gateway = Gateway(broker, tmp_path)
    gateway.start()
    try:
        assert (await get(gateway.port, "/readyz")).status == 503
        answer = await send(gateway.port, chat())
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    finally:
        gateway.close()


async def test_gateway_when_told_to_stop_then_streams_finish_and_it_leaves_with_0(world: World) -> None:
    finish = asyncio.Event()

    async def slow(request: Received) -> None:
        request.start_stream()
        request.event("1")
        await finish.wait()
        request.event("2")
        request.end()

    await world.loop.route()
    await world.replica(behaviour=slow)
    async with sent(world.port, chat(stream=True)) as incoming:
        events = incoming.events()
        assert await anext(events) == "data: 1"
        stopping = asyncio.create_task(world.gateway.terminate())
        finish.set()
        assert [event async for event in events] == ["data: 2"]
    assert await stopping == 0
    await until(lambda: not world.loop.present, "its presence is taken back")


async def test_gateway_when_its_grace_ends_then_what_still_runs_ends_with_an_error(
    broker: Broker, world: World, tmp_path: Path
) -> None:
    async def stall(request: Received) -> None:
        request.start_stream()
        request.event("1")
        await request.writer.drain()

    hasty = Gateway(broker, tmp_path / "state2", "--grace-seconds", "1.2")
    hasty.start()
    try:
        await hasty.ready()
        await world.loop.route()
        await world.replica(behaviour=stall)
        async with asyncio.timeout(10):
            while "echo" not in (await get(hasty.port, "/v1/models")).body.decode():
                await asyncio.sleep(0.01)
        async with sent(hasty.port, chat(stream=True)) as incoming:
            events = incoming.events()
            assert await anext(events) == "data: 1"
            stopping = asyncio.create_task(hasty.terminate())
            assert '"code": "draining"' in await anext(events)
        assert await stopping == 0
    finally:
        hasty.close()
