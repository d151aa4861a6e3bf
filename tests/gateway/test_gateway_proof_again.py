"""A replica is proven again before a new connection when another process may have its address."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from gateway.gateway_client import chat, send
from gateway.gateway_inside import inside
from gateway.gateway_replica import Replica
from gateway.gateway_world import until

from headrace.events.secret import new_secret
from headrace_gateway.replica import Replica as KnownReplica
from headrace_gateway.upstream.connection import ReplicaUnresponsive


def vanishes(known: KnownReplica, replica: Replica) -> None:
    del known
    replica.drop_connections()


def is_silent(known: KnownReplica, replica: Replica) -> None:
    del replica
    known.pool.renew()
    known.alive = float("-inf")


@pytest.mark.parametrize("event", [vanishes, is_silent])
@pytest.mark.parametrize("same", [True, False], ids=["the same", "another"])
async def test_replica_when_it_may_be_gone_then_it_is_proven_again(
    event: Callable[[KnownReplica, Replica], None], *, same: bool
) -> None:
    async with inside() as world:
        model = world.route()
        replica = await world.replica(model)
        (known,) = model.replicas.values()
        event(known, replica)
        if not same:
            replica.secret = new_secret()
        asking = asyncio.create_task(send(world.port, chat()))
        await until(lambda: bool(replica.requests) or not known.admitted, "it was probed")
        assert (bool(replica.requests), known.admitted) == (same, same)
        if same:
            assert (await asking).status == 200
        asking.cancel()


async def test_replica_when_it_reports_then_a_new_connection_carries_the_request_at_once() -> None:
    async with inside() as world:
        model = world.route()
        replica = await world.replica(model)
        (known,) = model.replicas.values()
        known.pool.renew()
        replica.secret = new_secret()  # a probe would fail
        assert (await send(world.port, chat())).status == 200


async def test_replica_when_given_up_then_each_exchange_has_its_own_error() -> None:
    """One instance that is raised twice would carry the traceback of both."""
    async with inside() as world:
        model = world.route()
        await world.replica(model)
        (known,) = model.replicas.values()
        connections = [await known.pool.connect() for _ in range(2)]
        for connection in connections:
            connection.send(b"GET /")
        known.pool.fail_busy("no sign of life")
        errors = []
        for connection in connections:
            with pytest.raises(ReplicaUnresponsive) as raised:
                await connection.changed()
            errors.append(raised.value)
            known.pool.give_back(connection)
    assert errors[0] is not errors[1]
