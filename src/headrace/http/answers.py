"""Error and stream responses of gateway and runtimes, in OpenAI's shape."""

from __future__ import annotations

import json
import re
from typing import Any

from starlette.types import Receive, Scope, Send

from headrace import headers
from headrace.errors import HeadraceError
from headrace.http.errors import RequestError, Saturated

DONE = b"data: [DONE]\n\n"
"""Last event of a stream."""
CURSOR = b": headrace cursor="
"""Prefix of the resume cursor, a comment before an event of a stream: see "Resume cursor" in the runtime contract."""
STREAM_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # a proxying nginx must not buffer tokens
)
CLIENT_CLOSED_REQUEST = 499
"""Never sent; a status of the access log, as in nginx."""

_WORD = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
"""Word boundaries of a reason: OOM|Killed, Name|Taken."""
_SERVER_ERROR = 500


def error_body(error: HeadraceError) -> dict[str, Any]:
    """Return an error in OpenAI's shape; `code` is the reason in snake_case."""
    if error.http_status >= _SERVER_ERROR:
        kind = "server_error"
    elif error.http_status == Saturated.http_status:
        kind = "rate_limit_error"
    else:
        kind = "invalid_request_error"
    code = _WORD.sub("_", error.reason).lower()
    param = error.param if isinstance(error, RequestError) else None
    return {"error": {"message": str(error), "type": kind, "param": param, "code": code}}


def error_fields(error: HeadraceError) -> list[tuple[bytes, bytes]]:
    """Return the header fields of an error response, besides those of its body."""
    fields = [(headers.REASON, error.reason)]
    if isinstance(error, RequestError):
        if error.retry_after_seconds is not None:
            fields.append(("retry-after", str(error.retry_after_seconds)))
        fields += error.fields
    return [(name.encode(), value.encode()) for name, value in fields]


class Refusal:
    """The ASGI application that rejects one request with an error."""

    def __init__(self, error: RequestError) -> None:
        self._error = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond without reading the body."""
        del scope, receive
        body = json.dumps(error_body(self._error)).encode()
        fields = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        status = self._error.http_status
        fields += error_fields(self._error)
        await send({"type": "http.response.start", "status": status, "headers": fields, "body": body})
