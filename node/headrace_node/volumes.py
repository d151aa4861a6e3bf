"""The volumes of pods: each is a directory with a socket, whose tenant is the pod's namespace.

A volume has a record beside its directory, so that a restarted agent listens again in the same directory, which is
mounted in the pod. Only the socket is in the directory: a pod sees nothing of others.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from headrace.agent.errors import AgentError
from headrace.environment import AGENT_SOCKET_NAME
from headrace.files import naming, write_private
from headrace_node.server import AgentServer

log = logging.getLogger(__name__)

MAX_VOLUMES = 1024
"""A kubelet runs 110 pods by default, and at most some hundreds."""
_PODS_DIRECTORY = 0o755
_ANY_USER = 0o666
"""A pod's processes may have any user id. Other processes of the node do not reach the directory: see `Volumes`."""
_ROOT_DIRECTORY = 0o700
_RECORD = ".json"


class TooManyVolumes(AgentError):
    """The agent has as many volumes as it accepts."""

    http_status = 429
    reason = "TooManyVolumes"


class VolumeConflict(AgentError):
    """A volume of this id exists and belongs to another pod."""

    http_status = 409
    reason = "VolumeConflict"


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume and the pod that it belongs to."""

    id: str
    namespace: str
    pod: str
    uid: str

    @property
    def label(self) -> str:
        """The pod, as an operator knows it."""
        return f"{self.namespace}/{self.pod}"


class Volumes:
    """The volumes of this node, in one directory that only this user may enter; pods enter theirs by a mount."""

    def __init__(self, server: AgentServer, directory: Path) -> None:
        self._server = server
        self._directory = directory
        self._volumes: dict[str, Volume] = {}

    def __iter__(self) -> Iterator[Volume]:
        """Yield the open volumes."""
        return iter(self._volumes.values())

    def restore(self) -> None:
        """Listen for the volumes of an earlier process. A volume that cannot be restored is logged. Raises OSError."""
        self._directory.mkdir(mode=_ROOT_DIRECTORY, parents=True, exist_ok=True)
        for path in sorted(self._directory.glob(f"*{_RECORD}")):
            try:
                volume = Volume(**json.loads(path.read_text(encoding="utf-8")))
                self._listen(volume)
            except (OSError, TypeError, ValueError) as error:
                log.warning("the volume of %s cannot be restored: %s", path, error)

    def open(self, volume: Volume) -> Path:
        """Return the directory of a volume, and listen there, unless it is open already.

        Raises TooManyVolumes, VolumeConflict, OSError.
        """
        present = self._volumes.get(volume.id)
        if present is None:
            if len(self._volumes) >= MAX_VOLUMES:
                raise TooManyVolumes(f"the node agent has {MAX_VOLUMES} volumes", hint="Delete pods of this node")
            write_private(self._record(volume.id), json.dumps(asdict(volume)))
            self._listen(volume)
        elif present != volume:
            raise VolumeConflict(f"the volume {volume.id} belongs to the pod {present.label} with uid {present.uid}")
        return self._directory / volume.id

    def close(self, volume_id: str) -> None:
        """End a volume: its socket, its sessions, and its directory. Does nothing if there is none. Raises OSError."""
        volume = self._volumes.pop(volume_id, None)
        if volume is None:
            return
        directory = self._directory / volume_id
        self._server.unlisten(directory / AGENT_SOCKET_NAME)
        directory.rmdir()
        self._record(volume_id).unlink(missing_ok=True)

    def _listen(self, volume: Volume) -> None:
        directory = self._directory / volume.id
        with naming(directory):
            directory.mkdir(exist_ok=True)
            directory.chmod(_PODS_DIRECTORY)  # whatever the umask
            self._server.listen(directory / AGENT_SOCKET_NAME, volume.namespace, volume.label, mode=_ANY_USER)
        self._volumes[volume.id] = volume

    def _record(self, volume_id: str) -> Path:
        assert os.sep not in volume_id
        return self._directory / f"{volume_id}{_RECORD}"
