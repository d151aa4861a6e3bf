"""What Kubernetes, Prometheus and people ask a runtime server about itself."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from headrace.serving.exchange import Exchange, Handler
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
    """Health, metrics and version of one replica."""

    def __init__(self, replica: Replica[Any], metrics: RuntimeMetrics) -> None:
        self._replica = replica
        self._metrics = metrics

    def handlers(self) -> Mapping[tuple[str, str], Handler]:
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
        """200 while new requests are welcome. A draining replica still takes what is under way, and says 503 here."""
        standing = self._replica.standing
        text = " ".join(filter(None, (standing.state.value, standing.stage)))
        await exchange.respond_text(200 if self._replica.ready else 503, f"{text}\n".encode())

    async def _exposition(self, exchange: Exchange) -> None:
        await exchange.respond_text(200, self._metrics.exposition(), CONTENT_TYPE)

    async def _version(self, exchange: Exchange) -> None:
        await exchange.respond({"version": version("headrace")})
