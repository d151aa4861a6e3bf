"""What a runtime server answers when it does not serve a request: the errors of any server, and its own."""

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
    """The request asks for something that would change the answer and that this runtime does not do."""

    reason = "UnsupportedParameter"


class ContextLengthExceeded(InvalidRequest):
    """Prompt and answer together do not fit into the model."""

    reason = "ContextLengthExceeded"


class NotFromGateway(RequestError):
    """The request does not come from a gateway, which knows whose key opens the model; or it is for another process."""

    http_status = 401
    reason = headers.NOT_FROM_GATEWAY


class NotLoaded(RequestError):
    """The engine is still loading."""

    http_status = 503
    reason = STARTING
    retry_after_seconds = 1


class Draining(RequestError):
    """The replica is going: it takes no new work, or its grace period ended before the answer did."""

    http_status = 503
    reason = headers.DRAINING
    retry_after_seconds = 1


class EngineDied(HeadraceError):
    """The engine ended by an error of its own; the process follows it, and is started anew."""

    http_status = 500
    reason = "EngineDied"


class RequestFailed(HeadraceError):
    """The engine failed on this request alone; it goes on with every other one."""

    http_status = 500
    reason = "RequestFailed"
