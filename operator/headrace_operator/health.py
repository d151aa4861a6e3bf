"""Health endpoints and metrics of the operator.

A loop can be stuck while it holds the Lease. So health requires progress: the API server has answered (at least the
Lease is read every second), reconcile passes end, and the event loop runs, or this endpoint would not answer. kopf
detects dead watches; when kopf ends, the process exits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Self

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

UNANSWERED_SECONDS = 120.0
"""An API server may be unavailable for a minute; after two minutes the process restarts."""
STUCK_SECONDS = 120.0
"""For reconcile passes that are pending while none ends: each of their requests times out after 10 s."""


class Health:
    """A small HTTP server. `answered_at` returns the monotonic time of the API server's last response."""

    def __init__(self, port: int, answered_at: Callable[[], float]) -> None:
        self.ready = False
        """Whether the index is filled; a replica that waits for the Lease is ready too."""
        self.stuck_seconds: Callable[[], float] = lambda: 0.0
        """How long reconcile passes have been pending while none ended."""
        self._port = port
        self._answered_at = answered_at
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
        """Return the fault, or None."""
        silent, stuck = time.monotonic() - self._answered_at(), self.stuck_seconds()
        if silent > UNANSWERED_SECONDS:
            return f"the API server has not answered for {silent:.0f} s"
        if stuck > STUCK_SECONDS:
            return f"no reconcile pass has ended for {stuck:.0f} s"
        return None

    async def _healthz(self, request: web.Request) -> web.Response:
        del request
        fault = self.fault()
        return web.Response(text="ok\n") if fault is None else web.Response(status=503, text=f"{fault}\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        del request
        return (
            web.Response(text="ok\n") if self.ready else web.Response(status=503, text="the index is not filled yet\n")
        )

    async def _metrics(self, request: web.Request) -> web.Response:
        del request
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})
