"""The CSI service as a process: runs until SIGTERM, or until the kubelet refuses the driver."""

from __future__ import annotations

import contextlib
import queue
import signal

from headrace.agent.admin import AdminClient
from headrace.api.vocabulary import NODE_DRIVER
from headrace.errors import CannotStart
from headrace_node.csi.service import Endpoints, serve
from headrace_node.csi.volumes import Volumes
from headrace_node.settings import CsiSettings

GRACE_SECONDS = 5.0
"""For requests in progress at SIGTERM; the kubelet repeats others."""


def run(settings: CsiSettings) -> None:
    """Serve until SIGTERM or SIGINT. Raises CannotStart if the kubelet refuses the driver, and OSError."""
    ends: queue.SimpleQueue[str] = queue.SimpleQueue()
    """Why to end: the kubelet's cause, or an empty text for a signal."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ends.put(""))
    endpoints = Endpoints(
        csi=settings.csi_socket,
        registration=settings.registration_directory / f"{NODE_DRIVER}-reg.sock",
        csi_of_kubelet=settings.kubelet_endpoint,
    )
    volumes = Volumes(AdminClient(settings.admin_socket), settings.pods_directory)
    server = serve(volumes, endpoints, settings.node, ends.put)
    try:
        cause = ends.get()
    finally:
        server.stop(GRACE_SECONDS).wait()
        with contextlib.suppress(OSError):
            endpoints.registration.unlink()  # the kubelet then forgets the driver
    if cause:
        raise CannotStart(
            f"the kubelet does not accept the CSI driver: {cause}",
            hint="Check --kubelet-endpoint: it is the path of the CSI socket outside of this container",
        )
