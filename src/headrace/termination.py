"""The last words of a child: one short text that its pod's status quotes (Kubernetes' termination message)."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from headrace import environment

DEFAULT_PATH = "/dev/termination-log"
MAX_BYTES = 4096
"""What a kubelet reads."""


def write_termination_message(text: str) -> None:
    """Leave the text for the pod's status. Without a place to leave it (a terminal, say) nothing happens.

    The default place is never made: a kubelet has put it there, or nobody would read it.
    """
    named = os.environ.get(environment.TERMINATION_MESSAGE_PATH)
    path = Path(named or DEFAULT_PATH)
    with contextlib.suppress(OSError), path.open("wb" if named else "r+b") as file:
        file.truncate()
        file.write(text.encode(errors="replace")[:MAX_BYTES].decode(errors="ignore").encode())
