"""A runtime that reports to gateways serves only their requests.

Gateways check API keys. A NetworkPolicy blocks other clients where the cluster's network enforces it; the token does so
everywhere.
"""

from __future__ import annotations

import hmac

from headrace import headers
from headrace.serving.errors import NotFromGateway
from headrace.serving.exchange import Exchange, Handler, Handlers

_TOKEN = headers.REPLICA_TOKEN.encode()


def from_gateways_only(handlers: Handlers, token: str) -> Handlers:
    """Return the handlers, each of which rejects requests without the token before it reads the body."""
    return {route: _guarded(handler, token.encode()) for route, handler in handlers.items()}


def _guarded(handler: Handler, token: bytes) -> Handler:
    async def guarded(exchange: Exchange) -> None:
        if not hmac.compare_digest(exchange.headers.get(_TOKEN, b""), token):
            raise NotFromGateway(
                "this replica serves requests of its gateways only",
                hint="Send the request to the gateway: the resource's `status.url` is its address",
            )
        await handler(exchange)

    return guarded
