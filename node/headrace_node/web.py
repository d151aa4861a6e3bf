"""Metrics and health over HTTP."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.types import ASGIApp, Receive, Scope, Send

_TEXT = "text/plain; charset=utf-8"


def web_app(exposition: Callable[[], bytes]) -> ASGIApp:
    """Return the application: `/metrics`, and `/healthz`, which is answered as long as the event loop runs.

    Args:
        exposition: returns the metrics in Prometheus' text format.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        del receive
        status, content_type, body = 404, _TEXT, b"not found: /metrics and /healthz are served\n"
        if scope["path"] == "/metrics":
            status, content_type, body = 200, CONTENT_TYPE_LATEST, exposition()
        elif scope["path"] == "/healthz":
            status, body = 200, b"ok\n"
        headers = [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app
