"""A request after its body was read: the argument of queueing, routing and forwarding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from headrace_gateway.operations.operation import Operation


class RequestInfo(NamedTuple):
    """One request; constant over all its retries.

    A named tuple: one is made per request, and a frozen dataclass takes several times as long (measured: 3 us).
    """

    id: bytes
    operation: Operation
    parameters: Mapping[str, str]
    """Of the path, percent-decoded."""
    tenant: str
    """The namespace that the API key opens."""
    public_name: str
    """Of the model or the adapter."""
    stream: bool
    """Whether the client requested server-sent events."""
    adapter: str = ""
    """The public name, if it is that of a LoRA adapter; empty: the model itself is requested."""

    @property
    def needs(self) -> tuple[str, str]:
        """What a replica must serve: requests with equal needs are taken by the same replicas."""
        return self.operation.name, self.adapter
