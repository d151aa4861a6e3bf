"""The errors of the descriptor bus."""

from __future__ import annotations

from headrace.agent.errors import AgentError


class BusError(AgentError):
    """The descriptor bus failed."""

    reason = "BusError"


class InvalidFrame(BusError):
    """The bytes are not a frame of this version of the bus. The byte stream they came from is unusable."""

    http_status = 400
    reason = "InvalidFrame"


class BusClosed(BusError):
    """The connection between the endpoint and the bus ended. All endpoint ids of the connection are void."""

    reason = "BusClosed"


class JoinRefused(BusError):
    """The bus did not accept the endpoint."""

    http_status = 403
    reason = "JoinRefused"


class EbpfUnavailable(BusError):
    """The node agent may not use eBPF. The transports `unix` and `tcp` work."""

    reason = "EbpfUnavailable"


class PeerUnreachable(BusError):
    """The bus could not deliver a frame to its destination; `peer` is the destination's endpoint id."""

    reason = "PeerUnreachable"

    def __init__(self, peer: int, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.peer = peer


class RouteForbidden(PeerUnreachable):
    """The route filter does not allow frames from this endpoint to that destination."""

    http_status = 403
    reason = "RouteForbidden"


class StaleEpoch(PeerUnreachable):
    """The destination has advanced to a later epoch and dropped the frame."""

    http_status = 409
    reason = "StaleEpoch"


class CreditTimeout(PeerUnreachable):
    """The destination granted no credit in time: it does not take its frames."""

    reason = "CreditTimeout"


class AckTimeout(PeerUnreachable):
    """The destination did not acknowledge a frame in time: it may have died."""

    http_status = 504
    reason = "AckTimeout"
