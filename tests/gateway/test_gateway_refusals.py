"""A refusal that is taken back: a spec that was mended is not answered with what the old one lacked."""

from __future__ import annotations

import asyncio

import pytest
from gateway.gateway_client import chat, send
from gateway.gateway_inside import inside
from gateway.gateway_world import until

from headrace.api import vocabulary as v
from headrace.routes import Route, Unavailable
from headrace_gateway import model as model_module
from headrace_gateway.model import ServedModel

REFUSED = Unavailable(reason=v.INVALID_SPEC, message="spec.replicas: must be at least 0")


def refuse(model: ServedModel, unavailable: Unavailable | None) -> None:
    model.set_route(Route(namespace=model.namespace, name="echo", public_name="echo", unavailable=unavailable))


@pytest.mark.parametrize("stream", [False, True])
async def test_refusal_when_route_is_available_again_then_served(
    monkeypatch: pytest.MonkeyPatch, *, stream: bool
) -> None:
    monkeypatch.setattr(model_module, "REFUSAL_SECONDS", 3600.0)
    async with inside() as gateway:
        model = gateway.route()
        await gateway.replica(model)
        refuse(model, REFUSED)
        asking = asyncio.create_task(send(gateway.port, chat(stream=stream)))
        await until(lambda: model.demand("g").queued == 1, "it counts as demand at once")
        refuse(model, None)
        assert (await asking).status == 200


async def test_refusal_when_it_stands_then_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_module, "REFUSAL_SECONDS", 0.01)
    async with inside() as gateway:
        refuse(gateway.route(), REFUSED)
        answer = await send(gateway.port, chat(stream=True))
        assert (answer.status, answer.headers["x-headrace-reason"]) == (503, v.INVALID_SPEC)


async def test_refusal_when_client_disconnects_then_nothing_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(model_module, "REFUSAL_SECONDS", 3600.0)
    async with inside() as gateway:
        model = gateway.route()
        refuse(model, REFUSED)
        asking = asyncio.create_task(send(gateway.port, chat()))
        await until(lambda: len(model._reconsiderations) == 1, "it waits")
        asking.cancel()
        await until(lambda: not model._reconsiderations, "it is forgotten")
