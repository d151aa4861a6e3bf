"""The operator's own health, for the kubelet and for Prometheus.

A watch can be dead and look alive, and a loop can be stuck and hold its Lease. So health is what happened, not what
should: the API server answered, a watch brought something (a bookmark comes each minute), the event loop turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Self

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

SILENCE_SECONDS = 120.0
"""An API server that is away for a minute is waited for; after two this process is no better than a new one."""


class Health:
    """A small HTTP server. `answered` is when the API server last said anything, on the monotonic clock."""

    def __init__(self, port: int, answered: Callable[[], float]) -> None:
        self._port = port
        self._answered = answered
        self._runner: web.AppRunner | None = None
        self.ready = False
        """Whether the index is filled: a replica that waits for the Lease is ready too."""

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.add_routes(
            [web.get("/healthz", self._healthz), web.get("/readyz", self._readyz), web.get("/metrics", self._metrics)]
        )
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, port=self._port, shutdown_timeout=1).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, request: web.Request) -> web.Response:
        del request
        silent = time.monotonic() - self._answered()
        if silent > SILENCE_SECONDS:
            return web.Response(status=503, text=f"nothing was heard from the API server for {silent:.0f} s\n")
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        del request
        return web.Response(text="ok\n") if self.ready else web.Response(status=503, text="reading what there is\n")

    async def _metrics(self, request: web.Request) -> web.Response:
        del request
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})
