"""What an engine answers when it cannot take a request."""

from __future__ import annotations

from headrace import headers
from headrace.errors import HeadraceError


class Saturated(HeadraceError):
    """The engine's queue is full."""

    http_status = 429
    reason = headers.SATURATED


class InvalidRequest(HeadraceError):
    """The request cannot be served as it is; `param` names the field."""

    http_status = 400
    reason = headers.INVALID_REQUEST

    def __init__(self, message: str, *, param: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.param = param


class EngineDied(HeadraceError):
    """The engine's thread ended by an unexpected error; the process should be restarted."""

    http_status = 500
    reason = "EngineDied"
