"""Errors of a runtime server: those of every HTTP server, and its own."""

from __future__ import annotations

from headrace import headers
from headrace.api.vocabulary import STARTING
from headrace.errors import HeadraceError
from headrace.http.errors import (
    BodyTooLarge,
    BodyTooSlow,
    ClientGone,
    InvalidRequest,
    MethodNotAllowed,
    ModelNotFound,
    NoSuchPath,
    RequestError,
    Saturated,
)

__all__ = [
    "BodyTooLarge",
    "BodyTooSlow",
    "ClientGone",
    "ContextLengthExceeded",
    "Draining",
    "EngineDied",
    "InvalidRequest",
    "MethodNotAllowed",
    "ModelNotFound",
    "NoSuchPath",
    "NotLoaded",
    "RequestError",
    "Saturated",
    "UnsupportedParameter",
]


class UnsupportedParameter(InvalidRequest):
    """The request sets a field that would change the answer and that this runtime does not support."""

    reason = "UnsupportedParameter"


class ContextLengthExceeded(InvalidRequest):
    """Prompt and answer together are longer than the model's context."""

    reason = "ContextLengthExceeded"


class NotFromGateway(RequestError):
    """The request lacks the token of this process: it is not from a gateway, or it is for an earlier process."""

    http_status = 401
    reason = headers.NOT_FROM_GATEWAY


class NotLoaded(RequestError):
    """The engine is still loading."""

    http_status = 503
    reason = STARTING
    retry_after_seconds = 1


class Draining(RequestError):
    """The replica is shutting down: it rejects new requests, or its grace period ended before the answer did."""

    http_status = 503
    reason = headers.DRAINING
    retry_after_seconds = 1


class EngineDied(HeadraceError):
    """The engine failed; the process exits and is restarted."""

    http_status = 500
    reason = "EngineDied"


class RequestFailed(HeadraceError):
    """The engine failed on this request only; other requests continue."""

    http_status = 500
    reason = "RequestFailed"
