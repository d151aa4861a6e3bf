"""A warm process: it has loaded its libraries, and waits for the arguments and variables with which it is to run."""

from __future__ import annotations

import json
import os
import socket
import sys

COMMAND = "standby"
"""Command of a runtime that starts a warm process."""
_MAX_BYTES = 1 << 22
"""Of the message: as Linux bounds the arguments and variables of a new process, roughly."""


def await_launch(descriptor: int) -> list[str] | None:
    """Wait for the launch, and return its arguments; None if the process is not needed any more.

    The variables become those of this process, and its output goes where the launch says. Reads one message from a
    connected Unix socket: two descriptors, of a JSON object with `arguments` and `variables`, and of the output.
    """
    with socket.socket(fileno=descriptor) as channel:
        _, received, _, _ = socket.recv_fds(channel, 1, 2)
    if not received:
        return None
    message, output = received
    with os.fdopen(message, "rb") as file:
        file.seek(0)
        launch = json.loads(file.read(_MAX_BYTES))
    os.environ.clear()
    os.environ.update(launch["variables"])
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(output, stream.fileno())
    os.close(output)
    return [str(each) for each in launch["arguments"]]
