"""The operator's own health, for the kubelet and for Prometheus.

A loop can be stuck and hold its Lease. So health is what happened, not what should: the API server answered (at least
the Lease is asked for every second), looks at resources come to an end, and the event loop turns, or nobody would
answer here. That a watch is dead is found by kopf, that kopf has ended by the process, which ends then too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Self

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

SILENCE_SECONDS = 120.0
"""An API server that is away for a minute is waited for; after two this process is no better than a new one."""
STUCK_SECONDS = 120.0
"""Of looks that wait while none comes to an end: each of their requests would have been given up after 10."""


class Health:
    """A small HTTP server. `heard` is when the API server last said anything, on the monotonic clock."""

    def __init__(self, port: int, heard: Callable[[], float]) -> None:
        self.ready = False
        """Whether the index is filled: a replica that waits for the Lease is ready too."""
        self.stuck_seconds: Callable[[], float] = lambda: 0.0
        """How long looks have waited while none came to an end."""
        self._port = port
        self._heard = heard
        self._runner: web.AppRunner | None = None

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

    def fault(self) -> str | None:
        """Return what is wrong, or None."""
        silent, stuck = time.monotonic() - self._heard(), self.stuck_seconds()
        if silent > SILENCE_SECONDS:
            return f"nothing was heard from the API server for {silent:.0f} s"
        if stuck > STUCK_SECONDS:
            return f"no look at a resource came to an end for {stuck:.0f} s"
        return None

    async def _healthz(self, request: web.Request) -> web.Response:
        del request
        fault = self.fault()
        return web.Response(text="ok\n") if fault is None else web.Response(status=503, text=f"{fault}\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        del request
        return web.Response(text="ok\n") if self.ready else web.Response(status=503, text="reading what there is\n")

    async def _metrics(self, request: web.Request) -> web.Response:
        del request
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})
