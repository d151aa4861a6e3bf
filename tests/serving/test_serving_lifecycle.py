from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from serving.conftest import Start
from serving.serving_client import Answer, ask, exchange
from serving.serving_echo import DIE, MODEL
from serving.serving_processes import Broker, Gateway, Server, eventually, until

from headrace.events.messages import ReplicaState


def body(*, text: str = "hello", tokens: int = 5, stream: bool = False) -> dict[str, Any]:
    return {"model": MODEL, "prompt": text, "max_tokens": tokens, "stream": stream}


async def post(server: Server, **options: Any) -> Answer:
    return await ask(server.settings.port, "POST", "/v1/completions", body(**options), server.headers)


class Stream:
    """A stream that is being read: its events so far, and whether it ended as it should."""

    def __init__(self, server: Server, **options: Any) -> None:
        self.events: list[str] = []
        self.task = asyncio.create_task(self._read(server, body(**options, stream=True)))

    @property
    def text(self) -> str:
        chunks = [json.loads(event) for event in self.events if event != "[DONE]"]
        return "".join(chunk["choices"][0]["text"] for chunk in chunks if chunk.get("choices"))

    async def _read(self, server: Server, request: dict[str, Any]) -> None:
        raw = json.dumps(request).encode()
        async with exchange(server.settings.port, "POST", "/v1/completions", raw, server.headers) as incoming:
            assert incoming.status == 200
            async for event in incoming.events():
                self.events.append(event)

    async def started(self) -> None:
        await until(lambda: bool(self.events), "the first event")


