"""What is known of a request once it is read: the argument of queueing, routing and forwarding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from headrace_gateway.operations.operation import Operation


@dataclass(frozen=True, slots=True)
class RequestInfo:
    """One request; nothing here changes, however often it is retried."""

    id: bytes
    operation: Operation
    parameters: Mapping[str, str]
    """Of the path, percent-decoded."""
    tenant: str
    """The namespace that the API key opens."""
    public_name: str
    """Of the model."""
    stream: bool
    """Whether the client requested server-sent events."""
