"""Errors of requests that the gateway does not forward. Errors of runtimes are forwarded unchanged."""

from __future__ import annotations

from collections.abc import Iterable

from headrace import headers
from headrace.api.vocabulary import STARTING
from headrace.http.errors import RequestError
from headrace.routes import Unavailable


class InvalidApiKey(RequestError):
    """The API key is missing or not valid."""

    http_status = 401
    reason = headers.INVALID_API_KEY
    fields = (("www-authenticate", "Bearer"),)


class OperationNotSupported(RequestError):
    """The model does not serve this operation."""

    reason = headers.OPERATION_NOT_SUPPORTED

    def __init__(self, model: str, operation: str, served: Iterable[str]) -> None:
        super().__init__(
            f"the model {model} does not serve the operation {operation}",
            param="model",
            hint=f"It serves: {', '.join(sorted(served))}",
        )


class QueueTimeout(RequestError):
    """The request was queued until its deadline; no replica could take it."""

    http_status = 503
    reason = headers.QUEUE_TIMEOUT
    retry_after_seconds = 5


class ModelUnavailable(RequestError):
    """The reconcile loop reports the model as unavailable, with the reason."""

    http_status = 503

    def __init__(self, model: str, unavailable: Unavailable) -> None:
        super().__init__(f"{model} is not available: {unavailable.message.rstrip('.')}")
        self.reason = unavailable.reason
        self.retry_after_seconds = unavailable.retry_after_seconds


class ReplicaLost(RequestError):
    """The replica was lost and the request could not be retried."""

    http_status = 503
    reason = headers.REPLICA_LOST
    retry_after_seconds = 1


class TableNotLoaded(RequestError):
    """The gateway has no routes yet: neither from NATS nor from disk."""

    http_status = 503
    reason = STARTING
    retry_after_seconds = 1


class GatewayStopping(RequestError):
    """The gateway's own grace period ends."""

    http_status = 503
    reason = headers.DRAINING
    retry_after_seconds = 1
