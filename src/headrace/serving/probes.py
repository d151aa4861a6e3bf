"""Health, metrics and version endpoints of a runtime server."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from headrace import headers
from headrace.serving.exchange import Exchange, Handlers
from headrace.serving.identity import Identity
from headrace.serving.metrics import CONTENT_TYPE, RuntimeMetrics
from headrace.serving.replica import Replica

HEALTH = "/health"
"""Same as `/health/ready`; load generators and clients of other engines use this path."""
LIVE = "/health/live"
READY = "/health/ready"
METRICS = "/metrics"
VERSION = "/version"
QUIET_PATHS = frozenset({HEALTH, LIVE, READY, METRICS, VERSION})


class Probes:
    """Health, metrics and version of one replica, open to everyone who can connect."""

    def __init__(self, replica: Replica[Any], metrics: RuntimeMetrics, identity: Identity | None) -> None:
        self._replica = replica
        self._metrics = metrics
        self._identity = identity

    def handlers(self) -> Handlers:
        """Return method and path to handler."""
        return {
            ("GET", LIVE): self._live,
            ("GET", READY): self._ready,
            ("GET", HEALTH): self._ready,
            ("GET", METRICS): self._exposition,
            ("GET", VERSION): self._version,
        }

    async def _live(self, exchange: Exchange) -> None:
        """200 from the start, also while loading; 500 if the process must be restarted."""
        alive = self._replica.alive
        await exchange.respond_text(200 if alive else 500, b"alive\n" if alive else b"the engine has died\n")

    async def _ready(self, exchange: Exchange) -> None:
        """200 while requests may be routed here; 503 while draining, though requests on their way are still accepted.

        With either status, the proof for a gateway's challenge shows that this is the process that reports.
        """
        status = self._replica.status
        text = " ".join(filter(None, (status.state.value, status.stage)))
        await exchange.respond_text(
            200 if self._replica.ready else 503, f"{text}\n".encode(), extra=self._proof(exchange)
        )

    def _proof(self, exchange: Exchange) -> list[tuple[bytes, bytes]]:
        challenge = exchange.headers.get(headers.CHALLENGE.encode())
        if self._identity is None or challenge is None:
            return []
        answer = self._identity.proof(challenge.decode("latin-1"))
        return [] if answer is None else [(headers.PROOF.encode(), answer.encode())]

    async def _exposition(self, exchange: Exchange) -> None:
        await exchange.respond_text(200, self._metrics.exposition(), CONTENT_TYPE)

    async def _version(self, exchange: Exchange) -> None:
        await exchange.respond({"version": version("headrace")})
