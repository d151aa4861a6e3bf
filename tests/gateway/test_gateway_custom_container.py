"""Brought containers: asked where their route says, under the name that they know, and kept while they answer."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

import pytest
from gateway.gateway_client import chat, send
from gateway.gateway_inside import NETWORKS, Inside, inside
from gateway.gateway_replica import NAMESPACE, Received, Replica
from gateway.gateway_world import until

from headrace.events.messages import Announcement, ReplicaReport, ReplicaState
from headrace.events.secret import new_secret
from headrace.routes import Engine, Route
from headrace_gateway import liveness
from headrace_gateway.admission import Admissions
from headrace_gateway.model import ServedModel
from headrace_gateway.outbox import Outbox
from headrace_gateway.upstream.connection import ReplicaUnresponsive


class Liveness:
    """An outbox whose words nobody hears."""

    def __init__(self) -> None:
        self.said: list[ReplicaState] = []

    def admission(self, model: ServedModel, report: ReplicaReport, state: ReplicaState) -> None:
        """Say nothing."""
        del model, report
        self.said.append(state)


@dataclass
class Foreign:
    """A container that answers `/v1/models` and nothing of ours."""

    inside: Inside
    admissions: Admissions
    replica: Replica
    outbox: Liveness
    healthy: bool = True
    announces: bool = False
    """Else the loop reports for it."""

    @property
    def model(self) -> ServedModel:
        return self.inside.table.model(NAMESPACE, "echo")

    @property
    def admitted(self) -> bool:
        return any(each.admitted for each in self.model.replicas.values())

    def route(
        self, *, path: str = "/v1/models", model_name: str | None = "engine/model", announces: bool = False
    ) -> None:
        self.announces = announces
        engine = Engine(revision="r1", readiness_path=path, model_name=model_name, announces=announces)
        route = Route(namespace=NAMESPACE, name="echo", public_name="echo", engines=(engine,))
        self.inside.table.set_route(route.key, route.encode())

    def is_said_to_be(self, state: ReplicaState, sequence: int = 1) -> None:
        report = ReplicaReport(
            pod="echo-1",
            revision="r1",
            host="127.0.0.1",
            port=self.replica.port,
            started=1,
            sequence=sequence,
            state=state,
        )
        if self.announces:
            report = Announcement(secret=self.replica.secret, **dict(report))
        self.admissions.on_report(NAMESPACE, "echo", report)


@pytest.fixture
async def foreign() -> AsyncIterator[Foreign]:
    async with _foreign() as made:
        yield made


@asynccontextmanager
async def _foreign() -> AsyncIterator[Foreign]:
    async def answer(request: Received) -> None:
        if request.path == "/v1/models":
            proofs = replica.proof(request) if made.announces else {}
            request.answer(b"{}", "200 OK" if made.healthy else "503 Service Unavailable", **proofs)
        else:
            request.answer(request.body)

    async with inside() as world, asyncio.TaskGroup() as tasks:
        replica = await Replica("echo-1", behaviour=answer, ready=False).start(None)
        world.replicas.append(replica)
        outbox = Liveness()
        made = Foreign(world, Admissions(world.table, cast(Outbox, outbox), tasks, NETWORKS), replica, outbox)
        yield made


async def test_brought_when_said_to_be_ready_then_its_own_path_is_asked(foreign: Foreign) -> None:
    foreign.route()
    foreign.is_said_to_be(ReplicaState.READY)
    await until(lambda: foreign.admitted, "it is routed to")


async def test_self_registering_container_when_unproven_then_its_path_is_not_requested(foreign: Foreign) -> None:
    foreign.route(path="/v1/secrets?force=true", announces=True)
    secret, foreign.replica.secret = foreign.replica.secret, new_secret()
    foreign.is_said_to_be(ReplicaState.READY)  # with a secret that the process at the address has not
    foreign.replica.secret = secret
    await until(lambda: not any(each.probing for each in foreign.model.replicas.values()), "it was probed")
    assert foreign.replica.connections == 1
    assert foreign.replica.requests == []
    assert not foreign.admitted


async def test_self_registering_container_when_proven_then_its_own_path_decides(foreign: Foreign) -> None:
    foreign.route(announces=True)
    foreign.healthy = False
    foreign.is_said_to_be(ReplicaState.READY)
    await until(lambda: bool(foreign.replica.requests), "its path was requested")
    await until(lambda: not any(each.probing for each in foreign.model.replicas.values()), "it was probed")
    assert [each.proven for each in foreign.model.replicas.values()] == [True]
    assert not foreign.admitted


async def test_brought_when_its_path_does_not_answer_then_it_is_not_routed_to(foreign: Foreign) -> None:
    foreign.route(path="/health/ready")
    foreign.is_said_to_be(ReplicaState.READY)
    await until(lambda: not any(each.probing for each in foreign.model.replicas.values()), "it was asked")
    assert not foreign.admitted


@pytest.mark.parametrize(("model_name", "seen"), [("engine/model", "engine/model"), (None, "echo")])
async def test_request_when_the_engine_knows_another_name_then_it_gets_that_one_and_all_else_as_it_was(
    foreign: Foreign, model_name: str | None, seen: str
) -> None:
    foreign.route(model_name=model_name)
    foreign.is_said_to_be(ReplicaState.READY)
    await until(lambda: foreign.admitted, "it is routed to")
    answer = await send(foreign.inside.port, chat(temperature=0.25, user="ä"))
    body = json.loads(answer.body)
    assert body["model"] == seen
    assert {**body, "model": ""} == {"model": "", "messages": [], "stream": False, "temperature": 0.25, "user": "ä"}


async def test_brought_when_its_reporter_is_silent_then_it_is_kept_while_it_answers(
    foreign: Foreign, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign.route()
    foreign.is_said_to_be(ReplicaState.READY)
    await until(lambda: foreign.admitted, "it is routed to")
    (known,) = foreign.model.replicas.values()
    monkeypatch.setattr(liveness, "REMOVE_SECONDS", -1.0)
    before = known.reported_at
    foreign.admissions.liveness.check()
    await until(lambda: known.reported_at > before, "it was asked instead")
    assert foreign.admitted
    foreign.healthy = False
    foreign.admissions.liveness.check()
    await until(lambda: not foreign.admitted, "it does not answer")
    foreign.admissions.liveness.check()
    assert foreign.model.replicas == {}


async def test_brought_when_it_speaks_for_itself_and_falls_silent_then_it_is_forgotten(
    foreign: Foreign, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign.route(announces=True)
    foreign.is_said_to_be(ReplicaState.READY)
    await until(lambda: foreign.admitted, "it is routed to")
    monkeypatch.setattr(liveness, "REMOVE_SECONDS", -1.0)
    foreign.admissions.liveness.check()
    assert foreign.model.replicas == {}


@pytest.mark.parametrize("state", [ReplicaState.READY, ReplicaState.LOADING])
async def test_brought_when_it_answers_nothing_while_it_computes_then_its_report_decides(
    foreign: Foreign, monkeypatch: pytest.MonkeyPatch, state: ReplicaState
) -> None:
    foreign.route()
    foreign.is_said_to_be(ReplicaState.READY)
    await until(lambda: foreign.admitted, "it is routed to")
    (known,) = foreign.model.replicas.values()
    foreign.is_said_to_be(state, sequence=2)
    connection = await known.pool.connect()
    connection.send(b"POST /v1/completions HTTP/1.1\r\ncontent-length: 1\r\n\r\n")
    known.in_flight, known.unanswered = 1, True
    known.alive = known.busy_since = asyncio.get_running_loop().time() - 10_000
    monkeypatch.setattr(foreign.admissions.liveness, "_ask", lambda *_: None)
    foreign.admissions.liveness.check()
    if state is ReplicaState.READY:
        assert foreign.admitted
        waiting = connection.changed()  # raises if it was given up
        assert not waiting.done()
    else:
        with pytest.raises(ReplicaUnresponsive):
            await connection.changed()
    known.pool.give_back(connection)
    known.in_flight = 0


async def test_brought_when_it_says_that_it_loads_again_then_it_gets_nothing_until_it_is_ready(
    foreign: Foreign,
) -> None:
    foreign.route(announces=True)
    foreign.is_said_to_be(ReplicaState.READY)
    await until(lambda: foreign.admitted, "it is routed to")
    foreign.is_said_to_be(ReplicaState.LOADING, sequence=2)
    assert not foreign.admitted
    foreign.is_said_to_be(ReplicaState.READY, sequence=3)
    await until(lambda: foreign.admitted, "it is routed to again")
    assert foreign.outbox.said == [ReplicaState.READY, ReplicaState.DRAINING, ReplicaState.READY]


async def test_brought_when_it_is_not_reached_then_the_log_says_once_who_and_why(
    foreign: Foreign, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    foreign.route(path="/v1/models")
    foreign.healthy = False
    for sequence in (1, 2, 2):
        foreign.is_said_to_be(ReplicaState.READY, sequence)
        await until(lambda: not any(each.probing for each in foreign.model.replicas.values()), "it was asked")
    said = [record.getMessage() for record in caplog.records if "echo-1" in record.getMessage()]
    assert said == [
        f"{NAMESPACE}/echo-1 reports ready, but /v1/models: status 503",
        f"ignored {NAMESPACE}/echo-1: its sequence stays at 2",
    ]


async def test_brought_when_somebody_announces_it_that_knows_nothing_of_us_then_nothing_is_probed(
    foreign: Foreign,
) -> None:
    foreign.route()
    foreign.announces = True
    foreign.is_said_to_be(ReplicaState.READY)
    assert foreign.model.replicas == {}
