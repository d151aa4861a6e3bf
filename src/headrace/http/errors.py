"""What a server of ours answers when it does not serve a request, whichever component it is."""

from __future__ import annotations

from headrace import headers
from headrace.errors import HeadraceError

Fields = tuple[tuple[str, str], ...]

_CLOSE: Fields = (("connection", "close"),)


class RequestError(HeadraceError):
    """A request that is not served. `param` names the field at fault, as OpenAI's errors do."""

    http_status = 400
    reason = headers.INVALID_REQUEST
    retry_after_seconds: int | None = None
    """When coming back may help; None: it does not."""
    fields: Fields = ()
    """Header fields that the answer has besides."""

    def __init__(self, message: str, *, param: str | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.param = param


class InvalidRequest(RequestError):
    """The request cannot be served as it is."""


class MalformedRequest(InvalidRequest):
    """Not HTTP/1.1, or two readers may disagree about where the message ends: nothing after it is read."""

    fields = _CLOSE


class BodyTooLarge(RequestError):
    """The body is larger than this server reads."""

    http_status = 413
    reason = headers.BODY_TOO_LARGE
    fields = _CLOSE  # what is left of the body is not read


class BodyTooSlow(RequestError):
    """The body did not arrive in time."""

    http_status = 408
    reason = headers.REQUEST_TIMEOUT
    fields = _CLOSE


class HeadTooSlow(RequestError):
    """The head did not arrive in time."""

    http_status = 408
    reason = headers.REQUEST_TIMEOUT
    fields = _CLOSE


class HeadTooLarge(RequestError):
    """The request line and header lines are larger than those of any client that means well."""

    http_status = 431
    reason = headers.HEAD_TOO_LARGE
    fields = _CLOSE


class UnsupportedContentEncoding(RequestError):
    """The body is compressed, and bodies are read as they are."""

    http_status = 415
    reason = headers.UNSUPPORTED_CONTENT_ENCODING
    fields: Fields = (("accept-encoding", "identity"),)


class HostNotAllowed(RequestError):
    """A server for this machine alone was asked under a name that is not this machine's."""

    http_status = 403
    reason = headers.HOST_NOT_ALLOWED


class OriginNotAllowed(RequestError):
    """A web page of another site asks a server for this machine alone."""

    http_status = 403
    reason = headers.ORIGIN_NOT_ALLOWED


class NoSuchPath(RequestError):
    """There is no such endpoint."""

    http_status = 404
    reason = "NotFound"


class MethodNotAllowed(RequestError):
    """The endpoint is asked with another method; `allow` are those that it takes."""

    http_status = 405
    reason = "MethodNotAllowed"

    def __init__(self, message: str, *, allow: str) -> None:
        super().__init__(message)
        self.fields = (("allow", allow),)


class ConnectNotAllowed(MethodNotAllowed):
    """CONNECT asks for a tunnel; this server is no proxy. What follows is not HTTP."""

    def __init__(self) -> None:
        super().__init__("CONNECT is not served: this is not a proxy", allow="GET, HEAD, POST")
        self.fields += _CLOSE


class ModelNotFound(RequestError):
    """The request names another model than those served here."""

    http_status = 404
    reason = headers.MODEL_NOT_FOUND


class Saturated(RequestError):
    """The queue, or the memory for request bodies, is full."""

    http_status = 429
    reason = headers.SATURATED
    retry_after_seconds = 1


class ClientGone(Exception):
    """The client closed its connection before the answer was complete."""
