"""What Kubernetes, Prometheus and people ask a runtime server about itself."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from headrace import headers
from headrace.serving.exchange import Exchange, Handlers
from headrace.serving.identity import Identity
from headrace.serving.metrics import CONTENT_TYPE, RuntimeMetrics
from headrace.serving.replica import Replica

HEALTH = "/health"
"""As `/health/ready`: where load generators and other engines' clients look first."""
LIVE = "/health/live"
READY = "/health/ready"
METRICS = "/metrics"
VERSION = "/version"
QUIET_PATHS = frozenset({HEALTH, LIVE, READY, METRICS, VERSION})


class Probes:
    """Health, metrics and version of one replica. Everybody who reaches it may ask."""

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
        """200 from the first moment, however long loading takes; 500 when only a new process can help."""
        alive = self._replica.alive
        await exchange.respond_text(200 if alive else 500, b"alive\n" if alive else b"the engine has died\n")

    async def _ready(self, exchange: Exchange) -> None:
        """200 while new requests are welcome. A draining replica still takes what is under way, and says 503 here.

        Whatever the status, the answer to a gateway's challenge proves that this is the process that reports.
        """
        standing = self._replica.standing
        text = " ".join(filter(None, (standing.state.value, standing.stage)))
        status = 200 if self._replica.ready else 503
        await exchange.respond_text(status, f"{text}\n".encode(), extra=self._proof(exchange))

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
