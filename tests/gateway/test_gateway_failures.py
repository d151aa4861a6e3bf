"""Replicas that refuse, vanish, stall or lie; clients that go away."""

from __future__ import annotations

import asyncio
import json

import pytest
from gateway.gateway_client import chat, send, sent
from gateway.gateway_replica import Behaviour, Received, echo
from gateway.gateway_world import World, until
from openai import APIError, AsyncOpenAI


async def refuse_draining(request: Received) -> None:
    request.answer(b'{"error": {}}', "503 Service Unavailable", x_headrace_reason="Draining")


async def vanish(request: Received) -> None:
    request.vanish()


async def test_request_when_a_replica_drains_unannounced_then_another_one_answers(world: World) -> None:
    await world.loop.route()
    old, new = await world.replica("old", behaviour=refuse_draining), await world.replica("new")
    for _ in range(4):
        assert (await send(world.port, chat())).status == 200
    assert (len(old.requests), len(new.requests)) == (1, 4)


async def test_request_when_a_replica_is_full_then_it_waits_and_is_answered(world: World) -> None:
    await world.loop.route()
    refusals = 2

    async def full_at_first(request: Received) -> None:
        nonlocal refusals
        if refusals:
            refusals -= 1
            request.answer(b"{}", "429 Too Many Requests", x_headrace_reason="Saturated")
        else:
            request.answer(request.body)

    replica = await world.replica(behaviour=full_at_first)
    assert (await send(world.port, chat())).status == 200
    assert len(replica.requests) == 3


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_request_when_the_replica_is_lost_before_its_answer_then_another_one_answers(
    world: World, *, stream: bool
) -> None:
    await world.loop.route()
    await world.replica("bad", behaviour=vanish)
    await world.replica("good")
    for _ in range(4):
        answer = await send(world.port, chat(stream=stream))
        assert (answer.status, answer.headers["x-headrace-decision"].split("/")[0]) == (200, "good")


async def test_request_when_the_body_breaks_off_then_the_whole_answer_comes_from_another_replica(world: World) -> None:
    async def half(request: Received) -> None:
        request.say(b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"half": ')
        await request.writer.drain()
        request.vanish()

    await world.loop.route()
    await world.replica("bad", behaviour=half)
    await world.replica("good")
    for _ in range(3):
        assert (await send(world.port, chat())).json()["model"] == "echo"


async def test_request_when_it_kills_every_replica_then_it_is_given_up(world: World) -> None:
    async def die(request: Received) -> None:
        await next(replica for replica in world.replicas if request in replica.requests).stop()

    await world.loop.route()
    for index in range(5):
        await world.replica(f"echo-{index}", behaviour=die)
    answer = await send(world.port, chat())
    assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "replica_lost", "1")
    assert sum(len(replica.requests) for replica in world.replicas) == 3


async def test_request_when_no_connection_can_be_made_then_it_waits_for_the_next_replica(world: World) -> None:
    await world.loop.route()
    dead = await world.replica("dead")
    await dead.stop()
    asking = asyncio.create_task(send(world.port, chat()))
    await world.loop.hears_demand(1)
    await world.replica("fresh")
    assert (await asking).headers["x-headrace-decision"].startswith("fresh/")


async def test_request_when_the_kept_connection_was_closed_then_it_is_made_anew_and_nobody_notices(
    world: World,
) -> None:
    await world.loop.route()
    replica = await world.replica()
    assert (await send(world.port, chat())).status == 200
    connections = replica.connections
    replica.behaviour = vanish_once()
    assert (await send(world.port, chat())).status == 200
    assert replica.connections == connections + 1


async def test_stream_when_it_has_comments_and_the_kept_connection_was_closed_then_nobody_notices(
    world: World,
) -> None:
    await world.loop.route(stage="starting")
    async with sent(world.port, chat(stream=True)) as incoming:  # the head came, and comments with it
        await world.replica(behaviour=vanish_once())  # on the connection of the probe
        events = [event async for event in incoming.events()]
    assert events[-1] == "data: [DONE]"


def vanish_once() -> Behaviour:
    closed_by_replica = False

    async def behaviour(request: Received) -> None:
        nonlocal closed_by_replica
        if closed_by_replica:
            await echo(request)
        else:
            closed_by_replica = True
            request.vanish()

    return behaviour


async def _two_events_and_a_half(request: Received) -> None:
    request.start_stream()
    request.event('{"index": 0}')
    request.event('{"index": 1}')
    request.chunk(b'data: {"ind')
    await request.writer.drain()
    request.vanish()


