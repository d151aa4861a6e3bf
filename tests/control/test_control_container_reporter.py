"""Reports for custom containers: at each change, every second, and none after the pod is deleted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from control.control_world import KEY, Broker, until
from nats.aio.client import Client
from nats.aio.msg import Msg
from settle import settle

from headrace.control.container_reporter import ContainerReporter
from headrace.events import subjects
from headrace.events.connection import connect
from headrace.events.messages import ReplicaReport, ReplicaState
from headrace.kinds.controller import ProbedPod

STARTED = "2026-01-01T00:00:10Z"


class Engine:
    """Answers its readiness path with a status."""

    def __init__(self) -> None:
        self.status = "503 Service Unavailable"
        self.asked: list[bytes] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(f"HTTP/1.1 {self.status}\r\ncontent-length: 0\r\n\r\n".encode())
        writer.close()


class Ear:
    """Hears reports."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.reports: list[ReplicaReport] = []

    @property
    def states(self) -> list[ReplicaState]:
        """Without repetitions."""
        said = [report.state for report in self.reports]
        return [state for index, state in enumerate(said) if index == 0 or state is not said[index - 1]]

    async def on_report(self, msg: Msg) -> None:
        assert msg.subject == subjects.container_report(KEY.namespace, KEY.name, "p-1")
        self.reports.append(ReplicaReport.decode(msg.data))

    async def hears(self, *states: ReplicaState) -> None:
        async def heard() -> bool:
            return self.states == list(states)

        await until(heard, lambda: f"{states} are said; it was {self.reports}")


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    made = Engine()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()


@pytest.fixture(scope="module")
def broker() -> Any:
    made = Broker()
    made.start()
    yield made
    made.stop()


@pytest.fixture
async def ear(broker: Broker) -> AsyncIterator[Ear]:
    heard = Ear(await connect(broker.url, name="ear"))
    await heard.client.subscribe(subjects.ALL_CONTAINER_REPORTS, cb=heard.on_report)
    await settle(heard.client)
    yield heard
    await heard.client.close()


@asynccontextmanager
async def speaking(broker: Broker) -> AsyncIterator[ContainerReporter]:
    client = await connect(broker.url, name="loop")
    reporter = ContainerReporter(client, lambda _: None)
    running = asyncio.create_task(reporter.run())
    await asyncio.sleep(0)  # it begins
    try:
        yield reporter
    finally:
        running.cancel()
        await asyncio.wait([running])
        await client.close()


@pytest.fixture
async def reporter(broker: Broker) -> AsyncIterator[ContainerReporter]:
    async with speaking(broker) as made:
        yield made


def pod(engine: Engine, **changes: Any) -> ProbedPod:
    made = ProbedPod(
        name="p-1",
        revision="r1",
        host="127.0.0.1",
        port=engine.port,
        path="/v1/models",
        capacity=3,
        started=1.0,
        ready=False,
        terminating=False,
    )
    return replace(made, **changes)


async def test_container_when_path_answers_then_ready_before_kubelet(
    reporter: ContainerReporter, ear: Ear, engine: Engine
) -> None:
    await reporter.update(KEY, [pod(engine)])
    await ear.hears(ReplicaState.LOADING)
    engine.status = "200 OK"
    await ear.hears(ReplicaState.LOADING, ReplicaState.READY)
    assert engine.asked[0].startswith(b"GET /v1/models HTTP/1.1\r\n")
    (report,) = [each for each in ear.reports if each.state is ReplicaState.READY][:1]
    assert (report.host, report.port, report.capacity, report.started) == ("127.0.0.1", engine.port, 3, 1.0)


@pytest.mark.parametrize("announces", [False, True])
async def test_container_when_its_path_fails_then_the_fault_says_how(
    reporter: ContainerReporter, ear: Ear, engine: Engine, monkeypatch: pytest.MonkeyPatch, *, announces: bool
) -> None:
    monkeypatch.setattr("headrace.control.container_reporter.ANNOUNCING_PROBE_SECONDS", 0.05)
    engine.status = "404 Not Found"
    wrong = pod(engine, announces=announces)
    for told, fault in (
        (wrong, f"its readiness path /v1/models on port {engine.port} responds with status 404"),
        (replace(wrong, host="127.9.9.9", started=2.0), "does not respond: the connection is refused"),
    ):
        await reporter.update(KEY, [told])
        await until(lambda f=fault: _true(f in reporter.faults(KEY).get("p-1", "")), fault)  # type: ignore[misc]
    await reporter.update(KEY, [replace(wrong, started=3.0)])
    engine.status = "200 OK"
    await until(lambda: _true(reporter.faults(KEY) == {}), "it answers")
    assert bool(ear.reports) is not announces


