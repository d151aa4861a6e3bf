"""Errors of payloads, beside those of the bus and the store."""

from __future__ import annotations

from headrace.agent.errors import AgentError


class InvalidAddress(AgentError):
    """A text is not the address of a receiver."""

    http_status = 422
    reason = "InvalidAddress"
