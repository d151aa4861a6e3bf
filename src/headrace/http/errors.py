"""Errors of requests, shared by the servers of all components."""

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
    """When a retry may succeed; None: it does not."""
    fields: Fields = ()
    """Additional header fields of the response."""

    def __init__(self, message: str, *, param: str | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.param = param


class InvalidRequest(RequestError):
    """The request cannot be served as it is."""


class MalformedRequest(InvalidRequest):
    """Not HTTP/1.1, or with an ambiguous end: nothing after it is read."""

    fields = _CLOSE


class BodyTooLarge(RequestError):
    """The body is larger than this server's limit."""

    http_status = 413
    reason = headers.BODY_TOO_LARGE
    fields = _CLOSE  # the rest of the body is not read


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
    """The request line and header lines are larger than those of any regular client."""

    http_status = 431
    reason = headers.HEAD_TOO_LARGE
    fields = _CLOSE


class UnsupportedContentEncoding(RequestError):
    """The body is compressed; only uncompressed bodies are read."""

    http_status = 415
    reason = headers.UNSUPPORTED_CONTENT_ENCODING
    fields: Fields = (("accept-encoding", "identity"),)


class HostNotAllowed(RequestError):
    """A request to a local server has a Host that is not this machine."""

    http_status = 403
    reason = headers.HOST_NOT_ALLOWED


class OriginNotAllowed(RequestError):
    """A request to a local server comes from a web page of another site."""

    http_status = 403
    reason = headers.ORIGIN_NOT_ALLOWED


class NoSuchPath(RequestError):
    """There is no such endpoint."""

    http_status = 404
    reason = "NotFound"


class MethodNotAllowed(RequestError):
    """The endpoint does not support the method; `allow` lists those that it does."""

    http_status = 405
    reason = "MethodNotAllowed"

    def __init__(self, message: str, *, allow: str) -> None:
        super().__init__(message)
        self.fields = (("allow", allow),)


class ConnectNotAllowed(MethodNotAllowed):
    """CONNECT requests a tunnel; this server is not a proxy. The bytes after it are not HTTP."""

    def __init__(self) -> None:
        super().__init__("CONNECT is not served: this is not a proxy", allow="GET, HEAD, POST")
        self.fields += _CLOSE


class ModelNotFound(RequestError):
    """The requested model is not served here."""

    http_status = 404
    reason = headers.MODEL_NOT_FOUND


class Saturated(RequestError):
    """The queue, or the memory for request bodies, is full."""

    http_status = 429
    reason = headers.SATURATED
    retry_after_seconds = 1


class ClientGone(Exception):
    """The client closed its connection before the answer was complete."""