async def test_server_while_loading_then_it_reports_its_stage(
    start: Start, broker: Broker, gateway: Gateway, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    server = start(broker=broker, gate=gate)

    report = await gateway.hears(ReplicaState.LOADING, "loading-weights")

    assert (report.percent, report.host, report.port) == (41, "127.0.0.1", server.settings.port)
    assert await server.get("/health/live") == 200
    assert await server.get("/health/ready") == 503
    gateway.opens(server)
    refused = await post(server)
    assert (refused.status, refused.headers["x-headrace-reason"]) == (503, "Starting")


async def test_server_when_started_then_reports_before_loading(
    start: Start, broker: Broker, gateway: Gateway, tmp_path: Path
) -> None:
    start(broker=broker, gate=tmp_path / "gate")

    await gateway.hears(ReplicaState.LOADING)

    assert gateway.reports[0].stage == "starting"


async def test_server_when_loaded_then_reports_ready_with_its_capacity(
    start: Start, broker: Broker, gateway: Gateway, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    server = start(broker=broker, gate=gate)
    await gateway.hears(ReplicaState.LOADING, "loading-weights")

    gate.touch()
    report = await gateway.hears(ReplicaState.READY)

    assert report.capacity == 8
    assert report.load.extra == {"echoes": 0}
    assert await server.get("/health/ready") == 200
    assert [report.sequence for report in gateway.reports] == sorted({report.sequence for report in gateway.reports})


async def test_server_when_solicited_then_reports_at_once(start: Start, broker: Broker, gateway: Gateway) -> None:
    start(broker=broker)
    await gateway.hears(ReplicaState.READY)

    gateway.reports.clear()
    started = time.monotonic()
    await gateway.solicit()
    await until(lambda: bool(gateway.reports), "a report")

    assert time.monotonic() - started < 0.9  # not with the next of the reports, which come each second


async def test_drain_then_admits_until_the_gateway_acknowledges(start: Start, broker: Broker, gateway: Gateway) -> None:
    server = start(broker=broker)
    await gateway.hears(ReplicaState.READY)
    await gateway.admit(ReplicaState.READY)
    await until(lambda: "has acknowledged Ready" in server.log, "the admission is heard")

    gateway.opens(server)
    server.process.terminate()
    await gateway.hears(ReplicaState.DRAINING)
    under_way = await post(server)
    stream = Stream(server, tokens=1)
    await stream.task
    acknowledged = time.monotonic()
    await gateway.admit(ReplicaState.DRAINING)

    assert under_way.status == 200
    assert await server.exit_code() == 0
    assert time.monotonic() - acknowledged < 3  # not the five seconds of a gateway that says nothing


async def test_drain_when_acknowledged_then_only_running_work_finishes(
    start: Start, broker: Broker, gateway: Gateway
) -> None:
    server = start(broker=broker, step_seconds=0.05)
    await gateway.hears(ReplicaState.READY)
    await gateway.admit(ReplicaState.READY)
    await until(lambda: "has acknowledged Ready" in server.log, "the admission is heard")
    gateway.opens(server)
    stream = Stream(server, tokens=40)
    await stream.started()

    server.process.terminate()
    await gateway.hears(ReplicaState.DRAINING)
    await gateway.admit(ReplicaState.DRAINING)
    await server.answers("/v1/models", 503)
    refused = await post(server)
    await stream.task

    assert (refused.status, refused.headers["x-headrace-reason"]) == (503, "Draining")
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["error"]["code"] == "draining"
    assert stream.text == "hello" * 8
    assert stream.events[-1] == "[DONE]"
    assert await server.exit_code() == 0


async def test_drain_when_a_gateway_never_answers_then_after_5_s(
    start: Start, broker: Broker, gateway: Gateway
) -> None:
    server = start(broker=broker)
    await gateway.hears(ReplicaState.READY)
    await gateway.admit(ReplicaState.READY)
    await until(lambda: "has acknowledged Ready" in server.log, "the admission is heard")

    told = time.monotonic()
    server.process.terminate()

    assert await server.exit_code() == 0
    assert 4.9 < time.monotonic() - told < 8


async def test_drain_when_admitted_for_an_earlier_process_then_no_wait(
    start: Start, broker: Broker, gateway: Gateway
) -> None:
    server = start(broker=broker)
    report = await gateway.hears(ReplicaState.READY)
    await gateway.admit(ReplicaState.READY, started=report.started - 60)

    told = time.monotonic()
    server.process.terminate()

    assert await server.exit_code() == 0
    assert time.monotonic() - told < 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_drain_with_running_streams_then_all_finish_and_exit_0(start: Start, number: signal.Signals) -> None:
    server = start(step_seconds=0.02)
    await server.ready()
    streams = [Stream(server, text=f"text {n} ", tokens=35) for n in range(6)]
    await asyncio.gather(*(stream.started() for stream in streams))

    server.process.send_signal(number)
    await asyncio.gather(*(stream.task for stream in streams))

    assert [stream.text for stream in streams] == [f"text {n} " * 5 for n in range(6)]
    assert await server.exit_code() == 0


async def test_drain_when_the_grace_period_ends_then_streams_fail(start: Start) -> None:
    server = start(step_seconds=0.05, grace_seconds=1)
    await server.ready()
    stream = Stream(server, tokens=1000)
    whole = asyncio.create_task(post(server, tokens=1000))
    await stream.started()

    server.process.terminate()
    await stream.task

    *_, failure, end = stream.events
    assert json.loads(failure)["error"]["code"] == "draining"
    assert end == "[DONE]"
    assert (await whole).headers["x-headrace-reason"] == "Draining"
    assert (await whole).status == 503
    assert await server.exit_code() == 0


async def test_interrupt_when_it_drains_already_then_exits_at_once(start: Start) -> None:
    server = start(step_seconds=0.05)
    await server.ready()
    stream = Stream(server, tokens=1000)
    await stream.started()

    server.process.send_signal(signal.SIGINT)
    await until(lambda: "draining" in server.log, "it drains")
    server.process.send_signal(signal.SIGINT)

    assert await server.exit_code() == 130
    with pytest.raises(asyncio.IncompleteReadError):
        await stream.task


async def test_sigterm_when_loading_then_exits_0_at_once(start: Start, tmp_path: Path) -> None:
    server = start(gate=tmp_path / "never")
    await server.answers("/health/live", 200)

    server.process.terminate()

    assert await server.exit_code() == 0


async def test_client_when_it_goes_away_then_the_engine_is_told(start: Start) -> None:
    server = start(step_seconds=0.02)
    await server.ready()
    stream = Stream(server, tokens=4000)
    await stream.started()
    whole = asyncio.create_task(post(server, tokens=4000))

    async def running() -> int:
        metrics = (await ask(server.settings.port, "GET", "/metrics")).body.decode()
        return int(float(re.findall(r"^vllm:num_requests_running{.*} (.*)$", metrics, re.MULTILINE)[0]))

    async def both() -> bool:
        return await running() == 2

    async def none() -> bool:
        return await running() == 0

    await eventually(both, "both run")
    stream.task.cancel()
    whole.cancel()

    await eventually(none, "none runs")
    assert server.log.count(" 499 ") == 2


async def test_broker_when_unavailable_at_start_then_reports_later(start: Start) -> None:
    broker, gateway = Broker(), Gateway()
    server = start(broker=broker)
    await server.ready()

    broker.start()
    await gateway.join(broker)
    try:
        await gateway.hears(ReplicaState.READY)
        gateway.opens(server)
        assert (await post(server)).status == 200
    finally:
        await gateway.leave()
        broker.kill()


async def test_broker_when_it_returns_then_the_replica_reports_at_once(
    start: Start, broker: Broker, gateway: Gateway
) -> None:
    server = start(broker=broker)
    await gateway.hears(ReplicaState.READY)

    gateway.opens(server)
    broker.kill()
    assert (await post(server)).status == 200
    gateway.reports.clear()
    broker.start()

    assert (await gateway.hears(ReplicaState.READY)).state is ReplicaState.READY


async def test_broker_when_it_refuses_the_login_then_the_process_exits(start: Start, tmp_path: Path) -> None:
    """A container that starts again reads the login anew; one that waited would wait for ever."""
    broker = Broker()
    broker.start("--user", "runtime-default", "--pass", "changed")
    try:
        server = start(broker=broker, gate=tmp_path / "gate")
        assert await server.exit_code() == 1
        said = server.termination_path.read_text()
        assert "refuses the login" in said
        assert "Secret headrace-nats" in said
    finally:
        broker.kill()


@pytest.mark.parametrize(
    ("failure", "code", "message"),
    [
        ("invalid", 14, "the file is cut. Fetch it again"),
        ("unexpected", 1, "ValueError: something else"),
    ],
)
async def test_load_when_it_fails_then_a_termination_message(
    start: Start, failure: str, code: int, message: str
) -> None:
    server = start(failure=failure)

    assert await server.exit_code() == code
    assert server.termination_path.read_text() == message
    assert ("Traceback" in server.log) == (failure == "unexpected")


async def test_port_when_it_is_taken_then_it_says_so(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = start(port=taken.getsockname()[1])

        assert await server.exit_code() == 1
        assert "Address already in use. Choose another --port" in server.termination_path.read_text()


async def test_engine_when_it_dies_then_requests_fail_and_it_exits(start: Start) -> None:
    server = start()
    await server.ready()

    answer = await post(server, text=DIE)

    assert (answer.status, answer.json()["error"]["code"]) == (500, "engine_died")
    assert await server.exit_code() == 1
    assert "the engine died" in server.termination_path.read_text()
