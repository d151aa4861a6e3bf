"""The verbs of the admin socket (`headrace.agent.admin` is the client)."""

from __future__ import annotations

import re
from typing import Any

from headrace.agent.admin import CLOSE_VOLUME, OPEN_VOLUME
from headrace.agent.errors import InvalidMessage
from headrace.errors import system_fault
from headrace_node.server import AgentServer, Reply, Session
from headrace_node.volumes import Volume, Volumes

TENANT = "headrace-node"
"""Of the admin socket's sessions. They have other verbs than those of pods, and hold nothing."""
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


def register(server: AgentServer, volumes: Volumes) -> None:
    """Register the verbs at the server of the admin socket."""

    async def open_volume(_: Session, message: dict[str, Any], __: list[int]) -> Reply:
        names = (_field(message, name, _NAME) for name in ("namespace", "pod", "uid"))
        volume = Volume(_field(message, "id", _ID), *names)
        try:
            return Reply({"directory": str(volumes.open(volume))})
        except OSError as error:
            raise system_fault(error, what=f"the volume of {volume.label} cannot be made") from error

    async def close_volume(_: Session, message: dict[str, Any], __: list[int]) -> Reply:
        try:
            volumes.close(_field(message, "id", _ID))
        except OSError as error:
            raise system_fault(error, what="the volume cannot be removed") from error
        return Reply()

    server.verb(OPEN_VOLUME, open_volume)
    server.verb(CLOSE_VOLUME, close_volume)


def _field(message: dict[str, Any], name: str, pattern: re.Pattern[str]) -> str:
    value = message.get(name)
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise InvalidMessage(f"{name}: {str(value)[:128]!r} does not match {pattern.pattern}")
    return value
