"""The operation table: which request is which operation, and one more operation through the whole gateway."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from gateway.conftest import running_world
from gateway.gateway_client import CHAT, chat, get, request, send, sent
from gateway.gateway_inside import request_info
from gateway.gateway_replica import Received
from gateway.gateway_world import Broker, World, until

from headrace.events.messages import ReplicaReport, ReplicaState
from headrace.http.errors import InvalidRequest
from headrace.routes import RevisionWeight, Route
from headrace_gateway.errors import OperationNotSupported
from headrace_gateway.model import Lease, ServedModel
from headrace_gateway.operations import OPERATIONS, Body, Operation, OperationTable, RequestInfo
from headrace_gateway.replica import Replica

INFER = Operation(
    name="infer",
    path="/v2/models/{model}/infer",
    body=Body.TENSOR,
    model_parameter="model",
    summary="Infer tensors",
)
METADATA = Operation(
    name="metadata",
    path="/v2/models/{model}/versions/{version}",
    body=Body.NONE,
    method="GET",
    model_parameter="model",
    summary="Describe a version",
)
WITH_TENSORS = f"""
import sys
from headrace_gateway.main import main
from headrace_gateway.operations import OPERATIONS, Body, Operation, OperationTable
sys.exit(main(operations=OperationTable([*OPERATIONS, {INFER!r}, {METADATA!r}])))
""".replace("<Body.TENSOR: 'application/octet-stream'>", "Body.TENSOR").replace("<Body.NONE: ''>", "Body.NONE")
TENSORS = bytes(range(256))


async def tell_target(received: Received) -> None:
    received.answer(json.dumps({"request": received.head.split(" HTTP")[0], "bytes": len(received.body)}).encode())


@pytest_asyncio.fixture
async def tensors(broker: Broker, tmp_path: Path) -> AsyncIterator[World]:
    """A gateway process with two more operations, and a replica that answers with what it was sent."""
    async with running_world(broker, tmp_path, program=("-c", WITH_TENSORS)) as world:
        await world.loop.route("org/echo")
        await world.replica(name="org/echo", behaviour=tell_target)
        yield world


def scope(path: str, method: str = "POST") -> dict[str, object]:
    return {"path": path, "raw_path": path.encode(), "method": method}


@pytest.mark.parametrize(
    ("path", "method", "operation", "parameters"),
    [
        (CHAT, "POST", "chat", {}),
        ("/v2/models/m/infer", "POST", "infer", {"model": "m"}),
        ("/v2/models/org%2Fm%3A8b/infer", "POST", "infer", {"model": "org/m:8b"}),
        ("/v2/models/m/versions/1", "HEAD", "metadata", {"model": "m", "version": "1"}),
        (CHAT, "GET", None, None),
        (CHAT + "/", "POST", None, None),
        ("/v2/models/org/m/infer", "POST", None, None),
        ("/v2/models//infer", "POST", None, None),
        ("/v2/models/%2e%2E/infer", "POST", None, None),
        ("/v2/models/m/infer/", "POST", None, None),
    ],
)
def test_table_when_a_request_comes_then_its_operation(
    path: str, method: str, operation: str | None, parameters: dict[str, str] | None
) -> None:
    match = OperationTable([*OPERATIONS, INFER, METADATA]).match(scope(path, method))
    assert (match and match.operation.name, match and match.parameters) == (operation, parameters)


def test_allowed_when_operations_share_a_path_then_all_methods() -> None:
    table = OperationTable([METADATA, Operation("delete", METADATA.path, Body.NONE, "Delete", "DELETE", "model")])
    assert table.allowed(scope("/v2/models/m/versions/1")) == "GET, HEAD, DELETE"
    assert table.allowed(scope("/v2/models/m")) is None


@pytest.mark.parametrize("body", [Body.MULTIPART, Body.TENSOR, Body.NONE])
def test_operation_when_nothing_can_name_the_model_then_refused(body: Body) -> None:
    with pytest.raises(ValueError, match="only a JSON body"):
        Operation("o", "/o", body, "Do it")
    with pytest.raises(ValueError, match="has no parameter name"):
        Operation("o", "/o", body, "Do it", model_parameter="name")


def test_target_when_engine_has_another_name_then_replaced() -> None:
    """In the path or in the body."""
    chat = next(iter(OPERATIONS))
    assert INFER.target({"model": "a"}, "org/b\r\n") == "/v2/models/org%2Fb%0D%0A/infer"
    assert INFER.body_for(TENSORS, "b") is TENSORS
    assert chat.target({}, "b") == CHAT
    assert chat.body_for(b'{"model":"a","n":1}', "b") == b'{"model":"b","n":1}'


def test_read_when_operation_cannot_stream_then_field_ignored() -> None:
    embed = Operation("embed", "/e", Body.JSON, "Embed")
    assert embed.read({}, b'{"model":"m","stream":true}') == ("m", False)
    with pytest.raises(InvalidRequest):
        embed.read({}, b"[]")


def test_request_when_read_then_info_for_queue_and_routing() -> None:
    match = OPERATIONS.match(scope(CHAT))
    assert match is not None
    read = match.read(b"id", "team-a", b'{"model":"m","stream":true}')
    assert read == RequestInfo(b"id", match.operation, {}, tenant="team-a", public_name="m", stream=True)


def revision(name: str, *operations: str, weight_percent: int = 50) -> RevisionWeight:
    return RevisionWeight(revision=name, weight_percent=weight_percent, operations=operations)


def served(*revisions: RevisionWeight) -> ServedModel:
    """A model with one replica of capacity 1 for each revision."""
    model = ServedModel("default", "echo", lambda _: None)
    model.set_route(Route(namespace="default", name="echo", public_name="echo", revisions=revisions))
    for each in revisions:
        report = ReplicaReport(
            pod=each.revision,
            revision=each.revision,
            host="127.0.0.1",
            port=1,
            started=1,
            sequence=1,
            state=ReplicaState.READY,
            capacity=1,
        )
        model.replicas[each.revision] = Replica(report, 0)
        model.replicas[each.revision].admitted = True
    return model


async def test_choose_when_one_revision_serves_operation_then_chosen() -> None:
    model = served(revision("r1", "chat"), revision("r2", "chat", "infer"))
    for _ in range(10):
        lease = model.take(request_info(INFER))
        assert lease is not None
        assert lease.replica.pod == "r2"
        model.release(lease)


async def test_queue_when_operations_replica_is_busy_then_others_pass() -> None:
    model = served(revision("r1", "chat"), revision("r2", "infer"))
    since = asyncio.get_running_loop().time()
    first = model.take(request_info(INFER))
    waiting = model.hold(request_info(INFER), since, front=False)
    chat = model.take(request_info())
    assert (first and first.replica.pod, chat and chat.replica.pod) == ("r2", "r1")
    later = model.hold(request_info(), since, front=False)
    assert chat is not None
    model.release(chat)
    assert isinstance(later.outcome, Lease)
    assert waiting.outcome is None
    assert model.take(request_info(INFER)) is None


async def test_queue_when_operation_is_no_longer_served_then_refused() -> None:
    model = served(revision("r1", "chat", "infer"))
    waiting = model.hold(request_info(INFER), asyncio.get_running_loop().time(), front=False)
    chat = revision("r2", "chat", weight_percent=100)
    model.set_route(Route(namespace="default", name="echo", public_name="echo", revisions=(chat,)))
    assert isinstance(waiting.outcome, OperationNotSupported)


@pytest.mark.parametrize("revisions", [(), (revision("r1"), revision("r2", "infer"))])
async def test_operation_when_the_route_names_none_then_not_refused(revisions: tuple[RevisionWeight, ...]) -> None:
    assert served(*revisions).objection(request_info()) is None


async def test_operation_when_model_does_not_serve_it_then_400(world: World) -> None:
    """The error lists the operations that it serves."""
    await world.loop.route(weights={"r1": 100}, operations=("completions", "infer"))
    await world.gateway_knows_route()
    answer = await send(world.port, chat())
    assert (answer.status, answer.code) == (400, "operation_not_supported")
    assert answer.headers["x-headrace-reason"] == "OperationNotSupported"
    assert "does not serve the operation chat" in answer.json()["error"]["message"]
    assert "completions, infer" in answer.json()["error"]["message"]


async def test_operation_when_added_to_table_then_served_end_to_end(tensors: World) -> None:
    infer = request(path="/v2/models/org%2Fecho/infer?x=1", body=TENSORS)
    answer = await send(tensors.port, infer)
    assert (answer.status, answer.json()) == (200, {"request": "POST /v2/models/org%2Fecho/infer", "bytes": 256})
    assert answer.headers["x-headrace-decision"] == "echo-1/only-replica"
    answer = await get(tensors.port, "/v2/models/org%2Fecho/versions/1%0D%0A")
    assert answer.json() == {"request": "GET /v2/models/org%2Fecho/versions/1%0D%0A", "bytes": 0}
    assert (await send(tensors.port, infer.replace(b"Fecho", b"Fother"))).code == "model_not_found"
    await until(lambda: "path=/v2/models/org%2Fecho/versions/1%0D%0A status=200" in tensors.gateway.log, "its line")


async def test_operation_when_added_then_methods_and_schema_name_it(tensors: World) -> None:
    answer = await get(tensors.port, "/v2/models/org%2Fecho/infer")
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    async with sent(tensors.port, request("HEAD", "/v2/models/org%2Fecho/versions/1")) as head:
        assert head.status == 200
        head.writer.write(request("GET", "/healthz", headers={"connection": "close"}))
        assert (await head.reader.read()).startswith(b"HTTP/1.1 200 ")
    schema = (await get(tensors.port, "/openapi.json")).json()["paths"]
    assert schema[INFER.path]["post"]["parameters"][0]["name"] == "model"
    assert schema[INFER.path]["post"]["requestBody"]["content"].keys() == {Body.TENSOR.value}
    assert "requestBody" not in schema[METADATA.path]["get"]


@pytest.mark.parametrize("operation", [*OPERATIONS], ids=lambda each: each.path)
async def test_each_operation_when_model_is_at_zero_then_woken(world: World, operation: Operation) -> None:
    await world.loop.route()
    body = b"" if operation.body is Body.NONE else b'{"model": "echo"}'
    raw = request(operation.method, operation.path.replace("{model}", "echo"), body)
    asking = asyncio.create_task(send(world.port, raw))
    await world.loop.hears_demand(1)
    await world.replica(behaviour=tell_target)

    assert (await asking).status == 200
