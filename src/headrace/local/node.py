"""The one node of local mode: this machine."""

from __future__ import annotations

import functools
import re
import socket

MAX_NAME_CHARACTERS = 253
_NOT_IN_NAMES = re.compile(r"[^-.a-z0-9]+")


@functools.cache
def node_name() -> str:
    """Return the node's name, as `spec.nodeName` of every local pod has it: the name of the host."""
    return name_of_host(socket.gethostname())


def name_of_host(host: str) -> str:
    """Return a valid node name (RFC 1123) for a host name."""
    return _NOT_IN_NAMES.sub("-", host.lower())[:MAX_NAME_CHARACTERS].strip("-.") or "localhost"
