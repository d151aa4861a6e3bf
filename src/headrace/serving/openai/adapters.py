"""headrace's own endpoints for the LoRA adapters of a replica: /internal/v1/adapters. Gateways do not forward them."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from headrace.serving.engine import TextEngine
from headrace.serving.errors import InvalidRequest
from headrace.serving.exchange import Exchange, Handlers
from headrace.serving.openai.generation import read
from headrace.serving.openai.requests import Body
from headrace.serving.replica import Replica

PATH = "/internal/v1/adapters"
MAX_NAME_CHARACTERS = 256
NAME = r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$"


class AdapterBody(Body):
    """POST /internal/v1/adapters."""

    off: ClassVar = {}

    name: str = Field(pattern=NAME, max_length=MAX_NAME_CHARACTERS)
    """The model name of requests that use it."""
    path: str = Field(min_length=1, max_length=4096)
    """The adapter's directory in the replica's file system."""


class AdapterEndpoints:
    """Lists, loads and unloads the adapters of one replica."""

    def __init__(self, replica: Replica[TextEngine], model: str) -> None:
        self._replica = replica
        self._model = model

    def handlers(self) -> Handlers:
        """Return the handlers by method and path."""
        return {
            ("GET", PATH): self._list,
            ("POST", PATH): self._load,
            ("DELETE", PATH + "/{name}"): self._unload,
        }

    async def _list(self, exchange: Exchange) -> None:
        async with self._replica.work() as work:
            await self._respond(exchange, work.engine)

    async def _load(self, exchange: Exchange) -> None:
        body = await read(exchange, AdapterBody)
        if body.name == self._model:
            raise InvalidRequest(f"{body.name!r} is the name of the model itself", param="name")
        async with self._replica.work() as work:
            await work.engine.load_adapter(body.name, Path(body.path))
            await self._respond(exchange, work.engine)

    async def _unload(self, exchange: Exchange) -> None:
        async with self._replica.work() as work:
            await work.engine.unload_adapter(exchange.parameters["name"])
            await self._respond(exchange, work.engine)

    async def _respond(self, exchange: Exchange, engine: TextEngine) -> None:
        await exchange.respond({"adapters": [{"name": name} for name in engine.adapters()]})
