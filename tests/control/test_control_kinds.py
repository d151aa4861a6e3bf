"""The loop runs each kind's own rule: with its memory, and into its buckets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from control.control_world import Broker, DictWorld, until
from kinds.greeting import GREETING, greeting, reconcile, registered
from nats.aio.client import Client
from nats.js.errors import BucketNotFoundError, KeyNotFoundError

from headrace.control.loop import ControlLoop
from headrace.events.connection import connect
from headrace.events.messages import Message
from headrace.kinds.controller import Controller, Reporters
from headrace.reconcile.world import Outcome, Publication, ResourceKey, Settings

BUCKET = "greetings"
UNPUBLISHED = "nothing"
ONE, TWO = (ResourceKey(GREETING.kind.kind, "default", name) for name in ("one", "two"))


class Passes(Message):
    """How many passes a resource had."""

    count: int


def counting(*arguments: Any) -> Outcome[int]:
    outcome, metadata = reconcile(*arguments), arguments[0]["metadata"]
    if arguments[0]["spec"]["text"] == UNPUBLISHED:
        return outcome
    return replace(outcome, publications=(Publication(BUCKET, metadata["name"], Passes(count=outcome.memory)),))


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    broker = Broker()
    broker.start()
    connected = await connect(broker.url, name="reconciler")
    yield connected
    await connected.close()
    broker.stop()


@contextlib.asynccontextmanager
async def reconciling(world: DictWorld, client: Client) -> AsyncIterator[None]:
    counted = replace(GREETING, controller=lambda: Controller(counting), buckets=(BUCKET,))
    with registered(counted):
        loop = ControlLoop(world, client, Settings("http://gateway", "nats://nats", "/models"))
        running = asyncio.create_task(loop.run())
        try:
            yield
        finally:
            running.cancel()
            await asyncio.wait((running,))


async def published(client: Client, key: ResourceKey) -> int | None:
    try:
        bucket = await client.jetstream(timeout=1).key_value(BUCKET)
        return Passes.decode((await bucket.get(key.name)).value or b"").count
    except (BucketNotFoundError, KeyNotFoundError):
        return None


async def test_memory_and_publications_are_of_each_resource(client: Client) -> None:
    world = DictWorld()
    for key in (ONE, TWO):
        made = greeting(key.name, "smol")
        made["metadata"].update(namespace=key.namespace, uid=key.name, generation=1)
        world.resources[key] = made

    async def seen(one: int | None, two: int | None) -> bool:
        return (await published(client, ONE), await published(client, TWO)) == (one, two)

    async with reconciling(world, client):
        await until(lambda: seen(1, 1), "both are published after their first pass")
        world.tell(TWO)
        await until(lambda: seen(1, 2), "a second pass of one of them counts for that one")
        del world.resources[ONE]
        world.tell(ONE)
        await until(lambda: seen(None, 2), "the entry of the one that is gone is withdrawn")
        world.resources[TWO]["spec"]["text"] = UNPUBLISHED
        world.tell(TWO)
        await until(lambda: seen(None, None), "an entry that the rule no longer publishes is withdrawn")


async def test_kind_without_a_subject_is_refused_when_it_has_reporters(client: Client) -> None:
    """Its reports would be taken for those of the ModelDeployment of its name."""
    reporting = Controller(reconcile, reporters=lambda *_: Reporters())
    with (
        registered(replace(GREETING, controller=lambda: reporting)),
        pytest.raises(ValueError, match="Greeting has reporters"),
    ):
        ControlLoop(DictWorld(), client, Settings("http://gateway", "nats://nats", "/models"))
