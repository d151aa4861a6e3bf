"""What a runtime server answers when it does not serve a request."""

from __future__ import annotations

from headrace import headers
from headrace.api.vocabulary import STARTING
from headrace.errors import HeadraceError


class RequestError(HeadraceError):
    """A request that is not served. `param` names the field at fault, as OpenAI's errors do."""

    http_status = 400
    reason = headers.INVALID_REQUEST
    retry_after_seconds: int | None = None
    """When coming back may help; None: it does not."""

    def __init__(self, message: str, *, param: str | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.param = param


class InvalidRequest(RequestError):
    """The request cannot be served as it is."""


class UnsupportedParameter(InvalidRequest):
    """The request asks for something that would change the answer and that this runtime does not do."""

    reason = "UnsupportedParameter"


class ContextLengthExceeded(InvalidRequest):
    """Prompt and answer together do not fit into the model."""

    reason = "ContextLengthExceeded"


class BodyTooLarge(RequestError):
    """The body is larger than this server reads."""

    http_status = 413
    reason = headers.BODY_TOO_LARGE


class BodyTooSlow(RequestError):
    """The body did not arrive in time."""

    http_status = 408
    reason = "RequestTimeout"


class NoSuchPath(RequestError):
    """There is no such endpoint."""

    http_status = 404
    reason = "NotFound"


class MethodNotAllowed(RequestError):
    """The endpoint is asked with another method."""

    http_status = 405
    reason = "MethodNotAllowed"


class ModelNotFound(RequestError):
    """The request names another model than the one served here."""

    http_status = 404
    reason = headers.MODEL_NOT_FOUND


class Saturated(RequestError):
    """The engine holds as many requests as it takes."""

    http_status = 429
    reason = headers.SATURATED
    retry_after_seconds = 1


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


class ClientGone(Exception):
    """The client closed its connection before the answer was complete."""
