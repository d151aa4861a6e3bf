"""The access log: one line per request with client, model and durations; never a prompt or a key.

One thread writes, a few times a second: at ten thousand requests a second a write for each would cost more than the
request, and a slow or stopped reader must not block the event loop. All other log records take the same path. A crash
can lose the last tenth of a second.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque

from typing_extensions import override

FLUSH_SECONDS = 0.1
MAX_LINES = 10_000
"""Lines that wait to be written; with a slower disk or pipe, lines are dropped and counted in the log."""
CLOSE_SECONDS = 1.0
"""For the last lines at exit; a stopped reader does not delay the exit further."""


class AccessLog:
    """Writes to one file descriptor. Any thread may write to it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lines: deque[str] = deque()
        self._dropped = 0
        self._reported = 0
        """Dropped lines that were reported in the log."""
        self._filled = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write_forever, name="access-log", daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        """Add a line."""
        if len(self._lines) >= MAX_LINES:
            self._dropped += 1
            return
        self._lines.append(line)
        if not self._filled.is_set():
            self._filled.set()

    def close(self) -> None:
        """Write what is left."""
        self._closing.set()
        self._filled.set()
        self._thread.join(CLOSE_SECONDS)

    def _write_forever(self) -> None:
        last = False
        while not last:
            self._filled.wait()
            last = self._closing.wait(FLUSH_SECONDS)
            self._filled.clear()
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
            missing = self._dropped - self._reported
            if missing:
                lines.append(f"access log: {missing} lines were dropped")
            if lines:
                self._write_out(lines, missing)

    def _write_out(self, lines: list[str], missing: int) -> None:
        data = "\n".join([*lines, ""]).encode(errors="replace")
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
            self._reported += missing
        except OSError:
            self._reported -= len(lines) - bool(missing)  # these are missing too, and not reported yet


class LogHandler(logging.Handler):
    """Writes the other log records of the process to the access log."""

    def __init__(self, access: AccessLog) -> None:
        super().__init__()
        self._access = access

    @override
    def emit(self, record: logging.LogRecord) -> None:
        """Add a record."""
        self._access.write(self.format(record))
