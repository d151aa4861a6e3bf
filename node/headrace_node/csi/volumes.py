"""What publishing and unpublishing a volume do: the checks of a request, and the mount.

No state is kept here. The agent records the volumes (`headrace_node.volumes`), and the mount table has the mounts, so
both requests can be repeated after a restart of the kubelet, of this service or of the agent.
"""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path
from typing import Protocol

from headrace.errors import HeadraceError
from headrace_node.csi import mounts
from headrace_node.csi.messages import PublishRequest, UnpublishRequest

POD_INFO = "csi.storage.k8s.io/"
"""Prefix of the attributes that the kubelet adds (podInfoOnMount), in place of such attributes of the pod's spec."""
EPHEMERAL = f"{POD_INFO}ephemeral"
NAMESPACE, POD, UID = f"{POD_INFO}pod.namespace", f"{POD_INFO}pod.name", f"{POD_INFO}pod.uid"
MAX_PATH_BYTES = 4096
_VOLUME_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


class InvalidVolume(HeadraceError):
    """A CSI request is not one for an inline volume of this driver; the message names the field."""

    http_status = 422
    reason = "InvalidVolume"


class Directories(Protocol):
    """The agent, as far as this service uses it. Both raise HeadraceError."""

    def open_volume(self, volume_id: str, *, namespace: str, pod: str, uid: str) -> Path:
        """Return the directory with the socket of that pod; the same one when it is called again."""

    def close_volume(self, volume_id: str) -> None:
        """End the socket and remove the directory, if the volume exists."""


class Volumes:
    """The volumes of one node.

    Args:
        agent: provides the directories.
        pods: the kubelet's directory of pods; targets must be in it.
    """

    def __init__(self, agent: Directories, pods: Path) -> None:
        self._agent = agent
        self._pods = pods
        self._lock = threading.Lock()
        """Guards agent and mount table: each request is short, and two for one volume must not overlap."""

    def publish(self, request: PublishRequest) -> None:
        """Mount a pod's volume. Raises InvalidVolume, OSError, or what the agent raises."""
        volume_id, target = _volume_id(request.volume_id), self._target(request.target_path)
        if not request.mount:
            raise InvalidVolume("volume_capability: only access type mount is supported", hint="Use no volumeDevices")
        namespace, pod, uid = _pod(request)
        with self._lock:
            source = self._agent.open_volume(volume_id, namespace=namespace, pod=pod, uid=uid)
            if mounts.is_bound(source, target):
                return
            mounts.unbind(target)  # an earlier directory of the agent, whose state was lost
            target.mkdir(mode=0o750, exist_ok=True)
            mounts.bind(source, target)

    def unpublish(self, request: UnpublishRequest) -> None:
        """Unmount a pod's volume, if it is mounted. Raises InvalidVolume, OSError, or what the agent raises."""
        volume_id, target = _volume_id(request.volume_id), self._target(request.target_path)
        with self._lock:
            mounts.unbind(target)
            target.rmdir() if target.exists() else None
            self._agent.close_volume(volume_id)

    def _target(self, text: str) -> Path:
        path = Path(text)
        if len(os.fsencode(text)) > MAX_PATH_BYTES or ".." in path.parts or not path.is_relative_to(self._pods):
            raise InvalidVolume(
                f"target_path: {text[:256]!r} is not in {self._pods}",
                hint="Set --pods-directory to the pods directory of this node's kubelet",
            )
        return path


def _volume_id(text: str) -> str:
    if not _VOLUME_ID.fullmatch(text):
        raise InvalidVolume(f"volume_id: {text[:128]!r} is not 1 to 128 letters, digits, dots, dashes and underscores")
    return text


def _pod(request: PublishRequest) -> tuple[str, str, str]:
    """Return namespace, name and uid of the pod."""
    if request.context.get(EPHEMERAL) != "true":
        raise InvalidVolume(
            f"volume_context: {EPHEMERAL} is not true, so this is no inline volume",
            hint="Use the driver in spec.volumes[].csi of a pod; it has no persistent volumes",
        )
    if unknown := sorted(key for key in request.context if not key.startswith(POD_INFO)):
        raise InvalidVolume(
            f"volume_context: unknown attribute {unknown[0][:128]!r}",
            hint="Remove csi.volumeAttributes: none are supported",
        )
    values = [request.context.get(key, "") for key in (NAMESPACE, POD, UID)]
    for key, value in zip((NAMESPACE, POD, UID), values, strict=True):
        if not _NAME.fullmatch(value):
            raise InvalidVolume(
                f"volume_context: {key} is {value[:128]!r}, not a name",
                hint="Set podInfoOnMount in the CSIDriver object, as the chart does",
            )
    namespace, pod, uid = values
    return namespace, pod, uid