async def test_container_when_just_started_then_silence_is_no_fault(
    reporter: ContainerReporter, ear: Ear, engine: Engine
) -> None:
    await reporter.update(KEY, [pod(engine, started=time.time())])
    await until(lambda: _true(len(engine.asked) > 2), "it is asked")
    assert reporter.faults(KEY) == {}


async def test_container_when_kubelet_says_ready_then_ready_at_once(
    reporter: ContainerReporter, ear: Ear, engine: Engine
) -> None:
    """Only the kubelet makes it unready."""
    await reporter.update(KEY, [pod(engine, ready=True)])
    await ear.hears(ReplicaState.READY)
    await reporter.update(KEY, [pod(engine, ready=False)])
    await ear.hears(ReplicaState.READY, ReplicaState.DRAINING)
    await reporter.update(KEY, [pod(engine, ready=True)])
    await ear.hears(ReplicaState.READY, ReplicaState.DRAINING, ReplicaState.READY)


async def test_container_when_it_is_being_deleted_then_draining(
    reporter: ContainerReporter, ear: Ear, engine: Engine
) -> None:
    await reporter.update(KEY, [pod(engine, ready=True)])
    await reporter.update(KEY, [pod(engine, ready=True, terminating=True)])
    await ear.hears(ReplicaState.READY, ReplicaState.DRAINING)


async def test_container_when_it_vanishes_then_one_last_word(
    reporter: ContainerReporter, ear: Ear, engine: Engine
) -> None:
    await reporter.update(KEY, [pod(engine, ready=True)])
    await reporter.update(KEY, [])
    await ear.hears(ReplicaState.READY, ReplicaState.DRAINING)
    count = len(ear.reports)
    await reporter.update(KEY, [pod(engine, name="p-1", started=2.0, ready=True)])  # as proof that time passes
    await until(lambda: _true(len(ear.reports) > count + 1), "the next one is spoken for")
    assert {report.started for report in ear.reports[count:]} == {2.0}


async def test_container_when_it_started_anew_then_it_is_asked_anew(
    reporter: ContainerReporter, ear: Ear, engine: Engine
) -> None:
    await reporter.update(KEY, [pod(engine, ready=True)])
    await reporter.update(KEY, [pod(engine, started=2.0)])
    await ear.hears(ReplicaState.READY, ReplicaState.LOADING)
    engine.status = "200 OK"
    await ear.hears(ReplicaState.READY, ReplicaState.LOADING, ReplicaState.READY)


async def test_reports_when_nothing_happens_then_repeated_as_newer(
    reporter: ContainerReporter, ear: Ear, engine: Engine
) -> None:
    await reporter.update(KEY, [pod(engine, ready=True)])
    await until(lambda: _true(len(ear.reports) >= 3), "it is said again")
    sequences = [report.sequence for report in ear.reports]
    assert sequences == sorted(set(sequences))


async def test_reports_when_somebody_asks_then_they_are_said_at_once(
    broker: Broker, ear: Ear, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.control.container_reporter.REPORT_SECONDS", 3600.0)
    async with speaking(broker) as reporter:
        await reporter.update(KEY, [pod(engine, ready=True)])
        await ear.hears(ReplicaState.READY)
        count = len(ear.reports)

        async def asked() -> bool:
            await ear.client.publish(subjects.SOLICIT)
            return len(ear.reports) > count

        await until(asked, "it is said again")


async def test_reports_when_another_loop_takes_over_then_newer(broker: Broker, ear: Ear, engine: Engine) -> None:
    for _ in range(2):
        async with speaking(broker) as reporter:
            count = len(ear.reports)
            await reporter.update(KEY, [pod(engine, ready=True)])
            await until(lambda count=count: _true(len(ear.reports) > count), "it is said")  # type: ignore[misc]
    sequences = [report.sequence for report in ear.reports]
    assert sequences == sorted(set(sequences))


async def _true(value: bool) -> bool:  # noqa: FBT001 - the argument is the answer
    return value
