"""The termination message of a container: a short text that becomes part of its pod's status."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from headrace import environment

DEFAULT_PATH = "/dev/termination-log"
MAX_BYTES = 4096
"""Longest message that a kubelet reads."""


def write_termination_message(text: str) -> None:
    """Write the termination message. Does nothing without a file for it (in a terminal, for example).

    The default file is never created: without a kubelet, which creates it, it would not be read.
    """
    named = os.environ.get(environment.TERMINATION_MESSAGE_PATH)
    path = Path(named or DEFAULT_PATH)
    with contextlib.suppress(OSError), path.open("wb" if named else "r+b") as file:
        file.truncate()
        file.write(text.encode(errors="replace")[:MAX_BYTES].decode(errors="ignore").encode())