async def test_stream_when_the_replica_dies_within_an_event_then_the_error_is_an_event_of_its_own(world: World) -> None:
    await world.loop.route()
    await world.replica(behaviour=_two_events_and_a_half)
    async with sent(world.port, chat(stream=True)) as incoming:
        events = [event.removeprefix("data: ") async for event in incoming.events()]
    assert events[:2] == ['{"index": 0}', '{"index": 1}']
    error = json.loads(events[2])["error"]
    assert (error["code"], error["type"]) == ("replica_lost", "server_error")
    assert events[3:] == ["[DONE]"]
    assert "status=200 reason=ReplicaLost" in await _logged(world)


async def test_stream_when_it_has_a_length_and_breaks_off_then_the_error_is_an_event(world: World) -> None:
    async def promise_too_much(request: Received) -> None:
        request.say(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 99\r\n\r\ndata: 1\n\n")
        await request.writer.drain()
        request.vanish()

    await world.loop.route()
    await world.replica(behaviour=promise_too_much)
    async with sent(world.port, chat(stream=True)) as incoming:
        events = [event.removeprefix("data: ") async for event in incoming.events()]
    assert events[0] == "1"
    assert json.loads(events[1])["error"]["code"] == "replica_lost"


async def test_openai_sdk_when_the_replica_dies_within_a_stream_then_it_raises_the_error(world: World) -> None:
    await world.loop.route()
    await world.replica(behaviour=_two_events_and_a_half)
    async with AsyncOpenAI(base_url=f"http://127.0.0.1:{world.port}/v1", api_key="none", max_retries=0) as client:
        stream = await client.chat.completions.create(model="echo", messages=[], stream=True)
        with pytest.raises(APIError, match="replica was lost"):
            async for _ in stream:
                pass


async def test_stream_when_the_replica_refuses_after_the_head_was_sent_then_its_error_is_an_event(world: World) -> None:
    async def bad_parameter(request: Received) -> None:
        request.answer(b'{\n "error": {"message": "no", "param": "top_p"}\n}', "400 Bad Request")

    await world.loop.route()
    async with sent(world.port, chat(stream=True)) as incoming:
        await world.replica(behaviour=bad_parameter)
        events = [event async for event in incoming.events()]
    assert json.loads(events[-2].removeprefix("data: "))["error"]["param"] == "top_p"


async def test_answer_when_it_is_an_error_of_the_replica_then_it_passes_unchanged(world: World) -> None:
    async def bad_parameter(request: Received) -> None:
        request.answer(b'{"error": {"param": "top_p"}}', "400 Bad Request", x_headrace_reason="InvalidRequest")

    await world.loop.route()
    await world.replica(behaviour=bad_parameter)
    answer = await send(world.port, chat())
    assert (answer.status, answer.body) == (400, b'{"error": {"param": "top_p"}}')
    assert answer.headers["x-headrace-reason"] == "InvalidRequest"


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nhi",
        b"220 mail.example.com ESMTP\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * 70_000 + b"\r\ncontent-length: 0\r\n\r\n",
    ],
    ids=["length and chunks", "two lengths", "another protocol", "an endless head"],
)
async def test_answer_when_malformed_then_503_and_no_byte_of_it(world: World, raw: bytes) -> None:
    async def lie(request: Received) -> None:
        request.say(raw)

    await world.loop.route()
    await world.replica(behaviour=lie)
    answer = await send(world.port, chat())
    assert (answer.status, answer.code) == (503, "replica_lost")


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_client_when_it_goes_away_then_the_replica_sees_its_connection_closed(
    world: World, *, stream: bool
) -> None:
    async def stall(request: Received) -> None:
        if stream:
            request.start_stream()
            request.event("{}")
        await request.client_gone()
        gone.set()

    gone = asyncio.Event()
    await world.loop.route()
    replica = await world.replica(behaviour=stall)
    _, writer = await asyncio.open_connection("127.0.0.1", world.port)
    writer.write(chat(stream=stream))
    await until(lambda: bool(replica.requests), "the replica has it")
    writer.close()
    async with asyncio.timeout(10):
        await gone.wait()
    assert "status=499 reason=ClientGone" in await _logged(world)


async def test_stream_when_the_client_reads_slowly_then_the_replica_is_slowed_and_nothing_is_lost(world: World) -> None:
    piece = b"data: " + b"x" * 65_000 + b"\n\n"
    count = 1000

    async def flood(request: Received) -> None:
        request.start_stream()
        for _ in range(count):
            request.chunk(piece)
            await request.writer.drain()
            progress.append(1)
        request.end()

    progress: list[int] = []
    await world.loop.route()
    await world.replica(behaviour=flood)
    async with sent(world.port, chat(stream=True)) as incoming:
        stalled_at = -1
        while stalled_at != len(progress):
            stalled_at = len(progress)
            await asyncio.sleep(0.2)
        assert stalled_at < count
        assert sum([len(each) async for each in incoming.pieces()]) == count * len(piece)


async def _logged(world: World) -> str:
    await until(lambda: "request id=" in world.gateway.log, "the access line")
    return world.gateway.log
