"""One tenant attacks another with its own NATS login, which is all that it has: broker, logins and gateway are real."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from gateway.conftest import running_world
from gateway.gateway_client import KEY_B, chat, get, send
from gateway.gateway_replica import DEADLINE_SECONDS, Replica
from gateway.gateway_world import Broker, World, until
from nats.aio.client import Client

from headrace.broker.config import GATEWAY, RECONCILER, Credentials, Users, runtime_user
from headrace.events import subjects
from headrace.events.connection import connect
from headrace.events.messages import Announcement, ReplicaState
from headrace.events.secret import new_secret
from headrace_gateway.claims import FAILURE_BURST, FAILURES_PER_SECOND

VICTIM, ATTACKER = "team-a", "team-b"
KEY_A = "hr_team-a_a"
CLAIMS = 500
"""Each is made again every two seconds."""


@pytest.fixture
def logins() -> dict[str, Credentials]:
    return {each: Credentials(runtime_user(each), f"secret-{each}") for each in (VICTIM, ATTACKER)}


@pytest.fixture
async def world(tmp_path: Path, logins: dict[str, Credentials]) -> AsyncIterator[World]:
    users = Users(Credentials(RECONCILER, "secret-r"), Credentials(GATEWAY, "secret-g"), logins)
    broker = Broker(tmp_path / "nats", users)
    broker.start()
    try:
        async with running_world(broker, tmp_path) as made:
            await made.loop.key(KEY_A, VICTIM)
            await made.loop.route(namespace=VICTIM)
            await made.loop.route(namespace=ATTACKER)
            await key_is_known(made, KEY_A)
            yield made
    finally:
        broker.kill()


async def key_is_known(world: World, key: str) -> None:
    """Wait until the gateway needs a key, has this one, and a route for it."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while (await get(world.port, "/v1/models")).status != 401:
            await asyncio.sleep(0.005)
        while b"echo" not in (await get(world.port, "/v1/models", key)).body:
            await asyncio.sleep(0.005)


@asynccontextmanager
async def logged_in(world: World, login: Credentials) -> AsyncIterator[Client]:
    client = await connect(world.broker.url, name=login.user, user=login.user, password=login.password)
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def attacked(client: Client, claims: list[Announcement]) -> AsyncIterator[None]:
    """Publish the claims every two seconds, the first time before the block begins."""

    async def publish(sequence: int) -> None:
        for claim in claims:
            said = claim.model_copy(update={"sequence": sequence})
            await client.publish(subjects.replica(ATTACKER, "echo", claim.pod), said.encode())
        await client.flush()

    async def go_on() -> None:
        sequence = 1
        while True:
            await asyncio.sleep(2)
            sequence += 1
            await publish(sequence)

    await publish(1)
    going_on = asyncio.create_task(go_on())
    try:
        yield
    finally:
        going_on.cancel()
        await asyncio.wait([going_on])


def claims(state: ReplicaState, port: int) -> Iterator[Announcement]:
    """Yield claims of addresses of the pod network; the victim's replica will have one of them."""
    for number in range(CLAIMS):
        yield Announcement(
            secret=new_secret(),
            pod=f"liar-{number}",
            revision="r1",
            host="127.0.0.1" if number % 2 else f"127.9.{number // 250}.{number % 250}",
            port=port,
            started=time.time(),
            sequence=1,
            state=state,
        )


async def answered(world: World, key: str = KEY_A) -> int:
    async with asyncio.timeout(DEADLINE_SECONDS):
        status = (await send(world.port, chat(key=key))).status
    assert status != 401
    return status


@pytest.mark.parametrize("state", [ReplicaState.LOADING, ReplicaState.READY])
async def test_wake_when_another_tenant_claims_the_whole_pod_network_then_it_is_answered(
    world: World, logins: dict[str, Credentials], state: ReplicaState
) -> None:
    async with logged_in(world, logins[VICTIM]) as ours, logged_in(world, logins[ATTACKER]) as theirs:
        replica = await Replica("echo-1", namespace=VICTIM).start(ours)
        world.replicas.append(replica)
        async with attacked(theirs, list(claims(state, replica.port))):
            async with asyncio.TaskGroup() as tasks:  # a refusal ends the waiting
                asking = tasks.create_task(answered(world))
                await world.loop.hears_demand(1)
                await replica.be_ready()
            assert asking.result() == 200
            for _ in range(20):
                assert await answered(world) == 200
    assert len(replica.requests) == 21


async def test_probes_when_another_tenant_claims_an_address_then_they_are_few_and_say_no_secret(
    world: World, logins: dict[str, Credentials]
) -> None:
    bystander = await Replica("bystander").start(None)
    world.replicas.append(bystander)
    began = time.monotonic()
    async with logged_in(world, logins[ATTACKER]) as theirs:
        known = list(claims(ReplicaState.READY, bystander.port))
        async with attacked(theirs, known):
            await until(lambda: "more reports of team-b are ignored" in world.gateway.log, "they were judged")
    most = FAILURE_BURST + FAILURES_PER_SECOND * (time.monotonic() - began)
    assert bystander.connections <= most
    assert "routing to team-b" not in world.gateway.log
    assert not any(claim.secret in world.gateway.log for claim in known)


async def test_claim_when_it_is_of_another_tenants_replica_then_no_request_goes_there(
    world: World, logins: dict[str, Credentials]
) -> None:
    """The victim's replica would answer the attacker's requests, were it believed to be the attacker's."""
    await world.loop.key(KEY_B, ATTACKER)
    await key_is_known(world, KEY_B)
    async with logged_in(world, logins[VICTIM]) as ours, logged_in(world, logins[ATTACKER]) as theirs:
        replica = await Replica("echo-1", namespace=VICTIM).start(ours)
        world.replicas.append(replica)
        await replica.be_ready()
        await world.loop.hears_admission("echo-1", ReplicaState.READY)
        (claim, *_) = [each for each in claims(ReplicaState.READY, replica.port) if each.host == "127.0.0.1"]
        asking = asyncio.create_task(answered(world, KEY_B))
        async with attacked(theirs, [claim]):
            await until(lambda: "did not prove to be this replica" in world.gateway.log, "it was probed")
            assert await answered(world) == 200
        assert not asking.done()
        asking.cancel()
    assert len(replica.requests) == 1
