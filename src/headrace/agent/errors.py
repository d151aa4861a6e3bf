"""Errors of the node agent, raised by its client: those of the connection, and those that the agent reports.

The agent sends an error as reason, message and hint; `from_report` returns it as the class that has this reason.
"""

from __future__ import annotations

from headrace.errors import HeadraceError


class AgentError(HeadraceError):
    """An error of the node agent, or of the connection to it."""

    http_status = 503
    reason = "AgentError"


class AgentUnavailable(AgentError):
    """The socket does not exist, nothing listens on it, or the agent closed the connection or did not reply in time."""

    reason = "AgentUnavailable"


class AgentVersionMismatch(AgentError):
    """The agent and its client use different versions of the protocol."""

    reason = "AgentVersionMismatch"


class InvalidMessage(AgentError):
    """A message violates the agent's protocol: not a JSON object, too large, an unknown verb, a wrong field."""

    http_status = 400
    reason = "InvalidMessage"


class TooManySessions(AgentError):
    """The agent has as many sessions as it accepts, in all or for one tenant."""

    http_status = 429
    reason = "TooManySessions"


def from_report(reason: str, message: str, hint: str) -> AgentError:
    """Return the error that the agent reported; an unknown reason becomes an `AgentError` with this reason."""
    pending = [AgentError]
    while pending:
        kind = pending.pop()
        if kind.reason == reason:
            return kind(message, hint=hint)
        pending += kind.__subclasses__()
    error = AgentError(message, hint=hint)
    error.reason = reason
    return error
