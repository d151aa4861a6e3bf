"""The termination message of a container: a short text that becomes part of its pod's status."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headrace import environment

DEFAULT_PATH = "/dev/termination-log"
MAX_BYTES = 4096
"""Longest message that a kubelet reads."""
FALLBACK = "FallbackToLogsOnError"
"""The terminationMessagePolicy by which a kubelet quotes the end of the log of a failed container without a message."""
FALLBACK_LINES, FALLBACK_BYTES = 80, 2048
"""Maximum length of the quoted log in a kubelet."""


def quotes_log(pod_spec: Mapping[str, Any]) -> bool:
    """Whether the log may be quoted in place of a pod's termination message."""
    return any(container.get("terminationMessagePolicy") == FALLBACK for container in pod_spec.get("containers", ()))


def write_termination_message(text: str) -> None:
    """Write the termination message. Does nothing without a file for it (in a terminal, for example).

    The default file is never created: without a kubelet, which creates it, it would not be read.
    """
    named = os.environ.get(environment.TERMINATION_MESSAGE_PATH)
    path = Path(named or DEFAULT_PATH)
    with contextlib.suppress(OSError), path.open("wb" if named else "r+b") as file:
        file.truncate()
        file.write(text.encode(errors="replace")[:MAX_BYTES].decode(errors="ignore").encode())
