"""LoRA adapters at the gateway: names, keys, routing between revisions, and waking the model."""

from __future__ import annotations

import asyncio

import pytest
from gateway.gateway_client import chat, get, send
from gateway.gateway_inside import request_info
from gateway.gateway_replica import Received
from gateway.gateway_world import World
from gateway.test_gateway_operations import revision, served

from headrace.http.errors import ModelNotFound
from headrace.routes import KeyGrant, Route
from headrace_gateway.model import Lease
from headrace_gateway.operations import RequestInfo
from headrace_gateway.table import Table


def using(adapter: str) -> RequestInfo:
    return request_info()._replace(public_name=adapter, adapter=adapter)


def route(**adapters: tuple[str, ...]) -> Route:
    weights = tuple(
        revision(name, weight_percent=100 // len(adapters)).model_copy(update={"adapters": each})
        for name, each in adapters.items()
    )
    return Route(namespace="default", name="echo", public_name="echo", created=1, revisions=weights)


@pytest.fixture
async def table() -> Table:
    made = Table("default", lambda _: None)
    made.set_route("default.echo", route(r1=("echo:sql", "echo:chat")).encode())
    return made


async def test_find_when_the_name_is_an_adapter_then_its_model(table: Table) -> None:
    grant = KeyGrant(namespace="default", name="k")
    model = table.find(grant, "echo:sql")
    assert (model.name, model.is_adapter("echo:sql"), model.is_adapter("echo")) == ("echo", True, False)
    assert [name for name, _ in table.visible(grant)] == ["echo", "echo:chat", "echo:sql"]
    with pytest.raises(ModelNotFound):
        table.find(KeyGrant(namespace="other", name="k"), "echo:sql")


@pytest.mark.parametrize(
    ("allowed", "visible"), [("echo", ["echo", "echo:chat", "echo:sql"]), ("echo:sql", ["echo:sql"]), ("other", [])]
)
async def test_key_when_it_has_a_list_then_opens_these_names(table: Table, allowed: str, visible: list[str]) -> None:
    grant = KeyGrant(namespace="default", name="k", models=(allowed,))
    assert [name for name, _ in table.visible(grant)] == visible
    for name in {"echo", "echo:chat", "echo:sql"} - set(visible):
        with pytest.raises(ModelNotFound):
            table.find(grant, name)


async def test_table_when_an_adapter_is_removed_then_unknown(table: Table) -> None:
    table.set_route("default.echo", route(r1=("echo:chat",)).encode())
    with pytest.raises(ModelNotFound):
        table.find(KeyGrant(namespace="default", name="k"), "echo:sql")


async def test_choose_when_one_revision_has_the_adapter_then_chosen() -> None:
    model = served(*route(r1=("echo:sql",), r2=()).revisions)
    for _ in range(6):
        lease = model.take(using("echo:sql"))
        assert lease is not None
        assert lease.replica.pod == "r1"
        model.release(lease)


async def test_queue_when_adapters_replica_is_busy_then_others_pass() -> None:
    model = served(*route(r1=("echo:sql",), r2=()).revisions)
    since = asyncio.get_running_loop().time()
    first = model.take(using("echo:sql"))
    waiting = model.hold(using("echo:sql"), since, front=False)
    plain = model.take(request_info())
    assert (first and first.replica.pod, plain and plain.replica.pod) == ("r1", "r2")
    assert waiting.outcome is None
    assert first is not None
    model.release(first)
    assert isinstance(waiting.outcome, Lease)


async def test_queue_when_the_adapter_is_no_longer_served_then_404() -> None:
    model = served(*route(r1=("echo:sql",)).revisions)
    first = model.take(using("echo:sql"))
    assert first is not None
    waiting = model.hold(using("echo:sql"), asyncio.get_running_loop().time(), front=False)
    model.set_route(route(r1=()))
    assert isinstance(waiting.outcome, ModelNotFound)


async def tell_body(received: Received) -> None:
    received.answer(received.body)


async def test_adapter_when_the_model_is_at_zero_then_woken(world: World) -> None:
    """The request reaches the replica with the adapter's name, and the list names the parent."""
    await world.loop.publish(route(r1=("echo:sql",)))
    await world.gateway_knows_route()
    cards = {card["id"]: card for card in (await get(world.port, "/v1/models")).json()["data"]}
    assert cards["echo:sql"] == {**cards["echo"], "id": "echo:sql", "parent": "echo"}
    assert "parent" not in cards["echo"]
    assert (await get(world.port, "/v1/models/echo:sql")).json() == cards["echo:sql"]
    asking = asyncio.create_task(send(world.port, chat("echo:sql")))
    await world.loop.hears_demand(1)
    await world.replica(behaviour=tell_body, revision="r1")
    answer = await asking
    assert (answer.status, answer.json()["model"]) == (200, "echo:sql")
    assert (await send(world.port, chat("echo:other"))).code == "model_not_found"
