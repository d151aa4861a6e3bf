"""The admin interface of the node agent: volumes of pods, and what the agent holds.

Its socket is the agent's own, which only the agent's user can connect to: it lists and changes what belongs to every
tenant. The CSI service and `headrace node` use it. Each call is a connection of its own, so that a restart of the agent
affects only calls in progress.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from headrace.agent.connection import AgentConnection

OPEN_VOLUME, CLOSE_VOLUME, HOLDINGS = "open-volume", "close-volume", "holdings"
"""The verbs."""
CALL_SECONDS = 5.0
"""A call takes milliseconds; the kubelet waits for the CSI service meanwhile."""


class AdminClient:
    """A client of the admin socket. Methods raise AgentError."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    def open_volume(self, volume_id: str, *, namespace: str, pod: str, uid: str) -> Path:
        """Return the directory with the socket of a pod; the same one when it is called again."""
        fields = {"id": volume_id, "namespace": namespace, "pod": pod, "uid": uid}
        return Path(str(self._call(OPEN_VOLUME, fields)["directory"]))

    def close_volume(self, volume_id: str) -> None:
        """End the socket of a pod and remove the directory, if the volume exists."""
        self._call(CLOSE_VOLUME, {"id": volume_id})

    def _call(self, verb: str, fields: dict[str, Any]) -> dict[str, Any]:
        with contextlib.closing(AgentConnection(self._socket, reply_seconds=CALL_SECONDS)) as connection:
            return connection.call(verb, fields).body
