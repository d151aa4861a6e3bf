"""Requests for a model without a free replica: held, woken once, released in order, bounded, told what happens."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from gateway.gateway_client import chat, get, send, sent
from gateway.gateway_replica import Received
from gateway.gateway_world import World, until
from openai import AsyncOpenAI

from headrace.api import vocabulary
from headrace.events import subjects
from headrace.events.messages import FetchProgress, ReplicaState
from headrace.routes import Unavailable


async def test_request_when_model_is_at_zero_then_woken_and_served(world: World) -> None:
    await world.loop.route()
    asking = asyncio.create_task(send(world.port, chat()))
    demand = await world.loop.hears_demand(1)
    assert demand.gateway == world.loop.present[0]
    await world.replica()
    answer = await asking
    assert answer.status == 200
    assert answer.headers["x-headrace-decision"] == "echo-1/only-replica"


async def test_demand_when_first_request_waits_then_published_at_once(world: World) -> None:
    await world.loop.route()
    await send(world.port, chat("unknown"))
    began = time.monotonic()
    asking = asyncio.create_task(send(world.port, chat()))
    await world.loop.hears_demand(1)
    assert time.monotonic() - began < 0.9  # not with the next of the reports, which come each second
    asking.cancel()


async def test_requests_when_many_wait_then_one_wake(world: World) -> None:
    """The demand contains their number."""
    await world.loop.route()
    asking = [asyncio.create_task(send(world.port, chat())) for _ in range(20)]
    await world.loop.hears_demand(20)
    assert (
        b'headrace_gateway_wakes_total{model="echo",namespace="default"} 1.0'
        in (await get(world.port, "/metrics")).body
    )
    await world.replica()
    assert [answer.status for answer in await asyncio.gather(*asking)] == [200] * 20
    await until(lambda: world.loop.demands[-1].queued == world.loop.demands[-1].in_flight == 0, "a final zero")


async def test_queue_when_replica_is_admitted_then_fed_in_order(world: World) -> None:
    """It never gets more requests than its capacity."""
    await world.loop.route()
    order: list[int] = []
    running = most = 0

    async def work(request: Received) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        order.append(json.loads(request.body)["number"])
        await asyncio.sleep(0.01)
        running -= 1
        request.answer(request.body)

    asking = []
    for number in range(12):
        asking.append(asyncio.create_task(send(world.port, chat(number=number))))
        await world.loop.hears_demand(1)
        await _held(world, number + 1)
    await world.replica(capacity=2, behaviour=work)
    await asyncio.gather(*asking)
    assert most == 2
    assert order == sorted(order)


async def test_queue_when_full_then_the_next_is_refused_with_429(world: World) -> None:
    await world.loop.route(max_queued_requests=2)
    asking = [asyncio.create_task(send(world.port, chat())) for _ in range(2)]
    await _held(world, 2)
    answer = await send(world.port, chat())
    assert (answer.status, answer.code) == (429, "saturated")
    assert (answer.headers["x-headrace-reason"], answer.headers["retry-after"]) == ("Saturated", "1")
    for task in asking:
        task.cancel()


async def test_request_when_deadline_passes_then_503_with_stage(world: World) -> None:
    await world.loop.route(queue_timeout_seconds=1, stage="starting")
    replica = await world.replica(announce=False)
    await replica.report(ReplicaState.LOADING, "loading-weights", 41)
    answer = await send(world.port, chat())
    assert (answer.status, answer.code) == (503, "queue_timeout")
    assert "loading-weights 41%" in answer.json()["error"]["message"]
    assert "retry-after" in answer.headers


async def test_stream_when_held_then_comments_name_stages(world: World) -> None:
    """The answer follows the comments."""
    await world.loop.route(stage="fetching")
    replica = await world.replica(announce=False)
    heard: list[str] = []

    async def listen() -> None:
        async with sent(world.port, chat(stream=True)) as incoming:
            assert incoming.headers["content-type"].startswith("text/event-stream")
            async for event in incoming.events():
                heard.append(event)  # noqa: PERF401 - looked at while it grows

    listening = asyncio.create_task(listen())
    await world.loop.hears_demand(1)
    progress = FetchProgress(uri="package://x", received_bytes=50, total_bytes=100)
    await world.loop.client.publish(subjects.progress("default", "echo"), progress.encode())
    await until(lambda: heard == [": headrace stage=fetching 50%"], "the first comment")
    await replica.report(ReplicaState.LOADING, "loading-weights", 41)
    await until(lambda: heard[1:] == [": headrace stage=loading-weights 41%"], "the second comment")
    await replica.be_ready()
    await listening
    assert heard[-1] == "data: [DONE]"
    assert len(heard) == 6


async def test_stream_when_held_then_no_comment_ends_an_event(world: World) -> None:
    """A blank line after a comment is an empty event to some readers."""
    await world.loop.route()
    async with sent(world.port, chat(stream=True)) as incoming:
        assert await anext(incoming.pieces()) == b": headrace stage=waiting\n"


async def test_openai_sdk_when_stream_has_comments_then_it_is_read(world: World) -> None:
    await world.loop.route()

    async def answer(request: Received) -> None:
        request.start_stream()
        for text in ("Hel", "lo"):
            chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "echo"}
            request.event(json.dumps(chunk | {"choices": [{"index": 0, "delta": {"content": text}}]}))
        request.event("[DONE]")
        request.end()

    replica = await world.replica(announce=False, behaviour=answer)
    async with AsyncOpenAI(base_url=f"http://127.0.0.1:{world.port}/v1", api_key="none") as client:
        asking = asyncio.create_task(client.chat.completions.create(model="echo", messages=[], stream=True))
        await world.loop.hears_demand(1)
        stream = await asking  # the head comes before any replica does
        await replica.be_ready()
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "Hello"


async def test_stream_when_model_gets_unavailable_then_error_event(world: World) -> None:
    """The request is held when the route changes."""
    await world.loop.route()
    async with sent(world.port, chat(stream=True)) as incoming:
        assert incoming.status == 200
        await world.loop.route(unavailable=Unavailable(reason="CrashLoop", message="it exits with 3"))
        events = [event async for event in incoming.events()]
    assert events[0].startswith(": headrace stage=")
    error = json.loads(events[-2].removeprefix("data: "))["error"]
    assert (error["code"], error["type"]) == ("crash_loop", "server_error")
    assert events[-1] == "data: [DONE]"


async def test_request_when_route_is_unavailable_then_503_and_reason(world: World) -> None:
    await world.loop.route(unavailable=Unavailable(reason="CrashLoop", message="exits with 3", retry_after_seconds=7))
    await world.gateway_knows_route()
    answer = await send(world.port, chat())
    assert (answer.status, answer.code) == (503, "crash_loop")
    assert (answer.headers["x-headrace-reason"], answer.headers["retry-after"]) == ("CrashLoop", "7")
    assert "exits with 3" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("reason", "wanted"),
    [(vocabulary.CRASH_LOOP, {"echo", "other"}), (vocabulary.SCALED_TO_ZERO, {"other"})],
    ids=["heals", "is off"],
)
async def test_request_when_refused_then_demand_only_if_retry_helps(
    world: World, reason: str, wanted: set[str]
) -> None:
    """A suspended model gets no demand; a crashing one does."""
    await world.loop.route(unavailable=Unavailable(reason=reason, message="no"))
    await world.loop.route("other")
    await world.gateway_knows_route("other")
    assert (await send(world.port, chat())).status == 503
    asking = asyncio.create_task(send(world.port, chat("other")))
    await until(lambda: "other" in world.loop.wanted, "what was said after it")
    assert world.loop.wanted == wanted
    asking.cancel()


async def test_client_when_gone_while_held_then_it_leaves_the_queue(world: World) -> None:
    await world.loop.route()
    async with sent(world.port, chat(stream=True)):
        await _held(world, 1)
    await _held(world, 0)
    replica = await world.replica()
    assert not replica.requests
    await until(lambda: "status=499 reason=ClientGone" in world.gateway.log, "the access line")


async def test_request_when_its_route_is_removed_while_held_then_404(world: World) -> None:
    await world.loop.route()
    asking = asyncio.create_task(send(world.port, chat()))
    await world.loop.hears_demand(1)
    await world.loop.remove_route()
    assert (await asking).status == 404


async def _held(world: World, count: int) -> None:
    line = f'headrace_gateway_held_requests{{model="echo",namespace="default"}} {count}.0'.encode()
    async with asyncio.timeout(10):
        while line not in (await get(world.port, "/metrics")).body:
            await asyncio.sleep(0.005)
